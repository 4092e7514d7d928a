//! What a relay grants to agents in writing: agent tokens and resume tickets, as plain data.
//!
//! Signing and checking of signatures is [`crate::keys`]'s part; whether a token was revoked is
//! the store's to know.

use std::fmt;
use std::str::FromStr;

use mcpm_shared::name::{Name, NameError};
use serde::{Deserialize, Serialize};

/// Longest subject of a token, in bytes: it stands in every lease row of its owner.
pub const MAX_SUBJECT_BYTES: usize = 128;
/// How many patterns a token may carry, so that it fits into a header with room to spare.
pub const MAX_PATTERNS: usize = 32;

/// Which names a token allows: one name, all names that begin with something, or all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NamePattern {
    /// Every name: `*`.
    Any,
    /// This name.
    Exact(Name),
    /// Every name that begins with this and goes on: `ada-*`.
    Prefix(String),
}

impl NamePattern {
    /// Tells whether a name is allowed.
    pub fn allows(&self, name: &Name) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => {
                name.as_str().strip_prefix(prefix).is_some_and(|rest| !rest.is_empty())
            }
        }
    }
}

/// Text that is no pattern of names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a name, a prefix such as `ada-*`, or `*`")]
pub struct PatternError {
    text: String,
    #[source]
    source: NameError,
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |source| PatternError { text: text.to_owned(), source };
        match text.strip_suffix('*') {
            Some("") => Ok(Self::Any),
            Some(prefix) => {
                // What follows must be able to complete a name.
                format!("{prefix}0").parse::<Name>().map_err(wrong)?;
                Ok(Self::Prefix(prefix.to_owned()))
            }
            None => text.parse().map(Self::Exact).map_err(wrong),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => name.fmt(f),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl TryFrom<String> for NamePattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.to_string()
    }
}

/// The names that somebody may claim: those that any of the patterns allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NamePatterns(Vec<NamePattern>);

impl NamePatterns {
    /// Returns the patterns that allow every name.
    pub fn any() -> Self {
        Self(vec![NamePattern::Any])
    }

    /// Makes a set; an empty one allows nothing.
    pub fn new(patterns: Vec<NamePattern>) -> Self {
        Self(patterns)
    }

    /// Tells whether a name is allowed.
    pub fn allows(&self, name: &Name) -> bool {
        self.0.iter().any(|pattern| pattern.allows(name))
    }

    /// Returns the patterns.
    pub fn as_slice(&self) -> &[NamePattern] {
        &self.0
    }

    /// Returns the patterns as text.
    pub fn to_texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for NamePatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_texts().join(" "))
    }
}

/// Binds a token to one agent key (RFC 7800 §3, RFC 9449 §6.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// RFC 7638 thumbprint of the key.
    pub jkt: String,
}

/// The claims of an agent token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Whom it was issued to; owns the names claimed with it.
    #[serde(rename = "sub")]
    pub subject: String,
    /// Its id, by which it is revoked.
    pub jti: String,
    /// When it was issued, in Unix seconds.
    #[serde(rename = "iat")]
    pub issued_at: u64,
    /// When it ends, in Unix seconds.
    #[serde(rename = "exp")]
    pub expires_at: u64,
    /// The names it allows.
    pub names: NamePatterns,
    /// How many live shares it allows; absent for the relay's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_shares: Option<u32>,
    /// The only agent key that may use it.
    #[serde(default, rename = "cnf", skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Confirmation>,
}

/// Why a token does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It is bound to another agent key.
    #[error("the token is bound to another agent's key")]
    BoundElsewhere,
}

impl Grant {
    /// Checks what the signature cannot tell: the time, and who presents the token.
    ///
    /// # Errors
    /// Fails when the token has ended or belongs to another key.
    pub fn check(&self, agent: &str, now: u64) -> Result<(), GrantError> {
        if now >= self.expires_at {
            return Err(GrantError::Expired);
        }
        match &self.confirmation {
            Some(bound) if bound.jkt != agent => Err(GrantError::BoundElsewhere),
            _ => Ok(()),
        }
    }
}

/// A wish for a token that cannot be granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The subject is empty, too long, or not printable.
    #[error("a subject has 1 to {MAX_SUBJECT_BYTES} printable characters without blanks")]
    Subject,
    /// No pattern, or too many.
    #[error("a token carries 1 to {MAX_PATTERNS} name patterns")]
    Patterns,
    /// A thumbprint has another form.
    #[error("an agent key's thumbprint has 43 characters of base64url")]
    Thumbprint,
    /// It would never have been good.
    #[error("a token must end in the future")]
    Lifetime,
}

/// What an operator asks for when issuing a token.
#[derive(Clone, Debug)]
pub struct GrantRequest {
    /// Whom it is for.
    pub subject: String,
    /// The names it allows.
    pub names: NamePatterns,
    /// How many live shares it allows; absent for the relay's default.
    pub max_shares: Option<u32>,
    /// The only agent key that may use it.
    pub bound_to: Option<String>,
    /// When it ends, in Unix seconds.
    pub expires_at: u64,
}

impl GrantRequest {
    /// Returns the claims to sign.
    ///
    /// # Errors
    /// Fails when a part of the wish is out of bounds.
    pub fn grant(self, jti: String, now: u64) -> Result<Grant, RequestError> {
        let base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let is_thumbprint = |jkt: &String| jkt.len() == 43 && jkt.bytes().all(base64url);
        if !is_subject(&self.subject) {
            return Err(RequestError::Subject);
        }
        if !(1..=MAX_PATTERNS).contains(&self.names.as_slice().len()) {
            return Err(RequestError::Patterns);
        }
        if !self.bound_to.as_ref().is_none_or(is_thumbprint) {
            return Err(RequestError::Thumbprint);
        }
        if self.expires_at <= now {
            return Err(RequestError::Lifetime);
        }
        Ok(Grant {
            subject: self.subject,
            jti,
            issued_at: now,
            expires_at: self.expires_at,
            names: self.names,
            max_shares: self.max_shares,
            confirmation: self.bound_to.map(|jkt| Confirmation { jkt }),
        })
    }
}

