//! The command line of `trunkline-control`. Every option can come from the environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, value_parser};
use trunkline_shared::runtime::telemetry::LogFormat;

use crate::stream::session::Limits;

/// The control plane of a SIP phone-trunk edge.
///
/// Owns trunks, lines, routes and credentials, streams them to the workers and keeps what they report.
#[derive(Debug, Clone, Parser)]
#[command(name = "trunkline-control", version)]
pub struct Options {
    /// Directory of the store, the keys, the managed CA (`ca.pem`) and the first admin token (`admin.token`).
    #[arg(long, env = "TRUNKLINE_STATE_DIR", default_value = "./var/control")]
    pub state_dir: PathBuf,

    /// Key file of the secrets in the store; made on first start. Default: `store.key` in the state directory.
    #[arg(long, env = "TRUNKLINE_KEY_FILE")]
    pub key_file: Option<PathBuf>,

    /// Address of the API.
    #[arg(long, env = "TRUNKLINE_API_LISTEN", default_value = "127.0.0.1:8443")]
    pub api_listen: SocketAddr,

    /// Address workers connect to (TLS with client certificates).
    #[arg(long, env = "TRUNKLINE_WORKER_LISTEN", default_value = "127.0.0.1:8444")]
    pub worker_listen: SocketAddr,

    /// Address of /metrics, /livez and /readyz (plain HTTP).
    #[arg(long, env = "TRUNKLINE_METRICS_LISTEN", default_value = "127.0.0.1:9464")]
    pub metrics_listen: SocketAddr,

    /// Further DNS name or IP address in the certificate of both listeners; localhost and the host name always are.
    #[arg(long, env = "TRUNKLINE_API_SAN", value_delimiter = ',')]
    pub api_san: Vec<String>,

    /// DNS name or IP address at which phones reach the workers; in every certificate issued for a trunk.
    #[arg(long, env = "TRUNKLINE_TRUNK_ADDRESS", value_delimiter = ',')]
    pub trunk_address: Vec<String>,

    /// Keep a join token for many workers in this file (mode 0600), for workers started beside the control plane.
    #[arg(long, env = "TRUNKLINE_JOIN_TOKEN_FILE")]
    pub join_token_file: Option<PathBuf>,

    /// Write the certificate of the managed CA to this file, for workers and API callers to pin (mode 0644).
    #[arg(long, env = "TRUNKLINE_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// Hours a worker's certificate is valid; workers renew it at two thirds.
    #[arg(long, env = "TRUNKLINE_WORKER_CERTIFICATE_HOURS", default_value_t = 24, value_parser = value_parser!(u32).range(1..=8760))]
    pub worker_certificate_hours: u32,

    /// Serve the API without TLS, for development; only on a loopback address.
    #[arg(long, env = "TRUNKLINE_INSECURE_PLAINTEXT_API")]
    pub insecure_plaintext_api: bool,

    /// Send traces to this OTLP collector (gRPC), e.g. `http://127.0.0.1:4317`.
    #[arg(long, env = "TRUNKLINE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// Form of log lines: `text` or `json`.
    #[arg(long, env = "TRUNKLINE_LOG_FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Times and sizes of configuration streams; not on the command line, workers rely on the defaults.
    #[arg(skip)]
    pub limits: Limits,
}

impl Options {
    /// Validity of worker certificates.
    pub fn worker_certificate_validity(&self) -> Duration {
        Duration::from_secs(u64::from(self.worker_certificate_hours) * 3600)
    }

    /// Key file of the secrets in the store.
    pub fn key_file(&self) -> PathBuf {
        self.key_file
            .clone()
            .unwrap_or_else(|| self.state_dir.join("store.key"))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_listens_on_loopback_unless_told_otherwise() {
        Options::command().debug_assert();
        let options = Options::try_parse_from(["trunkline-control"]).unwrap();
        for address in [options.api_listen, options.worker_listen, options.metrics_listen] {
            assert!(address.ip().is_loopback(), "{address}");
        }
        assert!(!options.insecure_plaintext_api);
        assert_eq!(options.key_file(), PathBuf::from("./var/control/store.key"));
    }
}
