//! A confirmed dialog from the side of a user agent (RFC 3261 §12).

use trunkline_sip::header::HeaderName;
use trunkline_sip::message::{Fields, Request, Response};
use trunkline_sip::method::Method;

use super::PhoneError;
use super::request::Draft;

/// What requests inside the dialog are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dialog {
    call_id: String,
    /// Own address with its tag, and the bare tag.
    local: (String, String),
    /// The peer's.
    remote: (String, String),
    target: String,
    route_set: Vec<String>,
    cseq: u32,
}

impl Dialog {
    /// The caller's side, from the INVITE and a 2xx (§12.1.2): the route set is the Record-Route list reversed.
    pub(super) fn of_caller(invite: &Draft, response: &Response) -> Result<Self, PhoneError> {
        const WHAT: &str = "the 200 to INVITE";
        let mut route_set = route_set(response)?;
        route_set.reverse();
        let missing = |header| PhoneError::Incomplete { what: WHAT, header };
        let tag = |tag: Option<&str>, header| tag.map(str::to_owned).ok_or(missing(header));
        Ok(Self {
            call_id: invite.call_id.clone(),
            local: (invite.from.clone(), tag(response.from_tag(), "From tag")?),
            remote: (text(response, HeaderName::To), tag(response.to_tag(), "To tag")?),
            target: target(response).ok_or(missing("Contact"))?,
            route_set,
            cseq: invite.cseq,
        })
    }

    /// The callee's side, from the INVITE and the tag of the own 2xx (§12.1.1): the route set is the Record-Route list.
    pub(super) fn of_callee(invite: &Request, local_tag: &str) -> Result<Self, PhoneError> {
        const WHAT: &str = "the INVITE";
        let missing = |header| PhoneError::Incomplete { what: WHAT, header };
        Ok(Self {
            call_id: invite.call_id().to_owned(),
            local: (
                format!("{};tag={local_tag}", text(invite, HeaderName::To)),
                local_tag.to_owned(),
            ),
            remote: (
                text(invite, HeaderName::From),
                invite.from_tag().ok_or(missing("From tag"))?.to_owned(),
            ),
            target: target(invite).ok_or(missing("Contact"))?,
            route_set: route_set(invite)?,
            // Nothing was sent yet; the first request of this side may have any number.
            cseq: 0,
        })
    }

    /// The Call-ID.
    pub(super) fn call_id(&self) -> &str {
        &self.call_id
    }

    /// Whether a request of the peer belongs here.
    pub(super) fn owns(&self, request: &Request) -> bool {
        request.call_id() == self.call_id
            && request.to_tag() == Some(&self.local.1)
            && request.from_tag() == Some(&self.remote.1)
    }

    /// A new request (§12.2.1.1); an ACK keeps the number of its INVITE (§13.2.2.4).
    pub(super) fn request(&mut self, method: Method) -> Draft {
        if method != Method::Ack {
            self.cseq += 1;
        }
        Draft {
            method,
            uri: self.target.clone(),
            from: self.local.0.clone(),
            to: self.remote.0.clone(),
            call_id: self.call_id.clone(),
            cseq: self.cseq,
            routes: self.route_set.clone(),
            expires: None,
            credentials: None,
            body: None,
        }
    }
}

fn text(message: &Fields, name: HeaderName) -> String {
    String::from_utf8_lossy(message.line(name).unwrap_or_default()).into_owned()
}

fn target(message: &Fields) -> Option<String> {
    let contact = message.contacts().next()?.ok()?;
    Some(contact.address()?.uri().as_str().to_owned())
}

