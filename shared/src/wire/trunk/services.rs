//! What a trunk offers beside calls: provisioning, captures, syslog; its registrar and its custom properties.

use std::time::{Duration, SystemTime};

use trunkline_proto::v1;

use crate::host::Host;
use crate::property::{CustomProperties, CustomProperty, Decimal, MAX_PROPERTIES, PropertyValue};
use crate::trunk::{Diagnostics, Provision, Registrar, Syslog};
use crate::wire::check::{Checks, Findings, reason};
use crate::wire::mask::names_trunk_field;

/// Longest provisioning base URI.
const MAX_URI: usize = 2048;

/// How far ahead a capture may end (rows 48, 49).
const MAX_CAPTURE: Duration = Duration::from_secs(7 * 86_400);

pub(super) fn provision_settings(f: &mut Findings, raw: v1::ProvisionSettings) -> Provision {
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

pub(super) fn diagnostics_settings(f: &mut Findings, raw: v1::DiagnosticsSettings, checks: &Checks) -> Diagnostics {
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

pub(super) fn syslog_settings(f: &mut Findings, raw: v1::SyslogSettings) -> Syslog {
    let v1::SyslogSettings { enabled, port } = raw;
    let default = Syslog::default();
    Syslog {
        enabled: enabled.unwrap_or(default.enabled),
        port: f.number_u16("syslog.port", port.unwrap_or(u32::from(default.port)), 1..=u16::MAX),
    }
}

pub(super) fn properties(f: &mut Findings, raw: Vec<v1::CustomProperty>) -> CustomProperties {
    f.at_most("custom_properties", &raw, MAX_PROPERTIES);
    let mut properties = Vec::with_capacity(raw.len());
    let mut names: Vec<String> = Vec::with_capacity(raw.len());
    for (index, v1::CustomProperty { name, value }) in raw.into_iter().enumerate() {
        let at = |part: &str| format!("custom_properties[{index}].{part}");
        if names.contains(&name) {
            f.field(at("name"), "comes twice in the list");
            continue;
        }
        if names_trunk_field(&name) {
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

pub(super) fn property_to_wire(property: &CustomProperty) -> v1::CustomProperty {
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

pub(super) fn registrar_settings(f: &mut Findings, raw: v1::RegistrarSettings) -> Registrar {
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
