//! Whatever happens in whatever order: no panic, no leak, one end for every transaction.

use proptest::prelude::*;

use super::*;
use crate::method::Method;
use crate::status::StatusCode;
use crate::transaction::*;
use crate::uri::Host;

/// One thing that can happen to a layer. Branches and ids are few, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Receive {
        method: usize,
        branch: usize,
        reliable: bool,
    },
    Answer {
        method: usize,
        branch: usize,
        status: u16,
    },
    Send {
        method: usize,
        branch: usize,
        reliable: bool,
    },
    Respond {
        pick: usize,
        status: u16,
    },
    Cancel {
        pick: usize,
    },
    TransportError {
        pick: usize,
    },
    Abandon {
        pick: usize,
    },
    Wait {
        milliseconds: u64,
    },
}

const METHODS: [Method; 5] = [
    Method::Invite,
    Method::Ack,
    Method::Cancel,
    Method::Bye,
    Method::Options,
];
const BRANCHES: [&[u8]; 4] = [b"z9hG4bKa", b"z9hG4bKb", b"rfc2543", b""];
const CAPACITY: u32 = 6;
/// With the reserve for requests that end something.
const MOST: usize = 7;

fn step() -> impl Strategy<Value = Step> {
    let (method, branch, pick, reliable) = (0..METHODS.len(), 0..BRANCHES.len(), 0usize..16, any::<bool>());
    let status = prop_oneof![
        Just(100u16),
        Just(180),
        Just(200),
        Just(302),
        Just(408),
        Just(486),
        Just(603)
    ];
    prop_oneof![
        4 => (method.clone(), branch.clone(), reliable)
            .prop_map(|(method, branch, reliable)| Step::Receive { method, branch, reliable }),
        4 => (method.clone(), branch.clone(), status.clone())
            .prop_map(|(method, branch, status)| Step::Answer { method, branch, status }),
        4 => (method, branch, reliable)
            .prop_map(|(method, branch, reliable)| Step::Send { method, branch, reliable }),
        4 => (pick.clone(), status).prop_map(|(pick, status)| Step::Respond { pick, status }),
        1 => pick.clone().prop_map(|pick| Step::Cancel { pick }),
        1 => pick.clone().prop_map(|pick| Step::TransportError { pick }),
        1 => pick.prop_map(|pick| Step::Abandon { pick }),
        3 => (0u64..40_000).prop_map(|milliseconds| Step::Wait { milliseconds }),
    ]
}

/// A layer with everything its transaction user would remember.
struct Subject {
    now: Instant,
    layer: Transactions<u8>,
    clients: Vec<ClientTransactionId>,
    servers: Vec<ServerTransactionId>,
    started: usize,
    terminated: Vec<TransactionId>,
}

impl Subject {
    fn new() -> Self {
        let config = TransactionsConfig {
            capacity: CAPACITY,
            ..TransactionsConfig::default()
        };
        Self {
            now: epoch(),
            layer: Transactions::new(config, [1, 2]),
            clients: Vec::new(),
            servers: Vec::new(),
            started: 0,
            terminated: Vec::new(),
        }
    }

    fn take(&mut self, step: Step) {
        let reliability = |reliable| {
            if reliable {
                Reliability::Reliable
            } else {
                Reliability::Unreliable
            }
        };
        match step {
            Step::Receive {
                method,
                branch,
                reliable,
            } => self.receive(method, branch, reliability(reliable)),
            Step::Answer { method, branch, status } => {
                let key = ResponseKey {
                    method: &METHODS[method],
                    branch: BRANCHES[branch],
                };
                let _ = self
                    .layer
                    .handle_response(self.now, key, code(status), |invite| Some(invite.clone()));
            }
            Step::Send {
                method,
                branch,
                reliable,
            } => {
                let request = ClientRequest {
                    method: &METHODS[method],
                    branch: BRANCHES[branch],
                    bytes: bytes("request"),
                    destination: 0,
                    reliability: reliability(reliable),
                };
                if let Ok(id) = self.layer.send_request(self.now, request) {
                    self.started += 1;
                    self.clients.push(id);
                }
            }
            Step::Respond { pick, status } => {
                if let Some(id) = nth(&self.servers, pick) {
                    let _ = self.layer.respond(self.now, id, code(status), bytes("response"));
                }
            }
            Step::Cancel { pick } => {
                if let Some(id) = nth(&self.clients, pick) {
                    let _ = self.layer.cancel(self.now, id);
                }
            }
            Step::TransportError { pick } => {
                if let Some(id) = self.any(pick) {
                    self.layer.handle_transport_error(self.now, id);
                }
            }
            Step::Abandon { pick } => {
                if let Some(id) = self.any(pick) {
                    self.layer.abandon(id);
                }
            }
            Step::Wait { milliseconds } => {
                self.now += Duration::from_millis(milliseconds);
                self.layer.handle_timeout(self.now);
            }
        }
        self.drain();
    }

