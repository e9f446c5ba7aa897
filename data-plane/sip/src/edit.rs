//! Changes to a message that passes through, applied in one pass while it is copied to the wire.
//!
//! What no edit names is copied byte for byte, in runs as long as possible: unknown fields, folds, compact forms, 8-bit text
//! and Identity signatures survive. Content-Length alone is always written anew.

use std::fmt::{self, Write};

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::header::{FieldName, HeaderName};
use crate::message::{Entry, Fields, Message, Request, Response};
use crate::parse::MAX_MESSAGE_SIZE;
use crate::parse::scan::CommaSplit;
use crate::write::{INITIAL_MAX_FORWARDS, ViaStamp, WriteError, check_name, check_value};

#[cfg(test)]
mod tests;

/// A list of changes. Values go into one buffer, so a typical forwarding edit costs one allocation; [`Edits::clear`] keeps it.
///
/// The order of calls matters only among additions to the same field. Pops refer to the message as received, pushes and
/// prepends go above what is left of it, additions below.
#[derive(Default, Clone)]
pub struct Edits {
    arena: Vec<u8>,
    request_uri: Option<Span>,
    pushed_vias: SmallVec<[Span; 2]>,
    popped_vias: usize,
    stamp: ViaStamp,
    hops: Hops,
    prepended: SmallVec<[(Name, Span); 4]>,
    appended: SmallVec<[(Name, Span); 4]>,
    removed: SmallVec<[Name; 8]>,
    popped_routes: usize,
    popped_last_route: bool,
    body: Option<NewBody>,
    error: Option<WriteError>,
}

/// A slice of the arena.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
}

#[derive(Clone, Copy)]
enum Name {
    Known(HeaderName),
    Text(Span),
}

#[derive(Default, Clone, Copy)]
enum Hops {
    #[default]
    AsReceived,
    Decrement,
    Set(u8),
}

#[derive(Clone)]
struct NewBody {
    describes: Description,
    content: Bytes,
}

/// What becomes of the fields that describe the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Description {
    AsReceived,
    Removed,
    ContentType(Span),
}

/// Octets the first value makes room for: Via, Record-Route and Request-URI of a forwarded INVITE are about 250. Growing
/// to that from nothing took five allocations a message.
const ARENA: usize = 384;

/// Fields that describe a body and go with it.
const BODY_FIELDS: [HeaderName; 4] = [
    HeaderName::ContentType,
    HeaderName::ContentEncoding,
    HeaderName::ContentDisposition,
    HeaderName::ContentLanguage,
];

impl Edits {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all changes and keeps the memory.
    pub fn clear(&mut self) {
        let mut arena = std::mem::take(&mut self.arena);
        arena.clear();
        *self = Self {
            arena,
            ..Self::default()
        };
    }

    /// Replaces the Request-URI. Ignored for a response.
    pub fn request_uri(&mut self, uri: impl fmt::Display) -> &mut Self {
        let span = self.text(uri);
        if self.arena[span.start..span.end].iter().any(|byte| *byte <= b' ') {
            self.error.get_or_insert(WriteError::LineBreak);
        }
        self.request_uri = Some(span);
        self
    }

    /// Puts a Via on top; the last one pushed is topmost.
    pub fn push_via(&mut self, value: impl fmt::Display) -> &mut Self {
        let span = self.text(value);
        self.pushed_vias.push(span);
        self
    }

    /// Removes one more Via value from the top of the received ones.
    pub fn pop_via(&mut self) -> &mut Self {
        self.popped_vias += 1;
        self
    }

    /// Adds `received` and `rport` to the top Via as received.
    pub fn stamp_via(&mut self, stamp: ViaStamp) -> &mut Self {
        self.stamp = stamp;
        self
    }

    /// Lowers Max-Forwards by one, not below 0; writes 70 when the message has none (RFC 3261 §16.6 step 3).
    pub fn decrement_max_forwards(&mut self) -> &mut Self {
        self.hops = Hops::Decrement;
        self
    }

    /// Sets Max-Forwards.
    pub fn max_forwards(&mut self, hops: u8) -> &mut Self {
        self.hops = Hops::Set(hops);
        self
    }

    /// Puts a Record-Route on top (RFC 3261 §16.6 step 4).
    pub fn record_route(&mut self, value: impl fmt::Display) -> &mut Self {
        self.prepend(HeaderName::RecordRoute, value)
    }

    /// Puts a Route on top.
    pub fn push_route(&mut self, value: impl fmt::Display) -> &mut Self {
        self.prepend(HeaderName::Route, value)
    }

