//! What reaches a shard from outside its thread.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use trunkline_engine::io::{
    ConnectionId, Flow, RelayEvent, ResolveFailed, ResolveId, SessionId, TransmitFailure, shard_of,
};
use trunkline_shared::name::ConversationId;
use trunkline_sip::parse::peek_call_id;

use crate::net::connections::Waiter;

/// Inputs waiting for one shard: at 50,000 messages a second, a fifth of a second.
pub const QUEUE: usize = 10_000;

/// One input.
#[derive(Debug)]
pub enum Input {
    /// A datagram, or a framed message of a connection.
    Message {
        /// How it came.
        flow: Flow,
        /// All of it.
        bytes: Bytes,
    },
    /// A message this shard sent could not be delivered.
    TransmitFailed(Waiter, TransmitFailure),
    /// A name was looked up.
    Resolved(ResolveId, Result<Vec<SocketAddr>, ResolveFailed>),
    /// A connection has ended; every shard is told.
    ConnectionClosed(ConnectionId),
    /// A relay session of this shard has something to say.
    Relay(SessionId, RelayEvent),
    /// End a call; the answer says whether this shard has it.
    HangUp(ConversationId, oneshot::Sender<bool>),
}

/// The queues of all shards.
#[derive(Debug, Clone)]
pub struct Shards(Arc<[mpsc::Sender<Input>]>);

impl Shards {
    /// Queues for `count` shards, and their other ends.
    pub fn new(count: NonZeroUsize) -> (Shards, Vec<mpsc::Receiver<Input>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count.get()).map(|_| mpsc::channel(QUEUE)).unzip();
        (Shards(senders.into()), receivers)
    }

    /// Number of shards.
    pub fn count(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.0.len()).expect("made from a non-zero count")
    }

    /// The shard that owns a message: that of its Call-ID. A message without one is handled where it arrived.
    ///
    /// So is a REGISTER: it belongs to no dialog, what it changes is shared by all shards, and when it is sent again it comes by
    /// the same socket or connection, where its transaction is. Of two shards every other REGISTER woke the second one: at
    /// 2,000/s they went to sleep 1.1 times a registration, now 0.5 times.
    pub fn owner(&self, message: &[u8], here: usize) -> usize {
        if message.starts_with(b"REGISTER ") {
            return here;
        }
        peek_call_id(message).map_or(here, |call_id| shard_of(call_id, self.count()))
    }

    /// Hands an input over; false when the shard's queue is full or it has stopped.
    pub fn try_send(&self, shard: usize, input: Input) -> bool {
        self.0.get(shard).is_some_and(|queue| queue.try_send(input).is_ok())
    }

    /// Hands an input over, waiting for room; false when the shard has stopped.
    pub async fn send(&self, shard: usize, input: Input) -> bool {
        match self.0.get(shard) {
            Some(queue) => queue.send(input).await.is_ok(),
            None => false,
        }
    }

    /// Asks every shard to end a call; true when one had it.
    pub async fn hang_up(&self, call: ConversationId) -> bool {
        for queue in self.0.iter() {
            let (answer, found) = oneshot::channel();
            if queue.send(Input::HangUp(call, answer)).await.is_ok() && found.await.unwrap_or(false) {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_stays_where_it_arrived_and_everything_else_goes_to_its_call_id() {
        let (shards, _inboxes) = Shards::new(NonZeroUsize::new(4).expect("four"));
        let text = |method: &str, id: usize| format!("{method} sip:a@b SIP/2.0\r\nCall-ID: {id}@192.0.2.1\r\n\r\n");
        for id in 0..32 {
            for here in 0..4 {
                assert_eq!(shards.owner(text("REGISTER", id).as_bytes(), here), here);
                let owner = shard_of(format!("{id}@192.0.2.1").as_bytes(), shards.count());
                assert_eq!(shards.owner(text("INVITE", id).as_bytes(), here), owner);
                let response = format!("SIP/2.0 200 OK\r\nCall-ID: {id}@192.0.2.1\r\nCSeq: 1 REGISTER\r\n\r\n");
                assert_eq!(shards.owner(response.as_bytes(), here), owner);
            }
        }
    }
}
