//! Names of resources: `trunks/{trunk}`, `trunks/{trunk}/lines/{line}` and so on, and the ids they are made of.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

/// Longest id of a resource, in characters.
pub const MAX_ID_LEN: usize = 63;

/// Why a text is no id or no resource name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An id outside `[a-z][a-z0-9-]{0,62}`.
    #[error("`{0}` is not an id: 1-63 characters of a-z, 0-9 and `-`, starting with a letter")]
    Id(String),
    /// A worker id outside `[a-z0-9-]{1,63}`.
    #[error("`{0}` is not a worker id: 1-63 characters of a-z, 0-9 and `-`")]
    WorkerId(String),
    /// A name of another form than the one wanted.
    #[error("`{name}` is not of the form `{form}`")]
    Form {
        /// The name given.
        name: String,
        /// The form wanted.
        form: &'static str,
    },
    /// A user part that is empty or badly percent-encoded.
    #[error("`{0}` is not a percent-encoded user part")]
    User(String),
    /// Not a conversation id.
    #[error("`{0}` is not a UUID")]
    Uuid(String),
}

/// Whether `id` keeps the rule of resource ids, `[a-z][a-z0-9-]{0,62}`.
pub fn is_valid_id(id: &str) -> bool {
    id.len() <= MAX_ID_LEN
        && id.starts_with(|first: char| first.is_ascii_lowercase())
        && id
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// An id as a cheap-to-clone newtype: `new` checks the id alone, `parse_name` a full resource name.
macro_rules! id {
    ($(#[$doc:meta])* $type:ident, $collection:literal, $form:literal, $valid:expr, $error:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks an id. Errors when it breaks the rule of its kind.
            pub fn new(id: &str) -> Result<Self, NameError> {
                if $valid(id) { Ok(Self(id.into())) } else { Err($error(id.into())) }
            }

            #[doc = concat!("Reads a resource name of the form `", $form, "`.")]
            pub fn parse_name(name: &str) -> Result<Self, NameError> {
                let id = name
                    .strip_prefix($collection)
                    .and_then(|rest| rest.strip_prefix('/'))
                    .filter(|id| !id.contains('/'))
                    .ok_or_else(|| NameError::Form { name: name.into(), form: $form })?;
                Self::new(id)
            }

            /// The id alone.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            #[doc = concat!("The resource name, `", $form, "`.")]
            pub fn name(&self) -> String {
                format!(concat!($collection, "/{}"), self.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($collection, "/{}"), self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// Id of a trunk. `Display` shows the id, [`TrunkId::name`] the resource name.
    TrunkId, "trunks", "trunks/{trunk}", is_valid_id, NameError::Id
);
id!(
    /// Id of a route.
    RouteId, "routes", "routes/{route}", is_valid_id, NameError::Id
);
id!(
    /// Id of a data-plane worker; unlike other ids it may start with a digit or `-`, because host names may.
    WorkerId, "workers", "workers/{worker}", is_valid_worker_id, NameError::WorkerId
);

fn is_valid_worker_id(id: &str) -> bool {
    (1..=MAX_ID_LEN).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A resource below a trunk: `Display` is the full resource name, `FromStr` reads it.
macro_rules! child_name {
    ($(#[$doc:meta])* $type:ident, $id:ident, $collection:literal, $form:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type {
            trunk: TrunkId,
            $id: Arc<str>,
        }

        impl $type {
            /// Puts a name together. Errors when the id breaks the rule of ids.
            pub fn new(trunk: TrunkId, id: &str) -> Result<Self, NameError> {
                if is_valid_id(id) { Ok(Self { trunk, $id: id.into() }) } else { Err(NameError::Id(id.into())) }
            }

            /// The trunk it belongs to.
            pub fn trunk(&self) -> &TrunkId {
                &self.trunk
            }

            /// The last segment.
            pub fn id(&self) -> &str {
                &self.$id
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("trunks/{}/", $collection, "/{}"), self.trunk, self.$id)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                let (trunk, id) = split_child(name, $collection).ok_or_else(|| NameError::Form {
                    name: name.into(),
                    form: $form,
                })?;
                Self::new(TrunkId::new(trunk)?, id)
            }
        }
    };
}

child_name!(
    /// Name of a line, `trunks/{trunk}/lines/{line}`.
    LineName, line, "lines", "trunks/{trunk}/lines/{line}"
);
child_name!(
    /// Name of a digest credential, `trunks/{trunk}/credentials/{credential}`.
    CredentialName, credential, "credentials", "trunks/{trunk}/credentials/{credential}"
);

/// Name of a registration, `trunks/{trunk}/registrations/{user}`, the user part percent-encoded in the text form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistrationName {
    /// The trunk.
    pub trunk: TrunkId,
    /// User part of the address of record, unescaped.
    pub user: Arc<str>,
}

impl fmt::Display for RegistrationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trunks/{}/registrations/{}", self.trunk, percent_encode(&self.user))
    }
}

impl FromStr for RegistrationName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let (trunk, user) = split_child(name, "registrations").ok_or_else(|| NameError::Form {
            name: name.into(),
            form: "trunks/{trunk}/registrations/{user}",
        })?;
        let user = percent_decode(user)
            .filter(|user| !user.is_empty())
            .ok_or_else(|| NameError::User(user.into()))?;
        Ok(Self {
            trunk: TrunkId::new(trunk)?,
            user: user.into(),
        })
    }
}

