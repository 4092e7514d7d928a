//! What operators' machines ask: is it alive, is it ready, how is it doing.
//!
//! Served on a listener of its own, by default on loopback; it needs no credential and tells no
//! names. The API and the dashboard of operators are not here yet.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use crate::metrics::{self, Metrics};
use crate::store::Store;

/// How long `/readyz` waits for the store: below the usual second of a probe.
const STORE_TIMEOUT: Duration = Duration::from_millis(800);

/// Where a relay is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not listening yet.
    Starting,
    /// Serving.
    Serving,
    /// Told to stop: streams may end, nothing new comes in.
    Draining,
}

/// What the admin listener answers from.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The metrics to show.
    pub metrics: Metrics,
    /// The store that must answer for the relay to be ready.
    pub store: Arc<dyn Store>,
    /// Where the relay is in its life.
    pub phase: watch::Receiver<Phase>,
}

/// Returns the routes of the admin listener.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .with_state(admin)
}

/// 200 when visitors can be served, else 503 and why.
async fn readyz(State(admin): State<Admin>) -> Response {
    let phase = *admin.phase.borrow();
    let unready = |why: &'static str| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    match phase {
        Phase::Starting => return unready("starting\n"),
        Phase::Draining => return unready("draining\n"),
        Phase::Serving => {}
    }
    match tokio::time::timeout(STORE_TIMEOUT, admin.store.ping()).await {
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "store failed");
            unready("the database fails\n")
        }
        Err(_) => unready("the database does not answer\n"),
    }
}

async fn show_metrics(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], admin.metrics.encode()).into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::store::MemoryStore;

    async fn ask(router: &Router, path: &str) -> (u16, String, String) {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    fn admin(phase: watch::Receiver<Phase>) -> Admin {
        Admin { metrics: Metrics::new(), store: Arc::new(MemoryStore::new()), phase }
    }

    #[tokio::test]
    async fn a_relay_is_ready_only_while_it_serves() {
        let (phase, seen) = watch::channel(Phase::Starting);
        let router = router(admin(seen));
        assert_eq!(ask(&router, "/readyz").await.0, 503);
        assert_eq!(ask(&router, "/healthz").await.0, 200);
        phase.send(Phase::Serving).unwrap();
        assert_eq!(ask(&router, "/readyz").await.0, 200);
        phase.send(Phase::Draining).unwrap();
        let (status, _, body) = ask(&router, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, "draining\n"));
        assert_eq!(ask(&router, "/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_text() {
        let (_phase, seen) = watch::channel(Phase::Serving);
        let admin = admin(seen);
        admin.metrics.response(StatusCode::OK);
        let (status, kind, body) = ask(&router(admin), "/metrics").await;
        assert_eq!(status, 200);
        assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        assert!(body.contains("mcpm_relay_responses_total{class=\"2xx\"} 1\n"), "{body}");
        assert!(body.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        let (_phase, seen) = watch::channel(Phase::Serving);
        assert_eq!(ask(&router(admin(seen)), "/").await.0, 404);
    }
}
