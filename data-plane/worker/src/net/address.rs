//! The worker's addresses: what it binds, and what it tells peers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use trunkline_media::negotiate::AddressFamily;

/// An address of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Bound on this machine.
    pub bind: IpAddr,
    /// As peers see it; differs behind a static NAT.
    pub advertised: IpAddr,
}

impl Address {
    /// An address that peers see as it is.
    pub const fn plain(ip: IpAddr) -> Self {
        Address {
            bind: ip,
            advertised: ip,
        }
    }
}

/// All addresses of the worker; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AddressBook(Arc<[Address]>);

impl AddressBook {
    /// In the order of preference.
    pub fn new(addresses: Vec<Address>) -> Self {
        AddressBook(addresses.into())
    }

    /// The addresses in their order.
    pub fn iter(&self) -> impl Iterator<Item = Address> + '_ {
        self.0.iter().copied()
    }

    /// Where media of a leg is received: the address its signalling uses when that is of the family, otherwise the first
    /// of the family.
    pub fn media(&self, signalling: IpAddr, family: AddressFamily) -> Option<Address> {
        let of_family = |ip: IpAddr| AddressFamily::of(ip) == family;
        if of_family(signalling) {
            return Some(
                self.iter()
                    .find(|a| a.bind == signalling)
                    .unwrap_or(Address::plain(signalling)),
            );
        }
        self.iter().find(|a| of_family(a.bind))
    }

    /// What peers are told for a socket bound to `local`.
    pub fn advertised(&self, local: SocketAddr) -> SocketAddr {
        let ip = self
            .iter()
            .find(|a| a.bind == local.ip())
            .map_or(local.ip(), |a| a.advertised);
        SocketAddr::new(ip, local.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn media_stays_on_the_signalling_address_and_falls_back_by_family() {
        let inside = Address {
            bind: ip("10.0.0.1"),
            advertised: ip("192.0.2.1"),
        };
        let book = AddressBook::new(vec![
            Address::plain(ip("10.0.0.9")),
            inside,
            Address::plain(ip("2001:db8::1")),
        ]);
        assert_eq!(book.media(ip("10.0.0.1"), AddressFamily::V4), Some(inside));
        assert_eq!(
            book.media(ip("10.0.0.1"), AddressFamily::V6),
            Some(Address::plain(ip("2001:db8::1")))
        );
        assert_eq!(
            book.media(ip("2001:db8::1"), AddressFamily::V4),
            Some(Address::plain(ip("10.0.0.9")))
        );
        assert_eq!(AddressBook::default().media(ip("10.0.0.1"), AddressFamily::V6), None);
    }

    #[test]
    fn peers_are_told_the_address_they_see() {
        let book = AddressBook::new(vec![Address {
            bind: ip("10.0.0.1"),
            advertised: ip("192.0.2.1"),
        }]);
        assert_eq!(
            book.advertised("10.0.0.1:8060".parse().expect("")),
            "192.0.2.1:8060".parse().expect("")
        );
        assert_eq!(
            book.advertised("10.0.0.2:8060".parse().expect("")),
            "10.0.0.2:8060".parse().expect("")
        );
    }
}
