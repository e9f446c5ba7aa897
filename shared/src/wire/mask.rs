//! Field masks (AIP-134, AIP-161).
//!
//! A path names a field (`acl.allow`), a message with all its fields (`acl`), or everything (`*`). Without a mask the
//! fields that the request sets are changed. Identifiers, etags and output-only fields are the server's: naming them
//! changes nothing. Secrets cannot be read back, so a path that names them only by their message, or `*`, keeps them
//! unless the request brings a new one; naming the secret itself with an empty value removes it.

use prost_types::FieldMask;
use trunkline_proto::v1;
use trunkline_proto::v1::route_match::User;

use super::check::{Findings, Violations};

/// The trunk that results from changing `current` by `patch` under `mask`; unchecked, as raw as both. Errors name every
/// unknown path.
pub fn apply_mask_trunk(
    current: &v1::Trunk,
    patch: v1::Trunk,
    mask: Option<&FieldMask>,
) -> Result<v1::Trunk, Violations> {
    apply(current, patch, mask)
}

/// The same of a line. `has_password` follows the password.
pub fn apply_mask_line(current: &v1::Line, patch: v1::Line, mask: Option<&FieldMask>) -> Result<v1::Line, Violations> {
    let mut line = apply(current, patch, mask)?;
    line.has_password = has_secret(&line.auth_password, current.has_password, "auth_password", mask);
    Ok(line)
}

/// The same of a route.
pub fn apply_mask_route(
    current: &v1::Route,
    patch: v1::Route,
    mask: Option<&FieldMask>,
) -> Result<v1::Route, Violations> {
    apply(current, patch, mask)
}

/// The same of a digest credential. `has_password` follows the password.
pub fn apply_mask_credential(
    current: &v1::DigestCredential,
    patch: v1::DigestCredential,
    mask: Option<&FieldMask>,
) -> Result<v1::DigestCredential, Violations> {
    let mut credential = apply(current, patch, mask)?;
    credential.has_password = has_secret(&credential.password, current.has_password, "password", mask);
    Ok(credential)
}

/// The same of the settings.
pub fn apply_mask_settings(
    current: &v1::Settings,
    patch: v1::Settings,
    mask: Option<&FieldMask>,
) -> Result<v1::Settings, Violations> {
    apply(current, patch, mask)
}

/// A stored secret stays stored unless the mask names it with an empty value.
fn has_secret(secret: &str, stored: bool, path: &str, mask: Option<&FieldMask>) -> bool {
    let named = mask.is_some_and(|mask| mask.paths.iter().any(|named| named == path));
    !secret.is_empty() || (stored && !named)
}

fn apply<M: Masked>(current: &M, patch: M, mask: Option<&FieldMask>) -> Result<M, Violations> {
    let mut merged = current.clone();
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    if paths.is_empty() {
        merged.merge(&patch);
        return Ok(merged);
    }
    let mut findings = Findings::default();
    for path in paths {
        if path == "*" {
            merged.replace(&patch);
        } else if !merged.assign(path, &patch) {
            findings.field("update_mask", format!("`{path}` is not a field that can be updated"));
        }
    }
    findings.settle(merged)
}

/// Whether `path` names a setting of a trunk: no custom property may be called so (row 53).
pub(super) fn names_trunk_field(path: &str) -> bool {
    v1::Trunk::default().assign(path, &v1::Trunk::default())
}

/// Fields of a message by path.
trait Masked: Clone + Default {
    /// Paths of the fields a mask can name, nested ones included.
    #[cfg(test)]
    fn paths() -> Vec<String>;

    /// Takes the fields that `patch` sets.
    fn merge(&mut self, patch: &Self);

    /// Takes every field of `patch` but the server's own; secrets only when set.
    fn replace(&mut self, patch: &Self);

    /// Takes the field `path` of `patch`. False when there is no such field.
    fn assign(&mut self, path: &str, patch: &Self) -> bool;
}

/// Whether a field is set, as far as proto3 can tell.
trait Field {
    fn is_set(&self) -> bool;
}

