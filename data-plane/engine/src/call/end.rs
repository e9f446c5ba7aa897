//! The end of a call, however it comes: both sides told, everything given back, one record.

use std::sync::Arc;

use trunkline_media::relay::{LegId, LegStats, PerLeg};
use trunkline_shared::call::{AttemptDecision, CallEnd, CallState, DecidedBy, EndReason};
use trunkline_shared::name::ConversationId;
use trunkline_shared::q850::cause_of_status;
use trunkline_shared::reject::Reject;
use trunkline_shared::trunk::Trunk;
use trunkline_sip::dialog::Side;
use trunkline_sip::header::{HeaderName, Reason};
use trunkline_sip::message::Response;
use trunkline_sip::method::Method;
use trunkline_sip::status::StatusCode;
use trunkline_sip::transaction::{Cancel, ServerTransactionId};

use super::{BranchState, Call, Deadline, FIGURES_WAIT, Failure, FailureKind, LINGER, Stage};
use crate::engine::{Cx, Engine};
use crate::forward::{Return, write_response};
use crate::inbound::{Inbound, ServerRole};
use crate::io::{Effect, Env, Now, RelayCommand, RelayEvent, SessionId};
use crate::media::Media;
use crate::metrics::Counter;
use crate::refuse::{Refusal, q850_reason};

/// Normal call clearing (Q.850).
const NORMAL_CLEARING: u8 = 16;

/// How a call ends.
pub(crate) struct Ending {
    pub reason: EndReason,
    /// Sent to the caller; 200 for answered calls.
    pub status: u16,
    pub cause: Option<u8>,
    pub decided_by: Option<DecidedBy>,
}

impl Ending {
    pub(crate) fn released(reason: EndReason) -> Self {
        Self {
            reason,
            status: 200,
            cause: Some(NORMAL_CLEARING),
            decided_by: None,
        }
    }
}

impl Engine {
    /// Ends a call, answered or not, from outside. False when there is no such call.
    pub fn hang_up(&mut self, now: Now, env: &dyn Env, id: ConversationId) -> bool {
        let cx = Cx { now, env };
        let Some(&key) = self.calls_by_conversation.get(&id) else {
            return false;
        };
        let found = self
            .with_call(key, |engine, call| engine.hang_up_call(cx, call))
            .unwrap_or(false);
        self.settle(cx);
        found
    }

    fn hang_up_call(&mut self, cx: Cx<'_>, call: &mut Call) -> bool {
        match call.stage {
            Stage::Answered(_) => {
                let ending = Ending::released(EndReason::ApiHangUp);
                self.release_both(cx, call, &q850_reason(NORMAL_CLEARING), ending);
            }
            Stage::Trying => {
                self.cancel_all(cx, call, &q850_reason(NORMAL_CLEARING));
                let Some(invite) = call.invite.clone() else {
                    return false;
                };
                let status = StatusCode::TEMPORARILY_UNAVAILABLE;
                self.reply_with(cx, &invite, status, |builder| {
                    builder.header(HeaderName::Reason, q850_reason(NORMAL_CLEARING))
                });
                let ending = Ending {
                    reason: EndReason::ApiHangUp,
                    status: status.as_u16(),
                    cause: Some(NORMAL_CLEARING),
                    decided_by: None,
                };
                self.end_call(cx, call, ending);
            }
            Stage::Ended { .. } => return false,
        }
        true
    }

    /// News of a relay session.
    pub fn handle_relay_event(&mut self, now: Now, env: &dyn Env, session: SessionId, event: RelayEvent) {
        let cx = Cx { now, env };
        if let Some(&key) = self.sessions.get(&session) {
            self.with_call(key, |engine, call| match event {
                RelayEvent::Idle { leg } => engine.media_idle(cx, call, session, leg),
                RelayEvent::Stats(stats) => engine.record_media(call, Some(&stats)),
                RelayEvent::Closed(stats) => engine.relay_closed(cx, call, session, &stats),
            });
        }
        self.settle(cx);
    }

    /// Row 31.
    fn media_idle(&mut self, cx: Cx<'_>, call: &mut Call, session: SessionId, leg: LegId) {
        let Stage::Answered(index) = call.stage else { return };
        let trunk = match leg {
            LegId::A => Arc::clone(&call.caller.trunk),
            LegId::B => Arc::clone(&call.branches[index as usize].target.trunk),
        };
        let is_current = call.branches[index as usize]
            .media
            .as_ref()
            .is_some_and(|media| media.relay == session);
        if !is_current {
            return;
        }
        let by = crate::inbound::decided(&trunk.id, "disconnect_on_idle_rtp", true);
        let ending = Ending {
            decided_by: Some(by),
            ..Ending::released(EndReason::RtpIdle)
        };
        self.release_both(cx, call, "SIP;cause=408;text=\"RTP idle\"", ending);
    }

