//! A control plane that does as a test tells it, on a socket of this machine. Every wait has a bound.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use trunkline_proto::dataplane::v1 as dataplane;
use trunkline_proto::dataplane::v1::binding_service_server::{BindingService, BindingServiceServer};
use trunkline_proto::dataplane::v1::configuration_service_server::{ConfigurationService, ConfigurationServiceServer};
use trunkline_proto::dataplane::v1::enrollment_service_server::{EnrollmentService, EnrollmentServiceServer};
use trunkline_proto::dataplane::v1::report_service_server::{ReportService, ReportServiceServer};
use trunkline_proto::dataplane::v1::stream_configuration_request::Message as FromWorker;
use trunkline_proto::dataplane::v1::stream_configuration_response::Message as ToWorker;
use trunkline_proto::v1;

use super::link::{Credentials, Link};

/// What a test waits for comes within this, or never.
const BOUND: Duration = Duration::from_secs(20);

/// Waits for a value, not for time.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(BOUND, what).await.expect("in time")
}

/// The server; ends when dropped.
pub struct Scripted {
    pub address: SocketAddr,
    pub configurations: mpsc::Receiver<ConfigurationPeer>,
    pub reports: mpsc::Receiver<ReportPeer>,
    pub watches: mpsc::Receiver<WatchPeer>,
    pub certificates: mpsc::Receiver<CertificateRequest>,
    _stop: DropGuard,
}

/// A configuration stream that a worker opened.
pub struct ConfigurationPeer {
    incoming: Streaming<dataplane::StreamConfigurationRequest>,
    outgoing: mpsc::Sender<Result<dataplane::StreamConfigurationResponse, Status>>,
}

/// A report stream that a worker opened.
pub struct ReportPeer {
    pub incoming: Streaming<dataplane::StreamReportsRequest>,
    outgoing: mpsc::Sender<Result<dataplane::StreamReportsResponse, Status>>,
}

/// A watch that a worker opened.
pub struct WatchPeer {
    pub revision: i64,
    outgoing: mpsc::Sender<Result<dataplane::WatchBindingsResponse, Status>>,
}

/// Somebody wants a certificate.
pub struct CertificateRequest {
    pub der: Vec<u8>,
    /// Token and wished id; `None` for a renewal.
    pub enrollment: Option<(String, String)>,
    pub answer: mpsc::Sender<Result<dataplane::WorkerCertificate, Status>>,
}

struct Services {
    configurations: mpsc::Sender<ConfigurationPeer>,
    reports: mpsc::Sender<ReportPeer>,
    watches: mpsc::Sender<WatchPeer>,
    certificates: mpsc::Sender<CertificateRequest>,
}

impl Scripted {
    /// On a free port.
    pub async fn start() -> Scripted {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(address: SocketAddr) -> Scripted {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (configurations, configuration_peers) = mpsc::channel(16);
        let (reports, report_peers) = mpsc::channel(16);
        let (watches, watch_peers) = mpsc::channel(16);
        let (certificates, certificate_requests) = mpsc::channel(16);
        let services = Arc::new(Services {
            configurations,
            reports,
            watches,
            certificates,
        });
        let stop = CancellationToken::new();
        let server = Server::builder()
            .add_service(ConfigurationServiceServer::from_arc(Arc::clone(&services)))
            .add_service(ReportServiceServer::from_arc(Arc::clone(&services)))
            .add_service(BindingServiceServer::from_arc(Arc::clone(&services)))
            .add_service(EnrollmentServiceServer::from_arc(services))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                served = server => served.unwrap(),
                () = stopped.cancelled() => {}
            }
        });
        Scripted {
            address,
            configurations: configuration_peers,
            reports: report_peers,
            watches: watch_peers,
            certificates: certificate_requests,
            _stop: stop.drop_guard(),
        }
    }

    pub fn control(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn link(&self) -> Link {
        let credentials = Credentials {
            ca_pem: String::new(),
            identity_pem: None,
        };
        Link::new(&self.control(), watch::channel(Arc::new(credentials)).1).unwrap()
    }

    /// The next configuration stream and its hello.
    pub async fn hello(&mut self) -> (ConfigurationPeer, dataplane::Hello) {
        let mut peer = within(self.configurations.recv()).await.unwrap();
        match peer.next().await {
            FromWorker::Hello(hello) => (peer, hello),
            other => panic!("{other:?}"),
        }
    }

    pub async fn report_stream(&mut self) -> ReportPeer {
        within(self.reports.recv()).await.unwrap()
    }

    pub async fn watch(&mut self) -> WatchPeer {
        within(self.watches.recv()).await.unwrap()
    }
}

impl ConfigurationPeer {
    pub async fn next(&mut self) -> FromWorker {
        within(self.incoming.message())
            .await
            .unwrap()
            .expect("open")
            .message
            .unwrap()
    }

