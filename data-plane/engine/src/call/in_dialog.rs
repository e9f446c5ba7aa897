//! Requests within the dialog of a call, from either side (RFC 3261 §12.2, §16.4 to §16.6).

use std::sync::Arc;

use bytes::Bytes;
use trunkline_shared::call::EndReason;
use trunkline_shared::reject::Reject;
use trunkline_sip::dialog::{Dialog, Side};
use trunkline_sip::digest::Role;
use trunkline_sip::header::{HeaderName, NameAddr, RAck};
use trunkline_sip::message::Request;
use trunkline_sip::method::Method;
use trunkline_sip::status::StatusCode;
use trunkline_sip::uri::Uri;
use trunkline_sip::write::ViaStamp;

use super::end::Ending;
use super::launch::consumed_realm;
use super::{Call, CallKey, Deadline, Leg, PassedAck, leg_id};
use crate::auth::Verdict;
use crate::engine::{Cx, Engine};
use crate::forward::{Departure, Via, branch as new_branch, write_request};
use crate::inbound::{ClientUse, Inbound, Passed, SdpRole, ServerRole};
use crate::io::{Destination, Flow};
use crate::media::{Media, carries_sdp, refusal, sdp_of};
use crate::refuse::Refusal;
use crate::registrar::check_extensions;
use crate::routing::Kind;
use crate::token::Token;

/// The dialog a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub call: CallKey,
    pub branch: u32,
    pub dialog: usize,
    /// Which peer sent it.
    pub sender: Side,
}

/// How a request leaves for the next hop of its route (RFC 3261 §16.4, §16.6 steps 6 and 7).
struct Path {
    way: Destination,
    request_uri: Option<String>,
    pop_routes: usize,
    pop_last_route: bool,
    last_route: Option<String>,
}

impl Engine {
    /// The call a request with a To tag belongs to: the one its Route names, or, for phones that forget the route set, the
    /// one whose dialog has its tags.
    pub(crate) fn find_call(&self, inbound: &Inbound) -> Option<Found> {
        self.find_dialog(&inbound.request, &inbound.flow)
    }

    fn find_dialog(&self, request: &Request, flow: &Flow) -> Option<Found> {
        request.to_tag()?;
        let routed = self
            .routed_call(request)
            .and_then(|key| self.find_in(key, request, flow));
        routed.or_else(|| {
            let keys = self.calls_by_call_id.get(request.call_id())?;
            let mut found = keys.iter().filter_map(|key| self.find_in(*key, request, flow));
            let first = found.next()?;
            // A call that passes us twice has one dialog twice: the flow tells the two apart.
            let by_flow = std::iter::once(first)
                .chain(found)
                .find(|found| self.comes_from(*found, flow));
            Some(by_flow.unwrap_or(first))
        })
    }

    fn routed_call(&self, request: &Request) -> Option<CallKey> {
        let strict = request.uri();
        let first = request
            .addresses(HeaderName::Route)
            .next()
            .and_then(Result::ok)
            .map(|route| route.uri());
        [Some(strict), first]
            .into_iter()
            .flatten()
            .find_map(|uri| match self.tokens.read(uri.sip()?.user()?)? {
                Token::Call(key) => Some(key),
                Token::Flow(..) => None,
            })
    }

    /// The dialog of a call with the request's tags. Each peer speaks by the trunk of its leg: the tags alone, which every
    /// peer and every proxy on the way knows, do not make another trunk's peer a party to the call.
    fn find_in(&self, key: CallKey, request: &Request, flow: &Flow) -> Option<Found> {
        let call = self.calls.get(&key)?;
        call.branches.iter().zip(0..).find_map(|(branch, index)| {
            branch.dialogs.iter().enumerate().find_map(|(dialog, candidate)| {
                let sender = candidate.sender(request)?;
                let leg = call.leg(index, sender)?;
                (leg.trunk.id == flow.trunk).then_some(Found {
                    call: key,
                    branch: index,
                    dialog,
                    sender,
                })
            })
        })
    }

    fn comes_from(&self, found: Found, flow: &Flow) -> bool {
        let leg = self
            .calls
            .get(&found.call)
            .and_then(|call| call.leg(found.branch, found.sender));
        leg.is_some_and(|leg| leg.trunk.id == flow.trunk && leg.way.remote() == flow.remote)
    }

    pub(crate) fn pass_in_dialog(&mut self, cx: Cx<'_>, inbound: &Arc<Inbound>, found: Found) {
        let passed = self.with_call(found.call, |engine, call| {
            if let Err(refusal) = engine.pass_request(cx, call, inbound, found) {
                engine.refuse(cx, inbound, &refusal);
            }
        });
        if passed.is_none() {
            self.refuse(cx, inbound, &Reject::NoDialog.into());
        }
    }

