//! Where in a message its session description is: the whole body, or one part of a multipart one (RFC 5621).
//!
//! A description that is overlooked would take the media around the relay, and around what the trunk demands of SRTP and
//! codecs. So whatever could hide one and cannot be read is refused (415), not passed.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use trunkline_shared::reject::Reject;
use trunkline_sip::header::{ContentType, HeaderName, TypedHeader as _};
use trunkline_sip::message::Fields;
use trunkline_sip::method::Method;

use crate::refuse::Refusal;

/// A session description within a body. It may hold keys, so there is no Debug.
pub(crate) struct SdpPart {
    body: Bytes,
    sdp: Bytes,
    place: Range<usize>,
}

/// Parts one body may have.
const MAX_PARTS: usize = 16;

impl SdpPart {
    /// The description.
    pub(crate) fn sdp(&self) -> &Bytes {
        &self.sdp
    }

    /// The body with another description in its place.
    pub(crate) fn replaced(&self, sdp: Bytes) -> Bytes {
        if self.place == (0..self.body.len()) {
            return sdp;
        }
        let mut body = BytesMut::with_capacity(self.body.len() - self.place.len() + sdp.len());
        body.extend_from_slice(&self.body[..self.place.start]);
        body.extend_from_slice(&sdp);
        body.extend_from_slice(&self.body[self.place.end..]);
        body.freeze()
    }
}

/// Whether bodies of a method, and of its responses, take part in the offer/answer exchange of a call (RFC 6337 §2).
/// An OPTIONS response describes what a phone can do, which is no offer.
pub(crate) fn carries_sdp(method: &Method) -> bool {
    matches!(method, Method::Invite | Method::Update | Method::Prack | Method::Ack)
}

/// The description of a message, when it has one.
///
/// # Errors
/// A 415 when the body may hold one that cannot be read.
pub(crate) fn sdp_of(message: &Fields) -> Result<Option<SdpPart>, Refusal> {
    let body = message.body();
    if body.is_empty() {
        return Ok(None);
    }
    let place = find(message, body).map_err(|Unreadable| {
        Refusal::new(Reject::UnsupportedMediaType).header(HeaderName::Accept, "application/sdp")
    })?;
    Ok(place.map(|place| {
        let body = message.body_bytes();
        SdpPart {
            sdp: body.slice(place.clone()),
            body,
            place,
        }
    }))
}

/// The body cannot be searched.
#[derive(Debug)]
struct Unreadable;

fn find(message: &Fields, body: &[u8]) -> Result<Option<Range<usize>>, Unreadable> {
    let kind = message.typed::<ContentType<'_>>().ok().flatten().ok_or(Unreadable)?;
    let is_sdp = kind.is("application", "sdp");
    let is_multipart = kind.main.eq_ignore_ascii_case("multipart");
    if !is_sdp && !is_multipart {
        return Ok(None);
    }
    if message.contains(HeaderName::ContentEncoding) {
        return Err(Unreadable);
    }
    if is_sdp {
        return Ok(Some(0..body.len()));
    }
    let boundary = kind.params.find("boundary").and_then(|param| param.unquoted());
    let boundary = boundary.filter(|boundary| !boundary.is_empty()).ok_or(Unreadable)?;
    find_in_parts(body, &format!("--{boundary}"))
}

/// RFC 2046 §5.1.1: parts stand between delimiters at the start of a line, the last one ends with two hyphens more.
fn find_in_parts(body: &[u8], delimiter: &str) -> Result<Option<Range<usize>>, Unreadable> {
    let delimiter = delimiter.as_bytes();
    let mut found = None;
    let mut at = next_delimiter(body, 0, delimiter).ok_or(Unreadable)?;
    for _ in 0..MAX_PARTS {
        let after = at + delimiter.len();
        if body[after..].starts_with(b"--") {
            return Ok(found);
        }
        let start = position(&body[after..], b"\r\n").ok_or(Unreadable)? + after + 2;
        at = next_delimiter(body, start, delimiter).ok_or(Unreadable)?;
        // The line break before a delimiter belongs to it; a part may be empty.
        let part = start..at.saturating_sub(2).max(start);
        if let Some(sdp) = sdp_of_part(&body[part.clone()])? {
            if found.is_some() {
                return Err(Unreadable);
            }
            found = Some(part.start + sdp..part.end);
        }
    }
    Err(Unreadable)
}

