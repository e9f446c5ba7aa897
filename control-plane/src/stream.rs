//! Configuration to the workers.
//!
//! ```text
//! store ─► source (one task) ─► catalogue (immutable, shared) ─► service (a task per stream) ─► worker
//!                                                                  └ session: what this worker lacks
//! ```
//!
//! What the workers say of themselves is in [`Fleet`], where the API reads it.

pub mod catalogue;
mod fleet;
mod service;
pub mod session;
mod source;

pub use fleet::{Attachment, CommandError, Fleet, PendingCommand, Slot, WorkerState};
pub use service::ConfigurationStreams;
pub use source::CatalogueSource;
