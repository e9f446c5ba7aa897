//! Trunks and the certificates of their listeners.

use std::time::{Duration, SystemTime};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use trunkline_proto::{dataplane::v1 as dataplane, v1};

use super::check::{Checks, Findings, Violations, duration_to_wire, reason, time_to_wire};
use crate::acl::{AccessList, Entry, MAX_ENTRIES};
use crate::codec::Codec;
use crate::codes::{CodeList, DEFAULT_CAUSE_CODES, DEFAULT_REASON_CODES};
use crate::dscp::Dscp;
use crate::dtmf::{Dtmf, DtmfMethod};
use crate::host::Host;
use crate::method::{ChallengeableMethod, MethodSet};
use crate::name::TrunkId;
use crate::property::{CustomProperties, CustomProperty, Decimal, MAX_PROPERTIES, PropertyValue};
use crate::srtp::{SrtpMode, SrtpSuite};
use crate::tls::{CipherSuite, SubjectAltName, TlsIdentity, TlsSettings, TlsVersion};
use crate::trunk::{
    DEFAULT_CALL_RATE, DEFAULT_REGISTRATION_RATE, Diagnostics, InboundDigest, MediaMethod, Provision, Registrar,
    Syslog, Transport, Trunk, TrunkState,
};

/// Most served domains, and most subject alternative names.
const MAX_NAMES: usize = 100;
/// Longest PEM text, in octets.
const MAX_PEM: usize = 64 * 1024;
/// Longest provisioning base URI.
const MAX_URI: usize = 2048;
/// How far ahead a capture may end (rows 48, 49).
const MAX_CAPTURE: Duration = Duration::from_secs(7 * 86_400);

/// A message that was accepted before, as the usable trunk.
impl TryFrom<v1::Trunk> for Trunk {
    type Error = Violations;

    fn try_from(raw: v1::Trunk) -> Result<Self, Violations> {
        trunk(raw, &Checks::default())
    }
}

impl From<&Trunk> for v1::Trunk {
    fn from(trunk: &Trunk) -> Self {
        trunk_to_wire(trunk)
    }
}

/// Checks a trunk as written and answers it with every default filled in: what is stored and returned. The private key,
/// the etag and the times are passed through; warnings are made anew; the status is left out.
pub fn effective_trunk(raw: v1::Trunk) -> Result<v1::Trunk, Violations> {
    let (etag, create_time, update_time) = (raw.etag.clone(), raw.create_time, raw.update_time);
    let private_key_pem = raw
        .tls
        .as_ref()
        .map(|tls| tls.private_key_pem.clone())
        .unwrap_or_default();
    let certificate = raw.tls.as_ref().is_some_and(|tls| !tls.certificate_pem.is_empty());
    let mut findings = Findings::default();
    if certificate && private_key_pem.is_empty() {
        findings.field("tls.private_key_pem", "must be set with certificate_pem");
    }
    let checked = trunk(raw, &Checks::default());
    let trunk = match checked {
        Ok(trunk) => findings.settle(trunk)?,
        Err(violations) => {
            findings.absorb("", violations);
            return findings.settle_some(None);
        }
    };
    let mut effective = trunk_to_wire(&trunk);
    effective.tls.get_or_insert_default().private_key_pem = private_key_pem;
    Ok(v1::Trunk {
        etag,
        create_time,
        update_time,
        ..effective
    })
}

