//! What a report is of, without decoding it: reports are stored and passed on as they came.

use prost::bytes::Bytes;
use uuid::Uuid;

/// Most bindings of one address of record: the most a trunk can allow.
const MAX_BINDINGS: usize = 50;
/// Longest user part of an address of record, in octets.
const MAX_USER: usize = 255;

/// A report that cannot be read, or says what no report may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(&'static str);

/// A report: its number and what it is of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scanned {
    /// Sequence number in its spool.
    pub(crate) sequence: u64,
    /// Time of the event in milliseconds since 1970; 0 when it says none.
    pub(crate) time_ms: i64,
    /// What it says; or why that makes no sense.
    pub(crate) event: Result<Event, Unreadable>,
}

/// What a report says; messages are slices of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// A call as it stands.
    Call {
        /// Conversation id.
        id: u128,
        /// Whether it is over.
        ended: bool,
        /// Encoded `trunkline.v1.Call`.
        message: Bytes,
    },
    /// All bindings of an address of record.
    Registration {
        /// `trunks/{trunk}`.
        trunk: Bytes,
        /// User part.
        user: Bytes,
        /// When it changed, by its worker's clock, in milliseconds since 1970.
        change_time_ms: i64,
        /// Whether every binding says its worker.
        placed: bool,
        /// Encoded `AorBindings`.
        message: Bytes,
    },
    /// The worker process with this boot id began.
    Booted(String),
    /// Encoded `AuthenticationFailure`.
    Failure(Bytes),
}

impl Event {
    /// Value of the metric's label.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Call { .. } => "call",
            Self::Registration { .. } => "registration",
            Self::Booted(_) => "booted",
            Self::Failure(_) => "authentication_failure",
        }
    }
}

/// Reads an encoded `Report`.
///
/// # Errors
/// When it is no message at all.
pub(crate) fn report(report: &Bytes) -> Result<Scanned, Unreadable> {
    let mut scanned = Scanned {
        sequence: 0,
        time_ms: 0,
        event: Err(Unreadable("a report of a kind unknown here")),
    };
    for field in Fields::of(report) {
        match field? {
            (1, Value::Number(sequence)) => scanned.sequence = sequence,
            (2, Value::Octets(time)) => scanned.time_ms = timestamp_ms(&time)?,
            (3, Value::Octets(message)) => scanned.event = call(message),
            (4, Value::Octets(message)) => scanned.event = registration(message),
            (5, Value::Octets(message)) => scanned.event = booted(&message),
            (6, Value::Octets(message)) => scanned.event = Ok(Event::Failure(message)),
            _ => {}
        }
    }
    Ok(scanned)
}

fn call(message: Bytes) -> Result<Event, Unreadable> {
    let (mut id, mut ended) = (None, false);
    for field in Fields::of(&message) {
        match field? {
            (1, Value::Octets(name)) => id = name.strip_prefix(b"calls/").and_then(uuid),
            (2, Value::Number(state)) => ended = state == trunkline_proto::v1::CallState::Ended as u64,
            _ => {}
        }
    }
    let id = id.ok_or(Unreadable("a call without a conversation id"))?;
    Ok(Event::Call { id, ended, message })
}

fn registration(message: Bytes) -> Result<Event, Unreadable> {
    let (mut trunk, mut user, mut change_time_ms) = (Bytes::new(), Bytes::new(), 0);
    let (mut bindings, mut placed) = (0, true);
    for field in Fields::of(&message) {
        match field? {
            (1, Value::Octets(text)) => trunk = text,
            (2, Value::Octets(text)) => user = text,
            (4, Value::Octets(binding)) => {
                bindings += 1;
                placed &= has_worker(&binding)?;
            }
            (5, Value::Number(time)) => change_time_ms = time.cast_signed(),
            _ => {}
        }
    }
    let is_sound = (1..=MAX_USER).contains(&user.len()) && bindings <= MAX_BINDINGS;
    let is_text = std::str::from_utf8(&trunk).is_ok() && std::str::from_utf8(&user).is_ok();
    if !is_sound || !is_text {
        return Err(Unreadable("a registration that cannot be kept"));
    }
    Ok(Event::Registration {
        trunk,
        user,
        change_time_ms,
        placed,
        message,
    })
}

fn has_worker(binding: &Bytes) -> Result<bool, Unreadable> {
    for field in Fields::of(binding) {
        if let (11, Value::Octets(worker)) = field? {
            return Ok(!worker.is_empty());
        }
    }
    Ok(false)
}

fn booted(message: &Bytes) -> Result<Event, Unreadable> {
    for field in Fields::of(message) {
        if let (1, Value::Octets(boot_id)) = field? {
            let boot_id = String::from_utf8(boot_id.to_vec()).map_err(|_| Unreadable("a boot id that is no text"))?;
            return Ok(Event::Booted(boot_id));
        }
    }
    Err(Unreadable("a boot without an id"))
}

