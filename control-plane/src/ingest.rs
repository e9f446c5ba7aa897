//! What workers report: calls, registrations, failures. Stored once however often it is sent, then shown live.

mod bindings;
mod reports;
mod upkeep;

pub use bindings::BindingStreams;
pub use reports::Reports;
pub use upkeep::{Upkeep, UpkeepError};
