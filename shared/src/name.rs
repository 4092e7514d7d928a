//! The name of a share: one DNS label.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The longest a DNS label may be, in bytes (RFC 1035 §2.3.4).
pub const MAX_LEN: usize = 63;

/// How many characters derived from the agent's key end a default name.
const SUFFIX_LEN: usize = 6;

/// The name a share is reached by: one DNS label of 1–63 bytes of `[a-z0-9-]` that neither starts
/// nor ends with a hyphen (RFC 1035 §2.3.1; a leading digit by RFC 1123 §2.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Returns the label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the same name in memory of its own.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self(Arc::from(self.as_str()))
    }

    /// Makes the default name of what is called `base` on the agent with `thumbprint`:
    /// `<base>-<6 characters>`, the same every day for the same key.
    #[must_use]
    pub fn derived(base: &str, thumbprint: &str) -> Self {
        let mut label = String::with_capacity(MAX_LEN);
        for c in base.chars() {
            match c.to_ascii_lowercase() {
                c @ ('a'..='z' | '0'..='9') => label.push(c),
                _ if label.is_empty() || label.ends_with('-') => {}
                _ => label.push('-'),
            }
        }
        label.truncate(MAX_LEN - SUFFIX_LEN - 1);
        let base = match label.trim_end_matches('-') {
            "" | "xn" => "share",
            base => base,
        };
        Self(format!("{base}-{}", suffix(base, thumbprint)).into())
    }
}

/// Returns six characters of `[a-z2-7]` that depend on the agent's key and the base name.
fn suffix(base: &str, thumbprint: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = Sha256::new().chain_update(thumbprint).chain_update("/").chain_update(base);
    let digest = digest.finalize();
    digest
        .iter()
        .take(SUFFIX_LEN)
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect()
}

/// Why text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing, or more than 63 bytes.
    #[error("a name has 1 to 63 characters, this one has {0}")]
    Length(usize),
    /// A character outside `[a-z0-9-]`.
    #[error("a name may hold only a-z, 0-9 and `-`, not `{0}`")]
    Character(char),
    /// A hyphen at either end.
    #[error("a name neither starts nor ends with `-`")]
    Hyphen,
    /// `--` in third and fourth place, kept for encodings such as punycode (RFC 5890 §2.3.1).
    #[error("a name may not have `--` as its third and fourth character")]
    Encoded,
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(NameError::Length(text.len()));
        }
        let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
        if let Some(c) = text.chars().find(|c| !allowed(c)) {
            return Err(NameError::Character(c));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Hyphen);
        }
        if text.as_bytes().get(2..4) == Some(b"--") {
            return Err(NameError::Encoded);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_outside_the_rules_are_refused() {
        for (text, error) in [
            ("", NameError::Length(0)),
            ("-a", NameError::Hyphen),
            ("a-", NameError::Hyphen),
            ("A", NameError::Character('A')),
            ("a.b", NameError::Character('.')),
            ("xn--bcher-kva", NameError::Encoded),
        ] {
            assert_eq!(text.parse::<Name>(), Err(error));
        }
        assert_eq!("a".repeat(64).parse::<Name>(), Err(NameError::Length(64)));
        assert!("5ire".parse::<Name>().is_ok());
    }

    #[test]
    fn a_default_name_is_the_same_tomorrow_and_differs_between_agents() {
        let name = Name::derived("My Server!", "thumb");
        assert_eq!(name, Name::derived("My Server!", "thumb"));
        assert_ne!(name, Name::derived("My Server!", "other"));
        assert!(name.as_str().starts_with("my-server-"), "{name}");
    }

    proptest! {
        #[test]
        fn every_default_name_is_a_name(base in ".{0,80}", thumb in "[A-Za-z0-9_-]{43}") {
            let name = Name::derived(&base, &thumb);
            prop_assert!(name.as_str().parse::<Name>().is_ok_and(|parsed| parsed == name));
        }
    }
}