    fn receive(&mut self, method: usize, branch: usize, reliability: Reliability) {
        let rfc2543 = Rfc2543Key {
            request_uri: b"sip:a",
            call_id: b"c",
            cseq: 1,
            ..Rfc2543Key::default()
        };
        let (method, branch) = (&METHODS[method], BRANCHES[branch]);
        let key = RequestKey {
            method,
            branch,
            host: Host::Name("peer"),
            port: None,
            rfc2543,
        };
        match self.layer.handle_request(self.now, key, 0, reliability) {
            RequestOutcome::New(id) | RequestOutcome::Cancel { transaction: id, .. } => {
                self.started += 1;
                self.servers.push(id);
            }
            RequestOutcome::Absorbed | RequestOutcome::Ack(_) | RequestOutcome::Overloaded => {}
        }
    }

    fn any(&self, pick: usize) -> Option<TransactionId> {
        let clients = self.clients.iter().copied().map(TransactionId::Client);
        let all: Vec<_> = clients
            .chain(self.servers.iter().copied().map(TransactionId::Server))
            .collect();
        nth(&all, pick)
    }

    fn drain(&mut self) {
        while self.layer.poll_transmit().is_some() {}
        while let Some(event) = self.layer.poll_event() {
            if let Event::Terminated(id) = event {
                assert!(!self.terminated.contains(&id), "{id:?} ended twice");
                self.terminated.push(id);
            }
        }
        assert!(self.layer.len() <= MOST, "{} live", self.layer.len());
        assert_eq!(
            self.started - self.terminated.len(),
            self.layer.len(),
            "one end for every start"
        );
        assert_eq!(
            self.layer.poll_timeout().is_none(),
            self.layer.is_empty(),
            "every transaction has a timer"
        );
    }

    /// Fires timers one at a time until none runs.
    fn run_out(&mut self) -> Duration {
        let begin = self.now;
        for _ in 0..10_000 {
            match self.layer.poll_timeout() {
                Some(next) => self.now = self.now.max(next),
                None => return self.now - begin,
            }
            self.layer.handle_timeout(self.now);
            self.drain();
        }
        panic!("timers never run out");
    }
}

fn nth<T: Copy>(all: &[T], pick: usize) -> Option<T> {
    all.get(pick % all.len().max(1)).copied()
}

fn code(status: u16) -> StatusCode {
    StatusCode::new(status).unwrap()
}

proptest! {
    #[test]
    fn every_transaction_ends(steps in prop::collection::vec(step(), 0..80)) {
        let mut subject = Subject::new();
        for step in steps {
            subject.take(step);
        }
        // An INVITE nobody answers, or one that rings, waits for its user or for timer C; all else is over in 64*T1.
        for id in subject.servers.clone() {
            let _ = subject.layer.respond(subject.now, id, StatusCode::BUSY_HERE, bytes("response"));
        }
        for id in subject.clients.clone() {
            let _ = subject.layer.cancel(subject.now, id);
        }
        subject.drain();
        let took = subject.run_out();
        prop_assert!(subject.layer.is_empty());
        prop_assert!(took <= seconds(64.0), "{:?}: 64*T1 and 32 s", took);
    }

    #[test]
    fn every_transaction_ends_even_without_its_user(steps in prop::collection::vec(step(), 0..80)) {
        let mut subject = Subject::new();
        for step in steps {
            subject.take(step);
        }
        let took = subject.run_out();
        prop_assert!(subject.layer.is_empty());
        prop_assert!(took <= seconds(3600.0), "{:?}", took);
    }
}
