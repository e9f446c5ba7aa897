//! A shard: one thread, one engine, its sockets.
//!
//! Readers of this thread call the engine directly, so that a message of a call that lives here crosses no queue. What
//! belongs to another shard is handed over; what comes from elsewhere arrives as an [`Input`].

mod effects;
pub mod input;
mod listen;
mod thread;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hashbrown::HashMap;
use tokio::sync::Notify;
use trunkline_engine::Engine;
use trunkline_engine::io::{ConnectionId, Env, Flow, Now, TransmitFailure};
use trunkline_shared::name::TrunkId;
use trunkline_shared::snapshot::Snapshot;
use trunkline_shared::trunk::Transport;

pub use self::thread::{ShardLoad, ShardThread, ShardThreads, SharedParts};

use self::input::{Input, Shards};
use crate::control::reports::ReportSender;
use crate::env::WorkerEnv;
use crate::net::connections::{Connections, Waiter};
use crate::net::tls::TlsTable;
use crate::net::udp::SipSocket;
use crate::relay::Relay;

/// Deadlines of the engine are seen to together, at ticks this far apart. The shortest of them is T1, 500 ms, an estimate of a
/// round trip; almost all end a transaction after 5 or 32 s. By itself each of them would wake the thread, six or more a call;
/// this bounds those wake-ups to 50 a second.
const TICK: Duration = Duration::from_millis(20);

/// A handle to the shard of this thread; cheap to clone, bound to the thread.
#[derive(Clone)]
pub struct Dispatcher(Rc<Shard>);

struct Shard {
    index: usize,
    engine: RefCell<Engine>,
    /// Relay commands a media thread had no room for, by thread; sent before any newer one.
    relay_backlog: RefCell<Vec<VecDeque<effects::RelayOrder>>>,
    /// Woken when the backlog is no longer empty.
    relay_waits: Notify,
    /// Name look-ups under way.
    resolves: Arc<AtomicUsize>,
    snapshot: RefCell<Arc<Snapshot>>,
    /// What the engine is to know of the world around it.
    world: thread::Watches,
    /// UDP sockets by the address they are bound to, with their trunk.
    sockets: RefCell<HashMap<SocketAddr, (TrunkId, Rc<SipSocket>)>>,
    /// Woken when the engine's next deadline came nearer than the one slept for.
    timer: Notify,
    /// The tick slept for.
    armed: Cell<Option<Instant>>,
    /// Where ticks are counted from.
    started: Instant,
    shards: Shards,
    connections: Arc<Connections>,
    env: Arc<WorkerEnv>,
    tls: Arc<TlsTable>,
    relay: Relay,
    reports: ReportSender,
    gauges: Arc<thread::ShardGauges>,
}

impl Dispatcher {
    /// All shards of the worker.
    pub fn shards(&self) -> &Shards {
        &self.0.shards
    }

    /// All connections of the worker.
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// Whether a connection is the flow of a binding.
    pub fn holds_binding(&self, connection: ConnectionId) -> bool {
        self.0.env.bindings.holds(connection)
    }

    /// Counts a stream that could not be cut into messages.
    pub fn count_unreadable_stream(&self, label: &'static str) {
        self.0.env.metrics.count_unreadable_stream(label);
    }

    /// A datagram: handled here or handed to its owner. A full queue loses it, counted; the sender repeats it.
    fn datagram(&self, flow: Flow, bytes: Bytes) {
        let owner = self.0.shards.owner(&bytes, self.0.index);
        if owner == self.0.index {
            self.drive(|engine, now, env| engine.handle_message(now, env, flow, bytes));
        } else if !self.0.shards.try_send(owner, Input::Message { flow, bytes }) {
            self.0.env.metrics.count_shard_overflow();
        }
    }

    /// A message of a connection: handled here or handed to its owner, waiting for room, which makes the peer wait.
    /// False when the owner has stopped.
    pub async fn message(&self, flow: &Flow, bytes: Bytes) -> bool {
        let owner = self.0.shards.owner(&bytes, self.0.index);
        if owner == self.0.index {
            self.drive(|engine, now, env| engine.handle_message(now, env, flow.clone(), bytes));
            return true;
        }
        self.0
            .shards
            .send(
                owner,
                Input::Message {
                    flow: flow.clone(),
                    bytes,
                },
            )
            .await
    }

