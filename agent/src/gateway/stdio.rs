//! The stdio face over one child: lines pass as they are, both ways.
//!
//! Nothing is rewritten. The only things looked at are whether a line of the server is MCP at all,
//! since its stray prints must not reach the client, and which requests wait for an answer, so
//! that they get one when the server dies.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::watch;
use tokio_util::codec::FramedRead;

use super::child::{self, Child, Exit, Handle, Spec};
use super::link::death_notice;
use super::{GatewayError, Inner};
use crate::mcp::line::{Line, LineCodec};
use crate::mcp::message::{Incoming, Key, Kind};

/// How long answers may still come after the client closed its end.
const DRAIN: Duration = Duration::from_secs(10);
const BUFFER: usize = 16 * 1024;

pub(super) async fn serve(
    gateway: &Inner,
    spec: &Spec,
    stdin: impl AsyncRead + Send + Unpin,
    stdout: impl AsyncWrite + Send + Unpin,
) -> Result<(), GatewayError> {
    let child = child::spawn(spec, &gateway.nursery)?;
    let stopped = gateway.nursery.scope.cancelled();
    pass(child, stdin, stdout, gateway.options.max_line, stopped).await
}

async fn pass(
    child: Child,
    stdin: impl AsyncRead + Send + Unpin,
    stdout: impl AsyncWrite + Send + Unpin,
    max_line: usize,
    stopped: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    let handle = child.handle;
    let waiting = Waiting::default();
    let mut client = BufWriter::with_capacity(BUFFER, stdout);
    let mut down = Box::pin(to_client(child.stdout, &mut client, &waiting, max_line, &handle));
    let mut up = Box::pin(to_server(stdin, child.stdin, &waiting, max_line));
    let end = tokio::select! {
        end = &mut down => end,
        read = &mut up => match read {
            Ok(()) => {
                let answered = waiting.none();
                // The server has heard the end of its input and may finish what it is doing.
                let ended = tokio::select! {
                    end = &mut down => Some(end),
                    () = answered => None,
                    () = tokio::time::sleep(DRAIN) => None,
                };
                handle.stop();
                drop(match ended { Some(end) => end, None => down.await });
                handle.exited().await;
                return Ok(());
            }
            Err(Broken::Client(error)) => {
                handle.stop();
                handle.exited().await;
                return Err(GatewayError::Stdio(error));
            }
            Err(Broken::Server) => down.as_mut().await,
        },
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
            bury(&mut client, &waiting, &handle, &exit).await.map_err(GatewayError::Stdio)?;
            Err(handle.died(&exit))
        }
    }
}

enum Broken {
    Client(std::io::Error),
    Server,
}

async fn to_server(
    client: impl AsyncRead + Unpin,
    server: impl AsyncWrite + Unpin,
    waiting: &Waiting,
    max_line: usize,
) -> Result<(), Broken> {
    let mut lines = FramedRead::with_capacity(client, LineCodec::new(max_line), BUFFER);
    let mut server = BufWriter::with_capacity(BUFFER, server);
    while let Some(line) = lines.next().await {
        match line.map_err(Broken::Client)? {
            Line::Text(line) => {
                waiting.asked(&line);
                let more = has_line(lines.read_buffer());
                write(&mut server, &line, more).await.map_err(|_| Broken::Server)?;
            }
            Line::TooLong(bytes) => {
                tracing::warn!(bytes, "a line of the client was too long, dropped");
            }
        }
    }
    Ok(())
}

async fn to_client(
    server: impl AsyncRead + Unpin,
    client: &mut (impl AsyncWrite + Unpin),
    waiting: &Waiting,
    max_line: usize,
    handle: &Handle,
) -> std::io::Result<()> {
    let name = handle.server();
    let mut lines = FramedRead::with_capacity(server, LineCodec::new(max_line), BUFFER);
    while let Some(Ok(line)) = lines.next().await {
        let Line::Text(line) = line else {
            tracing::warn!(server = name, "a line was too long, dropped");
            continue;
        };
        if waiting.answered(&line) {
            let more = has_line(lines.read_buffer());
            write(client, &line, more).await?;
        } else {
            let text: String = String::from_utf8_lossy(&line[..line.len().min(400)]).into_owned();
            tracing::warn!(server = name, text, "a line on stdout is not MCP, dropped");
        }
    }
    client.flush().await
}

fn has_line(buffer: &[u8]) -> bool {
    memchr::memchr(b'\n', buffer).is_some()
}

