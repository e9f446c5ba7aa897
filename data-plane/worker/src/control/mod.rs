//! The worker's side of the control plane: identity, configuration, registrations, reports.
//!
//! Each of three streams has a connection of its own, so that a large set of registrations holds up no configuration, and
//! each finds back by itself. Nothing on the way of a call waits for any of them: configuration reaches the shards by a
//! `watch`, reports leave them by a queue, and a worker without its control plane works by what is on its disk:
//!
//! | in the state directory | what | written |
//! |---|---|---|
//! | `identity/` | worker id, key and certificate, authorities | at enrollment and renewal |
//! | `configuration` | last accepted configuration, secrets included | after it is in force |
//! | `bindings/` | registrations of all workers | with every change of another worker; ours every 100 ms |
//! | `spool/intake-*` | reports of the last moment, mapped | with every report |
//! | `spool/` | reports not yet stored by the control plane | every 100 ms |

pub mod backoff;
pub mod bindings;
pub mod client;
pub mod configuration;
pub mod file;
pub mod identity;
pub mod intake;
pub mod journal;
pub mod link;
pub mod record;
pub mod reports;
#[cfg(test)]
mod scripted;
pub mod spool;
pub mod watchdog;

use std::time::SystemTime;

use uuid::Uuid;

/// One life of the worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// New with every process; names its spool too.
    pub id: Uuid,
    /// When it began.
    pub time: SystemTime,
}

impl Boot {
    /// This process, beginning now.
    pub fn begin() -> Self {
        Self {
            id: Uuid::now_v7(),
            time: SystemTime::now(),
        }
    }
}