/// Checks a trunk message and fills in every default. Errors name everything that is wrong.
pub fn trunk(raw: v1::Trunk, checks: &Checks) -> Result<Trunk, Violations> {
    let v1::Trunk {
        name,
        display_name,
        r#type,
        state,
        protocol,
        listen_port,
        domains,
        max_registration_rate,
        acl,
        language,
        max_calls,
        max_call_rate,
        max_dial_timeout,
        sip_dscp,
        retryable_reason_codes,
        retryable_cause_codes,
        tcp_connect_timeout,
        tcp_idle_timeout,
        tls,
        fent,
        media_dscp,
        media_method,
        codecs,
        srtp_suites,
        srtp_mode,
        disconnect_on_idle_rtp,
        dtmf,
        conversation_header,
        inbound_digest,
        provision,
        diagnostics,
        syslog,
        custom_properties,
        registrar,
        etag: _,
        create_time: _,
        update_time: _,
        warnings: _,
        status: _,
    } = raw;
    let mut f = Findings::default();

    let id = f.ok("name", TrunkId::parse_name(&name));
    let display_name = display_name.trim();
    f.text("display_name", display_name, 1..=128);
    f.choice("type", r#type, (), |kind: v1::TrunkType| match kind {
        v1::TrunkType::Unspecified => None,
        v1::TrunkType::Sip => Some(()),
    });
    let state = f.choice(
        "state",
        state,
        TrunkState::default(),
        |state: v1::TrunkState| match state {
            v1::TrunkState::Unspecified => None,
            v1::TrunkState::InService => Some(TrunkState::InService),
            v1::TrunkState::OutOfService => Some(TrunkState::OutOfService),
        },
    );
    let transport = transport(&mut f, "protocol", protocol).unwrap_or_default();
    let listen_port = f.number_u16(
        "listen_port",
        listen_port.unwrap_or(u32::from(transport.default_listen_port())),
        1..=u16::MAX,
    );
    f.at_most("domains", &domains, MAX_NAMES);
    let domains: Vec<Host> = f.each("domains", &domains, |domain| domain.parse());
    f.unique("domains", &domains);
    let max_registration_rate = max_registration_rate.as_deref().unwrap_or(DEFAULT_REGISTRATION_RATE);
    let max_registration_rate = f.ok("max_registration_rate", max_registration_rate.parse());
    let acl = access_list(&mut f, acl.unwrap_or_default());
    let language = match language.as_deref() {
        Some(tag) => f.ok("language", tag.parse()).unwrap_or_default(),
        None => Default::default(),
    };
    let max_calls = max_calls.map(|calls| f.number("max_calls", calls, 1..=100_000));
    let max_call_rate = f.ok(
        "max_call_rate",
        max_call_rate.as_deref().unwrap_or(DEFAULT_CALL_RATE).parse(),
    );
    let max_dial_timeout = f.duration("max_dial_timeout", max_dial_timeout, Duration::from_secs(120), 1..=3600);
    let sip_dscp = dscp(&mut f, "sip_dscp", sip_dscp, Dscp::CS3);
    let reasons = retryable_reason_codes.as_deref().unwrap_or(DEFAULT_REASON_CODES);
    let retryable_reasons = f.ok("retryable_reason_codes", CodeList::reasons(reasons));
    let causes = retryable_cause_codes.as_deref().unwrap_or(DEFAULT_CAUSE_CODES);
    let retryable_causes = f.ok("retryable_cause_codes", CodeList::causes(causes));
    let tcp_connect_timeout = f.duration(
        "tcp_connect_timeout",
        tcp_connect_timeout,
        Duration::from_secs(2),
        1..=60,
    );
    let tcp_idle_timeout = f.duration(
        "tcp_idle_timeout",
        tcp_idle_timeout,
        Duration::from_secs(86_400),
        30..=86_400,
    );
    let tls = tls_settings(&mut f, tls.unwrap_or_default(), checks);
    let media_dscp = dscp(&mut f, "media_dscp", media_dscp, Dscp::EF);
    let media_method = f.choice(
        "media_method",
        media_method,
        MediaMethod::default(),
        |method: v1::MediaMethod| match method {
            v1::MediaMethod::Unspecified => None,
            v1::MediaMethod::Normal => Some(MediaMethod::Normal),
            v1::MediaMethod::Delayed => Some(MediaMethod::Delayed),
            v1::MediaMethod::Auto => Some(MediaMethod::Auto),
        },
    );
    let codecs = f.choices("codecs", &codecs, &Codec::DEFAULT_LIST, codec);
    let srtp_suites = f.choices("srtp_suites", &srtp_suites, &SrtpSuite::DEFAULT_LIST, srtp_suite);
    let srtp_mode = f.choice(
        "srtp_mode",
        srtp_mode,
        SrtpMode::default(),
        |mode: v1::SrtpMode| match mode {
            v1::SrtpMode::Unspecified => None,
            v1::SrtpMode::Auto => Some(SrtpMode::Auto),
            v1::SrtpMode::Off => Some(SrtpMode::Off),
            v1::SrtpMode::Optional => Some(SrtpMode::Optional),
            v1::SrtpMode::Required => Some(SrtpMode::Required),
        },
    );
    let dtmf = dtmf_settings(&mut f, dtmf.unwrap_or_default());
    let inbound_digest = digest(&mut f, inbound_digest.unwrap_or_default());
    let provision = provision_settings(&mut f, provision.unwrap_or_default());
    let diagnostics = diagnostics_settings(&mut f, diagnostics.unwrap_or_default(), checks);
    let syslog = syslog_settings(&mut f, syslog.unwrap_or_default());
    let properties = properties(&mut f, custom_properties);
    let registrar = registrar_settings(&mut f, registrar.unwrap_or_default());

    let built = (|| {
        Some(Trunk {
            id: id?,
            display_name: display_name.into(),
            state,
            transport,
            listen_port,
            domains,
            max_registration_rate: max_registration_rate?,
            acl,
            language,
            max_calls,
            max_call_rate: max_call_rate?,
            max_dial_timeout,
            sip_dscp,
            retryable_reasons: retryable_reasons?,
            retryable_causes: retryable_causes?,
            tcp_connect_timeout,
            tcp_idle_timeout,
            tls,
            fent: fent.unwrap_or(false),
            media_dscp,
            media_method,
            codecs,
            srtp_suites,
            srtp_mode,
            disconnect_on_idle_rtp: disconnect_on_idle_rtp.unwrap_or(true),
            dtmf,
            conversation_header: conversation_header.unwrap_or(false),
            inbound_digest,
            provision,
            diagnostics,
            syslog,
            properties,
            registrar,
        })
    })();
    if let Some(trunk) = &built {
        own_ports(&mut f, trunk);
    }
    f.settle_some(built)
}

