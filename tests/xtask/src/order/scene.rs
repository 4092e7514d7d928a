//! What is played before callgrind: a relay, a share through it, and a local gateway, with a call each.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::step::Failed;
use crate::tree::Tree;

/// How long a program may take to its first word, an answer to come, or a program to go; callgrind is fifty times slower.
const PATIENCE: Duration = Duration::from_secs(120);

/// Plays it; `work` has a `callgrind.NAME` of each program then.
pub(super) fn play(tree: &Tree, work: &Path) -> Result<(), Failed> {
    let upstream = tree.target.join("debug").join("conformance-upstream");
    let servers = format!(
        r#"{{"demo":{{"command":{:?},"args":["--stdio"]}}}}"#,
        upstream.display().to_string()
    );
    fs::create_dir_all(work)
        .and_then(|()| fs::write(work.join("servers.json"), servers))
        .map_err(|error| Failed::new("prepare a home", error))?;
    let home = work.display().to_string();
    let relay = "serve --domain localhost --listen 127.0.0.1:0 --admin-listen none --auth open \
                 --database memory: --http-mode --log info";
    let relay: Vec<&str> = relay.split_whitespace().collect();
    let (relay, address) = Player::start(tree, work, "relay", "mcpm-relay", &relay)?;
    let backend = backend()?.to_string();
    let url = format!("http://{address}");
    let tunnel = ["--config-dir", &home, "tunnel", &backend, "--address", &url, "--no-auth"];
    let tunnel = [&tunnel[..], &["--subdomain", "order", "--json"]].concat();
    let (tunnel, _) = Player::start(tree, work, "tunnel", "mcpm", &tunnel)?;
    for _ in 0..3 {
        exchange(
            &address,
            "GET /mcp HTTP/1.1\r\nHost: order.localhost\r\nConnection: close\r\n\r\n",
        )?;
    }
    let run = ["--config-dir", &home, "run", "demo", "--http", "--port", "0"];
    let (run, address) = Player::start(tree, work, "run", "mcpm", &run)?;
    calls(&address)?;
    run.stop()?;
    tunnel.stop()?;
    relay.stop()
}

/// What a client of 2025-11-25 does first.
fn calls(address: &str) -> Result<(), Failed> {
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"order","version":"1"}}}"#;
    let answer = post(address, None, initialize)?;
    let session = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("mcp-session-id").then(|| value.trim().to_owned())
    });
    for message in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"test_simple_text","arguments":{}}}"#,
    ] {
        post(address, session.as_deref(), message)?;
    }
    Ok(())
}

fn post(address: &str, session: Option<&str>, body: &str) -> Result<String, Failed> {
    let session = session.map_or_else(String::new, |id| format!("Mcp-Session-Id: {id}\r\n"));
    exchange(
        address,
        &format!(
            "POST /mcp HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{session}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

/// Sends one request over a connection of its own, and reads all of the answer.
fn exchange(address: &str, request: &str) -> Result<String, Failed> {
    let mut answer = String::new();
    let done = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        stream.read_to_string(&mut answer)
    });
    done.map_err(|error| Failed::new(format!("call {address}"), error))?;
    if answer.starts_with("HTTP/1.1 2") {
        Ok(answer)
    } else {
        Err(Failed(format!("order: {address} answered {answer:?}")))
    }
}

/// A server that answers whatever comes over a connection with a kilobyte; returns its port.
fn backend() -> Result<u16, Failed> {
    let listener =
        TcpListener::bind("127.0.0.1:0").map_err(|error| Failed::new("open a port", error))?;
    let port = listener.local_addr().map_err(|error| Failed::new("read the port", error))?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream) {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024));
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// One program before callgrind.
struct Player {
    name: &'static str,
    child: Child,
}

impl Player {
    /// Starts one and waits until it says where it is; returns `HOST:PORT` of the first URL it prints.
    fn start(
        tree: &Tree,
        work: &Path,
        name: &'static str,
        program: &str,
        args: &[&str],
    ) -> Result<(Self, String), Failed> {
        let record = work.join(format!("callgrind.{name}"));
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--demangle=no", "--quiet"]);
        command.arg(format!("--callgrind-out-file={}", record.display()));
        command.arg(tree.target.join("release").join(program)).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(|error| Failed::new("start valgrind", error))?;
        let output = child.stdout.take().ok_or_else(|| Failed("order: no output".to_owned()))?;
        let mut lines = BufReader::new(output).lines();
        let player = Self { name, child };
        while let Some(Ok(line)) = lines.next() {
            if let Some((_, rest)) = line.split_once("http://") {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".:-".contains(c)));
                let address = rest[..end.unwrap_or(rest.len())].to_owned();
                thread::spawn(move || lines.for_each(drop));
                return Ok((player, address));
            }
        }
        Err(Failed(format!("order: {name} ended before it said where it is")))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a chore has no clock to wait for but the real one"
    )]
    /// Asks it to stop, and waits until callgrind has written its record.
    fn stop(mut self) -> Result<(), Failed> {
        let asked = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        asked.map_err(|error| Failed::new("run kill", error))?;
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            match self.child.try_wait() {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => thread::sleep(Duration::from_millis(50)),
                Err(error) => return Err(Failed::new(format!("wait for {}", self.name), error)),
            }
        }
        Err(Failed(format!("order: {} did not stop", self.name)))
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