    /// Removes one more Route value from the top of the received ones (RFC 3261 §16.4).
    pub fn pop_route(&mut self) -> &mut Self {
        self.popped_routes += 1;
        self
    }

    /// Removes the last received Route value: it becomes the Request-URI behind a strict router (RFC 3261 §16.4).
    pub fn pop_last_route(&mut self) -> &mut Self {
        self.popped_last_route = true;
        self
    }

    /// Puts a Path on top (RFC 3327 §5.2).
    pub fn path(&mut self, value: impl fmt::Display) -> &mut Self {
        self.prepend(HeaderName::Path, value)
    }

    /// Adds a line above all lines of that field that remain; the last one prepended is topmost.
    pub fn prepend<'n>(&mut self, name: impl Into<FieldName<'n>>, value: impl fmt::Display) -> &mut Self {
        let line = (self.name(name.into()), self.text(value));
        self.prepended.push(line);
        self
    }

    /// Adds a line below all lines of that field that remain.
    pub fn add<'n>(&mut self, name: impl Into<FieldName<'n>>, value: impl fmt::Display) -> &mut Self {
        let line = (self.name(name.into()), self.text(value));
        self.appended.push(line);
        self
    }

    /// As [`Edits::add`], for a value that need not be UTF-8.
    pub fn add_bytes<'n>(&mut self, name: impl Into<FieldName<'n>>, value: &[u8]) -> &mut Self {
        let name = self.name(name.into());
        let start = self.arena.len();
        self.arena.extend_from_slice(value);
        let line = (name, self.span_from(start));
        self.appended.push(line);
        self
    }

    /// Replaces all lines of a field by one, or adds it.
    pub fn set<'n>(&mut self, name: impl Into<FieldName<'n>>, value: impl fmt::Display) -> &mut Self {
        let name = name.into();
        self.remove(name).add(name, value)
    }

    /// Removes all lines of a field, those added by earlier edits included.
    pub fn remove<'n>(&mut self, name: impl Into<FieldName<'n>>) -> &mut Self {
        let name = name.into();
        let stored = self.name(name);
        let arena = &self.arena;
        let keeps = |line: &mut (Name, Span)| line.0.resolve(arena) != name;
        self.prepended.retain(keeps);
        self.appended.retain(keeps);
        self.removed.push(stored);
        self
    }

    /// Replaces the body and its Content-Type; other fields that describe the old body go.
    pub fn body(&mut self, content_type: impl fmt::Display, content: impl Into<Bytes>) -> &mut Self {
        let describes = Description::ContentType(self.text(content_type));
        self.body = Some(NewBody {
            describes,
            content: content.into(),
        });
        self
    }

    /// Replaces the content and keeps what describes it: for a body rewritten in its own format.
    pub fn content(&mut self, content: impl Into<Bytes>) -> &mut Self {
        self.body = Some(NewBody {
            describes: Description::AsReceived,
            content: content.into(),
        });
        self
    }

    /// Removes the body and the fields that describe it.
    pub fn remove_body(&mut self) -> &mut Self {
        self.body = Some(NewBody {
            describes: Description::Removed,
            content: Bytes::new(),
        });
        self
    }

    /// Appends the changed message to `out`; on an error `out` is as before.
    ///
    /// # Errors
    /// The first value that would break the framing, or [`WriteError::TooLarge`].
    pub fn write(&self, message: &Message, out: &mut BytesMut) -> Result<(), WriteError> {
        match message {
            Message::Request(request) => self.write_request(request, out),
            Message::Response(response) => self.write_response(response, out),
        }
    }

    /// As [`Edits::write`].
    pub fn write_request(&self, request: &Request, out: &mut BytesMut) -> Result<(), WriteError> {
        self.write_with(request, out, |out| match self.request_uri {
            Some(uri) => {
                out.put_slice(request.method().as_str().as_bytes());
                out.put_slice(b" ");
                out.put_slice(uri.of(&self.arena));
                out.put_slice(b" SIP/2.0\r\n");
            }
            None => copy_start_line(request, out),
        })
    }

    /// As [`Edits::write`].
    pub fn write_response(&self, response: &Response, out: &mut BytesMut) -> Result<(), WriteError> {
        self.write_with(response, out, |out| copy_start_line(response, out))
    }

    fn write_with(
        &self,
        message: &Fields,
        out: &mut BytesMut,
        start_line: impl FnOnce(&mut BytesMut),
    ) -> Result<(), WriteError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let before = out.len();
        // No more than it will take: what is sent is kept as long as it may have to be sent again.
        let lines = self.pushed_vias.len() + self.prepended.len() + self.appended.len();
        let content = self.body.as_ref().map_or(0, |body| body.content.len());
        out.reserve(message.bytes().len() + self.arena.len() + content + lines * 20 + 96);
        start_line(out);
        for via in self.pushed_vias.iter().rev() {
            put_line(out, FieldName::Known(HeaderName::Via), via.of(&self.arena));
        }
        Pass::new(self, message).fields(out);
        self.tail(message, out);
        if out.len() - before > MAX_MESSAGE_SIZE {
            out.truncate(before);
            return Err(WriteError::TooLarge);
        }
        Ok(())
    }

    /// Additions, body description, Content-Length, empty line, body.
    fn tail(&self, message: &Fields, out: &mut BytesMut) {
        for (name, value) in &self.appended {
            put_line(out, name.resolve(&self.arena), value.of(&self.arena));
        }
        if message.max_forwards().is_none()
            && let Some(hops) = self.hops.applied_to(None)
        {
            put_number(out, HeaderName::MaxForwards, usize::from(hops));
        }
        let content = match &self.body {
            Some(body) => {
                if let Description::ContentType(content_type) = body.describes {
                    put_line(
                        out,
                        FieldName::Known(HeaderName::ContentType),
                        content_type.of(&self.arena),
                    );
                }
                &body.content
            }
            None => message.body(),
        };
        put_number(out, HeaderName::ContentLength, content.len());
        out.put_slice(b"\r\n");
        out.put_slice(content);
    }

    fn removes(&self, entry: &Entry, bytes: &[u8]) -> bool {
        entry.name() == HeaderName::ContentLength
            || (self.describes_anew() && BODY_FIELDS.contains(&entry.name()))
            || self
                .removed
                .iter()
                .any(|name| entry.is(name.resolve(&self.arena), bytes))
    }

    fn describes_anew(&self) -> bool {
        self.body
            .as_ref()
            .is_some_and(|body| body.describes != Description::AsReceived)
    }

    fn text(&mut self, value: impl fmt::Display) -> Span {
        if self.arena.capacity() == 0 {
            self.arena.reserve(ARENA);
        }
        let start = self.arena.len();
        let mut sink = Sink(&mut self.arena);
        if write!(sink, "{value}").is_err() {
            self.error.get_or_insert(WriteError::LineBreak);
        }
        self.span_from(start)
    }

    fn name(&mut self, name: FieldName<'_>) -> Name {
        if let Err(error) = check_name(name) {
            self.error.get_or_insert(error);
        }
        match name {
            FieldName::Known(known) => Name::Known(known),
            FieldName::Text(text) => Name::Text(self.text(text)),
        }
    }

    fn span_from(&mut self, start: usize) -> Span {
        if let Err(error) = check_value(&self.arena[start..]) {
            self.error.get_or_insert(error);
        }
        Span {
            start,
            end: self.arena.len(),
        }
    }
}

