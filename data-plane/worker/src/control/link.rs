//! Connections to the control plane.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as ClientIdentity, Uri};

/// A control plane that does not answer for this long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 keepalive: a peer that vanished is noticed within the sum of both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Octets the control plane may send before it hears of us: a page of registrations or a push is one round trip.
const WINDOW: u32 = 1 << 20;

/// Longest message in either direction, as the contract says.
pub const MAX_MESSAGE: usize = 32 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address is not one of gRPC over HTTP/2.
    #[error("`{0}` is no address of a control plane; give https://host:port")]
    Address(String),
    /// Without TLS only to this machine.
    #[error("`{0}` has no TLS and is not this machine")]
    Plaintext(String),
    /// Connecting, the TLS handshake or the certificates failed.
    #[error("connect to the control plane")]
    Transport(#[from] tonic::transport::Error),
}

/// An error with what caused it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What a worker proves itself by, and whom it believes.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Authorities of the control plane (PEM).
    pub ca_pem: String,
    /// Private key and certificate chain, leaf first (PEM); `None` before enrollment.
    pub identity_pem: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("enrolled", &self.identity_pem.is_some())
            .finish_non_exhaustive()
    }
}

/// Opens connections to the control plane, each with the credentials of that moment; cheap to clone.
#[derive(Debug, Clone)]
pub struct Link {
    endpoint: Endpoint,
    tls: Option<watch::Receiver<Arc<Credentials>>>,
}

impl Link {
    /// To `control`: `https://…` anywhere, `http://…` on this machine only.
    ///
    /// # Errors
    /// An address that is none, or one without TLS elsewhere.
    pub fn new(control: &str, credentials: watch::Receiver<Arc<Credentials>>) -> Result<Link, LinkError> {
        let uri: Uri = control.parse().map_err(|_| LinkError::Address(control.to_owned()))?;
        let host = uri.host().unwrap_or_default();
        let tls = match uri.scheme_str() {
            Some("https") => Some(credentials),
            Some("http") if is_loopback(host) => None,
            Some("http") => return Err(LinkError::Plaintext(control.to_owned())),
            _ => return Err(LinkError::Address(control.to_owned())),
        };
        let endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(Link { endpoint, tls })
    }

    /// A connection, ready for use.
    ///
    /// # Errors
    /// [`LinkError::Transport`].
    pub async fn connect(&self) -> Result<Channel, LinkError> {
        let endpoint = match &self.tls {
            None => self.endpoint.clone(),
            Some(credentials) => self.endpoint.clone().tls_config(tls_config(&credentials.borrow()))?,
        };
        Ok(endpoint.connect().await?)
    }
}

fn tls_config(credentials: &Credentials) -> ClientTlsConfig {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&credentials.ca_pem));
    match &credentials.identity_pem {
        // Certificates and key are each taken from the text by their labels.
        Some(pem) => config.identity(ClientIdentity::from_pem(pem, pem)),
        None => config,
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(control: &str) -> Result<Link, LinkError> {
        let credentials = Credentials {
            ca_pem: String::new(),
            identity_pem: None,
        };
        Link::new(control, watch::channel(Arc::new(credentials)).1)
    }

    #[test]
    fn without_tls_only_to_this_machine() {
        for control in [
            "https://control.example.com:8444",
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "http://localhost:1",
        ] {
            assert!(link(control).is_ok(), "{control}");
        }
        assert!(matches!(link("http://192.0.2.1:8444"), Err(LinkError::Plaintext(_))));
        assert!(matches!(
            link("http://localhost.example.com"),
            Err(LinkError::Plaintext(_))
        ));
        for control in ["", "control:8444", "ftp://127.0.0.1", "https:// "] {
            assert!(matches!(link(control), Err(LinkError::Address(_))), "{control}");
        }
    }

    #[test]
    fn the_key_is_not_in_debug_text() {
        let credentials = Credentials {
            ca_pem: "ca".into(),
            identity_pem: Some("-----BEGIN PRIVATE KEY-----".into()),
        };
        assert_eq!(format!("{credentials:?}"), "Credentials { enrolled: true, .. }");
    }
}