    fn pass_request(
        &mut self,
        cx: Cx<'_>,
        call: &mut Call,
        inbound: &Arc<Inbound>,
        found: Found,
    ) -> Result<(), Refusal> {
        let method = inbound.request.method().clone();
        if call.is_ended() {
            return self.pass_after_end(cx, call, inbound, found);
        }
        if inbound.request.max_forwards() == Some(0) {
            return Err(Reject::TooManyHops.into());
        }
        check_extensions(&inbound.request, HeaderName::ProxyRequire, &[])?;
        self.check_sender(cx, call, inbound, found)?;
        self.note_sender(call, found, &inbound.flow);
        if matches!(method, Method::Refer | Method::Subscribe) {
            call.other_usages = true;
        }
        let body = self.request_sdp(cx, call, found, &inbound.request)?;
        let sdp = match &body {
            Some((role, _)) => *role,
            None => SdpRole::None,
        };
        let sent = self.send_on(cx, call, inbound, found, body.map(|(_, body)| body), sdp);
        if sent.is_err() && sdp == SdpRole::Offer {
            self.reject_offer(cx, call, found.branch);
        }
        sent
    }

    /// After the end only what the call left behind passes: the NOTIFYs of a transfer. A BYE that crossed ours is fine.
    fn pass_after_end(
        &mut self,
        cx: Cx<'_>,
        call: &mut Call,
        inbound: &Arc<Inbound>,
        found: Found,
    ) -> Result<(), Refusal> {
        match inbound.request.method() {
            Method::Bye => {
                self.reply(cx, inbound, StatusCode::OK);
                Ok(())
            }
            Method::Notify | Method::Refer | Method::Subscribe if call.other_usages => {
                self.send_on(cx, call, inbound, found, None, SdpRole::None)
            }
            _ => Err(Reject::NoDialog.into()),
        }
    }

    /// Row 39 within a dialog. An INVITE there is vouched for by the one that made the dialog as long as it comes from where
    /// that one did, and lines do not authenticate to us.
    fn check_sender(&mut self, cx: Cx<'_>, call: &Call, inbound: &Inbound, found: Found) -> Result<(), Refusal> {
        let is_phone = match found.sender {
            Side::Caller => !call.record.authenticated_user.is_empty(),
            Side::Callee => call
                .branch(found.branch)
                .is_some_and(|branch| matches!(branch.target.kind, Kind::Phone(_))),
        };
        let comes_from_leg = || {
            call.leg(found.branch, found.sender)
                .is_some_and(|leg| leg.is_reached_by(&inbound.flow))
        };
        if !is_phone || (*inbound.request.method() == Method::Invite && comes_from_leg()) {
            return Ok(());
        }
        match self.authenticate(cx, inbound, Role::Proxy) {
            Verdict::Accepted(_) => Ok(()),
            Verdict::Refused(refusal) => Err(*refusal),
        }
    }

    pub(super) fn note_sender(&self, call: &mut Call, found: Found, flow: &Flow) {
        let leg = match found.sender {
            Side::Caller => Some(&mut call.caller),
            Side::Callee => call
                .branches
                .get_mut(found.branch as usize)
                .and_then(|branch| branch.leg.as_mut()),
        };
        if let Some(leg) = leg {
            leg.seen_on(flow);
        }
    }

    /// The SDP of a request as the other leg gets it: the answer that is awaited, or a new offer.
    fn request_sdp(
        &mut self,
        cx: Cx<'_>,
        call: &mut Call,
        found: Found,
        request: &Request,
    ) -> Result<Option<(SdpRole, Bytes)>, Refusal> {
        if !carries_sdp(request.method()) {
            return Ok(None);
        }
        let part = sdp_of(request)?;
        let from = leg_id(found.sender);
        let Some(media) = call.branch_mut(found.branch).and_then(|branch| branch.media.as_mut()) else {
            return Ok(None);
        };
        let answers = media.session.awaits_answer_of() == Some(from);
        let is_ack = *request.method() == Method::Ack;
        let Some(part) = part else {
            if is_ack && answers {
                // The offer of the 2xx lapses; another one may be made (RFC 3261 §13.2.2.4 wants an answer here).
                media.reject_offer(cx.env);
            }
            return Ok(None);
        };
        if is_ack && !answers {
            // Nobody could answer an offer in an ACK (RFC 6337 §2): the peer gets the ACK without it.
            return Ok(Some((SdpRole::None, Bytes::new())));
        }
        let became = if answers {
            media.answer(cx.env, &mut *self.rng, from, part.sdp())
        } else {
            media.offer(cx.env, &mut *self.rng, from, part.sdp())
        };
        let became = became.map_err(|error| refusal(error, &media.legs))?;
        let became = part.replaced(became);
        if answers {
            self.apply_media(call, found.branch);
            self.record_media(call, None);
        }
        Ok(Some((if answers { SdpRole::Answer } else { SdpRole::Offer }, became)))
    }

