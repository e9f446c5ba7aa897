//! The media plane: sockets and threads around the relay core.
//!
//! A session lives on one media thread with its sockets; shards send commands, the thread sends events back to the shard
//! that owns the call. This is the portable tier: epoll and a socket pair per leg, no privilege needed. Other tiers differ in
//! how packets reach [`trunkline_media::relay::RelaySession`], not in what becomes of them.

pub mod counters;
pub mod pool;
pub mod socket;
mod thread;

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use mio::Waker;
use trunkline_engine::io::{RelayCommand, SessionId};

use self::counters::RelayCounters;
use self::pool::PortPool;
use self::thread::MediaThread;
use crate::shard::input::Shards;

/// Name of this tier in status and metrics.
pub const TIER: &str = "epoll";

/// Commands waiting for one media thread: more calls than a worker sets up in a second.
const QUEUE: usize = 16_384;

enum Order {
    Command(SessionId, RelayCommand),
    Stop,
}

/// The way to the media threads; cheap to clone.
#[derive(Clone)]
pub struct Relay {
    threads: Arc<[ThreadHandle]>,
    counters: Arc<RelayCounters>,
}

struct ThreadHandle {
    orders: SyncSender<Order>,
    waker: Waker,
}

/// Running media threads; ends them when told to.
pub struct RelayThreads {
    relay: Relay,
    joins: Vec<std::thread::JoinHandle<()>>,
}

impl RelayThreads {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// When the system gives no epoll instance or no thread.
    pub fn start(count: NonZeroUsize, pool: &Arc<PortPool>, shards: &Shards) -> io::Result<RelayThreads> {
        let counters = Arc::new(RelayCounters::default());
        let mut threads = Vec::new();
        let mut joins = Vec::new();
        for index in 0..count.get() {
            let (orders, inbox) = sync_channel(QUEUE);
            let thread = MediaThread::new(inbox, Arc::clone(pool), shards.clone(), Arc::clone(&counters))?;
            threads.push(ThreadHandle {
                orders,
                waker: thread.waker()?,
            });
            let builder = std::thread::Builder::new().name(format!("media-{index}"));
            joins.push(builder.spawn(move || thread.run())?);
        }
        Ok(RelayThreads {
            relay: Relay {
                threads: threads.into(),
                counters,
            },
            joins,
        })
    }

    /// The way to them.
    pub fn relay(&self) -> Relay {
        self.relay.clone()
    }

    /// Ends all sessions and waits for the threads.
    pub fn stop(self) {
        for thread in self.relay.threads.iter() {
            if thread.orders.send(Order::Stop).is_ok() {
                let _ = thread.waker.wake();
            }
        }
        for join in self.joins {
            if join.join().is_err() {
                tracing::error!("a media thread panicked");
            }
        }
    }
}

impl Relay {
    /// Number of media threads.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// The thread of a session, below [`Relay::threads`].
    pub fn thread_of(&self, session: SessionId) -> usize {
        session.0 as usize % self.threads.len()
    }

    /// Hands a command to the thread of the session.
    ///
    /// # Errors
    /// The command, when the thread's queue is full or the thread has ended.
    pub fn command(&self, session: SessionId, command: RelayCommand) -> Result<(), RelayCommand> {
        let thread = &self.threads[self.thread_of(session)];
        match thread.orders.try_send(Order::Command(session, command)) {
            Ok(()) => {
                if let Err(error) = thread.waker.wake() {
                    // The thread sees the command at its next sweep.
                    tracing::error!(%error, "media thread could not be woken");
                }
                Ok(())
            }
            Err(
                TrySendError::Full(Order::Command(_, command)) | TrySendError::Disconnected(Order::Command(_, command)),
            ) => Err(command),
            Err(TrySendError::Full(Order::Stop) | TrySendError::Disconnected(Order::Stop)) => Ok(()),
        }
    }

    /// What the threads have counted.
    pub fn counters(&self) -> &RelayCounters {
        &self.counters
    }
}
