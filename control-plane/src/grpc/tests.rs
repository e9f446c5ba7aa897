//! The services as callers meet them: clients of the contract, the role table, the domain and a store in a temporary
//! file; only the wire is left out.

mod configuration;
mod credentials;
mod operations;
mod rules;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::sync::broadcast;
use tonic::{
    Code, Request, Status,
    service::{Interceptor, Routes, interceptor::InterceptedService},
};
use tonic_types::StatusExt;
use trunkline_proto::v1::{
    self, audit_service_client::AuditServiceClient, call_service_client::CallServiceClient,
    digest_credential_service_client::DigestCredentialServiceClient, line_service_client::LineServiceClient,
    registration_service_client::RegistrationServiceClient, route_service_client::RouteServiceClient,
    settings_service_client::SettingsServiceClient, token_service_client::TokenServiceClient,
    trunk_service_client::TrunkServiceClient, worker_service_client::WorkerServiceClient,
};

use super::{CallFeed, CommandError, Live, LiveWorker, State, routes};
use crate::{
    identity::{Caller, Role},
    store::{KeyFile, Store, StoreError},
};

type Channel = InterceptedService<Routes, As>;

/// Puts a caller into every request, as authentication does.
#[derive(Clone)]
struct As(Caller);

impl Interceptor for As {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.extensions_mut().insert(self.0.clone());
        Ok(request)
    }
}

/// Workers as a test wants them.
struct ScriptedLive {
    workers: Mutex<Vec<(String, LiveWorker)>>,
    trunk_status: Mutex<v1::TrunkStatus>,
    hang_up: Mutex<Result<(), CommandError>>,
    hung_up: Mutex<Vec<(String, String)>>,
    active: Mutex<Vec<Arc<v1::Call>>>,
    changes: broadcast::Sender<Arc<v1::Call>>,
    deleted: Mutex<Vec<String>>,
}

#[tonic::async_trait]
impl Live for ScriptedLive {
    async fn worker(&self, id: &str) -> Option<LiveWorker> {
        let workers = self.workers.lock().unwrap();
        workers
            .iter()
            .find(|(name, _)| name == id)
            .map(|(_, worker)| worker.clone())
    }

    async fn trunk_status(&self, _trunk: &str) -> v1::TrunkStatus {
        self.trunk_status.lock().unwrap().clone()
    }

    async fn hang_up(&self, worker: &str, call: &str) -> Result<(), CommandError> {
        self.hung_up.lock().unwrap().push((worker.to_owned(), call.to_owned()));
        self.hang_up.lock().unwrap().clone()
    }

    async fn watch_calls(&self) -> Result<CallFeed, StoreError> {
        Ok(CallFeed {
            active: self.active.lock().unwrap().clone(),
            changes: self.changes.subscribe(),
        })
    }

    fn worker_deleted(&self, id: &str) {
        self.deleted.lock().unwrap().push(id.to_owned());
    }
}

struct Api {
    store: Store,
    live: Arc<ScriptedLive>,
    routes: Routes,
    directory: tempfile::TempDir,
}