    /// The first message that `pick` takes; others are passed over.
    pub async fn next_where<T>(&mut self, mut pick: impl FnMut(FromWorker) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.next().await) {
                return picked;
            }
        }
    }

    pub async fn push_result(&mut self) -> dataplane::PushResult {
        self.next_where(|message| match message {
            FromWorker::PushResult(result) => Some(result),
            _ => None,
        })
        .await
    }

    pub async fn send(&self, message: ToWorker) {
        within(
            self.outgoing
                .send(Ok(dataplane::StreamConfigurationResponse { message: Some(message) })),
        )
        .await
        .unwrap();
    }

    pub async fn push(&self, push: dataplane::ConfigurationPush) {
        self.send(ToWorker::Push(push)).await;
    }

    pub async fn heartbeat(&self, revision: i64) {
        self.send(ToWorker::Heartbeat(dataplane::ControlHeartbeat {
            revision,
            time: None,
        }))
        .await;
    }

    /// Waits until the worker gave the stream up.
    pub async fn ended(mut self) {
        within(async { while let Ok(Some(_)) = self.incoming.message().await {} }).await;
    }
}

impl ReportPeer {
    pub async fn next(&mut self) -> dataplane::StreamReportsRequest {
        within(self.incoming.message()).await.unwrap().expect("open")
    }

    pub async fn acknowledge(&self, acknowledged_sequence: u64) {
        within(
            self.outgoing
                .send(Ok(dataplane::StreamReportsResponse { acknowledged_sequence })),
        )
        .await
        .unwrap();
    }
}

impl WatchPeer {
    pub async fn send(&self, message: dataplane::WatchBindingsResponse) {
        within(self.outgoing.send(Ok(message))).await.unwrap();
    }
}

#[tonic::async_trait]
impl ConfigurationService for Services {
    type StreamConfigurationStream = ReceiverStream<Result<dataplane::StreamConfigurationResponse, Status>>;

    async fn stream_configuration(
        &self,
        request: Request<Streaming<dataplane::StreamConfigurationRequest>>,
    ) -> Result<Response<Self::StreamConfigurationStream>, Status> {
        let (outgoing, messages) = mpsc::channel(16);
        let peer = ConfigurationPeer {
            incoming: request.into_inner(),
            outgoing,
        };
        self.configurations
            .send(peer)
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

#[tonic::async_trait]
impl ReportService for Services {
    type StreamReportsStream = ReceiverStream<Result<dataplane::StreamReportsResponse, Status>>;

    async fn stream_reports(
        &self,
        request: Request<Streaming<dataplane::StreamReportsRequest>>,
    ) -> Result<Response<Self::StreamReportsStream>, Status> {
        let (outgoing, messages) = mpsc::channel(16);
        let peer = ReportPeer {
            incoming: request.into_inner(),
            outgoing,
        };
        self.reports
            .send(peer)
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

#[tonic::async_trait]
impl BindingService for Services {
    type WatchBindingsStream = ReceiverStream<Result<dataplane::WatchBindingsResponse, Status>>;

    async fn watch_bindings(
        &self,
        request: Request<dataplane::WatchBindingsRequest>,
    ) -> Result<Response<Self::WatchBindingsStream>, Status> {
        let (outgoing, messages) = mpsc::channel(16);
        let peer = WatchPeer {
            revision: request.into_inner().revision,
            outgoing,
        };
        self.watches
            .send(peer)
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Services {
    async fn certificate(
        &self,
        der: Vec<u8>,
        enrollment: Option<(String, String)>,
    ) -> Result<dataplane::WorkerCertificate, Status> {
        let over = || Status::unavailable("the test is over");
        let (answer, mut answers) = mpsc::channel(1);
        self.certificates
            .send(CertificateRequest {
                der,
                enrollment,
                answer,
            })
            .await
            .map_err(|_| over())?;
        answers.recv().await.ok_or_else(over)?
    }
}

#[tonic::async_trait]
impl EnrollmentService for Services {
    async fn enroll(
        &self,
        request: Request<dataplane::EnrollRequest>,
    ) -> Result<Response<dataplane::EnrollResponse>, Status> {
        let request = request.into_inner();
        let enrollment = Some((request.join_token, request.worker_id));
        let certificate = Some(self.certificate(request.certificate_request_der, enrollment).await?);
        Ok(Response::new(dataplane::EnrollResponse {
            worker: "workers/edge-1".into(),
            certificate,
        }))
    }

    async fn renew(
        &self,
        request: Request<dataplane::RenewRequest>,
    ) -> Result<Response<dataplane::RenewResponse>, Status> {
        let certificate = Some(
            self.certificate(request.into_inner().certificate_request_der, None)
                .await?,
        );
        Ok(Response::new(dataplane::RenewResponse { certificate }))
    }
}

/// A trunk as the stream carries it.
pub fn trunk(id: &str, port: u32, version: i64) -> dataplane::Resource {
    let name = format!("trunks/{id}");
    let body = v1::Trunk {
        name: name.clone(),
        display_name: id.to_owned(),
        listen_port: Some(port),
        ..v1::Trunk::default()
    };
    dataplane::Resource {
        key: Some(key(id)),
        version,
        body: Some(dataplane::resource::Body::Trunk(body)),
    }
}

pub fn key(id: &str) -> dataplane::ResourceKey {
    dataplane::ResourceKey {
        r#type: dataplane::ResourceType::Trunk.into(),
        name: format!("trunks/{id}"),
    }
}

pub fn push(nonce: u64, revision: i64, upserts: Vec<dataplane::Resource>) -> dataplane::ConfigurationPush {
    dataplane::ConfigurationPush {
        nonce,
        revision,
        upserts,
        store_id: "store-1".into(),
        ..Default::default()
    }
}