/// Two settings of one trunk must not want the same port.
fn own_ports(f: &mut Findings, trunk: &Trunk) {
    let ports = trunk.ports();
    for (index, port) in ports.iter().enumerate() {
        if let Some(other) = ports[..index]
            .iter()
            .find(|other| (other.l4, other.port) == (port.l4, port.port))
        {
            f.field(
                port.field,
                format!("{} port {} is the one of {}", port.l4, port.port, other.field),
            );
        }
    }
}

pub(super) fn transport(f: &mut Findings, field: &str, raw: i32) -> Option<Transport> {
    f.choice(field, raw, None, |protocol: v1::TransportProtocol| match protocol {
        v1::TransportProtocol::Unspecified => None,
        v1::TransportProtocol::Udp => Some(Some(Transport::Udp)),
        v1::TransportProtocol::Tcp => Some(Some(Transport::Tcp)),
        v1::TransportProtocol::Tls => Some(Some(Transport::Tls)),
    })
}

pub(super) fn transport_to_wire(transport: Transport) -> v1::TransportProtocol {
    match transport {
        Transport::Udp => v1::TransportProtocol::Udp,
        Transport::Tcp => v1::TransportProtocol::Tcp,
        Transport::Tls => v1::TransportProtocol::Tls,
    }
}

fn dscp(f: &mut Findings, field: &str, raw: Option<i32>, default: Dscp) -> Dscp {
    raw.and_then(|raw| f.ok(field, Dscp::new(raw))).unwrap_or(default)
}

fn access_list(f: &mut Findings, raw: v1::AccessControl) -> AccessList {
    let v1::AccessControl {
        use_source_address,
        allow,
        deny,
        allow_all,
    } = raw;
    let mut entries = |field: &str, list: &[String]| {
        f.at_most(field, list, MAX_ENTRIES);
        f.each(field, list, |text| Entry::parse(text))
    };
    let (allow, deny) = (entries("acl.allow", &allow), entries("acl.deny", &deny));
    AccessList::new(
        use_source_address.unwrap_or(true),
        allow_all.unwrap_or(false),
        allow,
        deny,
    )
}

fn tls_settings(f: &mut Findings, raw: v1::TlsSettings, checks: &Checks) -> TlsSettings {
    let v1::TlsSettings {
        mutual_auth,
        sips_uri,
        version,
        ciphers,
        sans,
        trusted_ca_pem,
        certificate_pem,
        private_key_pem,
    } = raw;
    let mutual_auth = mutual_auth.unwrap_or(false);
    if mutual_auth && trusted_ca_pem.is_empty() && !checks.managed_ca {
        f.precondition(
            "tls.mutual_auth",
            reason::NO_TRUST_ANCHOR,
            "mutual authentication needs an authority that vouches for clients: set tls.trusted_ca_pem",
        );
    }
    let version = tls_version(f, version);
    let ciphers = if ciphers.is_empty() {
        CipherSuite::ALL.to_vec()
    } else {
        let suites: Vec<CipherSuite> = f.each("tls.ciphers", &ciphers, |name| name.parse());
        f.unique("tls.ciphers", &suites);
        suites
    };
    f.at_most("tls.sans", &sans, MAX_NAMES);
    let sans: Vec<SubjectAltName> = f.each("tls.sans", &sans, |san| san.parse());
    f.unique("tls.sans", &sans);
    certificates(f, "tls.trusted_ca_pem", &trusted_ca_pem);
    certificates(f, "tls.certificate_pem", &certificate_pem);
    private_key(f, &private_key_pem, !certificate_pem.is_empty());
    TlsSettings {
        mutual_auth,
        sips_uri: sips_uri.unwrap_or(false),
        version,
        ciphers,
        sans,
        trusted_ca_pem: trusted_ca_pem.into(),
        certificate_pem: certificate_pem.into(),
    }
}

