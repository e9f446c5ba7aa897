//! The settings of the installation.

use prost::Message;
use sqlx::SqliteConnection;
use trunkline_proto::v1;

use super::{Operation, ResourceKind, StoreError, Stored, WriteTx, etag, timestamp};

/// Name of the singleton.
pub const NAME: &str = "settings";

/// The stored settings; `None` while nobody has changed them.
///
/// # Errors
/// When the store cannot be read or the row does not decode.
pub async fn find(conn: &mut SqliteConnection) -> Result<Option<Stored<v1::Settings>>, StoreError> {
    let row: Option<(Vec<u8>, i64, i64)> =
        sqlx::query_as("SELECT message, update_time, version FROM settings WHERE id = 1")
            .fetch_optional(conn)
            .await?;
    let Some((message, update_time, version)) = row else {
        return Ok(None);
    };
    match v1::Settings::decode(message.as_slice()) {
        Ok(settings) => Ok(Some(filled(settings, update_time, version))),
        Err(source) => Err(StoreError::Decode {
            kind: "settings",
            name: NAME.to_owned(),
            source,
        }),
    }
}

/// Stores the settings. Noted as a change of [`ResourceKind::WorkerSettings`] under [`NAME`], since all workers
/// follow them.
///
/// # Errors
/// When the store cannot be written.
pub async fn put(tx: &mut WriteTx, settings: &v1::Settings) -> Result<Stored<v1::Settings>, StoreError> {
    let version = tx.record(ResourceKind::WorkerSettings, NAME, Operation::Upsert).await?;
    let now_ms = tx.now_ms();
    let stored = v1::Settings {
        name: String::new(),
        etag: String::new(),
        update_time: None,
        ..settings.clone()
    };
    sqlx::query(
        "INSERT INTO settings (id, message, update_time, version) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET message = excluded.message, update_time = excluded.update_time,
           version = excluded.version",
    )
    .bind(stored.encode_to_vec())
    .bind(now_ms)
    .bind(version)
    .execute(tx.conn())
    .await?;
    Ok(filled(settings.clone(), now_ms, version))
}

fn filled(settings: v1::Settings, update_time: i64, version: i64) -> Stored<v1::Settings> {
    let message = v1::Settings {
        name: NAME.to_owned(),
        etag: etag(version),
        update_time: Some(timestamp(update_time)),
        ..settings
    };
    Stored { message, version }
}
