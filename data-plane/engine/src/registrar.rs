//! The registrar (RFC 3261 §10.3): phones say where they are.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use trunkline_shared::binding::{Aor, AorBindings, Binding};
use trunkline_shared::reject::Reject;
use trunkline_sip::digest::Role;
use trunkline_sip::header::{Contact as ContactHeader, Expires, HeaderName, NameAddr};
use trunkline_sip::message::Request;
use trunkline_sip::status::StatusCode;
use trunkline_sip::uri::{Uri, escape_user};

use crate::engine::{Cx, Engine};
use crate::inbound::{Inbound, decided, user_of};
use crate::io::{Contact, Report, Transport};
use crate::metrics::Counter;
use crate::refuse::Refusal;

/// Expiry granted when the request asks for none, before the trunk's maximum (RFC 3261 §10.2.1.1).
const DEFAULT_EXPIRES: Duration = Duration::from_secs(3600);
/// Longest expiry of a UDP flow through a NAT: its mapping lives about that long, and every refresh renews it.
const FENT_UDP_MAX_EXPIRES: Duration = Duration::from_secs(120);
/// Most Path values kept with a binding.
const MAX_PATH: usize = 8;
/// Octets of the longest Contact URI and of the longest Path value taken.
const MAX_VALUE: usize = 1024;
/// Octets kept of what a phone says it is: User-Agent and instance.
const MAX_NAME: usize = 256;

/// What a REGISTER asks for.
struct Wanted {
    aor: Aor,
    address_of_record: String,
    changes: Vec<Change>,
    /// `Contact: *` with `Expires: 0`.
    remove_all: bool,
    path: Vec<Arc<str>>,
}

/// One Contact.
struct Change {
    uri: Arc<str>,
    q_thousandths: u16,
    /// Zero removes.
    expires: Duration,
    instance_id: Arc<str>,
}

/// What came of it.
enum Applied {
    /// The bindings now, and whether they changed.
    Bindings(Vec<Binding>, bool),
    /// An older request than one already served (RFC 3261 §10.3 step 7).
    OutOfOrder,
    TooMany,
}

impl Engine {
    pub(crate) fn receive_register(&mut self, cx: Cx<'_>, inbound: &Inbound) {
        if let Err(denial) = self.admit(cx, inbound, Role::UserAgent) {
            return self.deny(cx, inbound, &denial);
        }
        match self.read_register(inbound) {
            Ok(wanted) => self.serve_register(cx, inbound, &wanted),
            Err(refusal) => self.refuse(cx, inbound, &refusal),
        }
    }

    fn serve_register(&mut self, cx: Cx<'_>, inbound: &Inbound, wanted: &Wanted) {
        let mut applied = Applied::OutOfOrder;
        cx.env.update_contacts(&wanted.aor, &mut |contacts| {
            applied = self.apply(cx, inbound, wanted, contacts);
            matches!(applied, Applied::Bindings(_, true))
        });
        let trunk = &inbound.trunk;
        let (bindings, changed) = match applied {
            Applied::Bindings(bindings, changed) => (bindings, changed),
            Applied::OutOfOrder => {
                let mut refusal = Refusal::new(Reject::BadRequest);
                refusal.status = Some(StatusCode::SERVER_INTERNAL_ERROR);
                return self.refuse(cx, inbound, &refusal);
            }
            Applied::TooMany => {
                let by = decided(&trunk.id, "registrar.max_bindings", trunk.registrar.max_bindings);
                return self.refuse(cx, inbound, &Refusal::new(Reject::TooManyBindings).by(by));
            }
        };
        cx.env.count(Counter::RegistrationsAccepted);
        self.reply_with(cx, inbound, StatusCode::OK, |mut builder| {
            for binding in &bindings {
                builder = builder.header(HeaderName::Contact, contact_value(binding, cx.now.wall));
            }
            for value in inbound.request.lines(HeaderName::Path) {
                builder = builder.header_bytes(HeaderName::Path, value);
            }
            builder.header(HeaderName::Supported, "path")
        });
        if changed {
            self.report(Report::Registration(AorBindings {
                aor: wanted.aor.clone(),
                address_of_record: wanted.address_of_record.as_str().into(),
                bindings,
                change_time_ms: millis(cx.now.wall),
            }));
        }
    }

