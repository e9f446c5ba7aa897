//! Request-Line and Status-Line (RFC 3261 §7.1, §7.2).

use super::{Fault, Limits, is_request_uri};
use crate::message::Range;
use crate::method::Method;
use crate::status::StatusCode;

pub(super) enum Line {
    Request { method: Method, uri: Range },
    Response { status: StatusCode, reason: Range },
}

pub(super) struct Start {
    pub(super) line: Line,
    /// Offset of the first header line.
    pub(super) end: usize,
}

/// `None` when the bytes are not SIP at all. A line that is SIP but wrong sets `fault` and is read as far as possible.
pub(super) fn parse(bytes: &[u8], limits: &Limits, fault: &mut Fault) -> Option<Start> {
    let lf = memchr::memchr(b'\n', bytes)?;
    let line = match bytes[..lf].strip_suffix(b"\r") {
        Some(line) => line,
        None => {
            fault.bad("Bare LF In Start Line");
            &bytes[..lf]
        }
    };
    if memchr::memchr2(b'\r', 0, line).is_some() {
        return None;
    }
    let line = if is_version(line.get(..7)?) {
        response(line)?
    } else {
        request(line, limits, fault)?
    };
    Some(Start { line, end: lf + 1 })
}

/// `SIP/2.0 SP 3DIGIT SP reason`; the space before an empty reason is often forgotten and not missed here.
fn response(line: &[u8]) -> Option<Line> {
    let digits = line.get(7..)?.strip_prefix(b" ")?.get(..3)?;
    let status = StatusCode::new(u16::try_from(super::decimal(digits)?).ok()?)?;
    let reason = line.get(11..).unwrap_or(b"");
    if !reason.is_empty() && reason[0] != b' ' {
        return None;
    }
    Some(Line::Response {
        status,
        reason: Range::new(line.len().min(12), line.len()),
    })
}

fn request(line: &[u8], limits: &Limits, fault: &mut Fault) -> Option<Line> {
    let method_end = line.iter().position(|b| matches!(b, b' ' | b'\t'))?;
    let method = Method::parse(&line[..method_end])?;
    let trimmed = line.trim_ascii_end();
    let version_start = trimmed.iter().rposition(|b| matches!(b, b' ' | b'\t'))? + 1;
    let version = &trimmed[version_start..];
    // Any SIP version is worth an answer, anything else is another protocol.
    if version_start <= method_end + 1 || !version.get(..4)?.eq_ignore_ascii_case(b"SIP/") {
        return None;
    }
    let uri = Range::new(method_end + 1, version_start - 1);
    if line.len() > limits.start_line {
        fault.set(StatusCode::REQUEST_URI_TOO_LONG, "Request-URI Too Long");
    }
    if !is_version(version) {
        if is_other_version(&version[4..]) {
            fault.set(StatusCode::VERSION_NOT_SUPPORTED, "Version Not Supported");
        } else {
            fault.bad("Malformed Request-Line");
        }
    }
    if trimmed.len() != line.len() || uri.of(line).is_empty() || uri.of(line).contains(&b' ') {
        fault.bad("Malformed Request-Line");
    } else if !is_request_uri(uri.of(line)) {
        fault.bad("Malformed Request-URI");
    }
    Some(Line::Request { method, uri })
}

/// The version compares case-insensitively (RFC 3261 §7.1).
fn is_version(text: &[u8]) -> bool {
    text.eq_ignore_ascii_case(b"SIP/2.0")
}

/// `1*DIGIT "." 1*DIGIT`
fn is_other_version(text: &[u8]) -> bool {
    let dot = text.iter().position(|b| *b == b'.');
    dot.is_some_and(|dot| {
        [&text[..dot], &text[dot + 1..]]
            .iter()
            .all(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit))
    })
}
