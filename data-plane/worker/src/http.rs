//! `/metrics`, `/livez` and `/readyz`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trunkline_shared::snapshot::Snapshot;

use crate::metrics::MetricsSet;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What readiness is judged by: a worker is ready when it has a configuration, from disk or from the control plane, and
/// does not drain. A control plane that is away changes nothing; a listener that is not bound is its trunk's trouble.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// Configuration in force.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// True while the process is being ended.
    pub draining: watch::Receiver<bool>,
}

impl Readiness {
    /// Why new work should go elsewhere; `None` when ready.
    fn obstacle(&self) -> Option<&'static str> {
        let snapshot = self.snapshots.borrow();
        if snapshot.revision() == 0 && snapshot.trunks().next().is_none() {
            Some("no configuration yet")
        } else if *self.draining.borrow() || snapshot.settings().drain {
            Some("draining")
        } else {
            None
        }
    }
}

/// The listener, bound.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    local: SocketAddr,
}

#[derive(Clone)]
struct Pages {
    metrics: Arc<MetricsSet>,
    readiness: Readiness,
}

impl HttpServer {
    /// Binds `address`.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: SocketAddr) -> io::Result<HttpServer> {
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        Ok(HttpServer { listener, local })
    }

    /// The address that was bound.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// What the system says of the listener.
    pub async fn run(
        self,
        metrics: Arc<MetricsSet>,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        let router = Router::new()
            .route("/metrics", get(show_metrics))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(show_readiness))
            .with_state(Pages { metrics, readiness });
        tokio::select! {
            served = async { axum::serve(self.listener, router).await } => served,
            // At once: a scraper that keeps its connection open must not hold up the end of the process.
            () = shutdown.cancelled() => Ok(()),
        }
    }
}

async fn show_metrics(State(pages): State<Pages>) -> Response {
    match pages.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn show_readiness(State(pages): State<Pages>) -> Response {
    match pages.readiness.obstacle() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    #[tokio::test]
    async fn pages_tell_life_readiness_and_figures() {
        let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let (draining, drain) = watch::channel(false);
        let server = HttpServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.local();
        let shutdown = CancellationToken::new();
        let readiness = Readiness {
            snapshots,
            draining: drain,
        };
        let running = tokio::spawn(server.run(Arc::default(), readiness, shutdown.clone()));

        assert_eq!(fetch(address, "/livez").await.0, 200);
        let (status, answer) = fetch(address, "/readyz").await;
        assert!(status == 503 && answer.ends_with("no configuration yet\n"), "{answer}");
        snapshot.send_replace(Arc::new(Snapshot::default().apply(Vec::new(), &[], 1).snapshot));
        assert_eq!(fetch(address, "/readyz").await.0, 200);
        draining.send_replace(true);
        let (status, answer) = fetch(address, "/readyz").await;
        assert!(status == 503 && answer.ends_with("draining\n"), "{answer}");

        let (status, answer) = fetch(address, "/metrics").await;
        assert!(status == 200 && answer.ends_with("# EOF\n"), "{answer}");
        assert_eq!(fetch(address, "/elsewhere").await.0, 404);
        shutdown.cancel();
        running.await.unwrap().unwrap();
    }
}
