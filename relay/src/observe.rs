//! Who looks at requests as they end: the access log and traces.
//!
//! Both are off unless asked for. A request then carries an empty [`Seen`], which is one word and no
//! allocation. Where somebody looks, what is known of a request is gathered in one place, and handed
//! on when the last of it is dropped, whatever became of it. Never part of it: query strings, header
//! fields other than `Host` and the trace context, bodies.

pub mod access_log;
mod line;
#[cfg(feature = "otel")]
mod otlp;
#[cfg(feature = "otel")]
mod traces;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Version};
use mcpm_shared::name::Name;
use mcpm_shared::scope::Scope;

use self::access_log::AccessLog;
#[cfg(feature = "otel")]
use self::traces::{Span, Traces};
use crate::config::Config;
use crate::metrics::Metrics;

/// Without the feature there are no traces, and no span is ever made.
#[cfg(not(feature = "otel"))]
mod absent {
    use http::HeaderMap;

    use super::Facts;

    #[derive(Debug)]
    pub(super) enum Traces {}

    #[derive(Debug)]
    pub(super) enum Span {}

    impl Traces {
        pub(super) fn begin(&self, _: &http::Method, _: &mut HeaderMap) -> Option<Span> {
            match *self {}
        }
    }

    impl Span {
        pub(super) fn trace_id(&self) -> String {
            match *self {}
        }

        pub(super) fn end(self, _: &Facts) {
            match self {}
        }
    }
}
#[cfg(not(feature = "otel"))]
use self::absent::{Span, Traces};

/// Why requests cannot be looked at as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// The file of the access log cannot be written.
    #[error("cannot write the access log {}", path.display())]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Spans cannot be sent.
    #[error("cannot send traces: {0}")]
    Traces(String),
}

/// Those who look at requests.
#[derive(Debug)]
pub struct Observers {
    log: Option<AccessLog>,
    traces: Option<Traces>,
}

impl Observers {
    /// Opens what the settings ask for, and starts what writes and sends in `scope`; `None` where
    /// nobody looks.
    ///
    /// # Errors
    /// Fails when the file cannot be written, or the collector's address cannot be used.
    pub async fn open(
        config: &Config,
        metrics: &Metrics,
        scope: &Scope,
    ) -> Result<Option<Arc<Self>>, ObserveError> {
        let log = match &config.access_log {
            Some(wanted) => {
                let (log, writer) = access_log::open(wanted, &config.node, metrics).await?;
                let stop = scope.token().clone();
                scope.spawn(async move { writer.run(stop).await });
                Some(log)
            }
            None => None,
        };
        let traces = open_traces(config, metrics, scope)?;
        let any = log.is_some() || traces.is_some();
        Ok(any.then(|| Arc::new(Self { log, traces })))
    }

    /// Opens the file of the access log again, for whoever has moved it away.
    pub fn reopen(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// Begins to look at a request of a visitor at `visitor`. Where it is traced, what it says of
    /// its trace is changed, so that what serves it becomes part of the relay's span.
    pub fn begin<B>(
        self: &Arc<Self>,
        request: &mut Request<B>,
        visitor: IpAddr,
        https: bool,
    ) -> Seen {
        let authority =
            request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
        let host = authority.or_else(|| request.headers().get(header::HOST).cloned());
        let method = request.method().clone();
        let span =
            self.traces.as_ref().and_then(|traces| traces.begin(&method, request.headers_mut()));
        if self.log.is_none() && span.is_none() {
            return Seen::default();
        }
        Seen(Some(Box::new(Facts {
            at: SystemTime::now(),
            started: Instant::now(),
            took: Duration::ZERO,
            visitor,
            https,
            host,
            version: request.version(),
            path: request.uri().path_and_query().cloned(),
            method,
            share: None,
            agent: None,
            status: None,
            code: None,
            bytes: 0,
            whole: false,
            trace_id: span.as_ref().map(Span::trace_id),
            span,
            observers: Arc::clone(self),
        })))
    }
}

#[cfg(feature = "otel")]
fn open_traces(
    config: &Config,
    metrics: &Metrics,
    scope: &Scope,
) -> Result<Option<Traces>, ObserveError> {
    let Some(wanted) = &config.traces else { return Ok(None) };
    let (traces, sender) = traces::open(wanted, config, metrics)?;
    let stop = scope.token().clone();
    scope.spawn(async move { sender.run(stop).await });
    Ok(Some(traces))
}

#[cfg(not(feature = "otel"))]
fn open_traces(config: &Config, _: &Metrics, _: &Scope) -> Result<Option<Traces>, ObserveError> {
    match config.traces {
        Some(_) => Err(ObserveError::Traces("built without the feature `otel`".to_owned())),
        None => Ok(None),
    }
}

/// What is known of one request.
#[derive(Debug)]
struct Facts {
    observers: Arc<Observers>,
    span: Option<Span>,
    trace_id: Option<String>,
    at: SystemTime,
    started: Instant,
    took: Duration,
    visitor: IpAddr,
    https: bool,
    method: Method,
    version: Version,
    host: Option<HeaderValue>,
    /// With its query, which nothing shows: taking it off would cost the request a copy.
    path: Option<PathAndQuery>,
    share: Option<Name>,
    /// Thumbprint of the agent's key.
    agent: Option<String>,
    /// `None` while nothing was answered: the visitor went before.
    status: Option<StatusCode>,
    /// The relay's own word for a failure.
    code: Option<&'static str>,
    bytes: u64,
    whole: bool,
}

impl Facts {
    fn path(&self) -> &str {
        self.path.as_ref().map_or("", PathAndQuery::path)
    }
}

/// One request, as seen by those who look; empty where nobody does. Dropping it ends the look.
#[derive(Debug, Default)]
pub struct Seen(Option<Box<Facts>>);

impl Seen {
    /// Notes which share the request is for.
    pub fn share(&mut self, name: &Name) {
        if let Some(facts) = &mut self.0 {
            facts.share = Some(name.clone());
        }
    }

    /// Notes which agent the request goes to.
    pub fn agent(&mut self, thumbprint: &str) {
        if let Some(facts) = &mut self.0 {
            facts.agent = Some(thumbprint.to_owned());
        }
    }

    /// Notes that the relay itself refused or failed, by its code.
    pub fn failed(&mut self, code: &'static str) {
        if let Some(facts) = &mut self.0 {
            facts.code = Some(code);
        }
    }

    /// Notes the status of the answer.
    pub fn answered(&mut self, status: StatusCode) {
        if let Some(facts) = &mut self.0 {
            facts.status = Some(status);
        }
    }

    /// Counts bytes of the answer's body.
    pub fn sent(&mut self, bytes: u64) {
        if let Some(facts) = &mut self.0
            && facts.method != Method::HEAD
        {
            facts.bytes += bytes;
        }
    }

    /// Notes that the answer was handed over whole; without it, it was cut.
    pub fn whole(&mut self) {
        if let Some(facts) = &mut self.0 {
            facts.whole = true;
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        let Some(mut facts) = self.0.take() else { return };
        facts.took = facts.started.elapsed();
        if let Some(span) = facts.span.take() {
            span.end(&facts);
        }
        let observers = Arc::clone(&facts.observers);
        if let Some(log) = &observers.log {
            log.add(facts);
        }
    }
}

#[cfg(test)]
mod tests;