    /// Gives an input to a shard, this one or another.
    pub async fn send(&self, shard: usize, input: Input) {
        if shard == self.0.index {
            self.input(input);
        } else {
            self.0.shards.send(shard, input).await;
        }
    }

    /// Tells whoever waits for a message that it was not sent. A shard too busy to listen has its own timers.
    pub fn transmit_failed(&self, waiter: Waiter, failure: TransmitFailure) {
        let input = Input::TransmitFailed(waiter, failure);
        if waiter.shard == self.0.index {
            self.input(input);
        } else if !self.0.shards.try_send(waiter.shard, input) {
            self.0.env.metrics.count_shard_overflow();
        }
    }

    fn input(&self, input: Input) {
        self.drive(|engine, now, env| match input {
            Input::Message { flow, bytes } => engine.handle_message(now, env, flow, bytes),
            Input::TransmitFailed(waiter, failure) => engine.handle_transmit_failed(now, env, waiter.token, failure),
            Input::Resolved(id, result) => engine.handle_resolved(now, env, id, result),
            Input::ConnectionClosed(id) => engine.handle_connection_closed(now, env, id),
            Input::Relay(session, event) => engine.handle_relay_event(now, env, session, event),
            Input::HangUp(call, answer) => {
                // Whoever asked may have stopped waiting.
                let _ = answer.send(engine.hang_up(now, env, call));
            }
        });
    }

    /// Calls the engine, does what it asks for, and sees to its next deadline.
    fn drive(&self, call: impl FnOnce(&mut Engine, Now, &dyn Env)) {
        let now = Now {
            mono: Instant::now(),
            wall: SystemTime::now(),
        };
        let mut engine = self.0.engine.borrow_mut();
        call(&mut engine, now, &*self.0.env);
        self.carry_out(&mut engine, now);
        self.0.gauges.set(engine.gauges());
        let deadline = engine.poll_timeout();
        if deadline.is_some_and(|deadline| self.0.armed.get().is_none_or(|armed| self.tick(deadline) < armed)) {
            self.0.timer.notify_one();
        }
    }

    /// The engine's clock: sleeps until its next deadline, or until a nearer one appears.
    async fn run_timers(self) {
        loop {
            let deadline = self
                .0
                .engine
                .borrow()
                .poll_timeout()
                .map(|deadline| self.tick(deadline));
            self.0.armed.set(deadline);
            match deadline {
                None => self.0.timer.notified().await,
                Some(deadline) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(deadline.into()) => {
                            self.drive(|engine, now, env| engine.handle_timeout(now, env));
                        }
                        () = self.0.timer.notified() => {}
                    }
                }
            }
        }
    }

    /// The tick at which a deadline is seen to; see [`TICK`].
    fn tick(&self, deadline: Instant) -> Instant {
        let since = deadline.saturating_duration_since(self.0.started).as_micros() as u64;
        self.0.started + Duration::from_micros(since.next_multiple_of(TICK.as_micros() as u64))
    }

    /// A UDP socket to reach `remote` from: the trunk's, of the same family.
    fn socket_of(&self, trunk: &TrunkId, remote: SocketAddr) -> Option<Rc<SipSocket>> {
        let sockets = self.0.sockets.borrow();
        let fits = |local: &SocketAddr| local.is_ipv4() == remote.is_ipv4();
        // Retired sockets of the trunk may still be there: the configured port is the one to send from. Of several
        // addresses it is the lowest, which is the first listener, whose address the engine has put into the Via.
        let port = self.0.snapshot.borrow().trunk(trunk).map(|trunk| trunk.listen_port);
        sockets
            .iter()
            .filter(|(local, (owner, _))| owner == trunk && fits(local))
            .min_by_key(|(local, _)| (Some(local.port()) != port, **local))
            .map(|(_, (_, socket))| Rc::clone(socket))
    }

    /// The trunk as configured now.
    fn trunk(&self, id: &TrunkId) -> Option<Arc<trunkline_shared::trunk::Trunk>> {
        self.0.snapshot.borrow().trunk(id).cloned()
    }
}

/// Transport of a connection as its peer key has it.
const fn is_stream(transport: Transport) -> bool {
    matches!(transport, Transport::Tcp | Transport::Tls)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
