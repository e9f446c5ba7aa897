//! Call records, active and ended.

use std::sync::Arc;

use prost::Message as _;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use trunkline_proto::v1;
use uuid::Uuid;

use super::{ROWS, StoreError, WriteTx};

/// Conditions on calls; all that are set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallQuery {
    /// `trunks/{trunk}`, inbound or outbound.
    pub trunk: Option<String>,
    /// Only active, or only ended ones.
    pub active: Option<bool>,
    /// Started at or after, in milliseconds since 1970.
    pub start_from_ms: Option<i64>,
    /// Started before.
    pub start_until_ms: Option<i64>,
    /// Call-ID header.
    pub call_id: Option<String>,
}

/// A place in the list of calls: start time in milliseconds and conversation id.
pub type CallPosition = (i64, String);

/// The call with this name (`calls/{uuid}`).
///
/// # Errors
/// When the store cannot be read or a row does not decode; the same holds for every reading function here.
pub async fn find(conn: &mut SqliteConnection, name: &str) -> Result<Option<v1::Call>, StoreError> {
    let row: Option<(String, Vec<u8>)> = sqlx::query_as("SELECT id, message FROM calls WHERE id = ?1")
        .bind(id(name))
        .fetch_optional(conn)
        .await?;
    row.map(|(id, message)| decode(id, &message)).transpose()
}

/// Up to `limit` calls that come after `after`, newest first, each with its place.
///
/// # Errors
/// As [`find`].
pub async fn list(
    conn: &mut SqliteConnection,
    query: &CallQuery,
    after: Option<&CallPosition>,
    limit: u32,
) -> Result<Vec<(CallPosition, v1::Call)>, StoreError> {
    let mut sql = QueryBuilder::<Sqlite>::new("");
    match &query.trunk {
        // One index each; a call whose two trunks are the same shows once.
        Some(trunk) => {
            sql.push("SELECT * FROM (");
            select(&mut sql, query, after, Some(("inbound_trunk", trunk)), limit);
            sql.push(") UNION SELECT * FROM (");
            select(&mut sql, query, after, Some(("outbound_trunk", trunk)), limit);
            sql.push(") ORDER BY start_time DESC, id DESC LIMIT ").push_bind(limit);
        }
        None => select(&mut sql, query, after, None, limit),
    }
    let rows: Vec<(String, i64, Vec<u8>)> = sql.build_query_as().fetch_all(conn).await?;
    rows.into_iter()
        .map(|(id, start, message)| Ok(((start, id.clone()), decode(id, &message)?)))
        .collect()
}

/// Every active call.
///
/// # Errors
/// As [`find`].
pub async fn active(conn: &mut SqliteConnection) -> Result<Vec<v1::Call>, StoreError> {
    let rows: Vec<(String, Vec<u8>)> = sqlx::query_as("SELECT id, message FROM calls WHERE active = 1")
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(|(id, message)| decode(id, &message)).collect()
}

/// Conversation ids of the active calls.
///
/// # Errors
/// As [`find`].
pub async fn active_ids(conn: &mut SqliteConnection) -> Result<Vec<u128>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM calls WHERE active = 1")
        .fetch_all(conn)
        .await?;
    Ok(ids
        .iter()
        .filter_map(|id| Uuid::try_parse(id).ok())
        .map(|id| id.as_u128())
        .collect())
}

/// A call as it is stored.
#[derive(Debug)]
pub struct CallRow {
    call: v1::Call,
    boot_id: Arc<str>,
    lost: bool,
}

impl CallRow {
    /// A call as the worker process `boot_id` reports it.
    pub fn new(call: v1::Call, boot_id: &Arc<str>) -> Self {
        Self {
            call,
            boot_id: Arc::clone(boot_id),
            lost: false,
        }
    }

    /// When it began, in milliseconds since 1970; 0 when it does not say.
    pub fn start_ms(&self) -> i64 {
        self.call.start_time.map_or(0, milliseconds)
    }
}

/// Stores calls as their workers report them: a call that ended does not come back, unless it ended as lost and its worker
/// knows better. No call may be among them twice. Answers how many changed.
///
/// # Errors
/// When the store cannot be written; the same holds for every writing function here.
pub async fn upsert_many(tx: &mut WriteTx, rows: &[CallRow]) -> Result<u64, StoreError> {
    let now_ms = tx.now_ms();
    let mut changed = 0;
    for part in rows.chunks(ROWS) {
        let mut sql = QueryBuilder::<Sqlite>::new(
            "INSERT INTO calls (id, worker, boot_id, active, lost, inbound_trunk, outbound_trunk, call_id, start_time,
               end_time, message) ",
        );
        sql.push_values(part, |mut values, CallRow { call, boot_id, lost }| {
            let active = call.state() != v1::CallState::Ended;
            let stored = v1::Call {
                name: String::new(),
                ..call.clone()
            };
            values
                .push_bind(id(&call.name))
                .push_bind(id(&call.worker))
                .push_bind(&**boot_id)
                .push_bind(active)
                .push_bind(*lost)
                .push_bind(&call.inbound_trunk)
                .push_bind(&call.outbound_trunk)
                .push_bind(&call.call_id)
                .push_bind(call.start_time.map_or(now_ms, milliseconds))
                .push_bind((!active).then(|| call.end_time.map_or(now_ms, milliseconds)))
                .push_bind(stored.encode_to_vec());
        });
        sql.push(
            " ON CONFLICT (id) DO UPDATE SET worker = excluded.worker, boot_id = excluded.boot_id,
               active = excluded.active, lost = excluded.lost, inbound_trunk = excluded.inbound_trunk,
               outbound_trunk = excluded.outbound_trunk, call_id = excluded.call_id, end_time = excluded.end_time,
               message = excluded.message
             WHERE calls.active = 1 OR (calls.lost = 1 AND excluded.active = 0)",
        );
        let written = sql.build().persistent(part.len() == ROWS).execute(tx.conn()).await?;
        changed += written.rows_affected();
    }
    Ok(changed)
}

