//! One leg's side of one stream: its latches, keys and counters.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::latch::{Evidence, Latch};
use crate::packet::PacketBuf;
use crate::rtcp::{Compound, ReportBlock, RtcpPacket};
use crate::rtp::RtpHeader;
use crate::srtp::{Authenticated, CounterCipher, Indexed, Protect, SrtpError, Unprotect};
use crate::stats::ReceiveStats;

use super::config::{Component, SourcePolicy, SrtpParams, StreamLeg};
use super::report::{LegStats, RemoteReport, Traffic};
use super::verdict::{DropReason, DropTally};

/// How long packets under a replaced key are still accepted: "for a period of time" (RFC 4568 §7.1.4).
pub const OLD_KEY_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) rtp: Latch,
    /// Boxed, and made by its first packet: most legs take RTCP from the signalled address or on the RTP port.
    pub(super) rtcp: Option<Box<Latch>>,
    pub(super) srtp: Option<Box<SrtpSide>>,
    pub(super) received: ReceiveStats,
    pub(super) counters: Counters,
    /// Middle NTP bits of the last sender report passed on to this leg, and when.
    report_sent: Option<(u32, Instant)>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Counters {
    pub(super) rtp_received: Traffic,
    pub(super) rtp_sent: Traffic,
    pub(super) rtcp_received: Traffic,
    pub(super) rtcp_sent: Traffic,
    pub(super) dscp_mismatches: u64,
    pub(super) drops: DropTally,
    round_trip: Option<Duration>,
    remote_report: Option<RemoteReport>,
}

/// The SRTP contexts of a side, boxed: plain sides are many and need none.
#[derive(Debug)]
pub(super) struct SrtpSide {
    pub(super) rx: Option<Unprotect>,
    /// The receiver before the last change of key, and until when it counts. Boxed, as is the other: most calls have none.
    old_rx: Option<Box<(Unprotect, Instant)>>,
    pub(super) tx: Protect,
    /// The sender before the last change of key. Should its key come back, its counters do too: no index is used twice.
    old_tx: Option<Box<Protect>>,
}

impl Side {
    /// Takes over a new configuration of this side; `old` is the last one, if any.
    pub(super) fn apply(&mut self, now: Instant, old: Option<&StreamLeg>, new: &StreamLeg) {
        let same_address = old.is_some_and(|old| old.remote == new.remote);
        let same_ports = old.is_some_and(|old| old.ports == new.ports);
        if !same_ports {
            (self.rtp, self.rtcp) = (Latch::default(), None);
        } else if old.is_some_and(|old| old.round != new.round || old.source != new.source) {
            self.rtp.reopen(now, same_address);
            if let Some(rtcp) = &mut self.rtcp {
                rtcp.reopen(now, same_address);
            }
        }
        match (&mut self.srtp, &new.srtp) {
            (None, Some(params)) => self.srtp = Some(Box::new(SrtpSide::new(params))),
            (Some(srtp), Some(params)) => srtp.apply(now, params, same_address),
            (srtp, None) => *srtp = None,
        }
    }

    /// Whether a source is inside the policy before anything of the packet is believed. Costs nothing, so floods from
    /// elsewhere never reach the cipher.
    pub(super) fn may_come_from(leg: &StreamLeg, component: Component, source: SocketAddr) -> bool {
        match leg.source {
            SourcePolicy::Signalled => signalled(leg, component).is_some_and(|address| canonical(address) == source),
            SourcePolicy::Latch { signalling_ip } => leg.srtp.is_some() || canonical_ip(signalling_ip) == source.ip(),
        }
    }

