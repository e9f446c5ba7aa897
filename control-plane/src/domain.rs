//! What may be asked of the configuration, one use-case per function: check → store → publish.
//!
//! Every function takes the caller for the audit log; whether the caller's role suffices was decided before. Everything
//! that is wrong with a request is reported together; nothing is ever applied in part.

pub mod access;
pub mod audit;
pub mod call;
mod certificate;
mod changed;
mod check;
pub mod credential;
mod error;
mod ha1;
pub mod line;
mod mutation;
mod page;
pub mod registration;
pub mod route;
pub mod settings;
pub mod token;
pub mod trunk;
pub mod worker;

pub use changed::changed_fields;
pub use error::{Error, FieldViolation, PreconditionViolation};
pub use page::Page;
