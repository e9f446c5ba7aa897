//! Inbound digest authentication (rows 35-39): who sends this, and may it speak for that address of record?

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline_shared::credential::DigestAlgorithm;
use trunkline_shared::reject::Reject;
use trunkline_shared::snapshot::Snapshot;
use trunkline_sip::digest::{Algorithm, DigestServer, Ha1, NonceKey, Outcome, Role};

use crate::engine::{Cx, Engine};
use crate::inbound::{Inbound, decided, user_of};
use crate::io::Report;
use crate::metrics::Counter;
use crate::refuse::Refusal;
use crate::token::Tokens;

/// A user that has proved to be one, or a trunk that does not ask.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    /// User name of the credentials; `None` when the trunk did not ask.
    pub username: Option<Arc<str>>,
    /// Whether this answers a challenge of ours just now: such a request was counted when it was challenged.
    pub answers_challenge: bool,
}

/// What came of the credentials.
pub(crate) enum Verdict {
    /// Valid, or not asked for.
    Accepted(Identity),
    /// Not valid: the answer.
    Refused(Box<Refusal>),
}

/// Wrong answers in one chain before it is given up (row 35).
const MAX_FAILURES: u8 = 3;

impl Engine {
    /// Checks the credentials of a request, when the trunk asks for them, and what they are good for.
    pub(crate) fn authenticate(&mut self, cx: Cx<'_>, inbound: &Inbound, role: Role) -> Verdict {
        let digest = &inbound.trunk.inbound_digest;
        let request = &inbound.request;
        if !digest.enabled || !digest.methods.contains_token(request.method().as_str()) {
            return Verdict::Accepted(Identity::default());
        }
        if self.failures.count(request.call_id(), cx.now.mono) >= MAX_FAILURES {
            return Verdict::Refused(Box::new(Reject::AuthenticationFailed.into()));
        }
        let algorithms = inbound
            .trunk
            .properties
            .digest_algorithms()
            .iter()
            .map(|algorithm| sip_algorithm(*algorithm));
        let server = DigestServer::new(Arc::clone(&digest.realm), role).with_algorithms(algorithms);
        let reject = match self.verify(cx, inbound, &server) {
            Outcome::Ok(authenticated) => {
                let username: Arc<str> = authenticated.username().into();
                if let Some(refusal) = self.check_aor(inbound, &username) {
                    return Verdict::Refused(Box::new(refusal));
                }
                let answers_challenge = authenticated.nonce_count() == Some(1);
                return Verdict::Accepted(Identity {
                    username: Some(username),
                    answers_challenge,
                });
            }
            Outcome::Malformed(_) => return Verdict::Refused(Box::new(Reject::BadRequest.into())),
            Outcome::Missing if role == Role::Proxy => Reject::ProxyAuthenticationRequired,
            Outcome::Missing => Reject::AuthenticationRequired,
            // A repeated count is mostly a phone that lost an answer: with a fresh nonce it comes in.
            Outcome::Stale | Outcome::Replay { .. } => Reject::StaleNonce,
            Outcome::BadCredentials { username } => {
                self.note_auth_failure(cx, inbound, username, "bad_credentials");
                Reject::BadCredentials
            }
            Outcome::UnknownUser { username } => {
                self.note_auth_failure(cx, inbound, username, "unknown_user");
                Reject::BadCredentials
            }
        };
        Verdict::Refused(Box::new(self.challenge(cx, &server, reject)))
    }

    fn verify(&self, cx: Cx<'_>, inbound: &Inbound, server: &DigestServer) -> Outcome {
        let request = &inbound.request;
        let ha1 = |username: &str, algorithm: Algorithm| {
            let credential = self.snapshot.credential(&inbound.trunk.id, username)?;
            let usable = credential.enabled && *credential.realm == *server.realm();
            usable
                .then(|| Ha1::from_hex(algorithm, credential.ha1.hash(shared_algorithm(algorithm))))
                .flatten()
        };
        let mut outcome = Outcome::Stale;
        for key in &self.nonce_keys {
            cx.env.with_replay_guard(&mut |guard| {
                outcome = server.verify(request, key, cx.now.wall, guard, ha1);
            });
            if outcome != Outcome::Stale {
                break;
            }
        }
        outcome
    }

