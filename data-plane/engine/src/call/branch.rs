//! Branches at work: responses, failures, cancellation (RFC 3261 §16.7 to §16.10).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use trunkline_media::relay::LegId;
use trunkline_shared::call::{AttemptDecision, CallState};
use trunkline_shared::reject::Reject;
use trunkline_sip::dialog::{Dialog, Originated, SessionTimer, Side};
use trunkline_sip::header::HeaderName;
use trunkline_sip::message::Response;
use trunkline_sip::method::Method;
use trunkline_sip::status::StatusCode;
use trunkline_sip::timer::TimerConfig;
use trunkline_sip::transaction::{Cancel, ClientTransactionId};
use trunkline_sip::write::cancel_for;

use super::launch::{line_way, local_failure};
use super::{BranchState, Call, CallKey, Deadline, Failure, FailureKind, Leg, MAX_DIALOGS, Stage};
use crate::engine::{Cx, Engine};
use crate::forward::{Return, Via, branch as new_branch, write_response};
use crate::inbound::{ClientUse, parse_own_request};
use crate::io::{Effect, Flow, RelayCommand};
use crate::media::{refusal, sdp_of};
use crate::metrics::Counter;
use crate::refuse::Refusal;
use crate::routing::{leads_to_next, rank};

/// Reason of a CANCEL when another branch answered (RFC 3326 §3.1).
const ANSWERED_ELSEWHERE: &str = "SIP;cause=200;text=\"Call completed elsewhere\"";

impl Engine {
    /// A response to the INVITE of a branch.
    pub(crate) fn branch_response(&mut self, cx: Cx<'_>, key: CallKey, index: u32, flow: &Flow, response: &Response) {
        self.with_call(key, |engine, call| {
            if let Some(leg) = call.branch_mut(index).and_then(|branch| branch.leg.as_mut()) {
                leg.seen_on(flow);
            }
            let status = response.status();
            if status == StatusCode::TRYING {
                return;
            }
            if status.is_provisional() {
                engine.branch_provisional(cx, call, index, response);
            } else if status.is_success() {
                engine.branch_success(cx, call, index, response);
            } else {
                engine.branch_refused(cx, call, index, response);
            }
        });
    }

    fn branch_provisional(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, response: &Response) {
        let is_calling = call
            .branch(index)
            .is_some_and(|branch| matches!(branch.state, BranchState::Calling(_)));
        if call.stage != Stage::Trying || !is_calling {
            return;
        }
        self.note_dialog(cx, call, index, response);
        let body = match self.branch_sdp(cx, call, index, response) {
            Ok(body) => body,
            Err(refusal) => {
                let failure = local_failure(&call.branches[index as usize].target.trunk, refusal);
                self.abandon_branch(cx, call, index, failure);
                return self.after_failure(cx, call);
            }
        };
        let back = Return {
            body,
            conversation: conversation_for_caller(call),
            ..Return::default()
        };
        let Ok(bytes) = write_response(response, &back) else {
            return;
        };
        self.respond(cx, call.server, response.status(), bytes);
        if call.record.ring_time.is_none() {
            call.record.ring_time = Some(cx.now.wall);
            call.record.state = CallState::Ringing;
            self.report_call(call);
        }
    }

