//! One share as it is known here: what it opens, and the tokens that open it.

use std::fmt;

use mcpm_shared::access::{AccessPolicy, TokenGrant};
use mcpm_shared::name::Name;
use mcpm_shared::token::Token;
use serde::{Deserialize, Serialize};

use crate::credentials::CredentialError;

/// What stands for the relay of a share that needs none.
pub const NO_RELAY: &str = "local";

/// What a share makes reachable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareTarget {
    /// One server of `servers.json`.
    Server(String),
    /// A profile.
    Profile(String),
    /// An HTTP server that somebody else runs, by port or URL.
    Http(String),
}

impl ShareTarget {
    /// Returns the name of the server or profile, or the address of the HTTP server.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Server(name) | Self::Profile(name) | Self::Http(name) => name,
        }
    }
}

impl ShareTarget {
    /// Returns what default names of shares are made from.
    #[must_use]
    pub fn base(&self) -> String {
        match self {
            Self::Server(name) | Self::Profile(name) => name.clone(),
            // `localhost-8080` says more than `http-localhost-8080`.
            Self::Http(address) => {
                address.split_once("://").map_or(address.as_str(), |(_, rest)| rest).to_owned()
            }
        }
    }
}

impl fmt::Display for ShareTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(name) => write!(f, "server `{name}`"),
            Self::Profile(name) => write!(f, "profile `{name}`"),
            Self::Http(address) => write!(f, "the HTTP server at {address}"),
        }
    }
}

/// One token of a share, with the secret itself.
#[derive(Clone, Debug)]
pub struct ShareToken {
    /// A short id that people and logs may see.
    pub id: String,
    /// What the owner calls it.
    pub label: Option<String>,
    /// The secret.
    pub token: Token,
    /// When it was made, in Unix seconds.
    pub created_at: u64,
    /// When it stops working, in Unix seconds.
    pub expires_at: Option<u64>,
}

impl ShareToken {
    fn grant(&self) -> TokenGrant {
        TokenGrant {
            id: self.id.clone(),
            label: self.label.clone(),
            digest: self.token.digest(),
            expires_at: self.expires_at,
        }
    }
}

/// What a new token is asked to be.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// What the owner calls it.
    pub label: Option<String>,
    /// When it stops working, in Unix seconds.
    pub expires_at: Option<u64>,
}

/// All that a share keeps.
#[derive(Clone, Debug)]
pub struct ShareRecord {
    /// The name at the relay.
    pub name: Name,
    /// The origin of the relay; [`NO_RELAY`] for a share without one.
    pub relay: String,
    /// What is shared.
    pub target: ShareTarget,
    /// Whether shares of the target have this name where none is asked for, although it is not made
    /// of the target's: it got another name, and its URL did not.
    pub inherited: bool,
    /// The tokens that open it.
    pub tokens: Vec<ShareToken>,
    /// The secret of its `?s=` link, once one was asked for.
    pub link: Option<Token>,
    /// The relay's ticket to take the name back.
    pub ticket: Option<String>,
    /// The URL it had last.
    pub url: Option<String>,
    /// The generation it had last.
    pub generation: Option<u64>,
}

impl ShareRecord {
    /// Makes the record of a share that nobody can visit yet.
    pub fn new(name: Name, relay: impl Into<String>, target: ShareTarget) -> Self {
        Self {
            name,
            relay: relay.into(),
            target,
            inherited: false,
            tokens: Vec::new(),
            link: None,
            ticket: None,
            url: None,
            generation: None,
        }
    }

    /// Returns the policy these credentials make; the link counts only when it is asked for.
    #[must_use]
    pub fn policy(&self, with_link: bool) -> AccessPolicy {
        AccessPolicy {
            public: false,
            tokens: self.tokens.iter().map(ShareToken::grant).collect(),
            link: self.link.as_ref().filter(|_| with_link).map(|link| link.digest().into()),
        }
    }

