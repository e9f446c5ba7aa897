//! Gathering everything that is wrong with a message, and the small checks most fields share.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

/// What a violation breaks: decides the gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ViolationKind {
    /// The field is wrong by itself: INVALID_ARGUMENT.
    InvalidArgument,
    /// The field is well-formed but policy or state forbids it: FAILED_PRECONDITION.
    FailedPrecondition,
}

/// Stable tokens of [`Violation::reason`].
pub mod reason {
    /// A field that is wrong by itself.
    pub const INVALID_FIELD: &str = "INVALID_FIELD";
    /// SSL 3.0, TLS 1.0 or TLS 1.1 (row 23).
    pub const INSECURE_TLS_VERSION: &str = "INSECURE_TLS_VERSION";
    /// Mutual authentication without an authority to vouch for clients (row 21).
    pub const NO_TRUST_ANCHOR: &str = "NO_TRUST_ANCHOR";
    /// A capture while PCI DSS is on (row 50).
    pub const PCI_DSS_ENABLED: &str = "PCI_DSS_ENABLED";
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, e.g. `acl.allow[3]`.
    pub field: String,
    /// What is wrong, in words.
    pub description: String,
    /// By whose fault.
    pub kind: ViolationKind,
    /// Stable token, see [`reason`].
    pub reason: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.description)
    }
}

/// Everything that is wrong with a message; never empty in an `Err`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    /// The same with `prefix` before every path: for a message inside another, e.g. `trunk.`.
    #[must_use]
    pub fn at(mut self, prefix: &str) -> Self {
        for violation in &mut self.0 {
            violation.field.insert_str(0, prefix);
        }
        self
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            violation.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

/// What a message is checked against beyond itself. `Default` is for what was accepted before: stored messages, and the
/// workers' side of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// The wall clock: capture times must lie ahead of it, at most 7 days (rows 48, 49). `None`: not checked.
    pub now: Option<SystemTime>,
    /// Row 50: captures are refused.
    pub pci_dss_enabled: bool,
    /// Whether a managed authority vouches for clients, so that row 21 needs no own one.
    pub managed_ca: bool,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            now: None,
            pci_dss_enabled: false,
            managed_ca: true,
        }
    }
}

/// Gathers violations. The checks answer a usable value in any case, so that the rest of the message is checked too;
/// [`Findings::settle`] decides in the end.
#[derive(Default)]
pub(super) struct Findings(Vec<Violation>);