    fn send_on(
        &mut self,
        cx: Cx<'_>,
        call: &mut Call,
        inbound: &Arc<Inbound>,
        found: Found,
        body: Option<Bytes>,
        sdp: SdpRole,
    ) -> Result<(), Refusal> {
        let method = inbound.request.method().clone();
        let Some(leg) = call.leg(found.branch, found.sender.other()).cloned() else {
            return Err(Reject::NoDialog.into());
        };
        let (bytes, via, way) = self.write_on(call, &inbound.request, inbound.stamp, found, &leg, body)?;
        let owner = ClientUse::InDialog(Box::new(Passed {
            call: call.key,
            branch: found.branch,
            requester: found.sender,
            inbound: Arc::clone(inbound),
            sdp,
            success: None,
        }));
        let client = self
            .send_request(cx, &method, &via.branch, bytes, way, owner)
            .map_err(|_| Reject::Overloaded)?;
        if method == Method::Invite {
            if let Some(entry) = self.servers.get_mut(&inbound.server) {
                entry.role = ServerRole::Passed(client);
            }
            self.send_trying(cx, inbound.server);
        }
        Ok(())
    }

    /// A request as it leaves for the other leg.
    fn write_on(
        &mut self,
        call: &mut Call,
        request: &Request,
        stamp: ViaStamp,
        found: Found,
        leg: &Leg,
        body: Option<Bytes>,
    ) -> Result<(Bytes, Via, Destination), Refusal> {
        let path = self.path(request, call, found, leg);
        let sender_trunk = call.leg(found.branch, found.sender).map(|leg| Arc::clone(&leg.trunk));
        let conversation = leg.trunk.conversation_header.then_some(call.id);
        let dialog = call
            .branch_mut(found.branch)
            .and_then(|branch| branch.dialogs.get_mut(found.dialog))
            .ok_or_else(|| Refusal::new(Reject::NoDialog))?;
        let passing = dialog.request_passes(found.sender, request);
        let rack = request
            .typed::<RAck>()
            .ok()
            .flatten()
            .map(|rack| rack_value(dialog, found.sender, &rack));
        let via = Via {
            transport: path.way.transport(),
            sent_by: leg.advertised,
            branch: new_branch(&mut *self.rng, 0),
        };
        let departure = Departure {
            request_uri: path.request_uri,
            pop_routes: path.pop_routes,
            pop_last_route: path.pop_last_route,
            last_route: path.last_route,
            body,
            // Out of order it is for the peer to refuse it (RFC 3261 §12.2.2).
            cseq: Some(passing.cseq),
            rack: rack.flatten(),
            conversation,
            consumed_realm: sender_trunk.as_deref().and_then(consumed_realm),
            ..Departure::default()
        };
        let bytes =
            write_request(request, stamp, &via, &departure).map_err(|_| Refusal::new(Reject::MessageTooLarge))?;
        Ok((bytes, via, path.way))
    }

    /// Next hop and route set of an in-dialog request: our own Route values go, the rest stays for those behind us.
    ///
    /// Where it is sent is what the receiver itself said, by its Contact and Record-Route, and not what the sender's Route or
    /// Request-URI says: or a peer of any call could make us send to any address.
    fn path(&self, request: &Request, call: &Call, found: Found, leg: &Leg) -> Path {
        let dialog = call
            .branch(found.branch)
            .and_then(|branch| branch.dialogs.get(found.dialog));
        let way = self.hop(
            leg,
            dialog
                .and_then(|dialog| next_hop(dialog, found.sender.other()))
                .as_ref(),
        );
        let routes: Vec<Uri<'_>> = request
            .addresses(HeaderName::Route)
            .map_while(Result::ok)
            .map(|address| address.uri())
            .collect();
        let own = routes.iter().take_while(|uri| self.is_own_route(uri)).count();
        let rest = &routes[own..];
        let is_own_request_uri = request
            .uri()
            .sip()
            .and_then(|uri| uri.user())
            .is_some_and(|user| self.tokens.read(user).is_some());
        if is_own_request_uri && let Some(last) = rest.last() {
            // Behind a strict router the Request-URI is our Record-Route and the target stands last (RFC 3261 §16.4).
            return Path {
                way,
                request_uri: Some(last.as_str().to_owned()),
                pop_routes: own,
                pop_last_route: true,
                last_route: None,
            };
        }
        match rest.first() {
            Some(next) if next.sip().is_some_and(|uri| !uri.is_loose_router()) => Path {
                way,
                request_uri: Some(next.as_str().to_owned()),
                pop_routes: own + 1,
                pop_last_route: false,
                last_route: Some(request.uri_text().to_owned()),
            },
            _ => Path {
                way,
                request_uri: None,
                pop_routes: own,
                pop_last_route: false,
                last_route: None,
            },
        }
    }

