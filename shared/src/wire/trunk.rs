//! Trunks.

mod access;
mod media;
mod services;
mod tls;

use std::time::Duration;

use trunkline_proto::v1;

pub(super) use access::quotable;
use access::{access_list, digest, method_to_wire};
use media::{codec, codec_to_wire, dtmf_settings, srtp_suite, srtp_suite_to_wire};
use services::{
    diagnostics_settings, properties, property_to_wire, provision_settings, registrar_settings, syslog_settings,
};
pub use tls::{tls_identity, tls_identity_to_wire};
use tls::{tls_settings, tls_to_wire};

use super::check::{Checks, Findings, Violations, duration_to_wire, time_to_wire};
use crate::acl::Entry;
use crate::codec::Codec;
use crate::codes::{CodeList, DEFAULT_CAUSE_CODES, DEFAULT_REASON_CODES};
use crate::dscp::Dscp;
use crate::dtmf::DtmfMethod;
use crate::host::Host;
use crate::name::TrunkId;
use crate::srtp::{SrtpMode, SrtpSuite};
use crate::trunk::{DEFAULT_CALL_RATE, DEFAULT_REGISTRATION_RATE, MediaMethod, Transport, Trunk, TrunkState};

/// Most served domains, and most subject alternative names.
const MAX_NAMES: usize = 100;

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
