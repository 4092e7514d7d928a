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

use futures_util::future::BoxFuture;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Version};
use mcpm_shared::name::Name;
use mcpm_shared::scope::Scope;
use tokio_util::sync::CancellationToken;

use self::access_log::AccessLog;
#[cfg(feature = "otel")]
use self::traces::{Span, Traces};
use crate::config::{AccessLogConfig, Config, TracesConfig};
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
    traces: Option<Arc<Traces>>,
    /// What they were opened for.
    asked: (Option<AccessLogConfig>, Option<TracesConfig>),
}

/// Observers that are ready to look, and what writes and sends for them.
pub struct Prepared {
    observers: Option<Arc<Observers>>,
    tasks: Vec<Task>,
    /// Whether the access log is the one from before, whose file may have been moved away.
    same_log: bool,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("observers", &self.observers).finish_non_exhaustive()
    }
}

/// What writes or sends until it is told to stop, or nobody has anything for it any more.
type Task = Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send>;

impl Prepared {
    /// Starts what writes and sends, in `scope`, and returns who looks from now on.
    pub fn start(self, scope: &Scope) -> Option<Arc<Observers>> {
        for task in self.tasks {
            scope.spawn(task(scope.token().clone()));
        }
        if let Some(observers) = self.observers.as_ref().filter(|_| self.same_log) {
            observers.reopen();
        }
        self.observers
    }
}

impl Observers {
    /// Opens what the settings ask for, and starts what writes and sends in `scope`; `None` where
    /// nobody looks.
    ///
    /// # Errors
    /// Fails when the file cannot be written, or the collector's address cannot be used.
    pub fn open(
        config: &Config,
        metrics: &Metrics,
        scope: &Scope,
    ) -> Result<Option<Arc<Self>>, ObserveError> {
        Ok(Self::prepare(None, config, metrics)?.start(scope))
    }

    /// Opens what the settings ask for beyond what those before have open already, which goes on.
    /// What is asked for no more ends with the last request that it looks at.
    ///
    /// # Errors
    /// Fails when the file cannot be written, or the collector's address cannot be used; then
    /// nothing has changed.
    pub fn prepare(
        before: Option<&Arc<Self>>,
        config: &Config,
        metrics: &Metrics,
    ) -> Result<Prepared, ObserveError> {
        let (mut tasks, mut same_log) = (Vec::new(), false);
        let log = match (&config.access_log, before) {
            (None, _) => None,
            (wanted, Some(before)) if before.asked.0 == *wanted => {
                same_log = true;
                before.log.clone()
            }
            (Some(wanted), _) => {
                let (log, writer) = access_log::open(wanted, &config.node, metrics)?;
                let task: Task = Box::new(move |stop| Box::pin(writer.run(stop)));
                tasks.push(task);
                Some(log)
            }
        };
        let traces = match (&config.traces, before) {
            (None, _) => None,
            (wanted, Some(before)) if before.asked.1 == *wanted => before.traces.clone(),
            (Some(wanted), _) => {
                let (traces, task) = open_traces(wanted, config, metrics)?;
                tasks.push(task);
                Some(Arc::new(traces))
            }
        };
        let asked = (config.access_log.clone(), config.traces.clone());
        let any = log.is_some() || traces.is_some();
        let observers = any.then(|| Arc::new(Self { log, traces, asked }));
        Ok(Prepared { observers, tasks, same_log })
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
    wanted: &TracesConfig,
    config: &Config,
    metrics: &Metrics,
) -> Result<(Traces, Task), ObserveError> {
    let (traces, sender) = traces::open(wanted, config, metrics)?;
    Ok((traces, Box::new(move |stop| Box::pin(sender.run(stop)))))
}

#[cfg(not(feature = "otel"))]
fn open_traces(_: &TracesConfig, _: &Config, _: &Metrics) -> Result<(Traces, Task), ObserveError> {
    Err(ObserveError::Traces("built without the feature `otel`".to_owned()))
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