    /// Lets the packet's evidence fix or move the latch; `false` if it does not speak for the source.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        leg: &StreamLeg,
        component: Component,
        source: SocketAddr,
        evidence: Evidence,
    ) -> bool {
        match leg.source {
            SourcePolicy::Signalled => true,
            SourcePolicy::Latch { .. } => self.latch(leg, component).admit(now, source, evidence),
        }
    }

    /// Where packets to this side go.
    pub(super) fn destination(&self, leg: &StreamLeg, component: Component) -> Option<SocketAddr> {
        let SourcePolicy::Latch { signalling_ip } = leg.source else {
            return signalled(leg, component);
        };
        let latch = if uses_rtcp_port(leg, component) {
            self.rtcp.as_deref()
        } else {
            Some(&self.rtp)
        };
        // Before the latch only an address the policy would accept packets from: whoever signals must not be able to
        // point a stream at somebody else (RFC 7362 §5).
        latch.and_then(Latch::address).or_else(|| {
            signalled(leg, component).filter(|address| canonical_ip(address.ip()) == canonical_ip(signalling_ip))
        })
    }

    /// Decrypts in place if the side is SRTP. `None` is plain.
    pub(super) fn unprotect(
        &mut self,
        now: Instant,
        component: Component,
        packet: &mut PacketBuf<'_>,
    ) -> Result<Option<Authenticated>, DropReason> {
        match &mut self.srtp {
            None => Ok(None),
            Some(srtp) => srtp.unprotect(now, component, packet).map(Some),
        }
    }

    /// What [`unprotect`](Self::unprotect) would try first for an RTP packet, if that may be done together with other packets.
    pub(super) fn batchable(&self, header: &RtpHeader, packet: &[u8]) -> Option<(&CounterCipher, Indexed)> {
        let srtp = self.srtp.as_ref().filter(|srtp| srtp.old_rx.is_none())?;
        srtp.rx.as_ref()?.batchable(header, packet)
    }

    /// Goes on with a packet that was opened under its [`batchable`](Self::batchable) index.
    pub(super) fn opened(&mut self, at: Indexed) -> Result<Authenticated, DropReason> {
        let rx = self.srtp.as_mut().and_then(|srtp| srtp.rx.as_mut());
        rx.ok_or(DropReason::NoKey)?.opened(at).map_err(DropReason::inbound)
    }

    /// Gives an RTP packet its index if the side is SRTP. With an index returned it is still to be sealed with
    /// [`sealing`](Self::sealing); suites that work one packet at a time are done with it.
    pub(super) fn assign(
        &mut self,
        header: &RtpHeader,
        packet: &mut PacketBuf<'_>,
    ) -> Result<Option<Indexed>, DropReason> {
        let Some(srtp) = &mut self.srtp else { return Ok(None) };
        let at = srtp.tx.assign(header, packet).map_err(DropReason::outbound)?;
        if srtp.tx.batchable().is_some() {
            return Ok(Some(at));
        }
        srtp.tx.seal(packet, at).map_err(DropReason::outbound)?;
        Ok(None)
    }

    /// The cipher that seals what [`assign`](Self::assign) left unsealed.
    pub(super) fn sealing(&self) -> Option<&CounterCipher> {
        self.srtp.as_ref()?.tx.batchable()
    }

    /// Encrypts an RTCP packet in place if the side is SRTP.
    pub(super) fn protect_rtcp(&mut self, packet: &mut PacketBuf<'_>) -> Result<(), DropReason> {
        let Some(srtp) = &mut self.srtp else { return Ok(()) };
        srtp.tx.protect_rtcp(packet).map(drop).map_err(DropReason::outbound)
    }

    /// Reads what a compound of this side says about us, and which sender report it carries.
    pub(super) fn read_reports(&mut self, now: Instant, compound: &Compound<'_>) -> Option<u32> {
        let mut sender_report = None;
        for packet in compound.packets().flatten() {
            match packet {
                RtcpPacket::SenderReport(report) => {
                    sender_report = Some(report.middle_ntp());
                    report.blocks().for_each(|block| self.read_block(now, &block));
                }
                RtcpPacket::ReceiverReport(report) => report.blocks().for_each(|block| self.read_block(now, &block)),
                _ => {}
            }
        }
        sender_report
    }

    /// A sender report of the other side was passed on to this one.
    pub(super) fn sent_report(&mut self, now: Instant, middle_ntp: u32) {
        self.report_sent = Some((middle_ntp, now));
    }

    /// Adds this side's counters to its leg's.
    pub(super) fn add_to(&self, stats: &mut LegStats) {
        stats.rtp_received.merge(self.counters.rtp_received);
        stats.rtp_sent.merge(self.counters.rtp_sent);
        stats.rtcp_received.merge(self.counters.rtcp_received);
        stats.rtcp_sent.merge(self.counters.rtcp_sent);
        stats.expected += self.received.expected();
        stats.lost += self.received.lost();
        stats.duplicates += self.received.duplicates();
        stats.reordered += self.received.reordered();
        stats.sources += self.received.sources();
        stats.jitter = stats.jitter.max(self.received.jitter());
        stats.round_trip = stats.round_trip.or(self.counters.round_trip);
        stats.remote_report = stats.remote_report.or(self.counters.remote_report);
        stats.dscp_mismatches += self.counters.dscp_mismatches;
        stats.drops.merge(&self.counters.drops);
    }

    fn read_block(&mut self, now: Instant, block: &ReportBlock) {
        self.counters.remote_report = Some(RemoteReport {
            fraction_lost: block.fraction_lost,
            cumulative_lost: block.cumulative_lost,
            jitter: block.jitter,
        });
        // RFC 3550 §6.4.1: round trip = arrival - LSR - DLSR; LSR's arrival is taken on the edge's own clock.
        if let Some((middle_ntp, sent)) = self.report_sent
            && middle_ntp == block.last_sr
        {
            let held = Duration::from_secs_f64(f64::from(block.delay_since_last_sr) / 65_536.0);
            self.counters.round_trip = now
                .saturating_duration_since(sent)
                .checked_sub(held)
                .or(self.counters.round_trip);
        }
    }

    fn latch(&mut self, leg: &StreamLeg, component: Component) -> &mut Latch {
        if uses_rtcp_port(leg, component) {
            self.rtcp.get_or_insert_default()
        } else {
            &mut self.rtp
        }
    }
}

