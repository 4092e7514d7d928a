//! Guards over what lasts: a session and the calls in it. An end cannot be forgotten.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use super::Recorder;
use super::event::{About, Event, Kind, Outcome};

/// One client's session. Clones share it; its end is recorded when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recorder: Recorder,
    id: Arc<str>,
    about: Arc<About>,
    server: Option<Arc<str>>,
    began: (SystemTime, Instant),
    failure: OnceLock<String>,
}

impl Session {
    pub(super) fn begin(recorder: Recorder, about: About) -> Self {
        let inner = Inner {
            id: if recorder.is_on() { session_id() } else { "".into() },
            recorder,
            server: about.server.as_deref().map(Arc::from),
            about: Arc::new(about),
            began: (SystemTime::now(), Instant::now()),
            failure: OnceLock::new(),
        };
        inner.recorder.record(inner.event(Kind::SessionStart));
        Self(Arc::new(inner))
    }

    /// Begins a call of something that a server has; `name` is the server's own name for it.
    #[must_use]
    pub fn call(
        &self,
        kind: Kind,
        server: &str,
        name: impl Into<String>,
        request_size: Option<u64>,
    ) -> Call {
        let mut event = self.0.event(kind);
        event.server = match &self.0.server {
            Some(own) if **own == *server => Some(own.clone()),
            _ => Some(server.into()),
        };
        event.resource = name.into();
        event.at = SystemTime::now();
        event.request_size = request_size;
        Call { session: self.clone(), began: Instant::now(), event: Some(event) }
    }

    /// Says that the session ends because of an error; the first one counts.
    pub fn fail(&self, error: impl Into<String>) {
        let _first = self.0.failure.set(error.into());
    }
}

impl Inner {
    fn event(&self, kind: Kind) -> Event {
        Event {
            kind,
            session: self.id.clone(),
            about: self.about.clone(),
            server: self.server.clone(),
            resource: "session".to_owned(),
            at: self.began.0,
            took: None,
            request_size: None,
            response_size: None,
            outcome: Outcome::Done,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut event = self.event(Kind::SessionEnd);
        event.at = SystemTime::now();
        event.took = Some(self.began.1.elapsed());
        if let Some(error) = self.failure.take() {
            event.outcome = Outcome::Failed(error);
        }
        self.recorder.record(event);
    }
}

/// One call under way. Dropped without an end, it is recorded as given up.
#[derive(Debug)]
pub struct Call {
    session: Session,
    began: Instant,
    event: Option<Event>,
}

impl Call {
    /// Says who makes the call, where several clients share the session.
    #[must_use]
    pub fn by(mut self, client: Option<String>) -> Self {
        if let Some(event) = &mut self.event
            && event.about.client != client
        {
            event.about = Arc::new(About { client, ..(*event.about).clone() });
        }
        self
    }

    /// Takes the call back: nothing of it is recorded.
    pub fn forget(mut self) {
        self.event = None;
    }

    /// Ends the call.
    pub fn end(mut self, outcome: Outcome, response_size: Option<u64>) {
        self.finish(outcome, response_size);
    }

    fn finish(&mut self, outcome: Outcome, response_size: Option<u64>) {
        let Some(mut event) = self.event.take() else { return };
        event.took = Some(self.began.elapsed());
        event.outcome = outcome;
        event.response_size = response_size;
        self.session.0.recorder.record(event);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish(Outcome::Failed("given up".to_owned()), None);
    }
}

/// Makes a random UUID (version 4), as the Python `mcpm` names its sessions.
fn session_id() -> Arc<str> {
    let mut bytes = [0_u8; 16];
    // Without randomness sessions of one name run together, which harms no one.
    let _same = getrandom::fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut id = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            id.push('-');
        }
        let _fits = write!(id, "{byte:02x}");
    }
    id.into()
}
