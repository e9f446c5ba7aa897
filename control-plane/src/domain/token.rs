//! API tokens.

use trunkline_proto::v1;

use super::{Error, FieldViolation, Page, check::Findings};
use crate::{
    identity::{self, Caller, Role, TokenKind},
    store::{
        AuditRecord, Store,
        token::{self, NewToken},
    },
};

const MIN_TTL_S: i64 = 60;
const MAX_TTL_S: i64 = 3650 * 24 * 3600;

/// Makes a token; its secret is in the answer and nowhere else.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong; [`Error::AlreadyExists`].
pub async fn create(
    store: &Store,
    caller: &Caller,
    request: v1::CreateTokenRequest,
) -> Result<v1::CreateTokenResponse, Error> {
    let mut findings = Findings::default();
    let id = findings.id("token_id", &request.token_id, identity::random_id);
    let wanted = findings.required("token", request.token).unwrap_or_default();
    let display_name = wanted.display_name.trim();
    if display_name.is_empty() || display_name.chars().count() > 128 || display_name.chars().any(char::is_control) {
        findings.field(
            "token.display_name",
            "must be 1-128 characters without control characters",
        );
    }
    let role = match wanted.role() {
        v1::Role::Viewer => Some(Role::Viewer),
        v1::Role::Operator => Some(Role::Operator),
        v1::Role::Admin => Some(Role::Admin),
        v1::Role::Unspecified => {
            findings.field("token.role", "must be VIEWER, OPERATOR or ADMIN");
            None
        }
    };
    let ttl_ms = request.ttl.map(|ttl| {
        check_ttl("ttl", ttl, MIN_TTL_S, MAX_TTL_S, findings.fields());
        ttl.seconds.saturating_mul(1000)
    });
    let role = findings.settle(role)?;

    let mut tx = store.write().await?;
    let minted = identity::mint(TokenKind::Api, &id);
    let now_ms = tx.now_ms();
    let new = NewToken {
        id: &id,
        display_name,
        role,
        hash: minted.hash,
        expire_time_ms: ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms)),
    };
    let name = format!("tokens/{id}");
    let token = token::insert(&mut tx, &new)
        .await?
        .ok_or_else(|| Error::exists(&name))?;
    let changed = ["display_name", "role", "expire_time"].map(str::to_owned).to_vec();
    tx.audit(AuditRecord::ok(caller, "CreateToken", &name, changed));
    tx.commit().await?;
    Ok(v1::CreateTokenResponse {
        token: Some(token),
        secret: minted.text.as_str().to_owned(),
    })
}

/// A page of tokens, without their secrets.
///
/// # Errors
/// [`Error::Invalid`] for a bad page size or token.
pub async fn list(store: &Store, request: &v1::ListTokensRequest) -> Result<v1::ListTokensResponse, Error> {
    const LIST: &str = "ListTokens";
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
    let mut tokens = token::list(view.conn(), &page.after, page.fetch()).await?;
    let id = |token: &v1::Token| token.name.trim_start_matches("tokens/").to_owned();
    let next_page_token = page.cut(cipher, LIST, "", &mut tokens, id);
    Ok(v1::ListTokensResponse {
        tokens,
        next_page_token,
    })
}

/// Removes a token, at once.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Precondition`] `LAST_ADMIN_TOKEN`: without one nobody could make another.
pub async fn delete(
    store: &Store,
    caller: &Caller,
    request: v1::DeleteTokenRequest,
) -> Result<v1::DeleteTokenResponse, Error> {
    let name = &request.name;
    let Some(id) = name
        .strip_prefix("tokens/")
        .filter(|id| !id.is_empty() && !id.contains('/'))
    else {
        return Err(Error::field("name", "must be of the form `tokens/{token}`"));
    };
    let mut tx = store.write().await?;
    if !token::delete(&mut tx, id).await? {
        return Err(Error::not_found(name));
    }
    let now_ms = tx.now_ms();
    if !token::any_admin(tx.conn(), now_ms).await? {
        return Err(Error::precondition(
            "LAST_ADMIN_TOKEN",
            name,
            "it is the last token with the admin role",
        ));
    }
    tx.audit(AuditRecord::ok(caller, "DeleteToken", name, Vec::new()));
    tx.commit().await?;
    Ok(v1::DeleteTokenResponse {})
}

/// A validity within bounds, in seconds.
pub(super) fn check_ttl(
    field: &str,
    ttl: prost_types::Duration,
    min_s: i64,
    max_s: i64,
    violations: &mut Vec<FieldViolation>,
) {
    if ttl.seconds < min_s || ttl.seconds > max_s || (ttl.seconds == max_s && ttl.nanos > 0) {
        violations.push(FieldViolation::new(
            field,
            format!("must be {min_s} to {max_s} seconds"),
        ));
    }
}
