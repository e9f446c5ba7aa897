//! A phone trunk with all its settings, in effect: every default filled in, every value checked.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::acl::AccessList;
use crate::codec::Codec;
use crate::codes::CodeList;
use crate::dscp::Dscp;
use crate::dtmf::Dtmf;
use crate::host::Host;
use crate::language::Language;
use crate::method::MethodSet;
use crate::name::TrunkId;
use crate::property::CustomProperties;
use crate::rate::Rate;
use crate::srtp::{SrtpMode, SrtpSuite, SrtpUse};
use crate::tls::TlsSettings;

/// A trunk (rows 1-55). Row numbers are those of the settings table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trunk {
    /// Its id.
    pub id: TrunkId,
    /// Row 1: 1-128 characters, trimmed. Never on the wire.
    pub display_name: Arc<str>,
    /// Row 3.
    pub state: TrunkState,
    /// Row 4: transport of the listener.
    pub transport: Transport,
    /// Row 5: 1-65535.
    pub listen_port: u16,
    /// Domains served beside the listener's own addresses.
    pub domains: Vec<Host>,
    /// Row 7: new REGISTER transactions on the whole trunk.
    pub max_registration_rate: Rate,
    /// Rows 8-11.
    pub acl: AccessList,
    /// Row 12.
    pub language: Language,
    /// Row 13: active calls, inbound and outbound together, 1-100000. `None`: no limit.
    pub max_calls: Option<u32>,
    /// Row 14: initial INVITEs, inbound and outbound together.
    pub max_call_rate: Rate,
    /// Row 15: 1-3600 s, from the first INVITE sent to a final response.
    pub max_dial_timeout: Duration,
    /// Row 16.
    pub sip_dscp: Dscp,
    /// Row 17: SIP codes 400-699 that lead to the next target.
    pub retryable_reasons: CodeList,
    /// Row 18: Q.850 causes 1-127 that lead to the next target.
    pub retryable_causes: CodeList,
    /// Row 19: 1-60 s.
    pub tcp_connect_timeout: Duration,
    /// Row 20: 30-86400 s.
    pub tcp_idle_timeout: Duration,
    /// Rows 21-23, 25, 26.
    pub tls: TlsSettings,
    /// Row 24: Far-End NAT Traversal.
    pub fent: bool,
    /// Row 27: of RTP and RTCP.
    pub media_dscp: Dscp,
    /// Row 28.
    pub media_method: MediaMethod,
    /// Row 29: in order, never empty.
    pub codecs: Vec<Codec>,
    /// Row 30: in order, never empty.
    pub srtp_suites: Vec<SrtpSuite>,
    /// As configured; [`Trunk::srtp_use`] says what it comes to.
    pub srtp_mode: SrtpMode,
    /// Row 31; [`CustomProperties`] may override the durations.
    pub disconnect_on_idle_rtp: bool,
    /// Rows 32 and 33.
    pub dtmf: Dtmf,
    /// Row 34: send `x-inin-cnv`.
    pub conversation_header: bool,
    /// Rows 35-39.
    pub inbound_digest: InboundDigest,
    /// Rows 40-45.
    pub provision: Provision,
    /// Rows 46-49.
    pub diagnostics: Diagnostics,
    /// Rows 51 and 52.
    pub syslog: Syslog,
    /// Rows 53-55.
    pub properties: CustomProperties,
    /// Bounds of the registrar (RFC 3261 §10.3).
    pub registrar: Registrar,
}

impl Trunk {
    /// Whether it takes new work (row 3).
    pub fn in_service(&self) -> bool {
        self.state == TrunkState::InService
    }

    /// Whether SIPS URIs are used: row 22 acts only with TLS.
    pub fn uses_sips(&self) -> bool {
        self.tls.sips_uri && self.transport == Transport::Tls
    }

    /// When SRTP is used, in effect.
    pub fn srtp_use(&self) -> SrtpUse {
        self.srtp_mode.effective(self.transport)
    }