/// Tells whether a text can be the subject of a token: 1 to 128 printable characters without blanks.
#[must_use]
pub fn is_subject(text: &str) -> bool {
    (1..=MAX_SUBJECT_BYTES).contains(&text.len())
        && text.chars().all(|c| !c.is_whitespace() && !c.is_control())
}

/// The claims of a resume ticket: proof of a lease that a store may have forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The name.
    pub name: Name,
    /// Who owns it.
    #[serde(rename = "own")]
    pub owner: String,
    /// The generation that was given.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// When the ticket ends, in Unix seconds.
    #[serde(rename = "exp")]
    pub expires_at: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn patterns(texts: &[&str]) -> NamePatterns {
        NamePatterns::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn request() -> GrantRequest {
        GrantRequest {
            subject: "ada@example.com".to_owned(),
            names: patterns(&["ada-*", "calc"]),
            max_shares: Some(3),
            bound_to: Some("a".repeat(43)),
            expires_at: 100,
        }
    }

    #[test]
    fn a_pattern_allows_its_name_its_prefix_or_all() {
        let some = patterns(&["calc", "ada-*"]);
        for allowed in ["calc", "ada-1", "ada-notes-x"] {
            assert!(some.allows(&name(allowed)), "{allowed}");
        }
        for refused in ["calc2", "ada", "bob-ada-1", "cal"] {
            assert!(!some.allows(&name(refused)), "{refused}");
        }
        assert!(NamePatterns::any().allows(&name("x")));
        assert!(!NamePatterns::new(vec![]).allows(&name("x")));
    }

    #[test]
    fn a_star_stands_at_the_end_only() {
        for text in ["", "**", "a*b", "*a", "A-*", "-*", "a.b", "ab--*"] {
            assert!(text.parse::<NamePattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_ends_at_its_time_and_serves_its_key_only() {
        let grant = request().grant("t1".to_owned(), 50).unwrap();
        let key = "a".repeat(43);
        assert_eq!(grant.check(&key, 99), Ok(()));
        assert_eq!(grant.check(&key, 100), Err(GrantError::Expired));
        assert_eq!(grant.check("other", 99), Err(GrantError::BoundElsewhere));
        let unbound = Grant { confirmation: None, ..grant };
        assert_eq!(unbound.check("other", 99), Ok(()));
    }

    #[test]
    fn wishes_out_of_bounds_are_refused() {
        let grant = |request: GrantRequest| request.grant("t1".to_owned(), 50).unwrap_err();
        for subject in ["", "two words", "new\nline", &"x".repeat(129)] {
            let request = GrantRequest { subject: subject.to_owned(), ..request() };
            assert_eq!(grant(request), RequestError::Subject, "{subject}");
        }
        let none = GrantRequest { names: NamePatterns::new(vec![]), ..request() };
        assert_eq!(grant(none), RequestError::Patterns);
        let short = GrantRequest { bound_to: Some("short".to_owned()), ..request() };
        assert_eq!(grant(short), RequestError::Thumbprint);
        assert_eq!(grant(GrantRequest { expires_at: 50, ..request() }), RequestError::Lifetime);
    }

    #[test]
    fn the_claims_of_a_token_are_these() {
        let grant = request().grant("t1".to_owned(), 50).unwrap();
        let expected = format!(
            concat!(
                r#"{{"sub":"ada@example.com","jti":"t1","iat":50,"exp":100,"#,
                r#""names":["ada-*","calc"],"max_shares":3,"cnf":{{"jkt":"{}"}}}}"#
            ),
            "a".repeat(43)
        );
        assert_eq!(serde_json::to_string(&grant).unwrap(), expected);
    }

    #[test]
    fn the_claims_of_a_ticket_are_these() {
        let ticket =
            Ticket { name: name("calc"), owner: "key:x".to_owned(), generation: 7, expires_at: 9 };
        assert_eq!(
            serde_json::to_string(&ticket).unwrap(),
            r#"{"name":"calc","own":"key:x","gen":7,"exp":9}"#
        );
    }

    proptest! {
        #[test]
        fn patterns_survive_a_round_trip(text in "([a-z0-9-]{1,8})?\\*?") {
            if let Ok(pattern) = text.parse::<NamePattern>() {
                prop_assert_eq!(pattern.to_string(), text);
            }
        }

        #[test]
        fn an_exact_pattern_allows_just_itself(a in "[a-z][a-z0-9]{0,8}", b in "[a-z][a-z0-9]{0,8}") {
            let pattern: NamePattern = a.parse().unwrap();
            prop_assert_eq!(pattern.allows(&name(&b)), a == b);
        }

        #[test]
        fn a_prefix_allows_what_is_longer(prefix in "[a-z][a-z0-9]{0,8}", rest in "[a-z0-9]{0,8}") {
            let pattern: NamePattern = format!("{prefix}*").parse().unwrap();
            let longer = name(&format!("{prefix}{rest}"));
            prop_assert_eq!(pattern.allows(&longer), !rest.is_empty());
        }

        #[test]
        fn no_text_makes_a_pattern_panic(text in ".*") {
            let _ = text.parse::<NamePattern>().is_ok();
        }
    }
}
