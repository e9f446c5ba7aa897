//! Who is let in: the questions every request outside of a dialog has to pass, in order.
//!
//! State, access list, rate, calls, credentials. The cheap ones come first, and a request that answers our challenge is not
//! counted twice.

use trunkline_shared::acl::via_address;
use trunkline_shared::property::DenyAction;
use trunkline_shared::rate::{Rate, TokenBucket};
use trunkline_shared::reject::Reject;
use trunkline_sip::digest::Role;
use trunkline_sip::header::HeaderName;
use trunkline_sip::method::Method;
use trunkline_sip::transaction::TransactionId;

use crate::auth::{Identity, Verdict};
use crate::engine::{Cx, Engine};
use crate::inbound::{Inbound, decided};
use crate::refuse::Refusal;

/// Why a request is not let in.
#[derive(Debug)]
pub(crate) enum Denial {
    /// It gets this answer.
    Refused(Box<Refusal>),
    /// It gets none (custom property `acl.deny_action`).
    Silent,
}

/// Refused calls and digest failures that are reported, by a shard; beyond, they are counted only. A flood must not fill
/// the spool that carries the records of real calls.
const REPORTED_REFUSALS: &str = "50/1s";

impl Engine {
    /// Asks all questions. For an INVITE that is let in, one call slot of the trunk is taken.
    pub(crate) fn admit(&mut self, cx: Cx<'_>, inbound: &Inbound, role: Role) -> Result<Identity, Denial> {
        let trunk = &inbound.trunk;
        if self.draining || self.snapshot.settings().drain {
            return Err(refused(Reject::Draining));
        }
        if !trunk.in_service() {
            let by = decided(&trunk.id, "state", "OUT_OF_SERVICE");
            return Err(Denial::Refused(Box::new(Refusal::new(Reject::OutOfService).by(by))));
        }
        self.check_source(inbound)?;
        if *inbound.request.method() == Method::Invite && self.calls.len() >= self.config.max_calls {
            return Err(refused(Reject::Overloaded));
        }
        let verdict = self.authenticate(cx, inbound, role);
        let counted = matches!(&verdict, Verdict::Accepted(identity) if identity.answers_challenge);
        if !counted {
            take_rate(cx, inbound)?;
        }
        if *inbound.request.method() == Method::Invite && !cx.env.acquire_call_slot(trunk) {
            let by = decided(&trunk.id, "max_calls", trunk.max_calls.unwrap_or(0));
            return Err(Denial::Refused(Box::new(Refusal::new(Reject::MaxCalls).by(by))));
        }
        match verdict {
            Verdict::Accepted(identity) => Ok(identity),
            Verdict::Refused(refusal) => {
                if *inbound.request.method() == Method::Invite {
                    cx.env.release_call_slot(&trunk.id);
                }
                Err(Denial::Refused(refusal))
            }
        }
    }

    /// The question that no request but one of a running call is spared.
    pub(crate) fn check_source(&self, inbound: &Inbound) -> Result<(), Denial> {
        check_access(inbound)
    }

    /// Answers a request that was not let in, or forgets it.
    pub(crate) fn deny(&mut self, cx: Cx<'_>, inbound: &Inbound, denial: &Denial) {
        match denial {
            Denial::Refused(refusal) => {
                self.refuse(cx, inbound, refusal);
                if is_cheap(refusal.reject) {
                    // The answer is under way and may be given again: whoever is not let in must not fill the
                    // table of transactions, each of which stays for 32 s (RFC 3261 §8.2.7).
                    self.settle_transmits(cx);
                    self.transactions.abandon(TransactionId::Server(inbound.server));
                }
            }
            Denial::Silent => {
                cx.env.count_reject(Reject::AclDenied, Some(&inbound.trunk.id));
                self.servers.remove(&inbound.server);
                self.transactions.abandon(TransactionId::Server(inbound.server));
            }
        }
    }

    /// Whether one more refusal may be reported now.
    pub(crate) fn may_report_refusal(&mut self, cx: Cx<'_>) -> bool {
        let bucket = self.refusal_reports.get_or_insert_with(|| {
            let rate: Rate = REPORTED_REFUSALS.parse().expect("the rate follows the grammar");
            TokenBucket::new(&rate, cx.now.mono)
        });
        bucket.try_take(cx.now.mono).is_ok()
    }
}

/// Refusals that a repeated request simply gets again.
fn is_cheap(reject: Reject) -> bool {
    matches!(
        reject,
        Reject::AclDenied | Reject::RegistrationRate | Reject::CallRate | Reject::Overloaded
    )
}

fn refused(reject: Reject) -> Denial {
    Denial::Refused(Box::new(reject.into()))
}

/// Rows 8-11. The Via is looked at as received, before anything is added to it, or row 8 would mean nothing.
fn check_access(inbound: &Inbound) -> Result<(), Denial> {
    let trunk = &inbound.trunk;
    let via = if trunk.acl.use_source_address() {
        None
    } else {
        let bottom = inbound.request.lines(HeaderName::Via).last();
        bottom
            .and_then(|line| std::str::from_utf8(line).ok())
            .and_then(via_address)
    };
    let decision = trunk.acl.decide(inbound.flow.remote.ip(), via);
    if decision.allowed() {
        return Ok(());
    }
    if trunk.properties.acl_deny_action() == DenyAction::Drop {
        return Err(Denial::Silent);
    }
    let by = decided(&trunk.id, &decision.field(), decision.value());
    Err(Denial::Refused(Box::new(Refusal::new(Reject::AclDenied).by(by))))
}

/// Rows 7 and 14.
fn take_rate(cx: Cx<'_>, inbound: &Inbound) -> Result<(), Denial> {
    let trunk = &inbound.trunk;
    let (taken, reject, setting, rate) = match inbound.request.method() {
        Method::Register => (
            cx.env.take_registration(trunk, cx.now.mono),
            Reject::RegistrationRate,
            "max_registration_rate",
            &trunk.max_registration_rate,
        ),
        Method::Invite => (
            cx.env.take_call(trunk, cx.now.mono),
            Reject::CallRate,
            "max_call_rate",
            &trunk.max_call_rate,
        ),
        _ => return Ok(()),
    };
    taken.map_err(|wait| {
        Denial::Refused(Box::new(
            Refusal::new(reject).after(wait).by(decided(&trunk.id, setting, rate)),
        ))
    })
}
