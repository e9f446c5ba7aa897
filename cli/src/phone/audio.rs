//! The audio of one call: a tone out, the peer's in, RTCP beside both; plain or SRTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use trunkline_media::SrtpSuite;
use trunkline_media::packet::PacketBuf;
use trunkline_media::rtcp::{
    Compound, CompoundRule, ReportBlock, SenderInfo, write_sender_report, write_source_description,
};
use trunkline_media::rtp::RtpHeader;
use trunkline_media::srtp::{Protect, Unprotect};
use trunkline_media::stats::ReceiveStats;
use trunkline_media::tone::ToneGenerator;

use super::PhoneError;
use super::ear::{Ear, Heard, SAMPLE_RATE};
use super::session::{Agreed, law_name};

/// Time of one packet.
const PACKET: Duration = Duration::from_millis(20);
/// Its samples, and octets.
const SAMPLES: usize = 160;
/// Peak of the tone: -12 dBov, the level of loud speech.
const AMPLITUDE: i16 = 8000;
/// Between sender reports: shorter than the 5 s of RFC 3550 §6.2, because calls of the check last some seconds.
const REPORT: Duration = Duration::from_millis(500);
/// Room for a packet and its SRTP trailer.
const SLOT: usize = 2048;
/// Tries to find a free pair of ports.
const PAIR_TRIES: u32 = 100;

/// A pair of media ports, the even one for RTP (RFC 3550 §11).
pub(super) struct Ports {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    address: SocketAddr,
}

impl Ports {
    /// Binds a free pair.
    pub(super) async fn bind(ip: IpAddr) -> Result<Self, PhoneError> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PAIR_TRIES {
            let rtp = UdpSocket::bind((ip, 0)).await.map_err(PhoneError::Media)?;
            let address = rtp.local_addr().map_err(PhoneError::Media)?;
            if address.port() % 2 != 0 {
                continue;
            }
            match UdpSocket::bind((ip, address.port() + 1)).await {
                Ok(rtcp) => return Ok(Self { rtp, rtcp, address }),
                Err(error) => last = error,
            }
        }
        Err(PhoneError::Media(last))
    }

    /// Where RTP is wanted.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What a call's audio came to.
#[derive(Debug, Clone, PartialEq)]
pub struct AudioReport {
    /// Encoding name, `PCMU` or `PCMA`.
    pub codec: &'static str,
    /// SRTP suite; `None` for RTP.
    pub suite: Option<SrtpSuite>,
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets received, and let in by SRTP.
    pub received: u64,
    /// Packets that never came, by their sequence numbers (RFC 3550 A.3).
    pub lost: u64,
    /// Interarrival jitter (RFC 3550 A.8).
    pub jitter: Duration,
    /// Packets refused: not RTP, another payload type, or an SRTP failure.
    pub rejected: u64,
    /// RTCP reports received.
    pub reports: u64,
    /// The tones.
    pub heard: Heard,
}

/// The running audio of one call. Nothing happens but inside [`Audio::step`], which is cancel safe.
pub(super) struct Audio {
    ports: Ports,
    agreed: Agreed,
    protect: Option<Protect>,
    unprotect: Option<Unprotect>,
    tone: ToneGenerator,
    ear: Ear,
    packets: Interval,
    reports: Interval,
    /// Of the next packet.
    header: RtpHeader,
    sent: u64,
    stats: ReceiveStats,
    rejected: u64,
    reports_received: u64,
    started: Instant,
    buffers: [Box<[u8; SLOT]>; 2],
}

impl Audio {
    /// Begins at once: the first packet goes out with the first step.
    pub(super) fn start(ports: Ports, agreed: Agreed, send: f32, expect: f32) -> Self {
        let (protect, unprotect) = match &agreed.keys {
            Some(keys) => (Some(Protect::new(&keys.send)), Some(Unprotect::new(&keys.receive))),
            None => (None, None),
        };
        let mut packets = interval(PACKET);
        // A late sender catches up: what counts is how many packets a call has.
        packets.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut reports = interval(REPORT);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick of an interval is immediate, and there is nothing to report yet.
        reports.reset();
        let header = RtpHeader {
            marker: true,
            payload_type: agreed.law.payload_type(),
            // Random beginnings (RFC 3550 §5.1), low enough that a short call never wraps before the receiver has its roll-over.
            sequence: rand::random::<u16>() >> 1,
            timestamp: rand::random(),
            ssrc: rand::random(),
            header_len: 0,
            padded: false,
        };
        Self {
            ports,
            protect,
            unprotect,
            tone: ToneGenerator::new(send, SAMPLE_RATE, AMPLITUDE),
            ear: Ear::new(expect, send),
            packets,
            reports,
            header,
            sent: 0,
            stats: ReceiveStats::default(),
            rejected: 0,
            reports_received: 0,
            started: Instant::now(),
            buffers: [Box::new([0; SLOT]), Box::new([0; SLOT])],
            agreed,
        }
    }

    /// Sends or receives one packet. Cancel safe.
    pub(super) async fn step(&mut self) -> Result<(), PhoneError> {
        let [rtp_buffer, rtcp_buffer] = &mut self.buffers;
        tokio::select! {
            biased;
            _ = self.packets.tick() => self.send_packet(),
            received = self.ports.rtp.recv(&mut rtp_buffer[..]) => {
                // A port unreachable from an earlier packet shows here; the peer may only be late.
                if let Ok(length) = received {
                    self.receive_packet(length);
                }
                Ok(())
            }
            received = self.ports.rtcp.recv(&mut rtcp_buffer[..]) => {
                if let Ok(length) = received {
                    self.receive_report(length);
                }
                Ok(())
            }
            _ = self.reports.tick() => self.send_report(),
        }
    }

