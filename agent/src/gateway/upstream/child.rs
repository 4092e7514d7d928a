//! Opening a conversation with a child.
//!
//! A process may be of one era only, may be locked to the era of its first request, and may end at
//! a request that it does not know: whoever probes must be ready to start another one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::opening::{self, Answer, INITIALIZED};
use super::{Facts, Limits, Opening};
use crate::gateway::GatewayError;
use crate::gateway::child::{self, Nursery, Spec};
use crate::gateway::link::{Asker, Claim, Link, Packet, Receiver};
use crate::mcp::era::Era;
use crate::mcp::message::Message;

/// How long a server of unknown era may take to answer `server/discover`.
pub(super) const PROBE: Duration = Duration::from_secs(10);
/// How long a process that is replaced may take to end before the next one starts.
const REPLACE: Duration = Duration::from_secs(5);

/// Starts a child and opens the conversation.
pub(super) async fn open(
    spec: &Spec,
    opening: &Opening,
    known: Option<Era>,
    nursery: &Nursery,
    limits: &Limits,
) -> Result<(Arc<Link>, Facts), GatewayError> {
    let start = || {
        let child = child::spawn(spec, nursery)?;
        let (scope, max) = (&nursery.scope, limits.max_line);
        Ok(Link::new(child.stdin, child.stdout, child.handle, opening.sole, max, scope))
    };
    Opener { start, opening, limits }.open(known).await
}

/// Opens a legacy conversation over a wire that is there already.
pub(super) async fn open_legacy(
    link: &Arc<Link>,
    opening: &Opening,
    limits: &Limits,
) -> Result<Facts, GatewayError> {
    let (link, start) = (link.clone(), || Err(GatewayError::Stopped));
    let opener = Opener { start, opening, limits };
    let deadline = Instant::now() + limits.start_timeout;
    match opener.initialize(&link, deadline, None).await {
        Outcome::Open(facts) => Ok(*facts),
        other => Err(opener.failed(&link, other).await),
    }
}

struct Opener<'a, F> {
    start: F,
    opening: &'a Opening,
    limits: &'a Limits,
}

/// How asking a process went.
enum Outcome {
    Open(Box<Facts>),
    OtherEra(String),
    Refused(String),
    /// It has ended.
    Died,
    /// It has not answered in time.
    Silent(Option<Asked>),
    /// It answered `server/discover` after all, when it was taken for a legacy one.
    Late,
}

/// A question to a process.
struct Asked {
    _claim: Claim,
    queue: Receiver,
}

impl Asked {
    /// Waits for the answer; `None` when the process ended. Cancel-safe.
    async fn answer(&mut self) -> Option<Packet> {
        loop {
            match self.queue.recv().await {
                Some(packet) if !packet.last => {}
                end => return end,
            }
        }
    }
}

