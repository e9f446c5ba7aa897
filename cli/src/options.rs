//! The command line of `trunkline`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tonic::transport::Uri;

/// A SIP phone-trunk edge on this machine: start it, and prove that calls pass.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, propagate_version = true)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a control plane and a worker here, configure the sample trunks, and stay in the foreground.
    ///
    /// State is kept in the state directory, so that a second start goes on where the first one stopped. Ctrl-C or SIGTERM
    /// ends worker and control plane in good order.
    Up(UpOptions),
    /// Register test phones on running trunks, let them call each other, and verify the tones they hear.
    ///
    /// Prints what was seen; the exit status is 1 when anything is off.
    Check(CheckOptions),
    /// Create the sample trunks, phones and routes on a running control plane, where they are missing.
    ///
    /// The phones' passwords are written to the file `phones` of the state directory, for `trunkline check`.
    Examples(ExamplesOptions),
    /// List the workers, and how their configuration compares to that of the control plane.
    Workers(WorkersOptions),
}

/// How a running control plane is reached.
#[derive(Debug, Clone, Args)]
pub struct AccessOptions {
    /// State directory of a running `trunkline up`; addresses, CA, token and passwords come from there, unless given below.
    #[arg(long, env = "TRUNKLINE_STATE", default_value = "./var")]
    pub state_dir: PathBuf,

    /// The API, e.g. `127.0.0.1:8443`; its certificate must name this host.
    #[arg(long, env = "TRUNKLINE_API", value_name = "HOST:PORT")]
    pub api: Option<ApiAddress>,

    /// Certificate of the authority that vouches for the API (PEM).
    #[arg(long, env = "TRUNKLINE_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// File with an API token.
    #[arg(long, env = "TRUNKLINE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl AccessOptions {
    /// To the control plane of a `trunkline up` on this machine.
    pub fn local(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            api: None,
            ca_file: None,
            token_file: None,
        }
    }
}

/// Options of `trunkline up`.
#[derive(Debug, Clone, Args)]
pub struct UpOptions {
    /// Where everything is kept: store, keys, tokens, logs.
    #[arg(long, env = "TRUNKLINE_STATE", default_value = "./var")]
    pub state_dir: PathBuf,

    /// Run the check once everything is up; when it fails, stop and exit with status 1.
    #[arg(long)]
    pub check: bool,

    /// Stop once everything is up and, with --check, checked.
    #[arg(long)]
    pub exit: bool,

    /// Do not create the sample trunks, phones and routes.
    #[arg(long, conflicts_with = "check")]
    pub no_examples: bool,

    /// Show the log lines of both processes instead of writing them to control.log and worker.log.
    #[arg(long, short)]
    pub verbose: bool,

    /// Port of the API (gRPC, on loopback).
    #[arg(long, default_value_t = 8443, value_name = "PORT")]
    pub api_port: u16,

    /// Port the worker reaches the control plane at (on loopback).
    #[arg(long, default_value_t = 8444, value_name = "PORT")]
    pub worker_port: u16,

    /// Port of the control plane's /metrics, /livez and /readyz (on loopback).
    #[arg(long, default_value_t = 9464, value_name = "PORT")]
    pub control_metrics_port: u16,

    /// Port of the worker's /metrics, /livez and /readyz (on loopback).
    #[arg(long, default_value_t = 9465, value_name = "PORT")]
    pub worker_metrics_port: u16,

    /// Address phones reach the worker at; an address of this machine.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS")]
    pub sip_address: IpAddr,

    /// Port of the sample UDP trunk; when not given, the one it has, 8060 at first.
    #[arg(long, value_name = "PORT")]
    pub sip_port: Option<u16>,

    /// Port of the sample TLS trunk; when not given, the one it has, 8061 at first.
    #[arg(long, value_name = "PORT")]
    pub tls_port: Option<u16>,

    /// Media ports of the worker, first-last.
    #[arg(long, default_value = "16384-32767", value_name = "PORTS")]
    pub media_ports: String,

    /// Seconds the check's phones talk in each call, 1-60.
    #[arg(long, default_value = "3", value_parser = seconds, value_name = "SECONDS")]
    pub talk: Duration,
}

/// Options of `trunkline check`.
#[derive(Debug, Clone, Args)]
pub struct CheckOptions {
    /// The control plane whose trunks are checked.
    #[command(flatten)]
    pub access: AccessOptions,

    /// Where the UDP trunk listens, e.g. `udp:127.0.0.1:8060`; when not given, as the API says.
    #[arg(long, value_name = "ADDRESS")]
    pub sip: Option<UdpAddress>,

