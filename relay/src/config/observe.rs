//! Who looks at requests: the access log and traces, as written in settings and as obeyed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::layer::Layer;

/// Form of the access log, as written in settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "bin", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum AccessLogKind {
    /// No access log
    Off,
    /// The common log format, with host, seconds, node, agent and error behind it
    Text,
    /// One JSON object a line
    Json,
}

/// Form of the lines of an access log that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogForm {
    /// The common log format and more behind it.
    Text,
    /// One JSON object a line.
    Json,
}

impl AccessLogKind {
    /// Returns what would be written for a log.
    pub(super) fn of(log: Option<&AccessLogConfig>) -> Self {
        match log.map(|log| log.form) {
            None => Self::Off,
            Some(AccessLogForm::Text) => Self::Text,
            Some(AccessLogForm::Json) => Self::Json,
        }
    }
}

/// The access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// The form of its lines.
    pub form: AccessLogForm,
    /// The file; `None` for stdout.
    pub file: Option<PathBuf>,
}

/// Traces by the OpenTelemetry protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// Where the collector is, without the path of a signal.
    pub endpoint: String,
    /// Which part of the requests is traced, from 0 to 1.
    pub ratio: f64,
}

/// What [`observe`] found wrong: setting and message.
type Wrong = (&'static str, &'static str);

/// Returns what the settings ask for, and what is wrong with them.
pub(super) fn observe(
    layer: &Layer,
) -> (Option<AccessLogConfig>, Option<TracesConfig>, Vec<Wrong>) {
    let mut wrong = Vec::new();
    let form = match layer.access_log {
        // Who names a file wants it written.
        None if layer.access_log_file.is_some() => Some(AccessLogForm::Text),
        Some(AccessLogKind::Text) => Some(AccessLogForm::Text),
        Some(AccessLogKind::Json) => Some(AccessLogForm::Json),
        None | Some(AccessLogKind::Off) => None,
    };
    let log = form.map(|form| AccessLogConfig { form, file: layer.access_log_file.clone() });
    let ratio = layer.trace_ratio.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&ratio) {
        wrong.push(("trace-ratio", "must be a number from 0 to 1"));
    }
    let endpoint = layer.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
    if endpoint.is_some_and(|endpoint| !is_endpoint(endpoint)) {
        wrong.push(("otlp-endpoint", "must be a URL such as http://127.0.0.1:4318"));
    }
    let traces = endpoint.map(|endpoint| TracesConfig { endpoint: endpoint.to_owned(), ratio });
    (log, traces, wrong)
}

/// A collector is reached by HTTP; a password in its URL would be shown by `config print`, and there
/// are header fields for that.
fn is_endpoint(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let host = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    matches!(uri.scheme_str(), Some("http" | "https")) && host && uri.query().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_looks_unless_asked() {
        assert_eq!(observe(&Layer::default()), (None, None, Vec::new()));
        let off = Layer {
            access_log: Some(AccessLogKind::Off),
            access_log_file: Some("/var/log/a".into()),
            trace_ratio: Some(0.5),
            ..Layer::default()
        };
        assert_eq!(observe(&off), (None, None, Vec::new()));
    }

    #[test]
    fn a_file_alone_is_written_as_text() {
        let layer = Layer { access_log_file: Some("a.log".into()), ..Layer::default() };
        let file = Some(PathBuf::from("a.log"));
        assert_eq!(observe(&layer).0, Some(AccessLogConfig { form: AccessLogForm::Text, file }));
    }

    #[test]
    fn a_collector_is_a_url_without_a_secret() {
        for (endpoint, good) in [
            ("http://127.0.0.1:4318", true),
            ("https://otel.example/base/", true),
            ("127.0.0.1:4318", false),
            ("grpc://127.0.0.1:4317", false),
            ("https://key:secret@otel.example", false),
            ("https://otel.example?key=secret", false),
        ] {
            let layer = Layer { otlp_endpoint: Some(endpoint.to_owned()), ..Layer::default() };
            let (_, traces, wrong) = observe(&layer);
            assert_eq!(wrong.is_empty(), good, "{endpoint}");
            assert_eq!(traces.map(|traces| traces.ratio), Some(1.0));
        }
        let layer = Layer { trace_ratio: Some(1.5), ..Layer::default() };
        assert_eq!(observe(&layer).2[0].0, "trace-ratio");
    }
}
