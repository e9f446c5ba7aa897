//! The media threads over real sockets: what is sent to a leased port comes out at the other leg.

#![expect(clippy::disallowed_methods, reason = "real sockets keep real time")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::smallvec;
use tokio::sync::mpsc;
use trunkline_engine::io::{RelayCommand, RelayEvent, SessionId};
use trunkline_media::negotiate::{AddressFamily, PortLease};
use trunkline_media::relay::{
    Direction, IdleTimers, LegConfig, LegId, LegStats, PayloadMap, PerLeg, RemoteMedia, SessionConfig, SourcePolicy,
    StreamConfig, StreamLeg,
};
use trunkline_worker::net::address::AddressBook;
use trunkline_worker::relay::pool::PortPool;
use trunkline_worker::relay::{Relay, RelayThreads};
use trunkline_worker::shard::input::{Input, Shards};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(5);

struct World {
    pool: Arc<PortPool>,
    threads: Option<RelayThreads>,
    relay: Relay,
    events: mpsc::Receiver<Input>,
}

impl World {
    fn start(first_port: u16) -> World {
        let pool = Arc::new(PortPool::new(first_port..=first_port + 99, AddressBook::default()));
        let (shards, mut inboxes) = Shards::new(NonZeroUsize::MIN);
        let threads = RelayThreads::start(NonZeroUsize::MIN, &pool, &shards).expect("threads");
        World {
            pool,
            relay: threads.relay(),
            threads: Some(threads),
            events: inboxes.remove(0),
        }
    }

    fn call(&self, serial: u64, dscp: Option<u8>, idle: Option<IdleTimers>) -> Call {
        let lease = || self.pool.lease(Instant::now(), HOST, AddressFamily::V4).expect("ports");
        let call = Call {
            id: SessionId::new(0, serial),
            phones: PerLeg::new(phone(), phone()),
            leases: PerLeg::new(lease(), lease()),
            dscp,
            idle,
        };
        self.relay
            .command(call.id, RelayCommand::Apply(Box::new(call.config())))
            .expect("room");
        call
    }

