//! What is kept of a login.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mcpm_shared::token::Token;
use serde::{Deserialize, Serialize};

/// How long before its end a token is renewed, at most: so long a request may be on its way.
const MARGIN: Duration = Duration::from_secs(60);
/// How long a token is taken for good after it was given, whatever a server says of it: one that
/// refuses it all the same would have every request renew it again.
const YOUNG: Duration = Duration::from_secs(10);

/// One login: tokens for one server at one URL, and how to renew them. `Debug` shows no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The server's name.
    pub server: String,
    /// Its URL; a login is good for no other.
    pub url: String,
    /// Who gave the tokens, where it said so.
    pub issuer: Option<String>,
    /// What the tokens are for (RFC 8707).
    pub resource: String,
    /// Where tokens are given.
    pub token_endpoint: String,
    /// How clients may show who they are there; empty when unknown.
    pub auth_methods: Vec<String>,
    /// As whom we logged in.
    pub client: Client,
    /// What requests carry.
    pub access_token: Token,
    /// What gets the next one.
    pub refresh_token: Option<Token>,
    /// What the tokens are good for.
    pub scopes: Vec<String>,
    /// When the access token was given, in seconds since 1970.
    pub obtained_at: u64,
    /// When it ends, in seconds since 1970, where that is known.
    pub expires_at: Option<u64>,
}

/// A client of an authorization server: who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its id, which may be the URL of a document that describes it.
    pub id: String,
    /// Its secret, if it has one.
    pub secret: Option<Token>,
    /// Whether a person named it, so that the next login uses it again.
    pub given: bool,
}

impl Record {
    /// Tells whether it is time to renew the access token.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|end| {
            let life = end.saturating_sub(self.obtained_at);
            now.saturating_add(MARGIN.as_secs().min(life / 10)) >= end
        })
    }

    /// Tells whether the access token has ended.
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }

    /// Tells whether the access token was given only now.
    pub(super) fn is_young(&self, now: u64) -> bool {
        // A clock that was set back must not make it young for hours.
        now.checked_sub(self.obtained_at).is_some_and(|age| age < YOUNG.as_secs())
    }
}

/// Returns the seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A login as it stands in its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    server: String,
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    resource: String,
    token_endpoint: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    token_endpoint_auth_methods: Vec<String>,
    client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
    #[serde(default)]
    client_given: bool,
    access_token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    obtained_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("server", &self.server).finish_non_exhaustive()
    }
}

impl From<Stored> for Record {
    fn from(stored: Stored) -> Self {
        Self {
            server: stored.server,
            url: stored.url,
            issuer: stored.issuer,
            resource: stored.resource,
            token_endpoint: stored.token_endpoint,
            auth_methods: stored.token_endpoint_auth_methods,
            client: Client {
                id: stored.client_id,
                secret: stored.client_secret.map(Token::new),
                given: stored.client_given,
            },
            access_token: Token::new(stored.access_token),
            refresh_token: stored.refresh_token.map(Token::new),
            scopes: stored.scopes,
            obtained_at: stored.obtained_at,
            expires_at: stored.expires_at,
        }
    }
}

impl From<&Record> for Stored {
    fn from(record: &Record) -> Self {
        let shown = |token: &Token| token.expose().to_owned();
        Self {
            server: record.server.clone(),
            url: record.url.clone(),
            issuer: record.issuer.clone(),
            resource: record.resource.clone(),
            token_endpoint: record.token_endpoint.clone(),
            token_endpoint_auth_methods: record.auth_methods.clone(),
            client_id: record.client.id.clone(),
            client_secret: record.client.secret.as_ref().map(shown),
            client_given: record.client.given,
            access_token: shown(&record.access_token),
            refresh_token: record.refresh_token.as_ref().map(shown),
            scopes: record.scopes.clone(),
            obtained_at: record.obtained_at,
            expires_at: record.expires_at,
        }
    }
}
