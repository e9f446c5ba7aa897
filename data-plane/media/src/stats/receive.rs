//! Reception statistics of one stream: loss (RFC 3550 A.3), duplicates and interarrival jitter (A.8).

use std::time::{Duration, Instant};

use crate::rtp::{RtpHeader, SeqNo};
use crate::srtp::{ReplayWindow, Standing};

/// A jump ahead of this many sequence numbers is a restart, not loss (RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3000;

/// A step back of this many is a restart, not reordering (RFC 3550 A.1).
const MAX_MISORDER: u16 = 100;

/// Counts over all sources a stream has had. A change of SSRC, or a restart of the sequence, starts a new count and keeps
/// the sum of the old ones.
#[derive(Debug, Clone, Default)]
pub struct ReceiveStats {
    packets: u64,
    octets: u64,
    duplicates: u64,
    reordered: u64,
    sources: u32,
    /// Expected and received packets of earlier sources.
    past: (u64, u64),
    current: Option<Source>,
    jitter_seconds: f64,
}

#[derive(Debug, Clone)]
struct Source {
    ssrc: u32,
    first: u64,
    window: ReplayWindow,
    received: u64,
    /// The sequence number that would prove a restart.
    restart: Option<u16>,
    transit: Option<Transit>,
}

/// The last packet for the jitter.
#[derive(Debug, Clone, Copy)]
struct Transit {
    clock_rate: u32,
    arrival: Instant,
    timestamp: u32,
}

impl ReceiveStats {
    /// Counts a packet that was accepted. `octets` is the payload; `clock_rate` in Hz, 0 keeps it out of the jitter.
    pub fn record(&mut self, now: Instant, header: &RtpHeader, octets: usize, clock_rate: u32) {
        self.packets += 1;
        self.octets += octets as u64;
        match &mut self.current {
            Some(source) if source.ssrc == header.ssrc => {
                if !self.advance(header.sequence) {
                    return;
                }
            }
            _ => self.start(header.ssrc, header.sequence),
        }
        if clock_rate > 0 {
            self.update_jitter(now, header.timestamp, clock_rate);
        }
    }

    /// Whether a sequence number continues the current source's stream (within the bounds of RFC 3550 A.1).
    pub fn in_sequence(&self, ssrc: u32, sequence: u16) -> bool {
        self.current
            .as_ref()
            .is_some_and(|source| source.ssrc == ssrc && source.is_near(sequence))
    }

    /// Packets received, duplicates included.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Payload octets received.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Packets received twice.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Packets that arrived after a later one.
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// How many times a source started: 1 for an ordinary stream.
    pub fn sources(&self) -> u32 {
        self.sources
    }

    /// The current source.
    pub fn ssrc(&self) -> Option<u32> {
        self.current.as_ref().map(|source| source.ssrc)
    }

    /// Highest sequence number of the current source with its count of cycles, as a report block carries it.
    pub fn highest_sequence(&self) -> u32 {
        self.current.as_ref().map_or(0, |source| source.window.highest() as u32)
    }

    /// Packets expected from the sequence numbers.
    pub fn expected(&self) -> u64 {
        self.past.0 + self.current.as_ref().map_or(0, Source::expected)
    }

    /// Packets expected and not received; duplicates do not make up for them.
    pub fn lost(&self) -> u64 {
        let received = self.past.1 + self.current.as_ref().map_or(0, |source| source.received);
        self.expected().saturating_sub(received)
    }

    /// Lost over expected, 0.0..=1.0.
    pub fn loss_ratio(&self) -> f32 {
        if self.expected() == 0 {
            0.0
        } else {
            self.lost() as f32 / self.expected() as f32
        }
    }

    /// Interarrival jitter: the smoothed mean deviation of RFC 3550 A.8.
    pub fn jitter(&self) -> Duration {
        Duration::from_secs_f64(self.jitter_seconds)
    }

    fn start(&mut self, ssrc: u32, sequence: u16) {
        if let Some(source) = self.current.take() {
            self.past.0 += source.expected();
            self.past.1 += source.received;
        }
        self.sources = self.sources.saturating_add(1);
        // Starting one cycle up leaves room for packets from before the first one.
        let first = SeqNo::new(1, sequence).as_u64();
        let window = ReplayWindow::starting_at(first);
        self.current = Some(Source {
            ssrc,
            first,
            window,
            received: 1,
            restart: None,
            transit: None,
        });
    }

