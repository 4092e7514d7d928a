//! The stdio face over one child: lines pass as they are, both ways.
//!
//! Nothing is rewritten. The only things looked at are whether a line of the server is MCP at all,
//! since its stray prints must not reach the client, and which requests wait for an answer, so
//! that they get one when the server dies.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::codec::FramedRead;

use super::child::{self, Child, Exit, Handle, Spec};
use super::link::death_notice;
use super::{GatewayError, Inner};
use crate::mcp::line::{Line, LineCodec};
use crate::mcp::message::{INTERNAL_ERROR, Incoming, Key, Kind, error_response};

const BUFFER: usize = 16 * 1024;

/// How long lines may be, and how long is waited for whoever may never come.
#[derive(Clone, Copy, Debug)]
struct Limits {
    max_line: usize,
    /// How long answers may still come after the client closed its end, and how long it may take to
    /// read what is left when the server has ended.
    drain: Duration,
    /// How long is listened to what a server left behind, which may hold its stdout for ever.
    linger: Duration,
}

impl Limits {
    fn of(max_line: usize) -> Self {
        Self { max_line, drain: Duration::from_secs(10), linger: Duration::from_secs(2) }
    }
}

pub(super) async fn serve(
    gateway: &Inner,
    spec: &Spec,
    stdin: impl AsyncRead + Send + Unpin,
    stdout: impl AsyncWrite + Send + Unpin,
) -> Result<(), GatewayError> {
    let child = child::spawn(spec, &gateway.nursery)?;
    let stopped = gateway.nursery.scope.cancelled();
    pass(child, stdin, stdout, Limits::of(gateway.options.max_line), stopped).await
}

async fn pass(
    child: Child,
    stdin: impl AsyncRead + Send + Unpin,
    stdout: impl AsyncWrite + Send + Unpin,
    limits: Limits,
    stopped: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    let handle = child.handle;
    let waiting = Waiting::default();
    let mut client = BufWriter::with_capacity(BUFFER, stdout);
    let mut down = Box::pin(to_client(child.stdout, &mut client, &waiting, limits, &handle));
    let mut up = Box::pin(to_server(stdin, child.stdin, &waiting, limits.max_line, &handle));
    let end = tokio::select! {
        end = &mut down => end,
        read = &mut up => {
            let ended = read.is_ok() && {
                // The server has heard the end of its input and may finish what it is doing.
                tokio::select! {
                    end = &mut down => { drop(end); true }
                    () = waiting.none() => false,
                    () = sleep(limits.drain) => false,
                }
            };
            handle.stop();
            if read.is_ok() && !ended {
                // A client that does not read must not keep us.
                tokio::select! {
                    end = &mut down => drop(end),
                    () = long_gone(&handle, limits.linger) => {}
                }
            }
            handle.exited().await;
            return read.map_err(GatewayError::Stdio);
        }
        () = stopped => {
            drop(up);
            handle.stop();
            handle.exited().await;
            return Ok(());
        }
    };
    // Closing the server's stdin comes before waiting for its end.
    drop((up, down));
    handle.stop();
    let exit = handle.exited().await;
    match end {
        // The client is gone; there is nobody to tell.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(GatewayError::Stdio(error)),
        Ok(()) => {
            let told = timeout(limits.drain, bury(&mut client, &waiting, &handle, &exit)).await;
            told.unwrap_or(Ok(())).map_err(GatewayError::Stdio)?;
            Err(handle.died(&exit))
        }
    }
}

/// Ends some time after the process has.
async fn long_gone(handle: &Handle, linger: Duration) {
    handle.exited().await;
    sleep(linger).await;
}

/// Passes the client's lines on. A server that closed its stdin is told to stop, and what the client
/// still asks is noted, so that it learns of the end.
async fn to_server(
    client: impl AsyncRead + Unpin,
    server: impl AsyncWrite + Unpin,
    waiting: &Waiting,
    max_line: usize,
    handle: &Handle,
) -> std::io::Result<()> {
    let mut lines = FramedRead::with_capacity(client, LineCodec::new(max_line), BUFFER);
    let mut server = Some(BufWriter::with_capacity(BUFFER, server));
    loop {
        let line = match &mut server {
            Some(server) => next_line(&mut lines, server).await,
            None => Ok(lines.next().await),
        };
        let written = match line {
            Ok(None) => break,
            Ok(Some(line)) => match line? {
                Line::Text(line) => {
                    waiting.asked(&line);
                    match &mut server {
                        Some(server) => write(server, &line).await,
                        None => Ok(()),
                    }
                }
                Line::TooLong(bytes) => {
                    tracing::warn!(bytes, "a line of the client was too long, dropped");
                    Ok(())
                }
            },
            Err(error) => Err(error),
        };
        if written.is_err() {
            server = None;
            handle.stop();
        }
    }
    if let Some(mut server) = server
        && server.flush().await.is_err()
    {
        handle.stop();
    }
    Ok(())
}

