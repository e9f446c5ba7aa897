//! Custom properties of a trunk (rows 53-55) and the ones workers understand.

use std::fmt;
use std::time::Duration;

use crate::credential::DigestAlgorithm;

/// Most properties of one trunk.
pub const MAX_PROPERTIES: usize = 100;
/// Longest text value and longest list item, in characters.
pub const MAX_TEXT: usize = 4096;
/// Most items of a list.
pub const MAX_ITEMS: usize = 1000;

/// Why a property cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// A name outside `[A-Za-z][A-Za-z0-9_.-]{0,127}`.
    #[error(
        "`{0}` is not a property name: 1-128 characters of A-Z, a-z, 0-9, `_`, `.` and `-`, starting with a letter"
    )]
    Name(String),
    /// Not a decimal number.
    #[error("`{0}` is not a decimal number")]
    Number(String),
    /// A boolean text that is neither True nor False.
    #[error("`{0}` is neither True nor False")]
    Bool(String),
    /// A text or list beyond its bounds.
    #[error("the value is too long")]
    TooLong,
    /// A list item that is missing.
    #[error("the list item at position {0} is empty")]
    EmptyItem(usize),
    /// A list item that is neither a number nor quoted.
    #[error("the list item at position {0} is neither a number nor a quoted text")]
    BareItem(usize),
    /// A quote that is not closed.
    #[error("the quote at position {0} is not closed")]
    Unterminated(usize),
    /// A property we know, of another type than it has.
    #[error("`{name}` takes {wanted}")]
    WrongType {
        /// The property.
        name: &'static str,
        /// What it takes.
        wanted: &'static str,
    },
}

/// A decimal number, kept as the text given: exact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decimal(Box<str>);