/// Id of a conversation: of the call in records, of its trace, and the value of `x-inin-cnv` (RFC 9562).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(Uuid);

impl ConversationId {
    /// From a UUID made elsewhere.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// A version 4 UUID out of 16 random octets.
    pub const fn from_random(octets: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(octets).into_uuid())
    }

    /// The UUID.
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// The trace id with the same 16 octets (W3C trace context); never zero for an id of [`ConversationId::from_random`].
    pub const fn trace_id(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The resource name, `calls/{uuid}`.
    pub fn name(self) -> String {
        format!("calls/{self}")
    }

    /// Reads `calls/{uuid}`.
    pub fn parse_name(name: &str) -> Result<Self, NameError> {
        name.strip_prefix("calls/")
            .ok_or_else(|| NameError::Form {
                name: name.into(),
                form: "calls/{uuid}",
            })?
            .parse()
    }
}

/// Lower-case 8-4-4-4-12.
impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for ConversationId {
    type Err = NameError;

    /// Takes the 8-4-4-4-12 form only.
    fn from_str(text: &str) -> Result<Self, NameError> {
        (text.len() == 36)
            .then(|| Uuid::try_parse(text).ok())
            .flatten()
            .map(Self)
            .ok_or_else(|| NameError::Uuid(text.into()))
    }
}

/// Splits `trunks/{trunk}/{collection}/{id}` into trunk and id; neither is checked beyond holding no slash.
fn split_child<'a>(name: &'a str, collection: &str) -> Option<(&'a str, &'a str)> {
    let mut segments = name.split('/');
    let found = (segments.next()?, segments.next()?, segments.next()?, segments.next()?);
    match found {
        ("trunks", trunk, middle, id) if middle == collection && segments.next().is_none() => Some((trunk, id)),
        _ => None,
    }
}

/// Encodes every octet outside `[A-Za-z0-9._~+-]` as `%XX` in upper-case hex.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"._~+-".contains(&byte) {
            out.push(byte as char);
        } else {
            for nibble in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(nibble)]));
            }
            out.insert(out.len() - 2, '%');
        }
    }
    out
}

/// Undoes [`percent_encode`]. `None` for an incomplete escape, or when the octets are no UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_rule() {
        for good in ["a", "main", "a-1", &"a".repeat(63)] {
            assert_eq!(TrunkId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "1a", "-a", "A", "a_b", "a/b", "ä", &"a".repeat(64)] {
            assert!(matches!(TrunkId::new(bad), Err(NameError::Id(_))), "{bad}");
        }
        assert_eq!(WorkerId::new("10-0-0-1").unwrap().name(), "workers/10-0-0-1");
        assert!(WorkerId::new("").is_err());
    }

    #[test]
    fn names_are_read_and_written() {
        assert_eq!(TrunkId::parse_name("trunks/main").unwrap().name(), "trunks/main");
        let line: LineName = "trunks/main/lines/l1".parse().unwrap();
        assert_eq!(
            (line.trunk().as_str(), line.id(), line.to_string().as_str()),
            ("main", "l1", "trunks/main/lines/l1")
        );
        for bad in ["trunks", "trunks/", "trunks/a/lines/b", "routes/a", "trunks/a/"] {
            assert!(TrunkId::parse_name(bad).is_err(), "{bad}");
        }
        for bad in [
            "trunks/a/lines",
            "trunks/a/lines/b/c",
            "trunks/a/credentials/b",
            "trunks/-/lines/b",
        ] {
            assert!(bad.parse::<LineName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn registration_names_escape_the_user_part() {
        let name = RegistrationName {
            trunk: TrunkId::new("main").unwrap(),
            user: "+49 30/a;x=ü".into(),
        };
        assert_eq!(name.to_string(), "trunks/main/registrations/+49%2030%2Fa%3Bx%3D%C3%BC");
        assert_eq!(name.to_string().parse::<RegistrationName>().unwrap(), name);
        for bad in [
            "trunks/main/registrations/",
            "trunks/main/registrations/%2",
            "trunks/main/registrations/%FF",
        ] {
            assert!(bad.parse::<RegistrationName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn conversation_ids_are_hyphenated_uuids() {
        let id = ConversationId::from_random([0xab; 16]);
        assert_eq!(id.to_string(), "abababab-abab-4bab-abab-abababababab");
        assert_eq!(ConversationId::parse_name(&id.name()).unwrap(), id);
        assert_eq!(id.trace_id()[..2], [0xab, 0xab]);
        assert!("abababababab4babababababababab".parse::<ConversationId>().is_err());
    }
}
