//! One media thread: an epoll loop over the sockets of its sessions.
//!
//! Priorities of the loop, in order: packets (each socket is read until it is empty), commands, idle supervision.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use smallvec::SmallVec;
use std::os::fd::AsRawFd;
use trunkline_engine::io::{RelayCommand, RelayEvent, SessionId};
use trunkline_media::packet::PacketBuf;
use trunkline_media::relay::{Component, LegId, LocalPort, PerLeg, RelaySession, SessionConfig, Verdict};

use super::Order;
use super::counters::{Batch, RelayCounters};
use super::pool::PortPool;
use super::socket::{self, Received};
use crate::shard::input::{Input, Shards};

/// Largest datagram that is relayed; RTP stays below the MTU.
const DATAGRAM: usize = 2048;
/// How often idle sessions are looked for; idle timers are minutes.
const SWEEP: Duration = Duration::from_millis(500);
/// Packets read from one socket before the others get their turn. The socket is registered level-like: what is left is
/// read in the next round.
const FAIR_SHARE: usize = 64;

/// Commands carried out before packets get their turn again: a thousand calls that begin together must not be heard.
const ORDERS: usize = 64;
/// How often a leg that stays silent is told again: the shard may not have been able to act on it the first time.
const IDLE_AGAIN: Duration = Duration::from_secs(30);

const WAKE: Token = Token(usize::MAX);

pub(super) struct MediaThread {
    poll: Poll,
    orders: Receiver<Order>,
    pool: Arc<PortPool>,
    shards: Shards,
    totals: Arc<RelayCounters>,
    sessions: HashMap<SessionId, Session>,
    sockets: Slab<MediaSocket>,
    /// Sockets that had more than their share; read again before waiting.
    unfinished: Vec<usize>,
    /// There may be more commands; carried out before waiting.
    more_orders: bool,
    batch: Batch,
}

struct Session {
    relay: RelaySession,
    /// Local ports and their place in `sockets`: two to four a stream.
    sockets: SmallVec<[(LocalPort, usize); 4]>,
    /// When it was last told idle: the shard ends the call.
    idle_told: Option<Instant>,
}

struct MediaSocket {
    socket: UdpSocket,
    local: SocketAddr,
    port: LocalPort,
    session: SessionId,
    /// It is in `unfinished`: once is enough, however many events a flooded socket has.
    unfinished: bool,
}

impl MediaThread {
    pub(super) fn new(
        orders: Receiver<Order>,
        pool: Arc<PortPool>,
        shards: Shards,
        totals: Arc<RelayCounters>,
    ) -> io::Result<MediaThread> {
        Ok(MediaThread {
            poll: Poll::new()?,
            orders,
            pool,
            shards,
            totals,
            sessions: HashMap::new(),
            sockets: Slab::new(),
            unfinished: Vec::new(),
            more_orders: false,
            batch: Batch::default(),
        })
    }

