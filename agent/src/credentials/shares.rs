//! What a share keeps between two runs: its tokens, its link secret and its resume ticket.
//!
//! One file per share, `shares/NAME@RELAY.json`. A running share watches its file, so editing it
//! (`mcpm token revoke`) takes effect at once.

use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mcpm_shared::access::{AccessPolicy, TokenGrant};
use mcpm_shared::name::Name;
use mcpm_shared::token::Token;
use serde::{Deserialize, Serialize};

use super::CredentialError;
use crate::fs::{self, FsError, Paths};

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
    /// Tells whether it still works at `now` (Unix seconds).
    #[must_use]
    pub fn is_valid(&self, now: u64) -> bool {
        self.expires_at.is_none_or(|end| end > now)
    }

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
    /// The origin of the relay; `local` for a share without one.
    pub relay: String,
    /// What is shared.
    pub target: ShareTarget,
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
            link: self.link.as_ref().filter(|_| with_link).map(Token::digest),
        }
    }

    /// Returns the first token that works at `now` (Unix seconds).
    #[must_use]
    pub fn valid_token(&self, now: u64) -> Option<&ShareToken> {
        self.tokens.iter().find(|token| token.is_valid(now))
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
    /// When there is none.
    pub fn revoke_token(&mut self, asked: &str) -> Result<ShareToken, CredentialError> {
        let labelled = |token: &ShareToken| token.label.as_deref() == Some(asked);
        let index = match self.tokens.iter().position(|token| token.id == asked) {
            None if self.tokens.iter().filter(|token| labelled(token)).count() == 1 => {
                self.tokens.iter().position(labelled)
            }
            found => found,
        };
        match index {
            Some(index) => Ok(self.tokens.remove(index)),
            None => Err(CredentialError::UnknownToken {
                share: self.name.to_string(),
                id: asked.to_owned(),
            }),
        }
    }
}

/// The file of one share.
#[derive(Clone, Debug)]
pub struct ShareFile {
    path: PathBuf,
}

/// What tells one version of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(Option<SystemTime>, u64, u64);

impl ShareFile {
    /// Names the file of the share `name` at the relay with this origin.
    #[must_use]
    pub fn new(paths: &Paths, name: &Name, relay: &str) -> Self {
        Self { path: paths.shares().join(format!("{name}@{}.json", file_part(relay))) }
    }

    /// Returns the name that tells this share from all others: `NAME@RELAY`.
    #[must_use]
    pub fn full_name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Reads the record; `None` when the share was never made.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn read(&self) -> Result<Option<ShareRecord>, CredentialError> {
        let stored: Option<Stored> = fs::read_json(&self.path)?;
        Ok(stored.map(ShareRecord::from))
    }

    /// Changes the record under its lock; `change` gets `None` when there is no file yet.
    ///
    /// # Errors
    /// When `change` fails, or the file cannot be read or written.
    pub fn edit<T>(
        &self,
        change: impl FnOnce(Option<ShareRecord>) -> Result<(ShareRecord, T), CredentialError>,
    ) -> Result<T, CredentialError> {
        let _lock = fs::lock(&self.path)?;
        let (record, answer) = change(self.read()?)?;
        fs::write_json(&self.path, &Stored::from(&record))?;
        Ok(answer)
    }

    /// Changes a record that must be there.
    ///
    /// # Errors
    /// As [`ShareFile::edit`], and when there is no record.
    pub fn update<T>(
        &self,
        change: impl FnOnce(&mut ShareRecord) -> Result<T, CredentialError>,
    ) -> Result<T, CredentialError> {
        self.edit(|record| {
            let mut record =
                record.ok_or_else(|| CredentialError::UnknownShare(self.full_name()))?;
            let answer = change(&mut record)?;
            Ok((record, answer))
        })
    }

    /// Returns what changes whenever the file does.
    #[must_use]
    pub fn version(&self) -> Version {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Version(metadata.modified().ok(), metadata.len(), inode(&metadata)),
            Err(_) => Version(None, 0, 0),
        }
    }
}

/// Every write makes a new file, so its number differs even within one tick of the clock.
#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

/// Writes an origin so that every file system takes it and no two origins meet.
fn file_part(origin: &str) -> String {
    let (mut part, rest) = match (origin.strip_prefix("https://"), origin.strip_prefix("http://")) {
        (Some(rest), _) => (String::new(), rest),
        (_, Some(rest)) => ("http+".to_owned(), rest),
        _ => (String::new(), origin),
    };
    for byte in rest.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => part.push(char::from(byte)),
            _ => part.push_str(&format!("%{byte:02x}")),
        }
    }
    part
}

/// A share that was made here: its file and what that holds.
type Share = (ShareFile, ShareRecord);

