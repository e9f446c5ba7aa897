//! Who is who: callers of the API (bearer tokens with roles) and workers (client certificates of the managed CA).

mod authority;
mod caller;
pub mod files;
pub mod subject_name;
mod worker_identity;

pub use authority::{Authority, AuthorityError, IssuedIdentity, IssuedWorkerCertificate};
pub use caller::{Caller, Role};
pub use worker_identity::WorkerIdentity;
