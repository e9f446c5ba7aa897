//! Ports that are taken are found before anything is started, and named.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use anyhow::{Result, anyhow, bail};
use trunkline_proto::v1::TransportProtocol;

/// Checks that every address can be listened at over TCP.
///
/// # Errors
/// Names all that cannot.
pub fn require_free(addresses: &[(&str, SocketAddr)]) -> Result<()> {
    let taken = addresses.iter().filter_map(|(what, address)| {
        let error = TcpListener::bind(address).err()?;
        Some(format!("{} for the {what}", reason("TCP", *address, &error)))
    });
    let taken: Vec<String> = taken.collect();
    if taken.is_empty() {
        return Ok(());
    }
    bail!("cannot start: {}", taken.join("; "))
}

/// Checks that a trunk's listener can be bound.
///
/// # Errors
/// When it cannot.
pub fn require_free_listener(protocol: TransportProtocol, address: SocketAddr) -> Result<()> {
    let (layer4, bound) = match protocol {
        TransportProtocol::Udp => ("UDP", UdpSocket::bind(address).map(drop)),
        _ => ("TCP", TcpListener::bind(address).map(drop)),
    };
    bound.map_err(|error| anyhow!("cannot start: {} for a sample trunk", reason(layer4, address, &error)))
}

fn reason(layer4: &str, address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("{layer4} {address} is in use"),
        io::ErrorKind::AddrNotAvailable => format!("{} is no address of this machine", address.ip()),
        _ => format!("{layer4} {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_in_use_is_named_with_what_it_is_for() {
        let held = [
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        ];
        let taken: Vec<SocketAddr> = held.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let error = require_free(&[("API", taken[0]), ("metrics", taken[1])])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("TCP {} is in use for the API", taken[0])),
            "{error}"
        );
        assert!(
            error.contains(&format!("TCP {} is in use for the metrics", taken[1])),
            "{error}"
        );
        drop(held);
        require_free(&[("API", taken[0]), ("metrics", taken[1])]).unwrap();
    }

    #[test]
    fn the_transport_of_a_trunk_decides_which_port_has_to_be_free() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let error = require_free_listener(TransportProtocol::Udp, address)
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("UDP {address} is in use")), "{error}");
    }

    #[test]
    fn an_address_of_another_machine_is_called_that() {
        let address = "192.0.2.1:8060".parse().unwrap();
        let error = require_free_listener(TransportProtocol::Udp, address)
            .unwrap_err()
            .to_string();
        assert!(error.contains("192.0.2.1 is no address of this machine"), "{error}");
    }
}
