//! Header fields: their names, and typed values that borrow from the message and are parsed when asked for.

use crate::parse::SyntaxError;

mod address;
mod auth;
mod name;
mod params;
mod values;
mod via;

pub use address::{Contact, NameAddr};
pub use auth::{AuthParam, AuthScheme};
pub use name::{FieldName, HeaderName};
pub(crate) use params::unquote;
pub use params::{Param, Params};
pub use values::{
    CSeq, ContentType, Event, Expires, MaxForwards, MinExpires, MinSe, RAck, RSeq, Reason, Refresher, RetryAfter,
    SessionExpires, SubscriptionState, Warning,
};
pub use via::{MAGIC_COOKIE, Transport, Via};

/// A header field with a typed value. Implementations parse one value, never a list.
pub trait TypedHeader<'a>: Sized {
    /// The field the value stands in.
    const NAME: HeaderName;

    /// Parses one value; `value` may hold folds (CRLF and white space), which count as white space.
    fn parse(value: &'a [u8]) -> Result<Self, SyntaxError>;
}

/// Why a typed value cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The field is not in the message.
    #[error("{0} is missing")]
    Missing(HeaderName),
    /// The field is there, but does not follow its grammar.
    #[error("{name} is malformed")]
    Malformed {
        /// Which field.
        name: HeaderName,
        /// What was expected where.
        #[source]
        source: SyntaxError,
    },
}