async fn to_client(
    server: impl AsyncRead + Unpin,
    client: &mut (impl AsyncWrite + Unpin),
    waiting: &Waiting,
    limits: Limits,
    handle: &Handle,
) -> std::io::Result<()> {
    let name = handle.server();
    let mut lines = FramedRead::with_capacity(server, LineCodec::new(limits.max_line), BUFFER);
    let mut gone = pin!(long_gone(handle, limits.linger));
    loop {
        let line = tokio::select! {
            biased;
            line = next_line(&mut lines, client) => line?,
            () = &mut gone => None,
        };
        match line {
            Some(Ok(Line::Text(line))) if waiting.answered(&line) => write(client, &line).await?,
            Some(Ok(Line::Text(line))) => {
                let text = String::from_utf8_lossy(&line[..line.len().min(400)]).into_owned();
                tracing::warn!(server = name, text, "a line on stdout is not MCP, dropped");
            }
            Some(Ok(Line::TooLong(bytes))) => {
                tracing::warn!(server = name, bytes, "a line was too long, dropped");
                if let Some(id) = waiting.only() {
                    let text = format!("the answer of server `{name}` was too long: {bytes} bytes");
                    let answer = error_response(Some(&id), INTERNAL_ERROR, &text, None);
                    write(client, &answer).await?;
                }
            }
            Some(Err(_)) | None => return client.flush().await,
        }
    }
}

/// Returns the next line; what was written to the other end is flushed before it is waited for.
/// Cancel-safe: what was read or written stays in the buffers.
async fn next_line<R: AsyncRead + Unpin>(
    lines: &mut FramedRead<R, LineCodec>,
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<Option<std::io::Result<Line>>> {
    tokio::select! {
        biased;
        line = lines.next() => return Ok(line),
        flushed = to.flush() => flushed?,
    }
    Ok(lines.next().await)
}

/// Writes a line; it may wait in the buffer until the next line is asked for.
async fn write(to: &mut (impl AsyncWrite + Unpin), line: &[u8]) -> std::io::Result<()> {
    to.write_all(line).await?;
    to.write_all(b"\n").await
}

/// Answers the requests that the server can answer no more.
async fn bury(
    client: &mut (impl AsyncWrite + Unpin),
    waiting: &Waiting,
    handle: &Handle,
    exit: &Exit,
) -> std::io::Result<()> {
    for id in waiting.take() {
        let notice = death_notice(handle.server(), exit, Some(&id));
        write(client, &notice).await?;
    }
    client.flush().await
}

/// The requests of the client that wait for an answer, oldest first.
#[derive(Debug)]
struct Waiting {
    ids: Mutex<Vec<(Key, String)>>,
    count: watch::Sender<usize>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { ids: Mutex::default(), count: watch::Sender::new(0) }
    }
}

impl Waiting {
    fn change(&self, change: impl FnOnce(&mut Vec<(Key, String)>)) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut ids);
        self.count.send_replace(ids.len());
    }

    /// Notes what a line of the client asks.
    fn asked(&self, line: &[u8]) {
        let Ok(incoming) = Incoming::parse(line) else { return };
        for message in incoming.messages() {
            match (message.kind(), message.id()) {
                (Kind::Request, Some(id)) => {
                    self.change(|ids| ids.push((Key::of(id), id.get().to_owned())));
                }
                (Kind::Notification, _) if message.method() == "notifications/cancelled" => {
                    if let Some(id) = message.peek().request_id.map(Key::of) {
                        self.change(|ids| ids.retain(|(key, _)| *key != id));
                    }
                }
                _ => {}
            }
        }
    }

    /// Notes what a line of the server answers; `false` when it is not MCP.
    fn answered(&self, line: &[u8]) -> bool {
        let Ok(incoming) = Incoming::parse(line) else { return false };
        for message in incoming.messages() {
            if let (Kind::Response, Some(id)) = (message.kind(), message.id()) {
                let id = Key::of(id);
                self.change(|ids| {
                    if let Some(at) = ids.iter().position(|(key, _)| *key == id) {
                        ids.remove(at);
                    }
                });
            }
        }
        true
    }

    /// Takes the id of the request that waits, if it is the only one.
    fn only(&self) -> Option<String> {
        let mut only = None;
        self.change(|ids| {
            if ids.len() == 1 {
                only = ids.pop().map(|(_, id)| id);
            }
        });
        only
    }

    fn take(&self) -> Vec<String> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.drain(..).map(|(_, id)| id).collect()
    }

    async fn none(&self) {
        // The sender is ours, so waiting cannot fail.
        drop(self.count.subscribe().wait_for(|count| *count == 0).await);
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
