//! A connection over an in-memory stream, with a shard behind it and little patience. What a test does not shorten is an
//! hour, so that the end it waits for has one cause.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};
use trunkline_engine::io::{ConnectionId, Flow, Listener, TransmitFailure, TransmitToken};
use trunkline_shared::trunk::Transport;

use super::{Connection, Origin, Patience};
use crate::net::connections::{Outgoing, Waiter};
use crate::shard::input::Input;
use crate::shard::testing::{PATIENCE, Surroundings, options, snapshot, trunk};

const OWN: &str = "192.0.2.1:8060";
const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(200);
const PATIENT: Patience = Patience {
    message: HOUR,
    write: HOUR,
    shortest_idle: SHORT,
    last_words: SHORT,
};

struct Far {
    surroundings: Surroundings,
    stream: DuplexStream,
    id: ConnectionId,
    began: Instant,
}

impl Far {
    /// The far end of a connection that holds `buffer` octets either way.
    fn connect(shards: usize, origin: Origin, idle: Duration, patience: Patience, buffer: usize) -> Far {
        let trunk = trunk("main", Transport::Tcp, 8060);
        let surroundings = Surroundings::new(shards, snapshot(1, vec![trunk.clone()], Vec::new()));
        let local: SocketAddr = OWN.parse().expect("an address");
        let dispatcher = surroundings.dispatcher(vec![Listener {
            trunk: trunk.id.clone(),
            transport: Transport::Tcp,
            local,
            advertised: local,
        }]);
        let connections = &surroundings.parts.connections;
        let registered = connections.insert(trunk.id.clone(), connections.admit().expect("room"));
        let id = registered.id;
        let flow = Flow {
            trunk: trunk.id,
            transport: Transport::Tcp,
            local,
            remote: "192.0.2.9:40000".parse().expect("an address"),
            connection: Some(id),
        };
        let (near, stream) = duplex(buffer);
        let connection = Connection {
            flow,
            registered,
            dispatcher,
            idle,
            origin,
            patience,
        };
        spawn_local(connection.run(near));
        Far {
            surroundings,
            stream,
            id,
            began: Instant::now(),
        }
    }

    fn phone(patience: Patience) -> Far {
        Far::connect(1, Origin::Accepted, HOUR, patience, 64 * 1024)
    }

    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("taken");
    }

    async fn read(&mut self) -> String {
        let mut buffer = vec![0; 4096];
        let length = self.stream.read(&mut buffer).await.expect("open");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    async fn until_end(&mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).await.expect("an orderly end");
        rest
    }

    fn queue(&self, octets: usize, token: u64) {
        let message = Outgoing {
            bytes: Bytes::from(vec![b'x'; octets]),
            waiter: Some(Waiter {
                shard: 1,
                token: TransmitToken(token),
            }),
        };
        self.surroundings
            .parts
            .connections
            .send(self.id, message)
            .expect("room");
    }
}

fn on_a_shard(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        timeout(PATIENCE, test()).await.expect("the test ends in time");
    });
}

#[test]
fn messages_are_framed_however_they_are_cut_and_pings_are_answered() {
    on_a_shard(async || {
        let mut far = Far::phone(PATIENT);
        let request = options("TCP", OWN, "one");
        for piece in [&request[..1], &request[1..100], &request[100..]] {
            far.write(piece).await;
            tokio::task::yield_now().await;
        }
        let answer = far.read().await;
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
        far.write("\r\n\r\n").await;
        assert_eq!(far.read().await, "\r\n");
        far.write(&(options("TCP", OWN, "two") + &options("TCP", OWN, "three")))
            .await;
        let mut answers = far.read().await;
        while answers.matches("SIP/2.0 200 ").count() < 2 {
            answers += &far.read().await;
        }
    });
}

#[test]
fn what_cannot_be_framed_is_answered_before_the_connection_ends() {
    on_a_shard(async || {
        let mut far = Far::phone(PATIENT);
        let request = options("TCP", OWN, "one").replace("Content-Length: 0", "Content-Length: nothing");
        far.write(&request).await;
        let answer = far.until_end().await;
        assert!(answer.starts_with("SIP/2.0 400 "), "{answer:?}");
        assert!(far.surroundings.parts.connections.is_empty());
    });
}

