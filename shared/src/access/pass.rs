//! The pass of one HTTP+SSE session (2024-11-05) that was opened by a link.
//!
//! A client of that transport is told a second URL, to post its messages to, and many keep nothing of
//! the first one's query. So that URL holds a pass: it opens the way for one session, which only its
//! client knows, and says nothing of the secret of the link. Relay and agent both know the link's
//! digest, so both can tell a pass; a new link makes all passes void.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::token::Digest;

/// The path that messages are posted to; the only one where a pass counts.
const PATH: &str = "/messages";
/// The parameters of its query.
const SESSION: &str = "sessionId";
const PASS: &str = "pass";

/// Makes the passes of one link.
#[derive(Clone, Copy, Debug)]
pub struct Passes(Digest);

impl Passes {
    /// Makes passes for the link with this digest.
    pub(super) fn of(link: &Digest) -> Self {
        Self(*link)
    }

    /// Returns the query of the URL to which the client of a session posts.
    #[must_use]
    pub fn query(&self, session: &str) -> String {
        let pass = URL_SAFE_NO_PAD.encode(self.mac(session).finalize().into_bytes());
        format!("{SESSION}={session}&{PASS}={pass}")
    }

    fn mac(&self, session: &str) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes());
        let mut mac = mac.expect("a key may have any length");
        mac.update(b"mcpm session pass\0");
        mac.update(session.as_bytes());
        mac
    }

    /// Tells whether a pass is right, in constant time.
    pub(super) fn admits(&self, held: &Held<'_>) -> bool {
        let pass = URL_SAFE_NO_PAD.decode(held.pass);
        pass.is_ok_and(|pass| self.mac(held.session).verify_slice(&pass).is_ok())
    }
}

/// A pass that a visitor shows.
#[derive(Clone, Copy)]
pub(super) struct Held<'a> {
    session: &'a str,
    pass: &'a str,
}

impl<'a> Held<'a> {
    /// Reads the pass of a request for this path, if that is one to post messages to.
    pub(super) fn read(path: &str, query: Option<&'a str>) -> Option<Self> {
        let query = query.filter(|_| path.trim_end_matches('/') == PATH)?;
        let only = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(key, _)| *key == name)?;
            // Of two, one judge might take the first and one the last.
            pairs.all(|(key, _)| key != name).then_some(value)
        };
        Some(Self { session: only(SESSION)?, pass: only(PASS)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(link: &str) -> Passes {
        Passes::of(&Digest::of(link.as_bytes()))
    }

    fn admits(passes: &Passes, path: &str, query: &str) -> bool {
        Held::read(path, Some(query)).is_some_and(|held| passes.admits(&held))
    }

    #[test]
    fn a_pass_is_for_one_session_of_one_link_at_one_path() {
        let (one, query) = (passes("link"), passes("link").query("abc"));
        assert!(admits(&one, "/messages", &query));
        assert!(admits(&one, "/messages/", &format!("profile=p&{query}")));
        assert!(!admits(&one, "/mcp", &query));
        assert!(!admits(&passes("other"), "/messages", &query));
        assert!(!admits(&one, "/messages", &query.replace("abc", "abd")));
        assert!(!admits(&one, "/messages", &format!("{query}&sessionId=abd")));
        assert!(!admits(&one, "/messages", "sessionId=abc&pass="));
        assert!(!admits(&one, "/messages", "sessionId=abc"));
    }

    #[test]
    fn a_pass_stays_the_same_golden() {
        let query = "sessionId=abc&pass=k0tw4O0ATsZvzVqMgNGKVxHCd2ys728t6T9l9_mav6o";
        assert_eq!(passes("link").query("abc"), query);
    }
}
