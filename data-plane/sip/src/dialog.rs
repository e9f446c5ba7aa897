//! Dialogs (RFC 3261 §12) as a record-routing proxy sees them that can also end them (RFC 7092 §3.1.1, Proxy-B2BUA).
//!
//! The proxy stands between two peers, the [`Side::Caller`] that sent the INVITE and the [`Side::Callee`] that answered
//! it. Call-ID, tags and CSeq pass unchanged, so there is one dialog, seen from the middle: of each peer the proxy keeps
//! what the *other* peer would need to send it a request, the part of the route set that lies beyond the proxy, and the
//! sequence numbers. With that it can send a request to either peer in the name of the other ([`Dialog::originate`]).
//!
//! What it is not: a usage. Which calls exist, and what else lives on a dialog (subscriptions, transfers), is the
//! caller's business; [`Effect`] says what a response means for the INVITE usage.

use std::fmt;
use std::time::Instant;

use smallvec::SmallVec;
use thiserror::Error;

use crate::header::{Contact, HeaderError, HeaderName, NameAddr};
use crate::message::{Fields, Request, Response};
use crate::method::Method;
use crate::uri::{Uri, UriBuf};

mod cseq;
mod failure;
mod originate;
mod provisional;
mod session;

pub use cseq::Order;
pub use failure::{FailureScope, failure_scope};
pub use originate::{OriginateError, Originated};
pub use provisional::{ReliableProvisionals, Reliably};
pub use session::SessionTimer;

use cseq::CSeqMap;

/// Call-ID and both tags (RFC 3261 §12). The same value for messages of either direction: the tags are kept in order, so
/// local and remote need not be told apart to find the dialog.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialogId {
    call_id: Box<str>,
    tags: [Box<str>; 2],
}

/// One of the two peers of a dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The peer that sent the INVITE.
    Caller,
    /// The peer that answered it.
    Callee,
}

/// How far the dialog is (RFC 3261 §12.1, §15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialogState {
    /// A provisional response with a To tag came.
    Early,
    /// A 2xx came.
    Confirmed,
    /// It is over; nothing is sent on it any more.
    Terminated,
}

/// One dialog.
#[derive(Debug)]
pub struct Dialog {
    id: DialogId,
    state: DialogState,
    caller: Peer,
    callee: Peer,
    session: Option<SessionTimer>,
    refreshes: SmallVec<[PendingRefresh; 2]>,
}

/// What the other peer would send a request with, as far as it matters from here on.
#[derive(Debug)]
struct Peer {
    /// From of this peer's requests, To of requests to it, tag included.
    address: Box<[u8]>,
    tag: Box<str>,
    /// Its Contact; `None` when it gave none.
    target: Option<UriBuf>,
    /// Proxies between us and this peer, nearest first, as Route values.
    route_set: Vec<Box<[u8]>>,
    /// Its requests, as numbered by itself and as passed on.
    cseq: CSeqMap,
}

/// A target refresh request that has no final response yet.
#[derive(Debug)]
struct PendingRefresh {
    requester: Side,
    /// CSeq number as passed on.
    cseq: u32,
    target: UriBuf,
}

/// Refreshes on their way that are remembered. A peer has one re-INVITE and one UPDATE at most (RFC 3261 §14.1,
/// RFC 3311 §5.1); what goes beyond is forgotten, oldest first.
const PENDING_REFRESHES: usize = 4;

/// A request that passes within the dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passing {
    /// How its CSeq number stands to those before.
    pub order: Order,
    /// The CSeq number to pass it on with. Differs from its own after [`Dialog::originate`].
    pub cseq: u32,
}

/// What a response does to the dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Goes on.
    Continues,
    /// This response confirmed an early dialog.
    Confirmed,
    /// Over for both peers: nothing has to be sent.
    Terminated,
    /// One peer has lost the call or cannot be reached, and the other may not know (RFC 3261 §12.2.1.2, RFC 5057 §5.1):
    /// send BYE where it may help, then [`Dialog::terminate`]. The state is left alone until then.
    Failed,
}

/// Why no dialog can be made from an INVITE and its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EstablishError {
    /// A 100, or a response above 299.
    #[error("response does not establish a dialog")]
    NotEstablishing,
    /// No tag in From or To (RFC 3261 §12.1).
    #[error("{0} has no tag")]
    NoTag(HeaderName),
    /// Contact or Record-Route cannot be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

impl DialogId {
    /// From Call-ID and the two tags, in any order. Compared byte by byte (RFC 3261 §8.1.1.4, §19.3).
    #[must_use]
    pub fn new(call_id: &str, one_tag: &str, other_tag: &str) -> Self {
        let tags = if one_tag <= other_tag {
            [one_tag, other_tag]
        } else {
            [other_tag, one_tag]
        };
        Self {
            call_id: call_id.into(),
            tags: tags.map(Into::into),
        }
    }

