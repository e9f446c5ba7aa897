//! One TCP or TLS connection: framed reading, queued writing, keep-alives and idle supervision in one task.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use trunkline_engine::io::{ConnectionId, Flow, TransmitFailure};
use trunkline_sip::parse::Limits;
use trunkline_sip::stream::{Frame, Framer};

use super::connections::{Outgoing, Registered, Waiter};
use crate::shard::Dispatcher;
use crate::shard::input::Input;

/// Bytes read at once: a burst of messages, not one per call.
const READ: usize = 16 * 1024;

/// How patient a connection is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A message that has begun must be complete after this long: slow senders do not hold memory for ever. The first
    /// message of a peer begins when it connects: who has nothing to say is no phone.
    pub message: Duration,
    /// A peer that takes nothing for this long is gone.
    pub write: Duration,
    /// Never closed for being idle sooner than this after the last message (row 20).
    pub shortest_idle: Duration,
    /// How long a connection that cannot be read on stays, so that the answer to what could be read still leaves.
    pub last_words: Duration,
}

impl Default for Patience {
    /// 64·T1, the life of a transaction (RFC 3261 §17.1.1.2), for everything that a transaction would not survive either.
    fn default() -> Self {
        const TRANSACTION: Duration = Duration::from_secs(32);
        Patience {
            message: TRANSACTION,
            write: TRANSACTION,
            shortest_idle: TRANSACTION,
            last_words: Duration::from_millis(500),
        }
    }
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The peer: it has to say something soon.
    Accepted,
    /// This worker.
    Opened,
}

/// Everything a connection's task needs beside its stream.
pub struct Connection {
    /// The way back over it.
    pub flow: Flow,
    /// Its id and queue.
    pub registered: Registered,
    /// Where its messages go.
    pub dispatcher: Dispatcher,
    /// Row 20.
    pub idle: Duration,
    /// Who opened it.
    pub origin: Origin,
    /// How long it waits for its peer.
    pub patience: Patience,
}

/// Why a connection ended; for the log.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    Peer,
    #[error("nothing moved for the idle timeout")]
    Idle,
    #[error("closed on request")]
    Asked,
    #[error("a message did not become complete in time")]
    SlowMessage,
    #[error("the peer takes nothing")]
    SlowReader,
    #[error("unreadable: {0}")]
    Framing(#[from] trunkline_sip::stream::StreamError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the shard has stopped")]
    Stopped,
}

impl Connection {
    /// Reads and writes until either side ends it, then tells every shard. Messages still queued are reported as failed.
    pub async fn run<S: AsyncRead + AsyncWrite>(self, stream: S) {
        let Connection {
            flow,
            registered:
                Registered {
                    id,
                    mut queue,
                    admission: _admission,
                },
            dispatcher,
            idle,
            origin,
            patience,
        } = self;
        let (reader, mut writer) = tokio::io::split(stream);
        let (pong, pongs) = mpsc::channel(1);
        let activity = Cell::new(Instant::now());
        let in_flight = Cell::new(None);
        let idle = idle.max(patience.shortest_idle);
        let end = tokio::select! {
            end = read(reader, origin, patience, &flow, &dispatcher, pong, &activity) => end,
            end = write(&mut writer, patience, &mut queue, pongs, &in_flight, &activity) => end,
            end = watch_idle(idle, &activity, || dispatcher.holds_binding(id)) => end,
        };
        // What was written before an orderly close still has to leave, for TLS with its close_notify (RFC 5246 §7.2.1).
        let _ = timeout(Duration::from_secs(1), writer.shutdown()).await;
        tracing::debug!(connection = id.0, trunk = %flow.trunk, reason = %end, "connection ended");
        if let Some(waiter) = in_flight.take() {
            dispatcher.transmit_failed(waiter, TransmitFailure::FlowGone);
        }
        close(id, queue, &dispatcher).await;
    }
}

/// Takes a connection out of the index, fails what was queued on it, and tells the shards.
pub async fn close(id: ConnectionId, queue: mpsc::Receiver<Outgoing>, dispatcher: &Dispatcher) {
    fail_queued(id, queue, dispatcher, TransmitFailure::FlowGone);
    for shard in 0..dispatcher.shards().count().get() {
        dispatcher.send(shard, Input::ConnectionClosed(id)).await;
    }
}

