//! Where the browser brings the answer: a listener on this machine (RFC 8252 §7.3).

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mcpm_shared::scope::Scope;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use url::Url;

use super::error::OauthError;

const PATH: &str = "/callback";
/// How many connections may be open: browsers open some that they never use.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// A listener that waits for the browser.
#[derive(Debug)]
pub struct Redirect {
    listeners: Vec<TcpListener>,
    uri: Url,
}

/// What a browser brought. `Debug` does not show the URL, which holds the code.
pub struct Hit {
    /// The whole URL.
    pub url: String,
    /// Takes what the browser is to show.
    pub page: oneshot::Sender<Page>,
}

impl fmt::Debug for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hit")
    }
}

/// What the browser shows at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The login was made.
    Done,
    /// The login was not made.
    Failed,
    /// This is not the login that is waited for.
    Strange,
}

impl Redirect {
    /// Listens on a port that is free, or at `wanted`, an `http` URL of this machine with a port.
    ///
    /// # Errors
    /// When `wanted` is no such URL, or its port is taken.
    pub async fn bind(wanted: Option<&Url>) -> Result<Self, OauthError> {
        let Some(wanted) = wanted else {
            let listener = bind(Ipv4Addr::LOCALHOST.into(), 0).await?;
            let address = listener.local_addr().map_err(|source| failed("127.0.0.1", source))?;
            let uri = Url::parse(&format!("http://{address}{PATH}")).expect("it is a URL");
            return Ok(Self { listeners: vec![listener], uri });
        };
        let port = port_of(wanted).ok_or_else(|| {
            let reason = "it must be like http://127.0.0.1:PORT/PATH";
            failed(wanted.as_str(), std::io::Error::new(std::io::ErrorKind::InvalidInput, reason))
        })?;
        let listeners = match wanted.host_str() {
            Some("[::1]") => vec![bind(Ipv6Addr::LOCALHOST.into(), port).await?],
            Some("localhost") => {
                let v4 = bind(Ipv4Addr::LOCALHOST.into(), port).await?;
                // Which of the two a browser means by the name is its own affair.
                let v6 = bind(Ipv6Addr::LOCALHOST.into(), port).await.ok();
                std::iter::once(v4).chain(v6).collect()
            }
            _ => vec![bind(Ipv4Addr::LOCALHOST.into(), port).await?],
        };
        Ok(Self { listeners, uri: wanted.clone() })
    }

    /// Returns the URL to be redirected to.
    #[must_use]
    pub fn uri(&self) -> &str {
        self.uri.as_str()
    }

    /// Takes what browsers bring until `scope` is cancelled.
    #[must_use]
    pub fn serve(self, scope: &Scope) -> mpsc::Receiver<Hit> {
        let (sender, hits) = mpsc::channel(1);
        let desk = Arc::new(Desk { uri: self.uri, hits: sender });
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        for listener in self.listeners {
            let (desk, room, tasks) = (desk.clone(), room.clone(), scope.clone());
            scope.spawn_until_cancelled(async move {
                while let Ok(permit) = room.clone().acquire_owned().await {
                    // What fails is a connection that has gone already.
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let (desk, scope) = (desk.clone(), tasks.clone());
                    tasks.spawn(async move {
                        desk.connection(stream, &scope).await;
                        drop(permit);
                    });
                }
            });
        }
        hits
    }
}

fn port_of(uri: &Url) -> Option<u16> {
    let ours = matches!(uri.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let plain = uri.scheme() == "http" && uri.query().is_none() && uri.fragment().is_none();
    uri.port_or_known_default().filter(|port| ours && plain && *port != 0)
}

async fn bind(host: IpAddr, port: u16) -> Result<TcpListener, OauthError> {
    let address = SocketAddr::new(host, port);
    TcpListener::bind(address).await.map_err(|source| failed(&address.to_string(), source))
}

fn failed(address: &str, source: std::io::Error) -> OauthError {
    OauthError::Listen { address: address.to_owned(), source }
}

/// Who answers browsers.
struct Desk {
    uri: Url,
    hits: mpsc::Sender<Hit>,
}

impl Desk {
    async fn connection(&self, stream: TcpStream, scope: &Scope) {
        let service =
            service_fn(|request| async { Ok::<_, Infallible>(self.answer(request).await) });
        let connection = http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let over = tokio::select! {
            over = connection.as_mut() => Some(over),
            () = scope.cancelled() => None,
        };
        if over.is_none() {
            // The page that tells how it ended may be on its way.
            connection.as_mut().graceful_shutdown();
            drop(connection.await);
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != self.uri.path() {
            return page(StatusCode::NOT_FOUND, "Not found", "There is nothing here.");
        }
        if request.method() != Method::GET {
            return page(StatusCode::METHOD_NOT_ALLOWED, "Not allowed", "There is nothing here.");
        }
        let mut url = self.uri.clone();
        url.set_query(request.uri().query());
        let (sender, shown) = oneshot::channel();
        let hit = Hit { url: url.into(), page: sender };
        let told = match self.hits.send(hit).await {
            Ok(()) => shown.await.ok(),
            Err(_) => None,
        };
        match told {
            Some(Page::Done) => page(
                StatusCode::OK,
                "Logged in",
                "mcpm has what it needs. You may close this window.",
            ),
            Some(Page::Failed) => page(
                StatusCode::BAD_REQUEST,
                "Not logged in",
                "The terminal says why. You may close this window.",
            ),
            Some(Page::Strange) | None => page(
                StatusCode::BAD_REQUEST,
                "Not this login",
                "mcpm does not wait for this answer. Use the URL that it showed last.",
            ),
        }
    }
}

fn page(status: StatusCode, title: &str, text: &str) -> Response<Full<Bytes>> {
    let html = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>{title}</title><h1>{title}</h1><p>{text}\n"
    );
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "text/html; charset=utf-8")
        .header(CACHE_CONTROL, "no-store")
        .header(CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'")
        // The code stands in the URL.
        .header(REFERRER_POLICY, "no-referrer");
    response.body(Full::new(html.into())).expect("our own headers are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_can_be_waited_on() {
        let port = |text: &str| port_of(&Url::parse(text).unwrap());
        assert_eq!(port("http://127.0.0.1:7777/x"), Some(7777));
        assert_eq!(port("http://localhost/x"), Some(80));
        assert_eq!(port("http://[::1]:7777/"), Some(7777));
        for text in ["https://localhost:1/", "http://x.example:1/", "http://localhost:1/?a=b"] {
            assert_eq!(port(text), None, "{text}");
        }
    }
}
