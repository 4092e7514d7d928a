//! A relay as a process behind a proxy, an agent that came through the proxy, and curl.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use harness::peers::peer;
use harness::process::{Program, built, command};
use harness::{Answer, Service, TestAgent, TestShare, full, request, soon};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use mcpm::tunnel::TlsOptions;
use mcpm_relay::cert::{CertSource as _, SelfSigned};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::ShareMode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::watch;

/// The address that visitors come from: one of this machine's, and no proxy's.
pub(super) const VISITOR: &str = "127.0.0.7";
/// The name of the share.
const NAME: &str = "calc";

/// The blocks of a language below "Behind a proxy" in `docs/relay.md`, in their order.
pub(super) fn documented(language: &str) -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/relay.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let section = docs.split("\n## Behind a proxy\n").nth(1).expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let mut blocks = section.split("\n```");
    let mut found = Vec::new();
    // What begins a block and what ends it take turns.
    while let (Some(_text), Some(block)) = (blocks.next(), blocks.next()) {
        let (said, text) = block.split_once('\n').unwrap();
        if said == language {
            found.push(text.to_owned());
        }
    }
    found
}

/// Puts what is here in the place of what the documentation says.
pub(super) fn put(text: &str, documented: &str, here: &str) -> String {
    assert!(text.contains(documented), "`{documented}` is not in\n{text}");
    text.replace(documented, here)
}

/// An MCP server that a test leads: it begins every call of a tool at once, and ends it when told to.
pub(super) struct Tools {
    service: Service,
    go: watch::Sender<usize>,
    ended: watch::Receiver<usize>,
    begun: usize,
}

/// Counts the answers that ended, in whatever way.
struct Ending(Arc<watch::Sender<usize>>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send_modify(|ended| *ended += 1);
    }
}

impl Tools {
    async fn start() -> Self {
        let (go, told) = watch::channel(0);
        let (ending, ended) = watch::channel(0);
        let (ending, calls) = (Arc::new(ending), Arc::new(AtomicUsize::new(0)));
        let service = Service::start(move |request| {
            let (told, ending, calls) = (told.clone(), Arc::clone(&ending), Arc::clone(&calls));
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
                if head.method == http::Method::GET || asked["method"] == "tools/call" {
                    let turn = calls.fetch_add(1, Ordering::SeqCst) + 1;
                    return events(turn, told, Ending(ending));
                }
                let result = json!({ "seen": seen(&head.headers), "bytes": body.len() });
                let said = json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string();
                let mut response = Response::new(full(said));
                response.headers_mut().insert("content-type", "application/json".parse().unwrap());
                response
            }
        })
        .await;
        Self { service, go, ended, begun: 0 }
    }

    /// Lets the call that began last end.
    fn go(&self) {
        self.go.send_replace(self.begun);
    }

    async fn all_ended(&mut self) {
        let begun = self.begun;
        let ended = self.ended.wait_for(|ended| *ended == begun);
        soon("the server notices that its answer ended", ended).await.unwrap();
    }
}

/// Progress at once, and the result when the turn comes.
fn events(turn: usize, mut told: watch::Receiver<usize>, ending: Ending) -> Response<Answer> {
    let event = |data: Value| Ok(Frame::data(Bytes::from(format!("data: {data}\n\n"))));
    let params = json!({ "progressToken": "p", "progress": 1 });
    let progress =
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params });
    let first = stream::once(async move { event(progress) });
    let second = stream::once(async move {
        let _held = ending;
        told.wait_for(|told| *told >= turn).await.unwrap();
        event(json!({ "jsonrpc": "2.0", "id": 1, "result": { "content": [] } }))
    });
    let mut response = Response::new(StreamBody::new(first.chain(second)).boxed_unsync());
    response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    response
}

fn seen(headers: &HeaderMap) -> Value {
    let texts = headers.iter().map(|(name, value)| {
        (name.to_string(), Value::from(String::from_utf8_lossy(value.as_bytes())))
    });
    texts.collect::<serde_json::Map<_, _>>().into()
}

/// The relay, what stands before it, and a share that is up through both.
pub(super) struct World {
    folder: TempDir,
    /// Where the relay itself listens.
    pub(super) relay: SocketAddr,
    /// Where visitors come in.
    pub(super) port: u16,
    pub(super) tools: Tools,
    _relay: Program,
    _front: Program,
    _agent: TestAgent,
    _share: TestShare,
}

/// What a front is started with.
pub(super) struct Place<'a> {
    pub(super) folder: &'a Path,
    /// PEM of certificate and key.
    pub(super) pem: &'a Path,
    pub(super) port: u16,
    pub(super) relay: SocketAddr,
}

