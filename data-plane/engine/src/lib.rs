//! The engine: the only place where SIP, media and trunks meet.
//!
//! Sans-IO. One [`Engine`] per shard; a worker drives it through [`io`]:
//!
//! - [`Engine::new`]`(EngineConfig, rng)`, [`Engine::set_snapshot`], [`Engine::set_listeners`], [`Engine::drain`]
//! - [`Engine::handle_message`]: one datagram, or one framed message of a connection
//! - [`Engine::handle_transmit_failed`], [`Engine::handle_resolved`], [`Engine::handle_connection_closed`],
//!   [`Engine::handle_relay_event`], [`Engine::handle_timeout`]
//! - [`Engine::hang_up`]
//! - [`Engine::poll_effect`], [`Engine::poll_timeout`], [`Engine::gauges`]
//!
//! After any `handle_*` or command: `poll_effect` until `None`, then `poll_timeout`.
//!
//! The way of a request: `inbound` parses it and gives it to its transaction; `admission` and `auth` decide whether it is let
//! in; `registrar`, `call`, or `proxy` serve it, with `routing` for its targets and `forward` for what it looks like when
//! it leaves. `refuse` turns every refusal into its answer.

mod admission;
mod auth;
mod call;
mod engine;
mod forward;
mod identify;
mod inbound;
pub mod io;
mod media;
pub mod metrics;
mod proxy;
mod refuse;
mod registrar;
mod routing;
mod token;

pub use engine::{Engine, EngineConfig, Gauges};
pub use io::shard_of;
