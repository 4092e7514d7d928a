//! Opening a conversation with a remote server: which transport, which era (mirrors what
//! 2026-07-28 §Versioning asks of clients).

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};
use mcpm_shared::scope::Scope;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::exchange::Failure;
use super::{Core, Http};
use crate::gateway::GatewayError;
use crate::gateway::link::Asker;
use crate::gateway::upstream::child::PROBE;
use crate::gateway::upstream::endpoint::Endpoint;
use crate::gateway::upstream::opening::{self, Answer, INITIALIZED};
use crate::gateway::upstream::{Facts, Limits, Opening, Wire, sse};
use crate::mcp::era::Era;
use crate::mcp::message::Message;

/// Dials a remote server and opens the conversation.
pub(in crate::gateway::upstream) async fn open(
    endpoint: &Arc<Endpoint>,
    opening: &Opening,
    known: Option<Era>,
    scope: &Scope,
    limits: &Limits,
) -> Result<(Wire, Facts), GatewayError> {
    let after = limits.start_timeout;
    let opener = Opener { endpoint, opening, scope, limits };
    let opened = timeout(after, opener.open(known)).await;
    opened.unwrap_or_else(|_| {
        let (server, stderr) = (endpoint.server().to_owned(), String::new());
        Err(GatewayError::StartTimeout { server, after, stderr })
    })
}

struct Opener<'a> {
    endpoint: &'a Arc<Endpoint>,
    opening: &'a Opening,
    scope: &'a Scope,
    limits: &'a Limits,
}

/// How an attempt went.
enum Outcome {
    Open(Arc<Http>, Box<Facts>),
    /// The server speaks the other era.
    OtherEra(GatewayError),
    /// There may be no such transport at this URL.
    NotThere(GatewayError),
}

