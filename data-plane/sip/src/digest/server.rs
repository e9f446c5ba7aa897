use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand_core::Rng;
use smallvec::SmallVec;

use super::nonce::millis;
use super::replay::Verdict;
use super::{Algorithm, Ha1, Hex, NonceKey, ReplayGuard, ResponseInput, ha1, response};
use crate::header::{AuthScheme, HeaderName};
use crate::message::Request;
use crate::status::StatusCode;
use crate::uri::Uri;

/// In which role credentials are asked for (RFC 3261 §22.2, §22.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Registrar or UAS: 401, WWW-Authenticate, Authorization.
    UserAgent,
    /// Proxy: 407, Proxy-Authenticate, Proxy-Authorization.
    Proxy,
}

impl Role {
    /// Status of a challenge.
    pub fn status(self) -> StatusCode {
        match self {
            Self::UserAgent => StatusCode::UNAUTHORIZED,
            Self::Proxy => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        }
    }

    /// Field of a challenge.
    pub fn challenge_header(self) -> HeaderName {
        match self {
            Self::UserAgent => HeaderName::WwwAuthenticate,
            Self::Proxy => HeaderName::ProxyAuthenticate,
        }
    }

    /// Field of the credentials.
    pub fn credentials_header(self) -> HeaderName {
        match self {
            Self::UserAgent => HeaderName::Authorization,
            Self::Proxy => HeaderName::ProxyAuthorization,
        }
    }
}

/// Challenges requests and checks credentials for one realm.
#[derive(Debug, Clone)]
pub struct DigestServer {
    realm: Arc<str>,
    role: Role,
    algorithms: SmallVec<[Algorithm; 3]>,
    lifetime: Duration,
}

/// Proof that a request carried valid credentials. Only [`DigestServer::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    username: String,
    algorithm: Algorithm,
    count: Option<u32>,
}

impl Authenticated {
    /// User name as it stands in the credentials, unescaped; exact and case-sensitive.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Algorithm the client chose.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How often the client has used this nonce, this time included; `None` without `qop`.
    pub fn nonce_count(&self) -> Option<u32> {
        self.count
    }
}

/// What came of checking credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Valid.
    Ok(Authenticated),
    /// No Digest credentials for this realm: challenge.
    Missing,
    /// The nonce is not ours, expired, or no longer remembered: challenge with `stale=true`; no failure of the user.
    Stale,
    /// The response is wrong.
    BadCredentials {
        /// Name that was claimed.
        username: String,
    },
    /// No such user.
    UnknownUser {
        /// Name that was claimed.
        username: String,
    },
    /// Right, but this nonce count was used before.
    Replay {
        /// Name that was claimed.
        username: String,
    },
    /// Credentials against the rules: answer 400.
    Malformed(&'static str),
}

impl DigestServer {
    /// SHA-256 first, then MD5 for old phones, nonces valid for 300 s.
    ///
    /// `realm` is written between quotes; `"` and `\` in it are escaped, CR, LF and NUL make a challenge that cannot be written.
    pub fn new(realm: impl Into<Arc<str>>, role: Role) -> Self {
        let algorithms = SmallVec::from_slice(&[Algorithm::Sha256, Algorithm::Md5]);
        Self {
            realm: realm.into(),
            role,
            algorithms,
            lifetime: Duration::from_secs(300),
        }
    }

    /// Algorithms to offer, preferred first (RFC 8760 §2.4). SHA-512-256 is accepted whenever SHA-256 is offered.
    pub fn with_algorithms(mut self, algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        self.algorithms = algorithms.into_iter().collect();
        self
    }

    /// How long a nonce is good for.
    pub fn with_nonce_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Realm.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// Role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Header values of a challenge, one field each, all with the same nonce, in order of preference.
    pub fn challenges(&self, key: &NonceKey, wall: SystemTime, rng: &mut impl Rng, stale: bool) -> Vec<String> {
        let nonce = key.issue(&self.realm, wall, rng);
        let realm = if self.realm.contains(['\\', '"']) {
            Cow::Owned(self.realm.replace('\\', "\\\\").replace('"', "\\\""))
        } else {
            Cow::Borrowed(&*self.realm)
        };
        let stale = if stale { ", stale=true" } else { "" };
        let value = |algorithm: &Algorithm| {
            format!(
                "Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={}, qop=\"auth\"{stale}",
                algorithm.as_str()
            )
        };
        self.algorithms.iter().map(value).collect()
    }

