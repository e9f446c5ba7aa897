//! What `up` tells its user.

use std::fmt::Write as _;
use std::net::SocketAddr;

use trunkline_proto::v1::TransportProtocol;

use crate::examples::Sample;
use crate::options::UpOptions;
use crate::state::{Endpoints, State};

/// Addresses, files, a line for grpcurl, and how to register a softphone.
pub fn text(options: &UpOptions, state: &State, endpoints: &Endpoints, samples: &[Sample]) -> String {
    let mut out = String::new();
    let (api, ca, token) = (endpoints.api, state.ca_file(), state.token_file());
    let (ca, token) = (ca.display(), token.display());
    let logs = match options.verbose {
        true => "shown here".to_owned(),
        false => format!(
            "{}, {}",
            state.log_file("control").display(),
            state.log_file("worker").display()
        ),
    };
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{text}");
    };
    line(format_args!("Trunkline is up."));
    line(format_args!(""));
    line(format_args!("  API          https://{api} (gRPC)"));
    line(format_args!("  CA           {ca}"));
    line(format_args!("  admin token  {token}"));
    line(format_args!(
        "  metrics      http://{}/metrics (control plane)",
        endpoints.control_metrics
    ));
    line(format_args!(
        "               http://{}/metrics (worker)",
        endpoints.worker_metrics
    ));
    line(format_args!("  logs         {logs}"));
    line(format_args!(""));
    line(format_args!(
        "  grpcurl -cacert {ca} -H \"authorization: Bearer $(cat {token})\" {api} list"
    ));
    if samples.is_empty() {
        return out;
    }
    line(format_args!(""));
    for sample in samples {
        let (protocol, media) = transport(sample.protocol);
        let address = SocketAddr::new(options.sip_address, sample.port);
        let users = sample.users.join(", ");
        line(format_args!(
            "  trunk {:12} {address} {protocol}, {media:4}  phones {users}",
            sample.id
        ));
    }
    line(format_args!("  passwords          {}", state.phones_file().display()));
    line(format_args!(""));
    line(format_args!(
        "Register a softphone, then dial another phone's number, on the same trunk or the other one:"
    ));
    for sample in samples {
        let (protocol, media) = transport(sample.protocol);
        let user = sample.users.first().map_or("", String::as_str);
        let trust = match sample.protocol {
            TransportProtocol::Tls => format!(", SRTP (SDES) mandatory, trusted CA {ca}"),
            _ => format!(", {media}"),
        };
        line(format_args!(
            "  server {}, port {}, transport {protocol}{trust}, user {user}, password as in {}",
            options.sip_address,
            sample.port,
            state.phones_file().display(),
        ));
    }
    out
}

fn transport(protocol: TransportProtocol) -> (&'static str, &'static str) {
    match protocol {
        TransportProtocol::Tls => ("TLS", "SRTP"),
        TransportProtocol::Tcp => ("TCP", "RTP"),
        TransportProtocol::Udp | TransportProtocol::Unspecified => ("UDP", "RTP"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;

    use super::*;
    use crate::options::{Command, Options};

    fn shown(samples: &[Sample]) -> String {
        let Command::Up(options) = Options::parse_from(["trunkline", "up", "--state-dir", "/srv/t"]).command else {
            panic!("not `up`")
        };
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let endpoints = Endpoints {
            api: address(8443),
            control_metrics: address(9464),
            worker_metrics: address(9465),
        };
        text(&options, &State::new(Path::new("/srv/t")), &endpoints, samples)
    }

    #[test]
    fn everything_a_user_needs_next_is_in_it() {
        let sample = |id: &str, protocol, port, user: &str| Sample {
            id: id.into(),
            protocol,
            port,
            users: vec![user.into()],
        };
        let text = shown(&[
            sample("sample-udp", TransportProtocol::Udp, 8060, "1001"),
            sample("sample-tls", TransportProtocol::Tls, 8061, "2001"),
        ]);
        for part in [
            "grpcurl -cacert /srv/t/control/ca.pem -H \"authorization: Bearer $(cat /srv/t/control/admin.token)\" 127.0.0.1:8443 list",
            "server 127.0.0.1, port 8060, transport UDP, RTP, user 1001, password as in /srv/t/phones",
            "transport TLS, SRTP (SDES) mandatory, trusted CA /srv/t/control/ca.pem, user 2001",
            "http://127.0.0.1:9465/metrics (worker)",
            "/srv/t/worker.log",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn without_examples_no_phone_is_mentioned() {
        assert!(!shown(&[]).contains("softphone"));
    }
}
