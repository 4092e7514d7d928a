//! What operators' machines ask: is it alive, is it ready, how is it doing.
//!
//! Served on a listener of its own, by default on loopback; that much needs no credential and tells
//! no names. The API for operators ([`api`]) and the [`dashboard`] do both.

pub mod api;
pub mod dashboard;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use self::api::Api;
use self::dashboard::Dashboard;
use crate::cert::CertSource;
use crate::config::Live;
use crate::metrics::{self, Metrics};
use crate::store::Store;

/// How long `/readyz` waits for the store: below the usual second of a probe.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_millis(800);

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

impl Phase {
    /// Returns the phase in a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// What the admin listener answers from.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The metrics to show.
    pub metrics: Metrics,
    /// The store that must answer for the relay to be ready.
    pub store: Arc<dyn Store>,
    /// What is shown to those who connect by TLS; `None` without.
    pub cert: Option<Arc<dyn CertSource>>,
    /// The settings.
    pub config: Live,
    /// Where the relay is in its life.
    pub phase: watch::Receiver<Phase>,
    /// The API for operators, where there is a token for it.
    pub api: Option<Api>,
    /// The dashboard over the same.
    pub dashboard: Option<Dashboard>,
}

/// Returns the routes of the admin listener.
pub fn router(admin: Admin) -> Router {
    let api = admin.api.clone().map(api::router);
    let dashboard = admin.dashboard.clone().map(dashboard::router);
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .with_state(admin);
    let router = match dashboard {
        Some(dashboard) => router.merge(dashboard),
        None => router,
    };
    match api {
        Some(api) => router.nest(api::BASE, api),
        None => router,
    }
}

