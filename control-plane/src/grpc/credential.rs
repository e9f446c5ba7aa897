//! `DigestCredentialService`.

use tonic::{Request, Response, Status};
use trunkline_proto::v1::{self, digest_credential_service_server::DigestCredentialService};

use super::{State, caller, status::status};
use crate::domain;

#[tonic::async_trait]
impl DigestCredentialService for State {
    async fn create_digest_credential(
        &self,
        request: Request<v1::CreateDigestCredentialRequest>,
    ) -> Result<Response<v1::CreateDigestCredentialResponse>, Status> {
        let caller = caller(&request)?;
        domain::credential::create(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn get_digest_credential(
        &self,
        request: Request<v1::GetDigestCredentialRequest>,
    ) -> Result<Response<v1::GetDigestCredentialResponse>, Status> {
        let digest_credential = domain::credential::get(&self.store, &request.get_ref().name)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::GetDigestCredentialResponse {
            digest_credential: Some(digest_credential),
        }))
    }

    async fn list_digest_credentials(
        &self,
        request: Request<v1::ListDigestCredentialsRequest>,
    ) -> Result<Response<v1::ListDigestCredentialsResponse>, Status> {
        domain::credential::list(&self.store, request.get_ref())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn update_digest_credential(
        &self,
        request: Request<v1::UpdateDigestCredentialRequest>,
    ) -> Result<Response<v1::UpdateDigestCredentialResponse>, Status> {
        let caller = caller(&request)?;
        domain::credential::update(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn delete_digest_credential(
        &self,
        request: Request<v1::DeleteDigestCredentialRequest>,
    ) -> Result<Response<v1::DeleteDigestCredentialResponse>, Status> {
        let caller = caller(&request)?;
        domain::credential::delete(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn batch_create_digest_credentials(
        &self,
        request: Request<v1::BatchCreateDigestCredentialsRequest>,
    ) -> Result<Response<v1::BatchCreateDigestCredentialsResponse>, Status> {
        let caller = caller(&request)?;
        domain::credential::batch_create(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn reveal_digest_credential_password(
        &self,
        request: Request<v1::RevealDigestCredentialPasswordRequest>,
    ) -> Result<Response<v1::RevealDigestCredentialPasswordResponse>, Status> {
        let caller = caller(&request)?;
        let name = &request.get_ref().name;
        domain::credential::reveal_password(&self.store, &caller, name)
            .await
            .map(Response::new)
            .map_err(status)
    }
}
