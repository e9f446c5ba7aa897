//! The API as an operator's program has it: TLS with the control plane's CA, a bearer token.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use trunkline_proto::v1::call_service_client::CallServiceClient;
use trunkline_proto::v1::digest_credential_service_client::DigestCredentialServiceClient;
use trunkline_proto::v1::registration_service_client::RegistrationServiceClient;
use trunkline_proto::v1::route_service_client::RouteServiceClient;
use trunkline_proto::v1::trunk_service_client::TrunkServiceClient;
use trunkline_proto::v1::worker_service_client::WorkerServiceClient;
use trunkline_proto::v1::{
    Call, CallActivity, CallFilter, GetWorkerRequest, ListCallsRequest, ListRegistrationsRequest, Registration, Worker,
};

/// A channel that adds the token.
pub type Authorized = InterceptedService<Channel, Bearer>;

/// Adds the token to every request.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(redacted)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// The API. It reconnects by itself when the control plane comes back.
#[derive(Debug, Clone)]
pub struct Api {
    channel: Authorized,
}

impl Api {
    /// A client that connects with the first request; CA and admin token are files of the control plane.
    ///
    /// # Errors
    /// When a file is not there.
    pub fn new(address: SocketAddr, control_dir: &Path) -> Result<Self> {
        let ca = std::fs::read(control_dir.join("ca.pem")).context("read the CA")?;
        let token = std::fs::read_to_string(control_dir.join("admin.token")).context("read the admin token")?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        let channel = Endpoint::from_shared(format!("https://{address}"))?
            .tls_config(tls)?
            .connect_lazy();
        let bearer = Bearer(
            format!("Bearer {}", token.trim())
                .parse()
                .context("the token is no header value")?,
        );
        Ok(Self {
            channel: InterceptedService::new(channel, bearer),
        })
    }

    /// The channel, for services without a method here.
    pub fn channel(&self) -> Authorized {
        self.channel.clone()
    }

    /// Trunks.
    pub fn trunks(&self) -> TrunkServiceClient<Authorized> {
        TrunkServiceClient::new(self.channel())
    }

    /// Digest credentials.
    pub fn credentials(&self) -> DigestCredentialServiceClient<Authorized> {
        DigestCredentialServiceClient::new(self.channel())
    }

    /// Routes.
    pub fn routes(&self) -> RouteServiceClient<Authorized> {
        RouteServiceClient::new(self.channel())
    }

    /// Calls.
    pub fn calls(&self) -> CallServiceClient<Authorized> {
        CallServiceClient::new(self.channel())
    }

    /// Registrations.
    pub fn registrations(&self) -> RegistrationServiceClient<Authorized> {
        RegistrationServiceClient::new(self.channel())
    }

    /// Workers.
    pub fn workers(&self) -> WorkerServiceClient<Authorized> {
        WorkerServiceClient::new(self.channel())
    }

    /// One worker.
    ///
    /// # Errors
    /// As the API says.
    pub async fn worker(&self, name: &str) -> Result<Worker> {
        let response = self
            .workers()
            .get_worker(GetWorkerRequest { name: name.to_owned() })
            .await?;
        response.into_inner().worker.context("GetWorker without a worker")
    }

    /// Every call that is active, or ended, or both (`Unspecified`), page by page.
    ///
    /// # Errors
    /// As the API says.
    pub async fn list_calls(&self, activity: CallActivity) -> Result<Vec<Call>> {
        let mut calls = Vec::new();
        let mut request = ListCallsRequest {
            page_size: 500,
            filter: Some(CallFilter {
                activity: activity.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        loop {
            let page = self.calls().list_calls(request.clone()).await?.into_inner();
            calls.extend(page.calls);
            if page.next_page_token.is_empty() {
                return Ok(calls);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Every registration of a trunk, page by page.
    ///
    /// # Errors
    /// As the API says.
    pub async fn list_registrations(&self, trunk: &str) -> Result<Vec<Registration>> {
        let mut registrations = Vec::new();
        let mut request = ListRegistrationsRequest {
            parent: trunk.to_owned(),
            page_size: 500,
            ..Default::default()
        };
        loop {
            let page = self
                .registrations()
                .list_registrations(request.clone())
                .await?
                .into_inner();
            registrations.extend(page.registrations);
            if page.next_page_token.is_empty() {
                return Ok(registrations);
            }
            request.page_token = page.next_page_token;
        }
    }
}