    /// Takes what the sockets still hold, and says what it all came to.
    pub(super) fn finish(mut self) -> AudioReport {
        while let Ok(length) = self.ports.rtp.try_recv(&mut self.buffers[0][..]) {
            self.receive_packet(length);
        }
        while let Ok(length) = self.ports.rtcp.try_recv(&mut self.buffers[1][..]) {
            self.receive_report(length);
        }
        AudioReport {
            codec: law_name(self.agreed.law),
            suite: self.agreed.keys.as_ref().map(|keys| keys.send.suite()),
            sent: self.sent,
            received: self.stats.packets(),
            lost: self.stats.lost(),
            jitter: self.stats.jitter(),
            rejected: self.rejected,
            reports: self.reports_received,
            heard: self.ear.heard(),
        }
    }

    fn send_packet(&mut self) -> Result<(), PhoneError> {
        let law = self.agreed.law;
        let mut slot = [0; SLOT];
        let head = self.header.to_bytes();
        slot[..head.len()].copy_from_slice(&head);
        for octet in &mut slot[head.len()..head.len() + SAMPLES] {
            *octet = law.encode(self.tone.next_sample());
        }
        let mut packet = PacketBuf::new(&mut slot, head.len() + SAMPLES);
        if let Some(protect) = &mut self.protect {
            protect.protect_rtp(&mut packet).map_err(PhoneError::Protect)?;
        }
        transmit(&self.ports.rtp, packet.as_slice(), self.agreed.remote.rtp)?;
        self.sent += 1;
        self.header.marker = false;
        self.header.sequence = self.header.sequence.wrapping_add(1);
        self.header.timestamp = self.header.timestamp.wrapping_add(SAMPLES as u32);
        Ok(())
    }

    fn receive_packet(&mut self, length: usize) {
        let mut packet = PacketBuf::new(&mut self.buffers[0][..], length);
        let admitted = match &mut self.unprotect {
            Some(unprotect) => unprotect.unprotect_rtp(&mut packet).is_ok(),
            None => true,
        };
        let header = RtpHeader::parse(packet.as_slice()).ok().filter(|_| admitted);
        let header = header.filter(|header| header.payload_type == self.agreed.law.payload_type());
        let Some((header, payload)) = header.and_then(|header| Some((header, header.payload(packet.as_slice()).ok()?)))
        else {
            self.rejected += 1;
            return;
        };
        self.stats
            .record(Instant::now().into_std(), &header, payload.len(), SAMPLE_RATE);
        for octet in payload {
            self.ear.hear(self.agreed.law.decode(*octet));
        }
    }

    fn send_report(&mut self) -> Result<(), PhoneError> {
        let ssrc = self.header.ssrc;
        let info = SenderInfo {
            ntp: ntp(self.started.elapsed()),
            rtp_timestamp: self.header.timestamp,
            packet_count: self.sent as u32,
            octet_count: (self.sent * SAMPLES as u64) as u32,
        };
        let block = self.stats.ssrc().map(|ssrc| ReportBlock {
            ssrc,
            fraction_lost: (self.stats.loss_ratio() * 256.0).min(255.0) as u8,
            cumulative_lost: self.stats.lost().min(i32::MAX as u64) as i32,
            highest_sequence: self.stats.highest_sequence(),
            jitter: (self.stats.jitter().as_secs_f64() * f64::from(SAMPLE_RATE)) as u32,
            last_sr: 0,
            delay_since_last_sr: 0,
        });
        let mut compound = Vec::with_capacity(128);
        write_sender_report(&mut compound, ssrc, &info, block.as_slice());
        write_source_description(&mut compound, ssrc, format!("{ssrc:08x}").as_bytes());
        let mut slot = [0; SLOT];
        slot[..compound.len()].copy_from_slice(&compound);
        let mut packet = PacketBuf::new(&mut slot, compound.len());
        if let Some(protect) = &mut self.protect {
            protect.protect_rtcp(&mut packet).map_err(PhoneError::Protect)?;
        }
        transmit(&self.ports.rtcp, packet.as_slice(), self.agreed.remote.rtcp)
    }

    fn receive_report(&mut self, length: usize) {
        let mut packet = PacketBuf::new(&mut self.buffers[1][..], length);
        let admitted = match &mut self.unprotect {
            Some(unprotect) => unprotect.unprotect_rtcp(&mut packet).is_ok(),
            None => true,
        };
        if admitted && Compound::parse(packet.as_slice(), CompoundRule::Full).is_ok() {
            self.reports_received += 1;
        } else {
            self.rejected += 1;
        }
    }
}

/// A full socket buffer loses the packet, as a network would: the receiver counts it.
fn transmit(socket: &UdpSocket, packet: &[u8], to: SocketAddr) -> Result<(), PhoneError> {
    match socket.try_send_to(packet, to) {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(PhoneError::Media(error)),
    }
}

/// Elapsed time as an NTP timestamp: a sender without wall clock may count from its start (RFC 3550 §6.4.1).
fn ntp(elapsed: Duration) -> u64 {
    (elapsed.as_secs() << 32) | ((u64::from(elapsed.subsec_nanos()) << 32) / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ntp_counts_seconds_and_their_fractions() {
        assert_eq!(ntp(Duration::from_millis(1500)), (1 << 32) | (1 << 31));
    }
}