fn tls_version(f: &mut Findings, raw: i32) -> TlsVersion {
    let mut insecure = |name: &str, rfc: &str| {
        let why = format!("{name} must not be used ({rfc}); choose TLS_VERSION_TLS_V1_2 or later");
        f.precondition("tls.version", reason::INSECURE_TLS_VERSION, why);
        TlsVersion::default()
    };
    match v1::TlsVersion::try_from(raw) {
        Ok(v1::TlsVersion::Unspecified) => TlsVersion::default(),
        Ok(v1::TlsVersion::SslV23) => TlsVersion::SslV23,
        Ok(v1::TlsVersion::SslV3) => insecure("SSL 3.0", "RFC 7568"),
        Ok(v1::TlsVersion::TlsV1) => insecure("TLS 1.0", "RFC 8996"),
        Ok(v1::TlsVersion::TlsV11) => insecure("TLS 1.1", "RFC 8996"),
        Ok(v1::TlsVersion::TlsV12) => TlsVersion::V1_2,
        Ok(v1::TlsVersion::TlsV13) => TlsVersion::V1_3,
        Ok(v1::TlsVersion::TlsV12Or13) => TlsVersion::V1_2Or1_3,
        Err(_) => {
            f.field("tls.version", format!("{raw} is not a known value"));
            TlsVersion::default()
        }
    }
}

/// The form only; whether a chain verifies is for those who use it.
fn certificates(f: &mut Findings, field: &str, pem: &str) {
    if pem.is_empty() {
        return;
    }
    let whole: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match whole {
        _ if pem.len() > MAX_PEM => f.field(field, "is longer than 64 KiB"),
        Ok(certificates) if certificates.is_empty() => f.field(field, "holds no PEM certificate"),
        Ok(_) => {}
        Err(_) => f.field(field, "is not a sequence of PEM certificates"),
    }
}

fn private_key(f: &mut Findings, pem: &str, has_certificate: bool) {
    if pem.is_empty() {
        return;
    }
    const FIELD: &str = "tls.private_key_pem";
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        _ if pem.len() > MAX_PEM => f.field(FIELD, "is longer than 64 KiB"),
        Ok(PrivateKeyDer::Pkcs8(_)) if has_certificate => {}
        Ok(PrivateKeyDer::Pkcs8(_)) => f.field(FIELD, "has no certificate: set tls.certificate_pem too"),
        Ok(_) | Err(_) => f.field(FIELD, "is not a PKCS #8 private key in PEM"),
    }
}

fn codec(codec: v1::Codec) -> Option<Codec> {
    match codec {
        v1::Codec::Unspecified => None,
        v1::Codec::Opus => Some(Codec::Opus),
        v1::Codec::Pcmu => Some(Codec::Pcmu),
        v1::Codec::Pcma => Some(Codec::Pcma),
        v1::Codec::G722 => Some(Codec::G722),
        v1::Codec::G729 => Some(Codec::G729),
    }
}

fn codec_to_wire(codec: Codec) -> v1::Codec {
    match codec {
        Codec::Opus => v1::Codec::Opus,
        Codec::Pcmu => v1::Codec::Pcmu,
        Codec::Pcma => v1::Codec::Pcma,
        Codec::G722 => v1::Codec::G722,
        Codec::G729 => v1::Codec::G729,
    }
}

fn srtp_suite(suite: v1::SrtpSuite) -> Option<SrtpSuite> {
    match suite {
        v1::SrtpSuite::Unspecified => None,
        v1::SrtpSuite::AesCm128HmacSha180 => Some(SrtpSuite::AesCm128HmacSha1_80),
        v1::SrtpSuite::AesCm128HmacSha132 => Some(SrtpSuite::AesCm128HmacSha1_32),
        v1::SrtpSuite::AesCm192HmacSha180 => Some(SrtpSuite::AesCm192HmacSha1_80),
        v1::SrtpSuite::AesCm192HmacSha132 => Some(SrtpSuite::AesCm192HmacSha1_32),
        v1::SrtpSuite::AesCm256HmacSha180 => Some(SrtpSuite::AesCm256HmacSha1_80),
        v1::SrtpSuite::AesCm256HmacSha132 => Some(SrtpSuite::AesCm256HmacSha1_32),
        v1::SrtpSuite::AeadAes128Gcm => Some(SrtpSuite::AeadAes128Gcm),
        v1::SrtpSuite::AeadAes256Gcm => Some(SrtpSuite::AeadAes256Gcm),
    }
}

fn srtp_suite_to_wire(suite: SrtpSuite) -> v1::SrtpSuite {
    match suite {
        SrtpSuite::AesCm128HmacSha1_80 => v1::SrtpSuite::AesCm128HmacSha180,
        SrtpSuite::AesCm128HmacSha1_32 => v1::SrtpSuite::AesCm128HmacSha132,
        SrtpSuite::AesCm192HmacSha1_80 => v1::SrtpSuite::AesCm192HmacSha180,
        SrtpSuite::AesCm192HmacSha1_32 => v1::SrtpSuite::AesCm192HmacSha132,
        SrtpSuite::AesCm256HmacSha1_80 => v1::SrtpSuite::AesCm256HmacSha180,
        SrtpSuite::AesCm256HmacSha1_32 => v1::SrtpSuite::AesCm256HmacSha132,
        SrtpSuite::AeadAes128Gcm => v1::SrtpSuite::AeadAes128Gcm,
        SrtpSuite::AeadAes256Gcm => v1::SrtpSuite::AeadAes256Gcm,
    }
}

