//! What the HTTP faces talk to: a conversation with a server, whatever stands behind it.
//!
//! A [`Link`] is one with a child of one's own; an aggregate or a bridge of eras has others.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::link::{Busy, Claim, Link, Packet, Refusal};
use crate::mcp::message::{Key, Kind, Message, on_one_line};

/// A conversation of one client, or of one principal, with what serves it.
pub(super) trait Conversation: Send + Sync + fmt::Debug {
    /// Makes a request, whose packets come into `sink` in order, the answer last. The request is
    /// on its way when this returns; dropping the claim gives it up.
    ///
    /// # Errors
    /// Says why the request cannot be made.
    fn begin<'a>(
        &'a self,
        request: &'a Message<'_>,
        sink: mpsc::Sender<Packet>,
    ) -> BoxFuture<'a, Result<Claim, Refusal>>;

    /// Passes on a notification of the client, or its response to a request of the server.
    ///
    /// # Errors
    /// The server is gone.
    fn tell<'a>(&'a self, message: &'a Message<'_>) -> BoxFuture<'a, Result<(), Refusal>>;

    /// Opens the stream of messages that belong to no request.
    ///
    /// # Errors
    /// One is open already: its receiver was not dropped yet.
    fn listen(&self) -> Result<mpsc::Receiver<Packet>, Busy>;

    /// Forgets a request that the client cancelled with a notification, which ends its stream;
    /// called after [`Conversation::tell`] has passed the notification on.
    fn cancelled(&self, id: &Key);

    /// Tells whether the server is gone.
    fn is_over(&self) -> bool;

    /// Tells whether somebody waits for something: an answer, or what may come unasked.
    fn is_busy(&self) -> bool;

    /// Returns when the last message passed, either way.
    fn last_used(&self) -> Instant;

    /// Ends the conversation.
    fn stop(&self);

    /// Returns what a server that does not answer wrote to stderr, for the owner's log.
    fn last_words(&self) -> String {
        String::new()
    }
}

impl Conversation for Arc<Link> {
    fn begin<'a>(
        &'a self,
        request: &'a Message<'_>,
        sink: mpsc::Sender<Packet>,
    ) -> BoxFuture<'a, Result<Claim, Refusal>> {
        Box::pin(Link::request(self, request, sink))
    }

    fn tell<'a>(&'a self, message: &'a Message<'_>) -> BoxFuture<'a, Result<(), Refusal>> {
        debug_assert!(message.kind() != Kind::Request, "a request wants an answer");
        Box::pin(async move {
            let line = Bytes::copy_from_slice(&on_one_line(message.text().as_bytes()));
            self.send(line).await.map_err(|_| Refusal::Gone)
        })
    }

    fn listen(&self) -> Result<mpsc::Receiver<Packet>, Busy> {
        Link::listen(self)
    }

    fn cancelled(&self, id: &Key) {
        Link::cancelled(self, id);
    }

    fn is_over(&self) -> bool {
        Link::is_over(self)
    }

    fn is_busy(&self) -> bool {
        Link::is_busy(self)
    }

    fn last_used(&self) -> Instant {
        Link::last_used(self)
    }

    fn stop(&self) {
        Link::stop(self);
    }

    fn last_words(&self) -> String {
        self.child().stderr_tail()
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! A conversation that a test plays the server of.

    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::gateway::link::INBOX;

    /// Keeps the sinks of all requests, for the test to send into.
    #[derive(Debug)]
    pub(in crate::gateway) struct Puppet(Mutex<Inner>, Instant);

    impl Default for Puppet {
        fn default() -> Self {
            Self(Mutex::default(), Instant::now())
        }
    }

    #[derive(Debug, Default)]
    struct Inner {
        sinks: HashMap<Key, mpsc::Sender<Packet>>,
        listener: Option<mpsc::Sender<Packet>>,
        over: bool,
    }

    impl Puppet {
        fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Says something unasked; tells whether somebody heard it.
        pub(in crate::gateway) fn say(&self, message: &str) -> bool {
            let message = Bytes::copy_from_slice(message.as_bytes());
            let inner = self.inner();
            let sent =
                inner.listener.as_ref().map(|sink| sink.try_send(Packet { message, last: false }));
            sent.is_some_and(|sent| sent.is_ok())
        }
    }

    impl Conversation for Puppet {
        fn begin<'a>(
            &'a self,
            request: &'a Message<'_>,
            sink: mpsc::Sender<Packet>,
        ) -> BoxFuture<'a, Result<Claim, Refusal>> {
            let id = Key::of(request.id().unwrap());
            self.inner().sinks.insert(id, sink);
            Box::pin(async { Ok(Claim::new(())) })
        }

        fn tell<'a>(&'a self, _: &'a Message<'_>) -> BoxFuture<'a, Result<(), Refusal>> {
            Box::pin(async { Ok(()) })
        }

        fn listen(&self) -> Result<mpsc::Receiver<Packet>, Busy> {
            let mut inner = self.inner();
            if inner.listener.as_ref().is_some_and(|listener| !listener.is_closed()) {
                return Err(Busy);
            }
            let (sink, receiver) = mpsc::channel(INBOX);
            inner.listener = Some(sink);
            Ok(receiver)
        }

        fn cancelled(&self, id: &Key) {
            drop(self.inner().sinks.remove(id));
        }

        fn is_over(&self) -> bool {
            self.inner().over
        }

        fn is_busy(&self) -> bool {
            self.inner().sinks.values().any(|sink| !sink.is_closed())
        }

        fn last_used(&self) -> Instant {
            self.1
        }

        fn stop(&self) {
            let mut inner = self.inner();
            (inner.over, inner.listener) = (true, None);
            inner.sinks.clear();
        }
    }
}
