//! API tokens: hashes of their secrets.

use sqlx::SqliteConnection;
use trunkline_proto::v1;

use super::{StoreError, WriteTx, timestamp};
use crate::identity::Role;

/// A token to store.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    /// Last segment of the name.
    pub id: &'a str,
    /// For people.
    pub display_name: &'a str,
    /// What its bearer may do.
    pub role: Role,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// When it ends, in milliseconds since 1970; `None`: does not.
    pub expire_time_ms: Option<i64>,
}

/// What authentication needs of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// What its bearer may do.
    pub role: Role,
    /// SHA-256 of the secret.
    pub hash: Vec<u8>,
    /// When it ends, in milliseconds since 1970; `None`: does not.
    pub expire_time_ms: Option<i64>,
}

/// Stores a token; answers it as the API shows it, or `None` when the id is taken.
///
/// # Errors
/// When the store cannot be written.
pub async fn insert(tx: &mut WriteTx, token: &NewToken<'_>) -> Result<Option<v1::Token>, StoreError> {
    let now_ms = tx.now_ms();
    let inserted = sqlx::query(
        "INSERT INTO tokens (id, display_name, role, hash, create_time, expire_time) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(token.id)
    .bind(token.display_name)
    .bind(token.role.as_str())
    .bind(token.hash.as_slice())
    .bind(now_ms)
    .bind(token.expire_time_ms)
    .execute(tx.conn())
    .await?;
    let message = message((
        token.id.to_owned(),
        token.display_name.to_owned(),
        token.role.as_str().to_owned(),
        now_ms,
        token.expire_time_ms,
    ));
    Ok((inserted.rows_affected() == 1).then_some(message))
}

/// The token with this id, for authentication.
///
/// # Errors
/// When the store cannot be read.
pub async fn find(conn: &mut SqliteConnection, id: &str) -> Result<Option<TokenRecord>, StoreError> {
    let row: Option<(String, Vec<u8>, Option<i64>)> =
        sqlx::query_as("SELECT role, hash, expire_time FROM tokens WHERE id = ?1")
            .bind(id)
            .fetch_optional(conn)
            .await?;
    Ok(row.and_then(|(role, hash, expire_time_ms)| {
        Some(TokenRecord {
            role: Role::from_word(&role)?,
            hash,
            expire_time_ms,
        })
    }))
}

/// Up to `limit` tokens whose ids come after `after`, in the order of their ids; expired ones included.
///
/// # Errors
/// When the store cannot be read.
pub async fn list(conn: &mut SqliteConnection, after: &str, limit: u32) -> Result<Vec<v1::Token>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, display_name, role, create_time, expire_time FROM tokens WHERE id > ?1 ORDER BY id LIMIT ?2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(message).collect())
}

/// Removes a token; false when there is none.
///
/// # Errors
/// When the store cannot be written.
pub async fn delete(tx: &mut WriteTx, id: &str) -> Result<bool, StoreError> {
    let deleted = sqlx::query("DELETE FROM tokens WHERE id = ?1")
        .bind(id)
        .execute(tx.conn())
        .await?;
    Ok(deleted.rows_affected() == 1)
}

/// Whether there is a token with the admin role that has not ended: without one nobody could make another.
///
/// # Errors
/// When the store cannot be read.
pub async fn any_admin(conn: &mut SqliteConnection, now_ms: i64) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM tokens WHERE role = 'admin' AND (expire_time IS NULL OR expire_time > ?1))",
    )
    .bind(now_ms)
    .fetch_one(conn)
    .await?)
}

type Row = (String, String, String, i64, Option<i64>);

fn message((id, display_name, role, create_time, expire_time): Row) -> v1::Token {
    let role = Role::from_word(&role).map_or(v1::Role::Unspecified, Role::to_wire);
    v1::Token {
        name: format!("tokens/{id}"),
        display_name,
        role: role as i32,
        create_time: Some(timestamp(create_time)),
        expire_time: expire_time.map(timestamp),
    }
}