    /// The transaction of its INVITE is over: no response to it comes any more, and what was kept to be repeated goes.
    pub(crate) fn branch_settled(&mut self, key: CallKey, index: u32) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let cseq = call.invite_cseq;
        // One that forked keeps it: a late 2xx of another branch is still to be acknowledged.
        if matches!(call.stage, Stage::Answered(_)) && call.branches.len() == 1 {
            call.invite = None;
        }
        if let Some(branch) = call.branch_mut(index) {
            branch.success = None;
            if branch.ack.as_ref().is_some_and(|ack| ack.cseq == cseq) {
                branch.ack = None;
            }
        }
    }

    fn branch_success(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, response: &Response) {
        let Some(branch) = call.branch(index) else { return };
        let tag = response.to_tag().unwrap_or_default();
        match (branch.state, call.stage) {
            (BranchState::Calling(client), Stage::Trying) => self.answer(cx, call, index, client, response),
            (BranchState::Answered(_), _) if branch.dialogs.iter().any(|dialog| dialog.tag(Side::Callee) == tag) => {
                // The callee has no ACK yet: pass the 2xx on again (RFC 6026 §7.1).
                let (server, bytes) = (call.server, branch.success.clone());
                if let Some(bytes) = bytes.filter(|_| !call.is_ended()) {
                    self.respond(cx, server, response.status(), bytes);
                }
            }
            // Another fork, a branch that was cancelled or given up: nobody wants this answer.
            _ => self.decline_answer(cx, call, index, response),
        }
    }

    fn answer(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, client: ClientTransactionId, response: &Response) {
        let trunk = Arc::clone(&call.branches[index as usize].target.trunk);
        if !self.confirm_dialog(cx, call, index, response) {
            // No tag or no readable Contact: no ACK and no BYE can be built for it.
            self.fail_branch(cx, call, index, local_failure(&trunk, Reject::Internal.into()));
            return self.after_failure(cx, call);
        }
        let body = match self.branch_sdp(cx, call, index, response) {
            Ok(body) => body,
            Err(refusal) => {
                self.decline_answer(cx, call, index, response);
                self.fail_branch(cx, call, index, local_failure(&trunk, refusal));
                return self.after_failure(cx, call);
            }
        };
        let back = Return {
            body,
            conversation: conversation_for_caller(call),
            ..Return::default()
        };
        let Ok(bytes) = write_response(response, &back) else {
            self.decline_answer(cx, call, index, response);
            self.fail_branch(cx, call, index, local_failure(&trunk, Reject::MessageTooLarge.into()));
            return self.after_failure(cx, call);
        };
        self.keep_only(cx, call, index, response.to_tag().unwrap_or_default());
        call.stage = Stage::Answered(index);
        let branch = &mut call.branches[index as usize];
        branch.state = BranchState::Answered(client);
        branch.success = Some(bytes.clone());
        branch.offer = None;
        let attempt = branch.attempt;
        if let Some(media) = branch.media.as_mut() {
            media.session.supervise();
        }
        self.apply_media(call, index);
        self.arm(call, Deadline::Dial(index), None);
        self.arm(call, Deadline::Ack, Some(cx.now.mono + ack_wait(&self.config.timers)));
        let session = SessionTimer::observe(cx.now.mono, Side::Caller, response);
        self.arm(call, Deadline::Session, session.map(|session| session.expires_at()));
        let record = &mut call.record;
        record.attempts[attempt].sip_status = response.status().as_u16();
        record.attempts[attempt].decision = Some(AttemptDecision::Answered);
        record.answer_time = Some(cx.now.wall);
        record.state = CallState::Answered;
        record.outbound_trunk = Some(trunk.id.clone());
        self.close_trunks_but(cx, call, &trunk);
        self.record_media(call, None);
        cx.env.count(Counter::CallsAnswered);
        self.respond(cx, call.server, response.status(), bytes);
        self.report_call(call);
    }

    /// Cancels every other branch and forgets every other dialog.
    fn keep_only(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, tag: &str) {
        call.groups = VecDeque::new();
        call.best = None;
        call.branches[index as usize]
            .dialogs
            .retain(|dialog| dialog.tag(Side::Callee) == tag);
        for other in 0..call.branches.len() as u32 {
            if other != index {
                self.cancel_branch(cx, call, other, ANSWERED_ELSEWHERE);
            }
        }
    }

    fn branch_refused(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, response: &Response) {
        let status = response.status().as_u16();
        // RFC 3263 §4.3: a 503 is a failure of this server, not of the call.
        if status == 503 && self.try_next_address(cx, call, index) {
            return;
        }
        let failure = Failure {
            status,
            cause: response.q850_cause(),
            trunk: branch_trunk(call, index),
            what: FailureKind::Response(Box::new(response.clone())),
        };
        self.fail_branch(cx, call, index, failure);
        self.after_failure(cx, call);
    }

    /// No response, or no way to the target.
    pub(crate) fn branch_unreachable(&mut self, cx: Cx<'_>, key: CallKey, index: u32, reject: Reject) {
        self.with_call(key, |engine, call| {
            if call.branch(index).is_none() || engine.try_next_address(cx, call, index) {
                return;
            }
            let trunk = branch_trunk(call, index);
            engine.fail_branch(cx, call, index, local_failure(&trunk, reject.into()));
            engine.after_failure(cx, call);
        });
    }

    /// The next address the name of a line gave, if there is one and the branch is still wanted.
    fn try_next_address(&mut self, cx: Cx<'_>, call: &mut Call, index: u32) -> bool {
        let is_trying = call.stage == Stage::Trying;
        let Some(branch) = call.branch_mut(index) else {
            return false;
        };
        if !is_trying || !matches!(branch.state, BranchState::Calling(_)) {
            return false;
        }
        let Some(address) = branch.addresses.pop_front() else {
            return false;
        };
        let way = line_way(&branch.target, address);
        branch.dialogs.clear();
        self.launch(cx, call, index, way);
        self.after_failure(cx, call);
        true
    }

    /// Row 15: the target had its time. The caller is told 408 unless the lists ask for the next target.
    pub(crate) fn dial_timed_out(&mut self, cx: Cx<'_>, call: &mut Call, index: u32) {
        if call.branch(index).is_none_or(|branch| !branch.is_live()) || call.stage != Stage::Trying {
            return;
        }
        let trunk = branch_trunk(call, index);
        let seconds = trunk.max_dial_timeout.as_secs();
        let by = crate::inbound::decided(&trunk.id, "max_dial_timeout", format_args!("{seconds}s"));
        let failure = local_failure(&trunk, Refusal::new(Reject::DialTimeout).by(by));
        self.abandon_branch(cx, call, index, failure);
        self.after_failure(cx, call);
    }

    /// A branch has its final failure.
    pub(crate) fn fail_branch(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, failure: Failure) {
        self.arm(call, Deadline::Dial(index), None);
        self.close_branch_media(cx, call, index);
        let branch = &mut call.branches[index as usize];
        branch.state = BranchState::Done;
        branch.dialogs.clear();
        self.note_failure(cx, call, index, failure);
    }

    /// Gives a branch up that may still ring: it counts as failed, and stays until its final response.
    fn abandon_branch(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, failure: Failure) {
        let reason = reason_of(&failure);
        self.note_failure(cx, call, index, failure);
        self.cancel_branch(cx, call, index, &reason);
    }

    /// What became of a branch, for the record and for what is passed up.
    fn note_failure(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, failure: Failure) {
        let attempt = &mut call.record.attempts[call.branches[index as usize].attempt];
        if attempt.sip_status == 0 {
            (attempt.sip_status, attempt.q850_cause) = (failure.status, failure.cause);
        }
        // What comes of a branch that was cancelled was decided when it was cancelled.
        if call.stage != Stage::Trying || attempt.decision.is_some() {
            return;
        }
        let ends_search = failure.status >= 600 && !failure.trunk.retryable_reasons.contains(failure.status);
        let better = |known: &Option<Failure>| {
            known
                .as_ref()
                .is_none_or(|known| rank(failure.status) < rank(known.status))
        };
        if better(&call.best) {
            call.best = Some(failure.clone());
        }
        if better(&call.group_best) {
            call.group_best = Some(failure.clone());
        }
        if ends_search {
            // RFC 3261 §16.7 step 5: the others are cancelled and no more are tried.
            call.groups.clear();
            for other in (0..call.branches.len() as u32).filter(|other| *other != index) {
                self.cancel_branch(cx, call, other, &reason_of(&failure));
            }
        }
    }

    /// Goes on, or gives up, when no branch is left that could still answer.
    pub(crate) fn after_failure(&mut self, cx: Cx<'_>, call: &mut Call) {
        let waits = |state: BranchState| matches!(state, BranchState::Resolving(_) | BranchState::Calling(_));
        if call.stage != Stage::Trying || call.branches.iter().any(|branch| waits(branch.state)) {
            return;
        }
        if !call.groups.is_empty() && self.goes_on(cx, call) {
            self.try_next_group(cx, call);
        } else {
            self.give_up(cx, call);
        }
    }

    /// Whether the next targets are tried after what became of the last ones; notes the decision in the record.
    pub(crate) fn goes_on(&mut self, cx: Cx<'_>, call: &mut Call) -> bool {
        let goes_on = match (call.groups.front(), &call.group_best) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(next), Some(failure)) => {
                (next.continues_search && failure.status < 600)
                    || leads_to_next(&failure.trunk, failure.status, failure.cause)
            }
        };
        let decision = if goes_on {
            AttemptDecision::NextTarget
        } else {
            AttemptDecision::Ended
        };
        for attempt in call
            .record
            .attempts
            .iter_mut()
            .filter(|attempt| attempt.decision.is_none())
        {
            attempt.decision = Some(decision);
            if goes_on {
                cx.env.count(Counter::AttemptsRetried);
            }
        }
        goes_on
    }

    /// Ends a branch that may still be ringing. Its media goes at once.
    pub(crate) fn cancel_branch(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, reason: &str) {
        let branch = &mut call.branches[index as usize];
        match branch.state {
            BranchState::Resolving(id) => {
                branch.state = BranchState::Done;
                self.resolves.remove(&id);
            }
            BranchState::Calling(client) => {
                branch.state = BranchState::Cancelling(client);
                branch.cancel_reason = Some(reason.to_owned());
                if let Cancel::Now(invite) = self.transactions.cancel(cx.now.mono, client) {
                    self.send_cancel(cx, client, &invite, Some(reason));
                }
            }
            BranchState::Cancelling(_) | BranchState::Answered(_) | BranchState::Done => return,
        }
        let attempt = &mut call.record.attempts[call.branches[index as usize].attempt];
        attempt.decision.get_or_insert(AttemptDecision::Cancelled);
        self.arm(call, Deadline::Dial(index), None);
        self.close_branch_media(cx, call, index);
    }

    /// A CANCEL that had to wait may go now, or timer C ran out.
    pub(crate) fn cancel_now(&mut self, cx: Cx<'_>, client: ClientTransactionId) {
        let Some(invite) = self.transactions.request(client).cloned() else {
            return;
        };
        let reason = match self.clients.get(&client).map(|entry| &entry.owner) {
            Some(ClientUse::Branch { call, branch }) => self
                .calls
                .get(call)
                .and_then(|call| call.branch(*branch)?.cancel_reason.clone()),
            _ => None,
        };
        self.send_cancel(cx, client, &invite, reason.as_deref());
    }

    pub(crate) fn send_cancel(
        &mut self,
        cx: Cx<'_>,
        client: ClientTransactionId,
        invite: &Bytes,
        reason: Option<&str>,
    ) {
        let id = trunkline_sip::transaction::TransactionId::Client(client);
        let Some(way) = self.transactions.destination(id).cloned() else {
            return;
        };
        let Some(invite) = parse_own_request(invite, &self.config.limits) else {
            return;
        };
        let mut builder = cancel_for(&invite);
        if let Some(reason) = reason {
            builder = builder.header(HeaderName::Reason, reason);
        }
        let (Ok(bytes), Some(branch)) = (builder.build(), invite.branch()) else {
            return;
        };
        // Without room for the CANCEL the target rings until its own timers end it.
        let _ = self.send_request(cx, &Method::Cancel, branch, bytes, way, ClientUse::Own);
    }

    /// A 2xx nobody wants: acknowledged, then ended (RFC 3261 §13.2.2.4, §15).
    fn decline_answer(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, response: &Response) {
        let Some(invite) = call.invite.clone() else { return };
        let is_other_fork = matches!(call.branches[index as usize].state, BranchState::Answered(_));
        let established = Dialog::establish(cx.now.mono, &invite.request, response, |uri| self.is_own_route(uri));
        if let (Ok(mut dialog), Some(leg)) = (established, call.branches[index as usize].leg.clone())
            && let Ok(bye) = dialog.originate(Side::Callee, Method::Bye)
        {
            self.send_ack(cx, &leg, &bye, call.invite_cseq);
            let reason = call.branches[index as usize].cancel_reason.clone();
            // A 2xx that comes again is acknowledged again; its BYE is under way.
            let ended_before = call.branches[index as usize].state == BranchState::Done;
            if !ended_before || is_other_fork {
                self.send_bye(cx, &leg, &bye, reason.as_deref());
            }
        }
        if !is_other_fork {
            call.branches[index as usize].state = BranchState::Done;
            self.close_branch_media(cx, call, index);
            self.arm(call, Deadline::Dial(index), None);
        }
    }

    /// An ACK for a 2xx, with what the dialog knows: made like the BYE that follows it, with the number of the INVITE.
    pub(crate) fn send_ack(&mut self, cx: Cx<'_>, leg: &Leg, like: &Originated, cseq: u32) {
        let ack = Originated {
            method: Method::Ack,
            cseq,
            ..like.clone()
        };
        let way = self.hop(leg, Some(&ack.next_hop.as_uri()));
        let via = Via {
            transport: way.transport(),
            sent_by: leg.advertised,
            branch: new_branch(&mut *self.rng, 0),
        };
        if let Ok(bytes) = ack.builder(&via).build() {
            self.transmit(cx, way, bytes);
        }
    }

    pub(crate) fn send_bye(&mut self, cx: Cx<'_>, leg: &Leg, bye: &Originated, reason: Option<&str>) {
        let way = self.hop(leg, Some(&bye.next_hop.as_uri()));
        let via = Via {
            transport: way.transport(),
            sent_by: leg.advertised,
            branch: new_branch(&mut *self.rng, 0),
        };
        let mut builder = bye.builder(&via);
        if let Some(reason) = reason {
            builder = builder.header(HeaderName::Reason, reason);
        }
        if let Ok(bytes) = builder.build() {
            // Without room for the BYE the peer finds out by its session timer or by idle media.
            let _ = self.send_request(cx, &Method::Bye, &via.branch, bytes, way, ClientUse::Own);
        }
    }

    fn note_dialog(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, response: &Response) {
        let Some(tag) = response.to_tag() else { return };
        let known = call.branches[index as usize].dialog_mut(tag).is_some();
        if known || call.branches[index as usize].dialogs.len() >= MAX_DIALOGS {
            return;
        }
        let Some(invite) = call.invite.clone() else { return };
        if let Ok(dialog) = Dialog::establish(cx.now.mono, &invite.request, response, |uri| self.is_own_route(uri)) {
            call.branches[index as usize].dialogs.push(dialog);
        }
    }

    fn confirm_dialog(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, response: &Response) -> bool {
        let Some(tag) = response.to_tag() else { return false };
        if let Some(dialog) = call.branches[index as usize].dialog_mut(tag) {
            return dialog
                .confirm(cx.now.mono, response, |uri| self.is_own_route(uri))
                .is_ok();
        }
        let Some(invite) = call.invite.clone() else {
            return false;
        };
        match Dialog::establish(cx.now.mono, &invite.request, response, |uri| self.is_own_route(uri)) {
            Ok(dialog) => {
                call.branches[index as usize].dialogs.push(dialog);
                true
            }
            Err(_) => false,
        }
    }

    /// The SDP of a response to the INVITE as the caller gets it.
    fn branch_sdp(
        &mut self,
        cx: Cx<'_>,
        call: &mut Call,
        index: u32,
        response: &Response,
    ) -> Result<Option<Bytes>, Refusal> {
        let Some(part) = sdp_of(response)? else { return Ok(None) };
        let branch = &mut call.branches[index as usize];
        let offered = branch.offer.is_some();
        let Some(media) = branch.media.as_mut() else {
            return Ok(None);
        };
        let became = media
            .in_response(cx.env, &mut *self.rng, LegId::B, offered, part.sdp())
            .map_err(|error| refusal(error, &media.legs))?;
        let became = part.replaced(became);
        self.apply_media(call, index);
        Ok(Some(became))
    }

    /// Tells the relay what the session has come to.
    pub(crate) fn apply_media(&mut self, call: &mut Call, index: u32) {
        let Some(media) = call.branch_mut(index).and_then(|branch| branch.media.as_mut()) else {
            return;
        };
        let Some(config) = media.session.relay_config() else {
            return;
        };
        media.applied = true;
        let session = media.relay;
        self.sessions.insert(session, call.key);
        self.effect(Effect::Relay {
            session,
            command: RelayCommand::Apply(Box::new(config)),
        });
    }

    /// Ends the media of a branch that did not make the call: its figures are of no interest.
    pub(crate) fn close_branch_media(&mut self, cx: Cx<'_>, call: &mut Call, index: u32) {
        let Some(media) = call.branch_mut(index).and_then(|branch| branch.media.take()) else {
            return;
        };
        if media.applied {
            self.sessions.remove(&media.relay);
            self.effect(Effect::Relay {
                session: media.relay,
                command: RelayCommand::Close,
            });
        }
        media.close(cx.env);
    }
}

/// How long the caller may leave an answer without an ACK: the callee repeats its 2xx for 64*T1 and then ends the call
/// (RFC 3261 §13.3.1.4); a little later nobody else will.
fn ack_wait(timers: &TimerConfig) -> Duration {
    timers.t1() * 64 + Duration::from_secs(4)
}

fn branch_trunk(call: &Call, index: u32) -> Arc<trunkline_shared::trunk::Trunk> {
    Arc::clone(&call.branches[index as usize].target.trunk)
}

/// Row 34: the caller learns the conversation from 18x and 200.
fn conversation_for_caller(call: &Call) -> Option<trunkline_shared::name::ConversationId> {
    call.caller.trunk.conversation_header.then_some(call.id)
}

fn reason_of(failure: &Failure) -> String {
    match failure.cause {
        Some(cause) => crate::refuse::q850_reason(cause),
        None => format!("SIP;cause={}", failure.status),
    }
}
