//! What arrives: parsed, given to its transaction, handed to whoever it is for.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use trunkline_shared::name::TrunkId;
use trunkline_shared::reject::Reject;
use trunkline_shared::trunk::Trunk;
use trunkline_sip::dialog::Side;
use trunkline_sip::header::Via;
use trunkline_sip::message::{BadRequest, Message, Request, Response};
use trunkline_sip::method::Method;
use trunkline_sip::parse::{DropReason, Framing, Limits, Parsed, parse};
use trunkline_sip::status::StatusCode;
use trunkline_sip::transaction::{
    ClientTransactionId, RequestKey, RequestOutcome, ResponseKey, ResponseOutcome, ServerTransactionId,
};
use trunkline_sip::uri::Uri;
use trunkline_sip::write::{ResponseBuilder, Text, ViaStamp, ack_for_failure};

use crate::call::CallKey;
use crate::engine::{Cx, Engine, reliability};
use crate::io::{Destination, Env, Flow, Now, Transport, TransportExt as _};
use crate::metrics::Counter;
use crate::proxy::ProxyKey;
use crate::refuse::Refusal;

/// A request that has a server transaction.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub request: Request,
    pub flow: Flow,
    pub server: ServerTransactionId,
    /// What the top Via gets: also in responses of our own.
    pub stamp: ViaStamp,
    /// To tag of our own responses, as 16 hexadecimal digits.
    pub local_tag: u64,
    /// Trunk of the flow, as configured when the request came.
    pub trunk: Arc<Trunk>,
}

/// A server transaction without a final response.
#[derive(Debug)]
pub(crate) struct ServerEntry {
    pub inbound: Arc<Inbound>,
    pub role: ServerRole,
}

/// What a server transaction is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerRole {
    /// Nothing that a CANCEL could reach.
    Plain,
    /// The INVITE of a call.
    Call(CallKey),
    /// A request passed on within a dialog: its client transaction.
    Passed(ClientTransactionId),
    /// A request outside of calls.
    Proxied(ProxyKey),
}

/// Who waits for the responses of a client transaction.
#[derive(Debug)]
pub(crate) enum ClientUse {
    /// A branch of a call's INVITE.
    Branch { call: CallKey, branch: u32 },
    /// A request passed on within a call.
    InDialog(Box<Passed>),
    /// A branch of a request outside of calls, or of one within a dialog that is no call.
    Proxied { proxy: ProxyKey, branch: u32 },
    /// A request of ours whose response changes nothing: CANCEL, BYE.
    Own,
}

/// A request on its way from one leg of a call to the other.
pub(crate) struct Passed {
    pub call: CallKey,
    /// Index of the call's branch the dialog is on.
    pub branch: u32,
    pub requester: Side,
    pub inbound: Arc<Inbound>,
    /// What its SDP was.
    pub sdp: SdpRole,
    /// The 2xx as passed on, for its retransmissions.
    pub success: Option<Bytes>,
}

impl fmt::Debug for Passed {
    /// Without the message, which may hold media keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passed")
            .field("call", &self.call)
            .field("branch", &self.branch)
            .field("requester", &self.requester)
            .field("sdp", &self.sdp)
            .finish_non_exhaustive()
    }
}

/// What the body of a request means to the offer/answer exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SdpRole {
    /// No SDP: one in the response is an offer (or there is none).
    None,
    /// An offer: SDP in the response answers it.
    Offer,
    /// An answer: the exchange is complete.
    Answer,
}

impl Engine {
    /// Takes one datagram, or one message cut out of a connection by [`trunkline_sip::stream::Framer`].
    pub fn handle_message(&mut self, now: Now, env: &dyn Env, flow: Flow, bytes: Bytes) {
        let cx = Cx { now, env };
        let framing = if flow.transport.reliable() {
            Framing::Stream
        } else {
            Framing::Datagram
        };
        match parse(bytes, framing, &self.config.limits) {
            Parsed::Understood(Message::Request(request)) => {
                env.count(Counter::MessagesReceived);
                self.receive_request(cx, flow, request);
            }
            Parsed::Understood(Message::Response(response)) => {
                env.count(Counter::MessagesReceived);
                self.receive_response(cx, &flow, &response);
            }
            Parsed::Answerable(bad) => {
                env.count(Counter::MessagesMalformed);
                self.answer_malformed(cx, flow, &bad);
            }
            Parsed::Drop(DropReason::KeepAlive) => {}
            Parsed::Drop(_) => env.count(Counter::MessagesDropped),
        }
        self.settle(cx);
    }

