//! Workers: who enrolled, what they last said of themselves, what they refused.

use sqlx::SqliteConnection;

use super::{Operation, ResourceKind, StoreError, WriteTx};
use crate::identity::WorkerIdentity;

/// A worker as stored. Whether it is connected, and what it holds, is in [`crate::stream::Fleet`].
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct WorkerRecord {
    /// Last segment of `workers/{worker}`.
    pub id: String,
    /// Random id of its enrollment.
    pub enrollment: String,
    /// Its host name.
    pub hostname: String,
    /// Its software version.
    pub software_version: String,
    /// Back-end of its media plane.
    pub media_tier: String,
    /// Id of its last known process; empty before its first stream.
    pub boot_id: String,
    /// When that process started.
    pub boot_time: Option<i64>,
    /// Asked to drain.
    pub draining: bool,
    /// Revision at which `draining` last changed.
    pub settings_version: i64,
    /// Revision it last said it has in force.
    pub applied_revision: i64,
    /// When it enrolled.
    pub enroll_time: i64,
    /// When it was last heard of, to a minute or so.
    pub last_seen_time: Option<i64>,
    /// End of its client certificate.
    pub certificate_expire_time: i64,
}

/// What a worker says of itself when it opens its stream. Times in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerGreeting<'a> {
    /// Its host name.
    pub hostname: &'a str,
    /// Its software version.
    pub software_version: &'a str,
    /// Back-end of its media plane.
    pub media_tier: &'a str,
    /// Id of its process.
    pub boot_id: &'a str,
    /// When that process started.
    pub boot_time: Option<i64>,
}

/// A version of a resource that a worker refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// `trunkline.dataplane.v1.ResourceType`.
    pub kind: i32,
    /// Name of the resource.
    pub name: String,
    /// Refused version.
    pub version: i64,
    /// Why, in words of the worker.
    pub error: String,
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
}

const COLUMNS: &str = "id, enrollment, hostname, software_version, media_tier, boot_id, boot_time, draining,
    settings_version, applied_revision, enroll_time, last_seen_time, certificate_expire_time";

/// The worker with this id.
///
/// # Errors
/// When the store cannot be read; the same holds for every reading function here.
pub async fn find(conn: &mut SqliteConnection, id: &str) -> Result<Option<WorkerRecord>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM workers WHERE id = ?1"));
    Ok(sqlx::query_as(sql).bind(id).fetch_optional(conn).await?)
}

/// Up to `limit` workers whose ids come after `after`, in the order of their ids.
///
/// # Errors
/// As [`find`].
pub async fn list(conn: &mut SqliteConnection, after: &str, limit: u32) -> Result<Vec<WorkerRecord>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM workers WHERE id > ?1 ORDER BY id LIMIT ?2"
    ));
    Ok(sqlx::query_as(sql).bind(after).bind(limit).fetch_all(conn).await?)
}

/// Every worker's drain flag with the revision at which it changed, by id.
///
/// # Errors
/// As [`find`].
pub async fn drain_flags(conn: &mut SqliteConnection) -> Result<Vec<(String, bool, i64)>, StoreError> {
    Ok(
        sqlx::query_as("SELECT id, draining, settings_version FROM workers ORDER BY id")
            .fetch_all(conn)
            .await?,
    )
}

