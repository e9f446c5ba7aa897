//! The INVITE that makes a call: checked, admitted, routed.

use std::sync::Arc;

use smallvec::SmallVec;
use trunkline_shared::call::{CallEnd, CallRecord, CallState, EndReason};
use trunkline_shared::name::ConversationId;
use trunkline_shared::reject::Reject;
use trunkline_sip::digest::Role;
use trunkline_sip::header::{HeaderName, Via};
use trunkline_sip::message::Request;

use super::{Call, Leg, Stage};
use crate::admission::Denial;
use crate::auth::Identity;
use crate::engine::{Cx, Engine};
use crate::forward::{is_loop, loop_hash};
use crate::inbound::{Inbound, ServerRole};
use crate::io::Destination;
use crate::metrics::Counter;
use crate::refuse::Refusal;
use crate::registrar::check_extensions;
use crate::routing::{self, Plan, Query};

/// Calls with one Call-ID at a time.
const MAX_COPIES: usize = 16;

impl Engine {
    pub(crate) fn receive_invite(&mut self, cx: Cx<'_>, inbound: &Arc<Inbound>) {
        cx.env.count(Counter::CallsReceived);
        let identity = match self.admit(cx, inbound, Role::Proxy) {
            Ok(identity) => identity,
            Err(denial) => {
                if let Denial::Refused(refusal) = &denial {
                    self.report_refused(cx, inbound, refusal, None);
                }
                return self.deny(cx, inbound, &denial);
            }
        };
        let planned = self.check_forwardable(inbound).and_then(|loop_hash| {
            check_dialog_forming(&inbound.request)?;
            self.check_copies(&inbound.request)?;
            let plan = self.plan(cx, inbound)?;
            Ok((loop_hash, plan))
        });
        match planned {
            Ok((loop_hash, plan)) => self.start_call(cx, inbound, identity, loop_hash, plan),
            Err(refusal) => {
                cx.env.release_call_slot(&inbound.trunk.id);
                self.report_refused(cx, inbound, &refusal, identity.username.as_deref());
                self.refuse(cx, inbound, &refusal);
            }
        }
    }

    /// What RFC 3261 §16.3 wants checked before a request is forwarded. Returns its loop hash.
    pub(crate) fn check_forwardable(&self, inbound: &Inbound) -> Result<u64, Refusal> {
        let request = &inbound.request;
        if request.max_forwards() == Some(0) {
            return Err(Reject::TooManyHops.into());
        }
        check_extensions(request, HeaderName::ProxyRequire, &[])?;
        let hash = loop_hash(request, inbound.trunk.id.as_str());
        if is_loop(request, hash, |via| self.is_own_via(via)) {
            return Err(Reject::LoopDetected.into());
        }
        // A way through proxies of the sender's choosing would make us an open relay.
        if self.own_routes(inbound).1.is_some() {
            return Err(Reject::NoRoute.into());
        }
        Ok(hash)
    }

    /// A call may pass here more than once (a spiral), so several with its Call-ID are fine. Very many are somebody's doing:
    /// every request with that Call-ID looks through all of them.
    fn check_copies(&self, request: &Request) -> Result<(), Refusal> {
        let copies = self.calls_by_call_id.get(request.call_id()).map_or(0, SmallVec::len);
        if copies < MAX_COPIES {
            Ok(())
        } else {
            Err(Reject::LoopDetected.into())
        }
    }

    /// Where a request outside of dialogs goes.
    pub(crate) fn plan(&mut self, cx: Cx<'_>, inbound: &Inbound) -> Result<Plan, Refusal> {
        let snapshot = Arc::clone(&self.snapshot);
        let query = Query {
            snapshot: &snapshot,
            listeners: &self.listeners,
            env: cx.env,
            now: cx.now,
            inbound: &inbound.trunk,
        };
        routing::plan(&query, &inbound.request, &mut *self.rng).map_err(Refusal::from)
    }

    fn is_own_via(&self, via: &Via<'_>) -> bool {
        let Some(ip) = via.host().ip() else { return false };
        self.listeners.is_own_address(ip, via.port_or_default())
    }

