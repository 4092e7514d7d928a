//! `mcpm-relay serve`.

use mcpm_relay::config::{Config, LogFormat, Tls};
use mcpm_relay::ports::Ports;
use mcpm_relay::relay::Relay;
use mcpm_shared::signal::{Signal, Signals};
use mcpm_shared::telemetry;

use super::error::CliError;
use super::out::say;
use super::settings::ServeArgs;

pub(super) fn run(args: ServeArgs) -> Result<(), CliError> {
    let config = args.resolve()?;
    let format = match config.log_format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    };
    telemetry::init(format, &config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::System("start the runtime", error))?;
    let done = runtime.block_on(serve(config));
    // Whoever asked twice does not want to wait for a thread that writes to a disk.
    runtime.shutdown_background();
    done
}

async fn serve(config: Config) -> Result<(), CliError> {
    let mut signals =
        Signals::listen().map_err(|error| CliError::System("listen for signals", error))?;
    let ports = Ports::open(&config).await?;
    // One that comes from an authority is not for pinning: it changes every few weeks.
    let pinned = !matches!(config.tls, Tls::Acme(_));
    let fingerprint = ports.cert.as_ref().filter(|_| pinned).and_then(|cert| cert.fingerprint());
    let scheme = if ports.cert.is_some() { "https" } else { "http" };
    let relay = Relay::start(config, ports).await?;

    let admin = relay.admin_addr().map(|addr| format!(" (admin http://{addr})"));
    say(&format!("listening on {scheme}://{}{}", relay.addr(), admin.unwrap_or_default()))?;
    if let Some(fingerprint) = fingerprint {
        say(&format!("certificate SHA-256 {fingerprint}"))?;
    }

    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Hangup => relay.reload_certificate(),
                signal => {
                    tracing::info!(?signal, "stopping");
                    break;
                }
            },
            () = relay.closed() => return Err(CliError::Stopped),
        }
    }
    tokio::select! {
        _cut = relay.shutdown() => Ok(()),
        _ = signals.next() => Err(CliError::Impatient),
    }
}
