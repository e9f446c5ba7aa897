//! Requests on their way through: what a proxy changes (RFC 3261 §16.6), and nothing else.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use rand_core::Rng;
use sha2::{Digest, Sha256};
use trunkline_shared::name::ConversationId;
use trunkline_sip::edit::Edits;
use trunkline_sip::header::{AuthScheme, FieldName, HeaderName, MAGIC_COOKIE};
use trunkline_sip::message::{Request, Response};
use trunkline_sip::write::{Text, ViaStamp, WriteError};

use crate::io::Transport;

/// Header the conversation id travels in (row 34).
pub(crate) const CONVERSATION_HEADER: &str = "x-inin-cnv";

/// Prefixes of header names that are ours alone (row 34): nobody gets them past us.
const RESERVED_PREFIXES: [&str; 4] = ["x-inin", "x-genesys", "x-pcv", "x-gcv"];

/// How a request leaves. Holds credentials and media keys, so there is no Debug.
#[derive(Default)]
pub(crate) struct Departure<'a> {
    /// New Request-URI; `None` leaves it.
    pub request_uri: Option<String>,
    /// Our own Route values on top that go.
    pub pop_routes: usize,
    /// The last Route value goes: a strict router made it the Request-URI's stand-in (RFC 3261 §16.4).
    pub pop_last_route: bool,
    /// Route values to put on top, topmost first.
    pub routes: Vec<String>,
    /// The former Request-URI, to be the last Route behind a strict router (RFC 3261 §16.6 step 6).
    pub last_route: Option<String>,
    /// Our Record-Route values, topmost (that of the far side) first.
    pub record_routes: Vec<String>,
    /// Body in place of the one received; empty: none.
    pub body: Option<Bytes>,
    /// CSeq number in place of the one received.
    pub cseq: Option<u32>,
    /// RAck value in place of the one received.
    pub rack: Option<String>,
    /// Conversation id to add.
    pub conversation: Option<ConversationId>,
    /// Accept-Language to add when there is none.
    pub language: Option<&'a str>,
    /// Realm whose credentials were for us: they go no further.
    pub consumed_realm: Option<&'a str>,
    /// The sender is a phone that had to prove who it is: what it says of its identity beyond that is not to be believed
    /// (RFC 3325 §5).
    pub untrusted: bool,
    /// Credentials of ours for the next hop: header and value.
    pub credentials: Option<(HeaderName, String)>,
}

/// Writes a request as it leaves: our Via on top of the stamped one of the previous hop.
///
/// # Errors
/// [`WriteError`] when the result would be too large or a value of ours is not fit for a header.
pub(crate) fn write_request(
    request: &Request,
    stamp: ViaStamp,
    via: &Via,
    departure: &Departure<'_>,
) -> Result<Bytes, WriteError> {
    let mut edits = Edits::new();
    edits.stamp_via(stamp).push_via(via).decrement_max_forwards();
    if let Some(uri) = &departure.request_uri {
        edits.request_uri(uri);
    }
    for _ in 0..departure.pop_routes {
        edits.pop_route();
    }
    if departure.pop_last_route {
        edits.pop_last_route();
    }
    for route in departure.routes.iter().rev() {
        edits.push_route(route);
    }
    if let Some(route) = &departure.last_route {
        edits.add(HeaderName::Route, format_args!("<{route}>"));
    }
    for value in departure.record_routes.iter().rev() {
        edits.record_route(value);
    }
    remove_reserved(&mut edits, request.iter().map(|field| field.name));
    if departure.untrusted {
        edits.remove(HeaderName::PAssertedIdentity);
    }
    if let Some(id) = departure.conversation {
        edits.add(FieldName::Text(CONVERSATION_HEADER), id);
    }
    if let Some(language) = departure
        .language
        .filter(|_| !request.contains(HeaderName::AcceptLanguage))
    {
        edits.add(HeaderName::AcceptLanguage, language);
    }
    if let Some(realm) = departure.consumed_realm {
        remove_credentials(&mut edits, request, realm);
    }
    if let Some((name, value)) = &departure.credentials {
        edits.add(*name, value);
    }
    if let Some(cseq) = departure.cseq.filter(|cseq| *cseq != request.cseq_number()) {
        edits.set(HeaderName::CSeq, format_args!("{cseq} {}", request.method()));
    }
    if let Some(rack) = &departure.rack {
        edits.set(HeaderName::RAck, rack);
    }
    match &departure.body {
        Some(body) if body.is_empty() => {
            edits.remove_body();
        }
        Some(body) => {
            edits.content(body.clone());
        }
        None => {}
    }
    let mut out = BytesMut::new();
    edits.write_request(request, &mut out)?;
    Ok(out.freeze())
}

