//! Two endpoints, one virtual clock, and a network that loses, repeats and reorders. Messages are real ones.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::header::HeaderName;
use crate::message::{Message, Request};
use crate::method::Method;
use crate::parse::{Framing, Limits, Parsed, parse};
use crate::status::StatusCode;
use crate::timer::Backoff;
use crate::transaction::*;
use crate::write::{RequestBuilder, ResponseBuilder};

/// What the network does to a datagram.
#[derive(Debug, Clone, Copy)]
struct Network {
    /// Lost out of 100.
    loss: u32,
    /// Sent twice out of 100.
    duplication: u32,
    /// Longest delay; the shortest is 1 ms, so that datagrams overtake each other.
    jitter: Duration,
}

const PERFECT: Network = Network {
    loss: 0,
    duplication: 0,
    jitter: Duration::from_millis(1),
};
const BROKEN: Network = Network { loss: 100, ..PERFECT };

/// What the callee does with a request.
#[derive(Debug, Clone, Copy)]
struct Callee {
    /// Time from the request to the final response.
    answers_after: Duration,
    status: StatusCode,
}

/// The caller's view of one request: what its transaction user was told.
#[derive(Debug, Default)]
struct Fate {
    finals: Vec<StatusCode>,
    timeouts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Caller,
    Callee,
}

/// Something the transaction user of the callee, or of the caller, does later.
#[derive(Debug)]
enum Task {
    Answer(ServerTransactionId, Box<Request>, StatusCode),
    /// A UAS core repeats its 2xx until the ACK comes (RFC 3261 §13.3.1.4).
    Repeat(ServerTransactionId, Box<Request>, Backoff, Instant),
    Cancel(ClientTransactionId),
}

struct World {
    start: Instant,
    now: Instant,
    rng: StdRng,
    network: Network,
    callee_plan: Callee,
    caller: Transactions<()>,
    callee: Transactions<()>,
    wire: Vec<(Instant, End, Bytes)>,
    tasks: Vec<(Instant, Task)>,
    fates: Vec<(ClientTransactionId, Method, Fate)>,
    cancels: Vec<ClientTransactionId>,
    /// CSeq numbers of 2xx that were acknowledged end to end.
    acknowledged: Vec<u32>,
    /// Seconds since the start at which the caller put a request on the wire.
    sent: Vec<(f64, &'static str)>,
    next_number: u32,
    ended: Vec<f64>,
}

impl World {
    fn new(seed: u64, network: Network, callee_plan: Callee) -> Self {
        let start = epoch();
        Self {
            start,
            now: start,
            rng: StdRng::seed_from_u64(seed),
            network,
            callee_plan,
            caller: Transactions::new(TransactionsConfig::default(), [seed, 1]),
            callee: Transactions::new(TransactionsConfig::default(), [seed, 2]),
            wire: Vec::new(),
            tasks: Vec::new(),
            fates: Vec::new(),
            cancels: Vec::new(),
            acknowledged: Vec::new(),
            sent: Vec::new(),
            next_number: 0,
            ended: Vec::new(),
        }
    }

    fn call(&mut self, method: Method) -> ClientTransactionId {
        self.next_number += 1;
        let (number, branch) = (self.next_number, format!("z9hG4bK{}", self.next_number));
        let bytes = RequestBuilder::new(&method, "sip:bob@example.com")
            .header(
                HeaderName::Via,
                format_args!("SIP/2.0/UDP caller.example;branch={branch}"),
            )
            .header(HeaderName::MaxForwards, 70)
            .header(HeaderName::From, "<sip:alice@example.com>;tag=a")
            .header(HeaderName::To, "<sip:bob@example.com>")
            .header(HeaderName::CallId, "call")
            .header(HeaderName::CSeq, format_args!("{number} {method}"))
            .build()
            .unwrap();
        let id = self.start_client(&method, &branch, bytes);
        self.fates.push((id, method, Fate::default()));
        id
    }

