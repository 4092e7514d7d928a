//! What a visitor presents: one parsed object, used by whoever judges and by whoever strips.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, PROXY_AUTHORIZATION};
use percent_encoding::percent_decode_str;

use super::Denied;
use super::pass::Held;

/// Header that carries a token where `Authorization` cannot be set.
pub const SECRET_HEADER: &str = "x-mcpm-secret";

/// Header in which the relay hands the agent a link secret that stood in the URL. A visitor's own
/// copy is dropped at the edge, like every `Mcpm-*` header.
pub const LINK_HEADER: &str = "mcpm-link-secret";

/// Where a credential stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// No credential was needed.
    Nothing,
    /// `Authorization: Bearer`.
    Bearer,
    /// `X-MCPM-SECRET`.
    SecretHeader,
    /// `?s=` in the URL, or [`LINK_HEADER`] behind the relay.
    Link,
    /// The pass of an HTTP+SSE session that was opened by the link.
    Pass,
}

/// The credentials of one request. Borrowed: nothing is copied, nothing can be logged by accident.
#[derive(Clone)]
pub struct Presented<'a> {
    bearer: Slot<&'a [u8]>,
    header: Slot<&'a [u8]>,
    link: Slot<Cow<'a, [u8]>>,
    pass: Option<Held<'a>>,
}

/// No value, one value, or more than one.
#[derive(Clone)]
enum Slot<T> {
    Empty,
    One(T),
    Many,
}

impl<T> Slot<T> {
    fn of(mut values: impl Iterator<Item = T>) -> Self {
        match (values.next(), values.next()) {
            (None, _) => Self::Empty,
            (Some(value), None) => Self::One(value),
            (Some(_), Some(_)) => Self::Many,
        }
    }
}

impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Presented(…)")
    }
}

impl<'a> Presented<'a> {
    /// Reads the credentials of a request from its headers and its query (without `?`).
    #[must_use]
    pub fn from_request(headers: &'a HeaderMap, query: Option<&'a str>) -> Self {
        let all = |name: &HeaderName| headers.get_all(name).into_iter().map(|v| v.as_bytes());
        let links = query.unwrap_or_default().split('&').filter_map(|pair| {
            let secret = pair.strip_prefix("s=").filter(|secret| !secret.is_empty())?;
            Some(percent_decode_str(secret).into())
        });
        let relayed = all(&HeaderName::from_static(LINK_HEADER)).map(Cow::Borrowed);
        Self {
            bearer: Slot::of(all(&AUTHORIZATION).filter_map(bearer)),
            header: Slot::of(
                all(&HeaderName::from_static(SECRET_HEADER)).filter(|v| !v.is_empty()),
            ),
            link: Slot::of(links.chain(relayed)),
            pass: None,
        }
    }

    /// Reads also what counts at this path alone: the pass of a session, where messages are posted.
    #[must_use]
    pub fn at(mut self, path: &str, query: Option<&'a str>) -> Self {
        self.pass = Held::read(path, query);
        self
    }

    /// Returns the pass of a session.
    pub(super) fn pass(&self) -> Option<Held<'a>> {
        self.pass
    }

    /// Returns the secret to judge and where it stood. The explicit places come first, so that
    /// `Authorization` stays free for the server behind the share. The link counts only `with_link`.
    pub(super) fn secret(&self, with_link: bool) -> Result<(&[u8], Source), Denied> {
        let link = if with_link { &self.link } else { &Slot::Empty };
        match (&self.header, link, &self.bearer) {
            (Slot::Many, _, _) | (_, Slot::Many, _) | (_, _, Slot::Many) => Err(Denied::Ambiguous),
            (Slot::One(secret), _, _) => Ok((secret, Source::SecretHeader)),
            (_, Slot::One(secret), _) => Ok((secret, Source::Link)),
            (_, _, Slot::One(secret)) => Ok((secret, Source::Bearer)),
            (Slot::Empty, Slot::Empty, Slot::Empty) => Err(Denied::Missing),
        }
    }

    /// Returns the link secret as the visitor wrote it, for the relay to hand on in
    /// [`LINK_HEADER`].
    #[must_use]
    pub fn link_secret(&self) -> Option<&[u8]> {
        match &self.link {
            Slot::One(secret) => Some(secret),
            Slot::Empty | Slot::Many => None,
        }
    }
}

/// Returns the token of an `Authorization` value: of the scheme Bearer (RFC 6750 §2.1), or bare as
/// Python `mcpm` accepted it. Another scheme is not ours.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let token = match value.iter().position(|byte| *byte == b' ') {
        Some(end) if value[..end].eq_ignore_ascii_case(b"bearer") => value[end..].trim_ascii(),
        Some(_) => return None,
        None if value.eq_ignore_ascii_case(b"bearer") => return None,
        None => value,
    };
    (!token.is_empty()).then_some(token)
}

/// Drops from `headers` the credential that opened the share, so that no upstream sees it. With
/// `everything` (MCP shares) also credentials that were not needed.
pub fn strip_credentials(headers: &mut HeaderMap, source: Source, everything: bool) {
    headers.remove(SECRET_HEADER);
    headers.remove(LINK_HEADER);
    headers.remove(PROXY_AUTHORIZATION);
    if everything || source == Source::Bearer {
        headers.remove(AUTHORIZATION);
    }
    if everything {
        headers.remove(http::header::COOKIE);
    }
}

/// Returns a path with query without its `s=` parameters.
#[must_use]
pub fn strip_link_secret(path_and_query: &str) -> Cow<'_, str> {
    let Some((path, query)) = path_and_query.split_once('?') else {
        return Cow::Borrowed(path_and_query);
    };
    if !query.split('&').any(|pair| pair.starts_with("s=")) {
        return Cow::Borrowed(path_and_query);
    }
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("s=")).collect();
    if kept.is_empty() {
        return Cow::Owned(path.to_owned());
    }
    Cow::Owned(format!("{path}?{}", kept.join("&")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_secret_leaves_the_url_and_nothing_else_does() {
        for (before, after) in [
            ("/mcp", "/mcp"),
            ("/mcp?profile=a", "/mcp?profile=a"),
            ("/mcp?s=x", "/mcp"),
            ("/mcp?a=1&s=x&b=2", "/mcp?a=1&b=2"),
            ("/mcp?ss=x", "/mcp?ss=x"),
        ] {
            assert_eq!(strip_link_secret(before), after);
        }
    }

    #[test]
    fn a_link_secret_may_be_percent_encoded() {
        let none = HeaderMap::new();
        let presented = Presented::from_request(&none, Some("x=1&s=a%2Bb%zz%+f%"));
        assert!(matches!(presented.link, Slot::One(link) if *link == *b"a+b%zz%+f%"));
    }

    #[test]
    fn what_opened_a_share_is_stripped_and_the_servers_own_authorization_stays() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer backend".parse().unwrap());
        headers.insert(SECRET_HEADER, "ours".parse().unwrap());
        strip_credentials(&mut headers, Source::SecretHeader, false);
        assert!(headers.contains_key(AUTHORIZATION) && !headers.contains_key(SECRET_HEADER));
        strip_credentials(&mut headers, Source::SecretHeader, true);
        assert!(headers.is_empty());
    }
}
