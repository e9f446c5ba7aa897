//! The public API: decode → domain → encode. What may be asked is decided in `domain`; who may ask, in [`role`].
//!
//! Every service here is thin: it reads the caller, runs one use-case, adds what only the running workers know
//! ([`Live`]), and turns refusals into statuses by the one table in [`status`].

mod audit;
mod call;
mod credential;
mod line;
mod live;
mod registration;
pub mod role;
mod route;
mod settings;
pub mod status;
mod token;
mod trunk;
mod worker;

use std::sync::Arc;

use axum::middleware;
use tonic::{Request, Status, service::Routes};
use trunkline_proto::{FILE_DESCRIPTOR_SET, v1};

pub use live::{CallFeed, CommandError, Live, LiveWorker};

use crate::{identity::Caller, store::Store};

/// Largest request: an access list may hold 100,000 entries each way.
const MAX_REQUEST: usize = 16 * 1024 * 1024;

/// What the services work on; clones share it.
#[derive(Clone)]
pub struct State {
    /// The store.
    pub store: Store,
    /// The running workers.
    pub live: Arc<dyn Live>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// All services of the API listener, with reflection (v1 and v1alpha) and health, behind the role table.
///
/// Authentication goes in front of it: a request must carry a [`Caller`] among its extensions.
///
/// # Panics
/// Never: the descriptors were written by the build.
pub async fn routes(state: State) -> Routes {
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<v1::trunk_service_server::TrunkServiceServer<State>>()
        .await;
    let mut routes = Routes::builder();
    routes
        .add_service(v1::audit_service_server::AuditServiceServer::new(state.clone()))
        .add_service(v1::call_service_server::CallServiceServer::new(state.clone()))
        .add_service(
            v1::digest_credential_service_server::DigestCredentialServiceServer::new(state.clone())
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(v1::line_service_server::LineServiceServer::new(state.clone()))
        .add_service(v1::registration_service_server::RegistrationServiceServer::new(
            state.clone(),
        ))
        .add_service(v1::route_service_server::RouteServiceServer::new(state.clone()))
        .add_service(v1::settings_service_server::SettingsServiceServer::new(state.clone()))
        .add_service(v1::token_service_server::TokenServiceServer::new(state.clone()))
        .add_service(
            v1::trunk_service_server::TrunkServiceServer::new(state.clone()).max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(v1::worker_service_server::WorkerServiceServer::new(state.clone()))
        .add_service(health_service)
        .add_service(reflection().build_v1().expect("the build wrote these descriptors"))
        .add_service(reflection().build_v1alpha().expect("the build wrote these descriptors"));
    let authority = role::Authority::new(state.store);
    let router = routes.routes().into_axum_router();
    Routes::from(router.layer(middleware::from_fn_with_state(authority, role::authorize)))
}

/// The public API and health; what workers use is served on their own listener.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let public = role::public_services()
        .into_iter()
        .chain(["grpc.health.v1.Health".to_owned()]);
    public.fold(builder, |builder, service| builder.with_service_name(service))
}

/// The caller that authentication put there.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Status::unauthenticated("a valid bearer token is needed"))
}

#[cfg(test)]
mod tests;