    /// The relay ended a session, because it was told to or by itself.
    fn relay_closed(&mut self, cx: Cx<'_>, call: &mut Call, session: SessionId, stats: &PerLeg<LegStats>) {
        self.sessions.remove(&session);
        self.record_media(call, Some(stats));
        match call.stage {
            Stage::Ended { reported: false } => {
                self.arm(call, Deadline::Figures, None);
                self.report_end(call);
            }
            // Without a relay there is no call to keep.
            Stage::Answered(_) => {
                let reason = "SIP;cause=503;text=\"Media relay lost\"";
                self.release_both(cx, call, reason, Ending::released(EndReason::MediaFailed));
            }
            _ => {}
        }
    }

    pub(crate) fn session_expired(&mut self, cx: Cx<'_>, call: &mut Call) {
        let ending = Ending::released(EndReason::SessionExpired);
        self.release_both(cx, call, "SIP;cause=408;text=\"Session timer expired\"", ending);
    }

    /// The 2xx was passed on again and again, and nobody acknowledged it.
    pub(crate) fn ack_missing(&mut self, cx: Cx<'_>, call: &mut Call) {
        self.release_both(
            cx,
            call,
            "SIP;cause=408;text=\"No ACK\"",
            Ending::released(EndReason::NoAck),
        );
    }

    /// A call that has had no media since it was answered.
    pub(crate) fn media_missing(&mut self, cx: Cx<'_>, call: &mut Call) {
        let Stage::Answered(index) = call.stage else { return };
        let is_relayed = call
            .branch(index)
            .and_then(|branch| branch.media.as_ref())
            .is_some_and(Media::is_relayed);
        if !is_relayed {
            let by = crate::inbound::decided(&call.caller.trunk.id, "disconnect_on_idle_rtp", true);
            let ending = Ending {
                decided_by: Some(by),
                ..Ending::released(EndReason::RtpIdle)
            };
            self.release_both(cx, call, "SIP;cause=408;text=\"RTP idle\"", ending);
        }
    }

    pub(crate) fn figures_missing(&mut self, call: &mut Call) {
        if let Some(session) = call.closing.take() {
            self.sessions.remove(&session);
        }
        self.report_end(call);
    }

    /// BYE to both peers of an answered call, each in the name of the other (RFC 7092 §3.1.1).
    pub(crate) fn release_both(&mut self, cx: Cx<'_>, call: &mut Call, reason: &str, ending: Ending) {
        let Stage::Answered(index) = call.stage else { return };
        for side in [Side::Caller, Side::Callee] {
            let Some(leg) = call.leg(index, side).cloned() else {
                continue;
            };
            let dialog = call.branches[index as usize].dialogs.first_mut();
            if let Some(Ok(bye)) = dialog.map(|dialog| dialog.originate(side, Method::Bye)) {
                self.send_bye(cx, &leg, &bye, Some(reason));
            }
        }
        if let Some(dialog) = call.branches[index as usize].dialogs.first_mut() {
            dialog.terminate();
        }
        self.end_call(cx, call, ending);
    }

    /// No target is left: the best failure goes up (RFC 3261 §16.7 step 6).
    pub(crate) fn give_up(&mut self, cx: Cx<'_>, call: &mut Call) {
        if call.stage != Stage::Trying {
            return;
        }
        let best = call.best.take();
        for attempt in call
            .record
            .attempts
            .iter_mut()
            .filter(|attempt| attempt.decision.is_none())
        {
            attempt.decision = Some(AttemptDecision::Ended);
        }
        match best {
            Some(Failure {
                what: FailureKind::Response(response),
                ..
            }) => self.pass_failure(cx, call, &response),
            Some(Failure {
                what: FailureKind::Local(refusal),
                ..
            }) => self.give_up_with(cx, call, &refusal),
            None => self.give_up_with(cx, call, &Refusal::new(Reject::NotRegistered)),
        }
    }

    fn give_up_with(&mut self, cx: Cx<'_>, call: &mut Call, refusal: &Refusal) {
        let Some(invite) = call.invite.clone() else { return };
        self.refuse(cx, &invite, refusal);
        let ending = Ending {
            reason: EndReason::Rejected(refusal.reject),
            status: refusal.status().as_u16(),
            cause: refusal.cause(),
            decided_by: refusal.decided_by.clone(),
        };
        self.end_call(cx, call, ending);
    }