    /// Every port it binds, with the field that asks for it: the SIP listener, provisioning and syslog.
    pub fn ports(&self) -> Vec<BoundPort> {
        let tcp = |port: u16, field| {
            (port != 0).then_some(BoundPort {
                l4: L4Protocol::Tcp,
                port,
                field,
            })
        };
        let sip = BoundPort {
            l4: self.transport.l4(),
            port: self.listen_port,
            field: "listen_port",
        };
        let syslog = self.syslog.enabled.then_some(BoundPort {
            l4: L4Protocol::Udp,
            port: self.syslog.port,
            field: "syslog.port",
        });
        [
            Some(sip),
            tcp(self.provision.http_port, "provision.http_port"),
            tcp(self.provision.https_port, "provision.https_port"),
            syslog,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// How long RTP may be absent before the call is ended: in both directions, or held and one-way (row 31).
    /// `None` when the trunk does not disconnect on idle RTP.
    pub fn idle_rtp(&self, two_way: bool) -> Option<Duration> {
        self.disconnect_on_idle_rtp.then(|| {
            if two_way {
                self.properties.rtp_idle_two_way()
            } else {
                self.properties.rtp_idle_one_way()
            }
        })
    }
}

/// A port a trunk binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundPort {
    /// UDP or TCP.
    pub l4: L4Protocol,
    /// 1-65535.
    pub port: u16,
    /// Path of the field that asks for it.
    pub field: &'static str,
}

/// Row 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrunkState {
    /// Takes registrations and calls.
    #[default]
    InService,
    /// Refuses new work with 503; running calls end by themselves.
    OutOfService,
}

/// Row 4: transport of SIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Transport {
    /// RFC 3261 §18.
    #[default]
    Udp,
    /// RFC 3261 §18.
    Tcp,
    /// RFC 3261 §26.2.
    Tls,
}

impl Transport {
    /// Default of Listen Port (row 5).
    pub const fn default_listen_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 8060,
            Self::Tls => 8061,
        }
    }

    /// Port a URI without one means (RFC 3261 §19.1.2).
    pub const fn default_sip_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
        }
    }

    /// The protocol below.
    pub const fn l4(self) -> L4Protocol {
        match self {
            Self::Udp => L4Protocol::Udp,
            Self::Tcp | Self::Tls => L4Protocol::Tcp,
        }
    }

    /// Token in Via.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What ports are unique within.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum L4Protocol {
    /// UDP.
    Udp,
    /// TCP, with or without TLS.
    Tcp,
}

impl fmt::Display for L4Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// Row 28: who makes the SDP offer on an outbound leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MediaMethod {
    /// Offer in the INVITE.
    #[default]
    Normal,
    /// INVITE without SDP; the peer offers.
    Delayed,
    /// Normal when the calling leg offered, delayed otherwise.
    Auto,
}

/// Rows 35-39. The users are the trunk's credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InboundDigest {
    /// Row 35.
    pub enabled: bool,
    /// Row 36: set when enabled, otherwise maybe empty.
    pub realm: Arc<str>,
    /// Row 39.
    pub methods: MethodSet,
    /// Whether a user may register and call as another user of the trunk.
    pub allow_foreign_aor: bool,
}

/// Rows 40-45: phone provisioning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provision {
    /// Row 40.
    pub require_auth: bool,
    /// Row 41.
    pub prefer_redirect: bool,
    /// Row 42.
    pub require_https: bool,
    /// Row 43: absolute http or https URI, or empty.
    pub external_server: Arc<str>,
    /// Row 44: 0 for no receiver.
    pub http_port: u16,
    /// Row 45: 0 for no receiver.
    pub https_port: u16,
}

impl Default for Provision {
    fn default() -> Self {
        Self {
            require_auth: false,
            prefer_redirect: false,
            require_https: true,
            external_server: "".into(),
            http_port: 0,
            https_port: 0,
        }
    }
}

/// Rows 46-49: captures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostics {
    /// Row 46.
    pub media_capture: bool,
    /// Row 47.
    pub protocol_capture: bool,
    /// Row 48: set when row 46 is.
    pub media_capture_until: Option<SystemTime>,
    /// Row 49: set when row 47 is.
    pub protocol_capture_until: Option<SystemTime>,
}

impl Diagnostics {
    /// Until when media is captured; `None` when it is not, at `now` and under the PCI DSS rule (row 50).
    pub fn media_capture_end(&self, now: SystemTime, pci_dss_enabled: bool) -> Option<SystemTime> {
        self.media_capture_until
            .filter(|until| self.media_capture && !pci_dss_enabled && *until > now)
    }

    /// The same of signalling.
    pub fn protocol_capture_end(&self, now: SystemTime, pci_dss_enabled: bool) -> Option<SystemTime> {
        self.protocol_capture_until
            .filter(|until| self.protocol_capture && !pci_dss_enabled && *until > now)
    }
}

/// Rows 51 and 52: the syslog receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syslog {
    /// Row 51.
    pub enabled: bool,
    /// Row 52: UDP port, 1-65535.
    pub port: u16,
}

impl Default for Syslog {
    fn default() -> Self {
        Self {
            enabled: false,
            port: 514,
        }
    }
}

