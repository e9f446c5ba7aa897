//! The engine: the only place where SIP, media and trunks meet.
//!
//! Sans-IO. One [`Engine`] per shard; a worker drives it through [`io`]:
//!
//! - `Engine::new(EngineConfig, rng)`; `set_snapshot(now, Arc<Snapshot>)`, `set_listeners(Arc<[Listener]>)`, `drain(bool)`
//! - `handle_message(now, &env, Flow, Bytes)`: one datagram, or one framed message of a connection
//! - `handle_transmit_failed(now, &env, TransmitToken, TransmitFailure)`
//! - `handle_resolved(now, &env, ResolveId, Result<Vec<SocketAddr>, ResolveFailed>)`
//! - `handle_connection_closed(now, &env, ConnectionId)`
//! - `handle_relay_event(now, &env, SessionId, RelayEvent)`
//! - `hang_up(now, &env, ConversationId) -> bool`
//! - `handle_timeout(now, &env)`, `poll_timeout() -> Option<Instant>`, `poll_effect() -> Option<Effect>`, `gauges() -> Gauges`
//!
//! After any `handle_*` or command: `poll_effect` until `None`, then `poll_timeout`.

pub mod io;
pub mod metrics;
