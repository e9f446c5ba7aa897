//! AF_PACKET: frames out in batches, frames in through a ring the kernel fills and stamps.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use std::ffi::{CString, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::network::{MEDIA_PORTS_FROM, MEDIA_PORTS_TO};

/// Room for one frame: 14 + 20 + 8 octets of headers, 172 of RTP, a tag.
pub const FRAME: usize = 256;
/// Frames sent with one system call, and so under one time stamp. A frame takes 1 to 2 µs to its receiver's queue: the last of
/// eight is stamped some 12 µs early at most, which is in the latency of the direct way too.
pub const BATCH: usize = 8;

/// A block of the ring holds some four hundred frames: 4 ms of 100,000 a second.
const BLOCK: usize = 128 * 1024;
/// 16 MB: half a second of 100,000 frames a second while the generator does not run.
const BLOCKS: usize = 128;
/// A block that is not full is handed over after this long, in milliseconds: the arrival is stamped, so this is no latency.
const RETIRE_MS: u32 = 4;

/// Nanoseconds of the wall clock, which is what the kernel stamps frames with.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sends frames on one interface.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
}

impl Sender {
    /// Opens the interface of this thread's network namespace.
    ///
    /// # Errors
    /// When there is none of that name, or this process may not.
    pub fn open(link: &str) -> Result<Self> {
        // Protocol 0: nothing is received.
        let socket = open(link, 0)?;
        set(&socket, libc::PACKET_QDISC_BYPASS, &1_i32).context("bypass the queueing discipline")?;
        Ok(Self { socket })
    }

    /// Sends frames, at most [`BATCH`]; returns how many went out.
    ///
    /// # Errors
    /// When not even the first can be sent.
    #[expect(unsafe_code, reason = "sendmmsg; no crate of ours wraps it")]
    pub fn send(&self, frames: &mut [([u8; FRAME], usize)]) -> io::Result<usize> {
        // SAFETY: all zeros is a valid iovec and mmsghdr: no addresses, no lengths.
        let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { std::mem::zeroed() };
        let count = frames.len().min(BATCH);
        for ((frame, length), (vector, header)) in frames.iter_mut().zip(vectors.iter_mut().zip(&mut headers)) {
            vector.iov_base = frame.as_mut_ptr().cast();
            vector.iov_len = (*length).min(FRAME);
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the first `count` headers each point at a vector, and each vector at a frame with its true length; all
        // outlive the call.
        let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), count as u32, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Media frames that arrive on one interface, stamped by the kernel.
#[derive(Debug)]
pub struct Ring {
    socket: OwnedFd,
    blocks: *mut u8,
    next: usize,
}

impl Ring {
    /// Opens the interface of this thread's network namespace; what it sends itself is not received.
    ///
    /// # Errors
    /// When there is none of that name, or this process may not.
    #[expect(unsafe_code, reason = "maps the ring")]
    pub fn open(link: &str) -> Result<Self> {
        let socket = open(link, 0)?;
        let version: c_int = libc::tpacket_versions::TPACKET_V3 as c_int;
        set(&socket, libc::PACKET_VERSION, &version).context("ask for TPACKET_V3")?;
        set(&socket, libc::PACKET_IGNORE_OUTGOING, &1_i32).context("ignore what is sent")?;
        filter(&socket).context("set the filter")?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: 2048,
            tp_frame_nr: (BLOCK / 2048 * BLOCKS) as u32,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::PACKET_RX_RING, &request).context("make the ring")?;
        // SAFETY: a fresh mapping of the ring's whole length, which the kernel has just made; nothing else is unmapped.
        let blocks = unsafe {
            libc::mmap(
                ptr::null_mut(),
                BLOCK * BLOCKS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                0,
            )
        };
        ensure!(
            blocks != libc::MAP_FAILED,
            "map the ring: {}",
            io::Error::last_os_error()
        );
        let ring = Self {
            socket,
            blocks: blocks.cast(),
            next: 0,
        };
        // Receiving begins with the protocol: all of them, since only those readers see frames to other hosts.
        bind(&ring.socket, link, libc::ETH_P_ALL as u16)?;
        Ok(ring)
    }

    /// Gives every frame that has arrived to `take`, with the nanosecond of its arrival, and returns how many there were.
    /// A block still being filled is left for later.
    #[expect(unsafe_code, reason = "reads the ring")]
    pub fn drain(&mut self, mut take: impl FnMut(u64, &[u8])) -> usize {
        let mut frames = 0;
        loop {
            // SAFETY: `next` is below BLOCKS, so the block lies inside the mapping, which lives as long as `self`, and blocks are
            // aligned to pages.
            let block = unsafe { self.blocks.add(self.next * BLOCK) };
            let description = block.cast::<libc::tpacket_block_desc>();
            // SAFETY: the kernel writes the status of a version-1 block header with release order; nobody moves the field.
            let status = unsafe { AtomicU32::from_ptr(&raw mut (*description).hdr.bh1.block_status) };
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return frames;
            }
            // SAFETY: the block is ours until its status says otherwise: the kernel writes nothing in it meanwhile.
            let (octets, head) = unsafe { (std::slice::from_raw_parts(block, BLOCK), (*description).hdr.bh1) };
            frames += walk(octets, head.offset_to_first_pkt as usize, head.num_pkts, &mut take);
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % BLOCKS;
        }
    }

