//! Streams of events: the one that answers a request, taken up again when it breaks, and the one
//! for everything else.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming as Body;
use tokio::time::{Instant, sleep, timeout};

use super::Core;
use super::exchange::{Failure, Outgoing};
use crate::gateway::GatewayError;
use crate::gateway::upstream::endpoint::is_events;
use crate::mcp::era::Era;
use crate::mcp::sse;

/// How often, without a sign of life, a broken stream is taken up again.
const RESUMES: u32 = 10;
/// How often a server that asks to be polled may have nothing to say.
const POLLS: u32 = 1000;
/// How long a stream rests before it is taken up, unless the server says.
const REST: Duration = Duration::from_secs(1);
/// The longest rest of a stream that does not come up.
const MAX_REST: Duration = Duration::from_secs(60);
/// The longest rest that a server may ask for.
const MAX_RETRY: Duration = Duration::from_secs(300);
/// A stream that lived for so long had come up.
const STEADY: Duration = Duration::from_secs(30);
/// How long the end of an answered stream is waited for, so that its connection can be used again.
const LINGER: Duration = Duration::from_millis(250);

/// What the streams of one request, or of the listener, have shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    last: Option<HeaderValue>,
    retry: Option<Duration>,
    events: u64,
}

impl Seen {
    fn note(&mut self, event: &sse::Event) {
        self.events += 1;
        if let Some(id) = &event.id {
            self.last = HeaderValue::from_str(id).ok().filter(|id| !id.is_empty());
        }
        if let Some(retry) = event.retry_ms {
            self.retry = Some(Duration::from_millis(retry).min(MAX_RETRY));
        }
    }
}

impl Core {
    /// Hands on what a stream brings until it ends, or until the request that it is of is answered.
    pub(super) async fn follow(
        &self,
        mut body: Body,
        via: Option<&Outgoing>,
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let mut events = sse::Decoder::new(self.max);
        // A stream that breaks has ended; whether that is a fault is for the caller to say.
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            events.push(&data);
            while let Some(event) = events.next_event()? {
                seen.note(&event);
                if event.is_message() {
                    self.arrived(&event.data, via).await;
                }
            }
            if via.is_some_and(|via| !self.table().waits(&via.key)) {
                let rest = async { while let Some(Ok(_)) = body.frame().await {} };
                drop(timeout(LINGER, rest).await);
                break;
            }
        }
        Ok(())
    }

    /// Takes the stream of a request up again until it is answered; never repeats the request.
    pub(super) async fn resume(&self, outgoing: &Outgoing, seen: &mut Seen) -> Result<(), Failure> {
        let (mut failures, mut polls) = (0, 0);
        while self.table().waits(&outgoing.key) {
            // The modern era has no resumption.
            let last = seen.last.clone().filter(|_| self.era == Era::Legacy);
            let (Some(last), true) = (last, failures < RESUMES && polls < POLLS) else {
                return Err(Failure::Unanswered);
            };
            sleep(seen.retry.unwrap_or(REST)).await;
            failures += 1;
            let response = match self.get(Some(&last)).await {
                Ok(response) => response,
                Err(error @ GatewayError::Unauthorized { .. }) => return Err(error.into()),
                Err(_) => continue,
            };
            let status = response.status();
            self.check(&response)?;
            if status == StatusCode::NOT_FOUND && self.in_session() {
                return Err(self.session_ended());
            }
            if status.is_success() && is_events(response.headers()) {
                let before = seen.events;
                self.follow(response.into_body(), Some(outgoing), seen).await?;
                // 2025-11-25: a server may close the connection and ask to be polled.
                if seen.events != before {
                    (failures, polls) = (0, 0);
                } else if seen.retry.is_some() {
                    (failures, polls) = (0, polls + 1);
                }
            } else if status.is_client_error() {
                return Err(Failure::Status(status));
            }
        }
        Ok(())
    }

    /// Keeps the stream for what belongs to no request; a server need not have one.
    pub(super) async fn listen_to(&self) {
        let mut seen = Seen::default();
        let (mut rest, mut ever) = (REST, false);
        loop {
            let (before, began) = (seen.events, Instant::now());
            match self.get(seen.last.as_ref()).await {
                Ok(response) if response.status().is_success() && is_events(response.headers()) => {
                    ever = true;
                    if let Err(error) = self.follow(response.into_body(), None, &mut seen).await {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(server = self.endpoint.server(), error, "stream given up");
                    }
                }
                Ok(response) => match response.status() {
                    // Before there was a stream, 404 says no more than 405: there is none.
                    StatusCode::NOT_FOUND if ever && self.in_session() => {
                        drop(self.session_ended());
                        return;
                    }
                    StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {}
                    status if status.is_server_error() => {}
                    status => {
                        tracing::trace!(status = status.as_u16(), "the server has no stream");
                        return;
                    }
                },
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "no stream");
                }
            }
            if seen.events != before || began.elapsed() >= STEADY {
                rest = REST;
                sleep(seen.retry.unwrap_or(REST)).await;
            } else {
                sleep(seen.retry.unwrap_or(REST).max(rest)).await;
                rest = (rest * 2).min(MAX_REST);
            }
        }
    }

    async fn get(&self, after: Option<&HeaderValue>) -> Result<Response<Body>, GatewayError> {
        let mut headers = self.session_headers();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(after) = after {
            headers.insert(HeaderName::from_static("last-event-id"), after.clone());
        }
        self.endpoint.call(Method::GET, headers, Bytes::new()).await
    }
}