    /// Tells whether visitors could ever come: it has a URL, or needs none but those of this machine.
    #[must_use]
    pub fn was_up(&self) -> bool {
        self.url.is_some() || self.relay == NO_RELAY
    }

    /// Tells whether somebody has what opens it, a token or the link.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.tokens.is_empty() || self.link.is_some()
    }

    /// Returns the owner's own token: the first that was not given to somebody (no label) or for
    /// some time (no end).
    #[must_use]
    pub fn own_token(&self) -> Option<&ShareToken> {
        self.tokens.iter().find(|token| token.label.is_none() && token.expires_at.is_none())
    }

    /// Adds a new token and returns it.
    pub fn add_token(&mut self, new: NewToken, now: u64) -> &ShareToken {
        let token = Token::generate();
        // Derived from the digest, so that it says nothing of the secret.
        let id = token.digest().to_string()[..8].to_owned();
        let NewToken { label, expires_at } = new;
        let made = ShareToken { id, label, token, created_at: now, expires_at };
        let index = self.tokens.len();
        self.tokens.push(made);
        &self.tokens[index]
    }

    /// Removes the token with this id, or with this label when only one has it.
    ///
    /// # Errors
    /// When there is none, or several have the label.
    pub fn revoke_token(&mut self, asked: &str) -> Result<ShareToken, CredentialError> {
        let index = match self.tokens.iter().position(|token| token.id == asked) {
            Some(index) => index,
            None => self.labelled(asked)?,
        };
        Ok(self.tokens.remove(index))
    }

    /// Returns the place of the only token with this label.
    fn labelled(&self, label: &str) -> Result<usize, CredentialError> {
        let share = || self.name.to_string();
        let has = |token: &ShareToken| token.label.as_deref() == Some(label);
        let found: Vec<usize> = (0..self.tokens.len()).filter(|&i| has(&self.tokens[i])).collect();
        match found.as_slice() {
            [index] => Ok(*index),
            [] => Err(CredentialError::UnknownToken { share: share(), id: label.to_owned() }),
            several => Err(CredentialError::AmbiguousToken {
                share: share(),
                label: label.to_owned(),
                ids: several.iter().map(|&index| self.tokens[index].id.clone()).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ShareRecord {
        ShareRecord::new("a".parse().unwrap(), "local", ShareTarget::Server("a".to_owned()))
    }

    fn labelled(label: &str) -> NewToken {
        NewToken { label: Some(label.to_owned()), expires_at: None }
    }

    #[test]
    fn the_link_opens_only_when_it_is_asked_for() {
        let mut record = record();
        record.link = Some(Token::new("link"));
        assert!(record.policy(false).link.is_none());
        assert!(record.policy(true).link.unwrap().matches(b"link"));
    }

    #[test]
    fn the_owners_own_token_has_neither_label_nor_end() {
        let mut record = record();
        record.add_token(labelled("bob"), 1);
        record.add_token(NewToken { label: None, expires_at: Some(u64::MAX) }, 1);
        assert!(record.own_token().is_none());
        let id = record.add_token(NewToken::default(), 1).id.clone();
        assert_eq!(record.own_token().unwrap().id, id);
    }

    #[test]
    fn a_label_that_several_tokens_have_is_told_with_their_ids_and_revokes_none() {
        let mut record = record();
        let first = record.add_token(labelled("bob"), 1).id.clone();
        let second = record.add_token(labelled("bob"), 1).id.clone();
        let error = record.revoke_token("bob").unwrap_err().to_string();
        assert!(error.contains(&first) && error.contains(&second), "{error}");
        record.revoke_token(&first).unwrap();
        assert_eq!(record.revoke_token("bob").unwrap().id, second);
        assert!(matches!(record.revoke_token("bob"), Err(CredentialError::UnknownToken { .. })));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let mut record = record();
        record.add_token(NewToken::default(), 1);
        assert!(!format!("{record:?}").contains(record.tokens[0].token.expose()));
    }
}
