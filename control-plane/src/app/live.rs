//! What the API asks of the running workers, answered by the parts that know.

use trunkline_proto::v1;

use crate::{
    grpc::{CallFeed, CommandError, Live, LiveWorker},
    store::{Store, StoreError},
    stream::{self, Fleet, WorkerState},
};

/// See [`Live`].
#[derive(Debug)]
pub(super) struct LiveState {
    pub(super) store: Store,
    pub(super) fleet: Fleet,
}

#[tonic::async_trait]
impl Live for LiveState {
    async fn worker(&self, id: &str) -> Option<LiveWorker> {
        let WorkerState {
            connected,
            last_seen_ms,
            applied_revision,
            active_calls,
            sync_state,
            resources,
        } = self.fleet.worker(id)?;
        Some(LiveWorker {
            connected,
            last_seen_ms,
            applied_revision,
            active_calls,
            sync_state,
            resources,
        })
    }

    async fn trunk_status(&self, trunk: &str) -> v1::TrunkStatus {
        self.fleet.trunk_status(trunk)
    }

    async fn hang_up(&self, worker: &str, call: &str) -> Result<(), CommandError> {
        let worker = worker.strip_prefix("workers/").unwrap_or(worker);
        self.fleet.hang_up(worker, call).await.map_err(|error| match error {
            stream::CommandError::Away => CommandError::Away,
            stream::CommandError::TimedOut => CommandError::TimedOut,
            stream::CommandError::Refused(token) => CommandError::Refused(token),
        })
    }

    async fn watch_calls(&self) -> Result<CallFeed, StoreError> {
        let (active, changes) = self.store.watch_calls().await?;
        Ok(CallFeed { active, changes })
    }

    fn worker_deleted(&self, id: &str) {
        self.fleet.forget(id);
    }
}
