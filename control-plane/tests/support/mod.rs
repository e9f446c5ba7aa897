//! A control plane in this process, API clients, and workers that do what a test tells them, over real loopback TLS.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{future::Future, path::Path, time::Duration};

use clap::Parser as _;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use trunkline_control::{app::App, options::Options, stream::session::Limits};
use trunkline_proto::{
    dataplane::v1::{
        ConfigurationPush, EnrollRequest, EnrollResponse, HeldResource, Hello, PushResult, Resource, ResourceKey,
        ResourceRejection, StreamConfigurationRequest, StreamConfigurationResponse, WorkerHeartbeat,
        configuration_service_client::ConfigurationServiceClient, enrollment_service_client::EnrollmentServiceClient,
        stream_configuration_request::Message as ToControl, stream_configuration_response::Message as FromControl,
    },
    v1::{self, trunk_service_client::TrunkServiceClient, worker_service_client::WorkerServiceClient},
};

/// Nothing here takes this long; a test that waits this long has failed.
pub const BOUND: Duration = Duration::from_secs(20);

/// A control plane with its state directory.
pub struct Control {
    pub directory: TempDir,
    pub app: App,
    limits: Limits,
}

impl Control {
    pub async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub async fn start_with(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let app = App::start(&options(directory.path(), limits)).await.unwrap();
        Self { directory, app, limits }
    }

    /// Goes down and comes back over the same state.
    pub async fn restart(self) -> Self {
        let Self { directory, app, limits } = self;
        within(app.stop(std::future::pending())).await;
        let app = App::start(&options(directory.path(), limits)).await.unwrap();
        Self { directory, app, limits }
    }

    /// Another control plane on what is on disk now, as if this one had been killed.
    pub async fn crash(self) -> Self {
        let Self { directory, app, limits } = self;
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        within(app.stop(std::future::ready(()))).await;
        let app = App::start(&options(copy.path(), limits)).await.unwrap();
        Self {
            directory: copy,
            app,
            limits,
        }
    }

    pub fn ca(&self) -> Certificate {
        Certificate::from_pem(std::fs::read(self.directory.path().join("ca.pem")).unwrap())
    }

    pub fn admin_token(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("admin.token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    pub async fn api_channel(&self) -> Channel {
        let endpoint = format!("https://localhost:{}", self.app.api.port());
        connect(&endpoint, ClientTlsConfig::new().ca_certificate(self.ca())).await
    }

    pub async fn trunks(&self) -> TrunkServiceClient<Api> {
        TrunkServiceClient::with_interceptor(self.api_channel().await, Bearer(self.admin_token()))
    }

    pub async fn workers(&self) -> WorkerServiceClient<Api> {
        WorkerServiceClient::with_interceptor(self.api_channel().await, Bearer(self.admin_token()))
    }

    pub async fn join_token(&self) -> String {
        let request = v1::CreateJoinTokenRequest { ttl: None, max_uses: 1 };
        self.workers()
            .await
            .create_join_token(request)
            .await
            .unwrap()
            .into_inner()
            .token
    }

    /// A channel to the data-plane port, with a client certificate or without.
    pub async fn worker_channel(&self, identity: Option<Identity>) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(self.ca());
        let tls = match identity {
            Some(identity) => tls.identity(identity),
            None => tls,
        };
        connect(&format!("https://localhost:{}", self.app.worker.port()), tls).await
    }

    /// Enrolls a worker under this id.
    pub async fn enroll(&self, id: &str) -> WorkerKey {
        let key = KeyPair::generate().unwrap();
        let token = self.join_token().await;
        let answer = self.enroll_with(&token, &key, id).await.unwrap();
        assert_eq!(answer.worker, format!("workers/{id}"));
        WorkerKey {
            chain_pem: answer.certificate.unwrap().chain_pem,
            key_pem: key.serialize_pem(),
        }
    }