/// Bounds of the registrar (RFC 3261 §10.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registrar {
    /// Shortest expiry granted, 10-3600 s; shorter requests get 423.
    pub min_expires: Duration,
    /// Longest expiry granted, 60-86400 s; longer requests are cut.
    pub max_expires: Duration,
    /// Bindings of one address of record, 1-50.
    pub max_bindings: u32,
}

impl Default for Registrar {
    fn default() -> Self {
        Self {
            min_expires: Duration::from_secs(60),
            max_expires: Duration::from_secs(3600),
            max_bindings: 5,
        }
    }
}

impl Trunk {
    /// A trunk with every setting at its default but for the name.
    pub fn with_defaults(id: TrunkId, display_name: &str) -> Self {
        let rate = |text: &str| text.parse::<Rate>().expect("the default rates follow the grammar");
        Self {
            id,
            display_name: display_name.into(),
            state: TrunkState::default(),
            transport: Transport::default(),
            listen_port: Transport::default().default_listen_port(),
            domains: Vec::new(),
            max_registration_rate: rate(DEFAULT_REGISTRATION_RATE),
            acl: AccessList::new(true, false, Vec::new(), Vec::new()),
            language: Language::default(),
            max_calls: None,
            max_call_rate: rate(DEFAULT_CALL_RATE),
            max_dial_timeout: Duration::from_secs(120),
            sip_dscp: Dscp::CS3,
            retryable_reasons: CodeList::reasons(crate::codes::DEFAULT_REASON_CODES)
                .expect("the default list follows the grammar"),
            retryable_causes: CodeList::causes(crate::codes::DEFAULT_CAUSE_CODES)
                .expect("the default list follows the grammar"),
            tcp_connect_timeout: Duration::from_secs(2),
            tcp_idle_timeout: Duration::from_secs(86_400),
            tls: TlsSettings::default(),
            fent: false,
            media_dscp: Dscp::EF,
            media_method: MediaMethod::default(),
            codecs: Codec::DEFAULT_LIST.to_vec(),
            srtp_suites: SrtpSuite::DEFAULT_LIST.to_vec(),
            srtp_mode: SrtpMode::default(),
            disconnect_on_idle_rtp: true,
            dtmf: Dtmf::default(),
            conversation_header: false,
            inbound_digest: InboundDigest::default(),
            provision: Provision::default(),
            diagnostics: Diagnostics::default(),
            syslog: Syslog::default(),
            properties: CustomProperties::default(),
            registrar: Registrar::default(),
        }
    }
}

/// Default of Max Registration Rate (row 7).
pub const DEFAULT_REGISTRATION_RATE: &str = "600/1m";
/// Default of Max Call Rate (row 14).
pub const DEFAULT_CALL_RATE: &str = "40/5s";

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk() -> Trunk {
        Trunk::with_defaults(TrunkId::new("main").unwrap(), "Main")
    }

    #[test]
    fn sips_acts_only_with_tls() {
        let mut trunk = trunk();
        trunk.tls.sips_uri = true;
        assert!(!trunk.uses_sips());
        trunk.transport = Transport::Tls;
        assert!(trunk.uses_sips());
    }

    #[test]
    fn only_what_is_on_binds_a_port() {
        let mut trunk = trunk();
        assert_eq!(
            trunk.ports(),
            [BoundPort {
                l4: L4Protocol::Udp,
                port: 8060,
                field: "listen_port"
            }]
        );
        trunk.transport = Transport::Tls;
        trunk.provision.https_port = 8089;
        trunk.syslog.enabled = true;
        let bound: Vec<_> = trunk.ports().iter().map(|p| (p.l4, p.port)).collect();
        assert_eq!(
            bound,
            [(L4Protocol::Tcp, 8060), (L4Protocol::Tcp, 8089), (L4Protocol::Udp, 514)]
        );
    }

    #[test]
    fn a_capture_ends_at_its_time_and_under_pci() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let until = now + Duration::from_secs(1);
        let on = Diagnostics {
            media_capture: true,
            media_capture_until: Some(until),
            ..Diagnostics::default()
        };
        assert_eq!(on.media_capture_end(now, false), Some(until));
        assert_eq!(on.media_capture_end(now, true), None);
        assert_eq!(on.media_capture_end(until, false), None);
        assert_eq!(on.protocol_capture_end(now, false), None);
    }

    #[test]
    fn idle_times_depend_on_direction() {
        let mut trunk = trunk();
        assert_eq!(trunk.idle_rtp(true), Some(Duration::from_secs(300)));
        assert_eq!(trunk.idle_rtp(false), Some(Duration::from_secs(12 * 3600)));
        trunk.disconnect_on_idle_rtp = false;
        assert_eq!(trunk.idle_rtp(true), None);
    }
}
