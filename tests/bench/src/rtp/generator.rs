//! The loop: sends what is due, reads what arrived, and measures in a steady window.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::Timespec;

use super::frame;
use super::histogram::Histogram;
use super::network::{CALLEE_MEDIA, CALLER_MEDIA, EDGE_MAC, MEDIA_PORTS_FROM, MEDIA_PORTS_TO, PHONES_MAC};
use super::pace::Pace;
use super::stream::{Arrival, End, EndConfig};
use super::wire::{BATCH, FRAME, Ring, Sender, now};

/// After the last packet was sent, waiting ends when nothing has arrived for this long.
const SETTLED: u64 = 300_000_000;
/// Arrivals are looked for this often while waiting, in nanoseconds.
const LOOK: u64 = 2_000_000;

/// What happens when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Streams run this long before they are measured.
    pub warm_up: Duration,
    /// They are measured this long.
    pub window: Duration,
    /// Packets due within this time are sent together.
    pub slot: Duration,
}

/// The moments at which a measurement reads other clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The window begins.
    Begin,
    /// The window ends.
    End,
}

/// What was seen in the window.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Packets sent in the window.
    pub sent: u64,
    /// Those of them that arrived, whenever.
    pub received: u64,
    /// Those that did not.
    pub lost: u64,
    /// Packets that arrived inside the window, whenever they were sent: what the relay's CPU was spent on.
    pub relayed: u64,
    /// From sending to arrival, of the received ones.
    pub latency: Histogram,
    /// Packets that arrived twice, or after they were given up; of the whole run, as the next ones.
    pub stale: u64,
    /// Packets of no stream of ours, RTCP left out.
    pub strangers: u64,
    /// Packets whose content was not what was sent.
    pub wrong: u64,
    /// Packets the sender's interface would not take.
    pub unsent: u64,
    /// Frames that found no room in the ring: then the generator was the limit.
    pub ring_dropped: u64,
    /// Slots in the window that began more than a slot late.
    pub late_slots: u64,
    /// CPU time of the generator's thread in the window, in nanoseconds.
    pub cpu: u64,
    /// Length of the window in nanoseconds.
    pub window: u64,
}

/// Streams between callers and callees, all on one thread and one interface.
#[derive(Debug)]
pub struct Generator {
    sender: Sender,
    ring: Ring,
    /// Two for each call: the caller's and the callee's.
    ends: Vec<End>,
    order: Vec<usize>,
    epoch: u64,
}

/// What is counted while packets fly.
#[derive(Debug, Default)]
struct Tally {
    outcome: Outcome,
    /// When the window began and ended, in the generator's time.
    began: Option<u64>,
    ended: Option<u64>,
    open: u64,
    last_arrival: u64,
}

impl Generator {
    /// Ends for the calls, whose `i`th has [`media_port`]`(i)` on both sides. Opens the interfaces of this thread's namespace:
    /// packets leave by the first of `links` and arrive by the second.
    ///
    /// # Errors
    /// When an interface cannot be opened.
    pub fn new(links: (&str, &str), calls: &[[EndConfig; 2]]) -> Result<Self> {
        let mut ends = Vec::with_capacity(calls.len() * 2);
        for (call, sides) in calls.iter().enumerate() {
            let port = media_port(call).context("too many calls for the phones' ports")?;
            for (side, config) in sides.iter().enumerate() {
                let address = SocketAddrV4::new([CALLER_MEDIA, CALLEE_MEDIA][side], port);
                ensure!(config.own == address, "end {} where {address} belongs", config.own);
                let number = ends.len() as u32;
                // First sequence numbers differ and do not wrap within a run; SSRCs are any that differ.
                let first = (number.wrapping_mul(7919) % 0x4000) as u16;
                let ssrc = 0x5452_0000_u32.wrapping_add(number);
                ends.push(End::new(number, config, (PHONES_MAC, EDGE_MAC), ssrc, first));
            }
        }
        ensure!(!ends.is_empty(), "no call, no stream");
        Ok(Self {
            sender: Sender::open(links.0)?,
            ring: Ring::open(links.1)?,
            order: scattered(ends.len()),
            ends,
            // Times of the ledger are counted from here, and are never 0.
            epoch: now() - 1,
        })
    }

