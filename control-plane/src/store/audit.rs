//! The audit log: append-only, newest read first.

use sqlx::SqliteConnection;
use trunkline_proto::v1;

use super::{StoreError, timestamp};
use crate::identity::Caller;

/// One audited action, before it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// `tokens/{token}`, `workers/{worker}` or `system`.
    pub actor: String,
    /// Address of the caller; empty for the system.
    pub source_address: String,
    /// Method name, e.g. `UpdateTrunk`.
    pub action: String,
    /// Name of the resource.
    pub resource: String,
    /// Paths of changed fields; secrets by name only.
    pub changed_fields: Vec<String>,
    /// `OK` or the gRPC code of the refusal.
    pub result: String,
}

impl AuditRecord {
    /// A successful action of `caller`.
    pub fn ok(caller: &Caller, action: &str, resource: &str, changed_fields: Vec<String>) -> Self {
        Self {
            actor: caller.actor.clone(),
            source_address: caller.source_text(),
            action: action.to_owned(),
            resource: resource.to_owned(),
            changed_fields,
            result: "OK".to_owned(),
        }
    }

    /// A refused one; `code` is the canonical name, e.g. `PERMISSION_DENIED`.
    pub fn refused(caller: &Caller, action: &str, resource: &str, code: &str) -> Self {
        Self {
            result: code.to_owned(),
            ..Self::ok(caller, action, resource, Vec::new())
        }
    }
}

pub(super) async fn append(
    conn: &mut SqliteConnection,
    record: &AuditRecord,
    revision: i64,
    now_ms: i64,
) -> Result<(), StoreError> {
    let AuditRecord {
        actor,
        source_address,
        action,
        resource,
        changed_fields,
        result,
    } = record;
    sqlx::query(
        "INSERT INTO audit_entries
           (create_time, actor, source_address, action, resource, revision, changed_fields, result)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )
    .bind(now_ms)
    .bind(actor)
    .bind(source_address)
    .bind(action)
    .bind(resource)
    .bind(revision)
    .bind(changed_fields.join("\n"))
    .bind(result)
    .execute(conn)
    .await?;
    Ok(())
}

/// Entries with an id below `before` (all when `None`), newest first; with `resource`, of it and of those below it.
///
/// # Errors
/// When the store cannot be read.
pub async fn list(
    conn: &mut SqliteConnection,
    before: Option<i64>,
    resource: Option<&str>,
    limit: u32,
) -> Result<Vec<(i64, v1::AuditEntry)>, StoreError> {
    type Row = (i64, i64, String, String, String, String, i64, String, String);
    let (from, until) = resource.map(super::names_below).unwrap_or_default();
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, create_time, actor, source_address, action, resource, revision, changed_fields, result
         FROM audit_entries
         WHERE id < ?1 AND (?2 IS NULL OR resource = ?2 OR (resource >= ?3 AND resource < ?4))
         ORDER BY id DESC LIMIT ?5",
    )
    .bind(before.unwrap_or(i64::MAX))
    .bind(resource)
    .bind(from)
    .bind(until)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    let entry = |(id, time, actor, source_address, action, resource, revision, fields, result): Row| {
        let entry = v1::AuditEntry {
            name: format!("auditEntries/{id}"),
            create_time: Some(timestamp(time)),
            actor,
            source_address,
            action,
            resource,
            revision,
            changed_fields: fields.lines().map(str::to_owned).collect(),
            result,
        };
        (id, entry)
    };
    Ok(rows.into_iter().map(entry).collect())
}