    pub async fn enroll_with(&self, token: &str, key: &KeyPair, id: &str) -> Result<EnrollResponse, Status> {
        let request = EnrollRequest {
            join_token: token.to_owned(),
            certificate_request_der: certificate_request(key),
            hostname: format!("{id}.example.com"),
            worker_id: id.to_owned(),
        };
        let mut client = EnrollmentServiceClient::new(self.worker_channel(None).await);
        client.enroll(request).await.map(tonic::Response::into_inner)
    }

    /// Creates a trunk over the API and answers it.
    pub async fn create_trunk(&self, id: &str, port: u32) -> v1::Trunk {
        let trunk = v1::Trunk {
            display_name: id.to_owned(),
            listen_port: Some(port),
            ..v1::Trunk::default()
        };
        self.create(id, trunk).await
    }

    pub async fn create(&self, id: &str, trunk: v1::Trunk) -> v1::Trunk {
        let request = v1::CreateTrunkRequest {
            trunk_id: id.to_owned(),
            trunk: Some(trunk),
            ..Default::default()
        };
        self.trunks()
            .await
            .create_trunk(request)
            .await
            .unwrap()
            .into_inner()
            .trunk
            .unwrap()
    }

    /// Changes the display name, the cheapest change there is.
    pub async fn rename_trunk(&self, id: &str, display_name: &str) {
        let request = v1::UpdateTrunkRequest {
            trunk: Some(v1::Trunk {
                name: format!("trunks/{id}"),
                display_name: display_name.to_owned(),
                ..v1::Trunk::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["display_name".into()],
            }),
            ..Default::default()
        };
        self.trunks().await.update_trunk(request).await.unwrap();
    }

    pub async fn delete_trunk(&self, id: &str) {
        let request = v1::DeleteTrunkRequest {
            name: format!("trunks/{id}"),
            force: true,
            ..Default::default()
        };
        self.trunks().await.delete_trunk(request).await.unwrap();
    }

    pub async fn worker(&self, id: &str) -> v1::Worker {
        let request = v1::GetWorkerRequest {
            name: format!("workers/{id}"),
        };
        self.workers()
            .await
            .get_worker(request)
            .await
            .unwrap()
            .into_inner()
            .worker
            .unwrap()
    }