impl SrtpSide {
    fn new(params: &SrtpParams) -> Self {
        Self {
            rx: params.rx.as_ref().map(Unprotect::new),
            old_rx: None,
            tx: Protect::new(&params.tx),
            old_tx: None,
        }
    }

    /// RFC 4568 §7.1.4: the same key goes on with its counters; a new key at the same address too (RFC 3711 §3.3.1), at a new
    /// address they start again. A re-offer whose answer is outstanding (`rx: None`) changes nothing yet.
    fn apply(&mut self, now: Instant, params: &SrtpParams, same_address: bool) {
        if let Some(key) = &params.rx
            && self.rx.as_ref().is_none_or(|rx| rx.key() != key)
        {
            let until = now + OLD_KEY_GRACE;
            let returned = self.old_rx.take_if(|old| old.0.key() == key).map(|old| old.0);
            let fresh = returned.unwrap_or_else(|| match &self.rx {
                Some(rx) if same_address => rx.rekeyed(key),
                _ => Unprotect::new(key),
            });
            self.old_rx = self.rx.replace(fresh).map(|old| Box::new((old, until)));
        }
        if self.tx.key() != &params.tx {
            let returned = self.old_tx.take_if(|old| old.key() == &params.tx).map(|old| *old);
            let fresh = returned.unwrap_or_else(|| {
                let mut fresh = Protect::new(&params.tx);
                if same_address {
                    fresh.continue_from(&self.tx);
                }
                fresh
            });
            self.old_tx = Some(Box::new(std::mem::replace(&mut self.tx, fresh)));
        }
    }

    fn unprotect(
        &mut self,
        now: Instant,
        component: Component,
        packet: &mut PacketBuf<'_>,
    ) -> Result<Authenticated, DropReason> {
        let run = |rx: &mut Unprotect, packet: &mut PacketBuf<'_>| match component {
            Component::Rtp => rx.unprotect_rtp(packet),
            Component::Rtcp => rx.unprotect_rtcp(packet),
        };
        self.old_rx.take_if(|old| now >= old.1);
        let result = match &mut self.rx {
            Some(rx) => run(rx, packet).map_err(DropReason::inbound),
            None => Err(DropReason::NoKey),
        };
        match (result, &mut self.old_rx) {
            // Malformed ones too: the old key may have had another suite or MKI and so a shorter trailer.
            (Err(reason), Some(old)) if reason != DropReason::Replayed => match run(&mut old.0, packet) {
                Err(SrtpError::Replayed) => Err(DropReason::Replayed),
                other => other.map_err(|_| reason),
            },
            (result, _) => result,
        }
    }
}

/// Whether a component of this leg has the odd port to itself.
pub(super) fn uses_rtcp_port(leg: &StreamLeg, component: Component) -> bool {
    component == Component::Rtcp && !leg.rtcp_mux
}

/// The address an IPv4 peer has on a dual-stack socket is the IPv4 one.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical_ip(address.ip()), address.port())
}

fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn signalled(leg: &StreamLeg, component: Component) -> Option<SocketAddr> {
    let remote = leg.remote.as_ref()?;
    Some(if uses_rtcp_port(leg, component) {
        remote.rtcp
    } else {
        remote.rtp
    })
}
