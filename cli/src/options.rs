//! The command line of `trunkline`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

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
    /// State directory of a running `trunkline up`; addresses, CA, token and passwords come from there.
    #[arg(long, env = "TRUNKLINE_STATE", default_value = "./var")]
    pub state_dir: PathBuf,

    /// Where the UDP trunk listens, e.g. `udp:127.0.0.1:8060`; when not given, as the API says.
    #[arg(long, value_name = "ADDRESS")]
    pub sip: Option<UdpAddress>,

    /// Where the TLS trunk listens, e.g. `127.0.0.1:8061`; when not given, as the API says.
    #[arg(long, value_name = "ADDRESS")]
    pub tls: Option<SocketAddr>,

    /// Seconds the phones talk in each call, 1-60.
    #[arg(long, default_value = "3", value_parser = seconds, value_name = "SECONDS")]
    pub talk: Duration,
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
