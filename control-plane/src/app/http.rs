//! `/metrics`, `/livez`, `/readyz`.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{metrics::Metrics, store::Store};

#[derive(Debug, Clone)]
struct Probes {
    metrics: Metrics,
    store: Store,
    stop: CancellationToken,
}

/// Serves until `stop` is cancelled.
pub(super) async fn serve(listener: TcpListener, metrics: Metrics, store: Store, stop: CancellationToken) {
    let probes = Probes {
        metrics,
        store,
        stop: stop.clone(),
    };
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(probes);
    if let Err(error) = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
    {
        error!(error = &error as &dyn std::error::Error, "serve metrics");
    }
}

async fn show_metrics(State(probes): State<Probes>) -> impl IntoResponse {
    (
        [(
            CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        probes.metrics.encode(),
    )
}

/// Ready: the store answers, and the control plane is not going down.
async fn ready(State(probes): State<Probes>) -> (StatusCode, &'static str) {
    if probes.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    match probes.store.read().await {
        Ok(_) => (StatusCode::OK, "ok\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n"),
    }
}
