//! One media thread: the sessions it owns, and the loop around them.
//!
//! Priorities of the loop, in order: packets, in bursts until none wait or a turn is over; commands; idle supervision.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use slab::Slab;
use smallvec::SmallVec;
use trunkline_engine::io::{RelayCommand, RelayEvent, SessionId};
use trunkline_media::packet::PacketBuf;
use trunkline_media::relay::{
    BurstPacket, Component, LegId, LocalPort, PerLeg, RelaySession, SessionConfig, SessionTable, Verdict, relay_burst,
};

use super::Order;
use super::burst::{BURST, Burst};
use super::counters::{Batch, RelayCounters};
use super::pool::PortPool;
use super::wire::{Leaving, Place, PortKey, Wire};
use crate::shard::input::{Input, Shards};

/// How often idle sessions are looked for; idle timers are minutes.
const SWEEP: Duration = Duration::from_millis(500);
/// Bursts before commands get their turn: about a millisecond of packets that need the most work.
const TURN: usize = 16;
/// Commands carried out before packets get their turn again: a thousand calls that begin together must not be heard.
const ORDERS: usize = 64;
/// How often a leg that stays silent is told again: the shard may not have been able to act on it the first time.
const IDLE_AGAIN: Duration = Duration::from_secs(30);

pub(super) struct MediaThread<W> {
    wire: W,
    orders: Receiver<Order>,
    pool: Arc<PortPool>,
    shards: Shards,
    totals: Arc<RelayCounters>,
    sessions: Sessions,
    burst: Burst,
    batch: Batch,
}

/// Boxed, so that the table may grow and shrink around calls that stay.
#[derive(Default)]
struct Sessions {
    keys: HashMap<SessionId, usize>,
    table: Slab<Box<Session>>,
}

struct Session {
    id: SessionId,
    relay: RelaySession,
    /// Local ports and their number in the wire: two to four a stream.
    ports: SmallVec<[(LocalPort, PortKey); 4]>,
    /// When it was last told idle: the shard ends the call.
    idle_told: Option<Instant>,
}

impl<W: Wire> MediaThread<W> {
    pub(super) fn new(
        wire: W,
        orders: Receiver<Order>,
        pool: Arc<PortPool>,
        shards: Shards,
        totals: Arc<RelayCounters>,
    ) -> MediaThread<W> {
        MediaThread {
            wire,
            orders,
            pool,
            shards,
            totals,
            sessions: Sessions::default(),
            burst: Burst::new(),
            batch: Batch::default(),
        }
    }