/// One pass over the received fields.
struct Pass<'a> {
    edits: &'a Edits,
    message: &'a Fields,
    bytes: &'a [u8],
    /// Start of the run of untouched bytes not yet copied.
    run: usize,
    vias_seen: usize,
    routes_seen: usize,
    /// Route values at and behind this index go.
    routes_end: usize,
}

impl<'a> Pass<'a> {
    fn new(edits: &'a Edits, message: &'a Fields) -> Self {
        let counts_routes = edits.popped_last_route;
        let routes_end = if counts_routes {
            message.values(HeaderName::Route).count().saturating_sub(1)
        } else {
            usize::MAX
        };
        let run = message.table()[0].line().start();
        Self {
            edits,
            message,
            bytes: message.bytes(),
            run,
            vias_seen: 0,
            routes_seen: 0,
            routes_end,
        }
    }

    fn fields(mut self, out: &mut BytesMut) {
        let mut prepended = false;
        for entry in self.message.table() {
            // Below the Vias, above everything the prepended fields could belong to.
            if !prepended && entry.name() != HeaderName::Via {
                self.flush(entry.line().start(), entry.line().start(), out);
                self.prepend(out);
                prepended = true;
            }
            self.field(entry, out);
        }
        let end = self.message.table().last().map_or(self.run, |entry| entry.line().end());
        self.flush(end, end, out);
        if !prepended {
            self.prepend(out);
        }
    }