    fn start_client(&mut self, method: &Method, branch: &str, bytes: Bytes) -> ClientTransactionId {
        let branch = branch.as_bytes();
        let reliability = Reliability::Unreliable;
        let request = ClientRequest {
            method,
            branch,
            bytes,
            destination: (),
            reliability,
        };
        let id = self.caller.send_request(self.now, request).unwrap();
        self.drain();
        id
    }

    fn cancel_later(&mut self, id: ClientTransactionId, after: Duration) {
        self.tasks.push((self.now + after, Task::Cancel(id)));
    }

    /// Lets the next thing happen; false when nothing will ever happen again.
    fn step(&mut self) -> bool {
        let wire = self.wire.iter().map(|(at, ..)| *at).min();
        let tasks = self.tasks.iter().map(|(at, _)| *at).min();
        let timers = [self.caller.poll_timeout(), self.callee.poll_timeout()];
        let Some(next) = timers.into_iter().chain([wire, tasks]).flatten().min() else {
            return false;
        };
        assert!(next >= self.now, "time does not run backwards");
        self.now = next;
        if wire == Some(next) {
            let position = self.wire.iter().position(|(at, ..)| *at == next).unwrap();
            let (_, to, bytes) = self.wire.swap_remove(position);
            self.deliver(to, bytes);
        } else if tasks == Some(next) {
            let position = self.tasks.iter().position(|(at, _)| *at == next).unwrap();
            let (_, task) = self.tasks.swap_remove(position);
            self.perform(task);
        } else {
            self.caller.handle_timeout(next);
            self.callee.handle_timeout(next);
        }
        self.drain();
        true
    }

    /// Runs to the end and gives back the seconds it took.
    fn run(&mut self) -> f64 {
        for _ in 0..200_000 {
            if !self.step() {
                assert!(
                    self.caller.is_empty() && self.callee.is_empty(),
                    "no timer runs, yet a transaction lives"
                );
                return self.elapsed();
            }
        }
        panic!("the world does not come to rest");
    }

    fn elapsed(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    fn send(&mut self, to: End, bytes: &Bytes) {
        if self.rng.random_range(0..100) < self.network.loss {
            return;
        }
        let copies = if self.rng.random_range(0..100) < self.network.duplication {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = self
                .rng
                .random_range(1..=self.network.jitter.as_micros().max(1000) as u64 / 1000);
            self.wire
                .push((self.now + Duration::from_millis(delay), to, bytes.clone()));
        }
    }

    fn drain(&mut self) {
        while let Some(transmit) = self.caller.poll_transmit() {
            let kind = if transmit.bytes.starts_with(b"ACK") {
                "ACK"
            } else {
                "request"
            };
            self.sent.push((self.elapsed(), kind));
            self.send(End::Callee, &transmit.bytes);
        }
        while let Some(transmit) = self.callee.poll_transmit() {
            self.sent.push((self.elapsed(), "response"));
            self.send(End::Caller, &transmit.bytes);
        }
        while let Some(event) = self.caller.poll_event() {
            self.caller_event(event);
        }
        while let Some(event) = self.callee.poll_event() {
            if let Event::Terminated(_) = event {
                self.ended.push(self.elapsed());
            }
        }
    }

    fn caller_event(&mut self, event: Event) {
        match event {
            Event::Timeout(id) => {
                if let Some(fate) = self.fate(id) {
                    fate.timeouts += 1;
                }
            }
            Event::CancelDue(id) | Event::TimerC(id) => {
                let invite = self.caller.request(id).unwrap().clone();
                self.send_cancel(&invite);
            }
            Event::Terminated(_) => self.ended.push(self.elapsed()),
            other => panic!("{other:?}"),
        }
    }

    fn fate(&mut self, id: ClientTransactionId) -> Option<&mut Fate> {
        self.fates
            .iter_mut()
            .find(|(known, ..)| *known == id)
            .map(|(.., fate)| fate)
    }

    fn send_cancel(&mut self, invite: &Bytes) {
        let bytes = cancel_for(invite).unwrap().build().unwrap();
        let request = understood(&bytes).request().unwrap().clone();
        let id = self.start_client(&Method::Cancel, request.branch().unwrap(), bytes);
        self.cancels.push(id);
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::Answer(id, request, status) => {
                if !self.callee.is_pending(id) {
                    return;
                }
                self.respond(id, &request, status);
                if status.is_success() && *request.method() == Method::Invite {
                    let timers = self.callee.timers();
                    let backoff = Backoff::capped(timers.t1(), timers.t2());
                    let until = self.now + timers.transaction_timeout();
                    self.tasks
                        .push((self.now + backoff.interval(), Task::Repeat(id, request, backoff, until)));
                }
            }
            Task::Repeat(id, request, backoff, until) => {
                if self.now < until && !self.acknowledged.contains(&request.cseq_number()) {
                    self.respond(id, &request, StatusCode::OK);
                    let backoff = backoff.next();
                    self.tasks
                        .push((self.now + backoff.interval(), Task::Repeat(id, request, backoff, until)));
                }
            }
            Task::Cancel(id) => {
                if let Cancel::Now(invite) = self.caller.cancel(self.now, id) {
                    self.send_cancel(&invite);
                }
            }
        }
    }