    fn receive_request(&mut self, cx: Cx<'_>, flow: Flow, request: Request) {
        let Some(trunk) = self.trunk_of_flow(&request, &flow) else {
            // The trunk is not configured (any more) and no call of it runs: whoever this is gets no answer.
            cx.env.count(Counter::MessagesDropped);
            return;
        };
        let via = request.top_via();
        let stamp = if trunk.fent {
            ViaStamp::forced(flow.remote)
        } else {
            ViaStamp::for_source(&via, flow.remote)
        };
        let back = response_destination(&via, &flow, trunk.fent);
        let key = RequestKey::with_via(&request, &via);
        let outcome = self
            .transactions
            .handle_request(cx.now.mono, key, back.clone(), reliability(flow.transport));
        match outcome {
            RequestOutcome::New(server) => {
                let inbound = self.admit_transaction(request, flow, server, stamp, trunk);
                self.dispatch(cx, &inbound);
            }
            RequestOutcome::Absorbed => cx.env.count(Counter::RetransmissionsReceived),
            RequestOutcome::Ack(_) => self.receive_ack(cx, &flow, &request, stamp),
            RequestOutcome::Cancel { transaction, invite } => {
                let inbound = self.admit_transaction(request, flow, transaction, stamp, trunk);
                self.receive_cancel(cx, &inbound, invite);
            }
            RequestOutcome::Overloaded => {
                cx.env.count_reject(Reject::Overloaded, Some(&trunk.id));
                self.answer_statelessly(cx, back, &request, stamp, Reject::Overloaded);
            }
        }
    }

    fn admit_transaction(
        &mut self,
        request: Request,
        flow: Flow,
        server: ServerTransactionId,
        stamp: ViaStamp,
        trunk: Arc<Trunk>,
    ) -> Arc<Inbound> {
        let local_tag = self.rng.next_u64();
        let inbound = Arc::new(Inbound {
            request,
            flow,
            server,
            stamp,
            local_tag,
            trunk,
        });
        let entry = ServerEntry {
            inbound: Arc::clone(&inbound),
            role: ServerRole::Plain,
        };
        self.servers.insert(server, entry);
        inbound
    }

    /// The trunk a request belongs to. When the trunk was removed, its running calls go on with the one they know.
    fn trunk_of_flow(&self, request: &Request, flow: &Flow) -> Option<Arc<Trunk>> {
        if let Some(trunk) = self.snapshot.trunk(&flow.trunk) {
            return Some(Arc::clone(trunk));
        }
        self.calls_by_call_id
            .get(request.call_id())?
            .iter()
            .filter_map(|key| self.calls.get(key))
            .find_map(|call| call.trunk(&flow.trunk))
    }

    /// RFC 3261 §16.3 in short, then to whoever the request is for.
    fn dispatch(&mut self, cx: Cx<'_>, inbound: &Arc<Inbound>) {
        let request = &inbound.request;
        if let Some(found) = self.find_call(inbound) {
            return self.pass_in_dialog(cx, inbound, found);
        }
        if request.to_tag().is_some() {
            return self.pass_outside_call(cx, inbound);
        }
        match request.method() {
            Method::Register => self.receive_register(cx, inbound),
            Method::Invite => self.receive_invite(cx, inbound),
            _ => self.receive_other(cx, inbound),
        }
    }

    fn receive_response(&mut self, cx: Cx<'_>, flow: &Flow, response: &Response) {
        let Some(branch) = response.branch() else {
            cx.env.count(Counter::StrayResponses);
            return;
        };
        let key = ResponseKey {
            method: response.cseq_method(),
            branch: branch.as_bytes(),
        };
        let limits = self.config.limits;
        let build_ack = |invite: &Bytes| {
            let invite = parse_own_request(invite, &limits)?;
            ack_for_failure(&invite, response).build().ok()
        };
        match self
            .transactions
            .handle_response(cx.now.mono, key, response.status(), build_ack)
        {
            ResponseOutcome::Deliver(client) => self.deliver_response(cx, flow, client, response),
            ResponseOutcome::Absorbed => cx.env.count(Counter::RetransmissionsReceived),
            ResponseOutcome::Unmatched => cx.env.count(Counter::StrayResponses),
        }
    }

