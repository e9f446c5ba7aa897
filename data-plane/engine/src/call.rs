//! A call: one INVITE from outside, the branches it is sent out on, and the dialog that comes of it.
//!
//! ```text
//!             targets left          2xx                    BYE, idle, hang-up
//!   Trying ───────────────▶ Trying ─────▶ Answered ───────────────────────────▶ Ended ──▶ (gone)
//!      │  next group                                                              ▲
//!      └────────────── CANCEL, no target left, hang-up ───────────────────────────┘
//! ```
//!
//! Ended calls stay while a branch still waits for its final response (a late 2xx is acknowledged and ended) and until the
//! relay has given its last figures, at most [`FIGURES_WAIT`]. What each part does is in a file of its own: `setup` takes the
//! INVITE, `branch` sends it and takes the responses, `in_dialog` and `response` pass what follows, `end` ends it.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;
use trunkline_media::negotiate::StreamSummary;
use trunkline_media::relay::{LegId, LegStats, PerLeg};
use trunkline_shared::call::CallRecord;
use trunkline_shared::name::{ConversationId, TrunkId};
use trunkline_shared::trunk::Trunk;
use trunkline_sip::dialog::{Dialog, Side};
use trunkline_sip::header::HeaderName;
use trunkline_sip::message::Response;
use trunkline_sip::transaction::{ClientTransactionId, ServerTransactionId};
use trunkline_sip::uri::Uri;

use crate::engine::{Cx, Engine};
use crate::inbound::Inbound;
use crate::io::{Destination, Flow, Report, ResolveId, SessionId, Transport, TransportExt as _};
use crate::media::Media;
use crate::refuse::Refusal;
use crate::routing::{Group, Target};

mod branch;
mod end;
mod in_dialog;
pub(crate) mod launch;
mod response;
mod setup;

/// Serial number of a call on its shard.
pub(crate) type CallKey = u64;

/// How long an ended call waits for the relay's last figures.
pub(crate) const FIGURES_WAIT: Duration = Duration::from_secs(2);
/// How long an ended call stays for what a REFER left behind: its NOTIFYs come after the BYE (RFC 5057 §4.1).
pub(crate) const LINGER: Duration = Duration::from_secs(32);
/// Dialogs one branch may make by forking further on; later ones are not followed.
const MAX_DIALOGS: usize = 8;

/// What a call waits for by the clock. One of each kind for a call, of `Dial` one for a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// Max Dial Timeout of a branch (row 15), in the place of timer C (RFC 3261 §16.6 step 11).
    Dial(u32),
    /// The session interval, unless refreshed (RFC 4028 §10).
    Session,
    /// The caller's ACK (RFC 3261 §13.3.1.4).
    Ack,
    /// Media, in a call that was answered without any.
    NoMedia,
    /// The relay's last figures.
    Figures,
    /// The end of [`LINGER`].
    Linger,
}

/// One call. Messages and bodies in it hold media keys, so its Debug names it and no more.
pub(crate) struct Call {
    pub key: CallKey,
    pub id: ConversationId,
    /// The INVITE, until its transaction is over: later nothing is made of it any more.
    pub invite: Option<Arc<Inbound>>,
    /// Its server transaction.
    pub server: ServerTransactionId,
    /// Its CSeq number.
    pub invite_cseq: u32,
    pub caller: Leg,
    pub stage: Stage,
    /// Every branch there was; indices are stable.
    pub branches: Vec<Branch>,
    /// Targets not tried yet.
    pub groups: VecDeque<Group>,
    /// The failure to pass up if nothing better comes (RFC 3261 §16.7 step 6).
    pub best: Option<Failure>,
    /// The same among the targets tried last, by which the next ones are tried or not.
    pub group_best: Option<Failure>,
    /// Outbound trunks a call slot is held of.
    pub slots: SmallVec<[TrunkId; 1]>,
    pub record: CallRecord,
    pub loop_hash: u64,
    /// Deadlines in force, so that they can be taken back.
    pub deadlines: SmallVec<[(Instant, Deadline); 2]>,
    /// A REFER or SUBSCRIBE passed: its dialog usage outlives the call.
    pub other_usages: bool,
    /// What was agreed on media, once that has been closed.
    pub summary: Option<StreamSummary>,
    /// The relay session whose last figures are awaited.
    pub closing: Option<SessionId>,
}

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Branches are being tried.
    Trying,
    /// This branch answered.
    Answered(u32),
    /// Over.
    Ended {
        /// The end has been reported.
        reported: bool,
    },
}