    fn read_register(&self, inbound: &Inbound) -> Result<Wanted, Refusal> {
        let request = &inbound.request;
        check_extensions(request, HeaderName::Require, &["path"])?;
        check_extensions(request, HeaderName::ProxyRequire, &[])?;
        let trunk = &inbound.trunk;
        let domain = request.uri().sip().ok_or(Reject::UnsupportedUriScheme)?;
        if !self.listeners.is_own_domain(trunk, &domain) {
            return Err(Reject::NoRoute.into());
        }
        let to = request.to().uri();
        let host = to
            .sip()
            .filter(|uri| self.listeners.is_own_domain(trunk, uri))
            .ok_or(Reject::UnknownUser)?
            .host();
        let user = user_of(&to).ok_or(Reject::UnknownUser)?;
        let address_of_record = format!("sip:{}@{host}", escape_user(&user));
        let aor = Aor {
            trunk: trunk.id.clone(),
            user: user.into(),
        };
        let path = request
            .values(HeaderName::Path)
            .map(|value| std::str::from_utf8(value).map(Arc::from));
        let path: Vec<Arc<str>> = path.collect::<Result<_, _>>().map_err(|_| Reject::BadRequest)?;
        if path.len() > MAX_PATH || path.iter().any(|value| !is_path_value(value)) {
            return Err(Reject::BadRequest.into());
        }
        let (changes, remove_all) = self.read_contacts(inbound)?;
        Ok(Wanted {
            aor,
            address_of_record,
            changes,
            remove_all,
            path,
        })
    }

    fn read_contacts(&self, inbound: &Inbound) -> Result<(Vec<Change>, bool), Refusal> {
        let (request, trunk) = (&inbound.request, &inbound.trunk);
        // A malformed Expires counts as the default (RFC 3261 §10.2.1.1).
        let header = request.typed::<Expires>().ok().flatten().map(|expires| expires.0);
        // As many as there may be, each replaced by another one: what goes beyond is work and nothing else.
        let most = trunk.registrar.max_bindings as usize * 2;
        let contacts: Vec<_> = request
            .contacts()
            .take(most + 1)
            .collect::<Result<_, _>>()
            .map_err(|_| Reject::BadRequest)?;
        if contacts.len() > most {
            let by = decided(&trunk.id, "registrar.max_bindings", trunk.registrar.max_bindings);
            return Err(Refusal::new(Reject::TooManyBindings).by(by));
        }
        if contacts.iter().any(|contact| matches!(contact, ContactHeader::Star)) {
            // RFC 3261 §10.3 step 6: nothing beside it, and only to remove.
            let alone = contacts.len() == 1 && header == Some(0);
            return if alone {
                Ok((Vec::new(), true))
            } else {
                Err(Reject::BadRequest.into())
            };
        }
        let mut changes = Vec::with_capacity(contacts.len());
        for address in contacts.iter().filter_map(ContactHeader::address) {
            let uri = address.uri();
            let target = uri.sip().ok_or(Reject::UnsupportedUriScheme)?;
            // A binding to ourselves is a loop, and two of them make a request double on every turn (RFC 5393 §3).
            if uri.as_str().len() > MAX_VALUE || self.listeners.is_own_route(&target) {
                return Err(Reject::BadRequest.into());
            }
            let asked = address
                .expires()
                .or(header)
                .map_or(DEFAULT_EXPIRES, |seconds| Duration::from_secs(seconds.into()));
            let min = trunk.registrar.min_expires;
            if !asked.is_zero() && asked < min {
                let by = decided(&trunk.id, "registrar.min_expires", format_args!("{}s", min.as_secs()));
                return Err(Refusal::new(Reject::IntervalTooBrief)
                    .by(by)
                    .header(HeaderName::MinExpires, min.as_secs().to_string()));
            }
            let behind_nat = trunk.fent && inbound.flow.transport == Transport::Udp;
            let cap = if behind_nat {
                FENT_UDP_MAX_EXPIRES.max(min)
            } else {
                Duration::MAX
            };
            let instance = address
                .params()
                .find("+sip.instance")
                .and_then(|param| param.unquoted().map(|v| v.into_owned()))
                .filter(|instance| is_quotable(instance));
            changes.push(Change {
                uri: uri.as_str().into(),
                q_thousandths: address.q().unwrap_or(1000),
                expires: asked.min(trunk.registrar.max_expires).min(cap),
                instance_id: instance.unwrap_or_default().into(),
            });
        }
        Ok((changes, false))
    }

