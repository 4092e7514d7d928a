//! The one `tracing` subscriber, for binaries. It writes to stderr: stdout belongs to results and,
//! in stdio mode, to MCP.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{FilterExt as _, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How finely libraries may speak, whatever the filter says: no level that somebody chooses may
/// bring a token, a header field or a body into the log.
///
/// Below `info` it is anybody's guess what a library prints. Those that stand here at `debug` were
/// read: none prints what passes through it there (`tungstenite`, `yamux` and `h2` do at `trace`,
/// with the tokens in it). `rmcp` prints messages at `info` already. Ours (`mcpm` is the beginning
/// of all three crates' names) print none of it at any level, with one exception: what a server
/// writes to stderr, and to stdout where that looks like no part of a message, is shown as it is.
const BOUND: &str = "info,mcpm=trace,h2=debug,hyper=debug,rmcp=warn,rustls=debug,sqlx=debug,\
    tokio_tungstenite=debug,tungstenite=debug,yamux=debug";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The error of a log filter that does not parse, or of a second `init`.
#[derive(Debug, thiserror::Error)]
#[error("the log filter `{filter}` cannot be used")]
pub struct TelemetryError {
    filter: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Installs the subscriber with a filter of targets and levels (`info,mcpm=debug`).
///
/// Filters by span or field, which `tracing` has too, are not read: they bring an engine of regular
/// expressions into every program that starts.
///
/// Libraries that say much of little use stay at `warn` unless named, and no name makes any of them
/// print what passes through it.
///
/// # Errors
/// When the filter does not parse or a subscriber is installed already.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    init_changeable(format, filter).map(drop)
}

/// Does what [`init`] does, and returns what changes the filter later.
///
/// # Errors
/// As [`init`].
pub fn init_changeable(format: LogFormat, filter: &str) -> Result<LogControl, TelemetryError> {
    let fail = |source| TelemetryError { filter: filter.to_owned(), source };
    let (targets, control) = reload::Layer::new(parse(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // A filter of its own, which no reload reaches.
    let targets = targets.and(parse_targets(BOUND)?);
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(targets));
    subscriber.try_init().map_err(|error| fail(error.into()))?;
    Ok(LogControl(control))
}

/// Changes what is logged while the program runs. Clones change the same log.
#[derive(Clone, Debug)]
pub struct LogControl(reload::Handle<Targets, Registry>);

impl LogControl {
    /// Reads a filter, and returns what makes the log obey it.
    ///
    /// # Errors
    /// When the filter does not parse; the log stays as it is.
    pub fn prepare(&self, filter: &str) -> Result<impl FnOnce() + Send + 'static, TelemetryError> {
        let (handle, targets) = (self.0.clone(), parse(filter)?);
        // It fails when the subscriber is gone, and then there is no log.
        Ok(move || drop(handle.reload(targets)))
    }
}

fn parse(filter: &str) -> Result<Targets, TelemetryError> {
    // The verifier logs what the error that it returns says again.
    let directives = format!(
        "rmcp=warn,yamux=warn,hyper=warn,h2=warn,sqlx=warn,rustls_platform_verifier=off,{filter}"
    );
    parse_targets(&directives)
        .map_err(|error| TelemetryError { filter: filter.to_owned(), ..error })
}

fn parse_targets(directives: &str) -> Result<Targets, TelemetryError> {
    directives.parse().map_err(|error: tracing_subscriber::filter::ParseError| TelemetryError {
        filter: directives.to_owned(),
        source: error.into(),
    })
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_are_bound_where_they_would_print_what_passes_and_we_are_not() {
        let bound = parse_targets(BOUND).unwrap();
        for (target, finest) in [
            ("tungstenite::protocol", Level::DEBUG),
            ("tokio_tungstenite::compat", Level::DEBUG),
            ("yamux::frame::io", Level::DEBUG),
            ("h2::hpack::decoder", Level::DEBUG),
            ("rmcp::service", Level::WARN),
            ("sqlx::query", Level::DEBUG),
            ("some_library_of_tomorrow", Level::INFO),
            ("mcpm::tunnel", Level::TRACE),
            ("mcpm_relay::proxy", Level::TRACE),
            ("mcpm_shared::mux", Level::TRACE),
        ] {
            for level in [Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
                let said = bound.would_enable(target, &level);
                assert_eq!(said, level <= finest, "{target} at {level}");
            }
        }
    }
}