/// Where the content of a part begins, when it is a description.
fn sdp_of_part(part: &[u8]) -> Result<Option<usize>, Unreadable> {
    let head_end = if part.starts_with(b"\r\n") {
        return Ok(None);
    } else {
        position(part, b"\r\n\r\n").ok_or(Unreadable)?
    };
    let mut is_sdp = false;
    let mut is_encoded = false;
    for line in part[..head_end].split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err(Unreadable);
        };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-type") {
            let kind = ContentType::parse(value).map_err(|_| Unreadable)?;
            if kind.main.eq_ignore_ascii_case("multipart") {
                return Err(Unreadable);
            }
            is_sdp |= kind.is("application", "sdp");
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            is_encoded |= ![&b"7bit"[..], b"8bit", b"binary"]
                .iter()
                .any(|plain| value.eq_ignore_ascii_case(plain));
        } else if name.eq_ignore_ascii_case(b"content-encoding") {
            is_encoded = true;
        }
    }
    match (is_sdp, is_encoded) {
        (true, true) => Err(Unreadable),
        (is_sdp, _) => Ok(is_sdp.then_some(head_end + 4)),
    }
}

fn next_delimiter(body: &[u8], from: usize, delimiter: &[u8]) -> Option<usize> {
    let mut at = from;
    loop {
        let found = at + position(&body[at..], delimiter)?;
        if found == 0 || (found >= 2 && &body[found - 2..found] == b"\r\n") {
            return Some(found);
        }
        at = found + 1;
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n";

    fn place(body: &str) -> Result<Option<&str>, ()> {
        find_in_parts(body.as_bytes(), "--b")
            .map(|place| place.map(|place| &body[place]))
            .map_err(|Unreadable| ())
    }

    #[test]
    fn the_description_is_found_among_the_parts() {
        let location = "--b\r\nContent-Type: application/pidf+xml\r\nContent-ID: <x@y>\r\n\r\n<presence/>\r\n";
        let sdp = format!("--b\r\ncontent-type:application/SDP\r\n\r\n{SDP}\r\n");
        for body in [
            format!("{location}{sdp}--b--\r\n"),
            format!("{sdp}{location}--b--"),
            format!("preamble --b\r\n{sdp}--b--"),
        ] {
            assert_eq!(place(&body), Ok(Some(SDP)), "{body}");
        }
        assert_eq!(place(&format!("{location}--b--")), Ok(None));
        assert_eq!(place("--b\r\n\r\njust text\r\n--b--"), Ok(None));
    }

    #[test]
    fn what_could_hide_a_description_is_unreadable() {
        for body in [
            "".to_owned(),
            "--b".to_owned(),
            "--b\r\n".to_owned(),
            format!("--b\r\nContent-Type: application/sdp\r\n\r\n{SDP}"),
            format!("--b\r\nContent-Type: multipart/mixed;boundary=c\r\n\r\n{SDP}\r\n--b--"),
            "--b\r\nContent-Type: application/sdp\r\nContent-Transfer-Encoding: base64\r\n\r\nxx\r\n--b--".to_owned(),
            "--b\r\nContent-Type: application/sdp\r\nContent-Encoding: gzip\r\n\r\nxx\r\n--b--".to_owned(),
            format!("--b\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n").repeat(2) + "--b--",
            "--b\r\nContent-Type: text/plain\r\n\r\nx\r\n".repeat(MAX_PARTS + 1) + "--b--",
        ] {
            assert_eq!(place(&body), Err(()), "{body}");
        }
    }

    #[test]
    fn another_description_takes_its_place_and_nothing_else_changes() {
        let body = Bytes::from_static(b"--b\r\n\r\nOLD\r\n--b--");
        let part = SdpPart {
            sdp: body.slice(7..10),
            body,
            place: 7..10,
        };
        assert_eq!(
            &*part.replaced(Bytes::from_static(b"NEWER")),
            b"--b\r\n\r\nNEWER\r\n--b--"
        );
    }
}
