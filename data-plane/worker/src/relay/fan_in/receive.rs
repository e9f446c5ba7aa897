//! Receiving many datagrams of many ports with one system call.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use crate::relay::burst::{BURST, Burst, DATAGRAM};

/// Room for the TOS octet and the original destination, with the kernel's headers: at most 24 and 48 octets.
const CONTROL: usize = 96;
/// Length of `sockaddr_in6`, the longer of the two address forms.
const NAME: usize = 28;

/// A received datagram; it stands in its slot of the burst.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) slot: usize,
    /// 0 for a datagram that did not fit: it is no RTP packet.
    pub(super) length: usize,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) tos: u8,
}

/// What the kernel tells of each datagram, reused from call to call.
pub(super) struct Room {
    headers: Box<[libc::mmsghdr; BURST]>,
    vectors: Box<[libc::iovec; BURST]>,
    names: Box<[Name; BURST]>,
    controls: Box<[Control; BURST]>,
}

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Name([u8; NAME]);

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

// SAFETY: the pointers in headers and vectors are written anew by every call and not looked at in between.
#[expect(unsafe_code, reason = "raw pointers of the system call's arrays, see there")]
unsafe impl Send for Room {}

impl Room {
    #[expect(
        unsafe_code,
        reason = "an all-zero header array; libc offers no other way to make one"
    )]
    pub(super) fn new() -> Room {
        // SAFETY: both are plain C structures of integers and pointers, for which all zero is a valid value.
        let (headers, vectors) = unsafe { (Box::new(std::mem::zeroed()), Box::new(std::mem::zeroed())) };
        Room {
            headers,
            vectors,
            names: Box::new([Name([0; NAME]); BURST]),
            controls: Box::new([Control([0; CONTROL]); BURST]),
        }
    }

    /// Receives into the slots of the burst from `first` on; gives how many slots were filled. Datagrams without a
    /// destination are left out of `each`: without the option set on the socket there is none.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits; others as the system gives them.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        burst: &mut Burst,
        first: usize,
        mut each: impl FnMut(&mut Burst, Received),
    ) -> io::Result<usize> {
        let count = self.call(socket, burst, first)?;
        for index in 0..count {
            let header = &self.headers[index];
            let control = &self.controls[index].0[..header.msg_hdr.msg_controllen.min(CONTROL)];
            let (tos, destination) = read_control(control);
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            if let (Some(source), Some(destination)) = (read_address(&self.names[index].0), destination) {
                let received = Received {
                    slot: first + index,
                    length: if cut { 0 } else { header.msg_len as usize },
                    source,
                    destination,
                    tos,
                };
                each(burst, received);
            }
        }
        Ok(count)
    }

    #[expect(unsafe_code, reason = "recvmmsg; no crate of ours offers it with ancillary data")]
    fn call(&mut self, socket: &UdpSocket, burst: &mut Burst, first: usize) -> io::Result<usize> {
        let room = BURST - first;
        for index in 0..room {
            let datagram = &mut burst.datagram(first + index)[..DATAGRAM];
            self.vectors[index] = libc::iovec {
                iov_base: datagram.as_mut_ptr().cast(),
                iov_len: datagram.len(),
            };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = self.names[index].0.as_mut_ptr().cast();
            header.msg_namelen = NAME as libc::socklen_t;
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
            header.msg_flags = 0;
        }
        // SAFETY: the first `room` headers point to storage of `self` and `burst`, with its true lengths, which both
        // outlive the call; no timeout is given.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                room as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// Walks the control messages: length (of the machine's word), level, type, data, padded to words.
fn read_control(mut control: &[u8]) -> (u8, Option<SocketAddr>) {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = WORD + 8;
    let (mut tos, mut destination) = (0, None);
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
            (libc::IPPROTO_IP, libc::IP_TOS) => tos = data.first().copied().unwrap_or(0),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                let class = data.first_chunk().map_or(0, |octets| i32::from_ne_bytes(*octets));
                tos = u8::try_from(class).unwrap_or(0);
            }
            (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) | (libc::IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR) => {
                destination = read_address(data);
            }
            _ => {}
        }
        control = control.get(length.next_multiple_of(WORD)..).unwrap_or_default();
    }
    (tos, destination)
}

/// A `sockaddr_in` or `sockaddr_in6` as the kernel wrote it.
fn read_address(octets: &[u8]) -> Option<SocketAddr> {
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
        let mut control = vec![0; 40];
        control[..8].copy_from_slice(&17_usize.to_ne_bytes());
        control[8..12].copy_from_slice(&libc::IPPROTO_IP.to_ne_bytes());
        control[12..16].copy_from_slice(&libc::IP_TOS.to_ne_bytes());
        control[16] = 184;
        control[24..32].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(read_control(&control), (184, None));
        assert_eq!(read_control(&control[..20]), (184, None));
        assert_eq!(read_control(&[0; 16]), (0, None));
    }
}
