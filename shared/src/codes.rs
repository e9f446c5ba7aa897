//! Lists of SIP reason codes and Q.850 causes, such as `500-599` or `1-5,25,27` (rows 17 and 18).
//!
//! `list = [item *("," item)]`, `item = n / n "-" n`; spaces are ignored, overlaps merged; the empty text matches nothing.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The default of Retryable Reason Codes (row 17).
pub const DEFAULT_REASON_CODES: &str = "500-599";
/// The default of Retryable Cause Codes (row 18).
pub const DEFAULT_CAUSE_CODES: &str = "1-5,25,27,28,31,34,38,41,42,44,46,62,63,79,91,96,97,99,100,103";

/// Longest list, in bytes: far beyond every code listed singly.
const MAX_LEN: usize = 4096;

/// Why a text is no code list. Positions are byte offsets into the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeListError {
    /// An item that is neither `n` nor `n-n`.
    #[error("`{item}` at position {position} is neither a code nor a range of codes")]
    Item {
        /// The item as given, spaces trimmed.
        item: String,
        /// Where it starts.
        position: usize,
    },
    /// A code that does not exist in this list.
    #[error("{code} at position {position} is outside {low}-{high}")]
    OutOfRange {
        /// The code.
        code: u64,
        /// Where its item starts.
        position: usize,
        /// Lowest code of the list.
        low: u16,
        /// Highest code of the list.
        high: u16,
    },
    /// A range that runs backwards.
    #[error("the range {low}-{high} at position {position} runs backwards")]
    Backwards {
        /// First code as given.
        low: u16,
        /// Last code as given.
        high: u16,
        /// Where the item starts.
        position: usize,
    },
    /// More than 4096 bytes.
    #[error("the list is longer than 4096 characters")]
    TooLong,
}

/// A set of codes with the text it was read from. Equality is of meaning.
#[derive(Clone)]
pub struct CodeList {
    /// Sorted, disjoint, not adjacent.
    ranges: Vec<RangeInclusive<u16>>,
    text: Arc<str>,
}

impl CodeList {
    /// Reads a list of SIP status codes, 400-699.
    pub fn reasons(text: &str) -> Result<Self, CodeListError> {
        Self::parse(text, 400, 699)
    }

    /// Reads a list of Q.850 causes, 1-127.
    pub fn causes(text: &str) -> Result<Self, CodeListError> {
        Self::parse(text, 1, 127)
    }

    /// Whether `code` is in the list.
    pub fn contains(&self, code: u16) -> bool {
        let after = self.ranges.partition_point(|range| *range.start() <= code);
        after > 0 && self.ranges[after - 1].contains(&code)
    }

    /// Whether nothing is in the list.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The text it was read from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn parse(text: &str, low: u16, high: u16) -> Result<Self, CodeListError> {
        if text.len() > MAX_LEN {
            return Err(CodeListError::TooLong);
        }
        let mut ranges = Vec::new();
        if !text.trim().is_empty() {
            let mut start = 0;
            for part in text.split(',') {
                let position = start + (part.len() - part.trim_start().len());
                ranges.push(parse_item(part.trim(), position, low, high)?);
                start += part.len() + 1;
            }
        }
        Ok(Self {
            ranges: merged(ranges),
            text: text.into(),
        })
    }
}

fn parse_item(item: &str, position: usize, low: u16, high: u16) -> Result<RangeInclusive<u16>, CodeListError> {
    let code = |text: &str| -> Result<u16, CodeListError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CodeListError::Item {
                item: item.into(),
                position,
            });
        }
        let code: u64 = text.parse().unwrap_or(u64::MAX);
        match u16::try_from(code) {
            Ok(code) if (low..=high).contains(&code) => Ok(code),
            _ => Err(CodeListError::OutOfRange {
                code,
                position,
                low,
                high,
            }),
        }
    };
    let (first, last) = match item.split_once('-') {
        Some((first, last)) => (code(first)?, code(last)?),
        None => (code(item)?, code(item)?),
    };
    if first > last {
        return Err(CodeListError::Backwards {
            low: first,
            high: last,
            position,
        });
    }
    Ok(first..=last)
}

fn merged(mut ranges: Vec<RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    ranges.sort_by_key(|range| *range.start());
    let mut out: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if *range.start() <= *last.end() + 1 => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => out.push(range),
        }
    }
    out
}

impl PartialEq for CodeList {
    fn eq(&self, other: &Self) -> bool {
        self.ranges == other.ranges
    }
}

impl Eq for CodeList {}

impl fmt::Display for CodeList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for CodeList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CodeList({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_hold_codes_and_ranges() {
        let list = CodeList::reasons(" 486, 500 - 503 ,502-510,511").unwrap();
        for (code, held) in [
            (485, false),
            (486, true),
            (487, false),
            (499, false),
            (500, true),
            (511, true),
            (512, false),
        ] {
            assert_eq!(list.contains(code), held, "{code}");
        }
        assert_eq!(list, CodeList::reasons("500-511,486").unwrap());
        assert!(CodeList::reasons(" ").unwrap().is_empty());
    }

    #[test]
    fn the_defaults_never_hold_busy_or_decline() {
        let reasons = CodeList::reasons(DEFAULT_REASON_CODES).unwrap();
        assert!([486, 600, 603].into_iter().all(|code| !reasons.contains(code)));
        let causes = CodeList::causes(DEFAULT_CAUSE_CODES).unwrap();
        assert!(causes.contains(103) && causes.contains(5) && !causes.contains(17) && !causes.contains(16));
    }

    #[test]
    fn bad_lists_say_where() {
        let item = |item: &str, position| CodeListError::Item {
            item: item.into(),
            position,
        };
        for (text, error) in [
            ("500,,501", item("", 4)),
            ("500,", item("", 4)),
            ("5xx", item("5xx", 0)),
            ("500, 501-", item("501-", 5)),
            ("500-501-502", item("500-501-502", 0)),
            ("500,-1", item("-1", 4)),
            (
                "399",
                CodeListError::OutOfRange {
                    code: 399,
                    position: 0,
                    low: 400,
                    high: 699,
                },
            ),
            (
                "400, 700",
                CodeListError::OutOfRange {
                    code: 700,
                    position: 5,
                    low: 400,
                    high: 699,
                },
            ),
            (
                "400-99999999999999999999",
                CodeListError::OutOfRange {
                    code: u64::MAX,
                    position: 0,
                    low: 400,
                    high: 699,
                },
            ),
            (
                "503-500",
                CodeListError::Backwards {
                    low: 503,
                    high: 500,
                    position: 0,
                },
            ),
        ] {
            assert_eq!(CodeList::reasons(text).unwrap_err(), error, "{text}");
        }
        assert!(
            CodeList::causes("0").is_err() && CodeList::causes("128").is_err() && CodeList::causes("1,127").is_ok()
        );
        assert_eq!(
            CodeList::causes(&"1,".repeat(3000)).unwrap_err(),
            CodeListError::TooLong
        );
    }
}
