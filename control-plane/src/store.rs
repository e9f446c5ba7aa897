//! What the control plane keeps: configuration under one gap-free revision, and everything beside it.
//!
//! One writer, many readers (SQLite in WAL mode). A write transaction collects changes and audit rows; its commit bumps
//! the revision once when configuration changed, appends to the change log, and then publishes the revision to the
//! subscribers. Writes that change no configuration (reports, tokens, workers) leave the revision alone.
//!
//! ```ignore
//! let mut tx = store.write().await?;
//! trunk::insert(&mut tx, &trunk, None).await?;   // records the change
//! tx.audit(AuditRecord { … });
//! let revision = tx.commit().await?;
//! ```

pub mod audit;
mod behind;
pub mod call;
mod change;
pub mod credential;
pub mod installation;
pub mod join_token;
pub mod line;
pub mod registration;
pub mod report;
pub mod request_id;
pub mod route;
mod secret;
pub mod settings;
pub mod tls_identity;
pub mod token;
pub mod trunk;
pub mod worker;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{
    Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::watch;

pub use audit::AuditRecord;
pub(crate) use behind::{BindingNews, Taken};
pub use change::{Change, ChangesSince, Operation, ResourceKind};
pub use secret::{Cipher, KeyFile, SecretError};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long a request waits for the writer or for a reader before it is refused as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows of one statement where many are written: binding them costs more than the statement's way to the driver's thread,
/// and 100 rows of the widest table stay far below SQLite's 32,766 parameters.
const ROWS: usize = 100;

/// Readers beside the writer. Each is a thread of its own in the driver; reads are short.
const READERS: u32 = 4;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or the file could not be prepared.
    #[error("prepare the store at {path}")]
    Prepare {
        /// File of the store.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The schema could not be brought up to date, or is newer than this program.
    #[error("migrate the store")]
    Migrate(#[source] MigrateError),
    /// A statement failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A stored message is not what the schema says.
    #[error("decode stored {kind} {name}")]
    Decode {
        /// Kind of resource.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What the decoder said.
        #[source]
        source: prost::DecodeError,
    },
    /// A secret could not be sealed or opened.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The key file is not the one this store was written with.
    #[error("the key file does not belong to this store")]
    WrongKey,
    /// The task that commits ended early; whether the commit happened is unknown.
    #[error("the commit was interrupted")]
    Interrupted,
}

impl StoreError {
    /// Waiting for a connection took too long: worth another try.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::PoolTimedOut))
    }
}

/// Handle of the store; clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    writer: SqlitePool,
    readers: SqlitePool,
    revision: watch::Sender<i64>,
    cipher: Arc<Cipher>,
    behind: behind::Behind,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at `path`, creating file and schema when they are missing.
    ///
    /// # Errors
    /// [`StoreError::WrongKey`] when the store was written with another key file; [`StoreError::Migrate`] when the
    /// schema is newer than this program.
    pub async fn open(path: &Path, key: KeyFile) -> Result<Self, StoreError> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            tokio::fs::create_dir_all(directory)
                .await
                .map_err(|source| StoreError::Prepare {
                    path: path.to_owned(),
                    source,
                })?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Workers forget a report once it is acknowledged, so a commit must survive a power failure.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(ACQUIRE_TIMEOUT);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            // A file does not go away by itself, and asking costs a turn of the driver's thread each time.
            .test_before_acquire(false)
            .connect_with(options.clone())
            .await?;
        MIGRATIONS.run(&writer).await.map_err(StoreError::Migrate)?;
        let cipher = Arc::new(Cipher::new(&key));
        verify_key(&writer, &cipher).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options.read_only(true))
            .await?;
        let revision: i64 = sqlx::query_scalar("SELECT value FROM revision WHERE id = 1")
            .fetch_one(&readers)
            .await?;
        let inner = Inner {
            writer,
            readers,
            revision: watch::Sender::new(revision),
            cipher,
            behind: behind::Behind::new(),
        };
        let store = Self { inner: Arc::new(inner) };
        store.replay_log().await?;
        Ok(store)
    }

    /// Revision of the configuration now.
    pub fn revision(&self) -> i64 {
        *self.inner.revision.borrow()
    }

    /// Sees every later revision, coalesced: a slow subscriber sees the newest.
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.inner.revision.subscribe()
    }

    /// Seals and opens secrets with the key file.
    pub fn cipher(&self) -> &Arc<Cipher> {
        &self.inner.cipher
    }

    /// A consistent view: everything read through it belongs to one revision.
    ///
    /// # Errors
    /// See [`StoreError::is_busy`].
    pub async fn read(&self) -> Result<ReadTx, StoreError> {
        let mut tx = self.inner.readers.begin().await?;
        // The first statement fixes the view.
        let revision = change::current_revision(&mut tx).await?;
        Ok(ReadTx {
            tx,
            revision,
            cipher: Arc::clone(&self.inner.cipher),
        })
    }

    /// The write transaction; there is one at a time. Dropped without [`WriteTx::commit`], it changes nothing.
    ///
    /// # Errors
    /// See [`StoreError::is_busy`].
    pub async fn write(&self) -> Result<WriteTx, StoreError> {
        let tx = self.inner.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(WriteTx {
            tx,
            store: self.clone(),
            now_ms: now_ms(),
            revision: None,
            audits: Vec::new(),
        })
    }

    /// What changed after `revision`, each resource once, with its latest operation.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn changes_since(&self, revision: i64) -> Result<ChangesSince, StoreError> {
        let mut view = self.read().await?;
        let current = view.revision();
        change::since(view.conn(), revision, current).await
    }

    /// Closes all connections after the running statements; the write-ahead log is folded into the file.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }
}

