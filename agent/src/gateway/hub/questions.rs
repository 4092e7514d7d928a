//! Requests that servers make of a legacy client: each gets an id of ours, for two servers may use
//! the same, and the answer goes back to whom it belongs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::gateway::upstream::Conn;
use crate::mcp::message::{INTERNAL_ERROR, Key, Message, error_response};

/// How many questions may wait for one client.
const MAX: usize = 256;
/// How long a client may take to answer.
const PATIENCE: Duration = Duration::from_secs(600);

/// A message to a server.
pub(super) type Reply = (Arc<Conn>, Bytes);

/// Who waits for an answer.
#[derive(Debug)]
enum Asker {
    /// A server, under its own id; it may want to hear of progress under a token of its own.
    Server { conn: Arc<Conn>, id: String, token: Option<Key> },
    /// We ourselves, on behalf of a server of the modern era.
    Bridge(oneshot::Sender<Bytes>),
}

/// A question without an answer.
#[derive(Debug)]
struct Waiting {
    asker: Asker,
    since: Instant,
}

/// The questions that a client has not answered yet.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    waiting: HashMap<Key, Waiting>,
}

impl Questions {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, asker: Asker) -> Option<String> {
        let mut open = self.open();
        if open.waiting.len() >= MAX {
            return None;
        }
        open.next += 1;
        let id = format!("mcpm-{}", open.next);
        let waiting = Waiting { asker, since: Instant::now() };
        open.waiting.insert(Key::Text(id.clone()), waiting);
        Some(format!("\"{id}\""))
    }

    /// Registers a question of a server; returns it with an id of ours, or `None` when too many
    /// wait.
    pub(super) fn ask(&self, conn: &Arc<Conn>, question: &Message<'_>) -> Option<Bytes> {
        let id = question.id()?;
        let token = question.meta().progress_token.map(Key::of);
        let server = Asker::Server { conn: conn.clone(), id: id.get().to_owned(), token };
        let ours = self.add(server)?;
        Some(question.rewrite(vec![question.edit(id, &ours)]).into())
    }

    /// Registers a question of our own; returns its id in JSON and where the answer will come.
    pub(super) fn ask_ourselves(&self) -> Option<(String, oneshot::Receiver<Bytes>)> {
        let (sender, answer) = oneshot::channel();
        Some((self.add(Asker::Bridge(sender))?, answer))
    }

    /// Forgets a question of our own by its id in JSON; `false` when it is answered already.
    pub(super) fn give_up(&self, id: &str) -> bool {
        let key = Key::Text(id.trim_matches('"').to_owned());
        self.open().waiting.remove(&key).is_some()
    }

    /// Takes an answer of the client; returns what the server that asked is to read.
    pub(super) fn answered(&self, response: &Message<'_>) -> Option<Reply> {
        let id = response.id()?;
        let waiting = self.open().waiting.remove(&Key::of(id));
        match waiting.map(|waiting| waiting.asker) {
            Some(Asker::Server { conn, id: theirs, .. }) => {
                let line = response.rewrite(vec![response.edit(id, &theirs)]);
                return Some((conn, line.into()));
            }
            Some(Asker::Bridge(sender)) => {
                drop(sender.send(Bytes::copy_from_slice(response.text().as_bytes())));
            }
            None => tracing::debug!("an answer to a question nobody asked"),
        }
        None
    }

    /// Returns the server whose question a client makes progress with. Two servers may use the same
    /// token: it is the one that asked last.
    pub(super) fn of_progress(&self, notification: &Message<'_>) -> Option<Arc<Conn>> {
        let progress = Some(Key::of(notification.peek().progress_token?));
        let open = self.open();
        let asked = open.waiting.values().filter_map(|waiting| match &waiting.asker {
            Asker::Server { conn, token, .. } if *token == progress => Some((waiting.since, conn)),
            _ => None,
        });
        asked.max_by_key(|(since, _)| *since).map(|(_, conn)| conn.clone())
    }

    /// Forgets the questions of a conversation that is over, and those of ours that nobody waits
    /// for. Returns what servers are to read whose questions are too old.
    pub(super) fn tidy(&self, now: Instant) -> Vec<Reply> {
        let mut open = self.open();
        open.waiting.retain(|_, waiting| match &waiting.asker {
            Asker::Server { conn, .. } => !conn.is_over(),
            Asker::Bridge(sender) => !sender.is_closed(),
        });
        let old = open.waiting.extract_if(|_, waiting| now - waiting.since >= PATIENCE);
        let text = "the client did not answer in time";
        old.filter_map(|(_, waiting)| match waiting.asker {
            Asker::Server { conn, id, .. } => {
                Some((conn, error_response(Some(&id), INTERNAL_ERROR, text, None).into()))
            }
            Asker::Bridge(_) => None,
        })
        .collect()
    }

    /// Returns our id of a question that a server takes back.
    pub(super) fn withdrawn(&self, conn: &Arc<Conn>, theirs: &Key) -> Option<String> {
        let mut open = self.open();
        let key = open.waiting.iter().find_map(|(key, waiting)| match &waiting.asker {
            Asker::Server { conn: asking, id, .. } if Arc::ptr_eq(asking, conn) => {
                let id = serde_json::value::RawValue::from_string(id.clone()).ok()?;
                (Key::of(&id) == *theirs).then(|| key.clone())
            }
            _ => None,
        })?;
        open.waiting.remove(&key);
        match key {
            Key::Text(id) => Some(format!("\"{id}\"")),
            Key::Integer(_) | Key::Other(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_not_answered_is_given_up_after_a_time_and_frees_its_place() {
        let questions = Questions::default();
        let (_, answer) = questions.ask_ourselves().unwrap();
        tokio::time::advance(PATIENCE - Duration::from_secs(1)).await;
        let others: Vec<_> = std::iter::from_fn(|| questions.ask_ourselves()).collect();
        assert_eq!(others.len(), MAX - 1);
        drop(questions.tidy(Instant::now()));
        assert!(questions.ask_ourselves().is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(questions.tidy(Instant::now()));
        assert!(answer.await.is_err());
        assert!(questions.ask_ourselves().is_some());
    }
}
