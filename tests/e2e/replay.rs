//! Both registries replayed by a service of this process to the real program: pages, an answer that nothing changed,
//! what changed since, errors, broken bodies, and one that comes a piece at a time. The answers have the shape of the
//! real ones.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use harness::home::Home;
use harness::process::Program;
use harness::{Answer, Service, full};
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

const OFFICIAL: &str = "io.modelcontextprotocol.registry/official";

/// How the registries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// They answer.
    Well,
    /// They answer, a few bytes at a time.
    Slow,
    /// They answer with the first half of what they should.
    Broken,
    /// They answer with an error.
    Down,
}

/// A replay, and what was asked for.
#[derive(Debug)]
struct Replay {
    service: Service,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Replay {
    async fn start() -> Self {
        let (mood, asked) = (Arc::new(Mutex::new(Mood::Well)), Arc::new(Mutex::new(Vec::new())));
        let (now, log) = (Arc::clone(&mood), Arc::clone(&asked));
        let service = Service::start(move |request: Request<Incoming>| {
            let target = request.uri().to_string();
            let etag = request.headers().get("if-none-match").is_some();
            log.lock().unwrap().push(format!("{target}{}", if etag { " if changed" } else { "" }));
            let answer = answer(&target, etag, *now.lock().unwrap());
            async move { answer }
        })
        .await;
        Self { service, mood, asked }
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// Runs `mcpm` against it; returns what it printed as JSON, and what it said beside.
    async fn mcpm(&self, home: &Home, args: &[&str]) -> (Value, String) {
        let url = self.service.url();
        let mut command = home.command("mcpm", args);
        command.env("MCPM_REGISTRY_URL", &url).env("MCPM_OFFICIAL_REGISTRY_URL", &url);
        command.env("MCPM_NON_INTERACTIVE", "true").env("MCPM_JSON_OUTPUT", "true");
        let mut program = Program::start(command);
        program.hang_up();
        let ended = program.ended().await;
        assert_eq!(ended.code, Some(0), "{args:?}\n{}\n{}", ended.stdout, ended.stderr);
        (serde_json::from_str(&ended.stdout).unwrap(), ended.stderr)
    }

    /// Everything that is found, but for the built-in list.
    async fn names(&self, home: &Home, args: &[&str]) -> (Vec<String>, String) {
        let (found, told) = self.mcpm(home, args).await;
        let found = found.as_array().unwrap().iter().filter(|one| one["registry"] != "built-in");
        let mut names: Vec<String> =
            found.map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        (names, told)
    }
}

fn answer(target: &str, etag: bool, mood: Mood) -> Response<Answer> {
    let status = |code: u16| Response::builder().status(code);
    if mood == Mood::Down {
        return status(503).body(full("later")).unwrap();
    }
    let body = match target {
        "/api/servers.json" if etag => return status(304).body(full("")).unwrap(),
        "/api/servers.json" => catalogue().to_string(),
        _ if target.contains("/versions/") => item("io.github.acme/pages", "1.2.0").to_string(),
        _ if target.contains("updated_since=") => {
            page(&[("io.github.acme/late", "0.1.0"), ("io.github.acme/files", "2.0.0")], None)
        }
        _ if target.contains("cursor=second") => page(&[("io.github.acme/pages", "1.2.0")], None),
        _ => page(&[("io.github.acme/files", "1.0.0")], Some("second")),
    };
    let ok = status(200).header("etag", "\"1\"").header("content-type", "application/json");
    match mood {
        Mood::Broken => ok.body(full(body[..body.len() / 2].to_owned())).unwrap(),
        Mood::Slow => ok.body(dribble(&body)).unwrap(),
        _ => ok.body(full(body)).unwrap(),
    }
}

/// The body in a hundred pieces, a millisecond apart.
fn dribble(body: &str) -> Answer {
    let pieces = body.as_bytes().chunks(body.len() / 100 + 1).map(Bytes::copy_from_slice);
    let pieces: Vec<Bytes> = pieces.collect();
    let ticks = futures_util::stream::unfold(
        tokio::time::interval(Duration::from_millis(1)),
        |mut interval| async move {
            interval.tick().await;
            Some(((), interval))
        },
    );
    let body = futures_util::stream::iter(pieces).zip(ticks);
    let frames = body.map(|(piece, ())| Ok::<_, Infallible>(Frame::data(piece)));
    StreamBody::new(frames).map_err(|never| match never {}).boxed_unsync()
}

fn catalogue() -> Value {
    json!({
        "tide": {
            "name": "tide", "display_name": "Tide", "description": "Tells the tide.",
            "repository": { "type": "git", "url": "https://git.example/acme/tide" },
            "license": "MIT", "categories": ["Web Services"], "tags": ["sea"],
            "installations": {
                "npm": { "type": "npm", "command": "npx", "args": ["-y", "tide-mcp"] },
            },
        },
    })
}

fn item(name: &str, version: &str) -> Value {
    json!({
        "server": {
            "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
            "name": name, "description": format!("About {name}."), "version": version,
            "repository": { "url": "https://git.example/acme/x", "source": "git" },
            "packages": [{
                "registryType": "pypi", "identifier": "acme-mcp", "version": version,
                "transport": { "type": "stdio" },
                "environmentVariables": [
                    { "name": "ACME_TOKEN", "description": "A token", "isRequired": true, "isSecret": true },
                ],
            }],
        },
        "_meta": { OFFICIAL: {
            "status": "active", "publishedAt": "2025-12-12T08:00:00Z",
            "updatedAt": "2025-12-12T08:00:00Z", "isLatest": true,
        } },
    })
}

fn page(servers: &[(&str, &str)], next: Option<&str>) -> String {
    let items: Vec<Value> = servers.iter().map(|(name, version)| item(name, version)).collect();
    let mut metadata = json!({ "count": items.len() });
    if let Some(next) = next {
        metadata["nextCursor"] = next.into();
    }
    json!({ "servers": items, "metadata": metadata }).to_string()
}

#[tokio::test]
async fn registries_are_read_page_by_page_and_then_only_what_changed() {
    let (replay, home) = (Replay::start().await, Home::new());
    let (names, told) = replay.names(&home, &["search", "--refresh"]).await;
    assert_eq!(names, ["io.github.acme/files", "io.github.acme/pages", "tide"], "{told}");
    assert_eq!(replay.asked().len(), 3);
    let (names, _) = replay.names(&home, &["search", "--refresh"]).await;
    assert!(names.contains(&"io.github.acme/late".to_owned()), "{names:?}");
    let asked = replay.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.contains(&"/api/servers.json if changed".to_owned()), "{asked:?}");
    assert!(asked.iter().any(|target| target.contains("updated_since=2025-12-12")), "{asked:?}");
    // What is an hour old at most is not asked for again.
    replay.names(&home, &["search", "pages"]).await;
    assert_eq!(replay.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_registry_that_is_broken_or_down_costs_a_warning_and_nothing_that_was_known() {
    let (replay, home) = (Replay::start().await, Home::new());
    replay.is(Mood::Slow);
    let (known, told) = replay.names(&home, &["search", "--refresh"]).await;
    assert_eq!((known.len(), told.as_str()), (3, ""), "a slow answer is one all the same");
    for mood in [Mood::Broken, Mood::Down] {
        replay.is(mood);
        let (names, told) = replay.names(&home, &["search", "--refresh"]).await;
        assert_eq!(names, known, "{mood:?}");
        assert!(told.contains("warning: "), "{mood:?}: {told}");
    }
    // On a home that knows nothing yet, the built-in list is left.
    let (found, told) = replay.mcpm(&Home::new(), &["search", "time"]).await;
    assert_eq!(found[0]["name"], "time", "{told}");
}

#[tokio::test]
async fn a_server_of_the_official_registry_is_installed_with_its_secret_by_reference() {
    let (replay, home) = (Replay::start().await, Home::new());
    let set = ["--set", "ACME_TOKEN=${ACME_TOKEN}"];
    let install = [&["install", "io.github.acme/pages"][..], &set].concat();
    let (installed, told) = replay.mcpm(&home, &install).await;
    assert_eq!(installed["registry"], "official", "{told}");
    let text = std::fs::read_to_string(home.config().join("servers.json")).unwrap();
    let servers: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(servers["pages"]["command"], "uvx", "{text}");
    assert_eq!(servers["pages"]["args"], json!(["acme-mcp@1.2.0"]), "{text}");
    assert_eq!(servers["pages"]["env"], json!({ "ACME_TOKEN": "${ACME_TOKEN}" }));
}