fn dtmf_settings(f: &mut Findings, raw: v1::DtmfSettings) -> Dtmf {
    let v1::DtmfSettings { payload, method } = raw;
    let default = Dtmf::default();
    let payload = f.number("dtmf.payload", payload.unwrap_or(u32::from(default.payload)), 96..=127);
    let method = f.choice(
        "dtmf.method",
        method,
        default.method,
        |method: v1::DtmfMethod| match method {
            v1::DtmfMethod::Unspecified => None,
            v1::DtmfMethod::RtpEvents => Some(DtmfMethod::RtpEvents),
            v1::DtmfMethod::InBand => Some(DtmfMethod::InBand),
            v1::DtmfMethod::None => Some(DtmfMethod::None),
        },
    );
    Dtmf {
        payload: u8::try_from(payload).unwrap_or(default.payload),
        method,
    }
}

fn digest(f: &mut Findings, raw: v1::InboundDigest) -> InboundDigest {
    let v1::InboundDigest {
        enabled,
        realm,
        methods,
        allow_foreign_aor,
    } = raw;
    let enabled = enabled.unwrap_or(false);
    if enabled && realm.is_empty() {
        f.field(
            "inbound_digest.realm",
            "must be set when digest authentication is enabled",
        );
    } else if !realm.is_empty() {
        quotable(f, "inbound_digest.realm", &realm, 253);
    }
    let methods = f.choices(
        "inbound_digest.methods",
        &methods,
        &ChallengeableMethod::DEFAULT_LIST,
        method,
    );
    InboundDigest {
        enabled,
        realm: realm.into(),
        methods: MethodSet::new(&methods),
        allow_foreign_aor: allow_foreign_aor.unwrap_or(false),
    }
}

/// Text that goes between quotes in a challenge or a response, verbatim.
pub(super) fn quotable(f: &mut Findings, field: &str, text: &str, most: usize) {
    f.text(field, text, 1..=most);
    if text.contains(['"', '\\']) {
        f.field(field, "must not contain quotes or backslashes");
    }
}

fn method(method: v1::SipMethod) -> Option<ChallengeableMethod> {
    use ChallengeableMethod as M;
    match method {
        v1::SipMethod::Unspecified => None,
        v1::SipMethod::Bye => Some(M::Bye),
        v1::SipMethod::Info => Some(M::Info),
        v1::SipMethod::Invite => Some(M::Invite),
        v1::SipMethod::Message => Some(M::Message),
        v1::SipMethod::Notify => Some(M::Notify),
        v1::SipMethod::Options => Some(M::Options),
        v1::SipMethod::Prack => Some(M::Prack),
        v1::SipMethod::Publish => Some(M::Publish),
        v1::SipMethod::Refer => Some(M::Refer),
        v1::SipMethod::Register => Some(M::Register),
        v1::SipMethod::Subscribe => Some(M::Subscribe),
        v1::SipMethod::Update => Some(M::Update),
    }
}

fn method_to_wire(method: ChallengeableMethod) -> v1::SipMethod {
    use ChallengeableMethod as M;
    match method {
        M::Bye => v1::SipMethod::Bye,
        M::Info => v1::SipMethod::Info,
        M::Invite => v1::SipMethod::Invite,
        M::Message => v1::SipMethod::Message,
        M::Notify => v1::SipMethod::Notify,
        M::Options => v1::SipMethod::Options,
        M::Prack => v1::SipMethod::Prack,
        M::Publish => v1::SipMethod::Publish,
        M::Refer => v1::SipMethod::Refer,
        M::Register => v1::SipMethod::Register,
        M::Subscribe => v1::SipMethod::Subscribe,
        M::Update => v1::SipMethod::Update,
    }
}

fn provision_settings(f: &mut Findings, raw: v1::ProvisionSettings) -> Provision {
    let v1::ProvisionSettings {
        require_auth,
        prefer_redirect,
        require_https,
        external_server,
        http_port,
        https_port,
    } = raw;
    if !external_server.is_empty() && !is_base_uri(&external_server) {
        let wanted = "must be an absolute http or https URI without user information, query and fragment, at most 2048 characters";
        f.field("provision.external_server", wanted);
    }
    Provision {
        require_auth: require_auth.unwrap_or(false),
        prefer_redirect: prefer_redirect.unwrap_or(false),
        require_https: require_https.unwrap_or(true),
        external_server: external_server.into(),
        http_port: f.number_u16("provision.http_port", http_port.unwrap_or(0), 0..=u16::MAX),
        https_port: f.number_u16("provision.https_port", https_port.unwrap_or(0), 0..=u16::MAX),
    }
}

