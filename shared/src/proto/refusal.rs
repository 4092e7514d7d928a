//! How the relay says no.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A refusal: the JSON body of an HTTP answer and the core of the message `refused`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// A stable code out of [`code`].
    pub code: Cow<'static, str>,
    /// One sentence for people.
    pub message: String,
    /// What they may do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The protocol versions served, with `unsupported_version`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<u8>,
    /// After how many seconds it makes sense to come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_secs: Option<u64>,
}

impl Refusal {
    /// Makes a refusal.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: Cow::Borrowed(code),
            message: message.into(),
            hint: None,
            versions: Vec::new(),
            retry_after_secs: None,
        }
    }

    /// Adds what the user may do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds when to come back.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_secs = Some(seconds);
        self
    }

    /// Tells whether trying again without a change is pointless, so that the agent must stop.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(
            self.code.as_ref(),
            code::BAD_CREDENTIAL
                | code::FORBIDDEN
                | code::UNSUPPORTED_VERSION
                | code::NAME_TAKEN
                | code::NAME_RESERVED
                | code::NAME_FORBIDDEN
                | code::NAME_INVALID
                | code::MODE_FORBIDDEN
                | code::TOO_MANY_SHARES
        )
    }
}

/// The stable codes. Codes are API: add, never rename.
pub mod code {
    /// The assertion, secret or token does not hold. HTTP 401, terminal.
    pub const BAD_CREDENTIAL: &str = "bad_credential";
    /// The clocks are too far apart. HTTP 401.
    pub const CLOCK_SKEW: &str = "clock_skew";
    /// The assertion was used before. HTTP 401; a new one will do.
    pub const REPLAYED: &str = "replayed";
    /// The credential is good and not enough. HTTP 403, terminal.
    pub const FORBIDDEN: &str = "forbidden";
    /// The relay does not speak the agent's protocol version. HTTP 426, terminal.
    pub const UNSUPPORTED_VERSION: &str = "unsupported_version";
    /// Too many attempts. HTTP 429.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// The relay is full, draining, or its store does not answer. HTTP 503.
    pub const UNAVAILABLE: &str = "unavailable";
    /// Somebody else owns the name. Terminal.
    pub const NAME_TAKEN: &str = "name_taken";
    /// The name is kept by the relay. Terminal.
    pub const NAME_RESERVED: &str = "name_reserved";
    /// The agent's token does not allow the name. Terminal.
    pub const NAME_FORBIDDEN: &str = "name_forbidden";
    /// The name is not a DNS label. Terminal.
    pub const NAME_INVALID: &str = "name_invalid";
    /// The relay does not allow this kind of share. Terminal.
    pub const MODE_FORBIDDEN: &str = "mode_forbidden";
    /// The owner has as many shares as allowed. Terminal.
    pub const TOO_MANY_SHARES: &str = "too_many_shares";
    /// The message is of no known type.
    pub const UNSUPPORTED: &str = "unsupported";
    /// Another session of the same owner took the name over.
    pub const SUPERSEDED: &str = "superseded";
    /// The share or the credential came to its end.
    pub const EXPIRED: &str = "expired";
    /// An operator took the right away.
    pub const REVOKED: &str = "revoked";
}
