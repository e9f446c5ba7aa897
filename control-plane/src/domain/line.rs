//! Lines.

use trunkline_proto::v1;
use trunkline_shared::wire;

use super::{
    Error, Page, changed_fields,
    check::Findings,
    mutation::{Begin, Mutation, check_etag, random_id},
    trunk::in_use,
};
use crate::{
    identity::Caller,
    store::{
        AuditRecord, Store, line, route,
        trunk::{self, SecretWrite},
    },
};

const MESSAGE: &str = "trunkline.v1.Line";
const PASSWORD_FIELD: &str = "auth_password";

/// Creates a line.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong; [`Error::NotFound`] for the trunk; [`Error::AlreadyExists`].
pub async fn create(
    store: &Store,
    caller: &Caller,
    request: v1::CreateLineRequest,
) -> Result<v1::CreateLineResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    let parent = findings.create_parent(&request.parent);
    let id = findings.id("line_id", &request.line_id, || random_id("line"));
    let name = format!("{parent}/lines/{id}");
    let raw = findings.required("line", request.line.clone());
    let line = raw.and_then(|raw| {
        findings.line(v1::Line {
            name: name.clone(),
            ..raw
        })
    });
    let line = findings.settle(line)?;
    let begun = Mutation::begin(
        store,
        caller,
        "CreateLine",
        &request,
        &request.request_id,
        request.validate_only,
    )
    .await?;
    let mut mutation = match begun {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    let tx = &mut mutation.tx;
    if trunk::find(tx.conn(), &request.parent).await?.is_none() {
        return Err(Error::not_found(&request.parent));
    }
    if line::find(tx.conn(), &name).await?.is_some() {
        return Err(Error::exists(&name));
    }
    let password = line.auth_password.as_str();
    let mut changed = changed_fields(MESSAGE, &v1::Line::default(), &without_password(&line));
    changed.extend((!password.is_empty()).then(|| PASSWORD_FIELD.to_owned()));
    let stored = line::insert(tx, &request.parent, &line, (!password.is_empty()).then_some(password)).await?;
    mutation
        .finish(
            &name,
            changed,
            v1::CreateLineResponse {
                line: Some(stored.message),
            },
        )
        .await
}

/// One line.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(store: &Store, name: &str) -> Result<v1::Line, Error> {
    let mut findings = Findings::default();
    findings.line_name("name", name);
    findings.settle(Some(()))?;
    let mut view = store.read().await?;
    Ok(line::find(view.conn(), name)
        .await?
        .ok_or_else(|| Error::not_found(name))?
        .message)
}

/// A page of the lines of a trunk, or of all with the parent `trunks/-`.
///
/// # Errors
/// [`Error::Invalid`]; [`Error::NotFound`] for the trunk.
pub async fn list(store: &Store, request: &v1::ListLinesRequest) -> Result<v1::ListLinesResponse, Error> {
    const LIST: &str = "ListLines";
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
    let mut view = store.read().await?;
    let prefix = if all {
        "trunks".to_owned()
    } else {
        format!("{parent}/lines")
    };
    if !all && trunk::find(view.conn(), parent).await?.is_none() {
        return Err(Error::not_found(parent));
    }
    let stored = line::list(view.conn(), &prefix, &page.after, page.fetch()).await?;
    let mut lines: Vec<v1::Line> = stored.into_iter().map(|stored| stored.message).collect();
    let next_page_token = page.cut(cipher, LIST, parent, &mut lines, |line| line.name.clone());
    Ok(v1::ListLinesResponse { lines, next_page_token })
}

