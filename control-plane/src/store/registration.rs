//! Registrations: the bindings of each address of record, under a revision of their own.

use prost::Message as _;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use trunkline_proto::{dataplane::v1 as dataplane, v1};
use trunkline_shared::name;

use super::{ROWS, StoreError, WriteTx};

/// The registration of a user (unescaped) of `trunks/{trunk}`; `None` without a live binding.
///
/// # Errors
/// When the store cannot be read or a row does not decode; the same holds for every reading function here.
pub async fn find(
    conn: &mut SqliteConnection,
    trunk: &str,
    user: &str,
    now_ms: i64,
) -> Result<Option<v1::Registration>, StoreError> {
    let row: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT message FROM registrations WHERE trunk = ?1 AND user = ?2 AND bindings > 0")
            .bind(trunk)
            .bind(user)
            .fetch_optional(conn)
            .await?;
    let Some((message,)) = row else { return Ok(None) };
    Ok(live(decode(&message)?, now_ms).map(registration))
}

/// Up to `limit` registrations after the place `after` (trunk and user), in the order of trunk and user; of one trunk
/// when given. Each comes with its place.
///
/// # Errors
/// As [`find`].
pub async fn list(
    conn: &mut SqliteConnection,
    trunk: Option<&str>,
    after: (&str, &str),
    limit: u32,
    now_ms: i64,
) -> Result<Vec<((String, String), v1::Registration)>, StoreError> {
    let mut found = Vec::new();
    let mut place = (after.0.to_owned(), after.1.to_owned());
    // Rows whose bindings have just expired do not shorten a page: a short page would look like the last one.
    loop {
        let wanted = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
        let rows: Vec<(String, String, Vec<u8>)> = sqlx::query_as(
            "SELECT trunk, user, message FROM registrations
             WHERE bindings > 0 AND (trunk, user) > (?1, ?2) AND (?3 IS NULL OR trunk = ?3)
             ORDER BY trunk, user LIMIT ?4",
        )
        .bind(&place.0)
        .bind(&place.1)
        .bind(trunk)
        .bind(wanted)
        .fetch_all(&mut *conn)
        .await?;
        let Some((last_trunk, last_user, _)) = rows.last() else {
            return Ok(found);
        };
        place = (last_trunk.clone(), last_user.clone());
        for (trunk, user, message) in rows {
            if let Some(bindings) = live(decode(&message)?, now_ms) {
                found.push(((trunk, user), registration(bindings)));
            }
        }
        if found.len() >= limit as usize {
            return Ok(found);
        }
    }
}

/// Revision of the registrations, and the highest revision whose row is gone: a watcher at or above it can go on with
/// the changes since, one below needs the full set.
///
/// # Errors
/// As [`find`].
pub async fn revision(conn: &mut SqliteConnection) -> Result<(i64, i64), StoreError> {
    Ok(sqlx::query_as("SELECT value, floor FROM binding_revision WHERE id = 1")
        .fetch_one(conn)
        .await?)
}

/// Up to `limit` changes after `revision`, in order, each address of record as it stands now.
///
/// # Errors
/// As [`find`].
pub async fn changes_since(
    conn: &mut SqliteConnection,
    revision: i64,
    limit: u32,
) -> Result<Vec<(i64, dataplane::AorBindings)>, StoreError> {
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT revision, message FROM registrations WHERE revision > ?1 ORDER BY revision LIMIT ?2")
            .bind(revision)
            .bind(limit)
            .fetch_all(conn)
            .await?;
    rows.into_iter()
        .map(|(revision, message)| Ok((revision, decode(&message)?)))
        .collect()
}

/// Number of addresses of record with a binding, expired ones that were not purged yet included.
///
/// # Errors
/// As [`find`].
pub async fn registered(conn: &mut SqliteConnection) -> Result<i64, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT COUNT(*) FROM registrations WHERE bindings > 0")
            .fetch_one(conn)
            .await?,
    )
}

