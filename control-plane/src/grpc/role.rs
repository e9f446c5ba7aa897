//! Which role each method needs, and the layer that asks for it.
//!
//! The table is closed: a method that is not in it is refused, whoever calls. A test compares it with the contract.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tonic::Status;
use tracing::{error, info};

use super::status::{code_name, status};
use crate::{
    domain::{self, Error},
    identity::{Caller, Role},
    store::Store,
};

/// The smallest role for each method of the public API, by `service/method` below `trunkline.v1`.
#[rustfmt::skip]
const METHODS: &[(&str, Role)] = &[
    ("AuditService/ListAuditEntries", Role::Viewer),
    ("CallService/GetCall", Role::Viewer),
    ("CallService/HangUpCall", Role::Operator),
    ("CallService/ListCalls", Role::Viewer),
    ("CallService/WatchCalls", Role::Viewer),
    ("DigestCredentialService/BatchCreateDigestCredentials", Role::Operator),
    ("DigestCredentialService/CreateDigestCredential", Role::Operator),
    ("DigestCredentialService/DeleteDigestCredential", Role::Operator),
    ("DigestCredentialService/GetDigestCredential", Role::Viewer),
    ("DigestCredentialService/ListDigestCredentials", Role::Viewer),
    ("DigestCredentialService/RevealDigestCredentialPassword", Role::Admin),
    ("DigestCredentialService/UpdateDigestCredential", Role::Operator),
    ("LineService/CreateLine", Role::Operator),
    ("LineService/DeleteLine", Role::Operator),
    ("LineService/GetLine", Role::Viewer),
    ("LineService/ListLines", Role::Viewer),
    ("LineService/RevealLinePassword", Role::Admin),
    ("LineService/UpdateLine", Role::Operator),
    ("RegistrationService/GetRegistration", Role::Viewer),
    ("RegistrationService/ListRegistrations", Role::Viewer),
    ("RegistrationService/Unregister", Role::Operator),
    ("RouteService/CreateRoute", Role::Operator),
    ("RouteService/DeleteRoute", Role::Operator),
    ("RouteService/GetRoute", Role::Viewer),
    ("RouteService/ListRoutes", Role::Viewer),
    ("RouteService/UpdateRoute", Role::Operator),
    ("SettingsService/GetSettings", Role::Viewer),
    ("SettingsService/UpdateSettings", Role::Admin),
    ("TokenService/CreateToken", Role::Admin),
    ("TokenService/DeleteToken", Role::Admin),
    ("TokenService/ListTokens", Role::Admin),
    ("TrunkService/CreateTrunk", Role::Operator),
    ("TrunkService/DeleteTrunk", Role::Operator),
    ("TrunkService/ExplainAccess", Role::Viewer),
    ("TrunkService/GetTrunk", Role::Viewer),
    ("TrunkService/ListTrunks", Role::Viewer),
    ("TrunkService/UpdateTrunk", Role::Operator),
    ("WorkerService/CreateJoinToken", Role::Admin),
    ("WorkerService/DeleteWorker", Role::Admin),
    ("WorkerService/DrainWorker", Role::Operator),
    ("WorkerService/GetWorker", Role::Viewer),
    ("WorkerService/ListWorkers", Role::Viewer),
    ("WorkerService/ResumeWorker", Role::Operator),
];

/// Services beside the public API that any authenticated caller may use.
const OPEN: &[&str] = &[
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The smallest role that may call the method at `path` (`/package.Service/Method`); `None`: nobody may.
pub fn needed(path: &str) -> Option<Role> {
    let path = path.strip_prefix('/')?;
    if let Some(method) = path.strip_prefix("trunkline.v1.") {
        return METHODS.iter().find(|(name, _)| *name == method).map(|(_, role)| *role);
    }
    let (service, _method) = path.split_once('/')?;
    OPEN.contains(&service).then_some(Role::Viewer)
}

/// Full names of the services of the public API, in order.
pub(super) fn public_services() -> Vec<String> {
    let mut services: Vec<String> = METHODS
        .iter()
        .filter_map(|(name, _)| Some(format!("trunkline.v1.{}", name.split_once('/')?.0)))
        .collect();
    services.dedup();
    services
}

/// What [`authorize`] needs: the store for the audit log, and a memory of what was noted there lately.
#[derive(Debug, Clone)]
pub(super) struct Authority {
    store: Store,
    denials: Arc<Denials>,
}

impl Authority {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            denials: Arc::default(),
        }
    }
}

