//! Which failure ends what (RFC 5057 §5.1), as data.

use super::Effect;
use crate::method::Method;
use crate::status::StatusCode;

/// How much a failure response to an in-dialog request takes down (RFC 5057 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureScope {
    /// The request failed; dialog and usage go on.
    Transaction,
    /// The usage the request belongs to is gone: the call, or one subscription.
    Usage,
    /// The dialog and everything on it is gone.
    Dialog,
}

/// The scope of a response of 300 or above to an in-dialog request.
///
/// 483 counts as [`FailureScope::Transaction`]: the RFC lets the sender try again with a higher Max-Forwards.
#[must_use]
pub fn failure_scope(method: &Method, status: StatusCode) -> FailureScope {
    match status.as_u16() {
        404 | 410 | 416 | 482 | 484 | 485 | 502 | 604 => FailureScope::Dialog,
        // To PRACK it means "no such reliable response" (RFC 3262 §3).
        481 if *method == Method::Prack => FailureScope::Transaction,
        408 | 480 | 481 => FailureScope::Usage,
        405 if matches!(method, Method::Invite | Method::Subscribe | Method::Notify) => FailureScope::Usage,
        489 if matches!(method, Method::Subscribe | Method::Notify) => FailureScope::Usage,
        _ => FailureScope::Transaction,
    }
}

/// What a final response means for the call.
///
/// Milder than RFC 5057 in one way: only re-INVITE and UPDATE, which are about the call itself, can fail it. Phones in
/// the field answer a REFER to an unknown number with 404 or 484 and an INFO they do not know with 481, and go on
/// talking; a call that is really gone ends by its session timer or by idle media.
pub(super) fn effect(method: &Method, status: StatusCode) -> Effect {
    let code = status.as_u16();
    match method {
        // RFC 3261 §15.1.1: the sender of a BYE is done, whatever the answer, unless it was only asked to authenticate.
        Method::Bye if !matches!(code, 401 | 407) => Effect::Terminated,
        Method::Invite | Method::Update if code >= 300 => match failure_scope(method, status) {
            FailureScope::Transaction => Effect::Continues,
            FailureScope::Usage | FailureScope::Dialog => Effect::Failed,
        },
        _ => Effect::Continues,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> StatusCode {
        StatusCode::new(code).unwrap()
    }

    #[test]
    fn scopes_are_those_of_rfc_5057() {
        for (codes, scope) in [
            (&[404, 410, 416, 482, 484, 485, 502, 604][..], FailureScope::Dialog),
            (&[405, 408, 480, 481], FailureScope::Usage),
            (
                &[
                    300, 302, 400, 401, 402, 403, 406, 407, 412, 413, 414, 415, 417, 420, 421, 422, 423, 428, 429, 436,
                    437, 438, 483, 486, 487, 488, 489, 491, 493, 494, 500, 501, 503, 504, 505, 513, 580, 600, 603, 606,
                ],
                FailureScope::Transaction,
            ),
        ] {
            for code in codes {
                assert_eq!(
                    failure_scope(&Method::Invite, status(*code)),
                    scope,
                    "{code} to re-INVITE"
                );
            }
        }
        assert_eq!(failure_scope(&Method::Notify, status(489)), FailureScope::Usage);
        assert_eq!(failure_scope(&Method::Info, status(405)), FailureScope::Transaction);
        assert_eq!(failure_scope(&Method::Prack, status(481)), FailureScope::Transaction);
    }

    #[test]
    fn only_what_concerns_the_call_ends_it() {
        for (method, code, expected) in [
            (Method::Bye, 200, Effect::Terminated),
            (Method::Bye, 481, Effect::Terminated),
            (Method::Bye, 401, Effect::Continues),
            (Method::Bye, 407, Effect::Continues),
            (Method::Invite, 200, Effect::Continues),
            (Method::Invite, 481, Effect::Failed),
            (Method::Invite, 408, Effect::Failed),
            (Method::Invite, 404, Effect::Failed),
            (Method::Invite, 491, Effect::Continues),
            (Method::Invite, 488, Effect::Continues),
            (Method::Update, 481, Effect::Failed),
            (Method::Refer, 404, Effect::Continues),
            (Method::Info, 481, Effect::Continues),
            (Method::Prack, 481, Effect::Continues),
        ] {
            assert_eq!(effect(&method, status(code)), expected, "{code} to {method}");
        }
    }
}