    /// The dialog a message belongs to; `None` when a tag is missing, which is what a request outside of any dialog
    /// looks like.
    #[must_use]
    pub fn of(message: &Fields) -> Option<Self> {
        Some(Self::new(message.call_id(), message.from_tag()?, message.to_tag()?))
    }

    /// The Call-ID.
    #[must_use]
    pub fn call_id(&self) -> &str {
        &self.call_id
    }
}

impl fmt::Debug for DialogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{};{}", self.call_id, self.tags[0], self.tags[1])
    }
}

impl Side {
    /// The peer on the other side.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

impl Dialog {
    /// A dialog from the INVITE as it came from the caller and a 101-299 as it came from the callee.
    ///
    /// `is_ours` recognises our own Record-Route values: what stands above them in the response lies between us and the
    /// callee, and what stood in the INVITE on arrival lies between the caller and us (RFC 3261 §12.1, §16.6 item 4).
    pub fn establish(
        now: Instant,
        invite: &Request,
        response: &Response,
        is_ours: impl Fn(&Uri<'_>) -> bool,
    ) -> Result<Self, EstablishError> {
        let state = match response.status().as_u16() {
            101..=199 => DialogState::Early,
            200..=299 => DialogState::Confirmed,
            _ => return Err(EstablishError::NotEstablishing),
        };
        let caller_tag = invite.from_tag().ok_or(EstablishError::NoTag(HeaderName::From))?;
        let callee_tag = response.to_tag().ok_or(EstablishError::NoTag(HeaderName::To))?;
        let call_id = invite.call_id();
        let mut caller_cseq = CSeqMap::default();
        caller_cseq.observe(&Method::Invite, invite.cseq_number());
        Ok(Self {
            id: DialogId::new(call_id, caller_tag, callee_tag),
            state,
            caller: Peer {
                address: invite.line(HeaderName::From).unwrap_or_default().into(),
                tag: caller_tag.into(),
                target: contact(invite)?,
                route_set: checked_routes(invite)?
                    .into_iter()
                    .map(|(value, _)| value.into())
                    .collect(),
                cseq: caller_cseq,
            },
            callee: Peer {
                address: response.line(HeaderName::To).unwrap_or_default().into(),
                tag: callee_tag.into(),
                target: contact(response)?,
                route_set: callee_route_set(response, is_ours)?,
                cseq: CSeqMap::default(),
            },
            session: if state == DialogState::Confirmed {
                SessionTimer::observe(now, Side::Caller, response)
            } else {
                None
            },
            refreshes: SmallVec::new(),
        })
    }

    /// The key to find this dialog by.
    #[must_use]
    pub fn id(&self) -> &DialogId {
        &self.id
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> DialogState {
        self.state
    }

    /// The tag of one peer.
    #[must_use]
    pub fn tag(&self, side: Side) -> &str {
        &self.peer(side).tag
    }

    /// The remote target of one peer: its last accepted Contact (RFC 3261 §12.2.1.1).
    #[must_use]
    pub fn target(&self, side: Side) -> Option<Uri<'_>> {
        self.peer(side).target.as_ref().map(UriBuf::as_uri)
    }

    /// The Route values between us and one peer, nearest first.
    pub fn route_set(&self, side: Side) -> impl Iterator<Item = &[u8]> {
        self.peer(side).route_set.iter().map(|value| &**value)
    }

    /// The session timer the peers agreed on, if they did (RFC 4028).
    #[must_use]
    pub fn session(&self) -> Option<&SessionTimer> {
        self.session.as_ref()
    }

    /// Which peer sent this request; `None` when it does not belong to this dialog.
    #[must_use]
    pub fn sender(&self, request: &Request) -> Option<Side> {
        let (from, to) = (request.from_tag()?, request.to_tag()?);
        let is = |side: Side| self.tag(side) == from && self.tag(side.other()) == to;
        if request.call_id() != self.id.call_id() {
            return None;
        }
        [Side::Caller, Side::Callee].into_iter().find(|side| is(*side))
    }

    /// A 2xx to the INVITE that made this dialog: the route set and the target of the callee are computed again
    /// (RFC 3261 §13.2.2.4). Later 2xx of the same INVITE change nothing.
    pub fn confirm(
        &mut self,
        now: Instant,
        response: &Response,
        is_ours: impl Fn(&Uri<'_>) -> bool,
    ) -> Result<Effect, EstablishError> {
        if self.state != DialogState::Early {
            return Ok(Effect::Continues);
        }
        if !response.status().is_success() {
            return Err(EstablishError::NotEstablishing);
        }
        let (target, route_set) = (contact(response)?, callee_route_set(response, is_ours)?);
        self.callee.route_set = route_set;
        self.callee.target = target.or(self.callee.target.take());
        self.session = SessionTimer::observe(now, Side::Caller, response);
        self.state = DialogState::Confirmed;
        Ok(Effect::Confirmed)
    }

    /// A request of `sender` passes: records its CSeq number and, for a target refresh request, its Contact, which
    /// counts once a 2xx comes back.
    pub fn request_passes(&mut self, sender: Side, request: &Request) -> Passing {
        let cseq = &mut self.peer_mut(sender).cseq;
        let order = cseq.observe(request.method(), request.cseq_number());
        let cseq = cseq.forward(request.cseq_number());
        if order == Order::New
            && refreshes_target(request.method())
            && let Ok(Some(target)) = contact(request)
        {
            if self.refreshes.len() == PENDING_REFRESHES {
                self.refreshes.remove(0);
            }
            self.refreshes.push(PendingRefresh {
                requester: sender,
                cseq,
                target,
            });
        }
        Passing { order, cseq }
    }

    /// A response, as received, to a request of `requester` (its own, or one originated in its name) that is not the
    /// INVITE the dialog began with: refreshes targets and the session timer, and says what becomes of the dialog.
    pub fn response_passes(&mut self, now: Instant, requester: Side, response: &Response) -> Effect {
        let (method, status) = (response.cseq_method(), response.status());
        if self.state == DialogState::Terminated || !status.is_final() {
            return Effect::Continues;
        }
        if status.is_success() {
            self.commit_refresh(requester, response);
            if matches!(method, Method::Invite | Method::Update) {
                self.session = SessionTimer::observe(now, requester, response);
            }
        } else {
            self.take_refresh(requester, response.cseq_number());
        }
        let effect = failure::effect(method, status);
        if effect == Effect::Terminated {
            self.state = DialogState::Terminated;
        }
        effect
    }

    /// The CSeq number a response to a passed request goes back with; `None` when the request was originated here, and
    /// the response ends here. Also the number to look up for the CSeq in a RAck that passes (RFC 3262 §7.2).
    #[must_use]
    pub fn returned_cseq(&self, requester: Side, cseq: u32) -> Option<u32> {
        self.peer(requester).cseq.restore(cseq)
    }

    /// The CSeq number under which the peer of `requester` knows a request of `requester`: for the CSeq in a RAck.
    #[must_use]
    pub fn forwarded_cseq(&self, requester: Side, cseq: u32) -> u32 {
        self.peer(requester).cseq.forward(cseq)
    }

    /// Ends the dialog here; [`Dialog::originate`] refuses from now on, so send BYE first.
    pub fn terminate(&mut self) {
        self.state = DialogState::Terminated;
    }

    fn peer(&self, side: Side) -> &Peer {
        match side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        }
    }

    fn peer_mut(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    /// RFC 3261 §12.2.1.2, §12.2.2: the Contact of the request becomes the target of its sender, the Contact of the 2xx
    /// that of the other peer.
    fn commit_refresh(&mut self, requester: Side, response: &Response) {
        if !refreshes_target(response.cseq_method()) {
            return;
        }
        if let Some(target) = self.take_refresh(requester, response.cseq_number()) {
            self.peer_mut(requester).target = Some(target);
        }
        if let Ok(Some(target)) = contact(response) {
            self.peer_mut(requester.other()).target = Some(target);
        }
    }

    fn take_refresh(&mut self, requester: Side, cseq: u32) -> Option<UriBuf> {
        let matches = |refresh: &PendingRefresh| refresh.requester == requester && refresh.cseq == cseq;
        let position = self.refreshes.iter().position(matches)?;
        Some(self.refreshes.remove(position).target)
    }
}

/// Target refresh requests that move the INVITE usage: re-INVITE and UPDATE (RFC 3261 §12.2, RFC 3311 §5.1). SUBSCRIBE,
/// NOTIFY and REFER refresh the target as well (RFC 6665 §4.4.1, RFC 3515 §2.4).
fn refreshes_target(method: &Method) -> bool {
    matches!(
        method,
        Method::Invite | Method::Update | Method::Subscribe | Method::Notify | Method::Refer
    )
}

/// The first Contact; `None` when there is none or it is `*`.
fn contact(message: &Fields) -> Result<Option<UriBuf>, HeaderError> {
    let first = message.contacts().next().transpose()?;
    Ok(first
        .as_ref()
        .and_then(Contact::address)
        .map(|address| address.uri().to_buf()))
}

/// Record-Route values with their addresses, top first.
fn checked_routes(message: &Fields) -> Result<Vec<(&[u8], NameAddr<'_>)>, HeaderError> {
    let addresses = message.addresses(HeaderName::RecordRoute);
    message
        .values(HeaderName::RecordRoute)
        .zip(addresses)
        .map(|(value, address)| Ok((value, address?)))
        .collect()
}

/// The Record-Route values above ours, nearest to us first. Without any of ours the callee broke RFC 3261 §12.1.1, and
/// its Contact is the best there is.
fn callee_route_set(response: &Response, is_ours: impl Fn(&Uri<'_>) -> bool) -> Result<Vec<Box<[u8]>>, HeaderError> {
    let routes = checked_routes(response)?;
    let ours = routes.iter().position(|(_, address)| is_ours(&address.uri()));
    let beyond = &routes[..ours.unwrap_or(0)];
    Ok(beyond.iter().rev().map(|(value, _)| (*value).into()).collect())
}

#[cfg(test)]
mod tests;
