//! `TrunkService`.

use tonic::{Request, Response, Status};
use trunkline_proto::v1::{self, trunk_service_server::TrunkService};

use super::{State, caller, status::status};
use crate::domain;

#[tonic::async_trait]
impl TrunkService for State {
    async fn create_trunk(
        &self,
        request: Request<v1::CreateTrunkRequest>,
    ) -> Result<Response<v1::CreateTrunkResponse>, Status> {
        let caller = caller(&request)?;
        let answer = domain::trunk::create(&self.store, &caller, request.into_inner())
            .await
            .map_err(status)?;
        let trunk = self.complete_optional(answer.trunk).await;
        Ok(Response::new(v1::CreateTrunkResponse { trunk }))
    }

    async fn get_trunk(&self, request: Request<v1::GetTrunkRequest>) -> Result<Response<v1::GetTrunkResponse>, Status> {
        let trunk = domain::trunk::get(&self.store, &request.get_ref().name)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::GetTrunkResponse {
            trunk: Some(self.complete(trunk).await),
        }))
    }

    async fn list_trunks(
        &self,
        request: Request<v1::ListTrunksRequest>,
    ) -> Result<Response<v1::ListTrunksResponse>, Status> {
        let page = domain::trunk::list(&self.store, request.get_ref())
            .await
            .map_err(status)?;
        let mut trunks = Vec::with_capacity(page.trunks.len());
        for trunk in page.trunks {
            trunks.push(self.complete(trunk).await);
        }
        Ok(Response::new(v1::ListTrunksResponse { trunks, ..page }))
    }

    async fn update_trunk(
        &self,
        request: Request<v1::UpdateTrunkRequest>,
    ) -> Result<Response<v1::UpdateTrunkResponse>, Status> {
        let caller = caller(&request)?;
        let answer = domain::trunk::update(&self.store, &caller, request.into_inner())
            .await
            .map_err(status)?;
        let trunk = self.complete_optional(answer.trunk).await;
        Ok(Response::new(v1::UpdateTrunkResponse { trunk }))
    }

    async fn delete_trunk(
        &self,
        request: Request<v1::DeleteTrunkRequest>,
    ) -> Result<Response<v1::DeleteTrunkResponse>, Status> {
        let caller = caller(&request)?;
        let answer = domain::trunk::delete(&self.store, &caller, request.into_inner())
            .await
            .map_err(status)?;
        Ok(Response::new(answer))
    }

    async fn explain_access(
        &self,
        request: Request<v1::ExplainAccessRequest>,
    ) -> Result<Response<v1::ExplainAccessResponse>, Status> {
        domain::access::explain(&self.store, request.get_ref())
            .await
            .map(Response::new)
            .map_err(status)
    }
}

impl State {
    /// Adds what is worked out when a trunk is shown: warnings and status.
    async fn complete(&self, trunk: v1::Trunk) -> v1::Trunk {
        v1::Trunk {
            warnings: domain::trunk::warnings(&trunk),
            status: Some(self.live.trunk_status(&trunk.name).await),
            ..trunk
        }
    }

    async fn complete_optional(&self, trunk: Option<v1::Trunk>) -> Option<v1::Trunk> {
        match trunk {
            Some(trunk) => Some(self.complete(trunk).await),
            None => None,
        }
    }
}
