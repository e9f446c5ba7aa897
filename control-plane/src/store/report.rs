//! How far each worker's reports are stored, and failures worth keeping.

use sqlx::{SqliteConnection, SqlitePool};
use trunkline_proto::dataplane::v1 as dataplane;

use super::{StoreError, WriteTx};

/// Rows of the log read at a time: some 100 KB each at most times.
const LOG_PAGE: i64 = 64;

/// Adds a batch of reports (an encoded `StreamReportsRequest`) of a worker to the log, in a transaction of its own.
///
/// # Errors
/// When the store cannot be written, or there is a row with this number.
pub async fn log(writer: &SqlitePool, id: i64, worker: &str, message: &[u8]) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO report_log (id, worker, message) VALUES (?1, ?2, ?3)")
        .bind(id)
        .bind(worker)
        .bind(message)
        .execute(writer)
        .await?;
    Ok(())
}

/// Some rows of the log after row `after`, in order: number, worker and batch. None: there are no more.
///
/// # Errors
/// When the store cannot be read.
pub async fn logged_after(conn: &mut SqliteConnection, after: i64) -> Result<Vec<(i64, String, Vec<u8>)>, StoreError> {
    Ok(
        sqlx::query_as("SELECT id, worker, message FROM report_log WHERE id > ?1 ORDER BY id LIMIT ?2")
            .bind(after)
            .bind(LOG_PAGE)
            .fetch_all(conn)
            .await?,
    )
}

/// Removes the log up to a row.
///
/// # Errors
/// As [`set_cursor`].
pub async fn forget_log(tx: &mut WriteTx, until: i64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM report_log WHERE id <= ?1")
        .bind(until)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Last sequence number stored of a worker's spool; 0 for a new one.
///
/// # Errors
/// When the store cannot be read.
pub async fn cursor(conn: &mut SqliteConnection, worker: &str, spool: &str) -> Result<u64, StoreError> {
    let sequence: Option<i64> =
        sqlx::query_scalar("SELECT sequence FROM report_cursors WHERE worker = ?1 AND spool = ?2")
            .bind(worker)
            .bind(spool)
            .fetch_optional(conn)
            .await?;
    Ok(sequence.and_then(|sequence| u64::try_from(sequence).ok()).unwrap_or(0))
}

/// Moves the cursor of a spool; in the transaction that stores the reports.
///
/// # Errors
/// When the store cannot be written; the same holds for every writing function here.
pub async fn set_cursor(tx: &mut WriteTx, worker: &str, spool: &str, sequence: u64) -> Result<(), StoreError> {
    let now_ms = tx.now_ms();
    sqlx::query(
        "INSERT INTO report_cursors (worker, spool, sequence, update_time) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (worker, spool) DO UPDATE SET sequence = excluded.sequence, update_time = excluded.update_time",
    )
    .bind(worker)
    .bind(spool)
    .bind(i64::try_from(sequence).unwrap_or(i64::MAX))
    .bind(now_ms)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Removes cursors not moved since `before_ms`; answers how many.
///
/// # Errors
/// As [`set_cursor`].
pub async fn purge_cursors(tx: &mut WriteTx, before_ms: i64) -> Result<u64, StoreError> {
    let purged = sqlx::query("DELETE FROM report_cursors WHERE update_time < ?1")
        .bind(before_ms)
        .execute(tx.conn())
        .await?;
    Ok(purged.rows_affected())
}

/// Keeps a digest failure.
///
/// # Errors
/// As [`set_cursor`].
pub async fn insert_authentication_failure(
    tx: &mut WriteTx,
    worker: &str,
    time_ms: i64,
    failure: &dataplane::AuthenticationFailure,
) -> Result<(), StoreError> {
    let dataplane::AuthenticationFailure {
        trunk,
        source_address,
        username,
        reason,
    } = failure;
    sqlx::query(
        "INSERT INTO authentication_failures (time, worker, trunk, source_address, username, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .bind(time_ms)
    .bind(worker)
    .bind(trunk)
    .bind(source_address)
    .bind(username)
    .bind(reason)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Removes up to `limit` failures older than `before_ms` or beyond the newest `keep`; answers how many.
///
/// # Errors
/// As [`set_cursor`].
pub async fn purge_authentication_failures(
    tx: &mut WriteTx,
    before_ms: i64,
    keep: u32,
    limit: u32,
) -> Result<u64, StoreError> {
    let purged = sqlx::query(
        "DELETE FROM authentication_failures WHERE id IN (
           SELECT id FROM authentication_failures
           WHERE time < ?1 OR id <= (SELECT MAX(id) FROM authentication_failures) - ?2
           ORDER BY id LIMIT ?3)",
    )
    .bind(before_ms)
    .bind(keep)
    .bind(limit)
    .execute(tx.conn())
    .await?;
    Ok(purged.rows_affected())
}
