//! Which share, if any, a `Host` and a path speak of. Pure.

mod labels;

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use mcpm_shared::name::Name;
use serde::{Serialize, Serializer};

pub use self::labels::{Kept, LabelPattern, LabelPatternError, Labels, MAX_PATTERNS};

/// Names the relay keeps: hosts that operators need, that mail and browsers look up by
/// themselves, or that would look official.
pub const RESERVED: &[&str] = &[
    "abuse",
    "account",
    "accounts",
    "acme",
    "admin",
    "agent",
    "api",
    "app",
    "assets",
    "auth",
    "autoconfig",
    "autodiscover",
    "billing",
    "blog",
    "cdn",
    "console",
    "dashboard",
    "docs",
    "download",
    "email",
    "ftp",
    "gateway",
    "git",
    "help",
    "hostmaster",
    "imap",
    "info",
    "isatap",
    "localhost",
    "login",
    "mail",
    "mcp",
    "mcpm",
    "metrics",
    "mta-sts",
    "mx",
    "ns",
    "ns1",
    "ns2",
    "oauth",
    "openpgpkey",
    "pop",
    "postmaster",
    "proxy",
    "register",
    "registry",
    "relay",
    "root",
    "s",
    "secure",
    "security",
    "share",
    "signup",
    "smtp",
    "ssh",
    "sso",
    "static",
    "status",
    "support",
    "system",
    "tunnel",
    "v1",
    "webmail",
    "webmaster",
    "wpad",
    "www",
];

/// Tells whether the relay keeps `name` for itself.
#[must_use]
pub fn is_reserved(name: &Name) -> bool {
    RESERVED.binary_search(&name.as_str()).is_ok()
}

/// What a `Host` header means to this relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The relay itself: tunnel, API, landing page.
    Apex,
    /// A share at its own host.
    Share(Name),
    /// A share at a domain of its owner.
    Custom(Arc<Route>),
    /// Not ours: answered with 421.
    Unknown,
}

/// Where requests for a custom domain go.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// The domain.
    pub domain: CustomDomain,
    /// The name of the share.
    pub name: Name,
    /// Whose the domain is: only a share of this owner answers.
    pub owner: String,
}

/// The text is no domain that an owner can bring along.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no domain: give one of two labels or more, such as mcp.example.org, without scheme, \
     port and path; one in another script in its ASCII form (xn--…)"
)]
pub struct CustomDomainError(String);

/// A domain of an owner, beside the relay's own: a lower-case DNS name of two labels or more
/// (RFC 1035 §2.3.1, with digits in front as RFC 1123 §2.1 has it).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CustomDomain(Arc<str>);

impl CustomDomain {
    /// Returns the domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether the domain is `other` or below it.
    #[must_use]
    pub fn is_at_or_below(&self, other: &str) -> bool {
        let above = self.0.len().checked_sub(other.len()).map(|at| self.0.split_at(at));
        above.is_some_and(|(front, end)| {
            end.eq_ignore_ascii_case(other) && (front.is_empty() || front.ends_with('.'))
        })
    }
}

impl FromStr for CustomDomain {
    type Err = CustomDomainError;

    fn from_str(text: &str) -> Result<Self, CustomDomainError> {
        let domain = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        // All digits in the last label would be read as an address by URL parsers. The bound leaves
        // room for the label of the record that proves the domain (RFC 1035 §2.3.4).
        let last = domain.rsplit('.').next().unwrap_or_default();
        let good = domain.len() <= 240
            && domain.contains('.')
            && !last.bytes().all(|byte| byte.is_ascii_digit())
            && domain.split('.').all(label);
        if good { Ok(Self(domain.into())) } else { Err(CustomDomainError(text.to_owned())) }
    }
}

impl fmt::Display for CustomDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for CustomDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for CustomDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Decides what `host` (the value of `Host` or of `:authority`, with or without a port) means
/// under the apex `domain`. On a local relay every loopback spelling is the apex.
#[must_use]
pub fn classify(host: &str, domain: &str, local: bool) -> Target {
    let Some(host) = hostname(host) else { return Target::Unknown };
    if host.eq_ignore_ascii_case(domain) || (local && is_loopback(host)) {
        return Target::Apex;
    }
    let Some((label, parent)) = host.split_once('.') else { return Target::Unknown };
    if !parent.eq_ignore_ascii_case(domain) {
        return Target::Unknown;
    }
    match label.parse() {
        Ok(name) => Target::Share(name),
        Err(_) => label.to_ascii_lowercase().parse().map_or(Target::Unknown, Target::Share),
    }
}