    pub(super) fn run(mut self) {
        let mut next_sweep = Instant::now() + SWEEP;
        let mut unfinished = false;
        loop {
            let patience = if unfinished {
                Duration::ZERO
            } else {
                next_sweep.saturating_duration_since(Instant::now())
            };
            if let Err(error) = self.wire.wait(patience)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "media sockets cannot be waited for; the media thread ends");
                return;
            }
            // One clock reading per round: packets of a round arrived within the round.
            let now = Instant::now();
            let more_packets = self.relay_waiting(now);
            let Some(more_orders) = self.obey(now) else { return };
            unfinished = more_packets || more_orders;
            if now >= next_sweep {
                self.sweep(now);
                next_sweep = now + SWEEP;
            }
        }
    }

    /// Relays what waits, up to a turn; whether more may be waiting.
    fn relay_waiting(&mut self, now: Instant) -> bool {
        let mut more = true;
        for _ in 0..TURN {
            more = self.wire.receive(&mut self.burst);
            self.relay(now);
            self.wire.send(&mut self.burst, &mut self.batch);
            if !more {
                break;
            }
        }
        self.batch.add_to(&self.totals);
        more
    }

    /// Takes the burst from what arrived to what leaves.
    fn relay(&mut self, now: Instant) {
        for packet in &self.burst.arrived {
            if let Some(session) = self.sessions.table.get(packet.place.session) {
                prefetch(&**session);
            }
        }
        let (arrived, leaving) = self.burst.split();
        let (mut slots, mut packets) = (SmallVec::<[usize; BURST]>::new(), SmallVec::<[_; BURST]>::new());
        for (arrived, storage) in arrived {
            let Place { session, port } = arrived.place;
            let packet = PacketBuf::new(storage, arrived.length);
            slots.push(arrived.slot);
            packets.push(BurstPacket::new(session, port, arrived.source, arrived.tos, packet));
        }
        relay_burst(now, &mut self.sessions, &mut packets);
        for (slot, packet) in slots.iter().zip(&packets) {
            match packet.verdict {
                Verdict::Forward { from, destination } => {
                    let port = self
                        .sessions
                        .table
                        .get(packet.session)
                        .and_then(|session| session.port(from));
                    leaving.extend(port.map(|from| Leaving {
                        slot: *slot,
                        length: packet.packet.len(),
                        from,
                        destination,
                    }));
                }
                Verdict::Drop(reason) => self.batch.dropped[reason as usize] += 1,
            }
        }
    }

    /// Carries out waiting commands, up to its share; whether there may be more, `None` when told to stop.
    fn obey(&mut self, now: Instant) -> Option<bool> {
        for _ in 0..ORDERS {
            match self.orders.try_recv() {
                Ok(Order::Command(id, RelayCommand::Apply(config))) => self.apply(now, id, *config),
                Ok(Order::Command(id, RelayCommand::Close)) => self.close(id),
                Err(TryRecvError::Empty) => return Some(false),
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return None,
            }
        }
        Some(true)
    }

    fn apply(&mut self, now: Instant, id: SessionId, config: SessionConfig) {
        let key = match self.sessions.keys.get(&id) {
            Some(key) => {
                self.sessions.table[*key].relay.apply(now, config);
                *key
            }
            None => {
                self.totals.session_began();
                let key = self.sessions.table.insert(Box::new(Session {
                    id,
                    relay: RelaySession::new(now, config),
                    ports: SmallVec::new(),
                    idle_told: None,
                }));
                self.sessions.keys.insert(id, key);
                key
            }
        };
        self.fit_ports(key);
        self.mark(key);
    }

    /// Opens and closes ports until they are those of the session.
    fn fit_ports(&mut self, key: usize) {
        let session = &mut self.sessions.table[key];
        // Both ports of a pair are kept while the pair is used: with rtcp-mux the odd one only holds its number.
        let pairs: SmallVec<[_; 4]> = session.relay.local_ports().map(|port| port.pair).collect();
        session.ports.retain(|(port, number)| {
            let wanted = pairs.contains(&port.pair);
            if !wanted {
                self.wire.close(*number);
            }
            wanted
        });
        for pair in pairs {
            if session.ports.iter().any(|(port, _)| port.pair == pair) {
                continue;
            }
            let Some(bound) = self.pool.take_sockets(pair) else {
                tracing::warn!(?pair, "media ports were given back before their session began");
                continue;
            };
            for (socket, component) in [(bound.rtp, Component::Rtp), (bound.rtcp, Component::Rtcp)] {
                let port = LocalPort { pair, component };
                match self.wire.open(Place { session: key, port }, socket) {
                    Ok(number) => session.ports.push((port, number)),
                    Err(error) => tracing::error!(%error, "media port could not be opened"),
                }
            }
        }
    }

    /// Marks the session's ports with its legs' DSCP.
    fn mark(&mut self, key: usize) {
        let session = &self.sessions.table[key];
        let config = session.relay.config();
        for leg in LegId::BOTH {
            let pairs = config.streams.iter().map(|stream| stream.legs[leg].ports);
            for pair in pairs {
                for (_, number) in session.ports.iter().filter(|(port, _)| port.pair == pair) {
                    if let Err(error) = self.wire.mark(*number, config.legs[leg].dscp) {
                        tracing::warn!(%error, "media port could not be marked");
                    }
                }
            }
        }
    }

    fn close(&mut self, id: SessionId) {
        let Some(key) = self.sessions.keys.remove(&id) else {
            return;
        };
        let session = self.sessions.table.remove(key);
        for (_, number) in &session.ports {
            self.wire.close(*number);
        }
        self.totals.session_ended();
        let stats = PerLeg(LegId::BOTH.map(|leg| session.relay.stats(leg)));
        self.tell(id, RelayEvent::Closed(Box::new(stats)));
    }

    fn sweep(&mut self, now: Instant) {
        let mut idle = Vec::new();
        for (key, session) in &mut self.sessions.table {
            match session.relay.check_idle(now) {
                Some(_) if session.idle_told.is_some_and(|told| now < told + IDLE_AGAIN) => {}
                Some(leg) => idle.push((key, leg.leg)),
                None => session.idle_told = None,
            }
        }
        for (key, leg) in idle {
            if self.tell(self.sessions.table[key].id, RelayEvent::Idle { leg }) {
                self.sessions.table[key].idle_told = Some(now);
            }
        }
    }

    /// Tells the shard that owns the session; false when its queue is full. The engine does not depend on it: it waits for
    /// the last figures only so long, and idleness is told again.
    fn tell(&self, id: SessionId, event: RelayEvent) -> bool {
        let told = self.shards.try_send(id.shard(), Input::Relay(id, event));
        if !told {
            tracing::warn!(session = id.0, "shard is too busy for a media event");
        }
        told
    }
}

/// Has the lines of a value fetched while others are looked at: a session was last used 20 ms ago, and is no longer in the
/// cache. Took 3.01 instead of 3.19 µs a packet (1,000 two-way streams, `fan-in-direct`).
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a hint to the processor, which takes any address")]
fn prefetch<T>(value: &T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let start = std::ptr::from_ref(value).cast::<i8>();
    for line in (0..size_of::<T>()).step_by(64) {
        // SAFETY: the address lies within the value, and nothing is read by the program.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.add(line)) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch<T>(_value: &T) {}

impl SessionTable for Sessions {
    type Key = usize;

    fn session(&self, key: usize) -> Option<&RelaySession> {
        self.table.get(key).map(|session| &session.relay)
    }

    fn session_mut(&mut self, key: usize) -> Option<&mut RelaySession> {
        self.table.get_mut(key).map(|session| &mut session.relay)
    }
}

impl Session {
    fn port(&self, port: LocalPort) -> Option<PortKey> {
        let port = self.ports.iter().find(|(own, _)| *own == port)?;
        Some(port.1)
    }
}