/// Stores the bindings of addresses of record, each under a revision of its own. What is stored and later stays: the later
/// change wins, and of two in the same millisecond the one that arrives last. No address of record may be among them
/// twice. Answers how many changed.
///
/// # Errors
/// When the store cannot be written; the same holds for every writing function here.
pub async fn upsert_many(tx: &mut WriteTx, all: &[dataplane::AorBindings]) -> Result<u64, StoreError> {
    let mut changed = 0;
    for part in all.chunks(ROWS) {
        let last: i64 =
            sqlx::query_scalar("UPDATE binding_revision SET value = value + ?1 WHERE id = 1 RETURNING value")
                .bind(count(part.len()))
                .fetch_one(tx.conn())
                .await?;
        let first = last - count(part.len()) + 1;
        let mut sql = QueryBuilder::<Sqlite>::new(
            "INSERT INTO registrations (trunk, user, message, bindings, change_time, next_expire, revision) ",
        );
        sql.push_values(part.iter().zip(first..), |mut values, (bindings, revision)| {
            values
                .push_bind(&bindings.trunk)
                .push_bind(&bindings.user)
                .push_bind(bindings.encode_to_vec())
                .push_bind(count(bindings.bindings.len()))
                .push_bind(bindings.change_time_ms)
                .push_bind(next_expire(bindings))
                .push_bind(revision);
        });
        sql.push(
            " ON CONFLICT (trunk, user) DO UPDATE SET message = excluded.message, bindings = excluded.bindings,
               change_time = excluded.change_time, next_expire = excluded.next_expire, revision = excluded.revision
             WHERE excluded.change_time >= registrations.change_time",
        );
        let written = sql.build().persistent(part.len() == ROWS).execute(tx.conn()).await?;
        changed += written.rows_affected();
    }
    Ok(changed)
}

/// Removes all bindings of a user (unescaped) of `trunks/{trunk}`; false when there were none.
///
/// # Errors
/// As [`upsert_many`].
pub async fn clear(tx: &mut WriteTx, trunk: &str, user: &str) -> Result<bool, StoreError> {
    let row: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT message FROM registrations WHERE trunk = ?1 AND user = ?2 AND bindings > 0")
            .bind(trunk)
            .bind(user)
            .fetch_optional(tx.conn())
            .await?;
    let Some((message,)) = row else { return Ok(false) };
    clear_bindings(tx, decode(&message)?).await?;
    Ok(true)
}

/// Removes all bindings of every user of `trunks/{trunk}`; answers how many users had some.
///
/// # Errors
/// As [`upsert_many`].
pub async fn clear_trunk(tx: &mut WriteTx, trunk: &str) -> Result<usize, StoreError> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT message FROM registrations WHERE trunk = ?1 AND bindings > 0")
        .bind(trunk)
        .fetch_all(tx.conn())
        .await?;
    let cleared = rows.len();
    for (message,) in rows {
        clear_bindings(tx, decode(&message)?).await?;
    }
    Ok(cleared)
}

/// Drops bindings that ended from up to `limit` rows. Workers drop them by their own clock: no change is published.
///
/// # Errors
/// As [`upsert_many`].
pub async fn purge_expired(tx: &mut WriteTx, limit: u32) -> Result<u64, StoreError> {
    let now_ms = tx.now_ms();
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
        "SELECT message FROM registrations WHERE next_expire IS NOT NULL AND next_expire <= ?1 LIMIT ?2",
    )
    .bind(now_ms)
    .bind(limit)
    .fetch_all(tx.conn())
    .await?;
    let purged = rows.len() as u64;
    for (message,) in rows {
        let mut bindings = decode(&message)?;
        bindings.bindings.retain(|binding| expiry(binding) > now_ms);
        sqlx::query(
            "UPDATE registrations SET message = ?3, bindings = ?4, next_expire = ?5 WHERE trunk = ?1 AND user = ?2",
        )
        .bind(&bindings.trunk)
        .bind(&bindings.user)
        .bind(bindings.encode_to_vec())
        .bind(count(bindings.bindings.len()))
        .bind(next_expire(&bindings))
        .execute(tx.conn())
        .await?;
    }
    Ok(purged)
}

