//! `mcpm tunnel`: HTTP exchanges between a data stream and a local HTTP service, as they are.
//!
//! Heads of requests are read, judged and relieved of our credentials; everything else passes as
//! the bytes it came in. One backend connection belongs to one data stream, so an exchange costs
//! no task and no pool.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use mcpm_shared::access::{Grant, LINK_HEADER, Presented, Principal, SECRET_HEADER, Source};
use mcpm_shared::http1::{
    BodyLength, BodyTracker, FramingError, RequestHead, request_head, response_head,
};
use mcpm_shared::mux::MuxStream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::address::HttpTarget;
use super::gate::{Counted, Gate};

/// How much is read at once: small while messages are small, more when a body fills it.
const SMALL: usize = 8 * 1024;
const LARGE: usize = 64 * 1024;

/// How long connecting to the service may take: it is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long [`knock`] waits: whoever shares something waits for it.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Why an exchange ended the stream.
#[derive(Debug, thiserror::Error)]
enum SpliceError {
    #[error("the stream failed")]
    Stream(#[source] io::Error),
    #[error("the service failed")]
    Service(#[source] io::Error),
    #[error("the relay or the service spoke no HTTP")]
    Framing(#[from] FramingError),
    #[error("the visitor went away")]
    Cancelled,
    #[error("the visitor is admitted no longer")]
    Denied,
}

/// What is to be sent on of a request.
struct Judged {
    head: Vec<u8>,
    method: String,
    body: BodyLength,
    upgrade: bool,
    consumed: usize,
    principal: Principal,
}

/// Serves exchanges on a data stream until it ends.
pub(super) async fn serve(stream: MuxStream, target: &HttpTarget, gate: &Arc<Gate>) {
    if let Err(error) = exchanges(stream, target, gate).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "stream ended");
    }
}

async fn exchanges(
    mut stream: MuxStream,
    target: &HttpTarget,
    gate: &Arc<Gate>,
) -> Result<(), SpliceError> {
    let mut inbound = BytesMut::with_capacity(SMALL);
    let mut outbound = BytesMut::new();
    let mut service: Option<TcpStream> = None;
    let mut admitted = None;
    loop {
        let judged = match next_request(&mut stream, &mut inbound, target, gate).await? {
            Some(Ok(judged)) => judged,
            Some(Err(refusal)) => return write_refusal(&mut stream, refusal).await,
            None => return Ok(()),
        };
        let counted = gate.count();
        let mut connection = match service.take().filter(is_alive) {
            Some(connection) => connection,
            None => {
                let connected = tokio::select! {
                    biased;
                    connected = connect(target) => connected,
                    gone = leaving(&mut inbound, &mut stream) => return Err(gone),
                };
                match connected {
                    Ok(connection) => connection,
                    Err(error) => return write_unreachable(&mut stream, target, &error).await,
                }
            }
        };
        inbound.advance(judged.consumed);
        let buffers = (&mut inbound, &mut outbound);
        // Kept from one exchange to the next: most are of one visitor.
        let denied = match admitted.take() {
            Some((principal, denied)) if principal == judged.principal => denied,
            _ => Box::pin(gate.denied(judged.principal.clone())),
        };
        let (_, denied) = admitted.insert((judged.principal.clone(), denied));
        let exchanged = exchange(&mut stream, &mut connection, judged, buffers, &counted);
        let keep = tokio::select! {
            biased;
            keep = exchanged => keep?,
            // A revocation ends what is open too.
            () = denied => return Err(SpliceError::Denied),
        };
        if keep {
            service = Some(connection);
        } else {
            return stream.shutdown().await.map_err(SpliceError::Stream);
        }
        if outbound.capacity() > SMALL {
            outbound = BytesMut::new();
        }
    }
}

/// Reads the next request head and judges it; `None` at the end of the stream.
async fn next_request(
    stream: &mut MuxStream,
    inbound: &mut BytesMut,
    target: &HttpTarget,
    gate: &Gate,
) -> Result<Option<Result<Judged, &'static str>>, SpliceError> {
    loop {
        if let Some(head) = request_head(inbound)? {
            return Ok(Some(judge(&head, target, gate)));
        }
        inbound.reserve(SMALL);
        if stream.read_buf(inbound).await.map_err(SpliceError::Stream)? == 0 {
            return Ok(None);
        }
    }
}

