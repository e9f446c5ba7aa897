//! `RegistrationService`.

use tonic::{Request, Response, Status};
use trunkline_proto::v1::{self, registration_service_server::RegistrationService};

use super::{State, caller, status::status};
use crate::domain;

#[tonic::async_trait]
impl RegistrationService for State {
    async fn get_registration(
        &self,
        request: Request<v1::GetRegistrationRequest>,
    ) -> Result<Response<v1::GetRegistrationResponse>, Status> {
        let registration = domain::registration::get(&self.store, &request.get_ref().name)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::GetRegistrationResponse {
            registration: Some(registration),
        }))
    }

    async fn list_registrations(
        &self,
        request: Request<v1::ListRegistrationsRequest>,
    ) -> Result<Response<v1::ListRegistrationsResponse>, Status> {
        domain::registration::list(&self.store, request.get_ref())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn unregister(
        &self,
        request: Request<v1::UnregisterRequest>,
    ) -> Result<Response<v1::UnregisterResponse>, Status> {
        let caller = caller(&request)?;
        let name = &request.get_ref().name;
        let answer = domain::registration::unregister(&self.store, &caller, name)
            .await
            .map_err(status)?;
        Ok(Response::new(answer))
    }
}
