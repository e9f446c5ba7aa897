//! Registrations: where the phones are.

use trunkline_proto::v1;
use trunkline_shared::name::RegistrationName;

use super::{Error, Page, check::Findings};
use crate::{
    identity::Caller,
    store::{AuditRecord, Store, now_ms, registration, trunk},
};

/// Separates trunk and user in the key of a page; a user part holds no control character.
const SEPARATOR: char = '\n';

/// One registration.
///
/// # Errors
/// [`Error::Invalid`] for a malformed name; [`Error::NotFound`] without a live binding.
pub async fn get(store: &Store, name: &str) -> Result<v1::Registration, Error> {
    let parsed = parse(name)?;
    let mut view = store.read_settled().await?;
    registration::find(view.conn(), &parsed.trunk.name(), &parsed.user, now_ms())
        .await?
        .ok_or_else(|| Error::not_found(name))
}

/// A page of the registrations of a trunk, or of all with the parent `trunks/-`.
///
/// # Errors
/// [`Error::Invalid`]; [`Error::NotFound`] for the trunk.
pub async fn list(
    store: &Store,
    request: &v1::ListRegistrationsRequest,
) -> Result<v1::ListRegistrationsResponse, Error> {
    const LIST: &str = "ListRegistrations";
    let cipher = store.cipher();
    let parent = &request.parent;
    let mut findings = Findings::default();
    let all = findings.parent(parent);
    let page = Page::read(
        cipher,
        LIST,
        parent,
        request.page_size,
        &request.page_token,
        findings.fields(),
    );
    findings.settle(Some(()))?;
    let mut view = store.read_settled().await?;
    if !all && trunk::find(view.conn(), parent).await?.is_none() {
        return Err(Error::not_found(parent));
    }
    let after = page.after.split_once(SEPARATOR).unwrap_or(("", ""));
    let only = (!all).then_some(parent.as_str());
    let mut found = registration::list(view.conn(), only, after, page.fetch(), now_ms()).await?;
    let next_page_token = page.cut(cipher, LIST, parent, &mut found, |((trunk, user), _)| {
        format!("{trunk}{SEPARATOR}{user}")
    });
    let registrations = found.into_iter().map(|(_, registration)| registration).collect();
    Ok(v1::ListRegistrationsResponse {
        registrations,
        next_page_token,
    })
}

/// Removes all bindings of an address of record.
///
/// # Errors
/// [`Error::Invalid`] for a malformed name; [`Error::NotFound`] without a binding.
pub async fn unregister(store: &Store, caller: &Caller, name: &str) -> Result<v1::UnregisterResponse, Error> {
    let parsed = parse(name)?;
    let held = store.hold_settled().await?;
    let mut tx = store.write().await?;
    if !registration::clear(&mut tx, &parsed.trunk.name(), &parsed.user).await? {
        return Err(Error::not_found(name));
    }
    tx.audit(AuditRecord::ok(caller, "Unregister", name, vec!["bindings".to_owned()]));
    tx.commit().await?;
    held.registrations_changed();
    Ok(v1::UnregisterResponse {})
}

fn parse(name: &str) -> Result<RegistrationName, Error> {
    name.parse()
        .map_err(|error: trunkline_shared::name::NameError| Error::field("name", error.to_string()))
}
