//! Reading the audit log, and noting what was refused.

use trunkline_proto::v1;

use super::{Error, Page, check::Findings};
use crate::{
    identity::Caller,
    store::{AuditRecord, Store, StoreError, audit},
};

/// A page of entries, newest first.
///
/// # Errors
/// [`Error::Invalid`] for a bad page size or token.
pub async fn list(store: &Store, request: &v1::ListAuditEntriesRequest) -> Result<v1::ListAuditEntriesResponse, Error> {
    const LIST: &str = "ListAuditEntries";
    let cipher = store.cipher();
    let resource = request.resource.as_str();
    let mut findings = Findings::default();
    let page = Page::read(
        cipher,
        LIST,
        resource,
        request.page_size,
        &request.page_token,
        findings.fields(),
    );
    findings.settle(Some(()))?;
    let mut view = store.read().await?;
    // The token is ours: its key is the id of the last entry.
    let before = page.after.parse().ok();
    let filter = (!resource.is_empty()).then_some(resource);
    let mut entries = audit::list(view.conn(), before, filter, page.fetch()).await?;
    let next_page_token = page.cut(cipher, LIST, resource, &mut entries, |(id, _)| id.to_string());
    let audit_entries = entries.into_iter().map(|(_, entry)| entry).collect();
    Ok(v1::ListAuditEntriesResponse {
        audit_entries,
        next_page_token,
    })
}

/// Notes a refused action; `code` is the canonical name of the gRPC code.
///
/// # Errors
/// When the store cannot be written.
pub async fn note_refusal(
    store: &Store,
    caller: &Caller,
    action: &str,
    resource: &str,
    code: &str,
) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    tx.audit(AuditRecord::refused(caller, action, resource, code));
    tx.commit().await?;
    Ok(())
}
