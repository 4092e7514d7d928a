//! The server behind every contender: as little HTTP/1.1 as the load generator needs.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use mcpm_bench::http1::{self, head, listen};
use mcpm_bench::process::Process;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::certs::{self, Certs};

/// Bytes of the answer to `/`.
pub(crate) const SMALL: usize = 1024;
/// How often something happens.
const EVERY: Duration = Duration::from_millis(250);

/// The backend, in a process of its own so that its work is not counted as the generator's.
pub(crate) struct Backend {
    /// Where it listens on loopback.
    pub(crate) port: u16,
    /// Where it does so with TLS.
    pub(crate) tls_port: u16,
    _process: Process,
}

/// Starts this program again as backend.
pub(crate) async fn start(certs: &Certs) -> anyhow::Result<Backend> {
    let this = std::env::current_exe().context("find this program")?;
    let args: [OsString; 3] = ["backend".into(), certs.leaf().into(), certs.key().into()];
    let mut process = Process::start("backend", &this, &args)?;
    let ports = |line: &str| {
        let (plain, tls) = line.split_once(' ')?;
        Some((plain.parse().ok()?, tls.parse().ok()?))
    };
    let (port, tls_port) = process.line(ports).await?;
    Ok(Backend { port, tls_port, _process: process })
}

/// Answers `/` with 1 KB, `/bulk/N` with N bytes and `/events` with events without an end, until
/// killed.
pub(crate) async fn serve(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut file = || args.next().context("backend wants a certificate and its key");
    let tls = certs::acceptor(Path::new(&file()?), Path::new(&file()?))?;
    let (plain, secure) = (listen()?, listen()?);
    println!("{} {}", plain.local_addr()?.port(), secure.local_addr()?.port());
    let secured = |stream| {
        let tls = tls.clone();
        async move { connection(tls.accept(stream).await?).await }
    };
    tokio::try_join!(http1::serve(plain, connection), http1::serve(secure, secured))?;
    Ok(())
}

/// Serves one connection; a peer that goes away is the normal end.
async fn connection<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    let small = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {SMALL}\r\n\r\n{}",
        "x".repeat(SMALL)
    );
    let chunk = vec![b'x'; 64 * 1024];
    let mut buffer = Vec::with_capacity(8 * 1024);
    while let Some(head) = head(&mut stream, &mut buffer).await? {
        match bulk_size(&head) {
            None if head.starts_with("GET /events ") => return events(stream).await,
            None => stream.write_all(small.as_bytes()).await?,
            Some(size) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let mut left = size;
                while left > 0 {
                    let part = left.min(chunk.len());
                    stream.write_all(&chunk[..part]).await?;
                    left -= part;
                }
            }
        }
        stream.flush().await?;
        if head.to_ascii_lowercase().contains("connection: close") {
            break;
        }
    }
    stream.shutdown().await
}

/// Tells of something again and again until nobody listens.
async fn events<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut tick = tokio::time::interval(EVERY);
    let mut nothing = [0; 1];
    loop {
        tokio::select! {
            _ = tick.tick() => stream.write_all(b"c\r\ndata: tick\n\n\r\n").await?,
            // Whoever listens says nothing more: this is the end.
            _ = stream.read(&mut nothing) => return Ok(()),
        }
        stream.flush().await?;
    }
}

fn bulk_size(head: &str) -> Option<usize> {
    head.split(' ').nth(1)?.strip_prefix("/bulk/")?.parse().ok()
}