    fn deliver_response(&mut self, cx: Cx<'_>, flow: &Flow, client: ClientTransactionId, response: &Response) {
        let Some(entry) = self.clients.get_mut(&client) else {
            return;
        };
        match &entry.owner {
            ClientUse::Branch { call, branch } => {
                let (call, branch) = (*call, *branch);
                self.branch_response(cx, call, branch, flow, response);
            }
            ClientUse::InDialog(_) => self.in_dialog_response(cx, client, flow, response),
            ClientUse::Proxied { proxy, branch } => {
                let (proxy, branch) = (*proxy, *branch);
                self.proxy_response(cx, proxy, branch, response);
            }
            ClientUse::Own => {}
        }
    }

    /// Timer B or F, or the time after a CANCEL, ran out (RFC 3261 §16.7, §16.9: as a 408).
    pub(crate) fn client_timed_out(&mut self, cx: Cx<'_>, client: ClientTransactionId) {
        self.client_failed(cx, client, Reject::TargetTimeout);
    }

    /// The transport failed (RFC 3261 §16.9: as a 503).
    pub(crate) fn client_unreachable(&mut self, cx: Cx<'_>, client: ClientTransactionId) {
        let reject = match self.clients.get(&client) {
            Some(entry) if entry.flow_gone => Reject::FlowFailed,
            _ => Reject::TargetUnreachable,
        };
        self.client_failed(cx, client, reject);
    }

    fn client_failed(&mut self, cx: Cx<'_>, client: ClientTransactionId, reject: Reject) {
        let Some(entry) = self.clients.get(&client) else { return };
        match &entry.owner {
            ClientUse::Branch { call, branch } => {
                let (call, branch) = (*call, *branch);
                self.branch_unreachable(cx, call, branch, reject);
            }
            ClientUse::InDialog(_) => self.in_dialog_failed(cx, client, reject),
            ClientUse::Proxied { proxy, branch } => {
                let (proxy, branch) = (*proxy, *branch);
                self.proxy_failed(cx, proxy, branch, reject);
            }
            ClientUse::Own => {}
        }
    }

    /// 100 (Trying), for an INVITE at once, for others when RFC 4320 §4.1 says so.
    pub(crate) fn send_trying(&mut self, cx: Cx<'_>, server: ServerTransactionId) {
        let Some(entry) = self.servers.get(&server) else { return };
        let inbound = Arc::clone(&entry.inbound);
        let builder = ResponseBuilder::new(&inbound.request, StatusCode::TRYING).stamp_via(inbound.stamp);
        if let Ok(bytes) = builder.build() {
            self.respond(cx, server, StatusCode::TRYING, bytes);
        }
    }

    /// Sends a response of a server transaction. A final one ends our interest in the request.
    pub(crate) fn respond(&mut self, cx: Cx<'_>, server: ServerTransactionId, status: StatusCode, bytes: Bytes) {
        // An error means that the transaction is over or has its final response: nobody waits for this one.
        let sent = self.transactions.respond(cx.now.mono, server, status, bytes).is_ok();
        if sent && status.is_final() {
            self.servers.remove(&server);
        }
    }

    fn answer_malformed(&mut self, cx: Cx<'_>, flow: Flow, bad: &BadRequest) {
        // Its Via may be what is malformed, so the source alone decides; whoever is not let in learns nothing.
        let is_let_in = self
            .snapshot
            .trunk(&flow.trunk)
            .is_some_and(|trunk| !trunk.acl.use_source_address() || trunk.acl.decide(flow.remote.ip(), None).allowed());
        if !is_let_in {
            cx.env.count(Counter::MessagesDropped);
            return;
        }
        cx.env
            .count_reject(malformed_as_reject(bad.status()), Some(&flow.trunk));
        let tag = Text::hex(self.rng.next_u64());
        let Ok(bytes) = bad.response(&tag, flow.remote) else {
            return;
        };
        // To the source, whatever the Via says: it may be what is malformed, and nothing else is known to be reachable.
        self.transmit(cx, Destination::Flow(flow), bytes);
    }

