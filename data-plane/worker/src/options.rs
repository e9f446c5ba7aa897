//! The command line of the worker; every option has an environment variable.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use trunkline_shared::runtime::telemetry::{self, LogFormat};

use crate::net::address::{Address, AddressBook};
use crate::relay::TierChoice;

/// The data plane of Trunkline: registers phones, proxies their calls and relays their media.
#[derive(Debug, Parser)]
#[command(name = "trunkline-worker", version)]
pub struct Options {
    /// The control plane's worker endpoint.
    #[arg(long, env = "TRUNKLINE_CONTROL", default_value = "https://127.0.0.1:8444")]
    pub control: String,

    /// Certificate authority of the control plane (PEM); needed to enroll.
    #[arg(long, env = "TRUNKLINE_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// File with a join token; needed to enroll, not afterwards.
    #[arg(long, env = "TRUNKLINE_JOIN_TOKEN_FILE")]
    pub join_token_file: Option<PathBuf>,

    /// Where the identity, the last accepted configuration, the bindings and the report spool are kept.
    #[arg(long, env = "TRUNKLINE_STATE_DIR", default_value = "./var/worker")]
    pub state_dir: PathBuf,

    /// Wished worker id; the host name when empty.
    #[arg(long, env = "TRUNKLINE_WORKER_ID", default_value = "")]
    pub worker_id: String,

    /// Addresses to listen on: `ADDRESS`, `ADDRESS=ADVERTISED` behind a static NAT, or `auto` for that of the default route.
    #[arg(
        long,
        env = "TRUNKLINE_SIP_ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1"
    )]
    pub sip_address: Vec<AddressOption>,

    /// Media ports, first-last; pairs of an even and an odd one are used.
    #[arg(long, env = "TRUNKLINE_MEDIA_PORTS", default_value = "16384-32767", value_parser = parse_ports)]
    pub media_ports: RangeInclusive<u16>,

    /// Signalling shards; the number of cores when unset.
    #[arg(long, env = "TRUNKLINE_SHARDS")]
    pub shards: Option<NonZeroUsize>,

    /// Media threads; the number of cores when unset.
    #[arg(long, env = "TRUNKLINE_MEDIA_THREADS")]
    pub media_threads: Option<NonZeroUsize>,

    /// How media packets are received and sent: `epoll`, `fan-in` (CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW), `auto` for the better
    /// of these that the process has the rights for, or `fan-in-direct`, which sends past the system's outgoing filters.
    #[arg(long, env = "TRUNKLINE_MEDIA_TIER", default_value = "auto")]
    pub media_tier: TierChoice,

    /// Where /metrics, /livez and /readyz are served.
    #[arg(long, env = "TRUNKLINE_METRICS_LISTEN", default_value = "127.0.0.1:9465")]
    pub metrics_listen: SocketAddr,

    /// OTLP collector for traces, e.g. `http://127.0.0.1:4317`; no traces when unset.
    #[arg(long, env = "TRUNKLINE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// Format of the log, `text` or `json`.
    #[arg(long, env = "TRUNKLINE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Seconds that calls get to end by themselves after SIGTERM.
    #[arg(long, env = "TRUNKLINE_DRAIN_SECONDS", default_value_t = 10)]
    pub drain_seconds: u64,
}

impl Options {
    /// What logging and traces need.
    pub fn telemetry(&self) -> telemetry::Options {
        telemetry::Options {
            log_format: self.log_format,
            otlp_endpoint: self.otlp_endpoint.clone(),
            instance: self.worker_id.clone(),
            ..telemetry::Options::default()
        }
    }

    /// The addresses with `auto` looked up.
    ///
    /// # Errors
    /// When `auto` is asked for and the machine has no default route.
    pub fn addresses(&self) -> std::io::Result<AddressBook> {
        let addresses: std::io::Result<Vec<Address>> = self.sip_address.iter().map(AddressOption::resolve).collect();
        Ok(AddressBook::new(addresses?))
    }
}

/// One value of `--sip-address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressOption {
    /// The source address of the default route.
    Auto,
    /// As given.
    Given(Address),
}

impl AddressOption {
    fn resolve(&self) -> std::io::Result<Address> {
        match self {
            AddressOption::Given(address) => Ok(*address),
            AddressOption::Auto => {
                // Connecting a datagram socket sends nothing; it makes the kernel choose the route. The target is of the
                // documentation range (RFC 5737) and never sent to.
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect("192.0.2.1:9")?;
                Ok(Address::plain(socket.local_addr()?.ip()))
            }
        }
    }
}

impl FromStr for AddressOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(AddressOption::Auto);
        }
        let (bind, advertised) = text.split_once('=').unwrap_or((text, text));
        let parse = |text: &str| {
            text.parse::<IpAddr>()
                .map_err(|_| format!("`{text}` is not an IP address"))
        };
        let address = Address {
            bind: parse(bind)?,
            advertised: parse(advertised)?,
        };
        if address.bind.is_unspecified() || address.advertised.is_unspecified() {
            return Err("name an address peers can reach, or `auto`".into());
        }
        if address.bind.is_ipv4() != address.advertised.is_ipv4() {
            return Err("the advertised address is of another family".into());
        }
        Ok(AddressOption::Given(address))
    }
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').ok_or("give two ports, first-last")?;
    let parse = |text: &str| {
        text.trim()
            .parse::<u16>()
            .map_err(|_| format!("`{text}` is not a port"))
    };
    let (first, last) = (parse(first)?, parse(last)?);
    // The first pair begins at the first even port.
    if first < 1024 || last <= first || last == first.next_multiple_of(2) {
        return Err("ports from 1024 on, at least one pair".into());
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_plain_advertised_or_auto() {
        assert_eq!("auto".parse(), Ok(AddressOption::Auto));
        let plain = "2001:db8::1".parse::<AddressOption>().expect("an address");
        assert_eq!(
            plain,
            AddressOption::Given(Address::plain("2001:db8::1".parse().expect("an address")))
        );
        assert!("10.0.0.1=192.0.2.1".parse::<AddressOption>().is_ok());
        for bad in ["", "example.com", "0.0.0.0", "::", "10.0.0.1=::1", "10.0.0.1="] {
            assert!(bad.parse::<AddressOption>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_range_has_a_pair_above_1024() {
        assert_eq!(parse_ports("16384-32767"), Ok(16384..=32767));
        for bad in ["", "1", "5-4", "80-90", "2000-2000", "2001-2002", "a-b", "1-70000"] {
            assert!(parse_ports(bad).is_err(), "{bad}");
        }
    }
}
