//! What every binary needs around its own work: logs and traces, and an orderly end.

pub mod drain;
pub mod telemetry;
