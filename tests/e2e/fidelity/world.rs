//! One `mcpm` with a client in front and a server behind, all of them processes that live for many exchanges.

use std::path::PathBuf;
use std::time::Duration;

use harness::home::Home;
use harness::process::{Program, built, command};
use mcpm::mcp::era::Era;
use serde_json::{Value, json};

use super::case::{Case, Said, plain};
use super::client::{Client, Http, PATIENCE, Pipes};
use super::raw::{self, Cut, cut};

/// The result of `initialize`, but for the version, which stands in front.
pub(super) const OPENED: &str = r#""capabilities" : {"logging":{ },"tools":{"x-big":12345678901234567890123}, "x":1e400},"x-odd":[1E+2,-0.0 ,"\ud83d"],"serverInfo":{"version":"1", "name":"echo","x":1.0 }, "instructions":"be \u0041 \/ nice""#;
/// The one tool, as `tools/list` tells of it.
pub(super) const TOOL: &str = r#"{ "x-odd":1e400,"name":"echo", "inputSchema":{"type":"object" ,"properties":{"a":{"maximum":18446744073709551616,"maximum":1.0}}},"title":"\ud83d\ude42"}"#;

/// Over what a client or a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Stdio,
    Http,
}

/// Who speaks how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) client: Over,
    pub(super) server: Over,
    pub(super) era: Era,
    /// The version that a legacy client asks for.
    pub(super) version: &'static str,
}

/// See the module.
pub(super) struct World {
    pub(super) client: Client,
    pub(super) journal: Journal,
    /// How long it waits for what must come; shorter when one failure is known and smaller ones are looked for.
    pub(super) patience: Duration,
    era: Era,
    /// What the client got while the world came up.
    pub(super) opened: Vec<String>,
    _server: Option<Program>,
    _home: Home,
}

/// What a server has got, in order.
pub(super) struct Journal {
    path: PathBuf,
    read: usize,
}

impl Journal {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// What has come since this was called last, batches taken apart.
    pub(super) fn fresh(&mut self) -> Vec<String> {
        use std::io::{Read as _, Seek as _};
        let Ok(mut file) = std::fs::File::open(&self.path) else { return Vec::new() };
        let mut bytes = Vec::new();
        file.seek(std::io::SeekFrom::Start(self.read as u64)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        let (mut rest, mut entries) = (&bytes[..], Vec::new());
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let length: usize = std::str::from_utf8(&rest[..at]).unwrap().parse().unwrap();
            let Some(entry) = rest.get(at + 1..=at + 1 + length) else { break };
            entries.extend(raw::parts(std::str::from_utf8(&entry[..length]).unwrap()));
            self.read += at + 1 + entry.len();
            rest = &rest[at + 1 + entry.len()..];
        }
        entries
    }
}

