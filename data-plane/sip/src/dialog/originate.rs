//! Requests we send on a dialog in the name of one of its peers (RFC 3261 §12.2.1.1, RFC 7092 §3.1.1).

use std::fmt;

use thiserror::Error;

use super::{Dialog, DialogState, Peer, Side};
use crate::header::{HeaderName, NameAddr};
use crate::method::Method;
use crate::parse::SyntaxError;
use crate::uri::{Uri, UriBuf};
use crate::write::{INITIAL_MAX_FORWARDS, RequestBuilder};

/// The dialog part of a request: all that RFC 3261 §12.2.1.1 prescribes. [`Originated::builder`] makes a message of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Originated {
    /// The method.
    pub method: Method,
    /// The Request-URI.
    pub request_uri: UriBuf,
    /// Where to send it: the first Route, or the Request-URI when there is none or the first hop is a strict router.
    pub next_hop: UriBuf,
    /// The Route values, top first.
    pub routes: Vec<Box<[u8]>>,
    /// From, tag included: the peer in whose name it is sent.
    pub from: Box<[u8]>,
    /// To, tag included: the peer it is sent to.
    pub to: Box<[u8]>,
    /// The Call-ID.
    pub call_id: Box<str>,
    /// The CSeq number.
    pub cseq: u32,
}

/// Why no request can be sent on a dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OriginateError {
    /// The dialog is over.
    #[error("dialog is terminated")]
    Terminated,
    /// A BYE towards the caller on an early dialog: the callee must not send one, refuse the INVITE instead
    /// (RFC 3261 §15).
    #[error("BYE to the caller is not allowed on an early dialog")]
    EarlyBye,
    /// ACK and CANCEL are not sent by sequence number: both belong to an INVITE.
    #[error("ACK and CANCEL are built from their INVITE")]
    NotARequestOfItsOwn,
    /// The peer gave no Contact.
    #[error("remote target is unknown")]
    NoTarget,
    /// The first hop of the route set makes no Request-URI.
    #[error("first route cannot be used as a Request-URI")]
    Route(#[source] SyntaxError),
}

impl Dialog {
    /// A request to `to`, in the name of the other peer, with that peer's next CSeq number. Requests the other peer sends
    /// later are passed on with higher numbers, see [`Dialog::request_passes`].
    ///
    /// The dialog does not end by sending BYE: it ends with the response ([`Dialog::response_passes`]) or by
    /// [`Dialog::terminate`].
    pub fn originate(&mut self, to: Side, method: Method) -> Result<Originated, OriginateError> {
        if matches!(method, Method::Ack | Method::Cancel) {
            return Err(OriginateError::NotARequestOfItsOwn);
        }
        match self.state {
            DialogState::Terminated => return Err(OriginateError::Terminated),
            DialogState::Early if method == Method::Bye && to == Side::Caller => return Err(OriginateError::EarlyBye),
            DialogState::Early | DialogState::Confirmed => {}
        }
        let peer = self.peer(to);
        let target = peer.target.as_ref().ok_or(OriginateError::NoTarget)?;
        let path = Path::new(peer, target).map_err(OriginateError::Route)?;
        let (from, to_address) = (self.peer(to.other()).address.clone(), peer.address.clone());
        let cseq = self.peer_mut(to.other()).cseq.originate();
        Ok(Originated {
            method,
            request_uri: path.request_uri,
            next_hop: path.next_hop,
            routes: path.routes,
            from,
            to: to_address,
            call_id: self.id.call_id.clone(),
            cseq,
        })
    }
}

impl Originated {
    /// A message with Via, Max-Forwards, Route, From, To, Call-ID and CSeq; the caller adds what else it has to say
    /// (Reason, Contact, body) and builds.
    pub fn builder(&self, via: impl fmt::Display) -> RequestBuilder {
        let mut builder = RequestBuilder::new(&self.method, self.request_uri.as_str())
            .header(HeaderName::Via, via)
            .header(HeaderName::MaxForwards, INITIAL_MAX_FORWARDS);
        for route in &self.routes {
            builder = builder.header_bytes(HeaderName::Route, route);
        }
        builder
            .header_bytes(HeaderName::From, &self.from)
            .header_bytes(HeaderName::To, &self.to)
            .header(HeaderName::CallId, &self.call_id)
            .header(HeaderName::CSeq, format_args!("{} {}", self.cseq, self.method))
    }
}

/// Request-URI and Route from route set and remote target (RFC 3261 §12.2.1.1).
struct Path {
    request_uri: UriBuf,
    next_hop: UriBuf,
    routes: Vec<Box<[u8]>>,
}

impl Path {
    fn new(peer: &Peer, target: &UriBuf) -> Result<Self, SyntaxError> {
        let Some((first, rest)) = peer.route_set.split_first() else {
            return Ok(Self {
                request_uri: target.clone(),
                next_hop: target.clone(),
                routes: Vec::new(),
            });
        };
        let first_uri = NameAddr::parse(first)?.uri();
        if first_uri.sip().is_some_and(|uri| uri.is_loose_router()) {
            let routes = peer.route_set.clone();
            return Ok(Self {
                request_uri: target.clone(),
                next_hop: first_uri.to_buf(),
                routes,
            });
        }
        let strict = as_request_uri(&first_uri)?;
        let mut routes = rest.to_vec();
        routes.push(format!("<{}>", target.as_str()).into_bytes().into());
        Ok(Self {
            request_uri: strict.clone(),
            next_hop: strict,
            routes,
        })
    }
}

/// A Route URI without what no Request-URI may hold: `method` and the headers part (RFC 3261 §19.1.1 table 1).
fn as_request_uri(uri: &Uri<'_>) -> Result<UriBuf, SyntaxError> {
    let text = uri.as_str();
    let text = text.split_once('?').map_or(text, |(before, _)| before);
    let mut parts = text.split(';');
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for param in parts.filter(|param| !is_method_param(param)) {
        clean.push(';');
        clean.push_str(param);
    }
    UriBuf::parse(&clean)
}

fn is_method_param(param: &str) -> bool {
    param
        .split('=')
        .next()
        .is_some_and(|name| name.eq_ignore_ascii_case("method"))
}