impl World {
    /// Starts a relay with the documented `settings`, where `flags` say what is different here, and a front before it.
    pub(super) async fn start(
        settings: &str,
        flags: &[&str],
        front: impl FnOnce(&Place<'_>) -> Command,
    ) -> Self {
        // Proxies cannot choose a port themselves: this one is held until just before the front takes it.
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (folder, port) = (tempfile::tempdir().unwrap(), held.local_addr().unwrap().port());
        let cert = SelfSigned::open(folder.path(), &"localhost".parse().unwrap()).unwrap();
        let fingerprint = cert.fingerprint().unwrap().to_string();
        let pem = pem(folder.path());
        let file = folder.path().join("relay.toml");
        std::fs::write(&file, settings).unwrap();
        let mut serve = command(built("mcpm-relay"));
        serve.args(["serve", "--domain", "localhost", "--paths=false", "--auth", "open"]);
        serve.args(["--listen", "127.0.0.1:0", "--admin-listen", "none"]);
        serve.args(["--public-url", &format!("https://localhost:{port}")]).args(flags);
        serve.arg("--config").arg(&file).arg("--data-dir").arg(folder.path());
        if settings.contains("tls-cert") {
            serve.arg("--tls-cert").arg(&pem).arg("--tls-key").arg(&pem);
        }
        let mut running = Program::start(serve);
        let relay = running
            .line("where it listens", |line| {
                line.strip_prefix("listening on http")?.split_once("://")?.1.parse().ok()
            })
            .await;
        let place = Place { folder: folder.path(), pem: &pem, port, relay };
        let front = front(&place);
        drop(held);
        let mut front = Program::start(front);
        front.listens(port).await;
        let mut agent = TestAgent::new();
        agent.tls = TlsOptions { ca: None, fingerprint: Some(fingerprint) };
        let tools = Tools::start().await;
        let asked = request(NAME, ShareMode::Mcp, AccessPolicy::public());
        let url = format!("https://localhost:{port}");
        let share = agent.open_at(&url, asked, tools.service.backend());
        let info = share.up().await;
        assert_eq!(info.url, format!("https://{NAME}.localhost:{port}/mcp"));
        let (_relay, _front, _agent, _share) = (running, front, agent, share);
        Self { folder, relay, port, tools, _relay, _front, _agent, _share }
    }

    /// curl from an address of this machine, to a port; the share's name leads there.
    pub(super) fn curl(&self, from: &str, port: u16, args: &[&str]) -> Command {
        let mut curl = peer("curl").expect("asked for before");
        curl.args([
            "--silent",
            "--show-error",
            "--no-buffer",
            "--max-time",
            "50",
            "--noproxy",
            "*",
        ]);
        // OpenSSL takes no wildcard for names of two labels, such as calc.localhost.
        curl.args(["--interface", from, "--insecure"]);
        for host in [&format!("{NAME}.localhost"), "other.example"] {
            curl.arg("--resolve").arg(format!("{host}:{port}:127.0.0.1"));
        }
        curl.args(args);
        curl
    }

    /// The share through the front.
    pub(super) fn url(&self) -> String {
        format!("https://{NAME}.localhost:{}/mcp", self.port)
    }

    /// The share without the front.
    pub(super) fn direct(&self, scheme: &str) -> String {
        format!("{scheme}://{NAME}.localhost:{}/mcp", self.relay.port())
    }

    /// What the server behind the share sees of a message of `bytes` bytes.
    pub(super) async fn seen(&self, from: &str, url: &str, args: &[&str], bytes: usize) -> Value {
        let pad = "x".repeat(bytes);
        let said = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping", "params": { "pad": pad } });
        let file = self.folder.path().join("message.json");
        std::fs::write(&file, said.to_string()).unwrap();
        let port = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
        let data = format!("@{}", file.display());
        let mut curl = self.curl(from, port, args);
        curl.args(["--header", "content-type: application/json", "--data-binary", &data, url]);
        let ended = Program::start(curl).ended().await;
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        let answer: Value = serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        assert_eq!(answer["result"]["bytes"], said.to_string().len(), "{answer}");
        answer["result"]["seen"].clone()
    }

    /// The status of an answer, or curl's own code where there was none.
    pub(super) async fn status(&self, from: &str, url: &str, args: &[&str]) -> Result<u16, i32> {
        let port = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
        let mut curl = self.curl(from, port, args);
        curl.args(["--output", "/dev/null", "--write-out", "%{http_code}", url]);
        let ended = Program::start(curl).ended().await;
        match ended.code {
            Some(0) => Ok(ended.stdout.parse().unwrap()),
            code => Err(code.unwrap_or_default()),
        }
    }

    /// Begins a call of a tool, or with `call` false an event stream, and reads what comes first.
    async fn begin(&mut self, version: &str, call: bool) -> Program {
        let accept = "accept: application/json, text/event-stream";
        let url = self.url();
        let mut curl = self.curl(VISITOR, self.port, &[version, "--header", accept]);
        if call {
            let meta = json!({ "progressToken": "p" });
            let params = json!({ "name": "slow", "arguments": {}, "_meta": meta });
            let call =
                json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
            curl.args(["--header", "content-type: application/json", "--data", &call.to_string()]);
        }
        curl.arg(url);
        self.tools.begun += 1;
        let mut curl = Program::start(curl);
        curl.line("the progress", |line| line.contains("notifications/progress").then_some(()))
            .await;
        curl
    }

    /// Both kinds of streams arrive piece by piece, in both versions of HTTP, and end when the visitor `leaves`.
    pub(super) async fn streams_pass(&mut self, leaves: bool) {
        for (version, call) in
            [("--http1.1", true), ("--http1.1", false), ("--http2", true), ("--http2", false)]
        {
            // The result is not made before the progress was read: nothing on the way waits for more.
            let mut curl = self.begin(version, call).await;
            self.tools.go();
            curl.line("the result", |line| line.contains("result").then_some(())).await;
            assert_eq!(curl.ended().await.code, Some(0), "{version}");
            self.tools.all_ended().await;
            if leaves {
                let left = self.begin(version, call).await;
                left.signal("KILL");
                self.tools.all_ended().await;
            }
        }
    }
}

/// Where [`SelfSigned`] keeps certificate and key.
fn pem(folder: &Path) -> PathBuf {
    folder.join("self-signed-localhost.pem")
}
