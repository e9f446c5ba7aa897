use std::fmt;

use rand_core::Rng;

use super::{Algorithm, Hex, ResponseInput, Role, ha1, response};
use crate::header::{AuthScheme, HeaderName};
use crate::message::Response;
use crate::method::Method;

/// Answers the challenges of one server for one realm, counting nonce uses (RFC 7616 §3.4, RFC 3261 §22.2).
#[derive(Clone)]
pub struct ClientDigest {
    role: Role,
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    has_qop: bool,
    stale: bool,
    /// Uses of this nonce so far.
    count: u32,
}

/// Why a 401 or 407 cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// The response is neither 401 nor 407.
    #[error("not a challenge")]
    NotAChallenge,
    /// The response holds no Digest challenge with a known algorithm and, if it names any, `qop` with `auth`.
    #[error("no supported challenge")]
    NoneSupported,
}

impl ClientDigest {
    /// Takes the first challenge that is supported: the server lists them by preference (RFC 8760 §2.4).
    ///
    /// # Errors
    /// See [`ChallengeError`].
    pub fn from_challenge(response: &Response) -> Result<Self, ChallengeError> {
        let role = [Role::UserAgent, Role::Proxy]
            .into_iter()
            .find(|role| role.status() == response.status());
        let role = role.ok_or(ChallengeError::NotAChallenge)?;
        let mut challenges = response
            .lines(role.challenge_header())
            .filter_map(|line| AuthScheme::parse(line).ok());
        challenges
            .find_map(|auth| Self::read(&auth, role))
            .ok_or(ChallengeError::NoneSupported)
    }

    fn read(auth: &AuthScheme<'_>, role: Role) -> Option<Self> {
        if !auth.is_digest() {
            return None;
        }
        let qop = auth.value("qop");
        if qop
            .as_ref()
            .is_some_and(|list| !list.split(',').any(|one| one.trim().eq_ignore_ascii_case("auth")))
        {
            return None;
        }
        Some(Self {
            role,
            // Kept as between the quotes: it is echoed between quotes, and that text is hashed.
            realm: inner(auth, "realm")?,
            nonce: inner(auth, "nonce")?,
            opaque: inner(auth, "opaque"),
            algorithm: auth
                .value("algorithm")
                .map_or(Some(Algorithm::Md5), |token| Algorithm::parse(&token))?,
            has_qop: qop.is_some(),
            stale: auth
                .value("stale")
                .is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
            count: 0,
        })
    }

    /// Whether the server only wants a fresh nonce. A second challenge that is not stale means wrong credentials.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Realm as it stands between the quotes.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// Algorithm of the chosen challenge.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Field and value for the next request with this nonce. `uri` is the Request-URI as it will be sent. The value is a secret as
    /// long as the nonce lives.
    pub fn authorize(
        &mut self,
        username: &str,
        password: &str,
        method: &Method,
        uri: &str,
        rng: &mut impl Rng,
    ) -> (HeaderName, String) {
        self.count = self.count.saturating_add(1);
        let mut random = [0; 16];
        rng.fill_bytes(&mut random);
        let cnonce = Hex::encode(&random);
        let nc = format!("{:08x}", self.count);
        let count = self.has_qop.then_some((nc.as_str(), cnonce.as_str()));
        let secret = ha1(self.algorithm, username, &self.realm, password);
        let input = ResponseInput {
            nonce: &self.nonce,
            count,
            method: method.as_str(),
            uri,
        };
        let answer = response(&secret, &input);
        let username = username.replace('\\', "\\\\").replace('"', "\\\"");
        let mut value = format!(
            "Digest username=\"{username}\", realm=\"{}\", nonce=\"{}\", uri=\"{uri}\", response=\"{}\", algorithm={}",
            self.realm,
            self.nonce,
            answer.as_str(),
            self.algorithm.as_str(),
        );
        if let Some((nc, cnonce)) = count {
            value.push_str(&format!(", qop=auth, nc={nc}, cnonce=\"{cnonce}\""));
        }
        if let Some(opaque) = &self.opaque {
            value.push_str(&format!(", opaque=\"{opaque}\""));
        }
        (self.role.credentials_header(), value)
    }
}

fn inner(auth: &AuthScheme<'_>, name: &str) -> Option<String> {
    let raw = auth.param(name)?.raw();
    Some(
        raw.strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(raw)
            .to_owned(),
    )
}

impl fmt::Debug for ClientDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientDigest")
            .field("role", &self.role)
            .field("realm", &self.realm)
            .field("algorithm", &self.algorithm)
            .field("stale", &self.stale)
            .finish_non_exhaustive()
    }
}