/// Returns all shares that were ever made here, with their records, ordered by file name.
///
/// # Errors
/// When the folder or one of its files cannot be read.
pub fn list(paths: &Paths) -> Result<Vec<Share>, CredentialError> {
    let mut shares = Vec::new();
    for path in files(&paths.shares())? {
        let file = ShareFile { path };
        if let Some(record) = file.read()? {
            shares.push((file, record));
        }
    }
    Ok(shares)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, FsError> {
    let failed = |source| FsError::Read { path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Finds one share by full name (`NAME@RELAY`), name, or the server or profile behind it.
///
/// # Errors
/// When none or several match, or a file cannot be read.
pub fn find(paths: &Paths, asked: &str) -> Result<Share, CredentialError> {
    let shares = list(paths)?;
    let tests: [fn(&Share, &str) -> bool; 3] = [
        |(file, _), asked| file.full_name() == asked,
        |(_, record), asked| record.name.as_str() == asked,
        |(_, record), asked| record.target.name() == asked,
    ];
    for test in tests {
        let mut found: Vec<_> = shares.iter().filter(|share| test(share, asked)).cloned().collect();
        match found.len() {
            0 => {}
            1 => return Ok(found.remove(0)),
            _ => {
                let found = found.iter().map(|(file, _)| file.full_name()).collect();
                return Err(CredentialError::AmbiguousShare { asked: asked.to_owned(), found });
            }
        }
    }
    Err(CredentialError::UnknownShare(asked.to_owned()))
}

/// The record as it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    name: Name,
    relay: String,
    target: ShareTarget,
    #[serde(default)]
    tokens: Vec<StoredToken>,
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
        let Stored { name, relay, target, tokens, link, ticket, url, generation } = stored;
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
        Self { name, relay, target, tokens, link, ticket, url, generation }
    }
}

impl From<&ShareRecord> for Stored {
    fn from(record: &ShareRecord) -> Self {
        let ShareRecord { name, relay, target, tokens, link, ticket, url, generation } =
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
        Self { name, relay, target, tokens, link, ticket, url, generation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, relay: &str, server: &str) -> ShareRecord {
        ShareRecord::new(name.parse().unwrap(), relay, ShareTarget::Server(server.to_owned()))
    }

    fn keep(paths: &Paths, record: &ShareRecord) -> ShareFile {
        let file = ShareFile::new(paths, &record.name, &record.relay);
        file.edit(|_| Ok((record.clone(), ()))).unwrap();
        file
    }

    #[test]
    fn tokens_are_kept_and_a_revoked_one_leaves_the_policy() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let mut made = record("time-abc", "https://relay.example", "time");
        let id = made.add_token(NewToken::default(), 100).id.clone();
        let label = NewToken { label: Some("phone".to_owned()), expires_at: Some(200) };
        made.add_token(label, 100);
        let file = keep(&paths, &made);
        let kept = file.read().unwrap().unwrap();
        assert_eq!(kept.tokens[0].token, made.tokens[0].token);
        assert_eq!(kept.policy(false), made.policy(false));
        assert_eq!(kept.valid_token(300).unwrap().id, id);

        let before = file.version();
        file.update(|record| record.revoke_token(&id)).unwrap();
        assert_ne!(file.version(), before);
        let kept = file.read().unwrap().unwrap();
        assert_eq!(kept.policy(false).tokens.len(), 1);
        assert!(kept.valid_token(300).is_none());
        file.update(|record| record.revoke_token("phone")).unwrap();
        assert!(file.update(|record| record.revoke_token("phone")).is_err());
    }

    #[test]
    fn the_link_opens_only_when_it_is_asked_for() {
        let mut record = record("a", "local", "a");
        record.link = Some(Token::new("link"));
        assert!(record.policy(false).link.is_none());
        assert!(record.policy(true).link.unwrap().matches(b"link"));
    }

    #[test]
    fn a_share_is_found_by_full_name_name_or_server() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        keep(&paths, &record("time-abc", "https://a.example", "time"));
        keep(&paths, &record("time-abc", "http://127.0.0.1:80", "time"));
        keep(&paths, &record("notes-abc", "https://a.example", "notes"));
        assert_eq!(find(&paths, "notes").unwrap().1.name.as_str(), "notes-abc");
        assert_eq!(find(&paths, "notes-abc").unwrap().1.name.as_str(), "notes-abc");
        let error = find(&paths, "time").unwrap_err().to_string();
        assert!(error.contains("time-abc@a.example, time-abc@http+127.0.0.1%3a80"), "{error}");
        assert!(find(&paths, "time-abc@http+127.0.0.1%3a80").is_ok());
        assert!(matches!(find(&paths, "none"), Err(CredentialError::UnknownShare(_))));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let mut record = record("a", "local", "a");
        record.add_token(NewToken::default(), 1);
        assert!(!format!("{record:?}").contains(record.tokens[0].token.expose()));
    }
}
