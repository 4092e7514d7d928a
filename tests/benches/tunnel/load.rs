//! The load generator: many connections on one thread, as little HTTP/1.1 as it takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mcpm_bench::http1::field;
use mcpm_bench::outcome::{Outcome, gather};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::either::Either;

/// Whom to ask, and how.
#[derive(Clone)]
pub(crate) struct Target {
    /// Where to connect to.
    pub(crate) addr: SocketAddr,
    /// The value of `Host`, and with TLS the name of the server.
    pub(crate) host: String,
    /// Speaks TLS with each connection.
    pub(crate) tls: Option<TlsConnector>,
    /// What the small answer is the answer to.
    pub(crate) small: Arc<Ask>,
}

/// A request, but for its `Host` and whether the connection is kept.
pub(crate) struct Ask {
    /// Method and path.
    pub(crate) line: String,
    /// Further header fields, each with its line end.
    pub(crate) headers: String,
    /// The body.
    pub(crate) body: String,
}

impl Ask {
    /// A request without a body.
    pub(crate) fn get(path: &str) -> Self {
        Self { line: format!("GET {path}"), headers: String::new(), body: String::new() }
    }
}

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Connections at a time.
    pub(crate) connections: usize,
    /// How long new requests are begun.
    pub(crate) duration: Duration,
    /// A new connection for each request.
    pub(crate) close: bool,
    /// Ask for this many bytes instead of the small answer.
    pub(crate) bulk: Option<usize>,
}

/// Applies `load` and waits for the last answer.
///
/// # Errors
/// When one request fails: a contender that drops requests is not measured, it is broken.
pub(crate) async fn apply(target: &Target, load: Load) -> anyhow::Result<Outcome> {
    let deadline = Instant::now() + load.duration;
    let connections = (0..load.connections).map(|_| connection(target.clone(), load, deadline));
    gather(load.duration, connections).await.with_context(|| format!("{load:?}"))
}

/// Makes one request on a connection of its own, and returns the length of the answer's body.
///
/// # Errors
/// When the answer is not a good one, which is how a contender looks that is not up yet.
pub(crate) async fn once(target: &Target) -> anyhow::Result<usize> {
    let mut stream = target.connect().await?;
    stream.write_all(target.request(None, true).as_bytes()).await.context("send a request")?;
    stream.flush().await.context("send a request")?;
    answer(&mut stream, &mut vec![0; 16 * 1024]).await
}

async fn connection(target: Target, load: Load, deadline: Instant) -> anyhow::Result<Outcome> {
    let request = target.request(load.bulk, load.close);
    let mut outcome = Outcome::default();
    let mut buffer = vec![0; 256 * 1024];
    let mut open = None;
    while Instant::now() < deadline {
        let begun = Instant::now();
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => target.connect().await?,
        };
        stream.write_all(request.as_bytes()).await.context("send a request")?;
        // With TLS a request that was written may not have left yet.
        stream.flush().await.context("send a request")?;
        outcome.bytes += answer(&mut stream, &mut buffer).await?;
        outcome.latencies.push(begun.elapsed().as_secs_f64());
        if !load.close {
            open = Some(stream);
        }
    }
    Ok(outcome)
}

/// A visitor's connection.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

impl Target {
    /// Asks for the small answer of a server over plain HTTP.
    pub(crate) fn plain(addr: SocketAddr, host: &str) -> Self {
        Self { addr, host: host.to_owned(), tls: None, small: Arc::new(Ask::get("/")) }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(crate) async fn connect(&self) -> anyhow::Result<Stream> {
        let addr = self.addr;
        let stream = TcpStream::connect(addr).await.with_context(|| format!("reach {addr}"))?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Either::Left(stream)) };
        let name = ServerName::try_from(self.host.clone()).context("the host as TLS names it")?;
        let stream = tls.connect(name, stream).await.context("the TLS handshake")?;
        Ok(Either::Right(Box::new(stream)))
    }

    fn request(&self, bulk: Option<usize>, close: bool) -> String {
        let bulk = bulk.map(|bytes| Ask::get(&format!("/bulk/{bytes}")));
        self.text(bulk.as_ref().unwrap_or(&self.small), close)
    }

    /// Writes a request out, perhaps as the last of its connection.
    pub(crate) fn text(&self, ask: &Ask, close: bool) -> String {
        let close = if close { "connection: close\r\n" } else { "" };
        let Ask { line, headers, body } = ask;
        format!("{line} HTTP/1.1\r\nhost: {}\r\n{headers}{close}\r\n{body}", self.host)
    }
}

/// Reads one answer and returns the length of its body.
///
/// # Errors
/// When it is not a good one with a length.
pub(crate) async fn answer(stream: &mut Stream, buffer: &mut [u8]) -> anyhow::Result<usize> {
    let mut filled = 0;
    let (head_len, body_len) = loop {
        let read = stream.read(&mut buffer[filled..]).await.context("read an answer")?;
        ensure!(read > 0, "the connection ended before an answer");
        filled += read;
        if let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
            break (end + 4, content_length(&buffer[..end])?);
        }
        ensure!(filled < buffer.len(), "an answer's head does not end");
    };
    let mut left = (head_len + body_len).checked_sub(filled).context("more than was asked for")?;
    while left > 0 {
        let read = stream.read(buffer).await.context("read a body")?;
        ensure!(read > 0, "the connection ended within a body");
        left = left.checked_sub(read).context("more than was asked for")?;
    }
    Ok(body_len)
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    let head = std::str::from_utf8(head).context("a head that is text")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("the answer is {head:?}");
    }
    let length = field(head, "content-length").and_then(|length| length.parse().ok());
    length.with_context(|| format!("an answer with a length, not {head:?}"))
}