impl Api {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("control.db"), KeyFile::from_key([9; 32]))
            .await
            .unwrap();
        let live = Arc::new(ScriptedLive {
            workers: Mutex::default(),
            trunk_status: Mutex::default(),
            hang_up: Mutex::new(Ok(())),
            hung_up: Mutex::default(),
            active: Mutex::default(),
            changes: broadcast::Sender::new(4),
            deleted: Mutex::default(),
        });
        let state = State {
            store: store.clone(),
            live: Arc::clone(&live) as Arc<dyn Live>,
        };
        let routes = routes(state).await;
        Self {
            store,
            live,
            routes,
            directory,
        }
    }

    fn channel(&self, role: Role) -> Channel {
        let actor = format!("tokens/{}", role.as_str());
        let caller = Caller {
            actor,
            role,
            source: Some("192.0.2.50".parse().unwrap()),
        };
        InterceptedService::new(self.routes.clone(), As(caller))
    }

    fn trunks(&self) -> TrunkServiceClient<Channel> {
        TrunkServiceClient::new(self.channel(Role::Operator))
    }

    fn lines(&self) -> LineServiceClient<Channel> {
        LineServiceClient::new(self.channel(Role::Operator))
    }

    fn routes(&self) -> RouteServiceClient<Channel> {
        RouteServiceClient::new(self.channel(Role::Operator))
    }

    fn credentials(&self) -> DigestCredentialServiceClient<Channel> {
        DigestCredentialServiceClient::new(self.channel(Role::Operator))
    }

    fn settings(&self) -> SettingsServiceClient<Channel> {
        SettingsServiceClient::new(self.channel(Role::Admin))
    }

    fn tokens(&self) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.channel(Role::Admin))
    }

    fn calls(&self) -> CallServiceClient<Channel> {
        CallServiceClient::new(self.channel(Role::Operator))
    }

    fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel(Role::Admin))
    }

    fn registrations(&self) -> RegistrationServiceClient<Channel> {
        RegistrationServiceClient::new(self.channel(Role::Operator))
    }

    async fn audit(&self, resource: &str) -> Vec<v1::AuditEntry> {
        let request = v1::ListAuditEntriesRequest {
            resource: resource.to_owned(),
            ..Default::default()
        };
        let mut client = AuditServiceClient::new(self.channel(Role::Viewer));
        client
            .list_audit_entries(request)
            .await
            .unwrap()
            .into_inner()
            .audit_entries
    }

    /// A trunk with nothing set but its display name and port.
    async fn trunk(&self, id: &str, port: u32) -> v1::Trunk {
        self.create(id, trunk(id, port)).await.unwrap()
    }

    async fn create(&self, id: &str, trunk: v1::Trunk) -> Result<v1::Trunk, Status> {
        let request = v1::CreateTrunkRequest {
            trunk_id: id.to_owned(),
            trunk: Some(trunk),
            ..Default::default()
        };
        Ok(self.trunks().create_trunk(request).await?.into_inner().trunk.unwrap())
    }

    async fn get(&self, id: &str) -> Result<v1::Trunk, Status> {
        let request = v1::GetTrunkRequest {
            name: format!("trunks/{id}"),
        };
        Ok(self.trunks().get_trunk(request).await?.into_inner().trunk.unwrap())
    }

    async fn update(&self, trunk: v1::Trunk, mask: &[&str]) -> Result<v1::Trunk, Status> {
        let request = v1::UpdateTrunkRequest {
            trunk: Some(trunk),
            update_mask: field_mask(mask),
            ..Default::default()
        };
        Ok(self.trunks().update_trunk(request).await?.into_inner().trunk.unwrap())
    }

    async fn credential(&self, trunk: &str, id: &str, password: &str) -> v1::DigestCredential {
        let request = create_credential(&format!("trunks/{trunk}"), id, id, password);
        self.credentials()
            .create_digest_credential(request)
            .await
            .unwrap()
            .into_inner()
            .digest_credential
            .unwrap()
    }

    /// Every file of the store, as it lies on the disk.
    fn disk(&self) -> Vec<u8> {
        let files: Vec<PathBuf> = std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(!files.is_empty());
        files.iter().flat_map(|path| std::fs::read(path).unwrap()).collect()
    }
}

fn trunk(display_name: &str, port: u32) -> v1::Trunk {
    v1::Trunk {
        display_name: display_name.to_owned(),
        listen_port: Some(port),
        ..Default::default()
    }
}

fn create_credential(parent: &str, id: &str, username: &str, password: &str) -> v1::CreateDigestCredentialRequest {
    v1::CreateDigestCredentialRequest {
        parent: parent.to_owned(),
        digest_credential_id: id.to_owned(),
        digest_credential: Some(v1::DigestCredential {
            username: username.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// No paths: no mask.
fn field_mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    (!paths.is_empty()).then_some(prost_types::FieldMask { paths })
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// Code and reason of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (
        status.code(),
        status.get_details_error_info().expect("an ErrorInfo").reason,
    )
}

/// Fields a refusal names, sorted.
fn violated<T: std::fmt::Debug>(result: Result<T, Status>) -> Vec<String> {
    let status = result.unwrap_err();
    let violations = status.get_details_bad_request().expect("a BadRequest").field_violations;
    let mut fields: Vec<String> = violations.into_iter().map(|violation| violation.field).collect();
    fields.sort();
    fields
}
