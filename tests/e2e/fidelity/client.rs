//! The client in front: it writes and reads bytes, and understands no more of them than it must.

use std::collections::{HashMap, VecDeque};
use std::io::BufRead;
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use harness::visitor;
use mcpm::mcp::era::{Era, encode_header};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::raw;

/// How long something may take that must come. Generous, for a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A client; its program ends with it.
pub(super) enum Client {
    Stdio(Pipes),
    Http(Http),
}

impl Client {
    /// Sends a notification, a response, or a batch of them.
    pub(super) async fn tell(&mut self, text: &str) {
        match self {
            Self::Stdio(stdio) => stdio.write(text).await,
            Self::Http(http) => {
                let post = http.post(text);
                http.exchange(post).await;
            }
        }
    }

    /// Sends a request, or a batch with one in it.
    pub(super) async fn ask(&mut self, text: &str) {
        match self {
            Self::Stdio(stdio) => stdio.write(text).await,
            Self::Http(http) => {
                let (post, inbox) = (http.post(text), http.said.clone());
                while http.tasks.try_join_next().is_some() {}
                http.tasks.spawn(async move { drop(read(post, inbox).await) });
            }
        }
    }

    /// The next message, whatever it belongs to; `None` when none comes.
    pub(super) async fn next(&mut self) -> Option<String> {
        self.next_within(PATIENCE).await
    }

    pub(super) async fn next_within(&mut self, patience: Duration) -> Option<String> {
        let next = async {
            match self {
                Self::Stdio(stdio) => stdio.next().await,
                Self::Http(http) => http.inbox.recv().await,
            }
        };
        tokio::time::timeout(patience, next).await.ok().flatten()
    }
}

/// A client on the stdin and stdout of `mcpm`.
pub(super) struct Pipes {
    program: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    read: VecDeque<String>,
}

impl Pipes {
    /// Starts the command.
    pub(super) fn start(mut command: Command, log: std::fs::File) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut program = command.spawn().unwrap();
        let input = program.stdin.take().unwrap();
        let output = BufReader::new(program.stdout.take().unwrap());
        Self { program, input, output, read: VecDeque::new() }
    }

    /// Closes stdin and waits for the end of the program.
    pub(super) async fn end(mut self) {
        drop(self.input);
        let ended = tokio::time::timeout(PATIENCE, self.program.wait()).await;
        assert!(ended.expect("it ends with its input").unwrap().success());
    }

    async fn write(&mut self, text: &str) {
        let line = format!("{}\n", raw::flat(text));
        self.input.write_all(line.as_bytes()).await.unwrap();
        self.input.flush().await.unwrap();
    }

    async fn next(&mut self) -> Option<String> {
        while self.read.is_empty() {
            let mut line = Vec::new();
            if self.output.read_until(b'\n', &mut line).await.unwrap() == 0 {
                return None;
            }
            self.read.extend(raw::parts(&String::from_utf8(line).unwrap()));
        }
        self.read.pop_front()
    }
}

/// A client of Streamable HTTP.
pub(super) struct Http {
    client: reqwest::Client,
    url: String,
    era: Era,
    /// The version and the session of the legacy era, once they are agreed on.
    pub(super) session: Option<(String, String)>,
    said: mpsc::Sender<String>,
    inbox: mpsc::Receiver<String>,
    tasks: JoinSet<()>,
    _program: harness::process::Program,
}

impl Http {
    pub(super) fn new(url: String, era: Era, program: harness::process::Program) -> Self {
        let (said, inbox) = mpsc::channel(1024);
        let (client, tasks) = (visitor(), JoinSet::new());
        Self { client, url, era, session: None, said, inbox, tasks, _program: program }
    }

    fn headers(&self, mut request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        if let Some((version, session)) = &self.session {
            request = request.header("mcp-protocol-version", version);
            request = request.header("mcp-session-id", session);
        }
        request.header("accept", "application/json, text/event-stream")
    }

    fn post(&self, text: &str) -> reqwest::RequestBuilder {
        let mut request = self.headers(self.client.post(&self.url));
        if self.era == Era::Modern {
            for (name, value) in mirror(text) {
                request = request.header(name, encode_header(&value));
            }
        }
        request.header("content-type", "application/json").body(text.to_owned())
    }

    /// Makes an exchange to its end; returns the session it opened.
    pub(super) async fn exchange(&self, request: reqwest::RequestBuilder) -> Option<String> {
        read(request, self.said.clone()).await
    }

    pub(super) async fn open(&self, initialize: &str) -> Option<String> {
        self.exchange(self.post(initialize)).await
    }

    /// Opens the stream of what belongs to no request; if there is one, it is open when this returns.
    pub(super) async fn listen(&mut self) {
        let response = self.headers(self.client.get(&self.url)).send().await.unwrap();
        // A gateway may do without one where its server has none.
        assert!(matches!(response.status().as_u16(), 200 | 405), "{response:?}");
        let inbox = self.said.clone();
        self.tasks.spawn(async move { take(response, inbox).await });
    }
}

/// What the headers of a modern message mirror; the message itself may hold numbers that no value can.
fn mirror(text: &str) -> Vec<(&'static str, String)> {
    let text_of = |value: Option<&&RawValue>| serde_json::from_str::<String>(value?.get()).ok();
    let message = serde_json::from_str::<HashMap<String, &RawValue>>(text).unwrap_or_default();
    let params = message.get("params").map(|params| params.get()).unwrap_or("{}");
    let params = serde_json::from_str::<HashMap<String, &RawValue>>(params).unwrap_or_default();
    let mut mirror = vec![("mcp-protocol-version", "2026-07-28".to_owned())];
    let method = text_of(message.get("method")).unwrap_or_default();
    let about = match method.as_str() {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
        _ => "",
    };
    mirror.extend(text_of(params.get(about)).map(|about| ("mcp-name", about)));
    mirror.push(("mcp-method", method));
    mirror
}

async fn read(request: reqwest::RequestBuilder, inbox: mpsc::Sender<String>) -> Option<String> {
    let response = request.send().await.unwrap();
    let session = response.headers().get("mcp-session-id").cloned();
    take(response, inbox).await;
    session.map(|session| session.to_str().unwrap().to_owned())
}

/// Hands the messages of a response on as they come.
async fn take(response: reqwest::Response, inbox: mpsc::Sender<String>) {
    let kind = response.headers().get("content-type").cloned();
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
        let body = response.text().await.unwrap();
        for part in raw::parts(&body).into_iter().filter(|part| !part.is_empty()) {
            drop(inbox.send(part).await);
        }
        return;
    }
    let (mut body, mut line, mut data) = (response.bytes_stream(), Vec::new(), Vec::new());
    // A stream that breaks says nothing more; who waits for more finds out.
    while let Some(Ok(chunk)) = body.next().await {
        let mut rest = &chunk[..];
        while BufRead::read_until(&mut rest, b'\n', &mut line).unwrap() > 0
            && line.last() == Some(&b'\n')
        {
            let text = String::from_utf8(std::mem::take(&mut line)).unwrap();
            let text = text.strip_suffix('\n').unwrap();
            if let Some(part) = text.strip_prefix("data:") {
                data.push(part.strip_prefix(' ').unwrap_or(part).to_owned());
            } else if text.is_empty() {
                let whole = std::mem::take(&mut data).join("\n");
                for part in raw::parts(&whole).into_iter().filter(|part| !part.is_empty()) {
                    drop(inbox.send(part).await);
                }
            }
        }
    }
}