    fn close(&mut self, call: &Call) -> PerLeg<LegStats> {
        self.relay.command(call.id, RelayCommand::Close).expect("room");
        match self.events.blocking_recv() {
            Some(Input::Relay(id, RelayEvent::Closed(stats))) if id == call.id => *stats,
            other => panic!("the last figures, not {other:?}"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.threads.take().expect("dropped once").stop();
    }
}

struct Call {
    id: SessionId,
    phones: PerLeg<UdpSocket>,
    leases: PerLeg<PortLease>,
    dscp: Option<u8>,
    idle: Option<IdleTimers>,
}

impl Call {
    fn config(&self) -> SessionConfig {
        let leg = |leg: LegId| StreamLeg {
            ports: self.leases[leg].id,
            rtcp_mux: false,
            remote: Some(RemoteMedia::with_next_port(
                self.phones[leg].local_addr().expect("bound"),
            )),
            direction: Direction::SendRecv,
            source: SourcePolicy::Signalled,
            round: 1,
            srtp: None,
            payloads: PayloadMap::transparent(),
            tones: false,
        };
        let leg_config = LegConfig {
            dscp: self.dscp,
            idle: self.idle,
        };
        SessionConfig {
            legs: PerLeg::new(leg_config.clone(), leg_config),
            streams: smallvec![StreamConfig {
                legs: PerLeg::new(leg(LegId::A), leg(LegId::B))
            }],
        }
    }

    fn send(&self, from: LegId, sequence: u16) {
        self.phones[from]
            .send_to(&rtp(from, sequence), self.leases[from].rtp)
            .expect("sent");
    }

    fn receive(&self, at: LegId) -> io::Result<u16> {
        let mut buffer = [0; 300];
        let (length, source) = self.phones[at].recv_from(&mut buffer)?;
        assert_eq!(source, self.leases[at].rtp, "symmetric RTP");
        assert_eq!(
            &buffer[..length],
            &rtp(at.other(), u16::from_be_bytes([buffer[2], buffer[3]]))
        );
        Ok(u16::from_be_bytes([buffer[2], buffer[3]]))
    }
}

impl Call {
    /// Talks at the pace of a phone, from `sequence` on, until some of it is heard; how many packets that took. What was
    /// underway before is relayed too and is not counted.
    fn packets_until_live(&self, sequence: u16) -> u16 {
        let hear = |patience| {
            let listening = self.phones[LegId::B].set_read_timeout(Some(patience));
            listening.expect("a timeout");
            self.receive(LegId::B)
        };
        for sent in 0.. {
            self.send(LegId::A, sequence + sent);
            let next = Instant::now() + Duration::from_millis(20);
            while let Some(patience) = next
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            {
                match hear(patience) {
                    Ok(heard) if heard >= sequence => return sent,
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            assert!(Duration::from_millis(20) * u32::from(sent) < PATIENCE, "dead");
        }
        unreachable!("it is live or dead before")
    }
}

fn phone() -> UdpSocket {
    let socket = UdpSocket::bind((HOST, 0)).expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

fn rtp(from: LegId, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend([0, 0, 0, from as u8 + 1]);
    packet.resize(172, 0xd5);
    packet
}

#[test]
fn packets_pass_both_ways_and_are_counted() {
    let mut world = World::start(43_000);
    let call = world.call(1, None, None);
    for sequence in 1..=20 {
        call.send(LegId::A, sequence);
        assert_eq!(call.receive(LegId::B).expect("relayed"), sequence);
        call.send(LegId::B, sequence);
        assert_eq!(call.receive(LegId::A).expect("relayed"), sequence);
    }
    let stats = world.close(&call);
    for leg in LegId::BOTH {
        assert_eq!(
            (
                stats[leg].rtp_received.packets,
                stats[leg].rtp_sent.packets,
                stats[leg].lost
            ),
            (20, 20, 0)
        );
    }
}

#[test]
fn packets_that_waited_before_the_session_began_are_not_lost() {
    let world = World::start(43_100);
    let lease = world
        .pool
        .lease(Instant::now(), HOST, AddressFamily::V4)
        .expect("ports");
    let early = Call {
        id: SessionId::new(0, 2),
        phones: PerLeg::new(phone(), phone()),
        leases: PerLeg::new(
            lease,
            world
                .pool
                .lease(Instant::now(), HOST, AddressFamily::V4)
                .expect("ports"),
        ),
        dscp: None,
        idle: None,
    };
    early.send(LegId::A, 9);
    world
        .relay
        .command(early.id, RelayCommand::Apply(Box::new(early.config())))
        .expect("room");
    assert_eq!(early.receive(LegId::B).expect("relayed"), 9);
}

#[test]
fn a_burst_larger_than_a_turn_arrives_whole_and_others_get_theirs() {
    let world = World::start(43_200);
    let (busy, quiet) = (world.call(3, None, None), world.call(4, None, None));
    for sequence in 0..200 {
        busy.send(LegId::A, sequence);
    }
    quiet.send(LegId::A, 1);
    assert_eq!(quiet.receive(LegId::B).expect("relayed"), 1);
    for sequence in 0..200 {
        assert_eq!(busy.receive(LegId::B).expect("relayed"), sequence);
    }
}

#[test]
fn a_closed_session_frees_its_ports() {
    let mut world = World::start(43_300);
    let call = world.call(5, None, None);
    call.send(LegId::A, 1);
    call.receive(LegId::B).expect("relayed");
    world.close(&call);
    for leg in LegId::BOTH {
        world.pool.release(Instant::now(), call.leases[leg].id);
        UdpSocket::bind(call.leases[leg].rtp).expect("the socket is closed");
    }
    assert_eq!(world.pool.leased(), 0);
    assert_eq!(world.relay.counters().sessions(), 0);
}

#[test]
fn relayed_packets_carry_the_mark_of_the_leg() {
    let mut world = World::start(43_400);
    let call = world.call(6, Some(46), None);
    let marked = call.phones[LegId::B].try_clone().expect("a clone");
    socket2::SockRef::from(&marked)
        .set_recv_tos_v4(true)
        .expect("marks are shown");
    call.send(LegId::A, 1);
    marked.peek(&mut [0; 1]).expect("relayed");
    let received = trunkline_worker::relay::socket::receive(&marked, &mut [0; 300]).expect("there");
    assert_eq!(received.tos, Some(46 << 2));
    assert_eq!(
        world.close(&call)[LegId::A].dscp_mismatches,
        1,
        "what the phone sent had no mark"
    );
}

#[test]
fn a_silent_leg_is_told_once() {
    let mut world = World::start(43_500);
    let idle = IdleTimers {
        two_way: Duration::from_millis(200),
        one_way: Duration::from_secs(3600),
    };
    let call = world.call(7, None, Some(idle));
    match world.events.blocking_recv() {
        Some(Input::Relay(id, RelayEvent::Idle { .. })) => assert_eq!(id, call.id),
        other => panic!("idle, not {other:?}"),
    }
    world.close(&call);
    assert!(world.events.try_recv().is_err());
}

/// A relay in the field never read a socket again whose buffer had filled while its thread was stalled.
#[test]
fn a_stream_is_live_at_once_after_its_socket_buffer_filled() {
    const FLOOD: u16 = 5_000;
    let world = World::start(43_600);
    let lease = || {
        world
            .pool
            .lease(Instant::now(), HOST, AddressFamily::V4)
            .expect("ports")
    };
    let call = Call {
        id: SessionId::new(0, 8),
        phones: PerLeg::new(phone(), phone()),
        leases: PerLeg::new(lease(), lease()),
        dscp: None,
        idle: None,
    };
    let apply = RelayCommand::Apply(Box::new(call.config()));
    // Nobody reads the port yet: as if the thread stood still for as long as this takes.
    for sequence in 0..FLOOD {
        call.send(LegId::A, sequence);
    }
    world.relay.command(call.id, apply).expect("room");
    let packets = call.packets_until_live(FLOOD);
    assert!(packets < 50, "a second of silence: {packets}");
    let relayed = world.relay.counters().forwarded();
    assert!(relayed > u64::from(packets), "what was in the buffer is relayed too");
    assert!(
        relayed < u64::from(FLOOD),
        "the buffer held everything: nothing was tested"
    );
}

#[test]
fn a_flooded_port_takes_nothing_from_the_others() {
    let world = World::start(43_700);
    let (flooded, quiet) = (world.call(9, None, None), world.call(10, None, None));
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            for sequence in 0..30_000 {
                flooded.send(LegId::A, sequence);
            }
        });
        for sequence in 0..200 {
            quiet.send(LegId::A, sequence);
            assert_eq!(quiet.receive(LegId::B).expect("relayed"), sequence);
        }
        flood.join().expect("sent");
    });
    flooded.packets_until_live(40_000);
}