    /// Where the TLS trunk listens, e.g. `127.0.0.1:8061`; when not given, as the API says.
    #[arg(long, value_name = "ADDRESS")]
    pub tls: Option<SocketAddr>,

    /// Leave the TLS trunk out, e.g. to check a worker at an address that the trunk's certificate does not name.
    #[arg(long, conflicts_with = "tls")]
    pub udp_only: bool,

    /// Seconds the phones talk in each call, 1-60.
    #[arg(long, default_value = "3", value_parser = seconds, value_name = "SECONDS")]
    pub talk: Duration,
}

/// Options of `trunkline examples`.
#[derive(Debug, Clone, Args)]
pub struct ExamplesOptions {
    /// The control plane that is configured.
    #[command(flatten)]
    pub access: AccessOptions,

    /// Port of the sample UDP trunk; when not given, the one it has, 8060 at first.
    #[arg(long, value_name = "PORT")]
    pub sip_port: Option<u16>,

    /// Port of the sample TLS trunk; when not given, the one it has, 8061 at first.
    #[arg(long, value_name = "PORT")]
    pub tls_port: Option<u16>,
}

/// Options of `trunkline workers`.
#[derive(Debug, Clone, Args)]
pub struct WorkersOptions {
    /// The control plane whose workers are listed.
    #[command(flatten)]
    pub access: AccessOptions,

    /// Wait until this many workers are connected and in step; exit with status 1 when they are not within 30 s.
    #[arg(long, value_name = "COUNT")]
    pub wait: Option<usize>,
}

/// `HOST:PORT` of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAddress(String);

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<SocketAddr> for ApiAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl FromStr for ApiAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri = format!("https://{text}").parse::<Uri>().ok();
        let authority = uri.filter(|uri| uri.path() == "/" && uri.query().is_none());
        let authority = authority.as_ref().and_then(Uri::authority);
        match authority {
            // A URI may have a user, a path or an empty host here; an API has none.
            Some(authority)
                if authority.as_str() == text
                    && !text.contains('@')
                    && !authority.host().is_empty()
                    && authority.port_u16().is_some() =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(format!("`{text}` is not HOST:PORT")),
        }
    }
}

/// `udp:ADDRESS:PORT`, or without `udp:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpAddress(pub SocketAddr);

impl FromStr for UdpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.strip_prefix("udp:").unwrap_or(text);
        address
            .parse()
            .map(Self)
            .map_err(|_| format!("`{address}` is not ADDRESS:PORT"))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=60) => Ok(Duration::from_secs(seconds)),
        _ => Err("give 1 to 60 seconds".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn defaults_listen_on_loopback_and_keep_the_ports_of_the_trunks() {
        let options = Options::try_parse_from(["trunkline", "up"]).unwrap();
        let Command::Up(up) = options.command else {
            panic!("not `up`")
        };
        assert!(up.sip_address.is_loopback());
        assert_eq!(
            (up.sip_port, up.tls_port, up.talk),
            (None, None, Duration::from_secs(3))
        );
        assert!(!up.check && !up.exit);
    }

    #[test]
    fn a_check_takes_addresses_with_and_without_the_transport() {
        for text in ["udp:127.0.0.1:8060", "127.0.0.1:8060"] {
            assert_eq!(text.parse(), Ok(UdpAddress("127.0.0.1:8060".parse().unwrap())));
        }
        for bad in ["", "udp:", "tcp:127.0.0.1:8060", "127.0.0.1", "localhost:8060"] {
            assert!(bad.parse::<UdpAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_api_is_named_by_host_and_port() {
        for text in ["127.0.0.1:8443", "[::1]:8443", "control-plane:8443"] {
            assert_eq!(
                text.parse::<ApiAddress>().map(|address| address.to_string()),
                Ok(text.to_owned())
            );
        }
        for bad in [
            "",
            "localhost",
            ":8443",
            "host:",
            "host:99999",
            "https://host:8443",
            "host:8443/",
            "host:8443/x",
            "a@host:8443",
        ] {
            assert!(bad.parse::<ApiAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_of_a_trunk_that_is_left_out_is_refused() {
        assert!(Options::try_parse_from(["trunkline", "check", "--udp-only", "--tls", "127.0.0.1:8061"]).is_err());
    }

    #[test]
    fn a_talk_lasts_a_second_to_a_minute() {
        assert_eq!(seconds("3"), Ok(Duration::from_secs(3)));
        for bad in ["0", "61", "-1", "1.5", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_check_of_what_was_not_configured_is_refused() {
        assert!(Options::try_parse_from(["trunkline", "up", "--check", "--no-examples"]).is_err());
    }
}