    /// A user speaks for its own address of record only, unless the trunk allows more.
    fn check_aor(&self, inbound: &Inbound, username: &str) -> Option<Refusal> {
        let trunk = &inbound.trunk;
        if trunk.inbound_digest.allow_foreign_aor || inbound.request.to_tag().is_some() {
            return None;
        }
        let own = self
            .snapshot
            .credential(&trunk.id, username)
            .map(|credential| Arc::clone(&credential.aor_user))?;
        let address = if inbound.request.method().as_str() == "REGISTER" {
            inbound.request.to()
        } else {
            inbound.request.from()
        };
        let claimed = user_of(&address.uri());
        if claimed.as_deref() == Some(&*own) {
            return None;
        }
        Some(Refusal::new(Reject::ForeignAor).by(decided(&trunk.id, "inbound_digest.allow_foreign_aor", false)))
    }

    fn challenge(&mut self, cx: Cx<'_>, server: &DigestServer, reject: Reject) -> Refusal {
        let Some(key) = self.nonce_keys.first() else {
            return Reject::Internal.into();
        };
        let stale = reject == Reject::StaleNonce;
        let values = server.challenges(key, cx.now.wall, &mut self.rng, stale);
        let mut refusal = Refusal::new(reject);
        refusal.status = Some(server.role().status());
        for value in values {
            refusal = refusal.header(server.role().challenge_header(), value);
        }
        cx.env.count(Counter::ChallengesSent);
        refusal
    }

    fn note_auth_failure(&mut self, cx: Cx<'_>, inbound: &Inbound, username: String, reason: &'static str) {
        cx.env.count(Counter::AuthenticationFailures);
        self.failures.note(inbound.request.call_id(), cx.now.mono);
        if self.may_report_refusal(cx) {
            let report = Report::AuthenticationFailure {
                trunk: inbound.trunk.id.clone(),
                source: inbound.flow.remote,
                username,
                reason,
            };
            self.report(report);
        }
    }
}

/// Current key first. Before the control plane has given any, one of this worker's own: its nonces are good here only.
pub(crate) fn nonce_keys(snapshot: &Snapshot, tokens: &Tokens) -> Vec<NonceKey> {
    let shared = &snapshot.settings().nonce_keys;
    if shared.is_empty() {
        return vec![NonceKey::new(tokens.derived_key())];
    }
    shared.iter().map(|key| NonceKey::new(*key.expose())).collect()
}

fn shared_algorithm(algorithm: Algorithm) -> DigestAlgorithm {
    match algorithm {
        Algorithm::Md5 => DigestAlgorithm::Md5,
        Algorithm::Sha256 => DigestAlgorithm::Sha256,
        Algorithm::Sha512_256 => DigestAlgorithm::Sha512_256,
    }
}

fn sip_algorithm(algorithm: DigestAlgorithm) -> Algorithm {
    match algorithm {
        DigestAlgorithm::Md5 => Algorithm::Md5,
        DigestAlgorithm::Sha256 => Algorithm::Sha256,
        DigestAlgorithm::Sha512_256 => Algorithm::Sha512_256,
    }
}

/// Digest failures of the last minutes by Call-ID; the oldest is forgotten when there are too many.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    counts: HashMap<Box<str>, u8>,
    order: VecDeque<(Instant, Box<str>)>,
}

/// How long a failure counts.
const FAILURE_MEMORY: Duration = Duration::from_secs(300);
/// Call-IDs remembered.
const FAILURE_CAPACITY: usize = 4096;

impl Failures {
    pub(crate) fn count(&mut self, call_id: &str, now: Instant) -> u8 {
        self.forget(now);
        self.counts.get(call_id).copied().unwrap_or(0)
    }

    pub(crate) fn note(&mut self, call_id: &str, now: Instant) {
        self.forget(now);
        if let Some(count) = self.counts.get_mut(call_id) {
            *count = count.saturating_add(1);
            return;
        }
        if self.order.len() >= FAILURE_CAPACITY
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.counts.remove(&oldest);
        }
        self.counts.insert(call_id.into(), 1);
        self.order.push_back((now, call_id.into()));
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, _)) = self.order.front() {
            if now.saturating_duration_since(*since) < FAILURE_MEMORY {
                break;
            }
            if let Some((_, call_id)) = self.order.pop_front() {
                self.counts.remove(&call_id);
            }
        }
    }
}
