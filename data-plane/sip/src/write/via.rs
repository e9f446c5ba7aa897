use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};

use super::Text;
use crate::header::{TypedHeader, Via};
use crate::parse::scan::trim_lws;

/// What the receiver adds to the top Via of a request (RFC 3261 §18.2.1, RFC 3581 §4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ViaStamp {
    /// Value for `received`; replaces one that the sender put there.
    pub received: Option<IpAddr>,
    /// Value for `rport`; replaces an empty or a sender-made one.
    pub rport: Option<u16>,
}

impl ViaStamp {
    /// By the RFCs: with `rport` in the Via both parameters; without, `received` when sent-by is not the source address.
    pub fn for_source(via: &Via<'_>, source: SocketAddr) -> Self {
        if via.has_rport() {
            return Self::forced(source);
        }
        let address = source.ip().to_canonical();
        let differs = via.host().ip() != Some(address) || via.received().is_some();
        Self {
            received: differs.then_some(address),
            rport: None,
        }
    }

    /// Both parameters whether asked for or not: answers go to where the request came from (far-end NAT traversal).
    pub fn forced(source: SocketAddr) -> Self {
        Self {
            received: Some(source.ip().to_canonical()),
            rport: Some(source.port()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.received.is_none() && self.rport.is_none()
    }
}

/// Writes one Via value with the stamp's parameters in place of any that are there. A value that cannot be read is
/// written as it stands.
pub(crate) fn write_stamped(value: &[u8], stamp: &ViaStamp, out: &mut BytesMut) {
    let value = trim_lws(value);
    let Ok(via) = Via::parse(value) else {
        return out.put_slice(value);
    };
    let params = via.params();
    out.put_slice(trim_lws(&value[..value.len() - params.as_str().len()]));
    for param in params.iter() {
        let replaced = |name: &str, by_stamp: bool| by_stamp && param.name.eq_ignore_ascii_case(name);
        if replaced("received", stamp.received.is_some()) || replaced("rport", stamp.rport.is_some()) {
            continue;
        }
        out.put_slice(b";");
        out.put_slice(param.name.as_bytes());
        if let Some(value) = param.value {
            out.put_slice(b"=");
            out.put_slice(value.as_bytes());
        }
    }
    if let Some(port) = stamp.rport {
        out.put_slice(b";rport=");
        out.put_slice(Text::decimal(port.into()).as_bytes());
    }
    if let Some(ip) = stamp.received {
        out.put_slice(b";received=");
        out.put_slice(Text::ip(ip).as_bytes());
    }
}