/// What the server that repeats says to what the gateway asks of its own.
fn answers(era: Era, version: &str) -> Value {
    let answer = |result: &str| [format!(r#"{{"jsonrpc":"2.0","id":@id@,"result":{result}}}"#)];
    let tools = format!(r#"{{"resultType":"complete", "tools":[{TOOL} ],"x-odd":1E+2}}"#);
    let mut answers = json!({ "tools/list": answer(&tools) });
    match era {
        Era::Legacy => {
            let opened = format!(r#"{{"protocolVersion":"{version}",{OPENED}}}"#);
            answers["initialize"] = json!(answer(&opened));
        }
        Era::Modern => {
            let discovered = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"echo","version":"1"}}}"#;
            answers["server/discover"] = json!(answer(discovered));
        }
    }
    answers
}

/// Adds a server that repeats to a home; returns its journal, and its process where that is not a child of `mcpm`.
pub(super) async fn add_server(
    home: &mut Home,
    name: &str,
    over: Over,
    era: Era,
    version: &str,
    entry: Value,
) -> (Journal, Option<Program>) {
    let (journal, file) = (home.path(&format!("{name}.journal")), home.path("answers.json"));
    std::fs::write(&file, answers(era, version).to_string()).unwrap();
    let (journal_arg, file) = (journal.to_str().unwrap(), file.to_str().unwrap());
    let echo = ["--echo", "--journal", journal_arg, "--answers", file];
    let program = built("conformance-upstream");
    let mut entry = entry;
    let server = match over {
        Over::Stdio => {
            entry["command"] = json!(program);
            entry["args"] = json!([&echo[..], &["--stdio"]].concat());
            None
        }
        Over::Http => {
            let mut command = command(program);
            command.args(echo).args(["--http", "0"]);
            let mut server = Program::start(command);
            entry["url"] = server.line("its URL", |line| Some(line.to_owned())).await.into();
            Some(server)
        }
    };
    home.add(name, entry);
    (Journal::new(journal), server)
}

impl World {
    /// Starts it and opens the conversation.
    pub(super) async fn start(pair: Pair) -> Self {
        let Pair { client, server, era, version } = pair;
        let mut home = Home::new();
        let (journal, server) = add_server(&mut home, "x", server, era, version, json!({})).await;
        let client = match client {
            Over::Stdio => {
                let log = std::fs::File::create(home.path("log")).unwrap();
                Client::Stdio(Pipes::start(home.command("mcpm", &["run", "x"]), log))
            }
            Over::Http => {
                let command = home.command("mcpm", &["run", "x", "--http", "--port", "0"]);
                let mut program = Program::start(command);
                let url = program.line("the URL", |line| Some(line.to_owned())).await;
                Client::Http(Http::new(url, era, program))
            }
        };
        let opened = Vec::new();
        let patience = PATIENCE;
        let mut world =
            Self { client, journal, patience, era, opened, _server: server, _home: home };
        world.open(version).await;
        world
    }

    async fn open(&mut self, version: &str) {
        if self.era == Era::Legacy {
            let initialize = initialize(version);
            let session = match &mut self.client {
                Client::Http(http) => http.open(&initialize).await,
                Client::Stdio(_) => None,
            };
            match (&mut self.client, session) {
                (Client::Http(http), session) => {
                    let session = session.expect("`initialize` opens a session");
                    http.session = Some((version.to_owned(), session));
                }
                (stdio @ Client::Stdio(_), _) => stdio.ask(&initialize).await,
            }
            let answer = self.client.next().await.expect("`initialize` is answered");
            self.opened.push(answer);
            let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
            self.client.tell(initialized).await;
            if let Client::Http(http) = &mut self.client {
                http.listen().await;
            }
        }
        // Messages keep their order: what came to the server before this is in the journal after it.
        let fence = plain(self.era, "tools/call", "echo", "0", "{}");
        self.client.ask(&fence.request).await;
        let answer = self.client.next().await.expect("a call is answered");
        assert_eq!(answer.trim(), fence.filled(fence.said[0].text()));
    }

    /// Makes an exchange and compares all of it.
    pub(super) async fn exchange(&mut self, case: &Case) -> Result<(), String> {
        drop(self.journal.fresh());
        if let Some(told) = &case.told {
            self.client.tell(told).await;
        }
        self.client.ask(&case.request).await;
        let replies = self.listen(case).await?;
        let mut wanted: Vec<Cut> =
            case.told.iter().chain([&case.request]).map(|text| cut(text)).collect();
        wanted.extend(replies.iter().map(|text| Cut { rest: raw::flat(text), id: None }));
        let got = self.arrived(wanted.len()).await;
        if got.len() != wanted.len() {
            return Err(format!(
                "the server got {} messages, not {}: {got:#?}",
                got.len(),
                wanted.len()
            ));
        }
        for (wanted, got) in wanted.iter().zip(&got) {
            // The answers to questions must have the very ids of the questions.
            let is_reply = replies.iter().any(|reply| raw::flat(reply) == wanted.rest);
            let rest = if is_reply { raw::flat(got) } else { cut(got).rest };
            if rest != wanted.rest {
                return Err(format!("the server got {}", raw::parting(&wanted.rest, &rest)));
            }
        }
        Ok(())
    }

    /// Waits until the server has got so many messages.
    pub(super) async fn arrived(&mut self, count: usize) -> Vec<String> {
        let mut got = self.journal.fresh();
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let more = async {
            while got.len() < count {
                ticks.tick().await;
                got.extend(self.journal.fresh());
            }
        };
        drop(tokio::time::timeout(self.patience, more).await);
        got
    }

    /// Takes all that the server says, and answers its questions; returns the answers as the server is to get them.
    async fn listen(&mut self, case: &Case) -> Result<Vec<String>, String> {
        let mut left: Vec<&Said> = case.said.iter().collect();
        let mut replies = Vec::new();
        while !left.is_empty() {
            let Some(got) = self.client.next_within(self.patience).await else {
                return Err(format!("the client did not get {left:#?}"));
            };
            let got = raw::flat(&got);
            let Some(at) = left.iter().position(|said| is(case, said, &got)) else {
                let wanted = raw::flat(&case.filled(left[0].text()));
                return Err(format!("the client got {}", raw::parting(&wanted, &got)));
            };
            let before = left[..at].iter().find(|said| !matches!(said, Said::Note(_)));
            match (left[at], before) {
                (Said::Note(_), _) | (_, None) => {}
                (_, Some(before)) => return Err(format!("{got} came before {before:?}")),
            }
            if let Said::Question { text, answer } = left[at] {
                let id = cut(&got).id.unwrap_or_default();
                self.client.tell(&answer.replace(raw::ID, &id)).await;
                let theirs = cut(text).id.unwrap_or_default();
                replies.push(answer.replace(raw::ID, &theirs));
            }
            left.remove(at);
        }
        Ok(replies)
    }
}

/// Tells whether this is what the server said; the id of a question may be another one.
fn is(case: &Case, said: &Said, got: &str) -> bool {
    match said {
        Said::Question { text, .. } => cut(text).rest == cut(got).rest,
        said => raw::flat(&case.filled(said.text())) == got,
    }
}

/// How a legacy client opens.
pub(super) fn initialize(version: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{"sampling":{{ }},"elicitation":{{"x":1e400}},"roots":{{}}}},"clientInfo":{{"version":"1","name":"fidelity", "x":18446744073709551616}}}}}}"#
    )
}