    pub(super) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKE)
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut buffer = [0_u8; DATAGRAM + PacketBuf::HEADROOM];
        let mut next_sweep = Instant::now() + SWEEP;
        loop {
            let patience = if self.unfinished.is_empty() && !self.more_orders {
                next_sweep.saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };
            if let Err(error) = self.poll.poll(&mut events, Some(patience))
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "epoll failed; the media thread ends");
                return;
            }
            // One clock reading per round: packets of a round arrived within the round.
            let now = Instant::now();
            for index in std::mem::take(&mut self.unfinished) {
                if let Some(socket) = self.sockets.get_mut(index) {
                    socket.unfinished = false;
                }
                self.read(now, index, &mut buffer);
            }
            for event in events.iter().filter(|event| event.token() != WAKE) {
                self.read(now, event.token().0, &mut buffer);
            }
            self.batch.add_to(&self.totals);
            if !self.obey(now) {
                return;
            }
            if now >= next_sweep {
                self.sweep(now);
                next_sweep = now + SWEEP;
            }
        }
    }

    /// Reads a socket until it is empty or has had its share.
    fn read(&mut self, now: Instant, index: usize, buffer: &mut [u8]) {
        for _ in 0..FAIR_SHARE {
            let Some(socket) = self.sockets.get(index) else { return };
            match socket::receive(&socket.socket, &mut buffer[..DATAGRAM]) {
                Ok(received) => self.relay(now, index, received, buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error of an earlier packet, for instance; the socket stays usable.
                Err(error) => tracing::trace!(%error, "media socket"),
            }
        }
        if let Some(socket) = self.sockets.get_mut(index)
            && !socket.unfinished
        {
            socket.unfinished = true;
            self.unfinished.push(index);
        }
    }

    fn relay(&mut self, now: Instant, index: usize, received: Received, buffer: &mut [u8]) {
        let Some(socket) = self.sockets.get(index) else { return };
        let Some(session) = self.sessions.get_mut(&socket.session) else {
            return;
        };
        let mut packet = PacketBuf::new(buffer, received.length);
        let tos = received.tos.unwrap_or(0);
        match session
            .relay
            .handle_packet(now, socket.port, received.source, tos, &mut packet)
        {
            Verdict::Forward { from, destination } => {
                let Some(out) = session.sockets.iter().find(|(port, _)| *port == from) else {
                    return;
                };
                match self.sockets[out.1].socket.send_to(packet.as_slice(), destination) {
                    Ok(sent) => {
                        self.batch.forwarded += 1;
                        self.batch.octets += sent as u64;
                    }
                    Err(_) => self.batch.send_failures += 1,
                }
            }
            Verdict::Drop(reason) => self.batch.dropped[reason as usize] += 1,
        }
    }

    /// Carries out waiting commands, up to its share; false when told to stop.
    fn obey(&mut self, now: Instant) -> bool {
        self.more_orders = true;
        for _ in 0..ORDERS {
            match self.orders.try_recv() {
                Ok(Order::Command(id, RelayCommand::Apply(config))) => self.apply(now, id, *config),
                Ok(Order::Command(id, RelayCommand::Close)) => self.close(id),
                Err(TryRecvError::Empty) => {
                    self.more_orders = false;
                    break;
                }
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    fn apply(&mut self, now: Instant, id: SessionId, config: SessionConfig) {
        let session = match self.sessions.remove(&id) {
            Some(mut session) => {
                session.relay.apply(now, config);
                session
            }
            None => {
                self.totals.session_began();
                Session {
                    relay: RelaySession::new(now, config),
                    sockets: SmallVec::new(),
                    idle_told: None,
                }
            }
        };
        let session = self.fit_sockets(id, session);
        self.sessions.insert(id, session);
    }

    /// Makes the session's sockets those of its ports, and marks them with its legs' DSCP.
    fn fit_sockets(&mut self, id: SessionId, mut session: Session) -> Session {
        // Both sockets of a pair are kept while the pair is used: with rtcp-mux the odd one only holds its port.
        let pairs: SmallVec<[_; 4]> = session.relay.local_ports().map(|port| port.pair).collect();
        session.sockets.retain(|(port, index)| {
            let wanted = pairs.contains(&port.pair);
            if !wanted {
                self.drop_socket(*index);
            }
            wanted
        });
        for pair in pairs {
            if session.sockets.iter().any(|(port, _)| port.pair == pair) {
                continue;
            }
            let Some(bound) = self.pool.take_sockets(pair) else {
                tracing::warn!(?pair, "media ports were given back before their session began");
                continue;
            };
            for (socket, component) in [(bound.rtp, Component::Rtp), (bound.rtcp, Component::Rtcp)] {
                let port = LocalPort { pair, component };
                match self.add_socket(socket, port, id) {
                    Ok(index) => session.sockets.push((port, index)),
                    Err(error) => tracing::error!(%error, "media socket could not be watched"),
                }
            }
        }
        self.mark(&session);
        session
    }

    fn mark(&self, session: &Session) {
        let config = session.relay.config();
        for leg in LegId::BOTH {
            let pairs = config.streams.iter().map(|stream| stream.legs[leg].ports);
            for pair in pairs {
                for (_, index) in session.sockets.iter().filter(|(port, _)| port.pair == pair) {
                    let MediaSocket { socket, local, .. } = &self.sockets[*index];
                    if let Err(error) = socket::set_dscp(socket, *local, config.legs[leg].dscp) {
                        tracing::warn!(%error, "media socket could not be marked");
                    }
                }
            }
        }
    }

    fn add_socket(&mut self, socket: UdpSocket, port: LocalPort, session: SessionId) -> io::Result<usize> {
        let local = socket.local_addr()?;
        let entry = self.sockets.vacant_entry();
        let index = entry.key();
        self.poll
            .registry()
            .register(&mut SourceFd(&socket.as_raw_fd()), Token(index), Interest::READABLE)?;
        entry.insert(MediaSocket {
            socket,
            local,
            port,
            session,
            unfinished: false,
        });
        Ok(index)
    }

    /// Closing the socket takes it out of epoll.
    fn drop_socket(&mut self, index: usize) {
        if self.sockets.try_remove(index).is_some_and(|socket| socket.unfinished) {
            self.unfinished.retain(|other| *other != index);
        }
    }

    fn close(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        for (_, index) in &session.sockets {
            self.drop_socket(*index);
        }
        self.totals.session_ended();
        let stats = PerLeg(LegId::BOTH.map(|leg| session.relay.stats(leg)));
        self.tell(id, RelayEvent::Closed(Box::new(stats)));
    }

    fn sweep(&mut self, now: Instant) {
        let mut idle = Vec::new();
        for (id, session) in &mut self.sessions {
            match session.relay.check_idle(now) {
                Some(_) if session.idle_told.is_some_and(|told| now < told + IDLE_AGAIN) => {}
                Some(leg) => idle.push((*id, leg.leg)),
                None => session.idle_told = None,
            }
        }
        for (id, leg) in idle {
            if self.tell(id, RelayEvent::Idle { leg })
                && let Some(session) = self.sessions.get_mut(&id)
            {
                session.idle_told = Some(now);
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