/// Removes up to `limit` rows without bindings that changed before `before_ms`: a watcher that has not seen them by
/// then gets the full set.
///
/// # Errors
/// As [`upsert_many`].
pub async fn purge_gone(tx: &mut WriteTx, before_ms: i64, limit: u32) -> Result<u64, StoreError> {
    let purged: Vec<i64> = sqlx::query_scalar(
        "DELETE FROM registrations WHERE (trunk, user) IN
           (SELECT trunk, user FROM registrations WHERE bindings = 0 AND change_time < ?1 LIMIT ?2)
         RETURNING revision",
    )
    .bind(before_ms)
    .bind(limit)
    .fetch_all(tx.conn())
    .await?;
    if let Some(highest) = purged.iter().max() {
        sqlx::query("UPDATE binding_revision SET floor = MAX(floor, ?1) WHERE id = 1")
            .bind(highest)
            .execute(tx.conn())
            .await?;
    }
    Ok(purged.len() as u64)
}

async fn clear_bindings(tx: &mut WriteTx, mut bindings: dataplane::AorBindings) -> Result<(), StoreError> {
    bindings.bindings.clear();
    // Later than what is stored even when the worker's clock is ahead of ours.
    bindings.change_time_ms = tx.now_ms().max(bindings.change_time_ms.saturating_add(1));
    upsert_many(tx, &[bindings]).await.map(drop)
}

fn decode(message: &[u8]) -> Result<dataplane::AorBindings, StoreError> {
    dataplane::AorBindings::decode(message).map_err(|source| StoreError::Decode {
        kind: "registration",
        name: String::new(),
        source,
    })
}

fn live(mut bindings: dataplane::AorBindings, now_ms: i64) -> Option<dataplane::AorBindings> {
    bindings.bindings.retain(|binding| expiry(binding) > now_ms);
    (!bindings.bindings.is_empty()).then_some(bindings)
}

fn registration(mut bindings: dataplane::AorBindings) -> v1::Registration {
    bindings.bindings.sort_by_key(|binding| {
        std::cmp::Reverse(
            binding
                .update_time
                .map(|time| (time.seconds, time.nanos))
                .unwrap_or_default(),
        )
    });
    v1::Registration {
        name: format!(
            "{}/registrations/{}",
            bindings.trunk,
            name::percent_encode(&bindings.user)
        ),
        address_of_record: bindings.address_of_record,
        bindings: bindings.bindings,
    }
}

fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn next_expire(bindings: &dataplane::AorBindings) -> Option<i64> {
    bindings.bindings.iter().map(expiry).min()
}

