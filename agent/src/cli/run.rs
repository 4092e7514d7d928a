//! `mcpm run`, and what `mcpm profile run` has in common with it: servers for a client on this
//! machine.
//!
//! stdout belongs to MCP in stdio mode. Ended by a signal, it exits with 128 + the signal's number,
//! as clients that start servers expect.

use std::net::IpAddr;
use std::process::ExitCode;

use mcpm_shared::signal::{Signal, Signals};
use tokio_util::sync::CancellationToken;

use super::error::CliError;
use super::servers::ServerOptions;
use super::{Context, Threads, block_on};
use crate::app::run::{Place, RunError, run_http, run_stdio};
use crate::app::serving::Serving;
use crate::app::share::Local;
use crate::config::GlobalConfigManager;
use crate::gateway::{GatewayOptions, Isolation, StderrSink, listen};
use crate::logs;

/// The port that mcpm serves on by default.
pub(super) const PORT: u16 = 6276;
/// How many ports behind it are tried when nobody named one, as the Python `mcpm` does.
const SPARE_PORTS: u16 = 9;

/// Run a server over stdio, or over HTTP on this machine
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server, as `mcpm ls` shows it
    server: String,
    #[command(flatten)]
    options: Options,
}

/// Over what to serve.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Serve Streamable HTTP at /mcp instead of stdio
    #[arg(long, group = "face")]
    http: bool,
    /// The same, and tell of /sse, which HTTP also serves: for clients that know only HTTP+SSE
    #[arg(long, group = "face")]
    sse: bool,
    /// Port to serve HTTP on, with --http or --sse; 0 takes any free one [default: 6276, or the next
    /// that is free up to 6285]
    #[arg(long, requires = "face")]
    port: Option<u16>,
    /// Address to serve HTTP on, with --http or --sse
    #[arg(long, default_value = "127.0.0.1", requires = "face")]
    host: String,
    /// End when stdin ends, with --http or --sse: who started it may be gone then
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
    #[command(flatten)]
    servers: ServerOptions,
}

pub(super) fn run(args: Args, context: &Context) -> Result<ExitCode, CliError> {
    let Args { server, options } = args;
    let server = GlobalConfigManager::open(&context.paths()?)?.server(&server)?;
    serve(Serving::server(server), options, Isolation::Shared, context)
}

/// Serves until the client is gone or a signal comes; `isolation` counts over HTTP.
pub(super) fn serve(
    serving: Serving,
    options: Options,
    isolation: Isolation,
    context: &Context,
) -> Result<ExitCode, CliError> {
    let Options { http, sse, port, host, until_stdin_ends, servers } = options;
    let paths = context.paths()?;
    let ui = context.ui;
    let (logs, writer) = logs::channel(&paths);
    let sink = StderrSink::new(move |server, line| {
        logs.line(server, line);
        ui.note(format!("[{server}] {line}"));
    });
    let options = GatewayOptions { stderr: Some(sink), isolation, ..GatewayOptions::default() };
    let options = servers.apply(options);
    if !http && !sse {
        let serve =
            |stop| writer.beside(async move { run_stdio(&serving, options, &paths, stop).await });
        return block_on(Threads::One, until_signal(serve));
    }
    let is_loopback = |host: &str| {
        host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    };
    let is_open = !is_loopback(&host);
    let what = if serving.profile_name().is_some() { "profile" } else { "server" };
    // Who names a port means it; who does not gets one, also while others run.
    let spare = if port.is_some() { 0 } else { SPARE_PORTS };
    let local = Local { host, port: port.unwrap_or(PORT) };
    let path = if sse { listen::SSE_PATH } else { listen::PATH };
    let place = Place { local, spare, path };
    let ready = move |url: &str, notes: &[String]| {
        ui.result(url);
        if is_open {
            ui.warning(format!("everybody who reaches {url} can use this {what}, without a token"));
        }
        notes.iter().for_each(|note| ui.note(note));
        ui.note("Serving; press Ctrl-C to stop.");
    };
    let serve = |stop: CancellationToken| {
        writer.beside(async move {
            let served = run_http(&serving, options, &paths, place, ready, stop.clone());
            tokio::pin!(served);
            tokio::select! {
                result = &mut served => return result,
                () = stdin_end(until_stdin_ends) => stop.cancel(),
            }
            served.await
        })
    };
    block_on(Threads::Many, until_signal(serve))
}

/// Runs `serve` and stops it at the first signal; the second one does not wait for anything.
async fn until_signal<F>(serve: impl FnOnce(CancellationToken) -> F) -> Result<ExitCode, CliError>
where
    F: Future<Output = Result<(), RunError>>,
{
    let mut signals = listen()?;
    let stop = CancellationToken::new();
    let serving = serve(stop.clone());
    tokio::pin!(serving);
    let mut ended_by: Option<Signal> = None;
    loop {
        tokio::select! {
            signal = signals.next() => {
                if ended_by.is_some() {
                    return Ok(ExitCode::from(signal.exit_code()));
                }
                ended_by = Some(signal);
                stop.cancel();
            }
            result = &mut serving => {
                result?;
                return Ok(ended_by.map_or(ExitCode::SUCCESS, |s| ExitCode::from(s.exit_code())));
            }
        }
    }
}

/// Waits for the end of stdin; for ever unless it is `watched`.
async fn stdin_end(watched: bool) {
    if !watched {
        return std::future::pending().await;
    }
    // An error is an end too.
    drop(tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await);
}

/// Starts to listen for signals.
pub(super) fn listen() -> Result<Signals, CliError> {
    Signals::listen()
        .map_err(|error| CliError::internal(format!("cannot listen for signals: {error}")))
}

/// Serves the built-in demo server, which is a child of `mcpm demo`.
pub(super) fn demo_server() -> Result<(), CliError> {
    block_on(Threads::One, async {
        crate::demo::serve_stdio().await.map_err(|error| CliError::internal(error.to_string()))
    })
}