#[test]
fn who_connects_and_says_nothing_is_let_go_and_pings_say_nothing() {
    on_a_shard(async || {
        let mut far = Far::phone(Patience {
            message: SHORT,
            ..PATIENT
        });
        far.write("\r\n\r\n").await;
        assert_eq!(far.read().await, "\r\n");
        assert_eq!(far.until_end().await, "");
        assert!(far.began.elapsed() >= SHORT);
    });
}

#[test]
fn a_message_that_does_not_become_complete_is_not_waited_for() {
    on_a_shard(async || {
        let mut far = Far::phone(Patience {
            message: SHORT,
            ..PATIENT
        });
        far.write(&options("TCP", OWN, "one")).await;
        assert!(far.read().await.starts_with("SIP/2.0 200 "));
        let began = Instant::now();
        far.write(&options("TCP", OWN, "two")[..100]).await;
        assert_eq!(far.until_end().await, "");
        assert!(began.elapsed() >= SHORT);
    });
}

#[test]
fn a_peer_that_was_called_may_stay_silent_until_the_connection_is_idle() {
    on_a_shard(async || {
        let patience = Patience {
            message: SHORT,
            ..PATIENT
        };
        let mut far = Far::connect(1, Origin::Opened, 3 * SHORT, patience, 1024);
        assert_eq!(far.until_end().await, "");
        assert!(far.began.elapsed() >= 3 * SHORT);
    });
}

#[test]
fn no_idle_timeout_is_shorter_than_a_transaction() {
    on_a_shard(async || {
        let mut far = Far::connect(1, Origin::Accepted, Duration::ZERO, PATIENT, 64 * 1024);
        far.write(&options("TCP", OWN, "one")).await;
        let began = Instant::now();
        assert!(far.read().await.starts_with("SIP/2.0 200 "));
        assert_eq!(far.until_end().await, "");
        assert!(began.elapsed() >= SHORT);
    });
}

#[test]
fn closing_lets_what_is_queued_leave_first() {
    on_a_shard(async || {
        let mut far = Far::phone(PATIENT);
        far.queue(5000, 1);
        far.queue(5000, 2);
        far.surroundings.parts.connections.close(far.id);
        assert_eq!(far.until_end().await.len(), 10_000);
    });
}

/// Everything the other shard is told until it knows of the end.
async fn told(inbox: &mut mpsc::Receiver<Input>, id: ConnectionId) -> Vec<(u64, TransmitFailure)> {
    let mut failed = Vec::new();
    loop {
        match inbox.recv().await {
            Some(Input::TransmitFailed(waiter, failure)) => failed.push((waiter.token.0, failure)),
            Some(Input::ConnectionClosed(closed)) => {
                assert_eq!(closed, id);
                return failed;
            }
            other => panic!("not {other:?}"),
        }
    }
}

#[test]
fn whoever_waits_is_told_of_every_message_that_did_not_leave() {
    on_a_shard(async || {
        let mut far = Far::connect(2, Origin::Opened, HOUR, PATIENT, 64);
        let mut inbox = far.surroundings.inboxes.remove(1);
        // The first fits the stream, the second is on its way when the peer goes, the third has not begun.
        far.queue(10, 1);
        far.queue(1000, 2);
        far.queue(1000, 3);
        far.stream.read_exact(&mut [0; 20]).await.expect("it has begun");
        let Far {
            stream,
            surroundings,
            id,
            ..
        } = far;
        drop(stream);
        let failed = told(&mut inbox, id).await;
        assert_eq!(failed, [(2, TransmitFailure::FlowGone), (3, TransmitFailure::FlowGone)]);
        drop(surroundings);
    });
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    on_a_shard(async || {
        let patience = Patience {
            write: SHORT,
            ..PATIENT
        };
        let mut far = Far::connect(2, Origin::Opened, HOUR, patience, 64);
        let mut inbox = far.surroundings.inboxes.remove(1);
        far.queue(1000, 7);
        let failed = told(&mut inbox, far.id).await;
        assert_eq!(failed, [(7, TransmitFailure::FlowGone)]);
        assert!(far.began.elapsed() >= SHORT);
    });
}
