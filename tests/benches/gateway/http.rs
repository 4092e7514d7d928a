//! A client over Streamable HTTP: one kept-alive connection, as little HTTP/1.1 as it takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mcpm_bench::http1;
use mcpm_bench::outcome::{Outcome, gather};
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wire::{self, Era};

/// Whom to ask, and how.
#[derive(Debug)]
pub(crate) struct Target {
    /// Where to connect to.
    pub(crate) addr: SocketAddr,
    /// The value of `Host`.
    pub(crate) host: String,
    /// The path of the endpoint.
    pub(crate) path: String,
    /// How the client speaks.
    pub(crate) era: Era,
}

/// A client and, in the legacy era, its session.
#[derive(Debug)]
pub(crate) struct Visitor {
    target: Arc<Target>,
    stream: TcpStream,
    /// What was read and not used yet.
    buffer: Vec<u8>,
    /// The body of the last answer.
    body: Vec<u8>,
    /// Header fields of its session.
    session: String,
    last_id: u64,
}

impl Visitor {
    /// Connects, and opens a session where the era has them.
    pub(crate) async fn open(target: &Arc<Target>) -> anyhow::Result<Self> {
        let addr = target.addr;
        let stream = TcpStream::connect(addr).await.with_context(|| format!("reach {addr}"))?;
        stream.set_nodelay(true)?;
        let mut visitor = Self {
            target: target.clone(),
            stream,
            buffer: Vec::with_capacity(8 * 1024),
            body: Vec::new(),
            session: String::new(),
            last_id: 0,
        };
        visitor.reopen().await?;
        Ok(visitor)
    }

    /// Opens one more session on the same connection; the one before stays open.
    pub(crate) async fn reopen(&mut self) -> anyhow::Result<()> {
        let version = self.target.era.version();
        self.session = format!("mcp-protocol-version: {version}\r\n");
        if self.target.era == Era::Modern {
            return Ok(());
        }
        self.last_id += 1;
        let request = Era::Legacy.request(self.last_id, "initialize", wire::INITIALIZE);
        let head = self.exchange("POST", "", &request).await?;
        wire::result(&self.body).context("open a session")?;
        if let Some(id) = http1::field(&head, "mcp-session-id") {
            self.session.push_str(&format!("mcp-session-id: {id}\r\n"));
        }
        self.exchange("POST", "", wire::INITIALIZED).await?;
        Ok(())
    }

    /// The fields by which its session is known, for [`Visitor::resume`].
    pub(crate) fn session(&self) -> String {
        self.session.clone()
    }

    /// Goes on with another session.
    pub(crate) fn resume(&mut self, session: String) {
        self.session = session;
    }

    /// Ends the session, and keeps the connection. Servers may refuse to.
    pub(crate) async fn end_session(&mut self) {
        if self.session.contains("mcp-session-id") {
            self.exchange("DELETE", "", "").await.ok();
        }
    }

    /// Asks for the names of all tools.
    pub(crate) async fn tools(&mut self) -> anyhow::Result<Vec<String>> {
        self.request("tools/list", "", "").await?;
        wire::tools(&wire::result(&self.body)?)
    }

    /// Makes one call; `params` are those of [`wire::call`].
    pub(crate) async fn call(&mut self, tool: &str, params: &str) -> anyhow::Result<()> {
        self.request("tools/call", tool, params).await?;
        if !wire::echoes(&self.body) {
            bail!("a call was answered {:?}", String::from_utf8_lossy(&self.body));
        }
        Ok(())
    }

    /// Calls the tools in turn, one call after the other, for `duration`.
    async fn calls(&mut self, tools: &[String], duration: Duration) -> anyhow::Result<Outcome> {
        let calls: Vec<_> = tools.iter().map(|tool| (tool.as_str(), wire::call(tool))).collect();
        let started = Instant::now();
        let mut outcome = Outcome::default();
        for (tool, params) in calls.iter().cycle() {
            if started.elapsed() >= duration {
                break;
            }
            let begun = Instant::now();
            self.call(tool, params).await?;
            outcome.latencies.push(begun.elapsed().as_secs_f64());
        }
        Ok(outcome)
    }

