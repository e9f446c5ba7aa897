//! The public API as an administrator of this machine calls it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
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

use crate::options::{AccessOptions, ApiAddress};
use crate::state::State;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Every call carries the token.
pub type Authenticated = InterceptedService<Channel, Bearer>;

/// A connection to the API.
#[derive(Clone)]
pub struct Api {
    channel: Channel,
    bearer: Bearer,
}

/// Adds the bearer token. Never shown.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Api {
    /// Connects as the options say; with the state directory the rest is found in.
    ///
    /// # Errors
    /// As [`Api::connect`], and when no address is given and no `trunkline up` runs in the state directory.
    pub async fn open(options: &AccessOptions) -> Result<(State, Self)> {
        let state = State::of(options);
        let address = match &options.api {
            Some(address) => address.clone(),
            None => state.read_endpoints()?.api.into(),
        };
        let api = Self::connect(&state, &address).await?;
        Ok((state, api))
    }

    /// Connects with the CA and the token of the state directory.
    ///
    /// # Errors
    /// When one of the files cannot be read, or the server cannot be reached or is not vouched for by that CA.
    pub async fn connect(state: &State, address: &ApiAddress) -> Result<Self> {
        let read =
            |path: std::path::PathBuf| fs::read_to_string(&path).with_context(|| format!("read {}", path.display()));
        let authority = Certificate::from_pem(read(state.ca_file())?);
        let token = read(state.token_file())?;
        let mut bearer = MetadataValue::try_from(format!("Bearer {}", token.trim()))
            .with_context(|| format!("use the token in {}", state.token_file().display()))?;
        bearer.set_sensitive(true);
        let channel = Endpoint::from_shared(format!("https://{address}"))?
            .tls_config(ClientTlsConfig::new().ca_certificate(authority))?
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .connect()
            .await
            .with_context(|| format!("connect to the API at {address}"))?;
        Ok(Self {
            channel,
            bearer: Bearer(bearer),
        })
    }

    /// Trunks.
    pub fn trunks(&self) -> TrunkServiceClient<Authenticated> {
        TrunkServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Digest credentials.
    pub fn credentials(&self) -> DigestCredentialServiceClient<Authenticated> {
        DigestCredentialServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Routes.
    pub fn routes(&self) -> RouteServiceClient<Authenticated> {
        RouteServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Registrations.
    pub fn registrations(&self) -> RegistrationServiceClient<Authenticated> {
        RegistrationServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Workers.
    pub fn workers(&self) -> WorkerServiceClient<Authenticated> {
        WorkerServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Calls.
    pub fn calls(&self) -> CallServiceClient<Authenticated> {
        CallServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }
}
