//! Who is who: callers of the API (bearer tokens with roles) and workers (client certificates of the managed CA).

mod auth;
mod authority;
mod bootstrap;
mod caller;
mod enrollment;
pub mod files;
mod listener;
mod server_certificate;
pub mod subject_name;
mod token;
mod trunk_certificate;
mod worker_identity;

pub use auth::{Auth, AuthLayer, authenticate_worker};
pub use authority::{Authority, AuthorityError, IssuedIdentity, IssuedWorkerCertificate};
pub use bootstrap::{BootstrapError, ensure_admin_token, ensure_join_token_file};
pub use caller::{Caller, Role};
pub use enrollment::Enrollment;
pub use listener::{Connection, Peer, accept};
pub use server_certificate::{ServerCertificate, ServerTlsError, api_config, worker_config};
pub use token::{MintedToken, PresentedToken, TokenKind, mint, random_id};
pub use trunk_certificate::TrunkCertificates;
pub use worker_identity::WorkerIdentity;
