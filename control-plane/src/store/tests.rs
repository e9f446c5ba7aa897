use super::*;
use crate::identity::Caller;

async fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(&directory.path().join("control.db"), KeyFile::from_key([7; 32]))
        .await
        .unwrap()
}

async fn touch(store: &Store, name: &str, operation: Operation) -> i64 {
    let mut tx = store.write().await.unwrap();
    tx.record(ResourceKind::Route, name, operation).await.unwrap();
    tx.commit().await.unwrap()
}

#[tokio::test]
async fn a_commit_with_changes_bumps_the_revision_once_and_publishes_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let mut watcher = store.subscribe();
    assert_eq!(store.revision(), 0);

    let mut tx = store.write().await.unwrap();
    let first = tx
        .record(ResourceKind::Route, "routes/a", Operation::Upsert)
        .await
        .unwrap();
    let second = tx
        .record(ResourceKind::Route, "routes/b", Operation::Upsert)
        .await
        .unwrap();
    assert_eq!((first, second), (1, 1));
    assert_eq!(store.revision(), 0, "not before the commit");
    assert_eq!(tx.commit().await.unwrap(), 1);
    assert_eq!(*watcher.borrow_and_update(), 1);
}

#[tokio::test]
async fn a_dropped_transaction_leaves_no_gap() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    for _ in 0..3 {
        let mut tx = store.write().await.unwrap();
        tx.record(ResourceKind::Route, "routes/a", Operation::Upsert)
            .await
            .unwrap();
        drop(tx);
    }
    assert_eq!(touch(&store, "routes/a", Operation::Upsert).await, 1);
    assert_eq!(touch(&store, "routes/a", Operation::Upsert).await, 2);
}

#[tokio::test]
async fn a_write_without_configuration_leaves_the_revision_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let mut tx = store.write().await.unwrap();
    tx.audit(AuditRecord::ok(
        &Caller::system(),
        "CreateToken",
        "tokens/x",
        vec!["role".into()],
    ));
    assert_eq!(tx.commit().await.unwrap(), 0);
    let mut view = store.read().await.unwrap();
    let entries = audit::list(view.conn(), None, None, 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].1.changed_fields, ["role"]);
    assert_eq!(entries[0].1.revision, 0);
}

#[tokio::test]
async fn concurrent_writers_make_a_gap_free_sequence() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let writers = (0..20).map(|index| {
        let store = store.clone();
        tokio::spawn(async move { touch(&store, &format!("routes/r{index}"), Operation::Upsert).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let mut view = store.read().await.unwrap();
    let revisions: Vec<i64> = sqlx::query_scalar("SELECT revision FROM change_log ORDER BY 1")
        .fetch_all(view.conn())
        .await
        .unwrap();
    assert_eq!(revisions, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn changes_since_names_each_resource_once_with_its_last_operation() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    touch(&store, "routes/a", Operation::Upsert).await;
    touch(&store, "routes/b", Operation::Upsert).await;
    touch(&store, "routes/a", Operation::Remove).await;

    let change = |name: &str, operation, version| Change {
        kind: ResourceKind::Route,
        name: name.to_owned(),
        operation,
        version,
    };
    let expected = vec![
        change("routes/b", Operation::Upsert, 2),
        change("routes/a", Operation::Remove, 3),
    ];
    let complete = |changes| ChangesSince::Complete { revision: 3, changes };
    assert_eq!(store.changes_since(0).await.unwrap(), complete(expected));
    assert_eq!(
        store.changes_since(2).await.unwrap(),
        complete(vec![change("routes/a", Operation::Remove, 3)])
    );
    assert_eq!(store.changes_since(3).await.unwrap(), complete(Vec::new()));
}

#[tokio::test]
async fn a_revision_the_log_does_not_reach_is_said_to_be_out_of_reach() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    for _ in 0..3 {
        touch(&store, "routes/a", Operation::Upsert).await;
    }
    let mut tx = store.write().await.unwrap();
    sqlx::query("DELETE FROM change_log WHERE revision <= 2")
        .execute(tx.conn())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let truncated = ChangesSince::Truncated { revision: 3 };
    assert_eq!(store.changes_since(0).await.unwrap(), truncated);
    assert_eq!(store.changes_since(1).await.unwrap(), truncated);
    assert!(matches!(
        store.changes_since(2).await.unwrap(),
        ChangesSince::Complete { .. }
    ));
    assert_eq!(
        store.changes_since(9).await.unwrap(),
        truncated,
        "a revision of another store"
    );
}

#[tokio::test]
async fn a_view_keeps_showing_one_revision() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    touch(&store, "routes/a", Operation::Upsert).await;
    let mut view = store.read().await.unwrap();
    touch(&store, "routes/b", Operation::Upsert).await;
    assert_eq!(view.revision(), 1);
    let lines: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM change_log")
        .fetch_one(view.conn())
        .await
        .unwrap();
    assert_eq!(lines, 1);
}

#[tokio::test]
async fn the_store_opens_again_with_its_key_and_with_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    touch(&store, "routes/a", Operation::Upsert).await;
    store.close().await;
    drop(store);
    let path = directory.path().join("control.db");
    let other = Store::open(&path, KeyFile::from_key([8; 32])).await;
    assert!(matches!(other, Err(StoreError::WrongKey)));
    assert_eq!(open(&directory).await.revision(), 1);
}
