//! What the kernel knows of the way to an address: route, neighbour, link (rtnetlink(7)).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::{Domain, Protocol, Socket, Type};

/// Answers are taken out of the socket by the call that asked; this many are looked at for the one that fits.
const ANSWERS: usize = 4;
/// Longest answer: a link with its statistics takes less than 3 KiB.
const ANSWER: usize = 8 * 1024;
const MESSAGE_HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const ALIGN: usize = 4;

/// Neighbour states in which the link address may be used; the kernel finds out by itself when it went stale.
const USABLE: u16 = libc::NUD_REACHABLE | libc::NUD_STALE | libc::NUD_DELAY | libc::NUD_PROBE | libc::NUD_PERMANENT;

/// The next hop to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hop {
    /// Index of the link.
    pub(super) link: u32,
    /// The neighbour: a gateway or the address itself.
    pub(super) neighbour: IpAddr,
}

/// An Ethernet link that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) address: [u8; 6],
    pub(super) mtu: usize,
}

/// A socket to ask by.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    answer: Box<[u8; ANSWER]>,
}

impl Netlink {
    pub(super) fn new() -> io::Result<Netlink> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(libc::NETLINK_ROUTE)),
        )?;
        // The kernel answers before the question's call returns.
        socket.set_nonblocking(true)?;
        Ok(Netlink {
            socket,
            sequence: 0,
            answer: Box::new([0; ANSWER]),
        })
    }

    /// The way from one of our addresses to another machine's; `None` when that is this machine, or nowhere.
    pub(super) fn route(&mut self, source: IpAddr, destination: IpAddr) -> io::Result<Option<Hop>> {
        let mut body = [0; 12];
        (body[0], body[1], body[2]) = (family(destination), bits(destination), bits(source));
        let attributes = [(libc::RTA_DST, octets(destination)), (libc::RTA_SRC, octets(source))];
        let answer = self.ask(libc::RTM_GETROUTE, libc::RTM_NEWROUTE, &body, &attributes)?;
        // The type stands in the eighth octet of `rtmsg`.
        if answer.get(7) != Some(&libc::RTN_UNICAST) {
            return Ok(None);
        }
        let attributes = || Attributes(answer.get(body.len()..).unwrap_or_default());
        let link = attributes().find(libc::RTA_OIF).and_then(word);
        // A gateway of the other family stands in RTA_VIA, which nobody here resolves.
        let gateway = attributes().find(libc::RTA_GATEWAY).and_then(address);
        if attributes().find(libc::RTA_VIA).is_some() || attributes().find(libc::RTA_MULTIPATH).is_some() {
            return Ok(None);
        }
        Ok(link.map(|link| Hop {
            link,
            neighbour: gateway.unwrap_or(destination),
        }))
    }

    /// The link address of a neighbour; `None` while the kernel does not know it.
    pub(super) fn neighbour(&mut self, hop: Hop) -> io::Result<Option<[u8; 6]>> {
        let mut body = [0; 12];
        body[0] = family(hop.neighbour);
        body[4..8].copy_from_slice(&hop.link.to_ne_bytes());
        let attributes = [(libc::NDA_DST, octets(hop.neighbour))];
        let answer = match self.ask(libc::RTM_GETNEIGH, libc::RTM_NEWNEIGH, &body, &attributes) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            answer => answer?,
        };
        let state = answer
            .get(8..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |state| u16::from_ne_bytes(*state));
        if state & USABLE == 0 {
            return Ok(None);
        }
        let mut attributes = Attributes(answer.get(body.len()..).unwrap_or_default());
        Ok(attributes
            .find(libc::NDA_LLADDR)
            .and_then(|address| address.try_into().ok()))
    }

    /// A link; `None` when it is no Ethernet or not up.
    pub(super) fn link(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let answer = self.ask(libc::RTM_GETLINK, libc::RTM_NEWLINK, &body, &[])?;
        let kind = answer
            .get(2..)
            .and_then(|rest| rest.first_chunk())
            .map(|kind| u16::from_ne_bytes(*kind));
        let flags = answer
            .get(8..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |flags| u32::from_ne_bytes(*flags));
        let up = flags & libc::IFF_UP as u32 != 0 && flags & libc::IFF_LOOPBACK as u32 == 0;
        let attributes = || Attributes(answer.get(body.len()..).unwrap_or_default());
        let address = attributes()
            .find(libc::IFLA_ADDRESS)
            .and_then(|address| address.try_into().ok());
        let mtu = attributes().find(libc::IFLA_MTU).and_then(word);
        Ok(match (kind, address, mtu) {
            (Some(libc::ARPHRD_ETHER), Some(address), Some(mtu)) if up => Some(Link {
                address,
                mtu: mtu as usize,
            }),
            _ => None,
        })
    }

    /// One question, one answer: the body of the message of type `wanted`.
    fn ask(&mut self, question: u16, wanted: u16, body: &[u8], attributes: &[(u16, Vec<u8>)]) -> io::Result<&[u8]> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = vec![0; MESSAGE_HEADER];
        message.extend_from_slice(body);
        for (kind, value) in attributes {
            message.extend_from_slice(&((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes());
            message.extend_from_slice(&kind.to_ne_bytes());
            message.extend_from_slice(value);
            message.resize(message.len().next_multiple_of(ALIGN), 0);
        }
        let length = (message.len() as u32).to_ne_bytes();
        message[..4].copy_from_slice(&length);
        message[4..6].copy_from_slice(&question.to_ne_bytes());
        message[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        message[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.write_all(&message)?;
        for _ in 0..ANSWERS {
            let received = self.socket.read(&mut self.answer[..])?;
            let header = |at: usize| {
                self.answer[at..at + 4]
                    .first_chunk()
                    .map_or(0, |octets| u32::from_ne_bytes(*octets))
            };
            let end = (header(0) as usize).min(received);
            if end < MESSAGE_HEADER || header(8) != self.sequence {
                continue;
            }
            let kind = header(4) as u16;
            if i32::from(kind) == libc::NLMSG_ERROR {
                let error = header(MESSAGE_HEADER) as i32;
                return Err(io::Error::from_raw_os_error(-error));
            }
            if kind == wanted {
                return Ok(&self.answer[MESSAGE_HEADER..end]);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Attributes of a message: length, type, value, padded to words.
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    fn find(&mut self, wanted: u16) -> Option<&'a [u8]> {
        while let Some((header, rest)) = self.0.split_first_chunk::<ATTRIBUTE_HEADER>() {
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let value = length
                .checked_sub(ATTRIBUTE_HEADER)
                .and_then(|length| rest.get(..length))?;
            let kind = u16::from_ne_bytes([header[2], header[3]]) & libc::NLA_TYPE_MASK as u16;
            self.0 = self.0.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
            if kind == wanted {
                return Some(value);
            }
        }
        None
    }
}

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn bits(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(value)
        .ok()
        .map(|octets| Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_no_way_to_another_machine() {
        let mut netlink = Netlink::new().expect("a socket");
        let home: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(netlink.route(home, home).expect("an answer"), None);
        // Index 1 is the loopback in every network namespace.
        assert_eq!(netlink.link(1).expect("an answer"), None);
        let nobody = Hop {
            link: 1,
            neighbour: "192.0.2.1".parse().expect("an address"),
        };
        assert_eq!(netlink.neighbour(nobody).expect("an answer"), None);
        assert!(netlink.link(u32::MAX >> 1).is_err(), "no such link");
    }

    #[test]
    fn attributes_that_do_not_hold_end_the_search() {
        assert_eq!(Attributes(&[8, 0, 4, 0, 7, 0, 0, 0]).find(4), Some(&[7, 0, 0, 0][..]));
        assert_eq!(Attributes(&[9, 0, 4, 0, 7, 0, 0, 0]).find(4), None);
        assert_eq!(Attributes(&[0, 0, 4, 0]).find(4), None);
        assert_eq!(Attributes(&[5, 0, 3, 0, 1]).find(4), None);
    }
}
