//! Authentication of both listeners: bearer tokens on the API, client certificates on the data-plane port.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    Extensions, Status,
    body::Body,
    codegen::http::{self, header::AUTHORIZATION},
};
use tower::{Layer, Service};
use tracing::{debug, error};

use super::{Caller, Peer, PresentedToken, TokenKind, WorkerIdentity};
use crate::{
    metrics::Metrics,
    store::{self, Store, token::TokenRecord},
};

/// Lets a request pass to the API with a valid bearer token and puts a [`Caller`] into its extensions.
///
/// Every method needs a token, health and reflection too (any role): nothing of the installation is told to strangers.
/// Tokens are read from the store with every request, so that deleting one takes effect at once.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    store: Store,
    metrics: Metrics,
}

impl AuthLayer {
    /// Authenticates against the tokens of `store`.
    pub fn new(store: Store, metrics: Metrics) -> Self {
        Self { store, metrics }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service of [`AuthLayer`].
#[derive(Debug, Clone)]
pub struct Auth<S> {
    inner: S,
    layer: AuthLayer,
}

impl<S, B> Service<http::Request<B>> for Auth<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        // The clone that was polled ready is the one to use.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let layer = self.layer.clone();
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            match authenticate_caller(&layer.store, &head).await {
                Ok(caller) => {
                    head.headers.remove(AUTHORIZATION);
                    head.extensions.insert(caller);
                    inner.call(http::Request::from_parts(head, body)).await
                }
                Err(status) => {
                    layer.metrics.authentication_failures.inc();
                    Ok(status.into_http())
                }
            }
        })
    }
}

async fn authenticate_caller(store: &Store, head: &http::request::Parts) -> Result<Caller, Status> {
    // One answer for every cause: a caller must not learn which ids exist.
    let refused = || Status::unauthenticated("a valid bearer token is needed");
    let header = head
        .headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(refused)?;
    let (scheme, text) = header.split_once(' ').ok_or_else(refused)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(refused());
    }
    let presented = PresentedToken::parse(TokenKind::Api, text.trim()).ok_or_else(refused)?;
    let found = find_token(store, presented.id).await.map_err(unavailable)?;
    let record = found
        .filter(|record| presented.matches(&record.hash))
        .filter(|record| record.expire_time_ms.is_none_or(|end| end > store::now_ms()))
        .ok_or_else(refused)?;
    Ok(Caller {
        actor: format!("tokens/{}", presented.id),
        role: record.role,
        source: head.extensions.get::<Peer>().map(|peer| peer.address.ip()),
    })
}

async fn find_token(store: &Store, id: &str) -> Result<Option<TokenRecord>, store::StoreError> {
    let mut view = store.read().await?;
    store::token::find(view.conn(), id).await
}

/// The worker behind a request of the data-plane port, by the request's extensions: its certificate was verified in
/// the handshake, and the worker is still known under the same enrollment.
///
/// # Errors
/// `UNAUTHENTICATED` without a worker's certificate, `PERMISSION_DENIED` for a deleted worker, `UNAVAILABLE` when the
/// store cannot be read.
pub async fn authenticate_worker(store: &Store, extensions: &Extensions) -> Result<WorkerIdentity, Status> {
    let identity = extensions
        .get::<Peer>()
        .and_then(|peer| WorkerIdentity::from_certificate(peer.certificate.as_ref()?))
        .ok_or_else(|| Status::unauthenticated("a worker's client certificate is needed"))?;
    let found = async {
        let mut view = store.read().await?;
        store::worker::find(view.conn(), &identity.worker).await
    };
    match found.await.map_err(unavailable)? {
        Some(worker) if worker.enrollment == identity.enrollment => Ok(identity),
        _ => {
            debug!(worker = identity.worker, "certificate of a worker that was deleted");
            Err(Status::permission_denied("this worker was deleted; enroll again"))
        }
    }
}

/// The store's own words stay in the log.
fn unavailable(error: store::StoreError) -> Status {
    error!(error = &error as &dyn std::error::Error, "read the store");
    Status::unavailable("the store is not available; try again")
}
