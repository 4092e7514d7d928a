//! What happens to headers on their way through the relay. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Header by which the relay names its own failures. An upstream cannot set it.
pub const RELAY_ERROR: HeaderName = HeaderName::from_static("mcpm-relay-error");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The headers of one hop, beside `Connection` and what it names.
const HOP_BY_HOP: [HeaderName; 8] = [
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

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
    // One look at the names that are there costs less than a search for each that may be.
    if headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
    }
}

/// Removes what only the relay may say: `Mcpm-*`, `Forwarded`, `X-Forwarded-*` and `X-Real-IP`.
pub fn remove_relay_claims(headers: &mut HeaderMap) {
    if headers.keys().any(is_relay_claim) {
        let names: Vec<HeaderName> =
            headers.keys().filter(|name| is_relay_claim(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Tells whether only the relay may say this. An underscore counts as a hyphen: servers that hand
/// headers on as variables, as CGI does, know no difference.
fn is_relay_claim(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let begins = |with: &[u8]| {
        name.len() >= with.len()
            && name.iter().zip(with).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
    };
    match name {
        [b'x', ..] => begins(b"x-forwarded-") || (name.len() == 9 && begins(b"x-real-ip")),
        [b'm', ..] => begins(b"mcpm-"),
        [b'f', ..] => name == b"forwarded",
        _ => false,
    }
}

/// Who asked, by which scheme and under which host: what an upstream is told of a visitor.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// The visitor's address.
    pub visitor: IpAddr,
    /// Whether the visitor came by TLS.
    pub https: bool,
    /// The host that was asked for.
    pub host: HeaderValue,
    /// What was taken off the front of the path, if anything.
    pub prefix: Option<String>,
}

impl Forwarded {
    /// Writes it as header fields of a request's head.
    pub fn write(&self, head: &mut BytesMut) {
        let scheme = if self.https { "https" } else { "http" };
        let visitor = format_args!("x-forwarded-for: {}\r\n", self.visitor);
        let scheme = format_args!("x-forwarded-proto: {scheme}\r\nx-forwarded-host: ");
        // A buffer that grows never fails to be written to.
        let _written = head.write_fmt(visitor).and_then(|()| head.write_fmt(scheme));
        head.extend_from_slice(self.host.as_bytes());
        head.extend_from_slice(b"\r\n");
        if let Some(prefix) = &self.prefix {
            for part in ["x-forwarded-prefix: ", prefix, "\r\n"] {
                head.extend_from_slice(part.as_bytes());
            }
        }
    }
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
            ("x-real-ip", "1.2.3.4"),
            ("x_forwarded-for", "1.2.3.4"),
            ("x_real_ip", "1.2.3.4"),
            ("mcpm_relay_error", "x"),
            ("mcp-method", "tools/call"),
        ]);
        remove_relay_claims(&mut headers);
        assert_eq!(headers, map(&[("mcp-method", "tools/call")]));
    }

    #[test]
    fn an_upstream_is_told_of_the_visitor() {
        let host = HeaderValue::from_static("a.relay.example");
        let mut head = BytesMut::new();
        let prefix = Some("/s/calc".to_owned());
        Forwarded { visitor: [10, 0, 0, 1].into(), https: true, host, prefix }.write(&mut head);
        let fields = "x-forwarded-for: 10.0.0.1\r\nx-forwarded-proto: https\r\n\
                      x-forwarded-host: a.relay.example\r\nx-forwarded-prefix: /s/calc\r\n";
        assert_eq!(head, fields);
    }
}
