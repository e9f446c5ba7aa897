//! The control plane: owns trunks, lines, routes, credentials and settings, streams them to the workers, and keeps
//! what the workers report. It never sees a SIP message.
//!
//! ```text
//! grpc (decode) → domain (check) → store (+ revision) → stream → workers
//! workers → ingest → store (reports, bindings, live calls) → grpc
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "this crate is an I/O layer: it owns its clock and its tasks"
)]

pub mod app;
pub mod domain;
pub mod grpc;
pub mod identity;
pub mod ingest;
pub mod metrics;
pub mod options;
pub mod store;
pub mod stream;