impl Findings {
    pub(super) fn settle<T>(self, value: T) -> Result<T, Violations> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(Violations(self.0))
        }
    }

    /// `value` is `None` only when a violation says why.
    pub(super) fn settle_some<T>(self, value: Option<T>) -> Result<T, Violations> {
        match value {
            Some(value) => self.settle(value),
            None => Err(Violations(self.0)),
        }
    }

    pub(super) fn field(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation {
            field: field.into(),
            description: description.into(),
            kind: ViolationKind::InvalidArgument,
            reason: reason::INVALID_FIELD,
        });
    }

    pub(super) fn precondition(&mut self, field: &str, reason: &'static str, description: impl Into<String>) {
        self.0.push(Violation {
            field: field.into(),
            description: description.into(),
            kind: ViolationKind::FailedPrecondition,
            reason,
        });
    }

    pub(super) fn absorb(&mut self, prefix: &str, violations: Violations) {
        self.0.extend(violations.at(prefix).0);
    }

    /// The value, or a violation with the error's words.
    pub(super) fn ok<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.field(field, error.to_string())).ok()
    }

    /// Each item of a list, with the index in the path.
    pub(super) fn each<R, T, E: fmt::Display>(
        &mut self,
        field: &str,
        raw: &[R],
        parse: impl Fn(&R) -> Result<T, E>,
    ) -> Vec<T> {
        let mut out = Vec::with_capacity(raw.len());
        for (index, item) in raw.iter().enumerate() {
            match parse(item) {
                Ok(value) => out.push(value),
                Err(error) => self.field(format!("{field}[{index}]"), error.to_string()),
            }
        }
        out
    }

    /// Names every item that came before.
    pub(super) fn unique<T: PartialEq>(&mut self, field: &str, items: &[T]) {
        for (index, item) in items.iter().enumerate() {
            if items[..index].contains(item) {
                self.field(format!("{field}[{index}]"), "comes twice in the list");
            }
        }
    }

    pub(super) fn at_most<T>(&mut self, field: &str, items: &[T], most: usize) {
        if items.len() > most {
            self.field(field, format!("has {} entries, more than {most}", items.len()));
        }
    }

    /// A whole number within bounds.
    pub(super) fn number<N: Copy + PartialOrd + fmt::Display>(
        &mut self,
        field: &str,
        value: N,
        range: RangeInclusive<N>,
    ) -> N {
        if !range.contains(&value) {
            self.field(field, format!("{value} is outside {}-{}", range.start(), range.end()));
        }
        value
    }

    /// A whole number within bounds that fit 16 bits.
    pub(super) fn number_u16(&mut self, field: &str, value: u32, range: RangeInclusive<u16>) -> u16 {
        match u16::try_from(value) {
            Ok(small) if range.contains(&small) => small,
            _ => {
                self.field(field, format!("{value} is outside {}-{}", range.start(), range.end()));
                *range.start()
            }
        }
    }

    /// A whole number of seconds or a part of one, within bounds in seconds.
    pub(super) fn duration(
        &mut self,
        field: &str,
        raw: Option<prost_types::Duration>,
        default: Duration,
        seconds: RangeInclusive<u64>,
    ) -> Duration {
        let Some(raw) = raw else {
            return default;
        };
        let (low, high) = (
            Duration::from_secs(*seconds.start()),
            Duration::from_secs(*seconds.end()),
        );
        match Duration::try_from(raw) {
            Ok(duration) if (low..=high).contains(&duration) => duration,
            _ => {
                self.field(field, format!("must be {}-{} s", seconds.start(), seconds.end()));
                default
            }
        }
    }

    /// A duration that unset or zero switches off.
    pub(super) fn interval(
        &mut self,
        field: &str,
        raw: Option<prost_types::Duration>,
        seconds: RangeInclusive<u64>,
    ) -> Option<Duration> {
        let zero = prost_types::Duration::default();
        let raw = raw.filter(|raw| *raw != zero)?;
        Some(self.duration(field, Some(raw), Duration::from_secs(*seconds.start()), seconds))
    }

    /// A point in time within the years 1-9999, the range of the message (and of RFC 3339).
    pub(super) fn time(&mut self, field: &str, raw: Option<prost_types::Timestamp>) -> Option<SystemTime> {
        let raw = raw?;
        let in_range =
            (-62_135_596_800..=253_402_300_799).contains(&raw.seconds) && (0..1_000_000_000).contains(&raw.nanos);
        let time = SystemTime::try_from(raw).ok().filter(|_| in_range);
        self.ok(field, time.ok_or("is not a point in time of the years 1-9999"))
    }

    /// Text of bounded length in characters without control characters.
    pub(super) fn text(&mut self, field: &str, text: &str, length: RangeInclusive<usize>) {
        let characters = text.chars().count();
        if !length.contains(&characters) {
            let bounds = format!(
                "must have {}-{} characters, not {characters}",
                length.start(),
                length.end()
            );
            self.field(field, bounds);
        } else if text.chars().any(char::is_control) {
            self.field(field, "must not contain control characters");
        }
    }

    /// An enum: the default for the unspecified value, a violation for a number without a name. `map` answers `None` for
    /// the unspecified value.
    pub(super) fn choice<E: TryFrom<i32>, T>(
        &mut self,
        field: &str,
        raw: i32,
        default: T,
        map: impl Fn(E) -> Option<T>,
    ) -> T {
        match E::try_from(raw) {
            Ok(value) => map(value).unwrap_or(default),
            Err(_) => {
                self.field(field, format!("{raw} is not a known value"));
                default
            }
        }
    }

    /// A list of enums; the unspecified value is none.
    pub(super) fn choices<E: TryFrom<i32>, T: Clone + PartialEq>(
        &mut self,
        field: &str,
        raw: &[i32],
        default: &[T],
        map: impl Fn(E) -> Option<T>,
    ) -> Vec<T> {
        if raw.is_empty() {
            return default.to_vec();
        }
        let values = self.each(field, raw, |raw| {
            E::try_from(*raw)
                .ok()
                .and_then(&map)
                .ok_or_else(|| format!("{raw} is not a known value"))
        });
        self.unique(field, &values);
        values
    }
}

/// A duration on the wire. Domain durations are bounded far below what the message can hold.
pub(super) fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

pub(super) fn time_to_wire(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}
