//! Answers kept by request id, so that a repeated request answers as the first did (AIP-155).

use sqlx::SqliteConnection;

use super::{StoreError, WriteTx};

/// How long an answer is kept.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// An answer given before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Keyed hash of the request that was answered.
    pub fingerprint: Vec<u8>,
    /// The answer, encoded.
    pub response: Vec<u8>,
}

/// The answer `actor` got to `action` under `request_id` within the last 24 hours.
///
/// # Errors
/// When the store cannot be read.
pub async fn find(
    conn: &mut SqliteConnection,
    actor: &str,
    action: &str,
    request_id: &str,
    now_ms: i64,
) -> Result<Option<Answer>, StoreError> {
    let row: Option<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT fingerprint, response FROM requests
         WHERE actor = ?1 AND action = ?2 AND request_id = ?3 AND create_time > ?4",
    )
    .bind(actor)
    .bind(action)
    .bind(request_id)
    .bind(now_ms - KEPT_MS)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(fingerprint, response)| Answer { fingerprint, response }))
}

/// Keeps an answer with the effect it reports, and forgets those that are too old.
///
/// # Errors
/// When the store cannot be written.
pub async fn keep(
    tx: &mut WriteTx,
    actor: &str,
    action: &str,
    request_id: &str,
    answer: &Answer,
) -> Result<(), StoreError> {
    let now_ms = tx.now_ms();
    sqlx::query("DELETE FROM requests WHERE create_time <= ?1")
        .bind(now_ms - KEPT_MS)
        .execute(tx.conn())
        .await?;
    sqlx::query(
        "INSERT INTO requests (actor, action, request_id, fingerprint, response, create_time)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .bind(actor)
    .bind(action)
    .bind(request_id)
    .bind(&answer.fingerprint)
    .bind(&answer.response)
    .bind(now_ms)
    .execute(tx.conn())
    .await?;
    Ok(())
}
