//! The network that logins use: bounded answers, our idea of TLS, and no address that a server has
//! no business to send us to.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rmcp::transport::auth::{
    OAuthHttpClient, OAuthHttpClientFuture, OAuthHttpRedirectPolicy, OAuthHttpRequest,
};
use url::{Host, Url};

use super::error::{BoxError, OauthError};
use super::reach::Reach;

/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(15);
/// The longest answer, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// How many redirects of a registration are followed.
const MAX_REDIRECTS: usize = 5;
/// A request that any server answers, and that opens nothing.
const PING: &[u8] = br#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#;

type Caller = Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

/// The HTTP client of logins.
#[derive(Debug)]
pub(super) struct Web {
    plain: Caller,
    /// Reading the platform's roots takes milliseconds that plain URLs do not need.
    secure: OnceLock<Caller>,
    reach: Option<Reach>,
    home: Option<(Url, HeaderMap)>,
}

/// An address that a server has no business to name.
#[derive(Debug, thiserror::Error)]
#[error("{0} is in a private network or on this machine, which the server is not")]
pub(super) struct Barred(String);

impl Web {
    /// Makes a client for a login to the server at `home`, whose own requests carry `headers`.
    pub(super) fn towards(
        home: &Url,
        headers: HeaderMap,
        reach: Reach,
    ) -> Result<Self, OauthError> {
        Ok(Self { home: Some((home.clone(), headers)), ..Self::within(Some(reach))? })
    }

    /// Makes a client for URLs that were found good at the login.
    pub(super) fn known() -> Result<Self, OauthError> {
        Self::within(None)
    }

    fn within(reach: Option<Reach>) -> Result<Self, OauthError> {
        Ok(Self { plain: caller(false, reach)?, secure: OnceLock::new(), reach, home: None })
    }

    /// Asks the server something without a token, in the ways of both transports. Returns the
    /// headers of its refusal, if it refuses.
    pub(super) async fn refusal(&self, home: &Url) -> Result<Option<HeaderMap>, BoxError> {
        let asks: [(Method, &str, &[u8]); 2] = [
            (Method::POST, "application/json, text/event-stream", PING),
            (Method::GET, "text/event-stream", b""),
        ];
        for (method, accept, body) in asks {
            let request = Request::builder().method(method).uri(home.as_str());
            let request = request.header(ACCEPT, accept).header(CONTENT_TYPE, "application/json");
            let answer = self.open(request.body(body.to_vec())?);
            let answer = tokio::time::timeout(PATIENCE, answer).await??;
            if answer.status() == StatusCode::UNAUTHORIZED {
                return Ok(Some(answer.into_parts().0.headers));
            }
        }
        Ok(None)
    }

    async fn fetch(
        &self,
        mut request: Request<Vec<u8>>,
        redirects: OAuthHttpRedirectPolicy,
    ) -> Result<Response<Vec<u8>>, BoxError> {
        let follow = redirects == OAuthHttpRedirectPolicy::Follow;
        for _ in 0..MAX_REDIRECTS {
            let answer = self.open(request.clone()).await?;
            match elsewhere(&request, &answer).filter(|_| follow) {
                Some(target) => *request.uri_mut() = target,
                None => return gather(answer).await,
            }
        }
        Err("it redirects for ever".into())
    }

    /// Sends one request; its answer is read by the caller.
    async fn open(
        &self,
        mut request: Request<Vec<u8>>,
    ) -> Result<Response<hyper::body::Incoming>, BoxError> {
        let url = Url::parse(&request.uri().to_string())?;
        self.admit(&url)?;
        let caller = match url.scheme() {
            "https" => self.secure()?,
            "http" => self.plain.clone(),
            other => return Err(format!("`{other}` is not the scheme of a web address").into()),
        };
        let headers = request.headers_mut();
        // Made anew for the URL, also after a redirect.
        headers.remove(HOST);
        let agent = concat!("mcpm/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if let Some((_, ours)) = self.home.as_ref().filter(|(home, _)| *home == url) {
            headers.extend(ours.clone());
        }
        Ok(caller.request(request.map(|body| Full::new(body.into()))).await?)
    }