    /// All or nothing (RFC 3261 §10.3 step 7).
    fn apply(&self, cx: Cx<'_>, inbound: &Inbound, wanted: &Wanted, contacts: &mut Vec<Contact>) -> Applied {
        let (request, now) = (&inbound.request, cx.now.wall);
        let mut next: Vec<Contact> = contacts
            .iter()
            .filter(|contact| contact.binding.is_live(now))
            .cloned()
            .collect();
        let mut changed = next.len() != contacts.len();
        let is_older =
            |binding: &Binding| *binding.call_id == *request.call_id() && binding.cseq >= request.cseq_number();
        if wanted.remove_all {
            if next.iter().any(|contact| is_older(&contact.binding)) {
                return Applied::OutOfOrder;
            }
            changed |= !next.is_empty();
            next.clear();
        }
        for change in &wanted.changes {
            let known = next
                .iter()
                .position(|contact| is_same_contact(&contact.binding.contact_uri, &change.uri));
            let previous = known.map(|at| next.remove(at));
            if previous.as_ref().is_some_and(|contact| is_older(&contact.binding)) {
                return Applied::OutOfOrder;
            }
            changed |= previous.is_some() || !change.expires.is_zero();
            if !change.expires.is_zero() {
                let created = previous.map_or(now, |contact| contact.binding.create_time);
                next.insert(0, self.contact(inbound, wanted, change, created, now));
            }
        }
        if !wanted.changes.is_empty() && !make_room(&mut next, wanted, inbound.trunk.registrar.max_bindings as usize) {
            return Applied::TooMany;
        }
        let bindings = next.iter().map(|contact| contact.binding.clone()).collect();
        *contacts = next;
        Applied::Bindings(bindings, changed)
    }

    fn contact(
        &self,
        inbound: &Inbound,
        wanted: &Wanted,
        change: &Change,
        created: SystemTime,
        now: SystemTime,
    ) -> Contact {
        let request = &inbound.request;
        let binding = Binding {
            contact_uri: Arc::clone(&change.uri),
            q_thousandths: change.q_thousandths,
            expire_time: now + change.expires,
            create_time: created,
            update_time: now,
            call_id: request.call_id().into(),
            cseq: request.cseq_number(),
            transport: inbound.flow.transport,
            source: inbound.flow.remote,
            user_agent: cut(request.line_text(HeaderName::UserAgent).unwrap_or_default()).into(),
            worker: Some(self.config.worker.clone()),
            path: wanted.path.clone(),
            instance_id: Arc::clone(&change.instance_id),
        };
        Contact {
            binding,
            flow: Some(inbound.flow.clone()),
        }
    }
}

/// Refuses option tags outside of `supported` (RFC 3261 §8.2.2.3, §16.3 step 5).
pub(crate) fn check_extensions(request: &Request, name: HeaderName, supported: &[&str]) -> Result<(), Refusal> {
    let is_supported = |tag: &&str| supported.iter().any(|known| known.eq_ignore_ascii_case(tag));
    let unsupported: Vec<&str> = request.tokens(name).filter(|tag| !is_supported(tag)).collect();
    if unsupported.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(Reject::BadExtension).header(HeaderName::Unsupported, unsupported.join(", ")))
}

/// A Contact of the 200: the URI as the phone gave it, with what is left of its time (RFC 3261 §10.3 step 8).
fn contact_value(binding: &Binding, now: SystemTime) -> String {
    let left = binding.expire_time.duration_since(now).unwrap_or_default();
    let mut value = format!("<{}>;expires={}", binding.contact_uri, left.as_secs());
    if binding.q_thousandths < 1000 {
        value.push_str(&format!(";q=0.{:03}", binding.q_thousandths));
    }
    if !binding.instance_id.is_empty() {
        value.push_str(&format!(";+sip.instance=\"{}\"", binding.instance_id));
    }
    value
}

/// Sees to it that there are no more bindings than `most`. A phone that comes back with another Contact, from behind a NAT or by
/// a new connection, leaves its old one behind: rather than lock the phone out until that has expired, it takes its place.
fn make_room(contacts: &mut Vec<Contact>, wanted: &Wanted, most: usize) -> bool {
    while contacts.len() > most {
        let is_stale = |binding: &Binding| {
            let is_wanted = |change: &&Change| change.instance_id == binding.instance_id;
            !binding.instance_id.is_empty()
                && wanted.changes.iter().any(|change| is_wanted(&change))
                && !wanted.changes.iter().any(|change| change.uri == binding.contact_uri)
        };
        let stale = contacts
            .iter()
            .enumerate()
            .filter(|(_, contact)| is_stale(&contact.binding));
        let Some((oldest, _)) = stale.min_by_key(|(_, contact)| contact.binding.update_time) else {
            return false;
        };
        contacts.remove(oldest);
    }
    true
}

fn is_path_value(value: &str) -> bool {
    value.len() <= MAX_VALUE && NameAddr::parse(value.as_bytes()).is_ok()
}

/// Whether a value can stand between quotes as it is.
fn is_quotable(value: &str) -> bool {
    value.len() <= MAX_NAME
        && value
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_NAME);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// RFC 3261 §10.3 step 7: by the comparison rules of URIs, not by letter.
fn is_same_contact(one: &str, other: &str) -> bool {
    match (Uri::parse(one.as_bytes()), Uri::parse(other.as_bytes())) {
        (Ok(one), Ok(other)) => one.is_equivalent(&other),
        _ => one == other,
    }
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
