//! protobuf to domain and back: the one place where a message becomes a value that can be used.
//!
//! A message is checked whole: [`Violations`] names **everything** that is wrong with it. Every conversion destructures
//! its message, so that a new field cannot be forgotten. Output-only fields are ignored on the way in.

mod binding;
mod call;
mod check;
mod credential;
mod encode;
mod line;
mod mask;
mod resource;
mod route;
mod settings;
mod trunk;
mod warning;

pub use binding::{aor_bindings, aor_bindings_to_wire, binding_from_wire, binding_to_wire, registration};
pub use call::{call, call_to_wire};
pub use check::{Checks, Violation, ViolationKind, Violations, reason};
pub use credential::{credential, credential_to_wire, digest_user, digest_user_to_wire, effective_credential};
pub use encode::{encode_aor_bindings, encode_call};
pub use line::{effective_line, line, line_configuration, line_configuration_to_wire, line_to_wire};
pub use mask::{apply_mask_credential, apply_mask_line, apply_mask_route, apply_mask_settings, apply_mask_trunk};
pub use resource::{
    AppliedPush, ResourceError, apply_push, key_from_wire, key_to_wire, push_of, resource_from_wire, resource_to_wire,
};
pub use route::{effective_route, route, route_to_wire};
pub use settings::{effective_settings, settings, settings_to_wire, worker_settings, worker_settings_to_wire};
pub use trunk::{effective_trunk, tls_identity, tls_identity_to_wire, trunk, trunk_to_wire};
pub use warning::warnings;

#[cfg(test)]
mod tests;
