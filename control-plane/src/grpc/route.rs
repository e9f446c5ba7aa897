//! `RouteService`.

use tonic::{Request, Response, Status};
use trunkline_proto::v1::{self, route_service_server::RouteService};

use super::{State, caller, status::status};
use crate::domain;

#[tonic::async_trait]
impl RouteService for State {
    async fn create_route(
        &self,
        request: Request<v1::CreateRouteRequest>,
    ) -> Result<Response<v1::CreateRouteResponse>, Status> {
        let caller = caller(&request)?;
        domain::route::create(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn get_route(&self, request: Request<v1::GetRouteRequest>) -> Result<Response<v1::GetRouteResponse>, Status> {
        let route = domain::route::get(&self.store, &request.get_ref().name)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::GetRouteResponse { route: Some(route) }))
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Result<Response<v1::ListRoutesResponse>, Status> {
        domain::route::list(&self.store, request.get_ref())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn update_route(
        &self,
        request: Request<v1::UpdateRouteRequest>,
    ) -> Result<Response<v1::UpdateRouteResponse>, Status> {
        let caller = caller(&request)?;
        domain::route::update(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn delete_route(
        &self,
        request: Request<v1::DeleteRouteRequest>,
    ) -> Result<Response<v1::DeleteRouteResponse>, Status> {
        let caller = caller(&request)?;
        domain::route::delete(&self.store, &caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }
}