    /// Runs the streams. `mark` is called on this thread as the window begins and ends.
    ///
    /// # Errors
    /// When packets cannot be protected or sent at all, or `mark` fails.
    pub fn run(&mut self, schedule: &Schedule, mut mark: impl FnMut(Mark) -> Result<()>) -> Result<Outcome> {
        let pace = Pace::new(self.ends.len(), schedule.slot);
        let slot = pace.slot_nanos();
        let ticks = |duration: Duration| duration.as_nanos() as u64 / slot;
        let begin = ticks(schedule.warm_up);
        let end = begin + ticks(schedule.window).max(1);
        let mut tally = Tally::default();
        let mut cpu = 0;
        self.ring.dropped()?;
        let _punctual = Punctual::begin();
        let start = monotonic() + slot;
        for tick in 0..=end {
            let due = start + tick * slot;
            sleep_until(due);
            if tick == begin {
                self.receive(&mut tally);
                mark(Mark::Begin)?;
                tally.began = Some(self.time());
                cpu = thread_cpu();
            }
            if tick == end {
                mark(Mark::End)?;
                tally.ended = Some(self.time());
                tally.outcome.cpu = thread_cpu() - cpu;
                break;
            }
            if tick > begin && monotonic() > due + slot {
                tally.outcome.late_slots += 1;
            }
            self.send(pace.due(tick), &mut tally)?;
            self.receive(&mut tally);
        }
        self.settle(&mut tally);
        let outcome = &mut tally.outcome;
        for sent in self.ends.iter().flat_map(End::missing) {
            if in_window(tally.began, tally.ended, sent) {
                outcome.lost += 1;
            }
        }
        outcome.ring_dropped = self.ring.dropped()?;
        outcome.window = tally.ended.unwrap_or(0) - tally.began.unwrap_or(0);
        Ok(tally.outcome)
    }

    fn send(&mut self, due: std::ops::Range<usize>, tally: &mut Tally) -> Result<()> {
        let mut frames = [([0; FRAME], 0); BATCH];
        for batch in self.order[due].chunks(BATCH) {
            let at = now() - self.epoch;
            let measured = in_window(tally.began, tally.ended, at);
            for (end, (slot, length)) in batch.iter().zip(&mut frames) {
                let (written, lost) = self.ends[*end].next(at, slot).context("protect a packet")?;
                *length = written;
                if let Some(lost) = lost {
                    tally.open -= 1;
                    tally.outcome.lost += u64::from(in_window(tally.began, tally.ended, lost));
                }
            }
            let (mut next, mut sent) = (0, 0);
            while next < batch.len() {
                match self.sender.send(&mut frames[next..batch.len()]) {
                    Ok(count) => {
                        next += count;
                        sent += count as u64;
                    }
                    // No room in a queue, for instance: that packet is gone, and said to be.
                    Err(_) => {
                        self.ends[batch[next]].unsent();
                        tally.outcome.unsent += 1;
                        next += 1;
                    }
                }
            }
            tally.open += sent;
            tally.outcome.sent += if measured { sent } else { 0 };
        }
        Ok(())
    }