/// Writes a line; it may wait in the buffer only when another one follows at once.
async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    line: &Bytes,
    more: bool,
) -> std::io::Result<()> {
    to.write_all(line).await?;
    to.write_all(b"\n").await?;
    if more { Ok(()) } else { to.flush().await }
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
        write(client, &notice.into(), true).await?;
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
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, duplex};

    use super::super::child::tests::{nursery, sh};
    use super::*;

    async fn run(script: &str, input: &[u8]) -> (Result<(), GatewayError>, String) {
        let nursery = nursery();
        let child = child::spawn(&sh(script), &nursery).unwrap();
        let mut out = Vec::new();
        let end = pass(child, input, &mut out, 1_000_000, std::future::pending()).await;
        nursery.empty().await;
        (end, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn lines_pass_byte_for_byte() {
        let lines = concat!(
            "{\"x\":1e400, \"id\" : 12345678901234567890,\"method\":\"a\",\"\\u0061\":0.10 }\n",
            "{\"method\":\"notifications/ü\"}\n[{\"id\":1,\"method\":\"b\"}]\n",
        );
        let (end, out) = run("cat", lines.as_bytes()).await;
        end.unwrap();
        assert_eq!(out, lines);
    }

    #[tokio::test]
    async fn stray_prints_of_the_server_do_not_reach_the_client() {
        let script = r#"echo 'Server ready!'; echo '{"level":"info"}'; echo 42; cat"#;
        let (end, out) = run(script, b"{\"method\":\"n\"}\n").await;
        end.unwrap();
        assert_eq!(out, "{\"method\":\"n\"}\n");
    }

    #[tokio::test]
    async fn answers_still_come_after_the_input_ended() {
        let script = r#"cat >/dev/null; echo '{"id":7,"result":{}}'"#;
        let (end, out) = run(script, b"{\"id\":7,\"method\":\"x\"}\n").await;
        end.unwrap();
        assert_eq!(out, "{\"id\":7,\"result\":{}}\n");
    }

    #[tokio::test]
    async fn a_server_that_dies_leaves_no_request_unanswered() {
        let nursery = nursery();
        let script = "read a; read b; echo gone >&2; exit 9";
        let child = child::spawn(&sh(script), &nursery).unwrap();
        let (mut client, stdin) = duplex(1000);
        let text = b"{\"id\":\"\\u0061\",\"method\":\"x\"}\n{\"id\":2,\"method\":\"y\"}\n";
        client.write_all(text).await.unwrap();
        let mut out = Vec::new();
        let end = pass(child, stdin, &mut out, 1000, std::future::pending()).await;
        let error = end.unwrap_err();
        assert!(matches!(&error, GatewayError::ChildExited { status, stderr, .. }
            if status == "exit status: 9" && stderr == "gone"));
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with(r#"{"jsonrpc":"2.0","id":"\u0061","error":{"code":-32603,"#));
        assert!(lines[1].contains(r#""id":2,"#));
    }

    #[tokio::test]
    async fn a_thousand_calls_come_back_in_order() {
        let nursery = nursery();
        let child = child::spawn(&sh("cat"), &nursery).unwrap();
        let (client, server) = duplex(4096);
        let (stdin, stdout) = tokio::io::split(server);
        let serve = pass(child, stdin, stdout, 1000, std::future::pending());
        let (reader, mut writer) = tokio::io::split(client);
        let talk = async move {
            for n in 0..1000 {
                writer
                    .write_all(format!("{{\"id\":{n},\"result\":1}}\n").as_bytes())
                    .await
                    .unwrap();
            }
            writer.shutdown().await.unwrap();
        };
        let listen = async move {
            let mut lines = BufReader::new(reader).lines();
            for n in 0..1000 {
                let line = lines.next_line().await.unwrap().unwrap();
                assert_eq!(line, format!("{{\"id\":{n},\"result\":1}}"));
            }
        };
        let (end, (), ()) = tokio::join!(serve, talk, listen);
        end.unwrap();
    }

    #[tokio::test]
    async fn a_stop_from_outside_ends_the_server() {
        let nursery = nursery();
        let child = child::spawn(&sh("echo '{\"method\":\"up\"}'; cat"), &nursery).unwrap();
        let handle = child.handle.clone();
        let (client, server) = duplex(1000);
        let (stdin, stdout) = tokio::io::split(server);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = pass(child, stdin, stdout, 1000, async move { drop(stopped.await) });
        let watch = async move {
            let mut client = client;
            client.read_u8().await.unwrap();
            drop(stop);
            client
        };
        let (end, _client) = tokio::join!(serve, watch);
        end.unwrap();
        assert!(handle.exited().await.success);
    }
}