/// `http[s]://host[:port][/path]` (RFC 9110 §4.2).
fn is_base_uri(uri: &str) -> bool {
    let scheme = |name: &str| {
        uri.get(..name.len())
            .filter(|start| start.eq_ignore_ascii_case(name))
            .map(|_| &uri[name.len()..])
    };
    let Some(rest) = scheme("http://").or_else(|| scheme("https://")) else {
        return false;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "80"),
    };
    let legal = |b: u8| b.is_ascii_graphic() && !b"\"<>\\^`{|}?#@".contains(&b);
    let bracketed = !host.contains(':') || host.starts_with('[');
    uri.len() <= MAX_URI
        && uri.bytes().all(legal)
        && bracketed
        && host.parse::<Host>().is_ok()
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn diagnostics_settings(f: &mut Findings, raw: v1::DiagnosticsSettings, checks: &Checks) -> Diagnostics {
    let v1::DiagnosticsSettings {
        media_capture,
        protocol_capture,
        media_capture_until,
        protocol_capture_until,
    } = raw;
    let mut capture = |field: &str, on: bool, until: Option<prost_types::Timestamp>| {
        let until_field = format!("{field}_until");
        let given = until.is_some();
        let until = f.time(&until_field, until);
        if !on {
            return until;
        }
        if !given {
            f.field(&until_field, "must be set to enable the capture");
        }
        if let (Some(now), Some(until)) = (checks.now, until) {
            capture_end(f, &until_field, now, until);
        }
        if checks.pci_dss_enabled {
            f.precondition(
                field,
                reason::PCI_DSS_ENABLED,
                "captures cannot be enabled while PCI DSS is on",
            );
        }
        until
    };
    let (media_capture, protocol_capture) = (media_capture.unwrap_or(false), protocol_capture.unwrap_or(false));
    let media_capture_until = capture("diagnostics.media_capture", media_capture, media_capture_until);
    let protocol_capture_until = capture("diagnostics.protocol_capture", protocol_capture, protocol_capture_until);
    Diagnostics {
        media_capture,
        protocol_capture,
        media_capture_until,
        protocol_capture_until,
    }
}

fn capture_end(f: &mut Findings, field: &str, now: SystemTime, until: SystemTime) {
    match until.duration_since(now) {
        Ok(ahead) if ahead > MAX_CAPTURE => f.field(field, "must be at most 7 days ahead"),
        Ok(ahead) if !ahead.is_zero() => {}
        Ok(_) | Err(_) => f.field(field, "must be in the future"),
    }
}

fn syslog_settings(f: &mut Findings, raw: v1::SyslogSettings) -> Syslog {
    let v1::SyslogSettings { enabled, port } = raw;
    let default = Syslog::default();
    Syslog {
        enabled: enabled.unwrap_or(default.enabled),
        port: f.number_u16("syslog.port", port.unwrap_or(u32::from(default.port)), 1..=u16::MAX),
    }
}

fn properties(f: &mut Findings, raw: Vec<v1::CustomProperty>) -> CustomProperties {
    f.at_most("custom_properties", &raw, MAX_PROPERTIES);
    let mut properties = Vec::with_capacity(raw.len());
    let mut names: Vec<String> = Vec::with_capacity(raw.len());
    for (index, v1::CustomProperty { name, value }) in raw.into_iter().enumerate() {
        let at = |part: &str| format!("custom_properties[{index}].{part}");
        if names.contains(&name) {
            f.field(at("name"), "comes twice in the list");
            continue;
        }
        if super::mask::names_trunk_field(&name) {
            f.field(
                at("name"),
                format!("`{name}` is a setting of the trunk; set that instead"),
            );
        }
        let value = match value {
            Some(v1::custom_property::Value::BoolValue(value)) => Some(PropertyValue::Bool(value)),
            Some(v1::custom_property::Value::TextValue(value)) => Some(PropertyValue::Text(value)),
            Some(v1::custom_property::Value::NumberValue(value)) => f
                .ok(&at("number_value"), Decimal::parse(&value))
                .map(PropertyValue::Number),
            Some(v1::custom_property::Value::ListValue(v1::TextList { values })) => Some(PropertyValue::List(values)),
            None => {
                f.field(at("value"), "must be set");
                None
            }
        };
        if let Some(property) = value.and_then(|value| f.ok(&at("name"), CustomProperty::new(&name, value))) {
            properties.push(property);
        }
        names.push(name);
    }
    CustomProperties::new(properties).unwrap_or_default()
}

