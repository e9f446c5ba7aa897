//! What workers report: calls, registrations, failures. Stored once however often it is sent, then shown live.

mod bindings;
mod calls;
mod reports;
mod upkeep;

pub use bindings::{BindingStreams, Bindings};
pub use calls::LiveCalls;
pub use reports::Reports;
pub use upkeep::{Upkeep, UpkeepError};