    /// Refuses addresses that stand in a URL; those behind names meet the resolver.
    fn admit(&self, url: &Url) -> Result<(), Barred> {
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            _ => return Ok(()),
        };
        match self.reach {
            Some(reach) if !reach.admits(address) => Err(Barred(address.to_string())),
            _ => Ok(()),
        }
    }

    fn secure(&self) -> Result<Caller, OauthError> {
        if let Some(caller) = self.secure.get() {
            return Ok(caller.clone());
        }
        let made = caller(true, self.reach)?;
        Ok(self.secure.get_or_init(|| made).clone())
    }
}

impl OAuthHttpClient for Web {
    fn execute(&self, request: OAuthHttpRequest) -> OAuthHttpClientFuture<'_> {
        let OAuthHttpRequest { request, redirect_policy, timeout, .. } = request;
        let patience = timeout.unwrap_or(PATIENCE).min(PATIENCE);
        Box::pin(async move {
            tokio::time::timeout(patience, self.fetch(request, redirect_policy)).await?
        })
    }
}

/// Returns where an answer sends the same request, when that is no step down.
fn elsewhere<T>(request: &Request<Vec<u8>>, answer: &Response<T>) -> Option<http::Uri> {
    // The others would turn a POST into a GET (RFC 9110 §15.4).
    if !matches!(answer.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
        return None;
    }
    let from = Url::parse(&request.uri().to_string()).ok()?;
    let to = from.join(answer.headers().get(LOCATION)?.to_str().ok()?).ok()?;
    let fine = to.scheme() == "https" || to.origin() == from.origin();
    to.as_str().parse().ok().filter(|_| fine)
}

async fn gather(answer: Response<hyper::body::Incoming>) -> Result<Response<Vec<u8>>, BoxError> {
    let (head, body) = answer.into_parts();
    let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if kind.starts_with(b"text/event-stream") {
        // A server without a login opens a stream that says nothing of one and never ends.
        return Ok(Response::from_parts(head, Vec::new()));
    }
    let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body.to_vec()))
}

fn caller(tls: bool, reach: Option<Reach>) -> Result<Caller, OauthError> {
    let config = crate::web::tls(tls).map_err(OauthError::Tls)?;
    let mut tcp = HttpConnector::new_with_resolver(Resolver(reach));
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    let connector = HttpsConnectorBuilder::new().with_tls_config(config);
    let connector = connector.https_or_http().enable_all_versions().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector))
}

/// Looks names up, and forgets the addresses that are not to be called.
#[derive(Clone, Copy, Debug)]
struct Resolver(Option<Reach>);

impl tower::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let admits = |found: &SocketAddr| reach.is_none_or(|reach| reach.admits(found.ip()));
            let admitted: Vec<SocketAddr> = found.filter(admits).collect();
            if admitted.is_empty() {
                return Err(Barred(name.as_str().to_owned()).into());
            }
            Ok(admitted.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(reach: Reach, url: &str) -> BoxError {
        let home = Url::parse("https://server.example/mcp").unwrap();
        let web = Web::towards(&home, HeaderMap::new(), reach).unwrap();
        let request = Request::get(url).body(Vec::new()).unwrap();
        web.fetch(request, OAuthHttpRedirectPolicy::Stop).await.unwrap_err()
    }

    fn is_barred(error: &BoxError) -> bool {
        let first: &(dyn std::error::Error + 'static) = error.as_ref();
        std::iter::successors(Some(first), |error| error.source())
            .any(<dyn std::error::Error>::is::<Barred>)
    }

    #[tokio::test]
    async fn a_server_on_the_internet_cannot_send_us_to_this_machine() {
        for url in ["http://127.0.0.1:9/", "http://[::1]:9/", "http://169.254.169.254/"] {
            assert!(is_barred(&get(Reach::Public, url).await), "{url}");
        }
        let error = get(Reach::Public, "http://localhost:9/").await;
        assert!(is_barred(&error), "{error:?}");
        let error = get(Reach::Loopback, "http://localhost:9/").await;
        assert!(!is_barred(&error), "{error:?}");
    }

    #[tokio::test]
    async fn only_the_web_is_called() {
        let error = get(Reach::Public, "ftp://x.example/").await.to_string();
        assert!(error.contains("`ftp`"), "{error}");
    }
}
