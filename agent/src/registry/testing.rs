//! A web site for tests, which answers as it is told and remembers what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use mcpm_shared::scope::Scope;
use url::Url;

/// What the site was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The path, as it was sent.
    pub(crate) path: String,
    /// The parameters.
    pub(crate) query: Vec<(String, String)>,
    /// `If-None-Match`.
    pub(crate) etag: Option<String>,
    /// `If-Modified-Since`.
    pub(crate) since: Option<String>,
}

impl Asked {
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What the site answers; `None` is never.
pub(crate) type Reply = Option<Response<Body>>;

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) url: Url,
    asked: Arc<Mutex<Vec<Asked>>>,
    scope: Scope,
}

pub(crate) fn reply(status: u16, body: impl Into<Body>) -> Reply {
    let status = StatusCode::from_u16(status).unwrap();
    Some(Response::builder().status(status).body(body.into()).unwrap())
}

impl Site {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (book, answer) = (Arc::clone(&asked), Arc::new(answer));
        let routes = Router::new().fallback(move |request: Request| {
            let (book, answer) = (Arc::clone(&book), Arc::clone(&answer));
            async move {
                let asked = read(&request);
                book.lock().unwrap().push(asked.clone());
                match answer(&asked) {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        });
        let scope = Scope::new();
        scope.spawn_until_cancelled(async move {
            drop(axum::serve(listener, routes).await);
        });
        Self { url, asked, scope }
    }

    /// Returns what was asked since this was called the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    pub(crate) async fn stop(self) {
        assert_eq!(self.scope.drain(Duration::from_secs(5)).await, 0);
    }
}

fn read(request: &Request) -> Asked {
    let header = |name: &str| {
        let value = request.headers().get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let query = request.uri().query().unwrap_or_default();
    Asked {
        path: request.uri().path().to_owned(),
        query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        etag: header("if-none-match"),
        since: header("if-modified-since"),
    }
}