/// A binding without an end has ended: nothing could ever remove it.
fn expiry(binding: &v1::Binding) -> i64 {
    binding.expire_time.map_or(0, |time| {
        time.seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(time.nanos) / 1_000_000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{KeyFile, Store};

    async fn open(directory: &tempfile::TempDir) -> Store {
        Store::open(&directory.path().join("control.db"), KeyFile::from_key([7; 32]))
            .await
            .unwrap()
    }

    fn bindings(user: &str, change_time_ms: i64, expire_ms: &[i64]) -> dataplane::AorBindings {
        dataplane::AorBindings {
            trunk: "trunks/a".into(),
            user: user.into(),
            address_of_record: format!("sip:{user}@example.com"),
            bindings: expire_ms
                .iter()
                .map(|end| v1::Binding {
                    expire_time: Some(super::super::timestamp(*end)),
                    ..v1::Binding::default()
                })
                .collect(),
            change_time_ms,
        }
    }

    async fn upsert(tx: &mut WriteTx, bindings: &dataplane::AorBindings) -> Result<bool, StoreError> {
        Ok(upsert_many(tx, std::slice::from_ref(bindings)).await? == 1)
    }

    async fn users(store: &Store, now_ms: i64) -> Vec<String> {
        let mut view = store.read().await.unwrap();
        let found = list(view.conn(), None, ("", ""), 100, now_ms).await.unwrap();
        found.into_iter().map(|((_, user), _)| user).collect()
    }

    #[tokio::test]
    async fn a_registration_shows_until_its_last_binding_ends() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let mut tx = store.write().await.unwrap();
        upsert(&mut tx, &bindings("alice", 1, &[1_000, 2_000])).await.unwrap();
        tx.commit().await.unwrap();
        let mut view = store.read().await.unwrap();
        for (now_ms, live) in [(500, 2), (1_500, 1)] {
            let found = find(view.conn(), "trunks/a", "alice", now_ms).await.unwrap().unwrap();
            assert_eq!(found.bindings.len(), live);
        }
        assert_eq!(find(view.conn(), "trunks/a", "alice", 2_000).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_page_is_full_even_when_rows_before_it_have_expired() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let mut tx = store.write().await.unwrap();
        for number in 0..10 {
            let end = if number < 6 { 1 } else { 10_000 };
            upsert(&mut tx, &bindings(&format!("user-{number}"), 1, &[end]))
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        let mut view = store.read().await.unwrap();
        let page = list(view.conn(), Some("trunks/a"), ("", ""), 3, 5_000).await.unwrap();
        let users: Vec<_> = page.iter().map(|((_, user), _)| user.as_str()).collect();
        assert_eq!(users, ["user-6", "user-7", "user-8"]);
    }

    #[tokio::test]
    async fn expired_bindings_go_and_later_their_row_and_that_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let far = i64::MAX / 2_000;
        let mut tx = store.write().await.unwrap();
        upsert(&mut tx, &bindings("gone", 10, &[1_000])).await.unwrap();
        upsert(&mut tx, &bindings("half", 10, &[1_000, far])).await.unwrap();
        upsert(&mut tx, &bindings("stays", 10, &[far])).await.unwrap();
        let (before, _) = revision(tx.conn()).await.unwrap();
        assert_eq!(purge_expired(&mut tx, 100).await.unwrap(), 2);
        assert_eq!(purge_expired(&mut tx, 100).await.unwrap(), 0);
        assert_eq!(
            revision(tx.conn()).await.unwrap().0,
            before,
            "workers expire by themselves"
        );
        assert_eq!(purge_gone(&mut tx, 10, 100).await.unwrap(), 0, "not yet");
        assert_eq!(purge_gone(&mut tx, 11, 100).await.unwrap(), 1);
        let (_, floor) = revision(tx.conn()).await.unwrap();
        assert_eq!(floor, 2, "the revision of the row that is gone");
        tx.commit().await.unwrap();
        assert_eq!(users(&store, 5_000).await, ["half", "stays"]);
    }

    #[tokio::test]
    async fn clearing_is_later_than_what_is_stored_even_from_a_clock_ahead() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let ahead = super::super::now_ms() + 60_000;
        let mut tx = store.write().await.unwrap();
        upsert(&mut tx, &bindings("alice", ahead, &[ahead * 2])).await.unwrap();
        assert!(clear(&mut tx, "trunks/a", "alice").await.unwrap());
        assert!(
            !clear(&mut tx, "trunks/a", "alice").await.unwrap(),
            "there is nothing left to clear"
        );
        let changes = changes_since(tx.conn(), 0, 10).await.unwrap();
        assert_eq!(changes.len(), 1);
        assert!(changes[0].1.bindings.is_empty() && changes[0].1.change_time_ms > ahead);
        assert!(
            !upsert(&mut tx, &bindings("alice", ahead, &[ahead * 2])).await.unwrap(),
            "an echo does not undo it"
        );
        assert!(
            upsert(&mut tx, &bindings("alice", ahead + 2, &[ahead * 2]))
                .await
                .unwrap(),
            "a new REGISTER does"
        );
    }
}