/// 200 when visitors can be served, else 503 and why. Without a certificate nobody is; but where the
/// authority comes through the balancer, it shall find a node that shows the proof. Without its
/// database a relay still serves the shares that are up: were it not ready then, a balancer would
/// take away all nodes at once, and live shares with them. So it says that it is degraded, and is
/// ready, unless the operator wants it otherwise.
async fn readyz(State(admin): State<Admin>) -> Response {
    let phase = *admin.phase.borrow();
    let unready = |why: &'static str| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    match phase {
        Phase::Starting => return unready("starting\n"),
        Phase::Draining => return unready("draining\n"),
        Phase::Serving => {}
    }
    let no_cert = admin.cert.as_ref().filter(|cert| cert.leaf().is_none());
    let proves =
        |cert: &dyn CertSource| cert.proves_at_listeners() && admin.config.load().nodes.is_some();
    if no_cert.is_some_and(|cert| !proves(cert.as_ref())) {
        return unready("no certificate yet: `mcpm-relay status` says why\n");
    }
    let why = match tokio::time::timeout(STORE_TIMEOUT, admin.store.ping()).await {
        Ok(Ok(())) if no_cert.is_some() => return "degraded: no certificate yet\n".into_response(),
        Ok(Ok(())) => return "ready\n".into_response(),
        Ok(Err(error)) if !error.is_unreachable() => {
            tracing::error!(error = &error as &dyn std::error::Error, "store failed");
            "degraded: the database fails\n"
        }
        Ok(Err(_)) | Err(_) => "degraded: the database does not answer\n",
    };
    match admin.config.load().ready_without_database {
        true => why.into_response(),
        false => unready(why),
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
    use crate::config::Config;
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
        Admin {
            metrics: Metrics::new(),
            store: Arc::new(MemoryStore::new()),
            cert: None,
            config: Live::new(Arc::new(Config::local())),
            phase,
            api: None,
            dashboard: None,
        }
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

    /// Has none to show; whether its authority comes to the listeners is given.
    #[derive(Debug)]
    struct NoCert(bool);

    impl CertSource for NoCert {
        fn resolver(&self) -> Arc<dyn rustls::server::ResolvesServerCert> {
            unreachable!("nobody connects by TLS")
        }

        fn leaf(&self) -> Option<rustls::pki_types::CertificateDer<'static>> {
            None
        }

        fn proves_at_listeners(&self) -> bool {
            self.0
        }
    }

    #[tokio::test]
    async fn a_relay_without_a_certificate_is_ready_only_where_the_authority_comes_by_a_balancer() {
        let (_phase, seen) = watch::channel(Phase::Serving);
        let secret = mcpm_shared::token::Token::new("what all nodes of this test know together");
        let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let nodes = crate::config::NodeSettings::new(listen, vec![secret]);
        for (several, at_listeners, ready) in
            [(false, false, 503), (false, true, 503), (true, false, 503), (true, true, 200)]
        {
            let nodes = several.then(|| nodes.clone());
            let config = Live::new(Arc::new(Config { nodes, ..Config::local() }));
            let cert = Some(Arc::new(NoCert(at_listeners)) as Arc<dyn CertSource>);
            let router = router(Admin { cert, config, ..admin(seen.clone()) });
            let (status, _, body) = ask(&router, "/readyz").await;
            assert_eq!(status, ready, "{several} {at_listeners} {body}");
            assert!(body.contains("no certificate yet"), "{body}");
        }
        // One that waits for the proof is asked for its database as any other.
        let moody = Arc::new(crate::store::moody::Moody::default());
        moody.set_away(true);
        for (ready_without_database, ready) in [(false, 503), (true, 200)] {
            let nodes = Some(nodes.clone());
            let config = Config { nodes, ready_without_database, ..Config::local() };
            let config = Live::new(Arc::new(config));
            let cert = Some(Arc::new(NoCert(true)) as Arc<dyn CertSource>);
            let store = Arc::clone(&moody) as Arc<dyn Store>;
            let router = router(Admin { cert, config, store, ..admin(seen.clone()) });
            let (status, _, body) = ask(&router, "/readyz").await;
            let away = "degraded: the database does not answer\n";
            assert_eq!((status, body.as_str()), (ready, away));
        }
        let domain = "share.example.com".parse().unwrap();
        let made = crate::cert::SelfSigned::generate(&domain).unwrap();
        let cert = Some(Arc::new(made) as Arc<dyn CertSource>);
        let router = router(Admin { cert, ..admin(seen) });
        assert_eq!(ask(&router, "/readyz").await.2, "ready\n");
    }

    #[tokio::test]
    async fn a_relay_without_its_database_is_ready_and_says_that_it_is_degraded() {
        let (_phase, seen) = watch::channel(Phase::Serving);
        let moody = Arc::new(crate::store::moody::Moody::default());
        let store = Arc::clone(&moody) as Arc<dyn Store>;
        let router = router(Admin { store, ..admin(seen) });
        moody.set_away(true);
        let (status, _, body) = ask(&router, "/readyz").await;
        assert_eq!((status, body.as_str()), (200, "degraded: the database does not answer\n"));
        moody.set_away(false);
        assert_eq!(ask(&router, "/readyz").await.2, "ready\n");
    }

    #[tokio::test]
    async fn a_relay_without_its_database_is_not_ready_where_the_operator_wants_it_so() {
        let (_phase, seen) = watch::channel(Phase::Serving);
        let moody = Arc::new(crate::store::moody::Moody::default());
        let store = Arc::clone(&moody) as Arc<dyn Store>;
        let config = Config { ready_without_database: false, ..Config::local() };
        let config = Live::new(Arc::new(config));
        let router = router(Admin { store, config, ..admin(seen) });
        assert_eq!(ask(&router, "/readyz").await.0, 200);
        moody.set_away(true);
        let (status, _, body) = ask(&router, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, "degraded: the database does not answer\n"));
        assert_eq!(ask(&router, "/healthz").await.0, 200, "no reason to start it anew");
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
        let router = router(admin(seen));
        assert_eq!(ask(&router, "/").await.0, 404);
        assert_eq!(ask(&router, "/api/v1/shares").await.0, 404, "no token, no API");
    }
}
