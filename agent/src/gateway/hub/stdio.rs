//! The stdio face of a hub: one client on a pair of streams, in whichever era it opens.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use mcpm_shared::access::Principal;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::codec::FramedRead;

use super::Hub;
use super::drive::id_of;
use super::session::{Session, View};
use crate::gateway::GatewayError;
use crate::gateway::link::{INBOX, Packet};
use crate::mcp::era::{self, Era};
use crate::mcp::line::{Line, LineCodec};
use crate::mcp::message::{
    INTERNAL_ERROR, INVALID_REQUEST, Incoming, Kind, Message, error_response, on_one_line,
};

/// How long answers may still come after the client closed its end.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the client may take to read what is left.
const GOODBYE: Duration = Duration::from_secs(2);
const BUFFER: usize = 16 * 1024;

/// Serves one client until its input ends.
///
/// # Errors
/// The only server cannot be used, or our own streams failed.
pub(in crate::gateway) async fn serve(
    hub: &Arc<Hub>,
    stdin: impl AsyncRead + Send + Unpin,
    stdout: impl AsyncWrite + Send + Unpin,
) -> Result<(), GatewayError> {
    let (out, outbox) = mpsc::channel(INBOX);
    let view = hub.everything.clone();
    // Whoever runs a command that does not exist learns it without a client.
    if let Some(only) = view.single() {
        only.target.check()?;
    }
    let failed = OnceLock::new();
    let client =
        Client { hub, view, out, legacy: None, modern: None, failed: &failed, deaf: false };
    let stopped = hub.scope().cancelled();
    let read = async {
        tokio::select! {
            end = client.read(stdin) => end,
            () = stopped => Ok(()),
        }
    };
    let mut written = pin!(write(stdout, outbox));
    let end = tokio::select! {
        end = &mut written => end,
        // A client that does not read must not keep us.
        end = read => end.and(timeout(GOODBYE, written).await.unwrap_or(Ok(()))),
    };
    match end {
        Ok(()) => match failed.into_inner() {
            Some(error) => Err(GatewayError::Open(error)),
            None => Ok(()),
        },
        // The client is gone; there is nobody to tell.
        Err(GatewayError::Stdio(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes packets as lines; one may wait in the buffer only while another is there.
async fn write(
    stdout: impl AsyncWrite + Unpin,
    mut outbox: mpsc::Receiver<Packet>,
) -> Result<(), GatewayError> {
    let mut stdout = BufWriter::with_capacity(BUFFER, stdout);
    while let Some(packet) = outbox.recv().await {
        let line = on_one_line(&packet.message);
        stdout.write_all(&line).await.map_err(GatewayError::Stdio)?;
        stdout.write_all(b"\n").await.map_err(GatewayError::Stdio)?;
        if outbox.is_empty() {
            stdout.flush().await.map_err(GatewayError::Stdio)?;
        }
    }
    Ok(())
}

struct Client<'a> {
    hub: &'a Arc<Hub>,
    view: Arc<View>,
    out: mpsc::Sender<Packet>,
    legacy: Option<Arc<Session>>,
    modern: Option<Arc<Session>>,
    /// Why the only server could not be had by a client that opened its session: there is nothing
    /// more to do then.
    failed: &'a OnceLock<Arc<GatewayError>>,
    /// It does not read what we say.
    deaf: bool,
}

impl Drop for Client<'_> {
    /// Whoever serves the client may stop at any moment.
    fn drop(&mut self) {
        for session in [&self.legacy, &self.modern].into_iter().flatten() {
            session.stop();
        }
    }
}

impl Client<'_> {
    /// Reads until the end of the input, and waits for what is under way.
    async fn read(mut self, stdin: impl AsyncRead + Unpin) -> Result<(), GatewayError> {
        let codec = LineCodec::new(self.hub.options.max_line);
        let mut lines = FramedRead::with_capacity(stdin, codec, BUFFER);
        while self.failed.get().is_none()
            && !self.deaf
            && let Some(line) = lines.next().await
        {
            match line.map_err(GatewayError::Stdio)? {
                Line::Text(line) => self.line(&line).await,
                Line::TooLong(bytes) => {
                    tracing::warn!(bytes, "a line of the client was too long, dropped");
                }
            }
        }
        let idle = async {
            for session in [&self.legacy, &self.modern].into_iter().flatten() {
                session.idle().await;
            }
        };
        drop(timeout(DRAIN, idle).await);
        Ok(())
    }

    async fn line(&mut self, line: &Bytes) {
        match Incoming::parse(line) {
            Ok(incoming) => {
                for message in incoming.messages() {
                    self.message(message).await;
                }
            }
            Err(error) => {
                let text = error_response(None, error.code(), &error.to_string(), None);
                self.say(text).await;
            }
        }
    }

    async fn say(&mut self, text: Vec<u8>) {
        let packet = Packet { message: text.into(), last: true };
        // A client that asks and does not read is gone, whatever its end of the pipe says.
        self.deaf = !matches!(timeout(DRAIN, self.out.send(packet)).await, Ok(Ok(())));
    }

    async fn message(&mut self, message: &Message<'_>) {
        if message.kind() == Kind::Request && message.method() == "initialize" {
            return self.initialize(message).await;
        }
        let session = match era::of_message(message) {
            Some(Era::Modern) => self.modern(),
            _ => match self.legacy.clone().or_else(|| self.modern.clone()) {
                Some(session) => session,
                None if message.kind() == Kind::Request => return self.unopened(message).await,
                None => return,
            },
        };
        if message.kind() != Kind::Request {
            return session.tell(message).await;
        }
        match session.begin(message, self.out.clone()) {
            // It is given up by `notifications/cancelled` and by the end of the session.
            Ok(call) => drop(call.disarm()),
            Err(refusal) => {
                let id = Some(id_of(message));
                self.say(error_response(id, INVALID_REQUEST, &refusal.to_string(), None)).await;
            }
        }
    }

    /// Some clients ping, or ask for the era, before they open.
    async fn unopened(&mut self, message: &Message<'_>) {
        let id = Some(id_of(message));
        if message.method() == "ping" {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id_of(message));
            return self.say(text.into_bytes()).await;
        }
        let text = "open the session with `initialize` first";
        self.say(error_response(id, INVALID_REQUEST, text, None)).await;
    }

    async fn initialize(&mut self, message: &Message<'_>) {
        let id = id_of(message);
        if self.legacy.is_some() {
            let text = "the session is open already";
            return self.say(error_response(Some(id), INVALID_REQUEST, text, None)).await;
        }
        match self.hub.open(message, &Principal::Anonymous, &self.view).await {
            Ok((session, result)) => {
                let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
                self.say(text.into_bytes()).await;
                self.follow(&session);
                self.legacy = Some(session);
            }
            Err(error) => {
                let text = error.to_string();
                self.say(error_response(Some(id), INTERNAL_ERROR, &text, None)).await;
                if let Some(cause) = error.cause.filter(|_| self.view.single().is_some()) {
                    drop(self.failed.set(cause));
                }
            }
        }
    }

    fn modern(&mut self) -> Arc<Session> {
        let session = self.modern.get_or_insert_with(|| self.hub.own_caller(&self.view));
        session.clone()
    }

    /// Passes on what belongs to no request.
    fn follow(&self, session: &Arc<Session>) {
        let Ok(mut said) = session.listen() else { return };
        let out = self.out.clone();
        let over = session.over();
        self.hub.scope().spawn_until_cancelled(async move {
            let forward = async {
                while let Some(packet) = said.recv().await {
                    if out.send(packet).await.is_err() {
                        return;
                    }
                }
            };
            over.run_until_cancelled(forward).await;
        });
    }
}