/// A peer of the call.
#[derive(Debug, Clone)]
pub(crate) struct Leg {
    pub trunk: Arc<Trunk>,
    /// The way requests to it go.
    pub way: Destination,
    /// Address it knows us by.
    pub advertised: SocketAddr,
}

/// One target the INVITE is sent to.
pub(crate) struct Branch {
    pub target: Target,
    /// Known once the target's address is.
    pub leg: Option<Leg>,
    pub state: BranchState,
    /// Further addresses of the target, when this one fails (RFC 3263 §4.3).
    pub addresses: VecDeque<SocketAddr>,
    pub media: Option<Media>,
    /// Our offer to this target.
    pub offer: Option<Bytes>,
    /// Early and confirmed dialogs.
    pub dialogs: SmallVec<[Dialog; 1]>,
    /// Index of its attempt in the record.
    pub attempt: usize,
    /// The 2xx as passed on, for its retransmissions.
    pub success: Option<Bytes>,
    /// The last ACK as passed on.
    pub ack: Option<PassedAck>,
    /// Reason of the CANCEL that has to wait for a provisional response.
    pub cancel_reason: Option<String>,
}

/// An ACK for a 2xx as it was passed on: it comes again with every retransmission of the 2xx.
#[derive(Clone)]
pub(crate) struct PassedAck {
    pub from: Side,
    pub cseq: u32,
    pub bytes: Bytes,
    pub to: Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BranchState {
    /// The name of the line is being looked up.
    Resolving(ResolveId),
    /// The INVITE is out.
    Calling(ClientTransactionId),
    /// The CANCEL is out, or waits for a provisional response; a 2xx may still come.
    Cancelling(ClientTransactionId),
    /// It answered.
    Answered(ClientTransactionId),
    /// It is over.
    Done,
}

/// A final failure of a branch.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub status: u16,
    pub cause: Option<u8>,
    /// Trunk it came from, whose lists decide about the next target.
    pub trunk: Arc<Trunk>,
    pub what: FailureKind,
}

#[derive(Debug, Clone)]
pub(crate) enum FailureKind {
    /// The target answered so.
    Response(Box<Response>),
    /// A decision or a finding of ours.
    Local(Box<Refusal>),
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("id", &self.id)
            .field("stage", &self.stage)
            .field("branches", &self.branches.len())
            .finish_non_exhaustive()
    }
}

impl Call {
    /// The trunk of one of its legs.
    pub(crate) fn trunk(&self, id: &TrunkId) -> Option<Arc<Trunk>> {
        let callees = self.branches.iter().map(|branch| &branch.target.trunk);
        std::iter::once(&self.caller.trunk)
            .chain(callees)
            .find(|trunk| trunk.id == *id)
            .map(Arc::clone)
    }

    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended { .. })
    }

    /// Whether any branch still waits for a final response.
    pub(crate) fn has_live_branch(&self) -> bool {
        self.branches.iter().any(Branch::is_live)
    }

    pub(crate) fn branch(&self, index: u32) -> Option<&Branch> {
        self.branches.get(index as usize)
    }

    pub(crate) fn branch_mut(&mut self, index: u32) -> Option<&mut Branch> {
        self.branches.get_mut(index as usize)
    }

    /// The leg of a side, as seen from a branch.
    pub(crate) fn leg(&self, branch: u32, side: Side) -> Option<&Leg> {
        match side {
            Side::Caller => Some(&self.caller),
            Side::Callee => self.branch(branch)?.leg.as_ref(),
        }
    }

    /// Whether nothing holds it any more.
    fn is_over(&self) -> bool {
        self.stage == Stage::Ended { reported: true } && !self.has_live_branch() && self.deadlines.is_empty()
    }
}

