//! Secure RTP: RFC 3711 with the suites of RFC 4568, RFC 6188 and RFC 7714.

mod key;

pub use key::{Mki, SrtpKey};
