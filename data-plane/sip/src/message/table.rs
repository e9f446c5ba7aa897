use smallvec::SmallVec;

use crate::header::{FieldName, HeaderName};

/// The header table, with inline room for 24 fields (240 bytes): a phone's INVITE has 12 to 18.
pub(crate) type Table = SmallVec<[Entry; 24]>;

/// A range of the message. 16 bits suffice: [`crate::parse::MAX_MESSAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    start: u16,
    end: u16,
}

impl Range {
    /// Offsets beyond the largest message saturate; the parser refuses such messages before it makes ranges.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let narrow = |offset: usize| u16::try_from(offset).unwrap_or(u16::MAX);
        Self {
            start: narrow(start),
            end: narrow(end),
        }
    }

    /// Where `part`, a slice of `whole`, lies in it.
    pub(crate) fn find(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        debug_assert!(start + part.len() <= whole.len(), "part lies outside of whole");
        Self::new(start, start + part.len())
    }

    pub(crate) fn of(self, whole: &[u8]) -> &[u8] {
        &whole[usize::from(self.start)..usize::from(self.end)]
    }

    pub(crate) fn start(self) -> usize {
        usize::from(self.start)
    }

    pub(crate) fn end(self) -> usize {
        usize::from(self.end)
    }
}

/// One header line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    line_start: u16,
    line_end: u16,
    value: Range,
    name_len: u8,
    name: HeaderName,
}

impl Entry {
    pub(crate) fn new(name: HeaderName, line_start: usize, name_len: usize, value: Range, line_end: usize) -> Self {
        let line = Range::new(line_start, line_end);
        let name_len = u8::try_from(name_len).unwrap_or(u8::MAX);
        Self {
            line_start: line.start,
            line_end: line.end,
            value,
            name_len,
            name,
        }
    }

    pub(crate) fn name(&self) -> HeaderName {
        self.name
    }

    pub(crate) fn name_range(&self) -> Range {
        Range {
            start: self.line_start,
            end: self.line_start + u16::from(self.name_len),
        }
    }

    /// The value without surrounding white space.
    pub(crate) fn value(&self) -> Range {
        self.value
    }

    /// The whole field with its folds and its CRLF.
    pub(crate) fn line(&self) -> Range {
        Range {
            start: self.line_start,
            end: self.line_end,
        }
    }

    pub(crate) fn is(&self, name: FieldName<'_>, bytes: &[u8]) -> bool {
        match name {
            FieldName::Known(known) => self.name == known,
            FieldName::Text(text) => {
                self.name == HeaderName::Other && self.name_range().of(bytes).eq_ignore_ascii_case(text.as_bytes())
            }
        }
    }
}