fn property_to_wire(property: &CustomProperty) -> v1::CustomProperty {
    let value = match property.value() {
        PropertyValue::Bool(value) => v1::custom_property::Value::BoolValue(*value),
        PropertyValue::Text(value) => v1::custom_property::Value::TextValue(value.clone()),
        PropertyValue::Number(value) => v1::custom_property::Value::NumberValue(value.to_string()),
        PropertyValue::List(values) => v1::custom_property::Value::ListValue(v1::TextList { values: values.clone() }),
    };
    v1::CustomProperty {
        name: property.name().into(),
        value: Some(value),
    }
}

fn registrar_settings(f: &mut Findings, raw: v1::RegistrarSettings) -> Registrar {
    let v1::RegistrarSettings {
        min_expires,
        max_expires,
        max_bindings,
    } = raw;
    let default = Registrar::default();
    let min_expires = f.duration("registrar.min_expires", min_expires, default.min_expires, 10..=3600);
    let max_expires = f.duration("registrar.max_expires", max_expires, default.max_expires, 60..=86_400);
    if min_expires > max_expires {
        f.field("registrar.min_expires", "must not be longer than registrar.max_expires");
    }
    let max_bindings = f.number(
        "registrar.max_bindings",
        max_bindings.unwrap_or(default.max_bindings),
        1..=50,
    );
    Registrar {
        min_expires,
        max_expires,
        max_bindings,
    }
}

/// The message with every effective value and the warnings; etag, times, status and private key are the caller's.
pub fn trunk_to_wire(trunk: &Trunk) -> v1::Trunk {
    let Trunk {
        id,
        display_name,
        state,
        transport,
        listen_port,
        domains,
        max_registration_rate,
        acl,
        language,
        max_calls,
        max_call_rate,
        max_dial_timeout,
        sip_dscp,
        retryable_reasons,
        retryable_causes,
        tcp_connect_timeout,
        tcp_idle_timeout,
        tls,
        fent,
        media_dscp,
        media_method,
        codecs,
        srtp_suites,
        srtp_mode,
        disconnect_on_idle_rtp,
        dtmf,
        conversation_header,
        inbound_digest,
        provision,
        diagnostics,
        syslog,
        properties,
        registrar,
    } = trunk;
    v1::Trunk {
        name: id.name(),
        display_name: display_name.to_string(),
        r#type: v1::TrunkType::Sip.into(),
        state: match state {
            TrunkState::InService => v1::TrunkState::InService,
            TrunkState::OutOfService => v1::TrunkState::OutOfService,
        }
        .into(),
        protocol: transport_to_wire(*transport).into(),
        listen_port: Some(u32::from(*listen_port)),
        domains: domains.iter().map(host_to_wire).collect(),
        max_registration_rate: Some(max_registration_rate.to_string()),
        acl: Some(v1::AccessControl {
            use_source_address: Some(acl.use_source_address()),
            allow: acl.allow().iter().map(Entry::to_string).collect(),
            deny: acl.deny().iter().map(Entry::to_string).collect(),
            allow_all: Some(acl.allow_all()),
        }),
        language: Some(language.to_string()),
        max_calls: *max_calls,
        max_call_rate: Some(max_call_rate.to_string()),
        max_dial_timeout: Some(duration_to_wire(*max_dial_timeout)),
        sip_dscp: Some(sip_dscp.setting()),
        retryable_reason_codes: Some(retryable_reasons.to_string()),
        retryable_cause_codes: Some(retryable_causes.to_string()),
        tcp_connect_timeout: Some(duration_to_wire(*tcp_connect_timeout)),
        tcp_idle_timeout: Some(duration_to_wire(*tcp_idle_timeout)),
        tls: Some(tls_to_wire(tls)),
        fent: Some(*fent),
        media_dscp: Some(media_dscp.setting()),
        media_method: match media_method {
            MediaMethod::Normal => v1::MediaMethod::Normal,
            MediaMethod::Delayed => v1::MediaMethod::Delayed,
            MediaMethod::Auto => v1::MediaMethod::Auto,
        }
        .into(),
        codecs: codecs.iter().map(|codec| codec_to_wire(*codec).into()).collect(),
        srtp_suites: srtp_suites
            .iter()
            .map(|suite| srtp_suite_to_wire(*suite).into())
            .collect(),
        srtp_mode: match srtp_mode {
            SrtpMode::Auto => v1::SrtpMode::Auto,
            SrtpMode::Off => v1::SrtpMode::Off,
            SrtpMode::Optional => v1::SrtpMode::Optional,
            SrtpMode::Required => v1::SrtpMode::Required,
        }
        .into(),
        disconnect_on_idle_rtp: Some(*disconnect_on_idle_rtp),
        dtmf: Some(v1::DtmfSettings {
            payload: Some(u32::from(dtmf.payload)),
            method: match dtmf.method {
                DtmfMethod::RtpEvents => v1::DtmfMethod::RtpEvents,
                DtmfMethod::InBand => v1::DtmfMethod::InBand,
                DtmfMethod::None => v1::DtmfMethod::None,
            }
            .into(),
        }),
        conversation_header: Some(*conversation_header),
        inbound_digest: Some(v1::InboundDigest {
            enabled: Some(inbound_digest.enabled),
            realm: inbound_digest.realm.to_string(),
            methods: inbound_digest
                .methods
                .as_slice()
                .iter()
                .map(|method| method_to_wire(*method).into())
                .collect(),
            allow_foreign_aor: Some(inbound_digest.allow_foreign_aor),
        }),
        provision: Some(v1::ProvisionSettings {
            require_auth: Some(provision.require_auth),
            prefer_redirect: Some(provision.prefer_redirect),
            require_https: Some(provision.require_https),
            external_server: provision.external_server.to_string(),
            http_port: Some(u32::from(provision.http_port)),
            https_port: Some(u32::from(provision.https_port)),
        }),
        diagnostics: Some(v1::DiagnosticsSettings {
            media_capture: Some(diagnostics.media_capture),
            protocol_capture: Some(diagnostics.protocol_capture),
            media_capture_until: diagnostics.media_capture_until.map(time_to_wire),
            protocol_capture_until: diagnostics.protocol_capture_until.map(time_to_wire),
        }),
        syslog: Some(v1::SyslogSettings {
            enabled: Some(syslog.enabled),
            port: Some(u32::from(syslog.port)),
        }),
        custom_properties: properties.iter().map(property_to_wire).collect(),
        registrar: Some(v1::RegistrarSettings {
            min_expires: Some(duration_to_wire(registrar.min_expires)),
            max_expires: Some(duration_to_wire(registrar.max_expires)),
            max_bindings: Some(registrar.max_bindings),
        }),
        etag: String::new(),
        create_time: None,
        update_time: None,
        warnings: super::warnings(trunk),
        status: None,
    }
}

