//! `AuditService`.

use tonic::{Request, Response, Status};
use trunkline_proto::v1::{self, audit_service_server::AuditService};

use super::{State, status::status};
use crate::domain;

#[tonic::async_trait]
impl AuditService for State {
    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        domain::audit::list(&self.store, request.get_ref())
            .await
            .map(Response::new)
            .map_err(status)
    }
}