/// Stores a new worker; its id must be free. Its settings become a resource of the configuration.
///
/// # Errors
/// When the store cannot be written; the same holds for every writing function here.
pub async fn insert(
    tx: &mut WriteTx,
    identity: &WorkerIdentity,
    hostname: &str,
    certificate_expire_time: i64,
) -> Result<(), StoreError> {
    let version = tx
        .record(
            ResourceKind::WorkerSettings,
            &resource_name(&identity.worker),
            Operation::Upsert,
        )
        .await?;
    let now_ms = tx.now_ms();
    sqlx::query(
        "INSERT INTO workers (id, enrollment, hostname, settings_version, enroll_time, certificate_expire_time)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .bind(&identity.worker)
    .bind(&identity.enrollment)
    .bind(hostname)
    .bind(version)
    .bind(now_ms)
    .bind(certificate_expire_time)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Notes the end of the certificate a worker was given.
///
/// # Errors
/// As [`insert`].
pub async fn set_certificate_expiry(tx: &mut WriteTx, id: &str, expire_time: i64) -> Result<(), StoreError> {
    sqlx::query("UPDATE workers SET certificate_expire_time = ?2 WHERE id = ?1")
        .bind(id)
        .bind(expire_time)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Asks a worker to drain or to resume; reaches it as configuration. False when there is no such worker.
/// Asking for what is already so changes nothing.
///
/// # Errors
/// As [`insert`].
pub async fn set_draining(tx: &mut WriteTx, id: &str, draining: bool) -> Result<bool, StoreError> {
    let Some(worker) = find(tx.conn(), id).await? else {
        return Ok(false);
    };
    if worker.draining != draining {
        let version = tx
            .record(ResourceKind::WorkerSettings, &resource_name(id), Operation::Upsert)
            .await?;
        sqlx::query("UPDATE workers SET draining = ?2, settings_version = ?3 WHERE id = ?1")
            .bind(id)
            .bind(draining)
            .bind(version)
            .execute(tx.conn())
            .await?;
    }
    Ok(true)
}

/// Forgets a worker: its certificate is refused from now on. False when there is none.
///
/// # Errors
/// As [`insert`].
pub async fn delete(tx: &mut WriteTx, id: &str) -> Result<bool, StoreError> {
    let deleted = sqlx::query("DELETE FROM workers WHERE id = ?1")
        .bind(id)
        .execute(tx.conn())
        .await?;
    if deleted.rows_affected() == 0 {
        return Ok(false);
    }
    tx.record(ResourceKind::WorkerSettings, &resource_name(id), Operation::Remove)
        .await?;
    Ok(true)
}

/// Stores what a worker says of itself when it opens its stream.
///
/// # Errors
/// As [`insert`].
pub async fn greet(tx: &mut WriteTx, id: &str, greeting: &WorkerGreeting<'_>) -> Result<(), StoreError> {
    let now_ms = tx.now_ms();
    sqlx::query(
        "UPDATE workers SET hostname = ?2, software_version = ?3, media_tier = ?4, boot_id = ?5, boot_time = ?6,
           last_seen_time = ?7 WHERE id = ?1",
    )
    .bind(id)
    .bind(greeting.hostname)
    .bind(greeting.software_version)
    .bind(greeting.media_tier)
    .bind(greeting.boot_id)
    .bind(greeting.boot_time)
    .bind(now_ms)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores when a worker was last heard of and the revision it has in force.
///
/// # Errors
/// As [`insert`].
pub async fn seen(tx: &mut WriteTx, id: &str, last_seen_ms: i64, applied_revision: i64) -> Result<(), StoreError> {
    sqlx::query("UPDATE workers SET last_seen_time = ?2, applied_revision = ?3 WHERE id = ?1")
        .bind(id)
        .bind(last_seen_ms)
        .bind(applied_revision)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// What a worker refused.
///
/// # Errors
/// As [`find`].
pub async fn rejections(conn: &mut SqliteConnection, id: &str) -> Result<Vec<Rejection>, StoreError> {
    let rows: Vec<(i32, String, i64, String, i64)> = sqlx::query_as(
        "SELECT kind, name, version, error, time FROM worker_rejections WHERE worker = ?1 ORDER BY kind, name",
    )
    .bind(id)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(kind, name, version, error, time_ms)| Rejection {
            kind,
            name,
            version,
            error,
            time_ms,
        })
        .collect())
}

/// Replaces what a worker refused.
///
/// # Errors
/// As [`insert`]; also when the worker is gone.
pub async fn put_rejections(tx: &mut WriteTx, id: &str, rejections: &[Rejection]) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM worker_rejections WHERE worker = ?1")
        .bind(id)
        .execute(tx.conn())
        .await?;
    for rejection in rejections {
        sqlx::query(
            "INSERT INTO worker_rejections (worker, kind, name, version, error, time) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .bind(id)
        .bind(rejection.kind)
        .bind(&rejection.name)
        .bind(rejection.version)
        .bind(&rejection.error)
        .bind(rejection.time_ms)
        .execute(tx.conn())
        .await?;
    }
    Ok(())
}

/// Name of a worker's settings on the configuration stream.
pub fn resource_name(id: &str) -> String {
    format!("workers/{id}")
}