/// Ends the active calls of a worker's earlier processes with reason `worker_lost`; answers them as they stand now.
///
/// # Errors
/// As [`upsert_many`].
pub async fn end_lost(tx: &mut WriteTx, worker: &str, boot_id: &str) -> Result<Vec<v1::Call>, StoreError> {
    let end_time = super::timestamp(tx.now_ms());
    let rows: Vec<(String, String, Vec<u8>)> =
        sqlx::query_as("SELECT id, boot_id, message FROM calls WHERE worker = ?1 AND active = 1 AND boot_id <> ?2")
            .bind(worker)
            .bind(boot_id)
            .fetch_all(tx.conn())
            .await?;
    let mut lost = Vec::with_capacity(rows.len());
    for (id, boot_id, message) in rows {
        let mut call = decode(id, &message)?;
        call.state = v1::CallState::Ended as i32;
        call.end_time = Some(end_time);
        call.end = Some(v1::CallEnd {
            reason: "worker_lost".to_owned(),
            ..v1::CallEnd::default()
        });
        lost.push(CallRow {
            call,
            boot_id: boot_id.into(),
            lost: true,
        });
    }
    upsert_many(tx, &lost).await?;
    Ok(lost.into_iter().map(|row| row.call).collect())
}

/// Removes up to `limit` calls that ended before `before_ms`; answers how many.
///
/// # Errors
/// As [`upsert_many`].
pub async fn purge(tx: &mut WriteTx, before_ms: i64, limit: u32) -> Result<u64, StoreError> {
    let purged = sqlx::query(
        "DELETE FROM calls WHERE id IN
           (SELECT id FROM calls WHERE active = 0 AND end_time < ?1 ORDER BY end_time LIMIT ?2)",
    )
    .bind(before_ms)
    .bind(limit)
    .execute(tx.conn())
    .await?;
    Ok(purged.rows_affected())
}

fn select(
    sql: &mut QueryBuilder<Sqlite>,
    query: &CallQuery,
    after: Option<&CallPosition>,
    trunk: Option<(&'static str, &str)>,
    limit: u32,
) {
    let CallQuery {
        trunk: _,
        active,
        start_from_ms,
        start_until_ms,
        call_id,
    } = query;
    sql.push("SELECT id, start_time, message FROM calls WHERE 1");
    if let Some((column, trunk)) = trunk {
        sql.push(" AND ").push(column).push(" = ").push_bind(trunk.to_owned());
    }
    match active {
        Some(true) => drop(sql.push(" AND active = 1")),
        Some(false) => drop(sql.push(" AND active = 0")),
        None => {}
    }
    if let Some(from) = start_from_ms {
        sql.push(" AND start_time >= ").push_bind(*from);
    }
    if let Some(until) = start_until_ms {
        sql.push(" AND start_time < ").push_bind(*until);
    }
    if let Some(call_id) = call_id {
        sql.push(" AND call_id = ").push_bind(call_id.clone());
    }
    if let Some((start, id)) = after {
        sql.push(" AND (start_time, id) < (")
            .push_bind(*start)
            .push(", ")
            .push_bind(id.clone())
            .push(")");
    }
    sql.push(" ORDER BY start_time DESC, id DESC LIMIT ").push_bind(limit);
}

fn decode(id: String, message: &[u8]) -> Result<v1::Call, StoreError> {
    match v1::Call::decode(message) {
        Ok(call) => Ok(v1::Call {
            name: format!("calls/{id}"),
            ..call
        }),
        Err(source) => Err(StoreError::Decode {
            kind: "call",
            name: id,
            source,
        }),
    }
}

fn id(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, id)| id)
}

