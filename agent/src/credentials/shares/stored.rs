//! The record of a share as it stands in its file, with the secrets in clear.

use mcpm_shared::name::Name;
use mcpm_shared::token::Token;
use serde::{Deserialize, Serialize};

use super::record::{ShareRecord, ShareTarget, ShareToken};

/// The record as it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    name: Name,
    relay: String,
    target: ShareTarget,
    #[serde(default)]
    tokens: Vec<StoredToken>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    inherited: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredToken {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    token: String,
    created_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

impl From<Stored> for ShareRecord {
    fn from(stored: Stored) -> Self {
        let Stored { name, relay, target, tokens, inherited, link, ticket, url, generation } =
            stored;
        let tokens = tokens
            .into_iter()
            .map(|StoredToken { id, label, token, created_at, expires_at }| ShareToken {
                id,
                label,
                token: Token::new(token),
                created_at,
                expires_at,
            })
            .collect();
        let link = link.map(Token::new);
        Self { name, relay, target, inherited, tokens, link, ticket, url, generation }
    }
}

impl From<&ShareRecord> for Stored {
    fn from(record: &ShareRecord) -> Self {
        let ShareRecord { name, relay, target, inherited, tokens, link, ticket, url, generation } =
            record.clone();
        let tokens = tokens
            .into_iter()
            .map(|ShareToken { id, label, token, created_at, expires_at }| StoredToken {
                id,
                label,
                token: token.expose().to_owned(),
                created_at,
                expires_at,
            })
            .collect();
        let link = link.map(|link| link.expose().to_owned());
        Self { name, relay, target, tokens, inherited, link, ticket, url, generation }
    }
}