impl<T> Field for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> Field for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl Field for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

/// Enums: the unspecified value is unset.
impl Field for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

/// Implements [`Masked`]. Every field of the message stands in one of the groups: the destructuring pattern refuses to
/// compile otherwise. `$path` is the name in the contract, `$field` the one in Rust (they differ for keywords).
macro_rules! masked {
    ($message:ty {
        plain: [$($plain:ident),* $(,)?],
        message: [$($nested:ident = $nested_path:literal),* $(,)?],
        secret: [$($secret:ident),* $(,)?],
        oneof: [$($oneof:ident { $($arm:literal => $variant:path),* $(,)? })?],
        server: [$($server:ident),* $(,)?] $(,)?
    }) => {
        impl Masked for $message {
            #[cfg(test)]
            fn paths() -> Vec<String> {
                let mut paths: Vec<String> = vec![
                    $(field_path(stringify!($plain)),)* $(stringify!($secret).into(),)* $($($arm.into(),)*)?
                    $($nested_path.into(),)*
                ];
                $(paths.extend(nested_paths($nested_path, |message: &Self| &message.$nested));)*
                paths.extend([$(stringify!($server).to_owned()),*]);
                paths
            }

            fn merge(&mut self, patch: &Self) {
                let Self { $($plain,)* $($nested,)* $($secret,)* $($oneof,)? $($server: _,)* } = patch;
                $(if $plain.is_set() { self.$plain.clone_from($plain); })*
                $(if let Some(patch) = $nested { self.$nested.get_or_insert_default().merge(patch); })*
                $(if $secret.is_set() { self.$secret.clone_from($secret); })*
                $(if $oneof.is_set() { self.$oneof.clone_from($oneof); })?
            }

            fn replace(&mut self, patch: &Self) {
                let Self { $($plain,)* $($nested,)* $($secret,)* $($oneof,)? $($server: _,)* } = patch;
                $(self.$plain.clone_from($plain);)*
                $(replace_nested(&mut self.$nested, $nested.as_ref());)*
                $(if $secret.is_set() { self.$secret.clone_from($secret); })*
                $(self.$oneof.clone_from($oneof);)?
            }

            fn assign(&mut self, path: &str, patch: &Self) -> bool {
                $(if path == stringify!($plain).trim_start_matches("r#") {
                    self.$plain.clone_from(&patch.$plain);
                    return true;
                })*
                $(if let Some(rest) = path.strip_prefix($nested_path) {
                    if rest.is_empty() {
                        replace_nested(&mut self.$nested, patch.$nested.as_ref());
                        return true;
                    }
                    if let Some(rest) = rest.strip_prefix('.') {
                        return assign_nested(&mut self.$nested, rest, patch.$nested.as_ref());
                    }
                })*
                $(if path == stringify!($secret) {
                    self.$secret.clone_from(&patch.$secret);
                    return true;
                })*
                $($(if path == $arm {
                    let (old, new) = (matches!(self.$oneof, Some($variant(_))), matches!(patch.$oneof, Some($variant(_))));
                    if old || new {
                        self.$oneof = if new { patch.$oneof.clone() } else { None };
                    }
                    return true;
                })*)?
                [$(stringify!($server)),*].contains(&path)
            }
        }
    };
}

/// Replacing a message by an unset one leaves only what cannot be read back.
fn replace_nested<M: Masked>(current: &mut Option<M>, patch: Option<&M>) {
    match (current.as_mut(), patch) {
        (Some(current), patch) => current.replace(patch.unwrap_or(&M::default())),
        (None, Some(patch)) => *current = Some(patch.clone()),
        (None, None) => {}
    }
}

fn assign_nested<M: Masked>(current: &mut Option<M>, path: &str, patch: Option<&M>) -> bool {
    let empty = M::default();
    current.get_or_insert_default().assign(path, patch.unwrap_or(&empty))
}

#[cfg(test)]
fn field_path(field: &str) -> String {
    field.trim_start_matches("r#").into()
}