fn milliseconds(timestamp: prost_types::Timestamp) -> i64 {
    timestamp
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(timestamp.nanos) / 1_000_000)
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

    fn call(number: u32, inbound: &str, outbound: &str, start: i64, end: Option<i64>) -> v1::Call {
        let time = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        v1::Call {
            name: format!("calls/00000000-0000-4000-8000-{number:012}"),
            state: if end.is_some() {
                v1::CallState::Ended
            } else {
                v1::CallState::Answered
            } as i32,
            worker: "workers/edge".into(),
            inbound_trunk: inbound.into(),
            outbound_trunk: outbound.into(),
            start_time: Some(time(start)),
            end_time: end.map(time),
            ..v1::Call::default()
        }
    }

    async fn upsert(tx: &mut WriteTx, boot_id: &str, call: &v1::Call) -> Result<bool, StoreError> {
        let row = CallRow::new(call.clone(), &boot_id.into());
        Ok(upsert_many(tx, &[row]).await? == 1)
    }

    async fn store_calls(store: &Store, calls: &[v1::Call]) {
        let mut tx = store.write().await.unwrap();
        for call in calls {
            assert!(upsert(&mut tx, "b1", call).await.unwrap());
        }
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn pages_of_a_trunks_calls_are_newest_first_without_gap_or_repeat() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let calls: Vec<_> = (0..30)
            .map(|number| {
                let (inbound, outbound) = match number % 3 {
                    0 => ("trunks/a", "trunks/a"),
                    1 => ("trunks/b", "trunks/a"),
                    _ => ("trunks/b", "trunks/b"),
                };
                // Pairs start in the same second.
                call(number, inbound, outbound, i64::from(number / 2), None)
            })
            .collect();
        store_calls(&store, &calls).await;
        let query = CallQuery {
            trunk: Some("trunks/a".into()),
            ..CallQuery::default()
        };
        let mut view = store.read().await.unwrap();
        let mut found = Vec::new();
        let mut after: Option<CallPosition> = None;
        loop {
            let page = list(view.conn(), &query, after.as_ref(), 3).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            found.extend(page.into_iter().map(|(position, _)| position));
        }
        assert_eq!(found.len(), 20);
        assert!(found.windows(2).all(|pair| pair[0] > pair[1]), "{found:?}");
    }

    #[tokio::test]
    async fn conditions_hold_together() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let calls = [
            call(1, "trunks/a", "", 10, None),
            call(2, "trunks/a", "", 20, Some(25)),
            call(3, "trunks/a", "", 30, None),
        ];
        store_calls(&store, &calls).await;
        let mut view = store.read().await.unwrap();
        let query = CallQuery {
            active: Some(true),
            start_from_ms: Some(20_000),
            ..CallQuery::default()
        };
        let found = list(view.conn(), &query, None, 10).await.unwrap();
        assert_eq!(
            found.into_iter().map(|(_, call)| call).collect::<Vec<_>>(),
            [calls[2].clone()]
        );
        let query = CallQuery {
            active: Some(false),
            start_until_ms: Some(20_000),
            ..CallQuery::default()
        };
        assert!(list(view.conn(), &query, None, 10).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn only_calls_that_ended_long_ago_are_purged_a_few_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let calls = [
            call(1, "trunks/a", "", 1, Some(5)),
            call(2, "trunks/a", "", 1, Some(6)),
            call(3, "trunks/a", "", 1, Some(50)),
            call(4, "trunks/a", "", 1, None),
        ];
        store_calls(&store, &calls).await;
        let mut tx = store.write().await.unwrap();
        assert_eq!(purge(&mut tx, 10_000, 1).await.unwrap(), 1);
        assert_eq!(purge(&mut tx, 10_000, 10).await.unwrap(), 1);
        assert_eq!(purge(&mut tx, 10_000, 10).await.unwrap(), 0);
        for (index, there) in [(0, false), (1, false), (2, true), (3, true)] {
            assert_eq!(find(tx.conn(), &calls[index].name).await.unwrap().is_some(), there);
        }
    }

    #[tokio::test]
    async fn a_call_given_up_with_its_worker_is_set_right_by_the_workers_own_report() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        store_calls(&store, &[call(1, "trunks/a", "", 1, None)]).await;
        let mut tx = store.write().await.unwrap();
        assert_eq!(
            end_lost(&mut tx, "edge", "b1").await.unwrap().len(),
            0,
            "its own process"
        );
        assert_eq!(
            end_lost(&mut tx, "other", "b2").await.unwrap().len(),
            0,
            "another worker"
        );
        assert_eq!(end_lost(&mut tx, "edge", "b2").await.unwrap().len(), 1);
        assert!(!upsert(&mut tx, "b1", &call(1, "trunks/a", "", 1, None)).await.unwrap());
        let end = v1::CallEnd {
            reason: "caller_bye".into(),
            ..v1::CallEnd::default()
        };
        let ended = v1::Call {
            end: Some(end),
            ..call(1, "trunks/a", "", 1, Some(7))
        };
        assert!(upsert(&mut tx, "b1", &ended).await.unwrap());
        assert_eq!(find(tx.conn(), &ended.name).await.unwrap(), Some(ended.clone()));
        assert!(
            !upsert(&mut tx, "b1", &ended).await.unwrap(),
            "and that is the last word"
        );
    }
}
