//! What happens to headers on their way through the relay. Pure.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Header by which the relay names its own failures. An upstream cannot set it.
pub const RELAY_ERROR: HeaderName = HeaderName::from_static("mcpm-relay-error");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Removes the headers that speak of one hop only (RFC 9110 §7.6.1), among them those that
/// `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &header::PROXY_AUTHENTICATE,
        &header::PROXY_AUTHORIZATION,
        &header::TE,
        &header::TRAILER,
        &header::TRANSFER_ENCODING,
        &header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Removes what only the relay may say: `Mcpm-*`, `Forwarded` and `X-Forwarded-*`.
pub fn remove_relay_claims(headers: &mut HeaderMap) {
    let ours = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("mcpm-") || name == "forwarded" || name.starts_with("x-forwarded-")
    };
    if headers.keys().any(ours) {
        let names: Vec<HeaderName> = headers.keys().filter(|name| ours(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Says who asked, by which scheme and under which host.
pub fn add_forwarded(headers: &mut HeaderMap, visitor: IpAddr, https: bool, host: &HeaderValue) {
    if let Ok(value) = HeaderValue::from_str(&visitor.to_string()) {
        headers.insert(FORWARDED_FOR, value);
    }
    let scheme = HeaderValue::from_static(if https { "https" } else { "http" });
    headers.insert(FORWARDED_PROTO, scheme);
    headers.insert(FORWARDED_HOST, host.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn hop_by_hop_headers_and_those_that_connection_names_go() {
        let mut headers = map(&[
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("mcp-session-id", "s"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("mcp-session-id", "s")]));
    }

    #[test]
    fn a_visitor_cannot_speak_for_the_relay() {
        let mut headers = map(&[
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("mcpm-link-secret", "x"),
            ("mcp-method", "tools/call"),
        ]);
        remove_relay_claims(&mut headers);
        assert_eq!(headers, map(&[("mcp-method", "tools/call")]));
        let host = HeaderValue::from_static("a.relay.example");
        add_forwarded(&mut headers, IpAddr::from([10, 0, 0, 1]), true, &host);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "https");
    }
}