    fn answer_statelessly(&mut self, cx: Cx<'_>, to: Destination, request: &Request, stamp: ViaStamp, reject: Reject) {
        if *request.method() == Method::Ack {
            return;
        }
        let jitter = self.rng.next_u32();
        let refusal = Refusal::new(reject);
        let tag = Text::hex(self.rng.next_u64());
        let builder = refusal.builder(request, jitter).stamp_via(stamp).to_tag(&*tag);
        if let Ok(bytes) = builder.build() {
            self.transmit(cx, to, bytes);
        }
    }

    /// Answers a request with a refusal of ours and counts it.
    pub(crate) fn refuse(&mut self, cx: Cx<'_>, inbound: &Inbound, refusal: &Refusal) {
        let trunk = refusal
            .decided_by
            .as_ref()
            .map_or(&inbound.trunk.id, |decided| &decided.trunk);
        cx.env.count_reject(refusal.reject, Some(trunk));
        let jitter = self.rng.next_u32();
        let builder = refusal
            .builder(&inbound.request, jitter)
            .stamp_via(inbound.stamp)
            .to_tag(&*Text::hex(inbound.local_tag));
        match builder.build() {
            Ok(bytes) => self.respond(cx, inbound.server, refusal.status(), bytes),
            Err(_) => self.forget_server(inbound.server),
        }
    }

    /// Answers with a status and nothing else.
    pub(crate) fn reply(&mut self, cx: Cx<'_>, inbound: &Inbound, status: StatusCode) {
        self.reply_with(cx, inbound, status, |builder| builder);
    }

    /// Answers with a status and what `add` adds.
    pub(crate) fn reply_with(
        &mut self,
        cx: Cx<'_>,
        inbound: &Inbound,
        status: StatusCode,
        add: impl FnOnce(ResponseBuilder<'_>) -> ResponseBuilder<'_>,
    ) {
        let builder = ResponseBuilder::new(&inbound.request, status)
            .stamp_via(inbound.stamp)
            .to_tag(&*Text::hex(inbound.local_tag));
        match add(builder).build() {
            Ok(bytes) => self.respond(cx, inbound.server, status, bytes),
            Err(_) => self.forget_server(inbound.server),
        }
    }

    /// A response that cannot be written leaves the client to its timers.
    fn forget_server(&mut self, server: ServerTransactionId) {
        self.servers.remove(&server);
    }
}

/// Where responses go (RFC 3261 §18.2.2, RFC 3581 §4): back over the connection, or to the source with the port the Via names.
///
/// `maddr` in a Via is not followed: nobody but an attacker uses it, to have answers sent elsewhere.
fn response_destination(via: &Via<'_>, flow: &Flow, fent: bool) -> Destination {
    let mut back = flow.clone();
    if flow.transport == Transport::Udp && !fent && !via.has_rport() {
        back.remote = SocketAddr::new(flow.remote.ip(), via.port_or_default());
    }
    Destination::Flow(back)
}

fn malformed_as_reject(status: StatusCode) -> Reject {
    match status.as_u16() {
        505 => Reject::VersionNotSupported,
        513 => Reject::MessageTooLarge,
        _ => Reject::BadRequest,
    }
}

/// Reads back a request we wrote.
pub(crate) fn parse_own_request(bytes: &Bytes, limits: &Limits) -> Option<Request> {
    match parse(bytes.clone(), Framing::Datagram, limits) {
        Parsed::Understood(Message::Request(request)) => Some(request),
        _ => None,
    }
}

/// The user part of a URI, unescaped; `None` without one, or when it is not UTF-8, holds control characters, or is longer than
/// any name or number.
pub(crate) fn user_of(uri: &Uri<'_>) -> Option<String> {
    let user = uri.user()?;
    String::from_utf8(trunkline_sip::uri::unescape(user).into_owned())
        .ok()
        .filter(|user| !user.is_empty() && user.len() <= MAX_USER && !user.chars().any(char::is_control))
}

/// Octets of the longest user part taken for one: it is a key of the location table.
const MAX_USER: usize = 256;

/// The trunk that decided a refusal, with setting and value.
pub(crate) fn decided(
    trunk: &TrunkId,
    setting: &str,
    value: impl std::fmt::Display,
) -> trunkline_shared::call::DecidedBy {
    trunkline_shared::call::DecidedBy {
        trunk: trunk.clone(),
        setting: setting.into(),
        value: value.to_string().into(),
    }
}
