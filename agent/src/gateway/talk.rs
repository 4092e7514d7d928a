//! What the HTTP faces talk to: a conversation with a server, whatever stands behind it.
//!
//! The hub has two: a seat for a legacy client, a caller for the modern requests of a principal.

use std::fmt;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::link::{Busy, Claim, Packet, Refusal};
use crate::mcp::message::Message;

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

    /// Tells whether the server is gone.
    fn is_over(&self) -> bool;

    /// Tells whether somebody waits for something: an answer, or what may come unasked.
    fn is_busy(&self) -> bool;

    /// Returns when the last message passed, either way.
    fn last_used(&self) -> Instant;

    /// Ends the conversation.
    fn stop(&self);
}

#[cfg(test)]
pub(super) mod testing {
    //! A conversation that a test plays the server of.

    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};

    use bytes::Bytes;

    use super::*;
    use crate::gateway::link::INBOX;
    use crate::mcp::message::Key;

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
            Box::pin(async { Ok(Claim::settled()) })
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
