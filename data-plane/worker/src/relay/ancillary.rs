//! What the kernel tells of a datagram besides its contents.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// What the control messages of a datagram said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ancillary {
    /// TOS or traffic-class octet.
    pub(super) tos: Option<u8>,
    /// The address it was sent to.
    pub(super) destination: Option<SocketAddr>,
}

/// Walks the control messages: length (of the machine's word), level, type, data, padded to words.
pub(super) fn read(mut control: &[u8]) -> Ancillary {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = WORD + 8;
    let mut told = Ancillary::default();
    while let Some((header, rest)) = control.split_first_chunk::<HEADER>() {
        let word = |at: usize| {
            header[at..at + 4]
                .first_chunk()
                .map_or(0, |octets| i32::from_ne_bytes(*octets))
        };
        let length = header.first_chunk().map_or(0, |octets| usize::from_ne_bytes(*octets));
        let Some(data) = length.checked_sub(HEADER).and_then(|length| rest.get(..length)) else {
            break;
        };
        match (word(WORD), word(WORD + 4)) {
            // One octet for IPv4, an int for IPv6; the value fits the octet of lowest weight.
            (libc::IPPROTO_IP, libc::IP_TOS) => told.tos = data.first().copied(),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                let class = data.first_chunk().map(|octets| i32::from_ne_bytes(*octets));
                told.tos = class.and_then(|class| u8::try_from(class).ok());
            }
            (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) | (libc::IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR) => {
                told.destination = read_address(data);
            }
            _ => {}
        }
        control = control.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    }
    told
}

/// A `sockaddr_in` or `sockaddr_in6` as the kernel wrote it.
pub(super) fn read_address(octets: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*octets.first_chunk()?));
    let port = u16::from_be_bytes(*octets.get(2..)?.first_chunk()?);
    match family {
        libc::AF_INET => {
            let ip: [u8; 4] = *octets.get(4..)?.first_chunk()?;
            Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port))
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = *octets.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*octets.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_could_not_have_written_is_no_address() {
        assert_eq!(read_address(&[]), None);
        assert_eq!(read_address(&[2, 0, 0x1F, 0x90, 127, 0, 0]), None);
        assert_eq!(
            read_address(&[2, 0, 0x1F, 0x90, 127, 0, 0, 1]),
            Some("127.0.0.1:8080".parse().expect("an address"))
        );
    }

    #[test]
    fn control_messages_that_do_not_hold_end_the_walk() {
        const MARKED: Ancillary = Ancillary {
            tos: Some(184),
            destination: None,
        };
        let mut control = vec![0; 40];
        control[..8].copy_from_slice(&17_usize.to_ne_bytes());
        control[8..12].copy_from_slice(&libc::IPPROTO_IP.to_ne_bytes());
        control[12..16].copy_from_slice(&libc::IP_TOS.to_ne_bytes());
        control[16] = 184;
        control[24..32].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(read(&control), MARKED);
        assert_eq!(read(&control[..20]), MARKED);
        assert_eq!(read(&[0; 16]), Ancillary::default());
    }
}
