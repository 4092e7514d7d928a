//! Which tools of servers clients may see and call: lists of names, with `*` for any characters.
//! Pure; the hub enforces it.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::GatewayError;
use crate::model::Server;

/// The keys of an entry of `servers.json`.
const ALLOW: &str = "allowTools";
const DENY: &str = "denyTools";

/// One name of a tool, or many: `*` stands for any characters, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolPattern(String);

/// A text that is no name of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name must not be empty, nor begin or end with a space")]
pub struct BadPattern;

impl FromStr for ToolPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        // It would match nothing, and what was to be denied would not be.
        if text.is_empty() || text.trim() != text {
            return Err(BadPattern);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ToolPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ToolPattern {
    /// Tells whether a name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        fits(self.0.as_bytes(), name.as_bytes(), |a, b| a == b)
    }

    /// Tells whether a name is meant, or one that a careless server may take for it.
    fn nearly_matches(&self, name: &str) -> bool {
        fits(self.0.as_bytes(), name.trim().as_bytes(), |a, b| a.eq_ignore_ascii_case(&b))
    }
}

/// Matches greedily, going back to the last `*` only.
fn fits(pattern: &[u8], text: &[u8], same: fn(u8, u8) -> bool) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star = None;
    while read < text.len() {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, read));
        } else if pattern.get(at).is_some_and(|&byte| same(byte, text[read])) {
            at += 1;
            read += 1;
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (at, read) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Which tools pass: those that are allowed and not denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolFilter {
    /// Everything when absent.
    allow: Option<Vec<ToolPattern>>,
    deny: Vec<ToolPattern>,
}

impl ToolFilter {
    /// Makes a filter; when nothing is named in `allow`, everything is allowed.
    #[must_use]
    pub fn new(allow: Vec<ToolPattern>, deny: Vec<ToolPattern>) -> Self {
        Self { allow: Some(allow).filter(|allow| !allow.is_empty()), deny }
    }

    /// Reads the filter of an entry, for the server's own names. A list in `allowTools` that is
    /// empty allows nothing.
    ///
    /// # Errors
    /// One of the keys holds something else than a list of names.
    pub(super) fn of(server: &Server) -> Result<Self, GatewayError> {
        let read = |key: &'static str| {
            let Some(value) = server.extra.get(key) else { return Ok(None) };
            let expected = "a list of names of tools";
            let wrong = || GatewayError::Entry { server: server.name.clone(), key, expected };
            patterns(value).map(Some).ok_or_else(wrong)
        };
        Ok(Self { allow: read(ALLOW)?, deny: read(DENY)?.unwrap_or_default() })
    }

    /// Tells whether everything passes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    /// Tells whether a tool passes.
    #[must_use]
    pub fn admits(&self, name: &str) -> bool {
        let allowed = self.allow.as_ref().is_none_or(|allow| allow.iter().any(|p| p.matches(name)));
        allowed && !self.denies(name)
    }

    /// Tells whether a tool is denied. Case does not matter here: there are servers for which it
    /// does not.
    #[must_use]
    pub fn denies(&self, name: &str) -> bool {
        self.deny.iter().any(|pattern| pattern.nearly_matches(name))
    }
}

fn patterns(value: &Value) -> Option<Vec<ToolPattern>> {
    let names = value.as_array()?.iter();
    names.map(|name| name.as_str().and_then(|name| name.parse().ok())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::hint::Hint as _;

    fn pattern(text: &str) -> ToolPattern {
        text.parse().unwrap()
    }

    fn of(entry: Value) -> Result<ToolFilter, GatewayError> {
        let mut entry = entry;
        entry["command"] = "x".into();
        ToolFilter::of(&Server::from_entry("s", &entry).unwrap())
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (text, names, others) in [
            ("read", &["read"][..], &["Read", "reads", "", "rea"][..]),
            ("read_*", &["read_", "read_file"], &["read", "a_read_file"]),
            ("*_file", &["_file", "a_file", "b_file_file"], &["_files"]),
            ("a*b*c", &["abc", "a_b_b_c", "abcbc"], &["ab", "acb", "abcd"]),
            ("*", &["", "x"], &[]),
            ("**a**", &["a", "bab"], &["b"]),
            ("a.b?", &["a.b?"], &["axbx"]),
        ] {
            for name in names {
                assert!(pattern(text).matches(name), "{text} {name}");
            }
            for name in others {
                assert!(!pattern(text).matches(name), "{text} {name}");
            }
        }
    }

    #[test]
    fn what_is_denied_does_not_pass_even_when_it_is_allowed() {
        let filter = of(json!({ "allowTools": ["read_*"], "denyTools": ["*_secret"] })).unwrap();
        assert!(filter.admits("read_file"));
        assert!(!filter.admits("write_file"));
        assert!(!filter.admits("read_secret"));
        assert!(!filter.admits("read_SECRET ") && !filter.admits("Read_file"));
        assert!(!filter.is_open());
        let filter = of(json!({ "denyTools": ["write"] })).unwrap();
        assert!(filter.admits("anything") && !filter.admits("write") && !filter.admits(" Write"));
        assert!(!of(json!({ "allowTools": [] })).unwrap().admits("x"), "a list of none");
        assert!(of(json!({})).unwrap().is_open());
        assert!(of(json!({ "denyTools": [] })).unwrap().is_open());
        assert!(ToolFilter::new(Vec::new(), Vec::new()).admits("x"));
    }

    #[test]
    fn a_faulty_list_is_an_error_that_names_server_and_key() {
        for value in [json!(null), json!("x"), json!({}), json!([1]), json!([""]), json!([" x"])] {
            let error = of(json!({ "denyTools": value.clone() })).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("`s`") && text.contains("`denyTools`"), "{text}");
            assert!(error.hint().unwrap().contains("denyTools"));
            assert!(of(json!({ "allowTools": value })).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_pattern_made_from_a_name_matches_it(name in "[a-z*]{1,12}", cuts in prop::collection::vec(0_usize..12, 0..3)) {
            let mut text = name.clone();
            for cut in cuts {
                text.insert(cut.min(text.len()), '*');
            }
            prop_assert!(pattern(&text).matches(&name));
            prop_assert!(pattern(&text).nearly_matches(&name.to_uppercase()));
        }
    }
}