    /// An ACK for a 2xx: no transaction, straight on (RFC 3261 §13.2.2.4, §16.11).
    pub(crate) fn receive_ack(&mut self, cx: Cx<'_>, flow: &Flow, request: &Request, stamp: ViaStamp) {
        let Some(found) = self.find_dialog(request, flow) else {
            return;
        };
        self.with_call(found.call, |engine, call| {
            engine.pass_ack(cx, call, request, stamp, found)
        });
    }

    fn pass_ack(&mut self, cx: Cx<'_>, call: &mut Call, request: &Request, stamp: ViaStamp, found: Found) {
        let Some(branch) = call.branch(found.branch) else {
            return;
        };
        if let Some(known) = &branch.ack
            && (known.from, known.cseq) == (found.sender, request.cseq_number())
        {
            let known = known.clone();
            return self.transmit(cx, known.to, known.bytes);
        }
        let body = match self.request_sdp(cx, call, found, request) {
            Ok(body) => body.map(|(_, body)| body),
            Err(_) => {
                // The exchange cannot be completed and neither side can be told otherwise (RFC 3261 §13.2.2.4).
                self.acknowledge_bare(cx, call, found, request);
                let reason = "SIP;cause=488;text=\"Media negotiation failed\"";
                return self.release_both(cx, call, reason, Ending::released(EndReason::MediaFailed));
            }
        };
        let Some(leg) = call.leg(found.branch, found.sender.other()).cloned() else {
            return;
        };
        let Ok((bytes, _, to)) = self.write_on(call, request, stamp, found, &leg, body) else {
            return;
        };
        if found.sender == Side::Caller && request.cseq_number() == call.invite_cseq {
            self.acknowledged(cx, call, found.branch);
        }
        if let Some(branch) = call.branch_mut(found.branch) {
            if let Some(media) = branch.media.as_mut() {
                media.acknowledged();
            }
            let cseq = request.cseq_number();
            branch.ack = Some(PassedAck {
                from: found.sender,
                cseq,
                bytes: bytes.clone(),
                to: to.clone(),
            });
        }
        self.transmit(cx, to, bytes);
    }

    /// The caller has the 2xx. A call without media has nothing that would show that its peers are gone: it gets as long as
    /// one whose media is silent (row 31).
    fn acknowledged(&mut self, cx: Cx<'_>, call: &mut Call, branch: u32) {
        self.arm(call, Deadline::Ack, None);
        let has_media = call
            .branch(branch)
            .and_then(|branch| branch.media.as_ref())
            .is_some_and(Media::is_relayed);
        let legs = [Side::Caller, Side::Callee];
        let idle = legs
            .iter()
            .filter_map(|side| call.leg(branch, *side)?.trunk.idle_rtp(true))
            .min();
        if let Some(idle) = idle.filter(|_| !has_media && !call.is_ended()) {
            self.arm(call, Deadline::NoMedia, Some(cx.now.mono + idle));
        }
    }

    /// An ACK without a body, so that the 2xx is not repeated while the BYE is under way.
    fn acknowledge_bare(&mut self, cx: Cx<'_>, call: &mut Call, found: Found, request: &Request) {
        let Some(leg) = call.leg(found.branch, found.sender.other()).cloned() else {
            return;
        };
        let dialog = call
            .branch_mut(found.branch)
            .and_then(|branch| branch.dialogs.get_mut(found.dialog));
        if let Some(Ok(like)) = dialog.map(|dialog| dialog.originate(found.sender.other(), Method::Info)) {
            self.send_ack(cx, &leg, &like, request.cseq_number());
        }
    }
}

/// The first hop to a peer: the top of its route set, or its Contact (RFC 3261 §12.2.1.1).
fn next_hop<'a>(dialog: &'a Dialog, to: Side) -> Option<Uri<'a>> {
    match dialog.route_set(to).next() {
        Some(route) => NameAddr::parse(route).ok().map(|route| route.uri()),
        None => dialog.target(to),
    }
}

/// RAck names a CSeq of the sender itself, which may have another number on the far side (RFC 3262 §7.2).
fn rack_value(dialog: &Dialog, sender: Side, rack: &RAck) -> Option<String> {
    let cseq = dialog.forwarded_cseq(sender, rack.cseq);
    (cseq != rack.cseq).then(|| format!("{} {cseq} {}", rack.rseq, rack.method))
}
