//! Workers: their records, drain and resume, join tokens.

use trunkline_proto::v1;
use trunkline_shared::name::WorkerId;

use super::{Error, Page, check::Findings, token::check_ttl};
use crate::{
    identity::{self, Caller, TokenKind},
    store::{
        AuditRecord, Store,
        join_token::{self, NewJoinToken},
        timestamp,
        worker::{self, WorkerRecord},
    },
};

const DEFAULT_TTL_S: i64 = 3600;
const MIN_TTL_S: i64 = 60;
const MAX_TTL_S: i64 = 30 * 24 * 3600;
const MAX_USES: u32 = 1000;

/// One worker's record.
///
/// # Errors
/// [`Error::Invalid`] for a malformed name; [`Error::NotFound`].
pub async fn get(store: &Store, name: &str) -> Result<WorkerRecord, Error> {
    let id = id(name)?;
    let mut view = store.read().await?;
    worker::find(view.conn(), id.as_str())
        .await?
        .ok_or_else(|| Error::not_found(name))
}

/// A page of workers' records, and the token of the next page.
///
/// # Errors
/// [`Error::Invalid`] for a bad page size or token.
pub async fn list(store: &Store, request: &v1::ListWorkersRequest) -> Result<(Vec<WorkerRecord>, String), Error> {
    const LIST: &str = "ListWorkers";
    let cipher = store.cipher();
    let mut findings = Findings::default();
    let page = Page::read(
        cipher,
        LIST,
        "",
        request.page_size,
        &request.page_token,
        findings.fields(),
    );
    findings.settle(Some(()))?;
    let mut view = store.read().await?;
    let mut workers = worker::list(view.conn(), &page.after, page.fetch()).await?;
    let next_page_token = page.cut(cipher, LIST, "", &mut workers, |worker| worker.id.clone());
    Ok((workers, next_page_token))
}

/// Asks a worker to drain, or to take work again; it learns of it with its configuration.
///
/// # Errors
/// [`Error::Invalid`] for a malformed name; [`Error::NotFound`].
pub async fn set_draining(store: &Store, caller: &Caller, name: &str, draining: bool) -> Result<WorkerRecord, Error> {
    let id = id(name)?;
    let mut tx = store.write().await?;
    let before = worker::find(tx.conn(), id.as_str())
        .await?
        .ok_or_else(|| Error::not_found(name))?;
    worker::set_draining(&mut tx, id.as_str(), draining).await?;
    let record = worker::find(tx.conn(), id.as_str())
        .await?
        .ok_or_else(|| Error::not_found(name))?;
    let action = if draining { "DrainWorker" } else { "ResumeWorker" };
    let changed = if before.draining == draining {
        Vec::new()
    } else {
        vec!["draining".to_owned()]
    };
    tx.audit(AuditRecord::ok(caller, action, name, changed));
    tx.commit().await?;
    Ok(record)
}

/// Forgets a worker; its certificate is refused from now on. Answers its id.
///
/// # Errors
/// [`Error::Invalid`] for a malformed name; [`Error::NotFound`].
pub async fn delete(store: &Store, caller: &Caller, name: &str) -> Result<WorkerId, Error> {
    let id = id(name)?;
    let mut tx = store.write().await?;
    if !worker::delete(&mut tx, id.as_str()).await? {
        return Err(Error::not_found(name));
    }
    tx.audit(AuditRecord::ok(caller, "DeleteWorker", name, Vec::new()));
    tx.commit().await?;
    Ok(id)
}

/// Makes a token that new workers enroll with.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong.
pub async fn create_join_token(
    store: &Store,
    caller: &Caller,
    request: v1::CreateJoinTokenRequest,
) -> Result<v1::CreateJoinTokenResponse, Error> {
    let mut findings = Findings::default();
    let ttl = request.ttl.unwrap_or(prost_types::Duration {
        seconds: DEFAULT_TTL_S,
        nanos: 0,
    });
    check_ttl("ttl", ttl, MIN_TTL_S, MAX_TTL_S, findings.fields());
    let max_uses = if request.max_uses == 0 { 1 } else { request.max_uses };
    if max_uses > MAX_USES {
        findings.field("max_uses", &format!("must be at most {MAX_USES}"));
    }
    findings.settle(Some(()))?;
    let mut tx = store.write().await?;
    let id = identity::random_id();
    let minted = identity::mint(TokenKind::Join, &id);
    let expire_time_ms = tx.now_ms().saturating_add(ttl.seconds.saturating_mul(1000));
    join_token::insert(
        &mut tx,
        &NewJoinToken {
            id: &id,
            hash: minted.hash,
            max_uses,
            expire_time_ms,
        },
    )
    .await?;
    let changed = ["ttl", "max_uses"].map(str::to_owned).to_vec();
    tx.audit(AuditRecord::ok(
        caller,
        "CreateJoinToken",
        &format!("joinTokens/{id}"),
        changed,
    ));
    tx.commit().await?;
    Ok(v1::CreateJoinTokenResponse {
        token: minted.text.as_str().to_owned(),
        expire_time: Some(timestamp(expire_time_ms)),
    })
}

fn id(name: &str) -> Result<WorkerId, Error> {
    WorkerId::parse_name(name).map_err(|error| Error::field("name", error.to_string()))
}