impl<F: Fn() -> Result<Arc<Link>, GatewayError>> Opener<'_, F> {
    async fn open(&self, known: Option<Era>) -> Result<(Arc<Link>, Facts), GatewayError> {
        let deadline = Instant::now() + self.limits.start_timeout;
        let link = (self.start)()?;
        let (link, outcome) = match known {
            Some(Era::Legacy) => match self.initialize(&link, deadline, None).await {
                Outcome::OtherEra(_) => {
                    let link = self.replace(&link).await?;
                    let outcome = self.discover(&link, deadline).await;
                    (link, outcome)
                }
                outcome => (link, outcome),
            },
            Some(Era::Modern) => match self.discover(&link, deadline).await {
                Outcome::OtherEra(_) => self.fall_back(link, None, deadline).await?,
                outcome => (link, outcome),
            },
            None => {
                let limit = PROBE.min(self.limits.start_timeout / 3);
                match self.discover(&link, Instant::now() + limit).await {
                    Outcome::OtherEra(_) => self.fall_back(link, None, deadline).await?,
                    Outcome::Silent(asked) => self.fall_back(link, asked, deadline).await?,
                    Outcome::Died => {
                        let link = self.replace(&link).await?;
                        let outcome = self.initialize(&link, deadline, None).await;
                        (link, outcome)
                    }
                    outcome => (link, outcome),
                }
            }
        };
        match outcome {
            Outcome::Open(facts) => Ok((link, *facts)),
            outcome => Err(self.failed(&link, outcome).await),
        }
    }

    /// Goes on with a process that did not take `server/discover`, and starts another one when
    /// that has locked it.
    async fn fall_back(
        &self,
        link: Arc<Link>,
        late: Option<Asked>,
        deadline: Instant,
    ) -> Result<(Arc<Link>, Outcome), GatewayError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome = self.initialize(&link, Instant::now() + left / 2, late).await;
        if let Outcome::Open(_) = outcome {
            return Ok((link, outcome));
        }
        tracing::debug!(server = link.child().server(), "started again after a probe");
        let link = self.replace(&link).await?;
        let outcome = match outcome {
            Outcome::Late => self.discover(&link, deadline).await,
            _ => self.initialize(&link, deadline, None).await,
        };
        Ok((link, outcome))
    }

    /// Ends a process and starts another one; two at a time might want the same thing.
    async fn replace(&self, link: &Arc<Link>) -> Result<Arc<Link>, GatewayError> {
        link.stop();
        drop(timeout(REPLACE, link.child().exited()).await);
        (self.start)()
    }

    async fn discover(&self, link: &Arc<Link>, deadline: Instant) -> Outcome {
        let Some(mut asked) = ask(link, &opening::discover(self.opening)).await else {
            return Outcome::Died;
        };
        let Ok(packet) = timeout_at(deadline, asked.answer()).await else {
            return Outcome::Silent(Some(asked));
        };
        let outcome = Outcome::of(link, packet, opening::read_discover);
        if let Outcome::Open(_) = outcome {
            link.turn_modern();
        }
        outcome
    }

    async fn initialize(
        &self,
        link: &Arc<Link>,
        deadline: Instant,
        mut late: Option<Asked>,
    ) -> Outcome {
        let mut version = self.opening.version.as_str();
        loop {
            let Some(mut asked) = ask(link, &opening::initialize(self.opening, version)).await
            else {
                return Outcome::Died;
            };
            let packet = loop {
                tokio::select! {
                    biased;
                    packet = late_answer(&mut late) => {
                        late = None;
                        let answer = packet.map(|packet| opening::read_discover(&packet.message));
                        if matches!(answer, Some(Answer::Open(_) | Answer::Refused(_))) {
                            return Outcome::Late;
                        }
                    }
                    packet = asked.answer() => break packet,
                    () = tokio::time::sleep_until(deadline) => return Outcome::Silent(None),
                }
            };
            let mut wanted = None;
            let outcome =
                Outcome::of(link, packet, |text| match opening::read_initialize(text, version) {
                    Answer::Version(other) => {
                        wanted = Some(other);
                        Answer::Refused(format!("it speaks revision {other}"))
                    }
                    answer => answer,
                });
            if let Some(other) = wanted.filter(|_| version == self.opening.version) {
                version = other;
                continue;
            }
            if let Outcome::Open(_) = outcome
                && link.send(INITIALIZED).await.is_err()
            {
                return Outcome::Died;
            }
            return outcome;
        }
    }

    /// Tells what an outcome means to the user, and ends the process.
    async fn failed(&self, link: &Arc<Link>, outcome: Outcome) -> GatewayError {
        let (child, after) = (link.child(), self.limits.start_timeout);
        let server = child.server().to_owned();
        link.stop();
        match outcome {
            Outcome::OtherEra(message) | Outcome::Refused(message) => {
                GatewayError::Refused { server, message }
            }
            Outcome::Died => child.died(&child.exited().await),
            Outcome::Open(_) | Outcome::Silent(_) | Outcome::Late => {
                GatewayError::StartTimeout { server, after, stderr: child.stderr_tail() }
            }
        }
    }
}

impl Outcome {
    fn of(link: &Link, packet: Option<Packet>, read: impl FnOnce(&[u8]) -> Answer) -> Self {
        // What a dead process leaves is our own notice, which must not be read as its answer.
        let Some(packet) = packet.filter(|_| !link.is_over()) else { return Self::Died };
        match read(&packet.message) {
            Answer::Open(facts) => Self::Open(facts),
            Answer::OtherEra(why) => Self::OtherEra(why),
            Answer::Refused(why) => Self::Refused(why),
            Answer::Version(version) => Self::Refused(format!("it speaks revision {version}")),
        }
    }
}

async fn ask(link: &Arc<Link>, text: &str) -> Option<Asked> {
    let message = Message::parse(text).expect("our own request is well-formed");
    let (claim, queue) = link.request(&message, Asker::Ourselves).await.ok()?;
    Some(Asked { _claim: claim, queue })
}

/// Waits for an answer that is overdue, for ever when there is none to come.
async fn late_answer(late: &mut Option<Asked>) -> Option<Packet> {
    match late {
        Some(asked) => asked.answer().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