impl Branch {
    pub(crate) fn is_live(&self) -> bool {
        matches!(
            self.state,
            BranchState::Resolving(_) | BranchState::Calling(_) | BranchState::Cancelling(_)
        )
    }

    /// The dialog with this tag of the callee.
    pub(crate) fn dialog_mut(&mut self, callee_tag: &str) -> Option<&mut Dialog> {
        self.dialogs
            .iter_mut()
            .find(|dialog| dialog.tag(Side::Callee) == callee_tag)
    }
}

/// The leg of the media crate for a side of the dialog.
pub(crate) const fn leg_id(side: Side) -> LegId {
    match side {
        Side::Caller => LegId::A,
        Side::Callee => LegId::B,
    }
}

impl Leg {
    /// Where a request to this leg goes, when the dialog says `next_hop` (RFC 3261 §12.2.1.1).
    ///
    /// With far-end NAT traversal, or over a connection, that is the flow, whatever private address the Contact names
    /// (RFC 5626 §5.3). Names are never looked up here: for them the leg's last address has to do.
    fn hop(&self, next_hop: Option<&Uri<'_>>) -> Destination {
        if self.trunk.fent || self.way.transport().reliable() {
            return self.way.clone();
        }
        let Some(address) = next_hop.and_then(udp_address) else {
            return self.way.clone();
        };
        let mut way = self.way.clone();
        let remote = match &mut way {
            Destination::Flow(Flow { remote, .. }) | Destination::Peer { remote, .. } => remote,
        };
        // What listens on the loopback interface of this machine is not for peers from outside.
        let is_inward = address.ip().is_loopback() && !remote.ip().is_loopback();
        if remote.is_ipv4() == address.is_ipv4() && !is_inward {
            *remote = address;
        }
        way
    }

    /// Notes where a message of this leg came from: another connection, or, with far-end NAT traversal, another port that
    /// the NAT gave the same flow. Another address does not move a leg that has no connection: a datagram's may be forged.
    pub(crate) fn seen_on(&mut self, flow: &Flow) {
        let is_rebound =
            self.trunk.fent && flow.transport == self.way.transport() && flow.remote.ip() == self.way.remote().ip();
        if flow.trunk == self.trunk.id && (flow.connection.is_some() || is_rebound) {
            self.way = Destination::Flow(flow.clone());
        }
    }

    /// Whether a message on this flow comes from where the leg is: its connection, or its address.
    pub(crate) fn is_reached_by(&self, flow: &Flow) -> bool {
        flow.trunk == self.trunk.id
            && flow.remote.ip() == self.way.remote().ip()
            && (flow.connection.is_none() || flow.connection == self.way.connection())
    }
}

/// The address of a URI that is reached by UDP and needs no look-up.
fn udp_address(uri: &Uri<'_>) -> Option<SocketAddr> {
    let uri = uri.sip()?;
    let over_udp = !uri.is_secure()
        && uri
            .transport()
            .is_none_or(|transport| transport.eq_ignore_ascii_case("udp"));
    let ip = uri
        .host()
        .ip()
        .filter(|ip| over_udp && !ip.is_unspecified() && !ip.is_multicast())
        .filter(|ip| *ip != IpAddr::V4(Ipv4Addr::BROADCAST))?;
    Some(SocketAddr::new(
        ip,
        uri.port().unwrap_or(Transport::Udp.default_sip_port()),
    ))
}

impl Engine {
    /// Where a request to a leg goes, see [`Leg::hop`]. Never to ourselves: a Contact that names the edge would have every
    /// request of its dialog come back until Max-Forwards is used up.
    pub(crate) fn hop(&self, leg: &Leg, next_hop: Option<&Uri<'_>>) -> Destination {
        let way = leg.hop(next_hop);
        let remote = way.remote();
        if self.listeners.is_own_address(remote.ip(), remote.port()) {
            return leg.way.clone();
        }
        way
    }

