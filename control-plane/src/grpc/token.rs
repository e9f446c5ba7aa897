//! `TokenService`.

use tonic::{Request, Response, Status};
use trunkline_proto::v1::{self, token_service_server::TokenService};

use super::{State, caller, status::status};
use crate::domain;

#[tonic::async_trait]
impl TokenService for State {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let caller = caller(&request)?;
        domain::token::create(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        domain::token::list(&self.store, request.get_ref())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn delete_token(
        &self,
        request: Request<v1::DeleteTokenRequest>,
    ) -> Result<Response<v1::DeleteTokenResponse>, Status> {
        let caller = caller(&request)?;
        domain::token::delete(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }
}
