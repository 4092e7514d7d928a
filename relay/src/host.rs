//! Which share, if any, a `Host` and a path speak of. Pure.

use std::net::IpAddr;

use mcpm_shared::name::Name;

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
    /// Not ours: answered with 421.
    Unknown,
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
fn hostname(authority: &str) -> Option<&str> {
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

    proptest! {
        #[test]
        fn no_host_makes_classify_panic(host in ".{0,100}", path in ".{0,50}") {
            let _target = classify(&host, "relay.example", true);
            let _split = split_share_path(&path);
        }
    }
}