/// Hosts outside a URI: IPv6 without brackets.
pub(super) fn host_to_wire(host: &Host) -> String {
    host.address()
        .map_or_else(|| host.to_string(), |address| address.to_string())
}

fn tls_to_wire(tls: &TlsSettings) -> v1::TlsSettings {
    let TlsSettings {
        mutual_auth,
        sips_uri,
        version,
        ciphers,
        sans,
        trusted_ca_pem,
        certificate_pem,
    } = tls;
    v1::TlsSettings {
        mutual_auth: Some(*mutual_auth),
        sips_uri: Some(*sips_uri),
        version: match version {
            TlsVersion::SslV23 => v1::TlsVersion::SslV23,
            TlsVersion::V1_2 => v1::TlsVersion::TlsV12,
            TlsVersion::V1_3 => v1::TlsVersion::TlsV13,
            TlsVersion::V1_2Or1_3 => v1::TlsVersion::TlsV12Or13,
        }
        .into(),
        ciphers: ciphers.iter().map(|cipher| cipher.iana().into()).collect(),
        sans: sans.iter().map(SubjectAltName::to_string).collect(),
        trusted_ca_pem: trusted_ca_pem.to_string(),
        certificate_pem: certificate_pem.to_string(),
        private_key_pem: String::new(),
    }
}

/// Reads the certificate and key of a trunk's listener. The DER is opaque here.
pub fn tls_identity(raw: dataplane::TlsIdentity) -> Result<TlsIdentity, Violations> {
    let dataplane::TlsIdentity {
        trunk,
        certificate_chain_der,
        private_key_der,
        trusted_ca_der,
    } = raw;
    let mut f = Findings::default();
    let private_key = zeroize::Zeroizing::new(private_key_der);
    if certificate_chain_der.iter().all(Vec::is_empty) {
        f.field("certificate_chain_der", "must hold a certificate");
    }
    if private_key.is_empty() {
        f.field("private_key_der", "must be set");
    }
    let trunk = f.ok("trunk", TrunkId::parse_name(&trunk));
    let identity = trunk.map(|trunk| TlsIdentity {
        trunk,
        certificate_chain: certificate_chain_der,
        private_key,
        trusted_ca: trusted_ca_der,
    });
    f.settle_some(identity)
}

/// The message of a certificate and key.
pub fn tls_identity_to_wire(identity: &TlsIdentity) -> dataplane::TlsIdentity {
    let TlsIdentity {
        trunk,
        certificate_chain,
        private_key,
        trusted_ca,
    } = identity;
    dataplane::TlsIdentity {
        trunk: trunk.name(),
        certificate_chain_der: certificate_chain.clone(),
        private_key_der: private_key.to_vec(),
        trusted_ca_der: trusted_ca.clone(),
    }
}
