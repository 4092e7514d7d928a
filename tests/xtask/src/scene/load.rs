//! Many visitors at a time, of all that a program does often: what it is to be fast at.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread;

use super::visitor::{INITIALIZE, TOOL, Visitor, backend, is_refused, tool};
use super::{Player, Stage};
use crate::step::Failed;

/// Visitors at a time.
const MANY: usize = 32;
/// What a relay is told so that nobody is turned away.
const BOUNDLESS: &str = "--requests-per-second 0 --handshakes-per-minute 0 --claims-per-minute-per-address 0 \
                         --claims-per-minute-per-key 0";

/// Plays all of it. The numbers weigh what is common above what is rare.
pub(crate) fn play(stage: &Stage<'_>) -> Result<(), Failed> {
    let (relay, address) = relay(stage, "relay", &[])?;
    let backend = backend()?.to_string();
    let url = format!("http://{address}");
    let tunnel =
        ["tunnel", &backend, "--address", &url, "--no-auth", "--subdomain", "web", "--json"];
    let (tunnel, _) = stage.agent("tunnel", &tunnel)?;
    let web = || Visitor::new(&address, "web.localhost");
    visits(web, |visitor| {
        for round in 0..300 {
            for size in [300, 1024, 5000] {
                visitor.get(&format!("/{size}"))?;
            }
            visitor.post("/200", &"x".repeat(100 << (round % 8)))?;
        }
        (0..50).try_for_each(|_| visitor.once("/700"))?;
        (0..2).try_for_each(|_| visitor.get("/8388608"))
    })?;
    tunnel.stop()?;
    let share = [
        "profile",
        "share",
        "both",
        "--address",
        &url,
        "--no-auth",
        "--subdomain",
        "both",
        "--json",
    ];
    let (share, _) = stage.agent("share", &share)?;
    let both = || Visitor::new(&address, "both.localhost").of("demo_test_simple_text");
    visits(both, |visitor| (0..100).try_for_each(|_| visitor.call_alone()))?;
    share.stop()?;
    let share = ["share", "demo", "--address", &url, "--no-auth", "--subdomain", "demo", "--json"];
    let (share, _) = stage.agent("demo", &share)?;
    let demo = || Visitor::new(&address, "demo.localhost");
    calls(demo)?;
    share.stop()?;
    relay.stop()?;
    let (run, address) = stage.agent("run", &["run", "demo", "--http", "--port", "0"])?;
    calls(|| Visitor::new(&address, &address))?;
    run.stop()?;
    piped(stage)?;
    secure(stage, &backend)
}

/// A relay that turns nobody away.
fn relay(
    stage: &Stage<'_>,
    name: &'static str,
    further: &[&str],
) -> Result<(Player, String), Failed> {
    let mut args: Vec<String> = BOUNDLESS.split_whitespace().map(str::to_owned).collect();
    for quota in ["names-per-hour", "requests-per-day", "bytes-per-day", "max-streams"] {
        for whose in ["owner", "address"] {
            args.extend([format!("--{quota}-per-{whose}"), "1000000000000".to_owned()]);
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    stage.relay(name, &[&args[..], further].concat())
}

/// Many visitors at a time do the same.
fn visits(
    who: impl Fn() -> Visitor + Sync,
    what: impl Fn(&mut Visitor) -> Result<(), Failed> + Sync,
) -> Result<(), Failed> {
    thread::scope(|scope| {
        let visits: Vec<_> = (0..MANY).map(|_| scope.spawn(|| what(&mut who()))).collect();
        let ended = visits.into_iter().map(|visit| match visit.join() {
            Ok(ended) => ended,
            Err(_) => Err(Failed("a visitor panicked".to_owned())),
        });
        ended.collect()
    })
}

/// Clients of both eras call tools.
fn calls(who: impl Fn() -> Visitor + Sync) -> Result<(), Failed> {
    visits(&who, |visitor| (0..50).try_for_each(|_| visitor.call_alone()))?;
    visits(&who, |_| {
        let mut client = who().session()?;
        (0..50).try_for_each(|_| client.call())
    })
}

/// A client over stdio calls a tool, time after time.
fn piped(stage: &Stage<'_>) -> Result<(), Failed> {
    let mut command = stage.command("stdio", "mcpm");
    command.arg("--config-dir").arg(stage.work).args(["run", "demo"]).stdin(Stdio::piped());
    let mut child = command.spawn().map_err(|error| Failed::new("start mcpm run", error))?;
    let failed = |error| Failed::new("talk to mcpm run", error);
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let player = Player { name: "mcpm run", child };
    let (Some(mut input), Some(output)) = (input, output) else {
        return Err(Failed("mcpm run has no pipes".to_owned()));
    };
    let mut lines = BufReader::new(output).lines();
    let mut ask = |message: &str| {
        writeln!(input, "{message}").and_then(|()| match lines.next() {
            Some(Ok(line)) if line.contains(r#""result""#) && !is_refused(line.as_bytes()) => {
                Ok(())
            }
            Some(Ok(line)) => Err(io::Error::other(line)),
            Some(Err(error)) => Err(error),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        })
    };
    ask(INITIALIZE).map_err(failed)?;
    (0..2000).try_for_each(|_| ask(&tool(TOOL, ""))).map_err(failed)?;
    drop(input);
    player.stop()
}

/// The same tunnel with TLS on both sides, visited by curl on HTTP/1.1 and HTTP/2.
fn secure(stage: &Stage<'_>, backend: &str) -> Result<(), Failed> {
    let data = stage.work.join("relay");
    let shown = data.display().to_string();
    let (relay, address) = relay(stage, "tls", &["--tls", "self-signed", "--data-dir", &shown])?;
    let authority = data.join("self-signed-localhost.ca.pem").display().to_string();
    let url = format!("https://{address}");
    let tunnel = ["tunnel", backend, "--address", &url, "--ca", &authority, "--no-auth"];
    let tunnel = [&tunnel[..], &["--subdomain", "web", "--json"]].concat();
    let (tunnel, _) = stage.agent("tunnel-tls", &tunnel)?;
    let host = format!("web.localhost:{}", address.rsplit(':').next().unwrap_or_default());
    // Many of one protocol and size, over connections that are kept; then a few with one each.
    for (further, path, streams) in [
        (&["--http1.1"][..], "/[1000-7000]", MANY),
        (&["--http2"], "/[1000-4000]", MANY),
        (&["--http1.1", "--header", "Connection: close"], "/[1000-1500]", MANY),
        (&["--http1.1"], "/[8388608-8388616]", 4),
    ] {
        let mut curl = Command::new("curl");
        // Whom to trust is not what is played: no library takes `*.localhost` for a name.
        curl.args(["--no-progress-meter", "--fail", "--insecure", "--output", "/dev/null"]);
        curl.args(["--parallel", "--parallel-max", &streams.to_string(), "--noproxy", "*"]);
        curl.args(["--resolve", &format!("{host}:127.0.0.1"), "--max-time", "120"]);
        curl.args(further).arg(format!("https://{host}{path}"));
        let ended = curl.stdin(Stdio::null()).status();
        match ended.map_err(|error| Failed::new("run curl", error))? {
            status if status.success() => {}
            status => return Err(Failed(format!("curl ended with {status}"))),
        }
    }
    tunnel.stop()?;
    relay.stop()
}
