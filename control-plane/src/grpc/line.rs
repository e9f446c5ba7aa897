//! `LineService`.

use tonic::{Request, Response, Status};
use trunkline_proto::v1::{self, line_service_server::LineService};

use super::{State, caller, status::status};
use crate::domain;

#[tonic::async_trait]
impl LineService for State {
    async fn create_line(
        &self,
        request: Request<v1::CreateLineRequest>,
    ) -> Result<Response<v1::CreateLineResponse>, Status> {
        let caller = caller(&request)?;
        domain::line::create(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn get_line(&self, request: Request<v1::GetLineRequest>) -> Result<Response<v1::GetLineResponse>, Status> {
        let line = domain::line::get(&self.store, &request.get_ref().name)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::GetLineResponse { line: Some(line) }))
    }

    async fn list_lines(
        &self,
        request: Request<v1::ListLinesRequest>,
    ) -> Result<Response<v1::ListLinesResponse>, Status> {
        domain::line::list(&self.store, request.get_ref())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn update_line(
        &self,
        request: Request<v1::UpdateLineRequest>,
    ) -> Result<Response<v1::UpdateLineResponse>, Status> {
        let caller = caller(&request)?;
        domain::line::update(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn delete_line(
        &self,
        request: Request<v1::DeleteLineRequest>,
    ) -> Result<Response<v1::DeleteLineResponse>, Status> {
        let caller = caller(&request)?;
        domain::line::delete(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn reveal_line_password(
        &self,
        request: Request<v1::RevealLinePasswordRequest>,
    ) -> Result<Response<v1::RevealLinePasswordResponse>, Status> {
        let caller = caller(&request)?;
        let name = &request.get_ref().name;
        domain::line::reveal_password(&self.store, &caller, name)
            .await
            .map(Response::new)
            .map_err(status)
    }
}
