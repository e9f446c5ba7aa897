//! The vocabulary both planes share: what a trunk, a line, a route, a credential, a binding and a call *are*.
//!
//! Pure: no clock, no socket, no protobuf. Feature `wire` adds the one place where protobuf messages become these types
//! and back; feature `runtime` adds telemetry and orderly shutdown for the binaries.
//!
//! Every type here is the usable form: a value that exists is valid. The raw form is the protobuf message.

pub mod acl;
pub mod binding;
pub mod call;
pub mod codec;
pub mod codes;
pub mod credential;
pub mod dscp;
pub mod dtmf;
pub mod host;
pub mod language;
pub mod line;
pub mod method;
pub mod name;
pub mod property;
pub mod q850;
pub mod rate;
pub mod reject;
pub mod route;
pub mod secret;
pub mod settings;
mod shard_map;
pub mod snapshot;
pub mod srtp;
pub mod tls;
pub mod trunk;

#[cfg(feature = "runtime")]
pub mod runtime;
#[cfg(feature = "wire")]
pub mod wire;
