//! Routes.

use trunkline_proto::v1;
use trunkline_shared::wire;

use super::{
    Error, Page, PreconditionViolation, changed_fields,
    check::Findings,
    mutation::{Begin, Mutation, check_etag, random_id},
};
use crate::{
    identity::Caller,
    store::{Store, WriteTx, line, route, trunk},
};

const MESSAGE: &str = "trunkline.v1.Route";

/// Creates a route.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong; [`Error::Precondition`] `REFERENCE_NOT_FOUND` for trunks and
/// lines that do not exist; [`Error::AlreadyExists`].
pub async fn create(
    store: &Store,
    caller: &Caller,
    request: v1::CreateRouteRequest,
) -> Result<v1::CreateRouteResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    let id = findings.id("route_id", &request.route_id, || random_id("route"));
    let name = format!("routes/{id}");
    let raw = findings.required("route", request.route.clone());
    let route = raw.and_then(|raw| {
        findings.route(v1::Route {
            name: name.clone(),
            ..raw
        })
    });
    let route = findings.settle(route)?;
    let begun = Mutation::begin(
        store,
        caller,
        "CreateRoute",
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
    if route::find(tx.conn(), &name).await?.is_some() {
        return Err(Error::exists(&name));
    }
    check_references(tx, &route).await?;
    let changed = changed_fields(MESSAGE, &v1::Route::default(), &route);
    let stored = route::insert(tx, &route).await?;
    mutation
        .finish(
            &name,
            changed,
            v1::CreateRouteResponse {
                route: Some(stored.message),
            },
        )
        .await
}

/// One route.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(store: &Store, name: &str) -> Result<v1::Route, Error> {
    let mut findings = Findings::default();
    findings.route_name("name", name);
    findings.settle(Some(()))?;
    let mut view = store.read().await?;
    Ok(route::find(view.conn(), name)
        .await?
        .ok_or_else(|| Error::not_found(name))?
        .message)
}

/// A page of routes, in the order of their names.
///
/// # Errors
/// [`Error::Invalid`] for a bad page size or token.
pub async fn list(store: &Store, request: &v1::ListRoutesRequest) -> Result<v1::ListRoutesResponse, Error> {
    const LIST: &str = "ListRoutes";
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
    let stored = route::list(view.conn(), &page.after, page.fetch()).await?;
    let mut routes: Vec<v1::Route> = stored.into_iter().map(|stored| stored.message).collect();
    let next_page_token = page.cut(cipher, LIST, "", &mut routes, |route| route.name.clone());
    Ok(v1::ListRoutesResponse {
        routes,
        next_page_token,
    })
}

/// Changes a route.
///
/// # Errors
/// As [`create`]; [`Error::NotFound`]; [`Error::StaleEtag`].
pub async fn update(
    store: &Store,
    caller: &Caller,
    request: v1::UpdateRouteRequest,
) -> Result<v1::UpdateRouteResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    let patch = findings.required("route", request.route.clone());
    if let Some(patch) = &patch {
        findings.route_name("route.name", &patch.name);
    }
    let patch = findings.settle(patch)?;
    let begun = Mutation::begin(
        store,
        caller,
        "UpdateRoute",
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
    let current = route::find(tx.conn(), &name)
        .await?
        .ok_or_else(|| Error::not_found(&name))?
        .message;
    check_etag(&name, &patch.etag, &current.etag)?;
    let mut findings = Findings::default();
    let merged = findings.masked(wire::apply_mask_route(&current, patch, request.update_mask.as_ref()));
    let wanted = merged.and_then(|merged| findings.route(merged));
    let wanted = findings.settle(wanted)?;
    check_references(tx, &wanted).await?;
    let changed = changed_fields(MESSAGE, &current, &wanted);
    if changed.is_empty() {
        return mutation
            .finish(&name, changed, v1::UpdateRouteResponse { route: Some(current) })
            .await;
    }
    let stored = route::update(tx, &wanted).await?;
    mutation
        .finish(
            &name,
            changed,
            v1::UpdateRouteResponse {
                route: Some(stored.message),
            },
        )
        .await
}

/// Removes a route.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::StaleEtag`].
pub async fn delete(
    store: &Store,
    caller: &Caller,
    request: v1::DeleteRouteRequest,
) -> Result<v1::DeleteRouteResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    findings.route_name("name", &request.name);
    findings.settle(Some(()))?;
    let begun = Mutation::begin(
        store,
        caller,
        "DeleteRoute",
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
    let current = route::find(tx.conn(), name)
        .await?
        .ok_or_else(|| Error::not_found(name))?
        .message;
    check_etag(name, &request.etag, &current.etag)?;
    route::delete(tx, name).await?;
    mutation.finish(name, Vec::new(), v1::DeleteRouteResponse {}).await
}

/// Every trunk and line a route names must exist.
async fn check_references(tx: &mut WriteTx, route: &v1::Route) -> Result<(), Error> {
    let mut violations = Vec::new();
    for name in route::references(route) {
        let exists = if name.contains("/lines/") {
            line::find(tx.conn(), name).await?.is_some()
        } else {
            trunk::find(tx.conn(), name).await?.is_some()
        };
        if !exists {
            violations.push(PreconditionViolation {
                kind: "REFERENCE_NOT_FOUND".to_owned(),
                subject: name.to_owned(),
                description: format!("{name} does not exist"),
            });
        }
    }
    if violations.is_empty() {
        return Ok(());
    }
    Err(Error::Precondition {
        reason: "REFERENCE_NOT_FOUND".to_owned(),
        violations,
    })
}