    /// Body of a page of the metrics listener.
    pub async fn http(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.app.metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

fn options(state_dir: &Path, limits: Limits) -> Options {
    let mut options = Options::try_parse_from([
        "trunkline-control",
        "--api-listen=127.0.0.1:0",
        "--worker-listen=127.0.0.1:0",
        "--metrics-listen=127.0.0.1:0",
        "--trunk-address=192.0.2.1",
        "--state-dir",
        state_dir.to_str().unwrap(),
        "--ca-file",
        state_dir.join("ca-copy.pem").to_str().unwrap(),
    ])
    .unwrap();
    options.limits = limits;
    options
}

async fn connect(endpoint: &str, tls: ClientTlsConfig) -> Channel {
    let endpoint = Endpoint::from_shared(endpoint.to_owned())
        .unwrap()
        .tls_config(tls)
        .unwrap();
    within(endpoint.connect()).await.unwrap()
}

pub fn certificate_request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default()
        .serialize_request(key)
        .unwrap()
        .der()
        .to_vec()
}

/// An API client's channel.
pub type Api = InterceptedService<Channel, Bearer>;

/// Adds the bearer token.
#[derive(Clone)]
pub struct Bearer(pub String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = MetadataValue::try_from(format!("Bearer {}", self.0)).unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// What a worker got when it enrolled.
#[derive(Clone)]
pub struct WorkerKey {
    pub chain_pem: String,
    pub key_pem: String,
}

impl WorkerKey {
    pub fn identity(&self) -> Identity {
        Identity::from_pem(&self.chain_pem, &self.key_pem)
    }
}

/// A worker's configuration stream, answered by the test.
pub struct Stream {
    pub outgoing: mpsc::Sender<StreamConfigurationRequest>,
    pub incoming: Streaming<StreamConfigurationResponse>,
    channel: Channel,
}

impl Stream {
    /// Opens a stream with this hello.
    pub async fn open(control: &Control, key: &WorkerKey, hello: Hello) -> Result<Self, Status> {
        let channel = control.worker_channel(Some(key.identity())).await;
        let (outgoing, requests) = mpsc::channel(64);
        send(&outgoing, ToControl::Hello(hello)).await;
        let mut client = ConfigurationServiceClient::new(channel.clone()).max_decoding_message_size(32 * 1024 * 1024);
        let incoming = within(client.stream_configuration(ReceiverStream::new(requests)))
            .await?
            .into_inner();
        Ok(Self {
            outgoing,
            incoming,
            channel,
        })
    }

    pub async fn send(&self, message: ToControl) {
        send(&self.outgoing, message).await;
    }

    /// The next push; heartbeats are answered on the way.
    pub async fn push(&mut self) -> ConfigurationPush {
        loop {
            match self.message().await.expect("a push") {
                FromControl::Push(push) => return push,
                FromControl::Heartbeat(heartbeat) => self.heartbeat(heartbeat.revision).await,
                FromControl::Command(command) => panic!("{command:?} instead of a push"),
            }
        }
    }

    pub async fn heartbeat(&self, revision: i64) {
        self.send(ToControl::Heartbeat(WorkerHeartbeat {
            revision,
            time: None,
            active_calls: 3,
        }))
        .await;
    }

    /// The next message; the final status as an error.
    pub async fn message(&mut self) -> Result<FromControl, Status> {
        match within(self.incoming.message()).await {
            Ok(Some(message)) => Ok(message.message.unwrap()),
            Ok(None) => panic!("the stream ended without a status"),
            Err(status) => Err(status),
        }
    }

    /// Reads until the stream ends; its status.
    pub async fn ended(&mut self) -> Status {
        loop {
            if let Err(status) = self.message().await {
                return status;
            }
        }
    }

    pub async fn accept(&self, push: &ConfigurationPush) {
        self.refuse(push, Vec::new()).await;
    }

    pub async fn refuse(&self, push: &ConfigurationPush, rejections: Vec<ResourceRejection>) {
        let result = PushResult {
            nonce: push.nonce,
            revision: push.revision,
            rejections,
        };
        self.send(ToControl::PushResult(result)).await;
    }

    /// Takes pushes and accepts them until the worker is at `revision`; everything that came.
    pub async fn accept_until(&mut self, revision: i64) -> Vec<Resource> {
        let mut upserts = Vec::new();
        loop {
            let push = self.push().await;
            self.accept(&push).await;
            upserts.extend(push.upserts);
            if push.revision >= revision && !push.partial {
                return upserts;
            }
        }
    }
}

async fn send(outgoing: &mpsc::Sender<StreamConfigurationRequest>, message: ToControl) {
    within(outgoing.send(StreamConfigurationRequest { message: Some(message) }))
        .await
        .unwrap();
}

pub fn hello(boot_id: &str) -> Hello {
    Hello {
        hostname: "edge.example.com".into(),
        software_version: "1.2.3".into(),
        boot_id: boot_id.into(),
        media_tier: "epoll".into(),
        ..Hello::default()
    }
}

pub fn held(resource: &Resource) -> HeldResource {
    HeldResource {
        key: resource.key.clone(),
        version: resource.version,
    }
}

pub fn rejection(resource: &Resource, error: &str) -> ResourceRejection {
    ResourceRejection {
        key: resource.key.clone(),
        version: resource.version,
        error: error.into(),
    }
}

pub fn names(keys: &[ResourceKey]) -> Vec<&str> {
    keys.iter().map(|key| key.name.as_str()).collect()
}

pub fn upserted(push: &ConfigurationPush) -> Vec<&str> {
    push.upserts
        .iter()
        .map(|resource| resource.key.as_ref().unwrap().name.as_str())
        .collect()
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("this takes too long")
}

/// Looks until `look` finds what it looks for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> T {
    let mut turns = interval(Duration::from_millis(10));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    within(async {
        loop {
            turns.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    })
    .await
}