/// Lets a request pass whose caller's role suffices; notes the others in the audit log.
pub(super) async fn authorize(State(authority): State<Authority>, request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>() else {
        return Status::unauthenticated("a valid bearer token is needed").into_http();
    };
    let path = request.uri().path();
    let needed = needed(path);
    if needed.is_some_and(|needed| caller.role >= needed) {
        return next.run(request).await;
    }
    let action = path.rsplit_once('/').map_or(path, |(_, method)| method);
    info!(
        actor = caller.actor,
        role = caller.role.as_str(),
        action,
        "refused: role too small"
    );
    let refusal = status(Error::PermissionDenied {
        needed: needed.unwrap_or(Role::Admin),
    });
    if needed.is_some() && authority.denials.first(&caller.actor, action) {
        let code = code_name(refusal.code());
        if let Err(error) = domain::audit::note_refusal(&authority.store, caller, action, "", code).await {
            error!(
                error = &error as &dyn std::error::Error,
                "note a refusal in the audit log"
            );
        }
    }
    refusal.into_http()
}

/// Keeps a caller that is refused over and over from filling the audit log.
#[derive(Debug, Default)]
struct Denials {
    noted: Mutex<HashMap<(String, String), Instant>>,
}

impl Denials {
    /// The same refusal is noted once in this time.
    const QUIET: Duration = Duration::from_secs(60);
    /// Pairs of actor and method remembered; tokens are made by admins, so this is not within a caller's reach.
    const REMEMBERED: usize = 4096;

    fn first(&self, actor: &str, action: &str) -> bool {
        let now = Instant::now();
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= Self::REMEMBERED {
            noted.retain(|_, time| now.duration_since(*time) < Self::QUIET);
        }
        let key = (actor.to_owned(), action.to_owned());
        match noted.get(&key) {
            Some(time) if now.duration_since(*time) < Self::QUIET => false,
            _ if noted.len() >= Self::REMEMBERED => false,
            _ => {
                noted.insert(key, now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;

    #[test]
    fn the_table_covers_the_contract_and_nothing_else() {
        let set = prost_types::FileDescriptorSet::decode(trunkline_proto::FILE_DESCRIPTOR_SET).unwrap();
        let contract: BTreeSet<String> = set
            .file
            .iter()
            .filter(|file| file.package() == "trunkline.v1")
            .flat_map(|file| &file.service)
            .flat_map(|service| {
                service
                    .method
                    .iter()
                    .map(|method| format!("{}/{}", service.name(), method.name()))
            })
            .collect();
        let table: BTreeSet<String> = METHODS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(table, contract);
        assert_eq!(METHODS.len(), table.len(), "no method twice");
    }

    #[test]
    fn methods_that_only_read_are_for_viewers_and_secrets_for_admins() {
        for (name, role) in METHODS {
            let method = name.split_once('/').unwrap().1;
            let reads = ["Get", "List", "Watch", "Explain"]
                .iter()
                .any(|verb| method.starts_with(verb));
            let secret = [
                "Reveal",
                "CreateToken",
                "DeleteToken",
                "ListTokens",
                "CreateJoinToken",
                "UpdateSettings",
            ]
            .iter()
            .any(|verb| method.starts_with(verb));
            match (secret, reads) {
                (true, _) => assert_eq!(*role, Role::Admin, "{name}"),
                (false, true) => assert_eq!(*role, Role::Viewer, "{name}"),
                (false, false) => assert!(*role >= Role::Operator, "{name}"),
            }
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_for_nobody() {
        assert_eq!(needed("/trunkline.v1.TrunkService/CreateTrunk"), Some(Role::Operator));
        assert_eq!(
            needed("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
            Some(Role::Viewer)
        );
        for path in [
            "/trunkline.v1.TrunkService/DropAll",
            "/trunkline.dataplane.v1.X/Y",
            "/",
            "",
            "/x",
        ] {
            assert_eq!(needed(path), None, "{path}");
        }
    }

    #[test]
    fn a_repeated_refusal_is_noted_once() {
        let denials = Denials::default();
        assert!(denials.first("tokens/a", "CreateTrunk"));
        assert!(!denials.first("tokens/a", "CreateTrunk"));
        assert!(denials.first("tokens/a", "DeleteTrunk"));
        assert!(denials.first("tokens/b", "CreateTrunk"));
    }
}
