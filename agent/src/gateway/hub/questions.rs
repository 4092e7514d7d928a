//! Requests that servers make of a legacy client: each gets an id of ours, for two servers may use
//! the same, and the answer goes back to whom it belongs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::gateway::upstream::Conn;
use crate::mcp::message::{Key, Message};

/// How many questions may wait for one client.
const MAX: usize = 256;

/// Who waits for an answer.
#[derive(Debug)]
enum Asker {
    /// A server, under its own id.
    Server { conn: Arc<Conn>, id: String },
    /// We ourselves, on behalf of a server of the modern era.
    Bridge(oneshot::Sender<Bytes>),
}

/// The questions that a client has not answered yet.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    waiting: HashMap<Key, Asker>,
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
        open.waiting.insert(Key::Text(id.clone()), asker);
        Some(format!("\"{id}\""))
    }

    /// Registers a question of a server; returns it with an id of ours, or `None` when too many
    /// wait.
    pub(super) fn ask(&self, conn: &Arc<Conn>, question: &Message<'_>) -> Option<Bytes> {
        let id = question.id()?;
        let server = Asker::Server { conn: conn.clone(), id: id.get().to_owned() };
        let ours = self.add(server)?;
        Some(question.rewrite(vec![question.edit(id, &ours)]).into())
    }

    /// Registers a question of our own; returns its id in JSON and where the answer will come.
    pub(super) fn ask_ourselves(&self) -> Option<(String, oneshot::Receiver<Bytes>)> {
        let (sender, answer) = oneshot::channel();
        Some((self.add(Asker::Bridge(sender))?, answer))
    }

    /// Takes the answer of the client to whom asked.
    pub(super) async fn answered(&self, response: &Message<'_>) {
        let Some(id) = response.id() else { return };
        let asker = self.open().waiting.remove(&Key::of(id));
        match asker {
            Some(Asker::Server { conn, id: theirs }) => {
                let line = response.rewrite(vec![response.edit(id, &theirs)]);
                drop(conn.answer(line.into()).await);
            }
            Some(Asker::Bridge(sender)) => {
                drop(sender.send(Bytes::copy_from_slice(response.text().as_bytes())));
            }
            None => tracing::debug!("an answer to a question nobody asked"),
        }
    }

    /// Forgets the questions of a conversation that is over, or of ours that nobody waits for.
    pub(super) fn tidy(&self) {
        self.open().waiting.retain(|_, asker| match asker {
            Asker::Server { conn, .. } => !conn.is_over(),
            Asker::Bridge(sender) => !sender.is_closed(),
        });
    }

    /// Returns our id of a question that a server takes back.
    pub(super) fn withdrawn(&self, conn: &Arc<Conn>, theirs: &Key) -> Option<String> {
        let mut open = self.open();
        let key = open.waiting.iter().find_map(|(key, asker)| match asker {
            Asker::Server { conn: asking, id } if Arc::ptr_eq(asking, conn) => {
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
