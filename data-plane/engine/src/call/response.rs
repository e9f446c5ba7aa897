//! Responses to requests within a call, and what they mean for it (RFC 3261 §12.2.1.2, §16.7).

use std::sync::Arc;

use bytes::Bytes;
use trunkline_shared::call::EndReason;
use trunkline_shared::reject::Reject;
use trunkline_sip::dialog::{Effect, Side};
use trunkline_sip::message::Response;
use trunkline_sip::method::Method;
use trunkline_sip::status::StatusCode;
use trunkline_sip::transaction::ClientTransactionId;

use super::end::Ending;
use super::in_dialog::Found;
use super::{Branch, Call, Deadline, Stage, leg_id};
use crate::engine::{Cx, Engine};
use crate::forward::{Return, write_response};
use crate::inbound::{ClientUse, Inbound, SdpRole};
use crate::io::Flow;
use crate::media::{carries_sdp, refusal, sdp_of};
use crate::refuse::Refusal;

impl Engine {
    pub(crate) fn in_dialog_response(
        &mut self,
        cx: Cx<'_>,
        client: ClientTransactionId,
        flow: &Flow,
        response: &Response,
    ) {
        let Some(ClientUse::InDialog(passed)) = self.clients.get(&client).map(|entry| &entry.owner) else {
            return;
        };
        let (key, server) = (passed.call, passed.inbound.server);
        if let Some(bytes) = passed.success.clone().filter(|_| response.status().is_success()) {
            return self.respond(cx, server, response.status(), bytes);
        }
        if response.status() == StatusCode::TRYING {
            return;
        }
        let known = self.with_call(key, |engine, call| {
            engine.pass_response(cx, call, client, flow, response)
        });
        if known.is_none() {
            // The call is gone; the answer to its last request still goes where it belongs.
            if let Ok(bytes) = write_response(response, &Return::default()) {
                self.respond(cx, server, response.status(), bytes);
            }
        }
    }

    fn pass_response(
        &mut self,
        cx: Cx<'_>,
        call: &mut Call,
        client: ClientTransactionId,
        flow: &Flow,
        response: &Response,
    ) {
        let Some(ClientUse::InDialog(passed)) = self.clients.get(&client).map(|entry| &entry.owner) else {
            return;
        };
        let (branch, requester, sdp) = (passed.branch, passed.requester, passed.sdp);
        let inbound = Arc::clone(&passed.inbound);
        let tag = if requester == Side::Caller {
            response.to_tag()
        } else {
            response.from_tag()
        }
        .unwrap_or_default();
        let Some(index) = call.branch(branch).and_then(|branch| dialog_index(branch, tag)) else {
            if let Ok(bytes) = write_response(response, &Return::default()) {
                self.respond(cx, inbound.server, response.status(), bytes);
            }
            return;
        };
        let found = Found {
            call: call.key,
            branch,
            dialog: index,
            sender: requester.other(),
        };
        self.note_sender(call, found, flow);
        let body = match self.response_sdp(cx, call, found, sdp, response) {
            Ok(body) => body,
            Err(refusal) => return self.fail_exchange(cx, call, &inbound, found, response, &refusal),
        };
        let dialog = &mut call.branches[branch as usize].dialogs[index];
        let effect = dialog.response_passes(cx.now.mono, requester, response);
        let cseq = dialog.returned_cseq(requester, response.cseq_number());
        let session = dialog.session().map(|session| session.expires_at());
        let refreshes = matches!(response.cseq_method(), Method::Invite | Method::Update);
        if refreshes && response.status().is_success() && !call.is_ended() {
            self.arm(call, Deadline::Session, session);
        }
        let leg = call.leg(branch, requester);
        let is_invite = *response.cseq_method() == Method::Invite;
        let wants_id = is_invite && (!response.status().is_final() || response.status().is_success());
        let conversation = wants_id && leg.is_some_and(|leg| leg.trunk.conversation_header);
        let back = Return {
            body,
            cseq,
            conversation: conversation.then_some(call.id),
            ..Return::default()
        };
        match write_response(response, &back) {
            Ok(bytes) => {
                if response.status().is_success()
                    && is_invite
                    && let Some(ClientUse::InDialog(passed)) =
                        self.clients.get_mut(&client).map(|entry| &mut entry.owner)
                {
                    passed.success = Some(bytes.clone());
                }
                self.respond(cx, inbound.server, response.status(), bytes);
            }
            Err(_) => self.reply(cx, &inbound, StatusCode::SERVER_INTERNAL_ERROR),
        }
        self.take_effect(cx, call, branch, effect, requester);
    }

    /// What a response means for the call as a whole. The early dialogs of branches that lost out mean nothing to it.
    fn take_effect(&mut self, cx: Cx<'_>, call: &mut Call, branch: u32, effect: Effect, requester: Side) {
        // Before the answer, and after the end, the INVITE itself says what becomes of the call.
        if call.stage != Stage::Answered(branch) {
            return;
        }
        match effect {
            Effect::Continues | Effect::Confirmed => {}
            Effect::Terminated => {
                let reason = match requester {
                    Side::Caller => EndReason::CallerBye,
                    Side::Callee => EndReason::CalleeBye,
                };
                self.end_call(cx, call, Ending::released(reason));
            }
            // The one that was asked has lost the call; the one that asked may not know what that means
            // (RFC 3261 §12.2.1.2), so both are told.
            Effect::Failed => {
                let reason = "SIP;cause=481;text=\"Call lost\"";
                self.release_both(cx, call, reason, Ending::released(EndReason::TargetRefused));
            }
        }
    }

