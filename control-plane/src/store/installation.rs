//! What the installation made for itself: its store id, and the keys that all workers sign digest nonces with.

use rand::RngExt as _;
use sqlx::SqliteConnection;
use zeroize::Zeroizing;

use super::{Cipher, Operation, ResourceKind, StoreError, WriteTx};

/// Name under which changes of the nonce keys are noted in the change log.
pub const NONCE_KEYS: &str = "nonceKeys";

/// Keys kept: the one in use and the one before, for nonces signed just before a change.
const NONCE_KEYS_KEPT: i64 = 2;

/// Keys of signed digest nonces, current first, and the revision at which they last changed.
pub struct NonceKeys {
    /// 32 octets each.
    pub keys: Vec<Zeroizing<Vec<u8>>>,
    /// Revision of the last change.
    pub version: i64,
}

/// Random id of this store, made at the first call.
///
/// # Errors
/// When the store cannot be written.
pub async fn ensure_store_id(tx: &mut WriteTx) -> Result<String, StoreError> {
    sqlx::query("INSERT INTO installation (id, store_id) VALUES (1, ?1) ON CONFLICT (id) DO NOTHING")
        .bind(uuid::Uuid::new_v4().to_string())
        .execute(tx.conn())
        .await?;
    Ok(sqlx::query_scalar("SELECT store_id FROM installation WHERE id = 1")
        .fetch_one(tx.conn())
        .await?)
}

/// The nonce keys.
///
/// # Errors
/// When the store cannot be read, and [`StoreError::Secret`].
pub async fn nonce_keys(conn: &mut SqliteConnection, cipher: &Cipher) -> Result<NonceKeys, StoreError> {
    let rows: Vec<(i64, Vec<u8>, i64)> =
        sqlx::query_as("SELECT id, sealed, version FROM nonce_keys ORDER BY id DESC LIMIT ?1")
            .bind(NONCE_KEYS_KEPT)
            .fetch_all(conn)
            .await?;
    let version = rows.first().map_or(0, |(_, _, version)| *version);
    let keys = rows
        .into_iter()
        .map(|(_, sealed, _)| Ok(cipher.open(CONTEXT, &sealed)?))
        .collect::<Result<_, StoreError>>()?;
    Ok(NonceKeys { keys, version })
}

/// Age of the newest nonce key in milliseconds; `None` without one.
///
/// # Errors
/// When the store cannot be read.
pub async fn nonce_key_age(conn: &mut SqliteConnection, now_ms: i64) -> Result<Option<i64>, StoreError> {
    let newest: Option<i64> = sqlx::query_scalar("SELECT MAX(create_time) FROM nonce_keys")
        .fetch_one(conn)
        .await?;
    Ok(newest.map(|newest| now_ms.saturating_sub(newest)))
}

/// Makes a new nonce key when there is none or the newest is older than `before_ms`; true when it did.
///
/// # Errors
/// When the store cannot be written.
pub async fn rotate_nonce_key(tx: &mut WriteTx, before_ms: i64) -> Result<bool, StoreError> {
    let newest: Option<i64> = sqlx::query_scalar("SELECT MAX(create_time) FROM nonce_keys")
        .fetch_one(tx.conn())
        .await?;
    if newest.is_some_and(|newest| newest > before_ms) {
        return Ok(false);
    }
    let version = tx
        .record(ResourceKind::WorkerSettings, NONCE_KEYS, Operation::Upsert)
        .await?;
    let mut key = Zeroizing::new([0_u8; 32]);
    rand::rng().fill(&mut key[..]);
    let sealed = tx.cipher().seal(CONTEXT, &key[..])?;
    let now_ms = tx.now_ms();
    sqlx::query("INSERT INTO nonce_keys (sealed, create_time, version) VALUES (?1, ?2, ?3)")
        .bind(sealed)
        .bind(now_ms)
        .bind(version)
        .execute(tx.conn())
        .await?;
    sqlx::query("DELETE FROM nonce_keys WHERE id <= (SELECT MAX(id) FROM nonce_keys) - ?1")
        .bind(NONCE_KEYS_KEPT)
        .execute(tx.conn())
        .await?;
    Ok(true)
}

const CONTEXT: &str = "nonce_keys";