/// Takes a connection out of the index and fails what was queued on it.
pub fn fail_queued(
    id: ConnectionId,
    mut queue: mpsc::Receiver<Outgoing>,
    dispatcher: &Dispatcher,
    failure: TransmitFailure,
) {
    dispatcher.connections().remove(id);
    queue.close();
    while let Ok(message) = queue.try_recv() {
        if let Some(waiter) = message.waiter {
            dispatcher.transmit_failed(waiter, failure);
        }
    }
}

async fn read<S: AsyncRead>(
    mut reader: ReadHalf<S>,
    origin: Origin,
    patience: Patience,
    flow: &Flow,
    dispatcher: &Dispatcher,
    pong: mpsc::Sender<()>,
    activity: &Cell<Instant>,
) -> End {
    let mut framer = Framer::new(Limits::default());
    let mut buffer = vec![0; READ];
    let mut heard = origin == Origin::Opened;
    let mut begun = (!heard).then(Instant::now);
    loop {
        let left = begun.map(|begun| patience.message.saturating_sub(begun.elapsed()));
        let received = match left {
            None => reader.read(&mut buffer).await,
            Some(left) => match timeout(left, reader.read(&mut buffer)).await {
                Ok(received) => received,
                Err(_) => return End::SlowMessage,
            },
        };
        match received {
            Ok(0) => return End::Peer,
            Ok(length) => framer.push(&buffer[..length]),
            Err(error) => return error.into(),
        }
        activity.set(Instant::now());
        loop {
            match framer.poll() {
                Ok(Some(Frame::Message(message))) => {
                    (heard, begun) = (true, None);
                    if !dispatcher.message(flow, message).await {
                        return End::Stopped;
                    }
                }
                // One answer in the queue is enough: a flood of pings needs no flood of pongs.
                Ok(Some(Frame::Ping)) => drop(pong.try_send(())),
                Ok(Some(Frame::Pong)) => {}
                Ok(None) => break,
                Err(error) => {
                    dispatcher.count_unreadable_stream(error.label());
                    // Read on without looking: octets left unread would reset the connection under the answer.
                    let _ = timeout(patience.last_words, discard(&mut reader, &mut buffer)).await;
                    return error.into();
                }
            }
        }
        begun = if framer.buffered() > 0 || !heard {
            begun.or_else(|| Some(Instant::now()))
        } else {
            None
        };
    }
}

async fn discard<S: AsyncRead>(reader: &mut ReadHalf<S>, buffer: &mut [u8]) {
    while reader.read(buffer).await.is_ok_and(|length| length > 0) {}
}

/// Writes what is queued. Whoever waits for the message that is being written is in `in_flight`: reading may end first.
async fn write<S: AsyncWrite>(
    writer: &mut WriteHalf<S>,
    patience: Patience,
    queue: &mut mpsc::Receiver<Outgoing>,
    mut pongs: mpsc::Receiver<()>,
    in_flight: &Cell<Option<Waiter>>,
    activity: &Cell<Instant>,
) -> End {
    loop {
        let bytes = tokio::select! {
            message = queue.recv() => match message {
                Some(Outgoing { bytes, waiter }) => {
                    in_flight.set(waiter);
                    bytes
                }
                None => return End::Asked,
            },
            Some(()) = pongs.recv() => Bytes::from_static(b"\r\n"),
        };
        let written = timeout(patience.write, async {
            writer.write_all(&bytes).await?;
            // TLS holds records back until flushed; with more messages waiting they leave together.
            if queue.is_empty() { writer.flush().await } else { Ok(()) }
        });
        match written.await {
            Ok(Ok(())) => {
                in_flight.set(None);
                activity.set(Instant::now());
            }
            Ok(Err(error)) => return End::Io(error),
            Err(_) => return End::SlowReader,
        }
    }
}

/// Ends when nothing has moved for `idle`, unless the connection is still `needed`: then it is looked at again later.
async fn watch_idle(idle: Duration, activity: &Cell<Instant>, needed: impl Fn() -> bool) -> End {
    let mut deadline = activity.get() + idle;
    loop {
        tokio::time::sleep_until(deadline).await;
        let since_activity = activity.get() + idle;
        deadline = if since_activity > Instant::now() {
            since_activity
        } else if needed() {
            Instant::now() + idle
        } else {
            return End::Idle;
        };
    }
}

#[cfg(test)]
mod tests;