    /// The SDP of a response as the requester gets it; a failure takes the offer back.
    fn response_sdp(
        &mut self,
        cx: Cx<'_>,
        call: &mut Call,
        found: Found,
        sdp: SdpRole,
        response: &Response,
    ) -> Result<Option<Bytes>, Refusal> {
        let status = response.status();
        if !carries_sdp(response.cseq_method()) {
            return Ok(None);
        }
        if !status.is_provisional() && !status.is_success() {
            if sdp == SdpRole::Offer {
                self.reject_offer(cx, call, found.branch);
            }
            return Ok(None);
        }
        let Some(part) = sdp_of(response)? else {
            if status.is_success() && sdp == SdpRole::Offer {
                self.reject_unanswered(cx, call, found);
            }
            return Ok(None);
        };
        let Some(media) = call.branch_mut(found.branch).and_then(|branch| branch.media.as_mut()) else {
            return Ok(None);
        };
        let offered = sdp == SdpRole::Offer;
        let became = media
            .in_response(cx.env, &mut *self.rng, leg_id(found.sender), offered, part.sdp())
            .map_err(|error| refusal(error, &media.legs))?;
        let became = part.replaced(became);
        if offered {
            self.apply_media(call, found.branch);
            self.record_media(call, None);
        }
        Ok(Some(became))
    }

    /// A 2xx without SDP leaves an offer open for good only if nothing answered it before.
    fn reject_unanswered(&mut self, cx: Cx<'_>, call: &mut Call, found: Found) {
        let awaited = call
            .branch(found.branch)
            .and_then(|branch| branch.media.as_ref())
            .and_then(|media| media.session.awaits_answer_of());
        if awaited == Some(leg_id(found.sender)) {
            self.reject_offer(cx, call, found.branch);
        }
    }

    pub(super) fn reject_offer(&mut self, cx: Cx<'_>, call: &mut Call, branch: u32) {
        if let Some(media) = call.branch_mut(branch).and_then(|branch| branch.media.as_mut()) {
            media.reject_offer(cx.env);
        }
    }

    /// A 2xx whose SDP cannot be used: the far side believes the exchange complete, so the call cannot go on.
    fn fail_exchange(
        &mut self,
        cx: Cx<'_>,
        call: &mut Call,
        inbound: &Arc<Inbound>,
        found: Found,
        response: &Response,
        refusal: &Refusal,
    ) {
        if !response.status().is_final() {
            return;
        }
        self.reject_offer(cx, call, found.branch);
        self.refuse(cx, inbound, refusal);
        if *response.cseq_method() == Method::Invite {
            let leg = call.leg(found.branch, found.sender).cloned();
            let dialog = call.branches[found.branch as usize].dialogs.get_mut(found.dialog);
            let like = dialog.map(|dialog| dialog.originate(found.sender, Method::Info));
            if let (Some(leg), Some(Ok(like))) = (leg, like) {
                self.send_ack(cx, &leg, &like, response.cseq_number());
            }
        }
        let reason = "SIP;cause=488;text=\"Media negotiation failed\"";
        self.release_both(cx, call, reason, Ending::released(EndReason::MediaFailed));
    }

    /// No response to a request that was passed on (RFC 3261 §12.2.1.2, RFC 4320 §4.2).
    pub(crate) fn in_dialog_failed(&mut self, cx: Cx<'_>, client: ClientTransactionId, reject: Reject) {
        let Some(ClientUse::InDialog(passed)) = self.clients.get(&client).map(|entry| &entry.owner) else {
            return;
        };
        let (key, branch, sdp, requester) = (passed.call, passed.branch, passed.sdp, passed.requester);
        let inbound = Arc::clone(&passed.inbound);
        let method = inbound.request.method().clone();
        self.with_call(key, |engine, call| {
            if sdp == SdpRole::Offer {
                engine.reject_offer(cx, call, branch);
            }
            if method == Method::Bye {
                engine.take_effect(cx, call, branch, Effect::Terminated, requester);
            }
        });
        match (method, reject) {
            // A late 408 helps nobody: the client of a non-INVITE has given up by now.
            (Method::Bye, _) => self.reply(cx, &inbound, StatusCode::OK),
            (Method::Invite, _) => self.refuse(cx, &inbound, &reject.into()),
            (_, Reject::TargetTimeout) => {}
            (_, _) => self.refuse(cx, &inbound, &reject.into()),
        }
    }
}

/// Index of the dialog with this tag of the callee, or, for requests of the callee, of the same dialog by the same tag.
fn dialog_index(branch: &Branch, callee_tag: &str) -> Option<usize> {
    branch
        .dialogs
        .iter()
        .position(|dialog| dialog.tag(Side::Callee) == callee_tag)
}