impl Decimal {
    /// Reads `["-"] 1*DIGIT ["." 1*DIGIT]`, at most 64 characters.
    pub fn parse(text: &str) -> Result<Self, PropertyError> {
        let text = text.trim();
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if text.len() <= 64 && all(whole) && all(fraction) {
            Ok(Self(text.into()))
        } else {
            Err(PropertyError::Number(text.into()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value in thousandths, when it is a whole number of them and fits.
    pub fn thousandths(&self) -> Option<i64> {
        let (whole, fraction) = self.0.split_once('.').unwrap_or((&self.0, ""));
        let fraction = fraction.trim_end_matches('0');
        let magnitude: i64 = format!("{}{fraction:0<3}", whole.trim_start_matches(['-', '+']))
            .parse()
            .ok()?;
        (fraction.len() <= 3).then_some(if whole.starts_with('-') { -magnitude } else { magnitude })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertyValue {
    /// Boolean.
    Bool(bool),
    /// Text.
    Text(String),
    /// Number.
    Number(Decimal),
    /// List of texts or numbers.
    List(Vec<String>),
}

/// Data types of row 54.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PropertyType {
    /// True or False.
    Bool,
    /// Any text.
    Text,
    /// Numeric only.
    Number,
    /// Comma separated, numbers or quoted letters.
    List,
}

impl PropertyValue {
    /// Reads the text form of row 55, as an import or a console field has it. Straight and curly quotes are taken, `""`
    /// inside quotes is a quote; spaces around commas do not count. Positions are byte offsets.
    pub fn parse_text(data_type: PropertyType, text: &str) -> Result<Self, PropertyError> {
        match data_type {
            PropertyType::Bool => match text.trim() {
                t if t.eq_ignore_ascii_case("true") => Ok(Self::Bool(true)),
                t if t.eq_ignore_ascii_case("false") => Ok(Self::Bool(false)),
                t => Err(PropertyError::Bool(t.into())),
            },
            PropertyType::Text if text.chars().count() > MAX_TEXT => Err(PropertyError::TooLong),
            PropertyType::Text => Ok(Self::Text(text.into())),
            PropertyType::Number => Decimal::parse(text).map(Self::Number),
            PropertyType::List => parse_list(text).map(Self::List),
        }
    }
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\u{201c}' | '\u{201d}' | '\u{201e}')
}

fn parse_list(text: &str) -> Result<Vec<String>, PropertyError> {
    let mut items = Vec::new();
    if text.trim().is_empty() {
        return Ok(items);
    }
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = text.len() - rest.len();
        let item = if rest.starts_with(is_quote) {
            quoted_item(&mut rest, at)?
        } else {
            bare_item(&mut rest, at)?
        };
        if item.chars().count() > MAX_TEXT || items.len() == MAX_ITEMS {
            return Err(PropertyError::TooLong);
        }
        items.push(item);
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(items);
        }
        let at = text.len() - rest.len();
        rest = rest.strip_prefix(',').ok_or(PropertyError::BareItem(at))?;
    }
}

fn quoted_item(rest: &mut &str, at: usize) -> Result<String, PropertyError> {
    let mut item = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((offset, c)) = chars.next() {
        if !is_quote(c) {
            item.push(c);
        } else if chars.next_if(|(_, next)| is_quote(*next)).is_some() {
            item.push('"');
        } else {
            *rest = &rest[offset + c.len_utf8()..];
            return Ok(item);
        }
    }
    Err(PropertyError::Unterminated(at))
}

fn bare_item(rest: &mut &str, at: usize) -> Result<String, PropertyError> {
    let (item, _) = rest.split_once(',').unwrap_or((rest, ""));
    let len = item.len();
    if item.trim().is_empty() {
        return Err(PropertyError::EmptyItem(at));
    }
    let number = Decimal::parse(item).map_err(|_| PropertyError::BareItem(at))?;
    *rest = &rest[len..];
    Ok(number.as_str().into())
}

/// A named value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomProperty {
    name: Box<str>,
    value: PropertyValue,
}

impl CustomProperty {
    /// Checks the name, the bounds of the value and, for a property we know, its type and range.
    pub fn new(name: &str, value: PropertyValue) -> Result<Self, PropertyError> {
        if !is_property_name(name) {
            return Err(PropertyError::Name(name.into()));
        }
        let too_long = match &value {
            PropertyValue::Text(text) => text.chars().count() > MAX_TEXT,
            PropertyValue::List(items) => {
                items.len() > MAX_ITEMS || items.iter().any(|item| item.chars().count() > MAX_TEXT)
            }
            PropertyValue::Bool(_) | PropertyValue::Number(_) => false,
        };
        if too_long {
            return Err(PropertyError::TooLong);
        }
        if let Some(known) = KNOWN.iter().find(|known| known.name == name) {
            known.check(&value)?;
        }
        Ok(Self {
            name: name.into(),
            value,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value.
    pub fn value(&self) -> &PropertyValue {
        &self.value
    }
}

fn is_property_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// A property workers understand.
#[derive(Debug, Clone, Copy)]
pub struct KnownProperty {
    /// Its name.
    pub name: &'static str,
    /// What it takes, in words.
    pub wanted: &'static str,
    /// What it does, in words.
    pub effect: &'static str,
    /// What counts when it is not set, in words.
    pub default: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// In thousandths.
    Number(i64, i64),
    Choice(&'static [&'static str]),
}

impl KnownProperty {
    fn check(&self, value: &PropertyValue) -> Result<(), PropertyError> {
        let fits = match (self.kind, value) {
            (Kind::Number(low, high), PropertyValue::Number(number)) => {
                number.thousandths().is_some_and(|n| (low..=high).contains(&n))
            }
            (Kind::Choice(choices), PropertyValue::Text(text)) => choices.iter().any(|c| c.eq_ignore_ascii_case(text)),
            (Kind::Number(..) | Kind::Choice(_), _) => false,
        };
        if fits {
            Ok(())
        } else {
            Err(PropertyError::WrongType {
                name: self.name,
                wanted: self.wanted,
            })
        }
    }
}

/// Every property workers understand and act on; docs/OPERATIONS.md lists them.
pub const KNOWN: &[KnownProperty] = &[
    KnownProperty {
        name: "rtp.idle_two_way",
        wanted: "a number of seconds, 0.1-86400",
        effect: "RTP may be absent this long on a two-way stream (row 31)",
        default: "300",
        kind: Kind::Number(100, 86_400_000),
    },
    KnownProperty {
        name: "rtp.idle_one_way",
        wanted: "a number of seconds, 0.1-604800",
        effect: "RTP may be absent this long on a held or one-way stream (row 31)",
        default: "43200",
        kind: Kind::Number(100, 604_800_000),
    },
    KnownProperty {
        name: "retry.match",
        wanted: "the text ANY or ALL",
        effect: "whether one matching list is enough to try the next target when a failure has a code and a cause (rows 17, 18)",
        default: "ANY",
        kind: Kind::Choice(&["ANY", "ALL"]),
    },
    KnownProperty {
        name: "acl.deny_action",
        wanted: "the text reject or drop",
        effect: "answer a denied request with 403, or not at all",
        default: "reject",
        kind: Kind::Choice(&["reject", "drop"]),
    },
    KnownProperty {
        name: "digest.algorithms",
        wanted: "the text SHA-256,MD5 or MD5 or SHA-256",
        effect: "algorithms challenges offer, in this order; MD5 alone is for phones that give up on a first challenge they do \
                 not know instead of taking the second (RFC 8760 §2.4)",
        default: "SHA-256,MD5",
        kind: Kind::Choice(&["SHA-256,MD5", "MD5", "SHA-256"]),
    },
];

/// What happens to a denied request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyAction {
    /// 403 Forbidden.
    Reject,
    /// Silence.
    Drop,
}

/// How a failure with both a code and a cause is matched (design rule: any list is enough unless asked otherwise).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryMatch {
    /// The code or the cause is in its list.
    Any,
    /// Both are in their lists.
    All,
}

/// The properties of a trunk, names unique, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CustomProperties(Vec<CustomProperty>);

impl CustomProperties {
    /// Collects properties. Errors with the index of the first whose name came before.
    pub fn new(properties: Vec<CustomProperty>) -> Result<Self, usize> {
        let mut names = std::collections::HashSet::new();
        match properties.iter().position(|property| !names.insert(&property.name)) {
            Some(repeated) => Err(repeated),
            None => Ok(Self(properties)),
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &CustomProperty> {
        self.0.iter()
    }

    /// The value of one.
    pub fn value(&self, name: &str) -> Option<&PropertyValue> {
        self.0
            .iter()
            .find(|property| &*property.name == name)
            .map(|property| &property.value)
    }

    /// Names no worker understands.
    pub fn unrecognised(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .map(|property| &*property.name)
            .filter(|name| KNOWN.iter().all(|known| known.name != *name))
    }

    /// Idle time of a two-way stream. Default 5 min.
    pub fn rtp_idle_two_way(&self) -> Duration {
        self.thousandths("rtp.idle_two_way")
            .map_or(Duration::from_secs(300), Duration::from_millis)
    }

    /// Idle time of a held or one-way stream. Default 12 h.
    pub fn rtp_idle_one_way(&self) -> Duration {
        self.thousandths("rtp.idle_one_way")
            .map_or(Duration::from_secs(12 * 3600), Duration::from_millis)
    }

    /// Default [`RetryMatch::Any`].
    pub fn retry_match(&self) -> RetryMatch {
        match self.value("retry.match") {
            Some(PropertyValue::Text(text)) if text.eq_ignore_ascii_case("ALL") => RetryMatch::All,
            _ => RetryMatch::Any,
        }
    }

    /// Default [`DenyAction::Reject`].
    pub fn acl_deny_action(&self) -> DenyAction {
        match self.value("acl.deny_action") {
            Some(PropertyValue::Text(text)) if text.eq_ignore_ascii_case("drop") => DenyAction::Drop,
            _ => DenyAction::Reject,
        }
    }

    /// Algorithms of challenges, preferred first. Default SHA-256, then MD5.
    pub fn digest_algorithms(&self) -> &'static [DigestAlgorithm] {
        match self.value("digest.algorithms") {
            Some(PropertyValue::Text(text)) if text.eq_ignore_ascii_case("MD5") => &[DigestAlgorithm::Md5],
            Some(PropertyValue::Text(text)) if text.eq_ignore_ascii_case("SHA-256") => &[DigestAlgorithm::Sha256],
            _ => &[DigestAlgorithm::Sha256, DigestAlgorithm::Md5],
        }
    }

    fn thousandths(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            PropertyValue::Number(number) => number.thousandths().and_then(|n| u64::try_from(n).ok()),
            PropertyValue::Bool(_) | PropertyValue::Text(_) | PropertyValue::List(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
