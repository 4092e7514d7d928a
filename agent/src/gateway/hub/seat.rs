//! The place of an HTTP client at a hub: taken before it is known who the client is.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::future::BoxFuture;
use mcpm_shared::access::Principal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::drive::id_of;
use super::session::{Session, View};
use crate::gateway::link::{Busy, Claim, INBOX, Packet, Refusal};
use crate::gateway::talk::Conversation;
use crate::mcp::message::{INTERNAL_ERROR, INVALID_REQUEST, Message, error_response};

/// A legacy client that is about to open, or has opened, its session.
pub(in crate::gateway) struct Seat {
    hub: Arc<Hub>,
    view: Arc<View>,
    principal: Principal,
    session: Arc<OnceLock<Arc<Session>>>,
    /// The listener that came before the session.
    early: Mutex<Option<mpsc::Sender<Packet>>>,
    taken: Instant,
    left: CancellationToken,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("session", &self.session.get().is_some())
            .finish_non_exhaustive()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Seat {
    pub(in crate::gateway) fn new(hub: &Arc<Hub>, view: Arc<View>, principal: &Principal) -> Self {
        Self {
            hub: hub.clone(),
            view,
            principal: principal.clone(),
            session: Arc::default(),
            early: Mutex::default(),
            taken: Instant::now(),
            left: CancellationToken::new(),
        }
    }

    /// Opens the session in a task of its own: a client that goes away meanwhile ends it.
    fn open(&self, request: &Message<'_>, sink: mpsc::Sender<Packet>) -> Claim {
        let cancel = self.left.child_token();
        let (hub, view, principal) = (self.hub.clone(), self.view.clone(), self.principal.clone());
        let (seat, left) = (self.session.clone(), cancel.clone());
        let early = self.early.lock().unwrap_or_else(PoisonError::into_inner).take();
        let text = request.text().to_owned();
        let ended = self.left.clone();
        self.hub.scope().spawn_until_cancelled(async move {
            let opened = left.run_until_cancelled(async {
                let Ok(request) = Message::parse(&text) else { return None };
                let id = id_of(&request);
                let (message, session) = match hub.open(&request, &principal, &view).await {
                    Ok((session, result)) => {
                        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
                        (text.into_bytes(), Some(session))
                    }
                    Err(error) => {
                        error.log();
                        let text = error.to_string();
                        (error_response(Some(id), INTERNAL_ERROR, &text, None), None)
                    }
                };
                if let Some(session) = &session {
                    drop(seat.set(session.clone()));
                }
                drop(sink.send(Packet { message: message.into(), last: true }).await);
                session
            });
            if let (Some(Some(session)), Some(early)) = (opened.await, early) {
                let Ok(said) = session.outlet.listen(Some(&early)) else { return };
                drop(session);
                ended.run_until_cancelled(said.pass_to(early)).await;
            }
        });
        Claim::new(cancel.drop_guard())
    }
}

impl Conversation for Seat {
    fn begin<'a>(
        &'a self,
        request: &'a Message<'_>,
        sink: mpsc::Sender<Packet>,
    ) -> BoxFuture<'a, Result<Claim, Refusal>> {
        Box::pin(async move {
            if let Some(session) = self.session.get() {
                return session.begin(request, sink).map(Claim::new);
            }
            if request.method() == "initialize" {
                return Ok(self.open(request, sink));
            }
            let text = "open the session with `initialize` first";
            let message = error_response(Some(id_of(request)), INVALID_REQUEST, text, None);
            drop(sink.send(Packet { message: message.into(), last: true }).await);
            Ok(Claim::settled())
        })
    }

    fn tell<'a>(&'a self, message: &'a Message<'_>) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            if let Some(session) = self.session.get() {
                session.tell(message).await;
            }
            Ok(())
        })
    }

    fn listen(&self) -> Result<mpsc::Receiver<Packet>, Busy> {
        if let Some(session) = self.session.get() {
            return session.stream();
        }
        let (sink, receiver) = mpsc::channel(INBOX);
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        if early.replace(sink).is_some_and(|before| !before.is_closed()) {
            return Err(Busy);
        }
        Ok(receiver)
    }

    fn is_over(&self) -> bool {
        self.left.is_cancelled() || self.session.get().is_some_and(|session| session.is_over())
    }

    fn is_busy(&self) -> bool {
        self.session.get().is_some_and(|session| session.is_busy())
    }

    fn last_used(&self) -> Instant {
        self.session.get().map_or(self.taken, |session| session.last_used())
    }

    fn stop(&self) {
        self.left.cancel();
        if let Some(session) = self.session.get() {
            session.stop();
        }
    }
}

/// A principal who speaks the modern era.
#[derive(Debug)]
pub(in crate::gateway) struct Caller(pub(in crate::gateway) Arc<Session>);

impl Conversation for Caller {
    fn begin<'a>(
        &'a self,
        request: &'a Message<'_>,
        sink: mpsc::Sender<Packet>,
    ) -> BoxFuture<'a, Result<Claim, Refusal>> {
        Box::pin(async move { self.0.begin(request, sink).map(Claim::new) })
    }

    fn tell<'a>(&'a self, message: &'a Message<'_>) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            self.0.tell(message).await;
            Ok(())
        })
    }

    fn listen(&self) -> Result<mpsc::Receiver<Packet>, Busy> {
        Err(Busy)
    }

    fn is_over(&self) -> bool {
        self.0.is_over()
    }

    fn is_busy(&self) -> bool {
        self.0.is_busy()
    }

    fn last_used(&self) -> Instant {
        self.0.last_used()
    }

    fn stop(&self) {
        self.0.stop();
    }
}
