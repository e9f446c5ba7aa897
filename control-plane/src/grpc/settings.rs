//! `SettingsService`.

use tonic::{Request, Response, Status};
use trunkline_proto::v1::{self, settings_service_server::SettingsService};

use super::{State, caller, status::status};
use crate::domain;

#[tonic::async_trait]
impl SettingsService for State {
    async fn get_settings(
        &self,
        request: Request<v1::GetSettingsRequest>,
    ) -> Result<Response<v1::GetSettingsResponse>, Status> {
        let settings = domain::settings::get(&self.store, &request.get_ref().name)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::GetSettingsResponse {
            settings: Some(settings),
        }))
    }

    async fn update_settings(
        &self,
        request: Request<v1::UpdateSettingsRequest>,
    ) -> Result<Response<v1::UpdateSettingsResponse>, Status> {
        let caller = caller(&request)?;
        domain::settings::update(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }
}