fn timestamp_ms(message: &Bytes) -> Result<i64, Unreadable> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::of(message) {
        match field? {
            (1, Value::Number(value)) => seconds = value.cast_signed(),
            (2, Value::Number(value)) => nanos = value.cast_signed(),
            _ => {}
        }
    }
    Ok(i64::saturating_mul(seconds, 1000).saturating_add(nanos / 1_000_000))
}

fn uuid(text: &[u8]) -> Option<u128> {
    Uuid::try_parse_ascii(text).ok().map(|id| id.as_u128())
}

/// Fields of an encoded message, in order.
struct Fields<'a> {
    message: &'a Bytes,
    rest: &'a [u8],
}

enum Value {
    Number(u64),
    Octets(Bytes),
    Fixed,
}

impl<'a> Fields<'a> {
    fn of(message: &'a Bytes) -> Self {
        Self { message, rest: message }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (at, octet) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(octet & 0x7f) << (7 * at);
            if octet & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Some(value);
            }
        }
        None
    }

    fn octets(&mut self, length: usize) -> Option<Bytes> {
        let (octets, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(self.message.slice_ref(octets))
    }

    fn field(&mut self) -> Option<(u64, Value)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.octets(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Octets(self.octets(length)?)
            }
            5 => self.octets(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<(u64, Value), Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field().ok_or(Unreadable("a report that cannot be decoded"));
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use trunkline_proto::{
        dataplane::v1::{AorBindings, AuthenticationFailure, Report, WorkerBooted, report::Event as Wire},
        v1::{Binding, Call, CallState},
    };

    use super::*;

    fn scan(event: Wire) -> Event {
        let encoded = Report {
            sequence: 7,
            time: Some(prost_types::Timestamp {
                seconds: 3,
                nanos: 5_000_000,
            }),
            event: Some(event),
        }
        .encode_to_vec();
        let scanned = report(&encoded.into()).unwrap();
        assert_eq!((scanned.sequence, scanned.time_ms), (7, 3_005));
        scanned.event.unwrap()
    }

    #[test]
    fn a_report_says_what_it_is_of() {
        let call = Call {
            name: "calls/6f1d6f0e-1111-4222-8333-444455556666".into(),
            state: CallState::Ended.into(),
            call_id: "abc".into(),
            ..Default::default()
        };
        let expected = Event::Call {
            id: 0x6f1d_6f0e_1111_4222_8333_4444_5555_6666,
            ended: true,
            message: call.encode_to_vec().into(),
        };
        assert_eq!(scan(Wire::Call(call)), expected);

        let binding = |worker: &str| Binding {
            contact_uri: "sip:a@192.0.2.1".into(),
            worker: worker.into(),
            ..Default::default()
        };
        for (workers, expected) in [(vec!["workers/w", "workers/x"], true), (vec!["workers/w", ""], false)] {
            let bindings = AorBindings {
                trunk: "trunks/t".into(),
                user: "alice".into(),
                change_time_ms: -4,
                bindings: workers.into_iter().map(binding).collect(),
                ..Default::default()
            };
            let message = bindings.encode_to_vec().into();
            assert_eq!(
                scan(Wire::Registration(bindings)),
                Event::Registration {
                    trunk: "trunks/t".into(),
                    user: "alice".into(),
                    change_time_ms: -4,
                    placed: expected,
                    message,
                }
            );
        }
        assert_eq!(
            scan(Wire::Booted(WorkerBooted { boot_id: "b1".into() })),
            Event::Booted("b1".into())
        );
        let failure = AuthenticationFailure {
            username: "x".into(),
            ..Default::default()
        };
        let message = failure.encode_to_vec().into();
        assert_eq!(scan(Wire::AuthenticationFailure(failure)), Event::Failure(message));
    }

    #[test]
    fn what_makes_no_sense_keeps_its_number() {
        let events = [
            Wire::Call(Call::default()),
            Wire::Registration(AorBindings::default()),
            Wire::Registration(AorBindings {
                user: "alice".into(),
                bindings: vec![Binding::default(); MAX_BINDINGS + 1],
                ..Default::default()
            }),
            Wire::Booted(WorkerBooted::default()),
        ];
        for event in events {
            let encoded = Report {
                sequence: 9,
                event: Some(event),
                ..Default::default()
            };
            let scanned = report(&encoded.encode_to_vec().into()).unwrap();
            assert_eq!(scanned.sequence, 9);
            assert!(scanned.event.is_err());
        }
        assert!(report(&Bytes::from_static(&[0xff])).is_err());
    }

    proptest! {
        #[test]
        fn any_octets_are_read_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(report(&octets.into()));
        }
    }
}