/// The getter only tells the type of the nested message.
#[cfg(test)]
fn nested_paths<M, N: Masked>(path: &str, _nested: fn(&M) -> &Option<N>) -> Vec<String> {
    N::paths()
        .into_iter()
        .map(|nested| format!("{path}.{nested}"))
        .collect()
}

masked!(v1::Trunk {
    plain: [
        display_name,
        r#type,
        state,
        protocol,
        listen_port,
        domains,
        max_registration_rate,
        language,
        max_calls,
        max_call_rate,
        max_dial_timeout,
        sip_dscp,
        retryable_reason_codes,
        retryable_cause_codes,
        tcp_connect_timeout,
        tcp_idle_timeout,
        fent,
        media_dscp,
        media_method,
        codecs,
        srtp_suites,
        srtp_mode,
        disconnect_on_idle_rtp,
        conversation_header,
        custom_properties,
    ],
    message: [
        acl = "acl",
        tls = "tls",
        dtmf = "dtmf",
        inbound_digest = "inbound_digest",
        provision = "provision",
        diagnostics = "diagnostics",
        syslog = "syslog",
        registrar = "registrar",
    ],
    secret: [],
    oneof: [],
    server: [name, etag, create_time, update_time, warnings, status],
});
masked!(v1::AccessControl {
    plain: [use_source_address, allow, deny, allow_all],
    message: [],
    secret: [],
    oneof: [],
    server: [],
});
masked!(v1::TlsSettings {
    plain: [
        mutual_auth,
        sips_uri,
        version,
        ciphers,
        sans,
        trusted_ca_pem,
        certificate_pem
    ],
    message: [],
    secret: [private_key_pem],
    oneof: [],
    server: [],
});
masked!(v1::DtmfSettings {
    plain: [payload, method],
    message: [],
    secret: [],
    oneof: [],
    server: []
});
masked!(v1::InboundDigest {
    plain: [enabled, realm, methods, allow_foreign_aor],
    message: [],
    secret: [],
    oneof: [],
    server: [],
});
masked!(v1::ProvisionSettings {
    plain: [
        require_auth,
        prefer_redirect,
        require_https,
        external_server,
        http_port,
        https_port
    ],
    message: [],
    secret: [],
    oneof: [],
    server: [],
});
masked!(v1::DiagnosticsSettings {
    plain: [
        media_capture,
        protocol_capture,
        media_capture_until,
        protocol_capture_until
    ],
    message: [],
    secret: [],
    oneof: [],
    server: [],
});
masked!(v1::SyslogSettings {
    plain: [enabled, port],
    message: [],
    secret: [],
    oneof: [],
    server: []
});
masked!(v1::RegistrarSettings {
    plain: [min_expires, max_expires, max_bindings],
    message: [],
    secret: [],
    oneof: [],
    server: [],
});
masked!(v1::Line {
    plain: [
        display_name,
        enabled,
        host,
        port,
        protocol,
        priority,
        weight,
        auth_username,
        registration_interval,
        options_interval,
        registration_user,
    ],
    message: [],
    secret: [auth_password],
    oneof: [],
    server: [name, has_password, etag, create_time, update_time],
});
masked!(v1::Route {
    plain: [display_name, priority, enabled, targets, language],
    message: [r#match = "match"],
    secret: [],
    oneof: [],
    server: [name, etag, create_time, update_time],
});
masked!(v1::RouteMatch {
    plain: [inbound_trunk, host],
    message: [],
    secret: [],
    oneof: [user {
        "user_exact" => User::UserExact,
        "user_prefix" => User::UserPrefix,
        "user_regex" => User::UserRegex,
    }],
    server: [],
});
masked!(v1::DigestCredential {
    plain: [username, enabled, aor_user],
    message: [],
    secret: [password],
    oneof: [],
    server: [name, has_password, etag, create_time, update_time],
});
masked!(v1::Settings {
    plain: [pci_dss_enabled, call_retention],
    message: [],
    secret: [],
    oneof: [],
    server: [name, etag, update_time],
});

#[cfg(test)]
mod tests;
