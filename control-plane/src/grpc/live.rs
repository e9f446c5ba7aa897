//! What only the running workers know, as the API needs it.

use std::sync::Arc;

use tokio::sync::broadcast;
use trunkline_proto::v1;

use crate::store::StoreError;

/// The workers that are connected, and the calls as they go.
#[tonic::async_trait]
pub trait Live: Send + Sync + 'static {
    /// What is known of a worker beyond its record; `None` when it has not connected since this process started.
    async fn worker(&self, id: &str) -> Option<LiveWorker>;

    /// Listeners of `trunks/{trunk}` by worker, and its custom properties that no worker understands.
    async fn trunk_status(&self, trunk: &str) -> v1::TrunkStatus;

    /// Ends a call (conversation id) on a worker and waits for the worker's answer.
    ///
    /// # Errors
    /// See [`CommandError`].
    async fn hang_up(&self, worker: &str, call: &str) -> Result<(), CommandError>;

    /// The active calls now, and every change from here on, without a gap between the two.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn watch_calls(&self) -> Result<CallFeed, StoreError>;

    /// A worker was deleted: its stream has to end.
    fn worker_deleted(&self, id: &str);
}

/// A worker as it is now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LiveWorker {
    /// Stream open and heard of within three heartbeats.
    pub connected: bool,
    /// Last message, in milliseconds since 1970.
    pub last_seen_ms: Option<i64>,
    /// Revision it has applied.
    pub applied_revision: i64,
    /// Active calls.
    pub active_calls: u32,
    /// All resources taken together.
    pub sync_state: v1::SyncState,
    /// Each resource.
    pub resources: Vec<v1::ResourceSync>,
}

/// Why a command to a worker was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The worker is not connected.
    #[error("the worker is not connected")]
    Away,
    /// It did not answer in time.
    #[error("the worker did not answer in time")]
    TimedOut,
    /// It refused; its token, e.g. `NOT_FOUND`.
    #[error("the worker refused: {0}")]
    Refused(String),
}

/// Answer of [`Live::watch_calls`].
#[derive(Debug)]
pub struct CallFeed {
    /// Active calls at the start.
    pub active: Vec<Arc<v1::Call>>,
    /// Every change after it. Bounded: a reader that falls behind is told so and has to start again.
    pub changes: broadcast::Receiver<Arc<v1::Call>>,
}
