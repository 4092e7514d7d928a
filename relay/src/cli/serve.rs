//! `mcpm-relay serve`.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mcpm_relay::config::{Config, LogFormat, Obey, SettingsSource, Tls};
use mcpm_relay::ports::Ports;
use mcpm_relay::relay::Relay;
use mcpm_shared::signal::{Signal, Signals};
use mcpm_shared::telemetry::{self, LogControl};
use mcpm_shared::workers::Workers;

use super::error::{CliError, in_full};
use super::manager;
use super::out::say;
use super::settings::ServeArgs;
use super::table::date;
use super::takeover::{Before, Passing, Successor};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: ServeArgs,

    /// Take the listeners over from the relay that runs with these settings, if one does; it then
    /// lets its requests end. Nobody is refused meanwhile
    #[arg(long, env = "MCPM_RELAY_TAKE_OVER", value_name = "BOOL",
        num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    take_over: Option<bool>,
}

impl Args {
    #[cfg(test)]
    pub(super) fn resolve(self) -> Result<Config, CliError> {
        self.settings.resolve()
    }
}

/// The settings of a running relay: flags, environment and file, as they were given at its start.
#[derive(Debug)]
struct CommandLine {
    settings: ServeArgs,
    log: LogControl,
}

impl SettingsSource for CommandLine {
    fn read(&self) -> Result<Config, String> {
        self.settings.clone().resolve().map_err(|error| in_full(&error))
    }

    fn prepare(&self, config: &Config) -> Result<Obey, String> {
        let obey = self.log.prepare(&config.log).map_err(|error| in_full(&error))?;
        Ok(Box::new(obey))
    }
}

/// Why a relay ends.
enum End {
    /// It was told to.
    Told,
    /// Another process serves in its place.
    Replaced(Successor),
}

/// How long a thread that may be blocked waits for more to do: each keeps a heap, and whoever puts
/// workers to sleep needs one every 10 s.
const IDLE_THREAD: Duration = Duration::from_secs(1);

pub(super) fn run(args: Args) -> Result<(), CliError> {
    let config = args.settings.clone().resolve()?;
    let format = match config.log_format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    };
    let log = telemetry::init_changeable(format, &config.log)?;
    let before = match args.take_over {
        Some(true) => Before::find(&config)?,
        Some(false) | None => Before::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(IDLE_THREAD)
        .build()
        .map_err(|error| CliError::System("start the runtime", error))?;
    let source = CommandLine { settings: args.settings, log };
    let workers = Workers::govern(runtime.handle());
    let done = runtime.block_on(serve(config, source, before));
    drop(workers);
    // Whoever asked twice does not want to wait for a thread that writes to a disk.
    runtime.shutdown_background();
    done
}

async fn serve(config: Config, source: CommandLine, before: Before) -> Result<(), CliError> {
    let listen = |error| CliError::System("listen for signals", error);
    let mut signals = Signals::listen().map_err(listen)?;
    let passing = Passing::listen().map_err(listen)?;
    // A database that does not answer is waited for; nobody shall have to wait with it.
    let mut ports = tokio::select! {
        opened = Ports::inherit(&config, before.left()) => opened?,
        () = told_to_stop(&mut signals) => return Ok(()),
    };
    ports.settings = Some(Arc::new(source));
    // One that comes from an authority is not for pinning: it changes every few weeks.
    let pinned = !matches!(config.tls, Tls::Acme(_));
    let fingerprint = ports.cert.as_ref().filter(|_| pinned).and_then(|cert| cert.fingerprint());
    let authority = ports.cert.as_ref().and_then(|cert| cert.authority().map(Path::to_owned));
    let renewed_at = ports.cert.as_ref().and_then(|cert| cert.renewed_at());
    let scheme = if ports.cert.is_some() { "https" } else { "http" };
    let takeover = config.takeover_socket.clone();
    let relay = Relay::start(config, ports).await?;

    let admin = relay.admin_addr().map(|addr| format!(" (admin http://{addr})"));
    say(&format!("listening on {scheme}://{}{}", relay.addr(), admin.unwrap_or_default()))?;
    if let Some(authority) = authority {
        say(&format!("certificate authority {}", authority.display()))?;
    }
    if let Some(fingerprint) = fingerprint {
        say(&format!("certificate SHA-256 {fingerprint}"))?;
    }
    if let Some(renewed_at) = renewed_at {
        say(&format!("certificate renewed {}: pins of this one end then", date(renewed_at)))?;
    }
    // The manager learns whom it watches before the process that it watched so far ends.
    manager::ready();
    before.replace().await?;
    let end = follow(&relay, &mut signals, passing.offer(takeover.as_deref(), &relay)).await?;
    let ended = async {
        match end {
            End::Told => {
                manager::stopping();
                relay.shutdown().await
            }
            End::Replaced(successor) => {
                successor.release().await;
                relay.hand_over().await
            }
        }
    };
    tokio::select! {
        _cut = ended => Ok(()),
        _ = signals.next() => Err(CliError::Impatient),
    }
}

/// Waits for a signal to end, before there are settings to read again.
async fn told_to_stop(signals: &mut Signals) {
    loop {
        match signals.next().await {
            Signal::Hangup => {}
            signal => return tracing::info!(?signal, "stopping"),
        }
    }
}

/// Does what signals say until one of them, or a successor, ends the relay. Whatever was offered to
/// successors is taken back when this returns.
async fn follow(relay: &Relay, signals: &mut Signals, passing: Passing) -> Result<End, CliError> {
    // Kept over the loop: a hand-over is not begun anew with each signal.
    let mut replaced = pin!(passing.replaced());
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Hangup => {
                    if let Err(error) = relay.reload().await {
                        // Whoever moved the log away sends this signal too.
                        relay.reopen_access_log();
                        tracing::error!(%error, "settings not read again: all stays as it was");
                    }
                }
                signal => {
                    tracing::info!(?signal, "stopping");
                    return Ok(End::Told);
                }
            },
            successor = &mut replaced => return Ok(End::Replaced(successor)),
            () = relay.closed() => return Err(CliError::Stopped),
        }
    }
}