    /// Runs `act` on a call that is taken out of the table for the time, and puts it back unless it is over.
    pub(crate) fn with_call<T>(&mut self, key: CallKey, act: impl FnOnce(&mut Self, &mut Call) -> T) -> Option<T> {
        let mut call = self.calls.remove(&key)?;
        let result = act(self, &mut call);
        self.put_back(call);
        Some(result)
    }

    pub(crate) fn put_back(&mut self, call: Box<Call>) {
        if !call.is_over() {
            self.calls.insert(call.key, call);
            return;
        }
        self.calls_by_conversation.remove(&call.id);
        let call_id = &*call.record.call_id;
        if let Some(keys) = self.calls_by_call_id.get_mut(call_id) {
            keys.retain(|key| *key != call.key);
            if keys.is_empty() {
                self.calls_by_call_id.remove(call_id);
            }
        }
    }

    /// Sets, moves or takes back a deadline of a call.
    pub(crate) fn arm(&mut self, call: &mut Call, deadline: Deadline, at: Option<Instant>) {
        call.deadlines.retain(|(armed, kind)| {
            let keep = *kind != deadline;
            if !keep {
                self.deadlines.remove(&(*armed, call.key, deadline));
            }
            keep
        });
        if let Some(at) = at {
            call.deadlines.push((at, deadline));
            self.deadlines.insert((at, call.key, deadline));
        }
    }

    pub(crate) fn handle_deadline(&mut self, cx: Cx<'_>, key: CallKey, deadline: Deadline) {
        self.with_call(key, |engine, call| {
            call.deadlines.retain(|(_, kind)| *kind != deadline);
            match deadline {
                Deadline::Dial(branch) => engine.dial_timed_out(cx, call, branch),
                Deadline::Session => engine.session_expired(cx, call),
                Deadline::Ack => engine.ack_missing(cx, call),
                Deadline::NoMedia => engine.media_missing(cx, call),
                Deadline::Figures => engine.figures_missing(call),
                Deadline::Linger => {}
            }
        });
    }

    pub(crate) fn report_call(&mut self, call: &Call) {
        self.report(Report::Call(Box::new(call.record.clone())));
    }

    /// The last figures of the relay, or an estimate of none.
    pub(crate) fn record_media(&mut self, call: &mut Call, stats: Option<&PerLeg<LegStats>>) {
        let answered = call
            .branches
            .iter()
            .find(|branch| matches!(branch.state, BranchState::Answered(_)));
        let running = answered.and_then(|branch| branch.media.as_ref()?.session.summary());
        if let Some(summary) = running.as_ref().or(call.summary.as_ref()) {
            call.record.media = crate::media::record(summary, stats);
        }
    }

    /// Whether a Record-Route or Route value is one of ours.
    pub(crate) fn is_own_route(&self, uri: &Uri<'_>) -> bool {
        let Some(sip) = uri.sip() else { return false };
        // The address settles it almost always, and costs a comparison instead of an HMAC.
        self.listeners.is_own_route(&sip) || sip.user().is_some_and(|user| self.tokens.read(user).is_some())
    }

    /// How many of the topmost Route values are ours, and the first that is not.
    pub(crate) fn own_routes<'a>(&self, inbound: &'a Inbound) -> (usize, Option<Uri<'a>>) {
        let mut own = 0;
        for address in inbound.request.addresses(HeaderName::Route) {
            let Ok(address) = address else { break };
            let uri = address.uri();
            // A phone may name its outbound proxy by our domain.
            let by_domain = || {
                uri.sip()
                    .is_some_and(|sip| self.listeners.is_own_domain(&inbound.trunk, &sip))
            };
            if !self.is_own_route(&uri) && !by_domain() {
                return (own, Some(address.uri()));
            }
            own += 1;
        }
        (own, None)
    }
}