    fn start_call(&mut self, cx: Cx<'_>, inbound: &Arc<Inbound>, identity: Identity, loop_hash: u64, plan: Plan) {
        let key = self.next_serial();
        let mut random = [0; 16];
        self.rng.fill_bytes(&mut random);
        let id = ConversationId::from_random(random);
        let mut record = self.new_record(cx, id, inbound, identity.username.as_deref());
        record.route = plan.route;
        record.language = Some(plan.language.unwrap_or_else(|| inbound.trunk.language.clone()));
        let caller = Leg {
            trunk: Arc::clone(&inbound.trunk),
            way: Destination::Flow(inbound.flow.clone()),
            advertised: self.listeners.advertised_for_flow(&inbound.flow),
        };
        let mut call = Box::new(Call {
            key,
            id,
            invite: Some(Arc::clone(inbound)),
            server: inbound.server,
            invite_cseq: inbound.request.cseq_number(),
            caller,
            stage: Stage::Trying,
            branches: Vec::new(),
            groups: plan.groups,
            best: None,
            group_best: None,
            slots: SmallVec::new(),
            record,
            loop_hash,
            deadlines: SmallVec::new(),
            other_usages: false,
            summary: None,
            closing: None,
        });
        self.active_calls += 1;
        self.calls_by_call_id
            .entry(inbound.request.call_id().into())
            .or_default()
            .push(key);
        self.calls_by_conversation.insert(id, key);
        if let Some(entry) = self.servers.get_mut(&inbound.server) {
            entry.role = ServerRole::Call(key);
        }
        self.send_trying(cx, inbound.server);
        self.report_call(&call);
        self.try_next_group(cx, &mut call);
        self.put_back(call);
    }

    fn new_record(&self, cx: Cx<'_>, id: ConversationId, inbound: &Inbound, user: Option<&str>) -> CallRecord {
        let request = &inbound.request;
        CallRecord {
            id,
            state: CallState::Trying,
            worker: Some(self.config.worker.clone()),
            call_id: request.call_id().into(),
            from_uri: public_uri(request, HeaderName::From),
            to_uri: public_uri(request, HeaderName::To),
            request_uri: request.uri().without_password().into(),
            inbound_trunk: inbound.trunk.id.clone(),
            outbound_trunk: None,
            route: None,
            language: Some(inbound.trunk.language.clone()),
            start_time: cx.now.wall,
            ring_time: None,
            answer_time: None,
            attempts: Vec::new(),
            media: Vec::new(),
            authenticated_user: user.unwrap_or_default().into(),
            source: inbound.flow.remote,
        }
    }

    /// A record of a call that never was one. Challenges are no refusals; and a flood is counted, not recorded.
    fn report_refused(&mut self, cx: Cx<'_>, inbound: &Inbound, refusal: &Refusal, user: Option<&str>) {
        let is_challenge = refusal.status.is_some();
        if is_challenge || refusal.reject == Reject::Overloaded || !self.may_report_refusal(cx) {
            return;
        }
        let mut random = [0; 16];
        self.rng.fill_bytes(&mut random);
        let mut record = self.new_record(cx, ConversationId::from_random(random), inbound, user);
        record.state = CallState::Ended(CallEnd {
            time: cx.now.wall,
            reason: EndReason::Rejected(refusal.reject),
            sip_status: refusal.status().as_u16(),
            q850_cause: refusal.cause(),
            decided_by: refusal.decided_by.clone(),
        });
        self.report(crate::io::Report::Call(Box::new(record)));
    }
}

/// What a dialog is made of (RFC 3261 §8.1.1.3, §8.1.1.8, §12.1.1). Without it a call could be set up and, because no BYE can
/// be built for its peers, never be ended from here.
fn check_dialog_forming(request: &Request) -> Result<(), Refusal> {
    let mut contacts = request.contacts();
    let has_target = matches!(contacts.next(), Some(Ok(contact)) if contact.address().is_some());
    let routes_are_readable = request.addresses(HeaderName::RecordRoute).all(|route| route.is_ok());
    if request.from_tag().is_some() && has_target && routes_are_readable {
        return Ok(());
    }
    Err(Reject::BadRequest.into())
}

/// The URI of From or To without a password in it.
fn public_uri(request: &Request, name: HeaderName) -> Arc<str> {
    let address = if name == HeaderName::From {
        request.from()
    } else {
        request.to()
    };
    address.uri().without_password().into()
}
