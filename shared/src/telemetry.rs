//! The one `tracing` subscriber, for binaries. It writes to stderr: stdout belongs to results and,
//! in stdio mode, to MCP.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

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

/// Installs the subscriber with a filter in the form of `tracing` directives (`info,mcpm=debug`).
///
/// Crates that would print message bodies or frames at `debug` stay at `warn` unless named.
///
/// # Errors
/// When the filter does not parse or a subscriber is installed already.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let fail = |source| TelemetryError { filter: filter.to_owned(), source };
    // The verifier logs what the error that it returns says again.
    let directives = format!(
        "rmcp=warn,yamux=warn,hyper=warn,h2=warn,sqlx=warn,rustls_platform_verifier=off,{filter}"
    );
    let parsed = EnvFilter::try_new(directives).map_err(|error| fail(error.into()))?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(fail)
}
