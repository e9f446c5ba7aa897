//! Call records, active and ended.

use prost::Message;
use trunkline_proto::v1;
use trunkline_shared::name::{ConversationId, TrunkId};

use super::{Error, Page, check::Findings};
use crate::{
    identity::Caller,
    store::{
        AuditRecord, Store, StoreError,
        call::{self, CallPosition, CallQuery},
    },
};

/// One call.
///
/// # Errors
/// [`Error::Invalid`] for a malformed name; [`Error::NotFound`].
pub async fn get(store: &Store, name: &str) -> Result<v1::Call, Error> {
    let id = id(name)?;
    let mut view = store.read_settled().await?;
    call::find(view.conn(), &id.name())
        .await?
        .ok_or_else(|| Error::not_found(name))
}

/// A page of calls, newest first.
///
/// # Errors
/// [`Error::Invalid`] for a bad filter, page size or token.
pub async fn list(store: &Store, request: &v1::ListCallsRequest) -> Result<v1::ListCallsResponse, Error> {
    const LIST: &str = "ListCalls";
    let cipher = store.cipher();
    let filter = request.filter.clone().unwrap_or_default();
    let binding = filter
        .encode_to_vec()
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect::<String>();
    let mut findings = Findings::default();
    let query = query(&filter, &mut findings);
    let page = Page::read(
        cipher,
        LIST,
        &binding,
        request.page_size,
        &request.page_token,
        findings.fields(),
    );
    findings.settle(Some(()))?;
    let mut view = store.read_settled().await?;
    let after: Option<CallPosition> = page
        .after
        .split_once('/')
        .and_then(|(start, id)| Some((start.parse().ok()?, id.to_owned())));
    let mut found = call::list(view.conn(), &query, after.as_ref(), page.fetch()).await?;
    let next_page_token = page.cut(cipher, LIST, &binding, &mut found, |((start, id), _)| {
        format!("{start}/{id}")
    });
    let calls = found.into_iter().map(|(_, call)| call).collect();
    Ok(v1::ListCallsResponse { calls, next_page_token })
}

/// The worker (its id) that has the active call, to send it a hang-up.
///
/// # Errors
/// [`Error::Invalid`] for a malformed name; [`Error::NotFound`]; [`Error::Precondition`] `CALL_ENDED`.
pub async fn locate(store: &Store, name: &str) -> Result<(ConversationId, String), Error> {
    let id = id(name)?;
    let call = get(store, name).await?;
    if call.state() == v1::CallState::Ended {
        return Err(Error::precondition("CALL_ENDED", name, "the call has ended"));
    }
    Ok((id, call.worker.trim_start_matches("workers/").to_owned()))
}

/// Notes a hang-up in the audit log, with the canonical name of the code it ended with.
///
/// # Errors
/// When the store cannot be written.
pub async fn note_hang_up(store: &Store, caller: &Caller, name: &str, code: &str) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    tx.audit(AuditRecord::refused(caller, "HangUpCall", name, code));
    tx.commit().await?;
    Ok(())
}

/// `trunks/{trunk}` or nothing.
///
/// # Errors
/// [`Error::Invalid`] for anything else.
pub fn check_trunk_filter(trunk: &str) -> Result<(), Error> {
    if trunk.is_empty() {
        return Ok(());
    }
    TrunkId::parse_name(trunk)
        .map(|_| ())
        .map_err(|error| Error::field("trunk", error.to_string()))
}

fn query(filter: &v1::CallFilter, findings: &mut Findings) -> CallQuery {
    if !filter.trunk.is_empty() {
        findings.trunk_name("filter.trunk", &filter.trunk);
    }
    let active = match v1::CallActivity::try_from(filter.activity) {
        Ok(v1::CallActivity::Unspecified) => None,
        Ok(v1::CallActivity::Active) => Some(true),
        Ok(v1::CallActivity::Ended) => Some(false),
        Err(_) => {
            findings.field("filter.activity", "is no known value");
            None
        }
    };
    let ms = |time: prost_types::Timestamp| {
        time.seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(time.nanos / 1_000_000))
    };
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    CallQuery {
        trunk: text(&filter.trunk),
        active,
        start_from_ms: filter.start_time_from.map(ms),
        start_until_ms: filter.start_time_until.map(ms),
        call_id: text(&filter.call_id),
    }
}

fn id(name: &str) -> Result<ConversationId, Error> {
    ConversationId::parse_name(name).map_err(|error| Error::field("name", error.to_string()))
}
