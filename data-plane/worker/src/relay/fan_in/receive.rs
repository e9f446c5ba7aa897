//! Receiving many datagrams of many ports with one system call.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use crate::relay::ancillary::{self, Ancillary};
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
            let Ancillary { tos, destination } = ancillary::read(control);
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            if let (Some(source), Some(destination)) = (ancillary::read_address(&self.names[index].0), destination) {
                let received = Received {
                    slot: first + index,
                    length: if cut { 0 } else { header.msg_len as usize },
                    source,
                    destination,
                    tos: tos.unwrap_or(0),
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
