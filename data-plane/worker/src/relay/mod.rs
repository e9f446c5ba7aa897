//! The media plane: sockets and threads around the relay core.
//!
//! A session lives on one media thread with its sockets; shards send commands, the thread sends events back to the shard
//! that owns the call. Tiers differ in how packets reach [`trunkline_media::relay::RelaySession`] and leave it, not in what
//! becomes of them: a thread is the same over any `Wire`.

mod ancillary;
mod burst;
pub mod counters;
mod epoll;
mod fan_in;
pub mod pool;
pub mod socket;
mod thread;
mod wire;

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use mio::Waker;
use trunkline_engine::io::{RelayCommand, SessionId};

use self::counters::RelayCounters;
use self::epoll::EpollWire;
use self::fan_in::{Exit, FanIn, FanInWire};
pub use self::fan_in::{FanInError, SteeringError};
use self::pool::PortPool;
use self::thread::MediaThread;
use self::wire::Wire;
use crate::shard::input::Shards;

/// Commands waiting for one media thread: more calls than a worker sets up in a second.
const QUEUE: usize = 16_384;

/// How packets reach the media threads and leave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// A socket for each leased port, watched by epoll. Needs no privilege.
    Epoll,
    /// A socket for each thread, to which a BPF program steers the leased ports; batches in and out. Needs CAP_BPF,
    /// CAP_NET_ADMIN and CAP_NET_RAW.
    FanIn,
    /// The same, and what leaves is handed to the link itself where a plain way leads over one: past the system's outgoing
    /// filters, address translation and queueing disciplines. Only on demand.
    FanInDirect,
}

impl Tier {
    /// Name in status, log and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Epoll => "epoll",
            Tier::FanIn => "fan-in",
            Tier::FanInDirect => "fan-in-direct",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which tier is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TierChoice {
    /// The fastest that the process has the rights for and that leaves the system's filters in force.
    #[default]
    Auto,
    /// This one, or none.
    Only(Tier),
}

impl FromStr for TierChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let only = [Tier::Epoll, Tier::FanIn, Tier::FanInDirect]
            .into_iter()
            .find(|tier| tier.name() == text);
        match (text, only) {
            ("auto", _) => Ok(TierChoice::Auto),
            (_, Some(tier)) => Ok(TierChoice::Only(tier)),
            _ => Err("`auto`, `epoll`, `fan-in` or `fan-in-direct`".into()),
        }
    }
}

/// Why the media threads did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No thread, or no epoll instance.
    #[error("start a media thread")]
    Thread(#[from] io::Error),
    /// The fan-in tier was asked for and cannot be had.
    #[error("use the fan-in tier")]
    FanIn(#[from] FanInError),
}

enum Order {
    Command(SessionId, RelayCommand),
    Stop,
}

/// The way to the media threads; cheap to clone.
#[derive(Clone)]
pub struct Relay {
    tier: Tier,
    threads: Arc<[ThreadHandle]>,
    counters: Arc<RelayCounters>,
}

struct ThreadHandle {
    orders: SyncSender<Order>,
    waker: Waker,
    thread: std::thread::Thread,
}

impl ThreadHandle {
    /// Ends the thread's wait for packets, or its rest.
    fn wake(&self) {
        self.thread.unpark();
        if let Err(error) = self.waker.wake() {
            // The thread sees its orders at its next sweep.
            tracing::error!(%error, "media thread could not be woken");
        }
    }
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
    /// When the system gives no epoll instance or no thread, or refuses the tier that was asked for.
    pub fn start(
        choice: TierChoice,
        count: NonZeroUsize,
        pool: &Arc<PortPool>,
        shards: &Shards,
    ) -> Result<RelayThreads, StartError> {
        let (tier, wires) = match choice {
            TierChoice::Only(Tier::Epoll) => (Tier::Epoll, None),
            TierChoice::Only(tier) => (tier, Some(fan_in_wires(tier, count)?)),
            TierChoice::Auto => match fan_in_wires(Tier::FanIn, count) {
                Ok(wires) => (Tier::FanIn, Some(wires)),
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::info!(error = cause, "the fan-in tier cannot be used here");
                    (Tier::Epoll, None)
                }
            },
        };
        let mut start = Start {
            pool,
            shards,
            counters: Arc::default(),
            threads: Vec::new(),
            joins: Vec::new(),
        };
        match wires {
            Some(wires) => wires.into_iter().try_for_each(|wire| start.thread(wire))?,
            None => (0..count.get()).try_for_each(|_| start.thread(EpollWire::new()?))?,
        }
        tracing::info!(%tier, threads = count, "media threads run");
        Ok(RelayThreads {
            relay: Relay {
                tier,
                threads: start.threads.into(),
                counters: start.counters,
            },
            joins: start.joins,
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
                thread.wake();
            }
        }
        for join in self.joins {
            if join.join().is_err() {
                tracing::error!("a media thread panicked");
            }
        }
    }
}

fn fan_in_wires(tier: Tier, count: NonZeroUsize) -> Result<Vec<FanInWire>, FanInError> {
    let shared = FanIn::new(match tier {
        Tier::FanInDirect => Exit::Direct,
        Tier::Epoll | Tier::FanIn => Exit::Raw,
    })?;
    (0..count.get()).map(|thread| shared.wire(thread)).collect()
}

/// Threads as they are started.
struct Start<'a> {
    pool: &'a Arc<PortPool>,
    shards: &'a Shards,
    counters: Arc<RelayCounters>,
    threads: Vec<ThreadHandle>,
    joins: Vec<std::thread::JoinHandle<()>>,
}

impl Start<'_> {
    fn thread(&mut self, wire: impl Wire + Send + 'static) -> io::Result<()> {
        let (orders, inbox) = sync_channel(QUEUE);
        let waker = wire.waker()?;
        let (pool, shards) = (Arc::clone(self.pool), self.shards.clone());
        let thread = MediaThread::new(wire, inbox, pool, shards, Arc::clone(&self.counters));
        let builder = std::thread::Builder::new().name(format!("media-{}", self.threads.len()));
        let join = builder.spawn(move || thread.run())?;
        self.threads.push(ThreadHandle {
            orders,
            waker,
            thread: join.thread().clone(),
        });
        self.joins.push(join);
        Ok(())
    }
}

impl Relay {
    /// The tier in use.
    pub fn tier(&self) -> Tier {
        self.tier
    }

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
                thread.wake();
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
