//! What has come of a request so far.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use serde_json::value::RawValue;

use crate::mcp::message::{Incoming, Key, Kind};
use crate::mcp::sse;

/// How long a broken stream rests before it is taken up again, and at most.
const REST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// One request that waits for its answer.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) key: Key,
    /// The id as it is written.
    pub(super) id: String,
}

impl Ask {
    pub(super) fn of(id: &RawValue) -> Self {
        Self { key: Key::of(id), id: id.get().to_owned() }
    }
}

/// What a stream of events showed, and which requests it has not answered.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pending: Vec<Ask>,
    endless: bool,
    news: bool,
    retry: Option<Duration>,
    /// The last event that can be resumed after.
    pub(super) last: Option<HeaderValue>,
}

impl Seen {
    /// Nothing yet, with these requests to be answered.
    pub(super) fn waiting(asks: &[Ask]) -> Self {
        Self { pending: asks.to_vec(), ..Self::default() }
    }

    /// Nothing yet, and no answer is awaited.
    pub(super) fn endless() -> Self {
        Self { endless: true, ..Self::default() }
    }

    pub(super) fn is_answered(&self) -> bool {
        !self.endless && self.pending.is_empty()
    }

    pub(super) fn unanswered(&self) -> &[Ask] {
        &self.pending
    }

    /// Takes what an event tells about the stream.
    pub(super) fn note(&mut self, event: &sse::Event) {
        self.news = true;
        if let Some(id) = &event.id {
            self.last = HeaderValue::from_str(id).ok().filter(|id| !id.is_empty());
        }
        if let Some(retry) = event.retry_ms {
            self.retry = Some(Duration::from_millis(retry).min(LONGEST));
        }
    }

    /// Tells whether an event came since this was last asked.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Returns how long to wait before the next try, after so many for nothing.
    pub(super) fn rest(&self, failures: u32) -> Duration {
        let rest = self.retry.unwrap_or(REST).max(Duration::from_millis(1));
        rest.saturating_mul(1 << failures.min(15)).min(LONGEST)
    }

    /// Tells whether a text answers one of the requests.
    pub(super) fn is_answer(&self, text: &[u8]) -> bool {
        answers(text).iter().any(|key| self.pending.iter().any(|ask| ask.key == *key))
    }

    /// Takes the answers of a text off; tells whether there were any.
    pub(super) fn answer(&mut self, text: &[u8]) -> bool {
        let (before, answered) = (self.pending.len(), answers(text));
        self.pending.retain(|ask| !answered.contains(&ask.key));
        self.pending.len() < before
    }

    /// Gives an error without an id the id of the only request that it can be about.
    pub(super) fn adopt(&self, text: &[u8]) -> Option<Bytes> {
        let [ask] = self.pending.as_slice() else { return None };
        let Ok(Incoming::One(answer)) = Incoming::parse(text) else { return None };
        if answer.id().is_some_and(|id| id.get() != "null") {
            return None;
        }
        let (id, error) = (&ask.id, answer.error()?.get());
        Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).into())
    }
}

fn answers(text: &[u8]) -> Vec<Key> {
    let Ok(incoming) = Incoming::parse(text) else { return Vec::new() };
    let answers = incoming.messages().iter().filter(|message| message.kind() == Kind::Response);
    answers.filter_map(|answer| answer.id()).map(Key::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_for_nothing_makes_the_next_try_wait_longer() {
        let mut seen = Seen::endless();
        assert_eq!(seen.rest(0), REST);
        assert_eq!(seen.rest(3), REST * 8);
        assert_eq!(seen.rest(u32::MAX), LONGEST);
        seen.retry = Some(Duration::ZERO);
        assert_eq!(seen.rest(5), Duration::from_millis(32));
    }

    #[test]
    fn an_error_without_an_id_is_of_the_only_request() {
        let id: &RawValue = serde_json::from_str(r#""a""#).unwrap();
        let seen = Seen::waiting(&[Ask::of(id)]);
        let adopt = |text: &str| seen.adopt(text.as_bytes());
        let expected = r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32022}}"#;
        assert_eq!(adopt(r#"{"id":null,"error":{"code":-32022}}"#).unwrap(), expected);
        assert_eq!(adopt(r#"{"error":{"code":-32022}}"#).unwrap(), expected);
        assert_eq!(adopt(r#"{"id":"b","error":{"code":1}}"#), None);
        assert_eq!(adopt(r#"{"id":null,"result":{}}"#), None);
        let both = Seen::waiting(&[Ask::of(id), Ask::of(id)]);
        assert_eq!(both.adopt(br#"{"id":null,"error":{"code":1}}"#), None);
    }
}
