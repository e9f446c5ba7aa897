//! Would a request be let in, and which entry decides?

use std::net::IpAddr;

use trunkline_proto::v1;
use trunkline_shared::acl::{AccessList, DecidedBy, Decision, Entry, via_address};

use super::{Error, check::Findings};
use crate::store::{Store, trunk};

/// Answers with the same code the workers decide with.
///
/// # Errors
/// [`Error::Invalid`] for a source that is no address, or a missing Via on a trunk that goes by Via;
/// [`Error::NotFound`].
pub async fn explain(store: &Store, request: &v1::ExplainAccessRequest) -> Result<v1::ExplainAccessResponse, Error> {
    let mut findings = Findings::default();
    findings.trunk_name("name", &request.name);
    let source: Option<IpAddr> = request.source_address.trim().parse().ok();
    if source.is_none() {
        findings.field("source_address", "must be an IPv4 or IPv6 address");
    }
    let source = findings.settle(source)?;
    let mut view = store.read().await?;
    let trunk = trunk::find(view.conn(), &request.name)
        .await?
        .ok_or_else(|| Error::not_found(&request.name))?
        .message;
    let list = access_list(&trunk);
    if !list.use_source_address() && request.via.trim().is_empty() {
        return Err(Error::field(
            "via",
            "is needed: the trunk does not go by the source address",
        ));
    }
    let decision = list.decide(source, via_address(&request.via));
    let (kind, entry) = match decision.by {
        DecidedBy::AllowEntry { entry, .. } => (v1::AccessDecision::AllowEntry, Some(entry)),
        DecidedBy::AllowAll => (v1::AccessDecision::AllowAll, None),
        DecidedBy::DenyEntry { entry, .. } => (v1::AccessDecision::DenyEntry, Some(entry)),
        DecidedBy::NoMatch => (v1::AccessDecision::NoMatch, None),
        DecidedBy::NoAddress => (v1::AccessDecision::NoAddress, None),
    };
    Ok(v1::ExplainAccessResponse {
        allowed: decision.allowed(),
        evaluated_address: decision.address.map(|address| address.to_string()).unwrap_or_default(),
        decision: kind.into(),
        entry: entry.map(|entry| entry.to_string()).unwrap_or_default(),
        field: decision.field(),
        explanation: explanation(&decision, &list),
    })
}

fn explanation(decision: &Decision, list: &AccessList) -> String {
    let origin = if list.use_source_address() {
        "source address"
    } else {
        "originating address of the Via"
    };
    let address = decision.address.map(|address| address.to_string()).unwrap_or_default();
    match decision.by {
        DecidedBy::AllowEntry { entry, .. } => {
            format!("the {origin} {address} is in {entry} of the allow list and in no entry of the deny list")
        }
        DecidedBy::AllowAll => {
            format!("allow_all lets every address in, and {address} is in no entry of the deny list")
        }
        DecidedBy::DenyEntry { entry, .. } => {
            format!("the {origin} {address} passes the first step, but is in {entry} of the deny list")
        }
        DecidedBy::NoMatch => format!("the {origin} {address} is in no entry of the allow list"),
        DecidedBy::NoAddress => "the bottom-most Via names no IP address, and names are not looked up".to_owned(),
    }
}

fn access_list(trunk: &v1::Trunk) -> AccessList {
    let acl = trunk.acl.clone().unwrap_or_default();
    // What is stored is canonical: every entry reads, so the indices are those of the field.
    let entries = |texts: &[String]| texts.iter().filter_map(|text| Entry::parse(text).ok()).collect();
    AccessList::new(
        acl.use_source_address.unwrap_or(true),
        acl.allow_all(),
        entries(&acl.allow),
        entries(&acl.deny),
    )
}
