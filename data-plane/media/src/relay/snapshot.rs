//! What another worker needs, besides the configuration, to go on with a session.

use std::net::SocketAddr;

use crate::latch::Latch;
use crate::srtp::SrtpSnapshot;

use super::config::PerLeg;
use super::side::Side;

/// State of a session that its configuration does not hold. Small, and still good when somewhat old: see
/// [`Protect::restore`](crate::srtp::Protect::restore) for how old.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelaySnapshot {
    /// One entry per stream.
    pub streams: Vec<PerLeg<LegSnapshot>>,
}

/// One leg's side of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LegSnapshot {
    /// Latched RTP address and its SSRC.
    pub rtp: Option<(SocketAddr, u32)>,
    /// Latched RTCP address and its SSRC; none with rtcp-mux.
    pub rtcp: Option<(SocketAddr, u32)>,
    /// Indices received under the current key.
    pub rx: SrtpSnapshot,
    /// Indices sent under the current key.
    pub tx: SrtpSnapshot,
}

impl Side {
    pub(super) fn snapshot(&self) -> LegSnapshot {
        let srtp = self.srtp.as_deref();
        LegSnapshot {
            rtp: self.rtp.latched(),
            rtcp: self.rtcp.as_ref().and_then(|rtcp| rtcp.latched()),
            rx: srtp
                .and_then(|srtp| srtp.rx.as_ref())
                .map(|rx| rx.snapshot())
                .unwrap_or_default(),
            tx: srtp.map(|srtp| srtp.tx.snapshot()).unwrap_or_default(),
        }
    }

    pub(super) fn restore(&mut self, snapshot: &LegSnapshot, rtcp_jump: u32) {
        let latch = |(address, ssrc)| Latch::restored(address, ssrc);
        self.rtp = snapshot.rtp.map(latch).unwrap_or_default();
        self.rtcp = snapshot.rtcp.map(latch).map(Box::new);
        if let Some(srtp) = &mut self.srtp {
            srtp.tx.restore(&snapshot.tx, rtcp_jump);
            if let Some(rx) = &mut srtp.rx {
                rx.restore(&snapshot.rx);
            }
        }
    }
}