    fn respond(&mut self, id: ServerTransactionId, request: &Request, status: StatusCode) {
        let response = ResponseBuilder::new(request, status).to_tag("b").build().unwrap();
        match self.callee.respond(self.now, id, status, response) {
            Ok(()) | Err(RespondError::Gone) => {}
            Err(other) => panic!("{other} ({status} to {})", request.method()),
        }
    }

    fn deliver(&mut self, to: End, bytes: Bytes) {
        match understood(&bytes) {
            Message::Request(request) => {
                assert_eq!(to, End::Callee);
                self.callee_request(request);
            }
            Message::Response(response) => {
                assert_eq!(to, End::Caller);
                let (key, status) = (ResponseKey::of(&response), response.status());
                let outcome = self.caller.handle_response(self.now, key, status, ack_for(&response));
                if let ResponseOutcome::Deliver(id) = outcome {
                    if status.is_final()
                        && let Some(fate) = self.fate(id)
                    {
                        fate.finals.push(status);
                    }
                    if status.is_success() && *response.cseq_method() == Method::Invite {
                        self.acknowledge(response.cseq_number());
                    }
                }
            }
        }
    }

    /// The ACK for a 2xx: past the transactions, on a branch of its own.
    fn acknowledge(&mut self, number: u32) {
        let ack = RequestBuilder::new(&Method::Ack, "sip:bob@example.com")
            .header(
                HeaderName::Via,
                format_args!("SIP/2.0/UDP caller.example;branch=z9hG4bKack{number}"),
            )
            .header(HeaderName::MaxForwards, 70)
            .header(HeaderName::From, "<sip:alice@example.com>;tag=a")
            .header(HeaderName::To, "<sip:bob@example.com>;tag=b")
            .header(HeaderName::CallId, "call")
            .header(HeaderName::CSeq, format_args!("{number} ACK"))
            .build()
            .unwrap();
        self.send(End::Callee, &ack);
    }

