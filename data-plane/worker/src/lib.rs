//! The data-plane worker: sockets, threads, TLS, the control-plane client and metrics around the engine.
//!
//! It decides nothing about messages or packets; that is the engine's and the relay core's. It owns everything that
//! blocks, waits or fails outside of the process.

#![expect(
    clippy::disallowed_methods,
    reason = "this crate owns the clock that the others take as an argument"
)]

pub mod app;
pub mod control;
pub mod env;
pub mod http;
pub mod metrics;
pub mod net;
pub mod options;
pub mod relay;
pub mod shard;
pub mod trace;