    /// Frames that found no room since the last question.
    ///
    /// # Errors
    /// When the kernel does not say.
    #[expect(unsafe_code, reason = "getsockopt; no crate of ours knows this one")]
    pub fn dropped(&self) -> Result<u64> {
        let mut statistics = libc::tpacket_stats_v3 {
            tp_packets: 0,
            tp_drops: 0,
            tp_freeze_q_cnt: 0,
        };
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` octets into a structure of that length.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast::<c_void>(),
                &raw mut length,
            )
        };
        ensure!(
            result == 0,
            "read the ring's statistics: {}",
            io::Error::last_os_error()
        );
        Ok(statistics.tp_drops.into())
    }
}

impl Drop for Ring {
    #[expect(unsafe_code, reason = "unmaps the ring")]
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, has this length, and no slice of it outlives `drain`.
        unsafe { libc::munmap(self.blocks.cast(), BLOCK * BLOCKS) };
    }
}

/// The frames of a block, each with an offset to the next.
fn walk(block: &[u8], first: usize, count: u32, take: &mut impl FnMut(u64, &[u8])) -> usize {
    let mut at = first;
    for taken in 0..count as usize {
        let word = |field: usize| {
            let octets = block.get(at + field..)?.first_chunk()?;
            Some(u32::from_ne_bytes(*octets))
        };
        let fields = (
            word(std::mem::offset_of!(libc::tpacket3_hdr, tp_next_offset)),
            word(std::mem::offset_of!(libc::tpacket3_hdr, tp_sec)),
            word(std::mem::offset_of!(libc::tpacket3_hdr, tp_nsec)),
            word(std::mem::offset_of!(libc::tpacket3_hdr, tp_snaplen)),
            word(std::mem::offset_of!(libc::tpacket3_hdr, tp_mac)),
        );
        let (Some(next), Some(seconds), Some(nanoseconds), Some(length), Some(mac)) = fields else {
            return taken;
        };
        // `tp_mac` is 16 bits; the other 16 of this word are `tp_net`.
        let start = at + usize::from(mac as u16);
        let Some(frame) = block.get(start..start + length as usize) else {
            return taken;
        };
        take(u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds), frame);
        at += next as usize;
    }
    count as usize
}

fn open(link: &str, protocol: u16) -> Result<OwnedFd> {
    let socket = raw_socket().context("open a packet socket")?;
    bind(&socket, link, protocol)?;
    Ok(socket)
}

#[expect(unsafe_code, reason = "a packet socket")]
fn raw_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is checked and then owned by nobody else.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(socket))
    }
}

#[expect(unsafe_code, reason = "bind to an interface")]
fn bind(socket: &OwnedFd, link: &str, protocol: u16) -> Result<()> {
    let name = CString::new(link).context("an interface name holds no NUL")?;
    // SAFETY: `name` is a string that ends in NUL and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no interface {link}: {}", io::Error::last_os_error());
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as c_int;
    // SAFETY: the address is a sockaddr_ll of the length given and outlives the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    ensure!(result == 0, "bind to {link}: {}", io::Error::last_os_error());
    Ok(())
}

/// Sets an option of the packet level; `value` must be what the option wants.
fn set<T: Copy>(socket: &OwnedFd, option: c_int, value: &T) -> io::Result<()> {
    set_at(socket, libc::SOL_PACKET, option, value)
}

#[expect(unsafe_code, reason = "setsockopt; no crate of ours knows these")]
fn set_at<T: Copy>(socket: &OwnedFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads at most the value's own length, and copies what it keeps.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Only UDP over IPv4 to the media ports comes through, without IP options and first fragments only.
fn filter(socket: &OwnedFd) -> io::Result<()> {
    const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    const LOAD_OCTET: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const ANY: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, k: u32, yes: u8, no: u8| libc::sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    };
    let mut steps = [
        step(LOAD_HALF, 12, 0, 0),
        step(EQUAL, 0x0800, 0, 10),
        step(LOAD_OCTET, 14, 0, 0),
        step(EQUAL, 0x45, 0, 8),
        step(LOAD_HALF, 20, 0, 0),
        step(ANY, 0x1FFF, 6, 0),
        step(LOAD_OCTET, 23, 0, 0),
        step(EQUAL, 17, 0, 4),
        step(LOAD_HALF, 36, 0, 0),
        step(AT_LEAST, MEDIA_PORTS_FROM.into(), 0, 2),
        step(AT_LEAST, MEDIA_PORTS_TO.into(), 1, 0),
        step(RETURN, u32::MAX, 0, 0),
        step(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    set_at(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}
