//! One TCP or TLS connection: framed reading, queued writing, keep-alives and idle supervision in one task.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use trunkline_engine::io::{ConnectionId, Flow, TransmitFailure};
use trunkline_sip::parse::Limits;
use trunkline_sip::stream::{Frame, Framer};

use super::connections::{Command, Outgoing, Registered};
use crate::shard::Dispatcher;
use crate::shard::input::Input;

/// Bytes read at once: a burst of messages, not one per call.
const READ: usize = 16 * 1024;
/// A peer that takes nothing for this long is gone (64·T1, RFC 3261 §17.1.1.2: its transactions have timed out too).
const WRITE_TIMEOUT: Duration = Duration::from_secs(32);
/// A message that has begun must be complete after this long: slow senders do not hold memory for ever.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(32);

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
            registered: Registered { id, mut queue },
            dispatcher,
            idle,
        } = self;
        let (reader, mut writer) = tokio::io::split(stream);
        let (pong, pongs) = mpsc::channel(1);
        let activity = Rc::new(Cell::new(Instant::now()));
        let end = tokio::select! {
            end = read(reader, &flow, &dispatcher, pong, &activity) => end,
            end = write(&mut writer, &mut queue, pongs, &dispatcher, &activity) => end,
            end = watch_idle(idle, &activity, || dispatcher.holds_binding(id)) => end,
        };
        // What was written before an orderly close still has to leave, for TLS with its close_notify (RFC 5246 §7.2.1).
        let _ = timeout(Duration::from_secs(1), writer.shutdown()).await;
        tracing::debug!(connection = id.0, trunk = %flow.trunk, reason = %end, "connection ended");
        close(id, queue, &dispatcher).await;
    }
}

/// Takes a connection out of the index, fails what was queued on it, and tells the shards.
pub async fn close(id: ConnectionId, queue: mpsc::Receiver<Command>, dispatcher: &Dispatcher) {
    fail_queued(id, queue, dispatcher, TransmitFailure::FlowGone);
    for shard in 0..dispatcher.shards().count().get() {
        dispatcher.send(shard, Input::ConnectionClosed(id)).await;
    }
}

/// Takes a connection out of the index and fails what was queued on it.
pub fn fail_queued(
    id: ConnectionId,
    mut queue: mpsc::Receiver<Command>,
    dispatcher: &Dispatcher,
    failure: TransmitFailure,
) {
    dispatcher.connections().remove(id);
    queue.close();
    while let Ok(command) = queue.try_recv() {
        if let Command::Send(Outgoing {
            waiter: Some(waiter), ..
        }) = command
        {
            dispatcher.transmit_failed(waiter, failure);
        }
    }
}

async fn read<S: AsyncRead>(
    mut reader: ReadHalf<S>,
    flow: &Flow,
    dispatcher: &Dispatcher,
    pong: mpsc::Sender<()>,
    activity: &Cell<Instant>,
) -> End {
    let mut framer = Framer::new(Limits::default());
    let mut buffer = vec![0; READ];
    let mut begun: Option<Instant> = None;
    loop {
        let patience = begun.map(|begun| MESSAGE_TIMEOUT.saturating_sub(begun.elapsed()));
        let received = match patience {
            None => reader.read(&mut buffer).await,
            Some(patience) => match timeout(patience, reader.read(&mut buffer)).await {
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
                    begun = None;
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
                    return error.into();
                }
            }
        }
        begun = if framer.buffered() > 0 {
            begun.or_else(|| Some(Instant::now()))
        } else {
            None
        };
    }
}

async fn write<S: AsyncWrite>(
    writer: &mut WriteHalf<S>,
    queue: &mut mpsc::Receiver<Command>,
    mut pongs: mpsc::Receiver<()>,
    dispatcher: &Dispatcher,
    activity: &Cell<Instant>,
) -> End {
    loop {
        let (bytes, waiter) = tokio::select! {
            command = queue.recv() => match command {
                Some(Command::Send(Outgoing { bytes, waiter })) => (bytes, waiter),
                Some(Command::Close) | None => return End::Asked,
            },
            Some(()) = pongs.recv() => (Bytes::from_static(b"\r\n"), None),
        };
        let written = timeout(WRITE_TIMEOUT, async {
            writer.write_all(&bytes).await?;
            // TLS holds records back until flushed; with more messages waiting they leave together.
            if queue.is_empty() { writer.flush().await } else { Ok(()) }
        });
        let failure = match written.await {
            Ok(Ok(())) => {
                activity.set(Instant::now());
                continue;
            }
            Ok(Err(error)) => End::Io(error),
            Err(_) => End::SlowReader,
        };
        if let Some(waiter) = waiter {
            dispatcher.transmit_failed(waiter, TransmitFailure::FlowGone);
        }
        return failure;
    }
}

/// Ends when nothing has moved for `idle`, unless the connection is still `needed`: then it is looked at again later.
async fn watch_idle(idle: Duration, activity: &Cell<Instant>, needed: impl Fn() -> bool) -> End {
    let mut deadline = activity.get() + idle;
    loop {
        tokio::time::sleep_until(deadline.into()).await;
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