impl Opener<'_> {
    async fn open(&self, known: Option<Era>) -> Result<(Wire, Facts), GatewayError> {
        if self.endpoint.is_legacy_sse()
            && let Some((link, facts)) = self.sse().await?
        {
            return Ok((Wire::Line(link), facts));
        }
        if known != Some(Era::Legacy)
            && let Outcome::Open(http, facts) = self.discover().await?
        {
            return Ok((Wire::Http(http), *facts));
        }
        let error = match self.initialize().await? {
            Outcome::Open(http, facts) => return Ok((Wire::Http(http), *facts)),
            Outcome::OtherEra(error) if known == Some(Era::Legacy) => {
                match self.discover().await? {
                    Outcome::Open(http, facts) => return Ok((Wire::Http(http), *facts)),
                    Outcome::OtherEra(_) | Outcome::NotThere(_) => error,
                }
            }
            Outcome::OtherEra(error) => error,
            Outcome::NotThere(error) => {
                if known == Some(Era::Legacy)
                    && let Ok(Outcome::Open(http, facts)) = self.discover().await
                {
                    return Ok((Wire::Http(http), *facts));
                }
                if !self.endpoint.is_legacy_sse()
                    && let Ok(Some((link, facts))) = self.sse().await
                {
                    return Ok((Wire::Line(link), facts));
                }
                error
            }
        };
        Err(error)
    }

    async fn sse(&self) -> Result<Option<(Arc<crate::gateway::link::Link>, Facts)>, GatewayError> {
        sse::open(self.endpoint, self.opening, self.scope, self.limits).await
    }

    /// Tries the modern era.
    async fn discover(&self) -> Result<Outcome, GatewayError> {
        let (core, queue) = Core::new(self.endpoint, Era::Modern, self.scope, self.limits);
        let limit = PROBE.min(self.limits.start_timeout / 2);
        let text = opening::discover(self.opening);
        let asked = timeout(limit, self.ask(&core, &text)).await;
        let answer = match asked {
            Ok(Ok((_, answer))) => opening::read_discover(&answer),
            Ok(Err(Failure::Gateway(error @ GatewayError::Unauthorized { .. }))) => {
                return Err(error);
            }
            Ok(Err(failure)) => Answer::OtherEra(failure.to_string()),
            Err(_) => Answer::OtherEra("it did not answer `server/discover`".to_owned()),
        };
        match answer {
            Answer::Open(facts) => {
                // Nothing of the modern era has a session, whatever the server says.
                core.session().id = None;
                Ok(Outcome::Open(self.start(core, queue), facts))
            }
            Answer::Refused(message) => Err(self.refused(message)),
            Answer::OtherEra(message) => {
                if core.in_session() {
                    // Some legacy servers open a session for whatever comes.
                    self.scope.spawn(async move { core.goodbye().await });
                }
                Ok(Outcome::OtherEra(self.refused(message)))
            }
            Answer::Version(_) => Ok(Outcome::OtherEra(self.refused(String::new()))),
        }
    }

    /// Tries the legacy era.
    async fn initialize(&self) -> Result<Outcome, GatewayError> {
        let mut version = self.opening.version.as_str();
        loop {
            let (core, queue) = Core::new(self.endpoint, Era::Legacy, self.scope, self.limits);
            let text = opening::initialize(self.opening, version);
            let (status, answer) = match self.ask(&core, &text).await {
                Ok((status, answer)) => (status, opening::read_initialize(&answer, version)),
                Err(Failure::Status(status)) => {
                    let message = Failure::Status(status).to_string();
                    (status, Answer::Refused(message))
                }
                Err(failure) => return Err(failure.into_error(self.endpoint.server())),
            };
            return match answer {
                Answer::Open(facts) => {
                    core.session().version = HeaderValue::from_str(&facts.version).ok();
                    self.confirm(&core).await?;
                    Ok(Outcome::Open(self.start(core, queue), facts))
                }
                Answer::Version(other) if version == self.opening.version => {
                    version = other;
                    continue;
                }
                Answer::Version(other) => Err(self.refused(format!("it speaks revision {other}"))),
                Answer::OtherEra(message) => Ok(Outcome::OtherEra(self.refused(message))),
                Answer::Refused(message) => {
                    let error = self.refused(message);
                    match status {
                        StatusCode::BAD_REQUEST
                        | StatusCode::NOT_FOUND
                        | StatusCode::METHOD_NOT_ALLOWED => Ok(Outcome::NotThere(error)),
                        _ => Err(error),
                    }
                }
            };
        }
    }

    /// Says that `initialize` was answered, before anything else is said.
    async fn confirm(&self, core: &Core) -> Result<(), GatewayError> {
        match core.post(INITIALIZED).await {
            Ok(()) => Ok(()),
            Err(Failure::Over) => Err(self.refused("its session has ended".to_owned())),
            Err(Failure::Gateway(error)) => Err(error),
            Err(failure) => {
                // Some servers choke on notifications and serve requests all the same.
                tracing::debug!(error = &failure as &dyn std::error::Error, "not taken");
                Ok(())
            }
        }
    }

    fn start(&self, core: Arc<Core>, queue: mpsc::Receiver<Bytes>) -> Arc<Http> {
        self.scope.spawn(core.clone().keep(queue));
        Arc::new(Http { core })
    }

    /// Asks a first question and waits for its answer.
    async fn ask(&self, core: &Core, text: &str) -> Result<(StatusCode, Bytes), Failure> {
        let message = Message::parse(text).expect("our own request is well-formed");
        let begun = core.begin(&message, HeaderMap::new(), Asker::Ourselves);
        let (outgoing, mut queue) = begun.map_err(|_| Failure::Over)?;
        let exchange = async {
            let outcome = core.exchange(&outgoing).await;
            core.table().forget(&outgoing.key);
            drop(outgoing);
            outcome
        };
        let answer = async {
            while let Some(packet) = queue.recv().await {
                if packet.last {
                    return Some(packet.message);
                }
            }
            None
        };
        let (status, answer) = tokio::join!(exchange, answer);
        Ok((status?, answer.ok_or(Failure::Unanswered)?))
    }

    fn refused(&self, message: String) -> GatewayError {
        GatewayError::Refused { server: self.endpoint.server().to_owned(), message }
    }
}