/// Returns the host without port, brackets kept off, and without the root's final dot; `None` when
/// the text is no host with an optional port (RFC 9110 §7.2).
#[must_use]
pub fn hostname(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':').or(rest.is_empty().then_some("0"))?)
        }
        None => authority.rsplit_once(':').unwrap_or((authority, "0")),
    };
    let port_is_number =
        !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    let bare_v6 = !authority.starts_with('[') && host.contains(':');
    let host = host.strip_suffix('.').unwrap_or(host);
    (port_is_number && !bare_v6 && !host.is_empty()).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Splits `/s/NAME/rest` of an apex path into the name and `/rest`.
#[must_use]
pub fn split_share_path(path: &str) -> Option<(Name, &str)> {
    let rest = path.strip_prefix("/s/")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let name = rest[..end].parse().ok()?;
    Some((name, if end == rest.len() { "/" } else { &rest[end..] }))
}

/// Returns what [`split_share_path`] takes off the front of a path.
#[must_use]
pub fn share_prefix(name: &Name) -> String {
    format!("/s/{name}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(name: &str) -> Target {
        Target::Share(name.parse().unwrap())
    }

    #[test]
    fn hosts_are_told_apart() {
        for (host, target) in [
            ("relay.example", Target::Apex),
            ("Relay.Example.:443", Target::Apex),
            ("time-abc.relay.example", share("time-abc")),
            ("TIME-ABC.relay.example:8443", share("time-abc")),
            ("a.b.relay.example", Target::Unknown),
            ("relay.example.evil", Target::Unknown),
            ("evilrelay.example", Target::Unknown),
            ("x.relay.example:http", Target::Unknown),
            ("x.relay.example:", Target::Unknown),
            (".relay.example", Target::Unknown),
            ("-x.relay.example", Target::Unknown),
            ("127.0.0.1", Target::Unknown),
            ("", Target::Unknown),
        ] {
            assert_eq!(classify(host, "relay.example", false), target, "{host}");
        }
    }

    #[test]
    fn a_local_relay_answers_to_every_loopback_spelling() {
        for host in ["localhost", "localhost:1", "127.0.0.1:8080", "[::1]:8080", "[::1]"] {
            assert_eq!(classify(host, "localhost", true), Target::Apex, "{host}");
        }
        assert_eq!(classify("x.localhost:8080", "localhost", true), share("x"));
        assert_eq!(classify("10.0.0.1", "localhost", true), Target::Unknown);
    }

    #[test]
    fn the_reserved_list_is_sorted_so_that_search_works() {
        assert!(RESERVED.is_sorted());
        assert!(is_reserved(&"www".parse().unwrap()));
        assert!(!is_reserved(&"time-abc234".parse().unwrap()));
    }

    #[test]
    fn share_paths_are_split_and_not_normalised() {
        let name: Name = "a".parse().unwrap();
        assert_eq!(split_share_path("/s/a/mcp"), Some((name.clone(), "/mcp")));
        assert_eq!(split_share_path("/s/a"), Some((name.clone(), "/")));
        assert_eq!(split_share_path("/s/a//x/../y"), Some((name, "//x/../y")));
        assert_eq!(split_share_path("/s/A/mcp"), None);
        assert_eq!(split_share_path("/s//mcp"), None);
    }

    #[test]
    fn custom_domains_are_names_of_two_labels_or_more() {
        let domain: CustomDomain = "MCP.Example.ORG.".parse().unwrap();
        assert_eq!(domain.as_str(), "mcp.example.org");
        assert_eq!(hostname("mcp.example.org.:443"), Some("mcp.example.org"));
        let long = format!("{}.org", "a.".repeat(120));
        for text in
            ["", "org", "192.0.2.7", "[::1]", "a..b", "-a.org", "a.org:443", "é.org", long.as_str()]
        {
            assert!(text.parse::<CustomDomain>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_domain_is_below_whole_labels_only() {
        let domain: CustomDomain = "calc.relay.example".parse().unwrap();
        assert!(domain.is_at_or_below("relay.example") && domain.is_at_or_below("example"));
        assert!(domain.is_at_or_below("Calc.relay.example"));
        for other in ["lay.example", "x.calc.relay.example", "relay.example.org"] {
            assert!(!domain.is_at_or_below(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_host_makes_classify_panic(host in ".{0,100}", path in ".{0,50}") {
            let _target = classify(&host, "relay.example", true);
            let _split = split_share_path(&path);
            let domain = host.parse::<CustomDomain>();
            prop_assert!(domain.is_err() || hostname(&host).is_some());
            let _below = domain.is_ok_and(|domain| domain.is_at_or_below(&path));
        }
    }
}