/// Record-Route in the order of the message. Every value has to be a loose router's: strict ones (RFC 2543) would need the
/// Request-URI swapped, and the edge is none.
fn route_set(message: &Fields) -> Result<Vec<String>, PhoneError> {
    for address in message.addresses(HeaderName::RecordRoute) {
        if !address?.uri().sip().is_some_and(|uri| uri.is_loose_router()) {
            return Err(PhoneError::Incomplete {
                what: "a Record-Route",
                header: "lr parameter",
            });
        }
    }
    Ok(message
        .values(HeaderName::RecordRoute)
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use trunkline_sip::message::Message;
    use trunkline_sip::parse::{Framing, Limits, Parsed, parse};

    use super::*;
    use crate::phone::request::{Identity, branch};
    use crate::phone::transport::Protocol;

    const ROUTES: &str = "Record-Route: <sip:127.0.0.1:8061;transport=tls;lr>, <sip:127.0.0.1:8060;lr>\r\n";

    fn message(text: String) -> Message {
        match parse(Bytes::from(text), Framing::Datagram, &Limits::default()) {
            Parsed::Understood(message) => message,
            other => panic!("{other:?}"),
        }
    }

    fn invite(extra: &str) -> Request {
        let text = format!(
            "INVITE sip:1002@127.0.0.1:5 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:4000;branch=z9hG4bK1\r\n\
             Max-Forwards: 70\r\nFrom: \"A\" <sip:1001@127.0.0.1>;tag=a\r\nTo: <sip:1002@127.0.0.1>\r\nCall-ID: c\r\n\
             CSeq: 5 INVITE\r\nContact: <sip:1001@127.0.0.1:4>\r\n{extra}\r\n"
        );
        message(text).request().unwrap().clone()
    }

    fn caller_draft() -> Draft {
        let identity = Identity::new(
            "1001",
            "127.0.0.1:8060".parse().unwrap(),
            "127.0.0.1:4".parse().unwrap(),
            Protocol::Udp,
        );
        let mut draft = Draft::new(Method::Invite, identity.request_uri("1002"), &identity, "1002", "c", 5);
        draft.from = "<sip:1001@127.0.0.1>;tag=a".into();
        assert!(draft.build(&identity, &branch()).is_ok());
        draft
    }

    fn ok(extra: &str) -> Response {
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:4000;branch=z9hG4bK1\r\nFrom: <sip:1001@127.0.0.1>;tag=a\r\n\
             To: <sip:1002@127.0.0.1>;tag=b\r\nCall-ID: c\r\nCSeq: 5 INVITE\r\n{extra}\r\n"
        );
        message(text).response().unwrap().clone()
    }

    #[test]
    fn the_caller_goes_through_the_record_routes_backwards() {
        let response = ok(&format!("Contact: <sip:1002@127.0.0.1:5>\r\n{ROUTES}"));
        let mut dialog = Dialog::of_caller(&caller_draft(), &response).unwrap();
        let ack = dialog.request(Method::Ack);
        assert_eq!((ack.cseq, ack.uri.as_str()), (5, "sip:1002@127.0.0.1:5"));
        assert_eq!(
            ack.routes,
            ["<sip:127.0.0.1:8060;lr>", "<sip:127.0.0.1:8061;transport=tls;lr>"]
        );
        assert_eq!(ack.to, "<sip:1002@127.0.0.1>;tag=b");
        assert_eq!(dialog.request(Method::Bye).cseq, 6);
    }

    #[test]
    fn the_callee_goes_through_them_as_they_stand_and_knows_the_callers_requests() {
        let mut dialog = Dialog::of_callee(&invite(ROUTES), "b").unwrap();
        let bye = dialog.request(Method::Bye);
        assert_eq!(
            bye.routes,
            ["<sip:127.0.0.1:8061;transport=tls;lr>", "<sip:127.0.0.1:8060;lr>"]
        );
        assert_eq!(
            (bye.from.as_str(), bye.uri.as_str()),
            ("<sip:1002@127.0.0.1>;tag=b", "sip:1001@127.0.0.1:4")
        );
        assert_eq!(bye.to, "\"A\" <sip:1001@127.0.0.1>;tag=a");
        assert!(
            !dialog.owns(&invite("")),
            "an INVITE without To tag begins another dialog"
        );
    }

    #[test]
    fn a_200_without_contact_and_a_strict_router_are_named() {
        let error = Dialog::of_caller(&caller_draft(), &ok("")).unwrap_err();
        assert_eq!(error.to_string(), "the 200 to INVITE has no usable Contact");
        assert!(Dialog::of_callee(&invite("Record-Route: <sip:127.0.0.1:8060>\r\n"), "b").is_err());
    }
}
