//! The media threads over real sockets: what is sent to a leased port comes out at the other leg.
//!
//! One list of tests, run for each tier: `on_every_tier!` below. The fan-in tier needs rights; without being root its tests
//! say so and end.

#![expect(clippy::disallowed_methods, reason = "real sockets keep real time")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use smallvec::smallvec;
use tokio::sync::mpsc;
use trunkline_engine::io::{RelayCommand, RelayEvent, SessionId};
use trunkline_media::negotiate::{AddressFamily, PortLease};
use trunkline_media::packet::PacketBuf;
use trunkline_media::relay::{
    Direction, IdleTimers, LegConfig, LegId, LegStats, PayloadMap, PerLeg, RemoteMedia, SessionConfig, SourcePolicy,
    SrtpParams, StreamConfig, StreamLeg,
};
use trunkline_media::srtp::{Protect, SrtpKey, Unprotect};
use trunkline_media::suite::SrtpSuite;
use trunkline_worker::net::address::AddressBook;
use trunkline_worker::relay::pool::PortPool;
use trunkline_worker::relay::{Relay, RelayThreads, Tier, TierChoice};
use trunkline_worker::shard::input::{Input, Shards};

const PATIENCE: Duration = Duration::from_secs(5);

macro_rules! on_every_tier {
    ($($test:ident),* $(,)?) => {
        mod epoll {
            $(#[test] fn $test() { super::$test(super::Tier::Epoll); })*
        }
        mod fan_in {
            $(#[test] fn $test() { super::with_rights(|| super::$test(super::Tier::FanIn)); })*
        }
        mod fan_in_direct {
            $(#[test] fn $test() { super::with_rights(|| super::$test(super::Tier::FanInDirect)); })*
        }
    };
}

on_every_tier!(
    packets_pass_both_ways_and_are_counted,
    packets_pass_between_the_address_families,
    packets_are_decrypted_and_encrypted,
    packets_that_waited_before_the_session_began_are_not_lost,
    a_burst_larger_than_a_turn_arrives_whole_and_others_get_theirs,
    many_calls_get_exactly_their_own,
    a_closed_session_frees_its_ports,
    relayed_packets_carry_the_mark_of_the_leg,
    a_silent_leg_is_told_once,
    a_stream_is_live_at_once_after_its_socket_buffer_filled,
    a_flooded_port_takes_nothing_from_the_others,
    packets_larger_than_the_mtu_are_fragmented,
    ports_that_are_not_leased_are_left_alone,
);

fn with_rights(test: impl FnOnce()) {
    if rustix::process::geteuid().is_root() {
        test();
    } else {
        eprintln!("not tested: it needs rights that this user does not have");
    }
}

/// An address for the tests of each tier, which may run at the same time.
fn host(tier: Tier) -> IpAddr {
    match tier {
        Tier::Epoll => Ipv4Addr::LOCALHOST.into(),
        Tier::FanIn => Ipv4Addr::new(127, 0, 0, 2).into(),
        Tier::FanInDirect => Ipv4Addr::new(127, 0, 0, 4).into(),
    }
}

struct World {
    host: IpAddr,
    pool: Arc<PortPool>,
    threads: Option<RelayThreads>,
    relay: Relay,
    events: mpsc::Receiver<Input>,
}

impl World {
    fn start(tier: Tier, first_port: u16) -> World {
        World::with_threads(tier, first_port, NonZeroUsize::MIN)
    }

    fn with_threads(tier: Tier, first_port: u16, count: NonZeroUsize) -> World {
        let pool = Arc::new(PortPool::new(first_port..=first_port + 99, AddressBook::default()));
        let (shards, mut inboxes) = Shards::new(NonZeroUsize::MIN);
        let threads = RelayThreads::start(TierChoice::Only(tier), count, &pool, &shards).expect("threads");
        assert_eq!(threads.relay().tier(), tier);
        World {
            host: host(tier),
            pool,
            relay: threads.relay(),
            threads: Some(threads),
            events: inboxes.remove(0),
        }
    }

    /// A call whose session has not begun.
    fn lease(&self, serial: u64) -> Call {
        let lease = || self.pool.lease(Instant::now(), self.host, AddressFamily::V4);
        Call {
            id: SessionId::new(0, serial),
            phones: PerLeg::new(phone(self.host), phone(self.host)),
            leases: PerLeg::new(lease().expect("ports"), lease().expect("ports")),
            dscp: None,
            idle: None,
            srtp: PerLeg::default(),
        }
    }

    fn begin(&self, call: &Call) {
        self.relay
            .command(call.id, RelayCommand::Apply(Box::new(call.config())))
            .expect("room");
    }

    fn call(&self, serial: u64) -> Call {
        let call = self.lease(serial);
        self.begin(&call);
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
    srtp: PerLeg<Option<SrtpParams>>,
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
            srtp: self.srtp[leg].clone(),
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

fn phone(host: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((host, 0)).expect("a port");
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

fn packets_pass_both_ways_and_are_counted(tier: Tier) {
    let mut world = World::start(tier, 43_000);
    let call = world.call(1);
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

fn packets_pass_between_the_address_families(tier: Tier) {
    let mut world = World::start(tier, 43_800);
    let mut call = world.lease(11);
    let host: IpAddr = Ipv6Addr::LOCALHOST.into();
    let lease = world.pool.lease(Instant::now(), host, AddressFamily::V6);
    call.leases[LegId::B] = lease.expect("ports");
    call.phones[LegId::B] = phone(host);
    world.begin(&call);
    for sequence in 1..=20 {
        call.send(LegId::A, sequence);
        assert_eq!(call.receive(LegId::B).expect("relayed"), sequence);
        call.send(LegId::B, sequence);
        assert_eq!(call.receive(LegId::A).expect("relayed"), sequence);
    }
    let stats = world.close(&call);
    assert_eq!(stats[LegId::B].rtp_received.packets, 20);
}

/// A is SRTP, B is not; more packets than a burst holds.
fn packets_are_decrypted_and_encrypted(tier: Tier) {
    const PACKETS: u16 = 150;
    let world = World::start(tier, 43_900);
    let suite = SrtpSuite::AesCm128HmacSha1_80;
    let key = |octet: u8| SrtpKey::new(suite, &vec![octet; suite.key_salt_len()]).expect("a key");
    let mut call = world.lease(12);
    call.srtp[LegId::A] = Some(SrtpParams {
        rx: Some(key(1)),
        tx: key(2),
    });
    world.begin(&call);
    let (mut protect, mut unprotect) = (Protect::new(&key(1)), Unprotect::new(&key(2)));
    for sequence in 0..PACKETS {
        let mut packet = rtp(LegId::A, sequence);
        packet.resize(300, 0);
        let mut packet = PacketBuf::new(&mut packet, 172);
        protect.protect_rtp(&mut packet).expect("protected");
        let sent = call.phones[LegId::A].send_to(packet.as_slice(), call.leases[LegId::A].rtp);
        sent.expect("sent");
        call.send(LegId::B, sequence);
    }
    for sequence in 0..PACKETS {
        assert_eq!(call.receive(LegId::B).expect("decrypted"), sequence);
        let mut packet = [0; 300];
        let length = call.phones[LegId::A].recv(&mut packet).expect("relayed");
        let mut packet = PacketBuf::new(&mut packet, length);
        unprotect.unprotect_rtp(&mut packet).expect("encrypted");
        assert_eq!(packet.as_slice(), rtp(LegId::B, sequence));
    }
}

fn many_calls_get_exactly_their_own(tier: Tier) {
    let world = World::with_threads(tier, 44_000, NonZeroUsize::new(2).expect("two"));
    let calls: Vec<Call> = (0..20).map(|serial| world.call(100 + serial)).collect();
    for sequence in 0..30 {
        for call in &calls {
            call.send(LegId::A, sequence + call.id.0 as u16 * 100);
            call.send(LegId::B, sequence + call.id.0 as u16 * 100);
        }
    }
    for sequence in 0..30 {
        for call in &calls {
            for leg in LegId::BOTH {
                assert_eq!(call.receive(leg).expect("relayed"), sequence + call.id.0 as u16 * 100);
            }
        }
    }
}

fn packets_that_waited_before_the_session_began_are_not_lost(tier: Tier) {
    let world = World::start(tier, 43_100);
    let early = world.lease(2);
    early.send(LegId::A, 9);
    world.begin(&early);
    assert_eq!(early.receive(LegId::B).expect("relayed"), 9);
}

fn a_burst_larger_than_a_turn_arrives_whole_and_others_get_theirs(tier: Tier) {
    let world = World::start(tier, 43_200);
    let (busy, quiet) = (world.call(3), world.call(4));
    for sequence in 0..200 {
        busy.send(LegId::A, sequence);
    }
    quiet.send(LegId::A, 1);
    assert_eq!(quiet.receive(LegId::B).expect("relayed"), 1);
    for sequence in 0..200 {
        assert_eq!(busy.receive(LegId::B).expect("relayed"), sequence);
    }
}

fn a_closed_session_frees_its_ports(tier: Tier) {
    let mut world = World::start(tier, 43_300);
    let call = world.call(5);
    call.send(LegId::A, 1);
    call.receive(LegId::B).expect("relayed");
    world.close(&call);
    for leg in LegId::BOTH {
        world.pool.release(Instant::now(), call.leases[leg].id);
        let other = UdpSocket::bind(call.leases[leg].rtp).expect("the port is free");
        other.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        call.send(leg, 2);
        other.recv_from(&mut [0; 300]).expect("and its packets are the other's");
    }
    assert_eq!(world.pool.leased(), 0);
    assert_eq!(world.relay.counters().sessions(), 0);
}

fn relayed_packets_carry_the_mark_of_the_leg(tier: Tier) {
    let mut world = World::start(tier, 43_400);
    let mut call = world.lease(6);
    call.dscp = Some(46);
    world.begin(&call);
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

fn a_silent_leg_is_told_once(tier: Tier) {
    let mut world = World::start(tier, 43_500);
    let idle = IdleTimers {
        two_way: Duration::from_millis(200),
        one_way: Duration::from_secs(3600),
    };
    let mut call = world.lease(7);
    call.idle = Some(idle);
    world.begin(&call);
    match world.events.blocking_recv() {
        Some(Input::Relay(id, RelayEvent::Idle { .. })) => assert_eq!(id, call.id),
        other => panic!("idle, not {other:?}"),
    }
    world.close(&call);
    assert!(world.events.try_recv().is_err());
}

/// A relay in the field never read a socket again whose buffer had filled while its thread was stalled.
fn a_stream_is_live_at_once_after_its_socket_buffer_filled(tier: Tier) {
    const FLOOD: u16 = 5_000;
    let world = World::start(tier, 43_600);
    let call = world.lease(8);
    // Nobody reads the port yet: as if the thread stood still for as long as this takes.
    for sequence in 0..FLOOD {
        call.send(LegId::A, sequence);
    }
    world.begin(&call);
    let packets = call.packets_until_live(FLOOD);
    assert!(packets < 50, "a second of silence: {packets}");
    // A thread adds up what it counted once a turn.
    let began = Instant::now();
    let mut relayed = 0;
    while relayed <= u64::from(packets) {
        assert!(began.elapsed() < PATIENCE, "what was in the buffer is relayed too");
        std::thread::yield_now();
        relayed = world.relay.counters().forwarded();
    }
    assert!(
        relayed < u64::from(FLOOD),
        "the buffer held everything: nothing was tested"
    );
}

fn a_flooded_port_takes_nothing_from_the_others(tier: Tier) {
    let world = World::start(tier, 43_700);
    let (flooded, quiet) = (world.call(9), world.call(10));
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

/// In a network of its own, whose loopback is too small for what is sent.
fn packets_larger_than_the_mtu_are_fragmented(tier: Tier) {
    with_rights(|| {
        isolated(move || {
            own_network("1000");
            let world = World::start(tier, 43_000);
            let call = world.call(13);
            let mut packet = rtp(LegId::A, 1);
            packet.resize(1_900, 0x55);
            let sent = call.phones[LegId::A].send_to(&packet, call.leases[LegId::A].rtp);
            sent.expect("sent");
            let mut buffer = [0; 2_000];
            let (length, source) = call.phones[LegId::B].recv_from(&mut buffer).expect("relayed");
            assert_eq!((&buffer[..length], source), (&packet[..], call.leases[LegId::B].rtp));
            assert_eq!(world.relay.counters().send_failures(), 0);
        })
    });
}

/// Other programs keep the ports of the range that are not leased, and leased numbers on other addresses.
fn ports_that_are_not_leased_are_left_alone(tier: Tier) {
    let world = World::start(tier, 44_100);
    let call = world.call(14);
    let leased = call.leases[LegId::A].rtp;
    let elsewhere: IpAddr = Ipv4Addr::new(127, 0, 0, 3).into();
    for other in [
        SocketAddr::new(elsewhere, leased.port()),
        SocketAddr::new(world.host, leased.port() + 50),
    ] {
        let socket = UdpSocket::bind(other).expect("free");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        call.phones[LegId::A]
            .send_to(b"for somebody else", other)
            .expect("sent");
        let (length, _) = socket.recv_from(&mut [0; 300]).expect("arrived");
        assert_eq!(length, b"for somebody else".len());
    }
    call.send(LegId::A, 1);
    assert_eq!(call.receive(LegId::B).expect("relayed"), 1);
}

/// The worker of a process without rights takes the tier that needs none.
#[test]
fn without_the_right_to_load_a_program_the_portable_tier_is_taken() {
    isolated(|| {
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).expect("rights can always be given up");
        let pool = Arc::new(PortPool::new(44_200..=44_299, AddressBook::default()));
        let (shards, _inboxes) = Shards::new(NonZeroUsize::MIN);
        let start = |choice| RelayThreads::start(choice, NonZeroUsize::MIN, &pool, &shards);
        let threads = start(TierChoice::Auto).expect("threads");
        assert_eq!(threads.relay().tier(), Tier::Epoll);
        threads.stop();
        assert!(
            start(TierChoice::Only(Tier::FanIn)).is_err(),
            "what is asked for or nothing"
        );
    });
}

/// Phones on another machine, and a filter that lets no packet out through the system's own way.
#[test]
fn what_leaves_directly_passes_no_filter_and_reaches_another_machine() {
    with_rights(|| isolated(directly));
}

fn directly() {
    let (edge, far) = (Ipv4Addr::new(198, 18, 9, 1), Ipv4Addr::new(198, 18, 9, 2));
    own_network("65536");
    let (asks, thread) = std::sync::mpsc::channel();
    let (tells, told) = std::sync::mpsc::channel();
    let (gives, phones) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        own_network("65536");
        asks.send(rustix::thread::gettid().as_raw_nonzero()).expect("asked");
        told.recv().expect("linked");
        run("ip addr add 198.18.9.2/24 dev far0; ip link set far0 up");
        gives
            .send(PerLeg::new(phone(far.into()), phone(far.into())))
            .expect("given");
    });
    let thread = thread.recv().expect("another network");
    run(&format!("ip link add near0 type veth peer name far0 netns {thread}"));
    run("ip addr add 198.18.9.1/24 dev near0; ip link set near0 up");
    tells.send(()).expect("told");
    let phones = phones.recv().expect("phones");
    other.join().expect("as it should be");

    let mut world = World::start(Tier::FanInDirect, 43_000);
    world.host = edge.into();
    let mut call = world.lease(15);
    (call.phones, call.dscp) = (phones, Some(46));
    world.begin(&call);
    let marks = socket2::SockRef::from(&call.phones[LegId::B]).set_recv_tos_v4(true);
    marks.expect("marks are shown");
    // The first packet goes by the kernel's own way, which has to find the neighbour.
    call.packets_until_live(0);
    run("nft 'add table inet t; add chain inet t out { type filter hook output priority 0; policy drop; }'");
    // Once in a while a packet goes that way again, and is lost in the filter here.
    call.packets_until_live(10_000);
    call.phones[LegId::B]
        .peek(&mut [0; 1])
        .expect_err("nothing is left over");
    let sent = call.packets_until_live(20_000);
    assert!(sent < 50, "a second of silence: {sent}");
    call.send(LegId::A, 30_000);
    call.phones[LegId::B].peek(&mut [0; 1]).expect("relayed");
    let received = trunkline_worker::relay::socket::receive(&call.phones[LegId::B], &mut [0; 300]).expect("there");
    assert_eq!(
        (received.tos, received.source),
        (Some(46 << 2), call.leases[LegId::B].rtp)
    );
}

/// Runs a test on a thread of its own, which may change what is the thread's: its network, its rights.
fn isolated(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(test).join().expect("as it should be");
}

fn run(commands: &str) {
    let status = std::process::Command::new("sh").args(["-ec", commands]).status();
    assert!(status.expect("a shell").success(), "{commands}");
}

/// Gives this thread, and those it starts, a network of their own with a loopback of this MTU.
fn own_network(mtu: &str) {
    #[expect(
        unsafe_code,
        reason = "unsafe only when descriptors are unshared, which they are not"
    )]
    // SAFETY: nothing of this thread depends on the namespace it leaves.
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
    unshared.expect("a namespace");
    run(&format!("ip link set lo up mtu {mtu}"));
}
