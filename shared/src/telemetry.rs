//! The one `tracing` subscriber, for binaries. It writes to stderr: stdout belongs to results and,
//! in stdio mode, to MCP.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

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
/// Crates that would print message bodies or frames at `debug` stay at `warn` unless named.
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
    directives.parse().map_err(|error: tracing_subscriber::filter::ParseError| TelemetryError {
        filter: filter.to_owned(),
        source: error.into(),
    })
}
