//! What happens on a data stream at the agent: head, verdict, then HTTP in process.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcpm_shared::access::{Denied, Presented, strip_credentials};
use mcpm_shared::mux::MuxStream;
use mcpm_shared::proto::HANDSHAKE_TIMEOUT;
use mcpm_shared::proto::head::{HEAD_LEN, StreamHead, Verdict};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::address::HttpTarget;
use super::gate::Gate;
use super::splice;
use crate::gateway::{Gateway, GatewayBody};

/// How long a stream waits for the message that names its share: the two may overtake each other.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);

/// What answers a share's visitors.
#[derive(Clone, Debug)]
pub enum Backend {
    /// An MCP server behind the gateway, in process.
    Gateway(Gateway),
    /// A local HTTP service, as it is.
    Http(HttpTarget),
}

/// The share that a session serves: id and generation, as `claimed` said.
pub(super) type Served = watch::Receiver<Option<(u32, u64)>>;

/// Serves one data stream to its end.
pub(super) async fn stream(
    mut stream: MuxStream,
    backend: Arc<Backend>,
    gate: Arc<Gate>,
    served: Served,
) {
    let mut head = [0; HEAD_LEN];
    let read = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.read_exact(&mut head)).await;
    if !matches!(read, Ok(Ok(_))) {
        return tracing::debug!("data stream without a head");
    }
    let verdict = match StreamHead::decode(head) {
        Ok(head) => judge(head, served).await,
        Err(error) => {
            tracing::debug!(%error, "data stream refused");
            Verdict::Unsupported
        }
    };
    let written = async {
        stream.write_all(&[verdict.encode()]).await?;
        stream.flush().await
    };
    if written.await.is_err() || verdict != Verdict::Accepted {
        return;
    }
    match &*backend {
        Backend::Gateway(gateway) => serve_gateway(stream, gateway, &gate).await,
        Backend::Http(target) => splice::serve(stream, target, &gate).await,
    }
}

async fn judge(head: StreamHead, mut served: Served) -> Verdict {
    let known = served.wait_for(|served| served.is_some_and(|(share, _)| share >= head.share));
    let served = match tokio::time::timeout(CLAIM_PATIENCE, known).await {
        Ok(Ok(served)) => *served,
        Ok(Err(_)) | Err(_) => None,
    };
    match served {
        Some((share, _)) if share != head.share => Verdict::UnknownShare,
        Some((_, generation)) if generation != head.generation => Verdict::StaleGeneration,
        Some(_) => Verdict::Accepted,
        None => Verdict::UnknownShare,
    }
}

/// Speaks HTTP/1.1 on the stream and answers from the gateway.
async fn serve_gateway(stream: MuxStream, gateway: &Gateway, gate: &Gate) {
    let service = service_fn(|request| async move {
        let _counted = gate.count();
        Ok::<_, Infallible>(answer(request, gateway, gate).await)
    });
    let served = http1::Builder::new()
        .max_buf_size(128 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "data stream ended");
    }
}

async fn answer(
    mut request: Request<Incoming>,
    gateway: &Gateway,
    gate: &Gate,
) -> Response<Either<GatewayBody, String>> {
    let presented = Presented::from_request(request.headers(), request.uri().query());
    let grant = match gate.policy().evaluate(&presented, super::unix_now()) {
        Ok(grant) => grant,
        Err(denied) => return refuse(denied),
    };
    strip_credentials(request.headers_mut(), grant.source, true);
    if request.uri().path() != "/mcp" {
        let mut response = Response::new(Either::Right("nothing here\n".to_owned()));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    gateway.handle(request, &grant.principal).await.map(Either::Left)
}

fn refuse(denied: Denied) -> Response<Either<GatewayBody, String>> {
    let body = format!(r#"{{"code":"{}","message":"{denied}"}}"#, denied.code());
    let mut response = Response::new(Either::Right(body));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(denied.challenge()));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