    async fn request(&mut self, method: &str, tool: &str, params: &str) -> anyhow::Result<()> {
        self.last_id += 1;
        let era = self.target.era;
        let request = era.request(self.last_id, method, params);
        let standard = match (era, tool) {
            (Era::Legacy, _) => String::new(),
            (Era::Modern, "") => format!("mcp-method: {method}\r\n"),
            (Era::Modern, _) => format!("mcp-method: {method}\r\nmcp-name: {tool}\r\n"),
        };
        self.exchange("POST", &standard, &request).await?;
        Ok(())
    }

    /// Sends a request and returns the head of its answer; the body is in `self.body`.
    async fn exchange(&mut self, verb: &str, fields: &str, body: &str) -> anyhow::Result<String> {
        let Target { host, path, .. } = &*self.target;
        let request = format!(
            "{verb} {path} HTTP/1.1\r\nhost: {host}\r\n\
             accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n\
             {}{fields}content-length: {}\r\n\r\n{body}",
            self.session,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await.context("send a request")?;
        let head = http1::head(&mut self.stream, &mut self.buffer).await?;
        let head = head.context("the connection ended before an answer")?;
        self.body.clear();
        if http1::field(&head, "transfer-encoding").is_some_and(|coding| coding == "chunked") {
            self.chunks().await?;
        } else {
            let length = http1::field(&head, "content-length").and_then(|text| text.parse().ok());
            self.take(length.unwrap_or(0)).await?;
        }
        let status = head.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            bail!("the answer is {head:?} {:?}", String::from_utf8_lossy(&self.body));
        }
        Ok(head)
    }

    /// Moves bytes to the body.
    async fn take(&mut self, mut left: usize) -> anyhow::Result<()> {
        loop {
            let part = left.min(self.buffer.len());
            self.body.extend(self.buffer.drain(..part));
            left -= part;
            if left == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    async fn chunks(&mut self) -> anyhow::Result<()> {
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).context("the size of a chunk")?;
            self.take(size).await?;
            let end = self.line().await?;
            ensure!(end.is_empty(), "a chunk ends with {end:?}");
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = memmem::find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read_buf(&mut self.buffer).await.context("read an answer")?;
        ensure!(read > 0, "the connection ended within an answer");
        Ok(())
    }
}

/// Many visitors with a session each.
#[derive(Debug)]
pub(crate) struct Crowd(Vec<Visitor>);

impl Crowd {
    /// Opens their sessions.
    pub(crate) async fn open(target: &Arc<Target>, visitors: usize) -> anyhow::Result<Self> {
        let mut crowd = Vec::with_capacity(visitors);
        for _ in 0..visitors {
            crowd.push(Visitor::open(target).await?);
        }
        Ok(Self(crowd))
    }

    /// Lets all of them call for `duration`, each one call after the other.
    pub(crate) async fn load(
        &mut self,
        tools: &[String],
        duration: Duration,
    ) -> anyhow::Result<Outcome> {
        let tools: Arc<[String]> = tools.into();
        let (back, mut returned) = tokio::sync::mpsc::channel(self.0.len().max(1));
        let visitors = std::mem::take(&mut self.0).into_iter();
        let running = visitors.map(|mut visitor| {
            let (tools, back) = (tools.clone(), back.clone());
            async move {
                let outcome = visitor.calls(&tools, duration).await?;
                back.try_send(visitor).ok().context("a place for every visitor")?;
                Ok(outcome)
            }
        });
        let outcome = gather(duration, running).await?;
        while let Ok(visitor) = returned.try_recv() {
            self.0.push(visitor);
        }
        Ok(outcome)
    }

    /// Ends their sessions.
    pub(crate) async fn close(self) {
        for mut visitor in self.0 {
            visitor.end_session().await;
        }
    }
}