    /// Counts a sequence number of the current source; `false` for one that says nothing about timing.
    fn advance(&mut self, sequence: u16) -> bool {
        let Some(source) = &mut self.current else { return false };
        if !source.is_near(sequence) {
            if source.restart == Some(sequence) {
                let ssrc = source.ssrc;
                // The packet before this one belongs to the new count as well.
                self.start(ssrc, sequence.wrapping_sub(1));
                if let Some(source) = &mut self.current {
                    source.count(sequence);
                }
                return true;
            }
            source.restart = Some(sequence.wrapping_add(1));
            return false;
        }
        source.restart = None;
        match source.count(sequence) {
            Standing::Newest => true,
            Standing::Late => {
                self.reordered += 1;
                false
            }
            Standing::Refused => {
                self.duplicates += 1;
                false
            }
        }
    }

    fn update_jitter(&mut self, now: Instant, timestamp: u32, clock_rate: u32) {
        let Some(source) = &mut self.current else { return };
        let last = source.transit.replace(Transit {
            clock_rate,
            arrival: now,
            timestamp,
        });
        let Some(last) = last.filter(|last| last.clock_rate == clock_rate) else {
            return;
        };
        let arrived = now.saturating_duration_since(last.arrival).as_secs_f64();
        let sent = f64::from(timestamp.wrapping_sub(last.timestamp) as i32) / f64::from(clock_rate);
        self.jitter_seconds += ((arrived - sent).abs() - self.jitter_seconds) / 16.0;
    }
}

impl Source {
    fn is_near(&self, sequence: u16) -> bool {
        let ahead = sequence.wrapping_sub(self.window.highest() as u16);
        ahead < MAX_DROPOUT || ahead.wrapping_neg() <= MAX_MISORDER
    }

    fn expected(&self) -> u64 {
        self.window.highest() - self.first + 1
    }

    fn count(&mut self, sequence: u16) -> Standing {
        let highest = SeqNo::from_u64(self.window.highest()).unwrap_or(SeqNo::MAX);
        let index = highest.closest(sequence).as_u64();
        let standing = self.window.standing(index);
        if standing != Standing::Refused {
            self.window.mark(index);
            self.received += 1;
            self.first = self.first.min(index);
        }
        standing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the start of a test's clock"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    fn header(ssrc: u32, sequence: u16, timestamp: u32) -> RtpHeader {
        RtpHeader {
            marker: false,
            payload_type: 0,
            sequence,
            timestamp,
            ssrc,
            header_len: 12,
            padded: false,
        }
    }

    fn feed(stats: &mut ReceiveStats, ssrc: u32, sequences: impl IntoIterator<Item = u16>) {
        let now = start();
        for sequence in sequences {
            stats.record(now, &header(ssrc, sequence, 0), 160, 0);
        }
    }

    #[test]
    fn loss_is_counted_over_a_wrap() {
        let mut stats = ReceiveStats::default();
        feed(
            &mut stats,
            1,
            (65_500..=65_535).chain(0..50).filter(|sequence| sequence % 10 != 3),
        );
        assert_eq!((stats.expected(), stats.lost(), stats.packets()), (86, 9, 77));
        assert!((stats.loss_ratio() - 9.0 / 86.0).abs() < 1e-6);
    }

    #[test]
    fn duplicates_do_not_hide_loss() {
        let mut stats = ReceiveStats::default();
        feed(&mut stats, 1, [1, 2, 2, 2, 4, 3, 6]);
        assert_eq!(
            (stats.expected(), stats.lost(), stats.duplicates(), stats.reordered()),
            (6, 1, 2, 1)
        );
    }

    #[test]
    fn a_packet_from_before_the_first_widens_the_count() {
        let mut stats = ReceiveStats::default();
        feed(&mut stats, 1, [0, 65_535, 1]);
        assert_eq!((stats.expected(), stats.lost()), (3, 0));
    }

    #[test]
    fn a_new_source_or_a_restart_is_no_loss() {
        let mut stats = ReceiveStats::default();
        feed(&mut stats, 1, 100..110);
        feed(&mut stats, 2, 40_000..40_010);
        feed(&mut stats, 2, 10..20);
        assert_eq!((stats.expected(), stats.lost(), stats.sources()), (30, 0, 3));
    }

    #[test]
    fn even_spacing_has_no_jitter_and_alternating_delay_converges_to_its_deviation() {
        let begin = start();
        let mut even = ReceiveStats::default();
        let mut uneven = ReceiveStats::default();
        for step in 0..400u16 {
            let sent = Duration::from_millis(20) * u32::from(step);
            even.record(begin + sent, &header(1, step, u32::from(step) * 160), 160, 8000);
            let delay = Duration::from_millis(if step % 2 == 0 { 0 } else { 8 });
            uneven.record(begin + sent + delay, &header(1, step, u32::from(step) * 160), 160, 8000);
        }
        assert!(even.jitter() < Duration::from_micros(1), "{:?}", even.jitter());
        let jitter = uneven.jitter().as_secs_f64() * 1000.0;
        assert!((jitter - 8.0).abs() < 0.01, "{jitter}");
    }
}