    /// Checks the credentials of a request. `lookup` gives the HA1 of a user for an algorithm; users without one for the
    /// algorithm they chose are unknown.
    ///
    /// The nonce is checked before the user: a client with an old nonce is asked again without anything being said about its
    /// password. The count is marked as used only when the response is right.
    pub fn verify(
        &self,
        request: &Request,
        key: &NonceKey,
        wall: SystemTime,
        replays: &mut ReplayGuard,
        lookup: impl FnOnce(&str, Algorithm) -> Option<Ha1>,
    ) -> Outcome {
        let credentials = match self.credentials(request) {
            Ok(Some(credentials)) => credentials,
            Ok(None) => return Outcome::Missing,
            Err(reason) => return Outcome::Malformed(reason),
        };
        if !same_resource(&credentials.uri, request) {
            return Outcome::Malformed("digest uri names another resource");
        }
        let Some(nonce) = key.check(&credentials.nonce, &self.realm, wall, self.lifetime) else {
            return Outcome::Stale;
        };
        let username = credentials.username.clone();
        let known = lookup(&username, credentials.algorithm).filter(|known| known.algorithm() == credentials.algorithm);
        let is_known = known.is_some();
        // An unknown user takes as long as a known one.
        let ha1 = known.unwrap_or_else(|| ha1(credentials.algorithm, "", "", ""));
        let is_right = response(&ha1, &credentials.input(request)).matches(&credentials.response);
        if !is_known {
            return Outcome::UnknownUser { username };
        }
        if !is_right {
            return Outcome::BadCredentials { username };
        }
        let oldest = millis(wall).saturating_sub(u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX));
        match replays.mark(nonce, credentials.count_number(), oldest) {
            Verdict::Fresh => Outcome::Ok(Authenticated {
                username,
                algorithm: credentials.algorithm,
                count: credentials.count.map(|count| count.number),
            }),
            Verdict::Replayed => Outcome::Replay { username },
            Verdict::Forgotten => Outcome::Stale,
        }
    }

    /// The first Digest credentials for our realm; those for others belong to others.
    fn credentials(&self, request: &Request) -> Result<Option<Credentials>, &'static str> {
        for line in request.lines(self.role.credentials_header()) {
            let Ok(auth) = AuthScheme::parse(line) else {
                let is_digest = line
                    .get(..6)
                    .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Digest"));
                if is_digest {
                    return Err("credentials do not parse");
                }
                continue;
            };
            if auth.is_digest() && auth.value("realm").is_some_and(|realm| realm == *self.realm) {
                return Credentials::read(&auth, |algorithm| self.accepts(algorithm)).map(Some);
            }
        }
        Ok(None)
    }

    fn accepts(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
            || (algorithm == Algorithm::Sha512_256 && self.algorithms.contains(&Algorithm::Sha256))
    }
}

struct Credentials {
    username: String,
    nonce: String,
    uri: String,
    algorithm: Algorithm,
    response: Hex,
    count: Option<Count>,
}

/// `nc` and `cnonce` of credentials with `qop=auth`.
struct Count {
    text: String,
    number: u32,
    cnonce: String,
}

impl Credentials {
    fn read(auth: &AuthScheme<'_>, accepts: impl Fn(Algorithm) -> bool) -> Result<Self, &'static str> {
        if auth
            .value("userhash")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
        {
            return Err("userhash is not offered");
        }
        // No algorithm means MD5 (RFC 7616 §3.3).
        let algorithm = auth
            .value("algorithm")
            .map_or(Some(Algorithm::Md5), |token| Algorithm::parse(&token));
        let algorithm = algorithm
            .filter(|algorithm| accepts(*algorithm))
            .ok_or("algorithm was not offered")?;
        // The hash covers the text between the quotes, so escapes stay (RFC 7616 §3.4.1, unq).
        let inner = |name: &str| auth.param(name).map(|param| bare(param.raw()).to_owned());
        let response = inner("response").ok_or("response is missing")?;
        let response = Hex::parse(&response).filter(|hex| hex.as_bytes().len() == algorithm.hex_len());
        let count = match auth.value("qop") {
            None => None,
            Some(qop) if qop.eq_ignore_ascii_case("auth") => {
                let text = inner("nc").ok_or("nc is missing")?;
                let is_hex = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
                let number = u32::from_str_radix(&text, 16).ok().filter(|nc| is_hex && *nc > 0);
                let number = number.ok_or("nc is not eight hexadecimal digits above 0")?;
                Some(Count {
                    text,
                    number,
                    cnonce: inner("cnonce").ok_or("cnonce is missing")?,
                })
            }
            Some(_) => return Err("qop was not offered"),
        };
        Ok(Self {
            username: auth.value("username").ok_or("username is missing")?.into_owned(),
            nonce: inner("nonce").ok_or("nonce is missing")?,
            uri: inner("uri").ok_or("uri is missing")?,
            algorithm,
            response: response.ok_or("response has the wrong length")?,
            count,
        })
    }

    fn input<'a>(&'a self, request: &'a Request) -> ResponseInput<'a> {
        ResponseInput {
            nonce: &self.nonce,
            count: self
                .count
                .as_ref()
                .map(|count| (count.text.as_str(), count.cnonce.as_str())),
            method: request.method().as_str(),
            uri: &self.uri,
        }
    }

    /// Without qop the nonce is used up by one request.
    fn count_number(&self) -> u32 {
        self.count.as_ref().map_or(u32::MAX, |count| count.number)
    }
}

fn bare(raw: &str) -> &str {
    raw.strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(raw)
}

/// RFC 3261 §22.4 item 2 lets the URIs differ in escaping and by what proxies changed; scheme, user and host must not.
fn same_resource(digest_uri: &str, request: &Request) -> bool {
    let Ok(claimed) = Uri::parse(digest_uri.as_bytes()) else {
        return false;
    };
    match (claimed, request.uri()) {
        (Uri::Sip(a), Uri::Sip(b)) => {
            let user = |user: Option<&str>| user.map(|user| crate::uri::unescape(user).into_owned());
            a.is_secure() == b.is_secure() && a.host() == b.host() && user(a.user()) == user(b.user())
        }
        (a, b) => a.is_equivalent(&b),
    }
}
