//! What happens on a data stream at the agent: head, verdict, then HTTP in process.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcpm_shared::access::{Denied, Grant, Presented, strip_credentials};
use mcpm_shared::mux::MuxStream;
use mcpm_shared::proto::HANDSHAKE_TIMEOUT;
use mcpm_shared::proto::head::{HEAD_LEN, StreamHead, Verdict};
use mcpm_shared::settle::settle;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::address::HttpTarget;
use super::gate::{Counted, Gate};
use super::splice;
use super::table::Table;
use crate::gateway::{BoxError, Gateway, GatewayBody};

/// What answers a share's visitors.
#[derive(Clone, Debug)]
pub enum Backend {
    /// An MCP server behind the gateway, in process.
    Gateway(Gateway),
    /// A local HTTP service, as it is.
    Http(HttpTarget),
}

/// Serves one data stream to its end.
pub(super) async fn stream(mut stream: MuxStream, table: Arc<Table>) {
    let mut head = [0; HEAD_LEN];
    let read = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.read_exact(&mut head)).await;
    if !matches!(read, Ok(Ok(_))) {
        return tracing::debug!("data stream without a head");
    }
    let found = match StreamHead::decode(head) {
        Ok(head) => table.find(head).await,
        Err(error) => {
            tracing::debug!(%error, "data stream refused");
            Err(Verdict::Unsupported)
        }
    };
    drop(table);
    let verdict = found.as_ref().err().copied().unwrap_or(Verdict::Accepted);
    let written = async {
        stream.write_all(&[verdict.encode()]).await?;
        stream.flush().await
    };
    let Ok(share) = found else {
        let _told = written.await;
        return;
    };
    if written.await.is_err() {
        return;
    }
    match &share.backend {
        Backend::Gateway(gateway) => serve_gateway(stream, gateway, &share.gate).await,
        Backend::Http(target) => splice::serve(stream, target, &share.gate).await,
    }
}

/// Speaks HTTP/1.1 on the stream and answers from the gateway.
async fn serve_gateway(stream: MuxStream, gateway: &Gateway, gate: &Arc<Gate>) {
    let service =
        service_fn(
            |request| async move { Ok::<_, Infallible>(answer(request, gateway, gate).await) },
        );
    let serving = http1::Builder::new()
        .max_buf_size(128 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = settle(pin!(serving), || true).await {
        tracing::debug!(%error, "data stream ended");
    }
}

async fn answer(
    mut request: Request<Incoming>,
    gateway: &Gateway,
    gate: &Arc<Gate>,
) -> Response<CountedBody> {
    let (grant, counted) = match admit(&request, gate) {
        Ok(admitted) => admitted,
        Err(denied) => return refuse(denied),
    };
    strip_credentials(request.headers_mut(), grant.source, true);
    let principal = grant.principal;
    if let Some(passes) = gate.policy().passes(&principal) {
        request.extensions_mut().insert(passes);
    }
    // A revocation ends what is open too.
    let denied = || gate.denied(principal.clone());
    match gateway.dispatch_unless(request, &principal, denied).await {
        Some(answer) => answer.map(|body| CountedBody { body, counted: Some(counted) }),
        None => refuse(Denied::Invalid),
    }
}

/// Judges the visitor again; who may come in is counted.
fn admit<B>(request: &Request<B>, gate: &Arc<Gate>) -> Result<(Grant, Counted), Denied> {
    let uri = request.uri();
    let presented = Presented::from_request(request.headers(), uri.query());
    let presented = presented.at(uri.path(), uri.query());
    let grant = gate.policy().evaluate(&presented, super::unix_now())?;
    Ok((grant, gate.count()))
}

/// The body of an answer, which counts as in flight until it ends or the visitor goes away.
#[derive(Debug)]
struct CountedBody {
    body: GatewayBody,
    counted: Option<Counted>,
}

impl CountedBody {
    /// Makes a body of words of our own, which is at once at its end.
    fn own(text: String) -> Self {
        Self { body: GatewayBody::full(text), counted: None }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if next.is_none() {
            self.counted = None;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn refuse(denied: Denied) -> Response<CountedBody> {
    let body = format!(r#"{{"code":"{}","message":"{denied}"}}"#, denied.code());
    let mut response = Response::new(CountedBody::own(body));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(denied.challenge()));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use mcpm_shared::access::AccessPolicy;

    use super::*;

    fn body(counted: Counted) -> CountedBody {
        CountedBody { body: GatewayBody::full("x"), counted: Some(counted) }
    }

    #[tokio::test]
    async fn an_exchange_is_in_flight_until_its_body_has_ended_or_is_dropped() {
        let gate = Arc::new(Gate::new(AccessPolicy::public(), Arc::default()));
        let (_, counted) = admit(&Request::new(()), &gate).unwrap();
        let mut read = body(counted);
        let (_, counted) = admit(&Request::new(()), &gate).unwrap();
        let left = body(counted);
        assert_eq!(gate.stats().active, 2);
        assert_eq!(read.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        assert_eq!(gate.stats().active, 2);
        assert!(read.frame().await.is_none());
        assert_eq!(gate.stats().active, 1);
        drop(left);
        assert_eq!((gate.stats().active, gate.stats().requests), (0, 2));
    }

    #[test]
    fn who_is_turned_away_is_not_counted() {
        let gate = Arc::new(Gate::new(AccessPolicy::default(), Arc::default()));
        assert_eq!(admit(&Request::new(()), &gate).unwrap_err(), Denied::Missing);
        assert_eq!(gate.stats(), crate::tunnel::TunnelStats::default());
    }
}