    fn pass_failure(&mut self, cx: Cx<'_>, call: &mut Call, response: &Response) {
        let mut status = response.status();
        let cause = response.q850_cause().or_else(|| cause_of_status(status.as_u16()));
        let Some(invite) = call.invite.clone() else { return };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // A 503 would make the caller avoid us instead of the target (RFC 3261 §16.7 step 6).
            status = StatusCode::SERVER_INTERNAL_ERROR;
            self.reply_with(cx, &invite, status, |builder| match cause {
                Some(cause) => builder.header(HeaderName::Reason, q850_reason(cause)),
                None => builder,
            });
        } else {
            let has_reason = response.typed_list::<Reason<'_>>().next().is_some();
            let reason = cause.filter(|_| !has_reason).map(q850_reason);
            match write_response(
                response,
                &Return {
                    reason,
                    ..Return::default()
                },
            ) {
                Ok(bytes) => self.respond(cx, invite.server, status, bytes),
                Err(_) => self.reply(cx, &invite, StatusCode::SERVER_INTERNAL_ERROR),
            }
        }
        let ending = Ending {
            reason: EndReason::TargetRefused,
            status: status.as_u16(),
            cause,
            decided_by: None,
        };
        self.end_call(cx, call, ending);
    }

    /// A CANCEL of the caller (RFC 3261 §16.10). The INVITE gets its 487 at once: what the branches still answer is dealt
    /// with here.
    pub(crate) fn receive_cancel(&mut self, cx: Cx<'_>, cancel: &Arc<Inbound>, invite: Option<ServerTransactionId>) {
        let Some(invite) = invite else {
            if let Err(denial) = self.check_source(cancel) {
                return self.deny(cx, cancel, &denial);
            }
            return self.refuse(cx, cancel, &Reject::NoDialog.into());
        };
        self.reply(cx, cancel, StatusCode::OK);
        match self.servers.get(&invite).map(|entry| entry.role) {
            Some(ServerRole::Call(key)) => {
                let reason = cancel.request.line_text(HeaderName::Reason).map(str::to_owned);
                self.with_call(key, |engine, call| engine.caller_cancelled(cx, call, reason));
            }
            Some(ServerRole::Passed(client)) => {
                if let Cancel::Now(invite) = self.transactions.cancel(cx.now.mono, client) {
                    let reason = cancel.request.line_text(HeaderName::Reason);
                    self.send_cancel(cx, client, &invite, reason);
                }
            }
            Some(ServerRole::Plain | ServerRole::Proxied(_)) | None => {}
        }
    }

    fn caller_cancelled(&mut self, cx: Cx<'_>, call: &mut Call, reason: Option<String>) {
        if call.stage != Stage::Trying {
            return;
        }
        self.cancel_all(cx, call, reason.as_deref().unwrap_or("SIP;cause=487"));
        let Some(invite) = call.invite.clone() else { return };
        self.reply(cx, &invite, StatusCode::REQUEST_TERMINATED);
        let ending = Ending {
            reason: EndReason::CallerCancel,
            status: StatusCode::REQUEST_TERMINATED.as_u16(),
            cause: Some(NORMAL_CLEARING),
            decided_by: None,
        };
        self.end_call(cx, call, ending);
    }

    fn cancel_all(&mut self, cx: Cx<'_>, call: &mut Call, reason: &str) {
        call.groups.clear();
        for index in 0..call.branches.len() as u32 {
            self.cancel_branch(cx, call, index, reason);
        }
    }

    /// Gives everything back and reports the end, at once or with the relay's last figures.
    pub(crate) fn end_call(&mut self, cx: Cx<'_>, call: &mut Call, ending: Ending) {
        if call.is_ended() {
            return;
        }
        let answered = matches!(call.stage, Stage::Answered(_));
        call.stage = Stage::Ended { reported: false };
        self.active_calls -= 1;
        if answered {
            cx.env.count(Counter::CallsEnded);
        }
        cx.env.release_call_slot(&call.caller.trunk.id);
        for trunk in call.slots.drain(..) {
            cx.env.release_call_slot(&trunk);
        }
        for (at, deadline) in call.deadlines.drain(..) {
            self.deadlines.remove(&(at, call.key, deadline));
        }
        call.record.state = CallState::Ended(CallEnd {
            time: cx.now.wall,
            reason: ending.reason,
            sip_status: ending.status,
            q850_cause: ending.cause,
            decided_by: ending.decided_by,
        });
        if call.other_usages {
            self.arm(call, Deadline::Linger, Some(cx.now.mono + LINGER));
        }
        if self.close_call_media(cx, call) {
            self.arm(call, Deadline::Figures, Some(cx.now.mono + FIGURES_WAIT));
        } else {
            self.report_end(call);
        }
    }

    /// Ends the media of all branches. True when last figures will come.
    fn close_call_media(&mut self, cx: Cx<'_>, call: &mut Call) -> bool {
        let mut figures = false;
        for index in 0..call.branches.len() as u32 {
            let branch = &mut call.branches[index as usize];
            if !matches!(branch.state, BranchState::Answered(_)) {
                self.close_branch_media(cx, call, index);
                continue;
            }
            let Some(media) = branch.media.take() else { continue };
            let session = media.relay;
            let was_open = media.applied && self.sessions.contains_key(&session);
            call.summary = media.session.summary();
            media.close(cx.env);
            if was_open {
                call.closing = Some(session);
                self.effect(Effect::Relay {
                    session,
                    command: RelayCommand::Close,
                });
                figures = true;
            }
        }
        figures
    }

    fn report_end(&mut self, call: &mut Call) {
        if call.stage == (Stage::Ended { reported: false }) {
            call.stage = Stage::Ended { reported: true };
            self.report_call(call);
        }
    }

    /// Pays the slots of trunks back that lost out to `winner`.
    pub(crate) fn close_trunks_but(&mut self, cx: Cx<'_>, call: &mut Call, winner: &Trunk) {
        call.slots.retain(|trunk| {
            let keep = *trunk == winner.id;
            if !keep {
                cx.env.release_call_slot(trunk);
            }
            keep
        });
    }
}
