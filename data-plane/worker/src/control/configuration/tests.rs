use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::super::scripted::{push, trunk, within};
use super::*;

async fn written(state: &TempDir) -> Arc<Snapshot> {
    let (mut configuration, snapshots) = Configuration::load(state.path()).unwrap();
    let shutdown = CancellationToken::new();
    let writer = tokio::spawn(configuration.writer().run(Arc::default(), shutdown.clone()));
    // `b` wants the port of `a`: refused.
    let outcome = configuration
        .apply(push(1, 7, vec![trunk("a", 8060, 3), trunk("c", 8080, 7)]))
        .await;
    assert!(outcome.result.rejections.is_empty() && !outcome.recovered);
    let outcome = configuration.apply(push(2, 9, vec![trunk("b", 8060, 9)])).await;
    assert_eq!(outcome.result.rejections.len(), 1);
    shutdown.cancel();
    within(writer).await.unwrap();
    Arc::clone(&snapshots.borrow())
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart_and_what_was_refused_is_not() {
    let state = tempfile::tempdir().unwrap();
    let before = written(&state).await;
    let (configuration, snapshots) = Configuration::load(state.path()).unwrap();
    assert_eq!(configuration.revision(), 9);
    assert_eq!(configuration.store_id(), "store-1");
    assert_eq!(snapshots.borrow().held(), before.held());
    let names: Vec<String> = snapshots.borrow().trunks().map(|trunk| trunk.id.to_string()).collect();
    assert_eq!(names, ["a", "c"]);
}

#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    let state = tempfile::tempdir().unwrap();
    written(&state).await;
    let mode = std::fs::metadata(state.path().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_damaged_file_counts_as_none() {
    let state = tempfile::tempdir().unwrap();
    written(&state).await;
    let path = state.path().join(FILE);
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        assert!(decode(&whole[..cut]).is_none(), "cut at {cut}");
    }
    for octet in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[octet] ^= 0x10;
        assert!(decode(&damaged).is_none(), "octet {octet}");
    }
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let (configuration, snapshots) = Configuration::load(state.path()).unwrap();
    assert_eq!((configuration.revision(), configuration.held().len()), (0, 0));
    assert_eq!(snapshots.borrow().trunks().count(), 0);
}

#[tokio::test]
async fn what_came_while_the_end_was_told_is_written_too() {
    let state = tempfile::tempdir().unwrap();
    let (mut configuration, _snapshots) = Configuration::load(state.path()).unwrap();
    let shutdown = CancellationToken::new();
    configuration.apply(push(1, 2, vec![trunk("a", 8060, 2)])).await;
    let writer = configuration.writer();
    configuration.apply(push(2, 3, vec![trunk("a", 8061, 3)])).await;
    shutdown.cancel();
    within(writer.run(Arc::default(), shutdown)).await;
    assert_eq!(Configuration::load(state.path()).unwrap().0.revision(), 3);
}
