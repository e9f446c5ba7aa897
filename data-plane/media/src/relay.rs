//! The relay core: which packet of which leg goes where, and how it looks when it leaves.
//!
//! Pure: no socket, no clock. A back-end owns the sockets of the leased ports and calls
//! [`RelaySession::handle_packet`] with each datagram, or [`relay_burst`] with as many as there are; the packet is rewritten
//! in place and the [`Verdict`] says where it goes. A packet of leg A can only leave on leg B and the other way round.

mod burst;
mod config;
mod report;
mod session;
mod side;
mod snapshot;
mod verdict;
mod way;

pub use burst::{BurstPacket, MAX_BATCH, SessionTable, relay_burst};
pub use config::{
    Component, Direction, IdleTimers, LegConfig, LegId, LocalPort, MAX_STREAMS, MediaPath, PayloadMap, PayloadRule,
    PerLeg, PortId, RemoteMedia, SessionConfig, SourcePolicy, SrtpParams, StreamConfig, StreamLeg,
};
pub use report::{LegStats, RemoteReport, Traffic};
pub use session::{IdleLeg, RelaySession};
pub use side::OLD_KEY_GRACE;
pub use snapshot::{LegSnapshot, RelaySnapshot};
pub use verdict::{DropCounts, DropReason, Verdict};

#[cfg(test)]
mod tests;