    fn receive(&mut self, tally: &mut Tally) -> usize {
        let Self { ring, ends, epoch, .. } = self;
        ring.drain(|stamp, octets| {
            let at = stamp.saturating_sub(*epoch);
            tally.last_arrival = at;
            let outcome = &mut tally.outcome;
            let Some((to, packet)) = frame::datagram(octets) else {
                outcome.strangers += 1;
                return;
            };
            // The odd ports are for RTCP, which is not counted.
            if !to.port().is_multiple_of(2) {
                return;
            }
            let call = usize::from((to.port() - MEDIA_PORTS_FROM) / 2);
            let (hears, sends) = match *to.ip() {
                CALLER_MEDIA => (2 * call, 2 * call + 1),
                CALLEE_MEDIA => (2 * call + 1, 2 * call),
                _ => {
                    outcome.strangers += 1;
                    return;
                }
            };
            if sends.max(hears) >= ends.len() {
                outcome.strangers += 1;
                return;
            }
            let mut listener = ends[hears].lend_unprotect();
            let arrival = ends[sends].arrived(packet, listener.as_mut());
            ends[hears].give_back(listener);
            match arrival {
                Arrival::Fresh(sent) => {
                    tally.open -= 1;
                    outcome.relayed += u64::from(in_window(tally.began, tally.ended, at));
                    if in_window(tally.began, tally.ended, sent) {
                        outcome.received += 1;
                        outcome.latency.add(at.saturating_sub(sent));
                    }
                }
                Arrival::Stale => outcome.stale += 1,
                Arrival::Stranger => outcome.strangers += 1,
                Arrival::Wrong => outcome.wrong += 1,
            }
        })
    }

    /// Waits until everything has arrived, or nothing does any more.
    fn settle(&mut self, tally: &mut Tally) {
        let mut quiet_since = self.time();
        while tally.open > 0 && self.time() - quiet_since < SETTLED {
            sleep_until(monotonic() + LOOK);
            if self.receive(tally) > 0 {
                quiet_since = self.time();
            }
        }
    }

    fn time(&self) -> u64 {
        now() - self.epoch
    }
}

/// While it lives, this thread runs before all ordinary ones: whatever else the machine does, packets leave on time. The thread
/// sleeps most of the time, so others are not kept waiting.
struct Punctual;

impl Punctual {
    /// Without the right to it the thread stays as it is; late slots are counted in either case.
    fn begin() -> Self {
        set_policy(libc::SCHED_FIFO, 1);
        Self
    }
}

impl Drop for Punctual {
    fn drop(&mut self) {
        set_policy(libc::SCHED_OTHER, 0);
    }
}

#[expect(unsafe_code, reason = "sched_setscheduler; no crate of ours wraps it")]
fn set_policy(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: thread 0 is the calling one; the parameters outlive the call.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

/// The port of both ends of a call; `None` when the range has no more.
pub fn media_port(call: usize) -> Option<u16> {
    let offset = u16::try_from(call.checked_mul(2)?).ok()?;
    let port = MEDIA_PORTS_FROM.checked_add(offset)?;
    (port < MEDIA_PORTS_TO).then_some(port)
}

fn in_window(began: Option<u64>, ended: Option<u64>, at: u64) -> bool {
    began.is_some_and(|began| at >= began) && ended.is_none_or(|ended| at < ended)
}

/// All numbers below `count`, neighbours far apart: a relay is not to find one call's packets, or its table, in order.
fn scattered(count: usize) -> Vec<usize> {
    let coprime = |stride: &usize| gcd(*stride, count) == 1;
    let stride = (count * 5 / 8..).find(coprime).unwrap_or(1);
    (0..count).map(|index| index * stride % count).collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn monotonic() -> u64 {
    nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

fn thread_cpu() -> u64 {
    nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn sleep_until(nanoseconds: u64) {
    let until = Timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as _,
        tv_nsec: (nanoseconds % 1_000_000_000) as _,
    };
    while clock_nanosleep_absolute(ClockId::Monotonic, &until) == Err(rustix::io::Errno::INTR) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_turn_and_neighbours_are_apart() {
        for count in [1, 2, 200, 800, 2000] {
            let mut order = scattered(count);
            if count > 8 {
                assert!(order.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > count / 8));
            }
            order.sort_unstable();
            assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ports_end_where_the_range_does() {
        assert_eq!(media_port(0), Some(MEDIA_PORTS_FROM));
        assert_eq!(media_port(4_999), Some(MEDIA_PORTS_TO - 2));
        assert_eq!(media_port(5_000), None);
        assert_eq!(media_port(usize::MAX), None);
    }
}