/// Changes a line.
///
/// # Errors
/// As [`create`]; [`Error::StaleEtag`].
pub async fn update(
    store: &Store,
    caller: &Caller,
    request: v1::UpdateLineRequest,
) -> Result<v1::UpdateLineResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    let patch = findings.required("line", request.line.clone());
    if let Some(patch) = &patch {
        findings.line_name("line.name", &patch.name);
    }
    let patch = findings.settle(patch)?;
    let begun = Mutation::begin(
        store,
        caller,
        "UpdateLine",
        &request,
        &request.request_id,
        request.validate_only,
    )
    .await?;
    let mut mutation = match begun {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    let name = patch.name.clone();
    let tx = &mut mutation.tx;
    let current = line::find(tx.conn(), &name)
        .await?
        .ok_or_else(|| Error::not_found(&name))?
        .message;
    check_etag(&name, &patch.etag, &current.etag)?;

    let cipher = tx.cipher();
    let stored_password = line::auth_password(tx.conn(), &cipher, &name).await?;
    let stored_password = stored_password.as_ref().map_or("", |password| password.as_str());
    let mut findings = Findings::default();
    let base = v1::Line {
        auth_password: stored_password.to_owned(),
        ..current.clone()
    };
    let merged = findings.masked(wire::apply_mask_line(&base, patch, request.update_mask.as_ref()));
    let wanted = merged.and_then(|merged| findings.line(merged));
    let wanted = findings.settle(wanted)?;

    let password = wanted.auth_password.as_str();
    let password_changed = password != stored_password;
    let mut changed = changed_fields(MESSAGE, &without_password(&current), &without_password(&wanted));
    changed.extend(password_changed.then(|| PASSWORD_FIELD.to_owned()));
    if changed.is_empty() {
        return mutation
            .finish(&name, changed, v1::UpdateLineResponse { line: Some(current) })
            .await;
    }
    let write = match (password_changed, password.is_empty()) {
        (false, _) => SecretWrite::Keep,
        (true, false) => SecretWrite::Set(password),
        (true, true) => SecretWrite::Clear,
    };
    let stored = line::update(tx, &wanted, write).await?;
    mutation
        .finish(
            &name,
            changed,
            v1::UpdateLineResponse {
                line: Some(stored.message),
            },
        )
        .await
}

/// Removes a line that no route refers to.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::StaleEtag`]; [`Error::Precondition`] `RESOURCE_IN_USE`.
pub async fn delete(
    store: &Store,
    caller: &Caller,
    request: v1::DeleteLineRequest,
) -> Result<v1::DeleteLineResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    findings.line_name("name", &request.name);
    findings.settle(Some(()))?;
    let begun = Mutation::begin(
        store,
        caller,
        "DeleteLine",
        &request,
        &request.request_id,
        request.validate_only,
    )
    .await?;
    let mut mutation = match begun {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    let name = &request.name;
    let tx = &mut mutation.tx;
    let current = line::find(tx.conn(), name)
        .await?
        .ok_or_else(|| Error::not_found(name))?
        .message;
    check_etag(name, &request.etag, &current.etag)?;
    in_use(name, route::referrers(tx.conn(), name, 100).await?)?;
    line::delete(tx, name).await?;
    mutation.finish(name, Vec::new(), v1::DeleteLineResponse {}).await
}

/// The outbound password in clear. The audit row is stored before the password is answered.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Precondition`] `NO_PASSWORD` when none is stored.
pub async fn reveal_password(
    store: &Store,
    caller: &Caller,
    name: &str,
) -> Result<v1::RevealLinePasswordResponse, Error> {
    let mut findings = Findings::default();
    findings.line_name("name", name);
    findings.settle(Some(()))?;
    let mut tx = store.write().await?;
    if line::find(tx.conn(), name).await?.is_none() {
        return Err(Error::not_found(name));
    }
    let cipher = tx.cipher();
    let password = line::auth_password(tx.conn(), &cipher, name).await?;
    let Some(password) = password else {
        return Err(Error::precondition("NO_PASSWORD", name, "the line has no password"));
    };
    tx.audit(AuditRecord::ok(
        caller,
        "RevealLinePassword",
        name,
        vec![PASSWORD_FIELD.to_owned()],
    ));
    tx.commit().await?;
    Ok(v1::RevealLinePasswordResponse {
        password: password.as_str().to_owned(),
    })
}

fn without_password(line: &v1::Line) -> v1::Line {
    // What follows from the password is named by the password.
    v1::Line {
        auth_password: String::new(),
        has_password: false,
        ..line.clone()
    }
}