/// A consistent view of the store.
pub struct ReadTx {
    tx: Transaction<'static, Sqlite>,
    revision: i64,
    cipher: Arc<Cipher>,
}

impl ReadTx {
    /// Revision this view shows.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Connection for the functions of the resource modules.
    pub fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }

    /// Opens the secrets of the rows.
    pub fn cipher(&self) -> Arc<Cipher> {
        Arc::clone(&self.cipher)
    }

    /// What changed between `revision` and this view, as [`Store::changes_since`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn changes_since(&mut self, revision: i64) -> Result<ChangesSince, StoreError> {
        change::since(&mut self.tx, revision, self.revision).await
    }
}

/// The write transaction.
pub struct WriteTx {
    tx: Transaction<'static, Sqlite>,
    store: Store,
    now_ms: i64,
    revision: Option<i64>,
    audits: Vec<AuditRecord>,
}

impl WriteTx {
    /// Connection for the functions of the resource modules.
    pub fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }

    /// Time of this transaction, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Seals and opens the secrets of the rows.
    pub fn cipher(&self) -> Arc<Cipher> {
        Arc::clone(&self.store.inner.cipher)
    }

    /// Notes a change of configuration; answers the revision it belongs to, which is the resource's new version.
    /// All changes of a transaction share one revision.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn record(&mut self, kind: ResourceKind, name: &str, operation: Operation) -> Result<i64, StoreError> {
        let revision = match self.revision {
            Some(revision) => revision,
            None => *self.revision.insert(change::next_revision(&mut self.tx).await?),
        };
        change::append(&mut self.tx, revision, kind, name, operation).await?;
        Ok(revision)
    }

    /// Adds an audit row; it carries the revision of this transaction and is stored with its commit.
    pub fn audit(&mut self, record: AuditRecord) {
        self.audits.push(record);
    }

    /// Makes everything durable, then publishes the revision. Answers the revision in force afterwards.
    ///
    /// The commit runs to its end even when the caller goes away: a revision that is stored is always published.
    ///
    /// # Errors
    /// When the commit failed: then nothing was stored.
    pub async fn commit(self) -> Result<i64, StoreError> {
        let task = tokio::spawn(async move {
            let Self {
                mut tx,
                store,
                now_ms,
                revision,
                audits,
            } = self;
            for record in &audits {
                audit::append(&mut tx, record, revision.unwrap_or(0), now_ms).await?;
            }
            tx.commit().await?;
            if let Some(revision) = revision {
                // Commits finish out of order only in the scheduler, never in the database.
                store.inner.revision.send_if_modified(|published| {
                    let newer = revision > *published;
                    *published = revision.max(*published);
                    newer
                });
            }
            Ok(store.revision())
        });
        task.await.map_err(|_| StoreError::Interrupted)?
    }

    /// Undoes everything; the same as dropping, but done when this returns.
    ///
    /// # Errors
    /// When the connection is gone; the effect is the same.
    pub async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.tx.rollback().await?)
    }
}

/// Milliseconds since 1970 by the system's clock.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A stored message and the revision at which it last changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<M> {
    /// The message with effective values, name, etag and times; without secrets.
    pub message: M,
    /// Revision at which it last changed.
    pub version: i64,
}

/// The etag of a resource: it changes with every write, because every write has its own revision.
pub fn etag(version: i64) -> String {
    format!("{version:016x}")
}

/// The half-open range of names below `prefix`, for index scans: `prefix/` up to but excluding `prefix0`, the next text.
fn names_below(prefix: &str) -> (String, String) {
    (format!("{prefix}/"), format!("{prefix}0"))
}

pub(crate) fn timestamp(ms: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    prost_types::Timestamp {
        seconds: ms.div_euclid(1000),
        nanos,
    }
}

async fn verify_key(writer: &SqlitePool, cipher: &Cipher) -> Result<(), StoreError> {
    const TEXT: &[u8] = b"trunkline";
    let stored: Option<Vec<u8>> = sqlx::query_scalar("SELECT sealed FROM key_check WHERE id = 1")
        .fetch_optional(writer)
        .await?;
    match stored {
        Some(sealed) => match cipher.open("key_check", &sealed) {
            Ok(text) if text.as_slice() == TEXT => Ok(()),
            _ => Err(StoreError::WrongKey),
        },
        None => {
            let sealed = cipher.seal("key_check", TEXT)?;
            sqlx::query("INSERT INTO key_check (id, sealed) VALUES (1, ?1)")
                .bind(sealed)
                .execute(writer)
                .await?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
