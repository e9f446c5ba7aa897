//! Which names and addresses are ours (RFC 3261 §16.4, §16.5).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use trunkline_shared::name::TrunkId;
use trunkline_shared::trunk::Trunk;
use trunkline_sip::uri::{Host, SipUri};

use crate::io::{Flow, Listener, Transport};

/// Where this worker listens.
#[derive(Debug, Clone)]
pub(crate) struct Listeners(Arc<[Listener]>);

impl Listeners {
    pub(crate) fn new(all: Arc<[Listener]>) -> Self {
        Self(all)
    }

    /// Whether a Request-URI names the trunk itself: one of its domains, or an address it listens on.
    ///
    /// A URI without a port is ours whatever port we listen on: phones leave it out when they have an outbound proxy.
    /// `maddr` decides instead of the host when it is there (RFC 3261 §16.4).
    pub(crate) fn is_own_domain(&self, trunk: &Trunk, uri: &SipUri<'_>) -> bool {
        let host = match uri.maddr() {
            Some(maddr) => match Host::parse(maddr) {
                Ok(host) => host,
                Err(_) => return false,
            },
            None => uri.host(),
        };
        self.is_listener(&trunk.id, host, uri.port()) || serves_domain(trunk, host)
    }

    /// Whether a Route value names this worker: any listener of any trunk, because a call between two trunks
    /// leaves a Route for each of them (RFC 5658).
    pub(crate) fn is_own_route(&self, uri: &SipUri<'_>) -> bool {
        uri.host().ip().is_some_and(|ip| self.is_own_address(ip, port_of(uri)))
    }

    /// Whether a Via sent-by is one of our addresses.
    pub(crate) fn is_own_address(&self, ip: IpAddr, port: u16) -> bool {
        self.0.iter().any(|listener| listener_matches(listener, ip, Some(port)))
    }

    fn is_listener(&self, trunk: &TrunkId, host: Host<'_>, port: Option<u16>) -> bool {
        let Some(ip) = host.ip() else { return false };
        self.0
            .iter()
            .any(|listener| listener.trunk == *trunk && listener_matches(listener, ip, port))
    }

    /// The address peers of `flow` know us by.
    pub(crate) fn advertised_for_flow(&self, flow: &Flow) -> SocketAddr {
        let of_trunk = || self.0.iter().filter(|listener| listener.trunk == flow.trunk);
        let same_family = |listener: &&Listener| listener.advertised.is_ipv4() == flow.local.is_ipv4();
        of_trunk()
            .find(|listener| listener.transport == flow.transport && listener.local == flow.local)
            .or_else(|| of_trunk().find(|l| l.transport == flow.transport && l.local.ip() == flow.local.ip()))
            .or_else(|| of_trunk().find(same_family))
            .map_or(flow.local, |listener| listener.advertised)
    }

    /// The address a peer at `remote` gets to know us by, when the trunk speaks to it first.
    pub(crate) fn advertised_for_peer(
        &self,
        trunk: &TrunkId,
        transport: Transport,
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        let mut fallback = None;
        for listener in self
            .0
            .iter()
            .filter(|l| l.trunk == *trunk && l.advertised.is_ipv4() == remote.is_ipv4())
        {
            if listener.transport == transport {
                return Some(listener.advertised);
            }
            fallback = fallback.or(Some(listener.advertised));
        }
        fallback
    }

    /// The bound address the trunk sends from to a peer of that family.
    pub(crate) fn local_for_peer(&self, trunk: &TrunkId, remote: SocketAddr) -> Option<SocketAddr> {
        let mut of_family = self
            .0
            .iter()
            .filter(|l| l.trunk == *trunk && l.local.is_ipv4() == remote.is_ipv4());
        of_family.next().map(|listener| listener.local)
    }
}

fn port_of(uri: &SipUri<'_>) -> u16 {
    let tls = uri.is_secure()
        || uri
            .transport()
            .is_some_and(|transport| transport.eq_ignore_ascii_case("tls"));
    uri.port().unwrap_or(if tls { 5061 } else { 5060 })
}

fn listener_matches(listener: &Listener, ip: IpAddr, port: Option<u16>) -> bool {
    [listener.local, listener.advertised]
        .iter()
        .any(|address| address.ip() == ip && port.is_none_or(|port| address.port() == port))
}

fn serves_domain(trunk: &Trunk, host: Host<'_>) -> bool {
    let host = host.to_string();
    trunk.domains.iter().any(|domain| domain.matches(&host))
}
