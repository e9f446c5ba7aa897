//! Join tokens: what new workers enroll with.

use sqlx::SqliteConnection;

use super::{StoreError, WriteTx};

/// A join token to store.
#[derive(Debug, Clone)]
pub struct NewJoinToken<'a> {
    /// Public part of the token.
    pub id: &'a str,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// Workers it may enroll.
    pub max_uses: u32,
    /// When it ends, in milliseconds since 1970.
    pub expire_time_ms: i64,
}

/// Stores a join token; the id must be free. Removes those that have ended.
///
/// # Errors
/// When the store cannot be written.
pub async fn insert(tx: &mut WriteTx, token: &NewJoinToken<'_>) -> Result<(), StoreError> {
    let now_ms = tx.now_ms();
    sqlx::query("DELETE FROM join_tokens WHERE expire_time <= ?1 OR uses_left <= 0")
        .bind(now_ms)
        .execute(tx.conn())
        .await?;
    sqlx::query("INSERT INTO join_tokens (id, hash, uses_left, create_time, expire_time) VALUES (?1, ?2, ?3, ?4, ?5)")
        .bind(token.id)
        .bind(token.hash.as_slice())
        .bind(token.max_uses)
        .bind(now_ms)
        .bind(token.expire_time_ms)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Hash of the token with this id, when it has not ended and has uses left.
///
/// # Errors
/// When the store cannot be read.
pub async fn find(conn: &mut SqliteConnection, id: &str, now_ms: i64) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT hash FROM join_tokens WHERE id = ?1 AND uses_left > 0 AND expire_time > ?2")
            .bind(id)
            .bind(now_ms)
            .fetch_optional(conn)
            .await?,
    )
}

/// Takes one use of the token; false when there was none left. With the enrollment in one transaction.
///
/// # Errors
/// When the store cannot be written.
pub async fn consume(tx: &mut WriteTx, id: &str) -> Result<bool, StoreError> {
    let now_ms = tx.now_ms();
    let taken = sqlx::query(
        "UPDATE join_tokens SET uses_left = uses_left - 1 WHERE id = ?1 AND uses_left > 0 AND expire_time > ?2",
    )
    .bind(id)
    .bind(now_ms)
    .execute(tx.conn())
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Removes the token; false when there is none.
///
/// # Errors
/// When the store cannot be written.
pub async fn delete(tx: &mut WriteTx, id: &str) -> Result<bool, StoreError> {
    let deleted = sqlx::query("DELETE FROM join_tokens WHERE id = ?1")
        .bind(id)
        .execute(tx.conn())
        .await?;
    Ok(deleted.rows_affected() == 1)
}