/// Judges the visitor again, and writes the head anew without what opened the share.
fn judge(head: &RequestHead<'_>, target: &HttpTarget, gate: &Gate) -> Result<Judged, &'static str> {
    let policy = gate.policy();
    let Grant { source, principal } = if policy.public {
        Grant { principal: Principal::Anonymous, source: Source::Nothing }
    } else {
        let headers = credentials(head);
        let query = head.target.split_once('?').map(|(_, query)| query);
        match policy.evaluate(&Presented::from_request(&headers, query), super::unix_now()) {
            Ok(grant) => grant,
            Err(denied) => return Err(denied.challenge()),
        }
    };
    let mut out = Vec::with_capacity(head.len + 32);
    for part in [head.method.as_bytes(), b" ", head.target.as_bytes(), b" HTTP/1.1\r\nHost: "] {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(target.authority().as_bytes());
    out.extend_from_slice(b"\r\n");
    for field in &head.fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let ours = is("host") || is(SECRET_HEADER) || is(LINK_HEADER);
        if ours || (source == Source::Bearer && is("authorization")) {
            continue;
        }
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(Judged {
        head: out,
        method: head.method.to_owned(),
        body: head.body,
        upgrade: head.upgrade,
        consumed: head.len,
        principal,
    })
}

fn credentials(head: &RequestHead<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for field in &head.fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if !(is("authorization") || is(SECRET_HEADER) || is(LINK_HEADER)) {
            continue;
        }
        let name = HeaderName::from_bytes(field.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// Looks whether something listens at a service's address.
///
/// # Errors
/// When nothing does, or nothing is heard of it for a while.
pub async fn knock(target: &HttpTarget) -> io::Result<()> {
    within(KNOCK_TIMEOUT, TcpStream::connect((target.host(), target.port()))).await.map(drop)
}

async fn connect(target: &HttpTarget) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect((target.host(), target.port()));
    let connection = within(CONNECT_TIMEOUT, connecting).await?;
    connection.set_nodelay(true)?;
    Ok(connection)
}

/// Waits so long for a connection, and says so where there is none.
///
/// No `async fn`: that would keep room for what it waits for twice, and many knock at once.
fn within<T>(
    patience: Duration,
    connecting: impl Future<Output = io::Result<T>>,
) -> impl Future<Output = io::Result<T>> {
    let silent = move |_| {
        let words = format!("no answer within {} s", patience.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, words)
    };
    tokio::time::timeout(patience, connecting).map(move |done| done.map_err(silent)?)
}

/// Tells whether a resting connection can carry another request: the service has neither closed
/// it nor said anything unasked.
fn is_alive(connection: &TcpStream) -> bool {
    let silent = connection.try_read(&mut [0; 1]);
    silent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Carries one exchange; `true` when both connections can carry another.
async fn exchange(
    stream: &mut MuxStream,
    service: &mut TcpStream,
    judged: Judged,
    (inbound, outbound): (&mut BytesMut, &mut BytesMut),
    counted: &Counted,
) -> Result<bool, SpliceError> {
    let mut body = BodyTracker::new(judged.body);
    let now = body.feed(inbound)?;
    let mut first = judged.head;
    first.extend_from_slice(&inbound[..now]);
    inbound.advance(now);
    service.write_all(&first).await.map_err(SpliceError::Service)?;
    drop(first);
    let (mut from_visitor, mut to_visitor) = tokio::io::split(stream);
    let (mut from_service, mut to_service) = service.split();
    let up = async {
        pump(&mut body, inbound, &mut from_visitor, &mut to_service, counted).await?;
        if judged.upgrade {
            return Err(leaving(inbound, &mut from_visitor).await);
        }
        watch(inbound, &mut from_visitor).await
    };
    let down = answer(&judged.method, outbound, &mut from_service, &mut to_visitor, counted);
    let (keep, switched) = tokio::select! {
        biased;
        answered = down => answered?,
        ended = up => return ended,
    };
    if switched {
        // What the visitor said before it knew of the switch.
        to_service.write_all(inbound).await.map_err(SpliceError::Service)?;
        inbound.clear();
        let up = tokio::io::copy(&mut from_visitor, &mut to_service);
        let down = tokio::io::copy(&mut from_service, &mut to_visitor);
        tokio::select! { _ = up => {}, _ = down => {} }
        return Ok(false);
    }
    Ok(keep && body.is_done())
}

/// Sends on the rest of a request's body.
async fn pump(
    body: &mut BodyTracker,
    inbound: &mut BytesMut,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    counted: &Counted,
) -> Result<(), SpliceError> {
    while !body.is_done() {
        inbound.reserve(LARGE);
        if from.read_buf(inbound).await.map_err(SpliceError::Stream)? == 0 {
            return Err(SpliceError::Cancelled);
        }
        let belongs = body.feed(inbound)?;
        to.write_all(&inbound[..belongs]).await.map_err(SpliceError::Service)?;
        inbound.advance(belongs);
        counted.moved(belongs);
    }
    Ok(())
}

/// Waits for the visitor to go away, and keeps what it says meanwhile, as much as is reasonable.
/// Cancel-safe.
async fn leaving(inbound: &mut BytesMut, from: &mut (impl AsyncRead + Unpin)) -> SpliceError {
    while inbound.len() < LARGE {
        inbound.reserve(SMALL);
        match from.read_buf(inbound).await {
            Ok(0) => return SpliceError::Cancelled,
            Ok(_) => {}
            Err(error) => return SpliceError::Stream(error),
        }
    }
    std::future::pending().await
}

/// Waits for the visitor to go away. A next request cannot come before this one is answered.
async fn watch(
    inbound: &mut BytesMut,
    from: &mut (impl AsyncRead + Unpin),
) -> Result<bool, SpliceError> {
    loop {
        inbound.reserve(SMALL);
        match from.read_buf(inbound).await.map_err(SpliceError::Stream)? {
            0 => return Err(SpliceError::Cancelled),
            _ if inbound.len() > LARGE => return Err(FramingError::TooLong.into()),
            _ => {}
        }
    }
}

/// Sends on the answer; returns whether the connections can go on, and whether they switched
/// protocols.
async fn answer(
    method: &str,
    buffer: &mut BytesMut,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    counted: &Counted,
) -> Result<(bool, bool), SpliceError> {
    let mut started = false;
    let (mut body, keep) = loop {
        match response_head(buffer, method)? {
            Some(head) if head.status == 101 => {
                write(to, buffer).await?;
                return Ok((false, true));
            }
            // An interim answer; the real one follows.
            Some(head) if head.status < 200 => {
                let interim = buffer.split_to(head.len);
                to.write_all(&interim).await.map_err(SpliceError::Stream)?;
                to.flush().await.map_err(SpliceError::Stream)?;
                started = true;
            }
            Some(head) => {
                let mut body = BodyTracker::new(head.body);
                body.feed(&buffer[head.len..])?;
                break (body, head.keep_alive);
            }
            None => {
                buffer.reserve(SMALL);
                if from.read_buf(buffer).await.map_err(SpliceError::Service)? == 0 {
                    if started || !buffer.is_empty() {
                        return Err(SpliceError::Cancelled);
                    }
                    to.write_all(NO_ANSWER).await.map_err(SpliceError::Stream)?;
                    return Ok((false, false));
                }
            }
        }
    };
    write(to, buffer).await?;
    let mut size = SMALL;
    while !body.is_done() {
        buffer.reserve(size);
        let read = from.read_buf(buffer).await.map_err(SpliceError::Service)?;
        if read == 0 {
            // Only a body that ends with the connection is whole now.
            let whole = matches!(body.feed(b"x"), Ok(1)) && !keep;
            return if whole { Ok((false, false)) } else { Err(SpliceError::Cancelled) };
        }
        body.feed(buffer)?;
        size = if read >= size { LARGE } else { size };
        counted.moved(read);
        write(to, buffer).await?;
    }
    Ok((keep, false))
}

async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    buffer: &mut BytesMut,
) -> Result<(), SpliceError> {
    to.write_all(buffer).await.map_err(SpliceError::Stream)?;
    to.flush().await.map_err(SpliceError::Stream)?;
    buffer.clear();
    Ok(())
}

const NO_ANSWER: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n\
    Content-Length: 79\r\nConnection: close\r\n\r\n\
    {\"code\":\"no_answer\",\"message\":\"the shared service closed without an answer\"}   ";

async fn write_unreachable(
    stream: &mut MuxStream,
    target: &HttpTarget,
    error: &io::Error,
) -> Result<(), SpliceError> {
    tracing::warn!(%target, %error, "the shared service cannot be reached");
    let body = r#"{"code":"service_unreachable","message":"the shared service is not running"}"#;
    respond(stream, "502 Bad Gateway", "", body).await
}

async fn write_refusal(stream: &mut MuxStream, challenge: &str) -> Result<(), SpliceError> {
    let body = r#"{"code":"denied","message":"this share needs a valid token"}"#;
    respond(stream, "401 Unauthorized", &format!("WWW-Authenticate: {challenge}\r\n"), body).await
}

async fn respond(
    stream: &mut MuxStream,
    status: &str,
    fields: &str,
    body: &str,
) -> Result<(), SpliceError> {
    let answer = format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.map_err(SpliceError::Stream)?;
    stream.shutdown().await.map_err(SpliceError::Stream)
}

#[cfg(test)]
mod tests;
