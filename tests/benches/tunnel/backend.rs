//! The server behind every contender: as little HTTP/1.1 as the load generator needs.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::process::Process;

/// Bytes of the answer to `/`.
pub(crate) const SMALL: usize = 1024;

/// The backend, in a process of its own so that its work is not counted as the generator's.
pub(crate) struct Backend {
    /// Where it listens on loopback.
    pub(crate) port: u16,
    _process: Process,
}

/// Starts this program again as backend.
pub(crate) async fn start() -> anyhow::Result<Backend> {
    let this = std::env::current_exe().context("find this program")?;
    let mut process = Process::start("backend", &this, &["backend"])?;
    let port = process.line(|line| line.parse().ok()).await?;
    Ok(Backend { port, _process: process })
}

/// Answers `/` with 1 KB and `/bulk/N` with N bytes, until killed.
pub(crate) async fn serve() -> anyhow::Result<()> {
    // The usual queue of 128 overflows when a tunnel dials for 256 visitors at once; whoever it
    // overflows for then waits a second for the retransmission, which is no tunnel's figure.
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let listener = socket.listen(4096)?;
    println!("{}", listener.local_addr()?.port());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(connection(accepted?.0));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection; a peer that goes away is the normal end.
async fn connection(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let small = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {SMALL}\r\n\r\n{}",
        "x".repeat(SMALL)
    );
    let chunk = vec![b'x'; 64 * 1024];
    let mut buffer = Vec::with_capacity(8 * 1024);
    while let Some(head) = head(&mut stream, &mut buffer).await? {
        match bulk_size(&head) {
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
        if head.to_ascii_lowercase().contains("connection: close") {
            break;
        }
    }
    stream.shutdown().await
}

/// Reads up to the blank line; `None` at the end of the connection. Requests here have no body.
async fn head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            let head = std::mem::replace(buffer, rest);
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn bulk_size(head: &str) -> Option<usize> {
    head.split(' ').nth(1)?.strip_prefix("/bulk/")?.parse().ok()
}
