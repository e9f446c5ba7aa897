//! Who is who: callers of the API (bearer tokens with roles) and workers (client certificates of the managed CA).

mod caller;

pub use caller::{Caller, Role};
