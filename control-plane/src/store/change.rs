//! The revision and its change log.

use sqlx::SqliteConnection;
use trunkline_proto::dataplane::v1 as wire;

use super::StoreError;

/// Revisions the log goes back. A worker that was away for longer gets the difference from what it presents.
const LOG_DEPTH: i64 = 65_536;

/// Kinds of resources that workers receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// `trunks/{trunk}`.
    Trunk,
    /// `trunks/{trunk}/credentials/{credential}`.
    Credential,
    /// `trunks/{trunk}/lines/{line}`.
    Line,
    /// `routes/{route}`.
    Route,
    /// `trunks/{trunk}`: certificate and key of its listener.
    TlsIdentity,
    /// `settings` for what all workers share, `workers/{worker}` for one of them.
    WorkerSettings,
}

impl ResourceKind {
    const ALL: [Self; 6] = [
        Self::Trunk,
        Self::Credential,
        Self::Line,
        Self::Route,
        Self::TlsIdentity,
        Self::WorkerSettings,
    ];

    /// The kind on the configuration stream.
    pub fn to_wire(self) -> wire::ResourceType {
        match self {
            Self::Trunk => wire::ResourceType::Trunk,
            Self::Credential => wire::ResourceType::Credential,
            Self::Line => wire::ResourceType::Line,
            Self::Route => wire::ResourceType::Route,
            Self::TlsIdentity => wire::ResourceType::TlsIdentity,
            Self::WorkerSettings => wire::ResourceType::WorkerSettings,
        }
    }

    fn from_column(value: i64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| i64::from(kind.to_wire() as i32) == value)
    }
}

/// What happened to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Created or changed.
    Upsert,
    /// Gone.
    Remove,
}

/// One line of the change log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Kind of resource.
    pub kind: ResourceKind,
    /// Its name.
    pub name: String,
    /// What happened to it last.
    pub operation: Operation,
    /// Revision at which it happened.
    pub version: i64,
}

/// Answer of [`super::Store::changes_since`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangesSince {
    /// All of them, in the order of their revisions.
    Complete {
        /// Revision these changes lead to.
        revision: i64,
        /// Each resource at most once.
        changes: Vec<Change>,
    },
    /// The log does not go back that far, or the revision is of another store: compare everything instead.
    Truncated {
        /// Revision of the store now.
        revision: i64,
    },
}

pub(super) async fn current_revision(conn: &mut SqliteConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT value FROM revision WHERE id = 1")
        .fetch_one(conn)
        .await?)
}

pub(super) async fn next_revision(conn: &mut SqliteConnection) -> Result<i64, StoreError> {
    let revision: i64 = sqlx::query_scalar("UPDATE revision SET value = value + 1 WHERE id = 1 RETURNING value")
        .fetch_one(&mut *conn)
        .await?;
    if revision % 1024 == 0 {
        sqlx::query("DELETE FROM change_log WHERE revision <= ?1")
            .bind(revision - LOG_DEPTH)
            .execute(conn)
            .await?;
    }
    Ok(revision)
}

pub(super) async fn append(
    conn: &mut SqliteConnection,
    revision: i64,
    kind: ResourceKind,
    name: &str,
    operation: Operation,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO change_log (revision, kind, name, removed) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (revision, kind, name) DO UPDATE SET removed = excluded.removed",
    )
    .bind(revision)
    .bind(i64::from(kind.to_wire() as i32))
    .bind(name)
    .bind(operation == Operation::Remove)
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn since(
    conn: &mut SqliteConnection,
    revision: i64,
    current: i64,
) -> Result<ChangesSince, StoreError> {
    // Every revision has at least one line, so the first line kept says how far back the log goes.
    let first: Option<i64> = sqlx::query_scalar("SELECT MIN(revision) FROM change_log")
        .fetch_one(&mut *conn)
        .await?;
    let reaches_back = first.map_or(revision >= current, |first| revision + 1 >= first);
    if revision > current || revision < 0 || !reaches_back {
        return Ok(ChangesSince::Truncated { revision: current });
    }
    let rows: Vec<(i64, i64, String, bool)> = sqlx::query_as(
        // SQLite takes the bare column from the row of the maximum.
        "SELECT MAX(revision), kind, name, removed FROM change_log WHERE revision > ?1
         GROUP BY kind, name ORDER BY 1, 2, 3",
    )
    .bind(revision)
    .fetch_all(conn)
    .await?;
    let changes = rows
        .into_iter()
        .filter_map(|(version, kind, name, removed)| {
            let operation = if removed { Operation::Remove } else { Operation::Upsert };
            Some(Change {
                kind: ResourceKind::from_column(kind)?,
                name,
                operation,
                version,
            })
        })
        .collect();
    Ok(ChangesSince::Complete {
        revision: current,
        changes,
    })
}