    fn callee_request(&mut self, request: Request) {
        let outcome = self
            .callee
            .handle_request(self.now, RequestKey::of(&request), (), Reliability::Unreliable);
        match outcome {
            RequestOutcome::New(id) => {
                if *request.method() == Method::Invite {
                    self.respond(id, &request, StatusCode::RINGING);
                }
                let answer = Task::Answer(id, Box::new(request), self.callee_plan.status);
                self.tasks.push((self.now + self.callee_plan.answers_after, answer));
            }
            RequestOutcome::Cancel { transaction, invite } => {
                let status = if invite.is_some() {
                    StatusCode::OK
                } else {
                    StatusCode::CALL_DOES_NOT_EXIST
                };
                self.respond(transaction, &request, status);
                if let Some(invite) = invite.filter(|invite| self.callee.is_pending(*invite)) {
                    let task = |task: &Task| matches!(task, Task::Answer(id, ..) if *id == invite);
                    let position = self.tasks.iter().position(|(_, planned)| task(planned)).unwrap();
                    let (_, planned) = self.tasks.swap_remove(position);
                    if let Task::Answer(id, invite_request, _) = planned {
                        self.respond(id, &invite_request, StatusCode::REQUEST_TERMINATED);
                    }
                }
            }
            RequestOutcome::Ack(_) => self.acknowledged.push(request.cseq_number()),
            RequestOutcome::Absorbed => {}
            RequestOutcome::Overloaded => panic!("the table is large enough"),
        }
    }
}

fn understood(bytes: &Bytes) -> Message {
    match parse(bytes.clone(), Framing::Datagram, &Limits::default()) {
        Parsed::Understood(message) => message,
        other => panic!("{other:?}"),
    }
}

fn plan(answers_after: f64, status: StatusCode) -> Callee {
    Callee {
        answers_after: seconds(answers_after),
        status,
    }
}

fn times(world: &World, kind: &str) -> Vec<f64> {
    world
        .sent
        .iter()
        .filter(|(_, sent)| *sent == kind)
        .map(|(at, _)| (at * 1000.0).round() / 1000.0)
        .collect()
}

#[test]
fn an_unanswered_invite_is_sent_seven_times_in_32_seconds() {
    let mut world = World::new(1, BROKEN, plan(0.0, StatusCode::OK));
    world.call(Method::Invite);
    assert_eq!(world.run(), 32.0);
    assert_eq!(times(&world, "request"), [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]);
    assert_eq!(world.fates[0].2.timeouts, 1);
}

#[test]
fn an_unanswered_bye_is_sent_eleven_times_in_32_seconds() {
    let mut world = World::new(1, BROKEN, plan(0.0, StatusCode::OK));
    world.call(Method::Bye);
    assert_eq!(world.run(), 32.0);
    assert_eq!(
        times(&world, "request"),
        [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    );
    assert_eq!(world.fates[0].2.timeouts, 1);
}

#[test]
fn a_refused_call_leaves_both_ends_after_timers_d_and_i() {
    let mut world = World::new(1, PERFECT, plan(1.0, StatusCode::BUSY_HERE));
    world.call(Method::Invite);
    world.run();
    assert_eq!(world.fates[0].2.finals, [StatusCode::BUSY_HERE]);
    assert_eq!(times(&world, "request"), [0.0], "the 180 stops timer A");
    assert_eq!(times(&world, "response"), [0.001, 1.001]);
    assert_eq!(times(&world, "ACK"), [1.002]);
    // The callee: ACK at 1.003, timer I 5 s. The caller: 486 at 1.002, timer D 32 s.
    assert_eq!(world.ended, [6.003, 33.002]);
}

#[test]
fn an_accepted_call_leaves_both_ends_after_timers_l_and_m() {
    let mut world = World::new(1, PERFECT, plan(1.0, StatusCode::OK));
    world.call(Method::Invite);
    world.run();
    assert_eq!(world.fates[0].2.finals, [StatusCode::OK]);
    assert_eq!(world.ended, [33.001, 33.002]);
}

#[test]
fn a_lost_ack_brings_the_refusal_again_at_the_times_of_timer_g() {
    let mut world = World::new(1, PERFECT, plan(0.0, StatusCode::BUSY_HERE));
    world.call(Method::Invite);
    while times(&world, "response").len() < 2 {
        assert!(world.step());
    }
    world.wire.clear();
    world.network = BROKEN;
    world.run();
    let expected = [
        0.001, 0.001, 0.501, 1.501, 3.501, 7.501, 11.501, 15.501, 19.501, 23.501, 27.501, 31.501,
    ];
    assert_eq!(times(&world, "response"), expected);
    assert_eq!(world.callee.stats().acks_missing, 1, "timer H");
}

#[test]
fn a_cancelled_call_ends_with_487() {
    let mut world = World::new(1, PERFECT, plan(60.0, StatusCode::OK));
    let id = world.call(Method::Invite);
    world.cancel_later(id, seconds(2.0));
    world.run();
    assert_eq!(world.fates[0].2.finals, [StatusCode::REQUEST_TERMINATED]);
    assert_eq!(world.cancels.len(), 1);
}

#[test]
fn a_cancel_that_crosses_the_answer_loses() {
    let mut world = World::new(1, PERFECT, plan(2.0, StatusCode::OK));
    let id = world.call(Method::Invite);
    world.cancel_later(id, seconds(2.001));
    world.run();
    assert_eq!(world.fates[0].2.finals, [StatusCode::OK]);
    assert_eq!(world.cancels.len(), 1, "it was sent before the 200 arrived");
}

#[test]
fn over_a_perfect_network_nothing_is_retransmitted() {
    let mut world = World::new(1, PERFECT, plan(0.1, StatusCode::OK));
    for _ in 0..50 {
        world.call(Method::Invite);
        world.call(Method::Options);
    }
    world.run();
    assert!(
        world
            .fates
            .iter()
            .all(|(_, _, fate)| fate.finals == [StatusCode::OK] && fate.timeouts == 0)
    );
    let (caller, callee) = (world.caller.stats(), world.callee.stats());
    assert_eq!((caller.requests_retransmitted, callee.answers_retransmitted), (0, 0));
    assert_eq!((caller.terminated, callee.terminated), (100, 100));
}

#[test]
fn over_a_bad_network_every_request_meets_one_fate() {
    let network = Network {
        loss: 25,
        duplication: 15,
        jitter: seconds(0.8),
    };
    let (mut answered, mut retransmitted) = (0, 0);
    for seed in 0..40 {
        let status = [StatusCode::OK, StatusCode::BUSY_HERE][seed as usize % 2];
        let mut world = World::new(seed, network, plan(1.5, status));
        for number in 0..20 {
            let invite = world.call(Method::Invite);
            world.call([Method::Options, Method::Bye, Method::Register][number % 3].clone());
            if number % 4 == 0 {
                let after = world.rng.random_range(0.0..4.0);
                world.cancel_later(invite, seconds(after));
            }
        }
        let took = world.run();
        // B or F 32 s; or an answer within them and 32 s of waiting; an INVITE whose final responses all got lost waits
        // for timer C, then for the answer to its CANCEL, then for its own end.
        assert!(took <= 32.0 + 181.0 + 32.0 + 32.0 + 1.0, "seed {seed}: {took} s");
        for (_, method, fate) in &world.fates {
            let told = fate.finals.len() + fate.timeouts as usize;
            let twice = *method == Method::Invite && fate.finals.iter().all(|status| status.is_success());
            assert!(
                told == 1 || (twice && told > 1 && fate.timeouts == 0),
                "seed {seed}: {method} met {fate:?}"
            );
            answered += usize::from(!fate.finals.is_empty());
        }
        retransmitted += world.caller.stats().requests_retransmitted;
    }
    assert!(
        answered > 1500,
        "{answered} of 1600 answered: the network is bad, not down"
    );
    assert!(retransmitted > 500, "{retransmitted}: the network is bad");
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let run = || {
        let mut world = World::new(
            7,
            Network {
                loss: 30,
                duplication: 20,
                jitter: seconds(1.0),
            },
            plan(0.5, StatusCode::OK),
        );
        for _ in 0..10 {
            world.call(Method::Invite);
        }
        world.run();
        (*world.caller.stats(), *world.callee.stats(), world.sent.len())
    };
    assert_eq!(run(), run());
}
