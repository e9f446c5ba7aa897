//! The BPF program that steers leased ports, loaded and attached.
//!
//! The program is `bpf/steer.bpf.c`; its object is committed beside it, so that building the worker needs no clang.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};

use aya::maps::{Array, MapData, MapError, SockMap};
use aya::programs::{ProgramError, SkLookup};
use aya::{Ebpf, EbpfError, EbpfLoader};

/// The program, aligned as its parser wants it.
const OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/steer.bpf.o");
/// What the program's map of leases holds for a port: place of the socket plus one, and the address in network order.
type Lease = [u32; 5];

/// Why ports cannot be steered.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// The kernel has no such program type or the process no right to load one (CAP_BPF, CAP_NET_ADMIN).
    #[error("load the steering program")]
    Load(#[source] EbpfError),
    /// The same, found when the program itself was loaded or attached.
    #[error("attach the steering program")]
    Attach(#[from] ProgramError),
    /// The map of leases or of sockets.
    #[error("use the steering program's map")]
    Map(#[from] MapError),
    /// The network namespace of the process.
    #[error("open the network namespace")]
    Namespace(#[source] io::Error),
    /// The object is not the program of this version.
    #[error("the steering program has no {0}")]
    Incomplete(&'static str),
}

/// The program while it is attached to the network namespace of the thread that made it; several workers may share one.
pub(super) struct Steering {
    /// Dropping it detaches the program.
    _program: Ebpf,
    /// Written when a port is opened and closed, by whichever media thread does it.
    leases: Mutex<Array<MapData, Lease>>,
    sockets: Mutex<SockMap<MapData>>,
}

impl Steering {
    /// Loads and attaches the program.
    ///
    /// # Errors
    /// When the kernel or the process's rights do not allow it.
    pub(super) fn attach() -> Result<Steering, SteeringError> {
        // The program touches nothing whose layout depends on the kernel, whose megabytes of types stay unread.
        let mut program = EbpfLoader::new().btf(None).load(OBJECT).map_err(SteeringError::Load)?;
        let leases = program
            .take_map("leases")
            .ok_or(SteeringError::Incomplete("map of leases"))?;
        let sockets = program
            .take_map("sockets")
            .ok_or(SteeringError::Incomplete("map of sockets"))?;
        let steer: &mut SkLookup = program
            .program_mut("steer")
            .ok_or(SteeringError::Incomplete("entry"))?
            .try_into()?;
        steer.load()?;
        steer.attach(File::open("/proc/thread-self/ns/net").map_err(SteeringError::Namespace)?)?;
        Ok(Steering {
            leases: Mutex::new(Array::try_from(leases)?),
            sockets: Mutex::new(SockMap::try_from(sockets)?),
            _program: program,
        })
    }

    /// Makes a socket known at a place.
    pub(super) fn add_socket(&self, place: u32, socket: &UdpSocket) -> Result<(), SteeringError> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(sockets.set(place, socket, 0)?)
    }

    /// Steers what arrives on `local` to the socket at a place from now on.
    pub(super) fn steer(&self, local: SocketAddr, place: u32) -> Result<(), SteeringError> {
        let mut lease = [place + 1, 0, 0, 0, 0];
        match local.ip() {
            IpAddr::V4(ip) => lease[1] = u32::from_ne_bytes(ip.octets()),
            IpAddr::V6(ip) => {
                for (word, octets) in lease[1..].iter_mut().zip(ip.octets().as_chunks().0) {
                    *word = u32::from_ne_bytes(*octets);
                }
            }
        }
        self.set(local.port(), lease)
    }

    /// Leaves what arrives on the port to the kernel's own ways again.
    pub(super) fn release(&self, port: u16) -> Result<(), SteeringError> {
        self.set(port, [0; 5])
    }

    fn set(&self, port: u16, lease: Lease) -> Result<(), SteeringError> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(leases.set(u32::from(port), lease, 0)?)
    }
}