/// How a response goes back. Holds media keys, so there is no Debug.
#[derive(Default)]
pub(crate) struct Return {
    /// Body in place of the one received.
    pub body: Option<Bytes>,
    /// Conversation id to add.
    pub conversation: Option<ConversationId>,
    /// CSeq number in place of the one received.
    pub cseq: Option<u32>,
    /// Reason to add when there is none of Q.850 yet.
    pub reason: Option<String>,
}

/// Writes a response as it goes back: our Via removed.
///
/// # Errors
/// As [`write_request`].
pub(crate) fn write_response(response: &Response, back: &Return) -> Result<Bytes, WriteError> {
    let mut edits = Edits::new();
    edits.pop_via();
    remove_reserved(&mut edits, response.iter().map(|field| field.name));
    if let Some(id) = back.conversation {
        edits.add(FieldName::Text(CONVERSATION_HEADER), id);
    }
    if let Some(cseq) = back.cseq.filter(|cseq| *cseq != response.cseq_number()) {
        edits.set(HeaderName::CSeq, format_args!("{cseq} {}", response.cseq_method()));
    }
    if let Some(reason) = &back.reason {
        edits.add(HeaderName::Reason, reason);
    }
    if let Some(body) = &back.body {
        edits.content(body.clone());
    }
    let mut out = BytesMut::new();
    edits.write_response(response, &mut out)?;
    Ok(out.freeze())
}

fn remove_reserved<'a>(edits: &mut Edits, names: impl Iterator<Item = FieldName<'a>>) {
    for name in names {
        let text = name.as_str();
        let is_reserved = |prefix: &&str| {
            text.get(..prefix.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
        };
        if RESERVED_PREFIXES.iter().any(is_reserved) {
            edits.remove(name);
        }
    }
}

/// Credentials for our realm are taken out, those for others stay (RFC 3261 §22.3: each is for one realm).
fn remove_credentials(edits: &mut Edits, request: &Request, realm: &str) {
    for name in [HeaderName::Authorization, HeaderName::ProxyAuthorization] {
        let is_ours = |line: &[u8]| {
            AuthScheme::parse(line).is_ok_and(|scheme| scheme.value("realm").is_some_and(|value| value == realm))
        };
        if request.lines(name).any(is_ours) {
            edits.remove(name);
            for line in request.lines(name).filter(|line| !is_ours(line)) {
                edits.add_bytes(name, line);
            }
        }
    }
}

/// A Via of ours.
#[derive(Debug, Clone)]
pub(crate) struct Via {
    pub transport: Transport,
    pub sent_by: SocketAddr,
    pub branch: String,
}

impl std::fmt::Display for Via {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sent_by = Text::socket(self.sent_by);
        for part in [
            "SIP/2.0/",
            self.transport.as_str(),
            " ",
            &sent_by,
            ";branch=",
            &self.branch,
        ] {
            f.write_str(part)?;
        }
        // Our own requests may pass a NAT on the way to a line.
        if self.transport == Transport::Udp {
            f.write_str(";rport")
        } else {
            Ok(())
        }
    }
}

/// Hex digits of the part of a branch that is random.
const BRANCH_RANDOM: usize = 16;
/// Hex digits of the part that says what was forwarded.
const BRANCH_LOOP: usize = 16;

/// A branch: the cookie, 64 random bits, and what the request looked like when it came (RFC 3261 §16.6 step 8).
pub(crate) fn branch<R: Rng + ?Sized>(rng: &mut R, loop_hash: u64) -> String {
    [MAGIC_COOKIE, &Text::hex(rng.next_u64()), &Text::hex(loop_hash)].concat()
}

/// What the way of a request depends on, in one number (RFC 5393 §4.2.2). A request that comes back with any of it changed
/// is a spiral and goes on; unchanged it is a loop. Vias and Max-Forwards are left out: they change on every hop.
pub(crate) fn loop_hash(request: &Request, trunk: &str) -> u64 {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    field(request.uri_text().as_bytes());
    field(request.from_tag().unwrap_or_default().as_bytes());
    field(request.to_tag().unwrap_or_default().as_bytes());
    field(request.call_id().as_bytes());
    field(&request.cseq_number().to_be_bytes());
    field(trunk.as_bytes());
    for name in [
        HeaderName::Route,
        HeaderName::ProxyRequire,
        HeaderName::ProxyAuthorization,
    ] {
        request.lines(name).for_each(&mut field);
    }
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("SHA-256 has 32 octets"))
}

/// Whether this request, just as it is, was forwarded here before (RFC 3261 §16.3 step 4).
pub(crate) fn is_loop(
    request: &Request,
    loop_hash: u64,
    is_own: impl Fn(&trunkline_sip::header::Via<'_>) -> bool,
) -> bool {
    let wanted = Text::hex(loop_hash);
    request.vias().flatten().filter(|via| is_own(via)).any(|via| {
        via.branch().is_some_and(|branch| {
            let length = MAGIC_COOKIE.len() + BRANCH_RANDOM + BRANCH_LOOP;
            branch.len() == length && branch.ends_with(&*wanted)
        })
    })
}
