//! Lines.

use prost::Message;
use sqlx::SqliteConnection;
use trunkline_proto::v1;
use zeroize::Zeroizing;

use super::{
    Cipher, Operation, ResourceKind, StoreError, Stored, WriteTx, etag, names_below, timestamp, trunk::SecretWrite,
};

/// The line called `name`.
///
/// # Errors
/// When the store cannot be read or a row does not decode; the same holds for every reading function here.
pub async fn find(conn: &mut SqliteConnection, name: &str) -> Result<Option<Stored<v1::Line>>, StoreError> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT name, message, auth_password IS NOT NULL, create_time, update_time, version
         FROM lines WHERE name = ?1",
    )
    .bind(name)
    .fetch_optional(conn)
    .await?;
    row.map(decode).transpose()
}

/// Up to `limit` lines below `prefix` (`trunks/{trunk}/lines`, or `trunks` for all) whose names come after `after`,
/// in the order of their names.
///
/// # Errors
/// As [`find`].
pub async fn list(
    conn: &mut SqliteConnection,
    prefix: &str,
    after: &str,
    limit: u32,
) -> Result<Vec<Stored<v1::Line>>, StoreError> {
    let (from, until) = names_below(prefix);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT name, message, auth_password IS NOT NULL, create_time, update_time, version
         FROM lines WHERE name >= ?1 AND name < ?2 AND name > ?3 ORDER BY name LIMIT ?4",
    )
    .bind(from)
    .bind(until)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(decode).collect()
}

/// Every line, in the order of their names.
///
/// # Errors
/// As [`find`].
pub async fn all(conn: &mut SqliteConnection) -> Result<Vec<Stored<v1::Line>>, StoreError> {
    list(conn, "trunks", "", u32::MAX).await
}

/// The outbound password in clear; `None` without a line or without a password.
///
/// # Errors
/// As [`find`], and [`StoreError::Secret`].
pub async fn auth_password(
    conn: &mut SqliteConnection,
    cipher: &Cipher,
    name: &str,
) -> Result<Option<Zeroizing<String>>, StoreError> {
    let sealed: Option<Option<Vec<u8>>> = sqlx::query_scalar("SELECT auth_password FROM lines WHERE name = ?1")
        .bind(name)
        .fetch_optional(conn)
        .await?;
    match sealed.flatten() {
        Some(sealed) => Ok(Some(cipher.open_text(&password_context(name), &sealed)?)),
        None => Ok(None),
    }
}

/// Stores a new line of `trunk` under `line.name`, which must be free.
///
/// # Errors
/// When the store cannot be written.
pub async fn insert(
    tx: &mut WriteTx,
    trunk: &str,
    line: &v1::Line,
    auth_password: Option<&str>,
) -> Result<Stored<v1::Line>, StoreError> {
    let version = tx.record(ResourceKind::Line, &line.name, Operation::Upsert).await?;
    let now_ms = tx.now_ms();
    let sealed = auth_password
        .map(|password| tx.cipher().seal(&password_context(&line.name), password.as_bytes()))
        .transpose()?;
    sqlx::query(
        "INSERT INTO lines (name, trunk, message, auth_password, create_time, update_time, version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6)",
    )
    .bind(&line.name)
    .bind(trunk)
    .bind(encode(line))
    .bind(sealed)
    .bind(now_ms)
    .bind(version)
    .execute(tx.conn())
    .await?;
    Ok(filled(line.clone(), auth_password.is_some(), now_ms, now_ms, version))
}

/// Replaces the line called `line.name`, which must exist.
///
/// # Errors
/// When the store cannot be written.
pub async fn update(
    tx: &mut WriteTx,
    line: &v1::Line,
    auth_password: SecretWrite<'_>,
) -> Result<Stored<v1::Line>, StoreError> {
    let version = tx.record(ResourceKind::Line, &line.name, Operation::Upsert).await?;
    let now_ms = tx.now_ms();
    let sealed = match auth_password {
        SecretWrite::Keep => None,
        SecretWrite::Set(password) => Some(Some(
            tx.cipher().seal(&password_context(&line.name), password.as_bytes())?,
        )),
        SecretWrite::Clear => Some(None),
    };
    if let Some(sealed) = sealed {
        sqlx::query("UPDATE lines SET auth_password = ?2 WHERE name = ?1")
            .bind(&line.name)
            .bind(sealed)
            .execute(tx.conn())
            .await?;
    }
    let (has_password, create_time): (bool, i64) = sqlx::query_as(
        "UPDATE lines SET message = ?2, update_time = ?3, version = ?4 WHERE name = ?1
         RETURNING auth_password IS NOT NULL, create_time",
    )
    .bind(&line.name)
    .bind(encode(line))
    .bind(now_ms)
    .bind(version)
    .fetch_one(tx.conn())
    .await?;
    Ok(filled(line.clone(), has_password, create_time, now_ms, version))
}

/// Removes the line.
///
/// # Errors
/// When the store cannot be written.
pub async fn delete(tx: &mut WriteTx, name: &str) -> Result<(), StoreError> {
    tx.record(ResourceKind::Line, name, Operation::Remove).await?;
    sqlx::query("DELETE FROM lines WHERE name = ?1")
        .bind(name)
        .execute(tx.conn())
        .await?;
    Ok(())
}

type Row = (String, Vec<u8>, bool, i64, i64, i64);

fn decode(
    (name, message, has_password, create_time, update_time, version): Row,
) -> Result<Stored<v1::Line>, StoreError> {
    match v1::Line::decode(message.as_slice()) {
        Ok(line) => Ok(filled(
            v1::Line { name, ..line },
            has_password,
            create_time,
            update_time,
            version,
        )),
        Err(source) => Err(StoreError::Decode {
            kind: "line",
            name,
            source,
        }),
    }
}

fn filled(line: v1::Line, has_password: bool, create_time: i64, update_time: i64, version: i64) -> Stored<v1::Line> {
    let message = v1::Line {
        auth_password: String::new(),
        has_password,
        etag: etag(version),
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        ..line
    };
    Stored { message, version }
}

fn encode(line: &v1::Line) -> Vec<u8> {
    let line = v1::Line {
        name: String::new(),
        auth_password: String::new(),
        has_password: false,
        etag: String::new(),
        create_time: None,
        update_time: None,
        ..line.clone()
    };
    line.encode_to_vec()
}

fn password_context(name: &str) -> String {
    format!("lines/auth_password/{name}")
}
