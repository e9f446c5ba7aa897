//! Who may use a trunk: access lists and inbound digest.

use trunkline_proto::v1;

use crate::acl::{AccessList, Entry, MAX_ENTRIES};
use crate::method::{ChallengeableMethod, MethodSet};
use crate::trunk::InboundDigest;
use crate::wire::check::Findings;

pub(super) fn access_list(f: &mut Findings, raw: v1::AccessControl) -> AccessList {
    let v1::AccessControl {
        use_source_address,
        allow,
        deny,
        allow_all,
    } = raw;
    let mut entries = |field: &str, list: &[String]| {
        f.at_most(field, list, MAX_ENTRIES);
        f.each(field, list, |text| Entry::parse(text))
    };
    let (allow, deny) = (entries("acl.allow", &allow), entries("acl.deny", &deny));
    AccessList::new(
        use_source_address.unwrap_or(true),
        allow_all.unwrap_or(false),
        allow,
        deny,
    )
}

pub(super) fn digest(f: &mut Findings, raw: v1::InboundDigest) -> InboundDigest {
    let v1::InboundDigest {
        enabled,
        realm,
        methods,
        allow_foreign_aor,
    } = raw;
    let enabled = enabled.unwrap_or(false);
    if enabled && realm.is_empty() {
        f.field(
            "inbound_digest.realm",
            "must be set when digest authentication is enabled",
        );
    } else if !realm.is_empty() {
        quotable(f, "inbound_digest.realm", &realm, 253);
    }
    let methods = f.choices(
        "inbound_digest.methods",
        &methods,
        &ChallengeableMethod::DEFAULT_LIST,
        method,
    );
    InboundDigest {
        enabled,
        realm: realm.into(),
        methods: MethodSet::new(&methods),
        allow_foreign_aor: allow_foreign_aor.unwrap_or(false),
    }
}

/// Text that goes between quotes in a challenge or a response, verbatim.
pub(in crate::wire) fn quotable(f: &mut Findings, field: &str, text: &str, most: usize) {
    f.text(field, text, 1..=most);
    if text.contains(['"', '\\']) {
        f.field(field, "must not contain quotes or backslashes");
    }
}

fn method(method: v1::SipMethod) -> Option<ChallengeableMethod> {
    use ChallengeableMethod as M;
    match method {
        v1::SipMethod::Unspecified => None,
        v1::SipMethod::Bye => Some(M::Bye),
        v1::SipMethod::Info => Some(M::Info),
        v1::SipMethod::Invite => Some(M::Invite),
        v1::SipMethod::Message => Some(M::Message),
        v1::SipMethod::Notify => Some(M::Notify),
        v1::SipMethod::Options => Some(M::Options),
        v1::SipMethod::Prack => Some(M::Prack),
        v1::SipMethod::Publish => Some(M::Publish),
        v1::SipMethod::Refer => Some(M::Refer),
        v1::SipMethod::Register => Some(M::Register),
        v1::SipMethod::Subscribe => Some(M::Subscribe),
        v1::SipMethod::Update => Some(M::Update),
    }
}

pub(super) fn method_to_wire(method: ChallengeableMethod) -> v1::SipMethod {
    use ChallengeableMethod as M;
    match method {
        M::Bye => v1::SipMethod::Bye,
        M::Info => v1::SipMethod::Info,
        M::Invite => v1::SipMethod::Invite,
        M::Message => v1::SipMethod::Message,
        M::Notify => v1::SipMethod::Notify,
        M::Options => v1::SipMethod::Options,
        M::Prack => v1::SipMethod::Prack,
        M::Publish => v1::SipMethod::Publish,
        M::Refer => v1::SipMethod::Refer,
        M::Register => v1::SipMethod::Register,
        M::Subscribe => v1::SipMethod::Subscribe,
        M::Update => v1::SipMethod::Update,
    }
}
