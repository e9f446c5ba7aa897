//! `WorkerService`.

use tonic::{Request, Response, Status};
use trunkline_proto::v1::{self, worker_service_server::WorkerService};

use super::{State, caller, status::status};
use crate::{
    domain,
    store::{timestamp, worker::WorkerRecord},
};

#[tonic::async_trait]
impl WorkerService for State {
    async fn get_worker(
        &self,
        request: Request<v1::GetWorkerRequest>,
    ) -> Result<Response<v1::GetWorkerResponse>, Status> {
        let record = domain::worker::get(&self.store, &request.get_ref().name)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::GetWorkerResponse {
            worker: Some(self.worker(record, Detail::Full).await),
        }))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let (records, next_page_token) = domain::worker::list(&self.store, request.get_ref())
            .await
            .map_err(status)?;
        let mut workers = Vec::with_capacity(records.len());
        for record in records {
            workers.push(self.worker(record, Detail::OutOfStep).await);
        }
        Ok(Response::new(v1::ListWorkersResponse {
            workers,
            next_page_token,
        }))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        let caller = caller(&request)?;
        let name = &request.get_ref().name;
        let record = domain::worker::set_draining(&self.store, &caller, name, true)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::DrainWorkerResponse {
            worker: Some(self.worker(record, Detail::Full).await),
        }))
    }

    async fn resume_worker(
        &self,
        request: Request<v1::ResumeWorkerRequest>,
    ) -> Result<Response<v1::ResumeWorkerResponse>, Status> {
        let caller = caller(&request)?;
        let name = &request.get_ref().name;
        let record = domain::worker::set_draining(&self.store, &caller, name, false)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::ResumeWorkerResponse {
            worker: Some(self.worker(record, Detail::Full).await),
        }))
    }

    async fn delete_worker(
        &self,
        request: Request<v1::DeleteWorkerRequest>,
    ) -> Result<Response<v1::DeleteWorkerResponse>, Status> {
        let caller = caller(&request)?;
        let id = domain::worker::delete(&self.store, &caller, &request.get_ref().name)
            .await
            .map_err(status)?;
        self.live.worker_deleted(id.as_str());
        Ok(Response::new(v1::DeleteWorkerResponse {}))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let caller = caller(&request)?;
        let answer = domain::worker::create_join_token(&self.store, &caller, request.into_inner()).await;
        answer.map(Response::new).map_err(status)
    }
}

/// Which resources of a worker are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Full,
    OutOfStep,
}

impl State {
    /// Record and live state put together.
    async fn worker(&self, record: WorkerRecord, detail: Detail) -> v1::Worker {
        let live = self.live.worker(&record.id).await;
        let connected = live.as_ref().is_some_and(|live| live.connected);
        // A worker that is away holds what it held, but nobody can say that it is in step.
        let sync_state = match &live {
            Some(live) if live.connected || live.sync_state == v1::SyncState::Error => live.sync_state,
            _ => v1::SyncState::Stale,
        };
        let live = live.unwrap_or_default();
        let mut resources = live.resources;
        if detail == Detail::OutOfStep {
            resources.retain(|resource| resource.state() != v1::SyncState::Synced);
        }
        v1::Worker {
            name: format!("workers/{}", record.id),
            hostname: record.hostname,
            version: record.software_version,
            connected,
            draining: record.draining,
            enroll_time: Some(timestamp(record.enroll_time)),
            last_seen_time: live.last_seen_ms.or(record.last_seen_time).map(timestamp),
            boot_time: record.boot_time.map(timestamp),
            certificate_expire_time: Some(timestamp(record.certificate_expire_time)),
            applied_revision: live.applied_revision.max(record.applied_revision),
            current_revision: self.store.revision(),
            sync_state: sync_state.into(),
            resources,
            active_calls: live.active_calls,
            media_tier: record.media_tier,
        }
    }
}