    fn prepend(&self, out: &mut BytesMut) {
        let arena = &self.edits.arena;
        for (name, value) in self.edits.prepended.iter().rev() {
            put_line(out, name.resolve(arena), value.of(arena));
        }
    }

    fn field(&mut self, entry: &Entry, out: &mut BytesMut) {
        let line = entry.line();
        if self.edits.removes(entry, self.bytes) {
            return self.flush(line.start(), line.end(), out);
        }
        match entry.name() {
            HeaderName::Via => self.via(entry, out),
            HeaderName::Route => self.route(entry, out),
            HeaderName::MaxForwards => {
                if let Some(hops) = self.edits.hops.applied_to(self.message.max_forwards()) {
                    self.flush(line.start(), line.end(), out);
                    put_number(out, HeaderName::MaxForwards, usize::from(hops));
                }
            }
            _ => {}
        }
    }

    fn via(&mut self, entry: &Entry, out: &mut BytesMut) {
        let first = self.vias_seen;
        let stamped = first == 0 && self.edits.popped_vias == 0 && !self.edits.stamp.is_empty();
        if !stamped && first >= self.edits.popped_vias {
            return;
        }
        self.flush(entry.line().start(), entry.line().end(), out);
        let values = CommaSplit::new(entry.value().of(self.bytes));
        self.vias_seen += values.clone().count();
        let mut list = List::new(HeaderName::Via);
        for (index, value) in (first..).zip(values) {
            if index < self.edits.popped_vias {
                continue;
            }
            list.separate(out);
            if stamped && index == 0 {
                crate::write::write_stamped(value, &self.edits.stamp, out);
            } else {
                out.put_slice(value);
            }
        }
        list.end(out);
    }

    fn route(&mut self, entry: &Entry, out: &mut BytesMut) {
        let (first, end) = (self.edits.popped_routes, self.routes_end);
        if first == 0 && end == usize::MAX {
            return;
        }
        self.flush(entry.line().start(), entry.line().end(), out);
        let mut list = List::new(HeaderName::Route);
        for value in CommaSplit::new(entry.value().of(self.bytes)) {
            if (first..end).contains(&self.routes_seen) {
                list.separate(out);
                out.put_slice(value);
            }
            self.routes_seen += 1;
        }
        list.end(out);
    }

    /// Copies the run up to `until` and starts the next one at `next`.
    fn flush(&mut self, until: usize, next: usize, out: &mut BytesMut) {
        out.put_slice(&self.bytes[self.run..until]);
        self.run = next;
    }
}

/// A list line being written; nothing is written when no value is left.
struct List {
    name: HeaderName,
    started: bool,
}

impl List {
    fn new(name: HeaderName) -> Self {
        Self { name, started: false }
    }

    fn separate(&mut self, out: &mut BytesMut) {
        if self.started {
            out.put_slice(b", ");
        } else {
            out.put_slice(self.name.as_str().as_bytes());
            out.put_slice(b": ");
            self.started = true;
        }
    }

    fn end(self, out: &mut BytesMut) {
        if self.started {
            out.put_slice(b"\r\n");
        }
    }
}

impl Hops {
    /// The value to write, `None` to leave the field as it is.
    fn applied_to(self, received: Option<u8>) -> Option<u8> {
        match self {
            Self::AsReceived => None,
            Self::Decrement => Some(received.map_or(INITIAL_MAX_FORWARDS, |hops| hops.saturating_sub(1))),
            Self::Set(hops) => Some(hops),
        }
    }
}

impl Span {
    fn of(self, arena: &[u8]) -> &[u8] {
        &arena[self.start..self.end]
    }
}

impl Name {
    fn resolve(self, arena: &[u8]) -> FieldName<'_> {
        match self {
            Self::Known(known) => FieldName::Known(known),
            Self::Text(span) => FieldName::Text(std::str::from_utf8(span.of(arena)).expect("written from a str")),
        }
    }
}

struct Sink<'a>(&'a mut Vec<u8>);

impl Write for Sink<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn copy_start_line(message: &Fields, out: &mut BytesMut) {
    out.put_slice(&message.bytes()[..message.table()[0].line().start()]);
}

fn put_line(out: &mut BytesMut, name: FieldName<'_>, value: &[u8]) {
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn put_number(out: &mut BytesMut, name: HeaderName, number: usize) {
    // Writing to a growing buffer cannot fail.
    let _ = write!(out, "{name}: {number}\r\n");
}

impl fmt::Debug for Edits {
    /// No values: they may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edits")
            .field("bytes", &self.arena.len())
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}
