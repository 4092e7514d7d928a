//! What a trusted proxy says of a visitor, in `X-Forwarded-For` and `X-Forwarded-Proto`. Pure.

use std::net::IpAddr;

use http::HeaderMap;

use crate::config::Nets;

/// Returns who asked, given that `peer` is trusted: the address nearest to us that is not a
/// trusted proxy's. What stands left of it could be written by anybody.
pub(super) fn visitor(headers: &HeaderMap, peer: IpAddr, trusted: &Nets) -> IpAddr {
    let mut nearest = peer;
    let values = headers.get_all("x-forwarded-for").iter().rev();
    for value in values {
        // An unreadable list ends what can be believed.
        let Ok(value) = value.to_str() else { return nearest };
        for text in value.rsplit(',') {
            let Some(address) = address(text.trim()) else { return nearest };
            nearest = address;
            if !trusted.contains(address) {
                return nearest;
            }
        }
    }
    nearest
}

/// Returns whether the visitor came by TLS, if the proxy says.
pub(super) fn https(headers: &HeaderMap) -> Option<bool> {
    let last = headers.get_all("x-forwarded-proto").iter().next_back()?;
    let scheme = last.to_str().ok()?.rsplit(',').next()?.trim();
    Some(scheme.eq_ignore_ascii_case("https"))
}

/// Reads an address; some proxies add the port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let bare = bare.map_or(text, |(address, _port)| address);
    let parsed = bare.parse().ok().or_else(|| {
        let with_port: std::net::SocketAddr = text.parse().ok()?;
        Some(with_port.ip())
    });
    parsed.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn seen(values: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        let trusted = "10.0.0.0/8".parse().unwrap();
        visitor(&headers, "10.0.0.1".parse().unwrap(), &trusted).to_string()
    }

    #[test]
    fn the_nearest_address_that_is_no_trusted_proxy_is_the_visitor() {
        assert_eq!(seen(&["192.0.2.1"]), "192.0.2.1");
        assert_eq!(seen(&["192.0.2.1, 10.0.0.2"]), "192.0.2.1");
        assert_eq!(seen(&["192.0.2.1", "10.0.0.3,10.0.0.2"]), "192.0.2.1");
        assert_eq!(seen(&["192.0.2.1:4660"]), "192.0.2.1");
        assert_eq!(seen(&["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(seen(&["::ffff:192.0.2.1"]), "192.0.2.1");
    }

    #[test]
    fn what_a_visitor_wrote_itself_is_not_believed() {
        assert_eq!(seen(&["127.0.0.1, 192.0.2.1"]), "192.0.2.1");
        assert_eq!(seen(&["127.0.0.1", "192.0.2.1"]), "192.0.2.1");
        assert_eq!(seen(&["192.0.2.1, nonsense"]), "10.0.0.1");
        assert_eq!(seen(&["192.0.2.1, nonsense, 10.0.0.7"]), "10.0.0.7");
        assert_eq!(seen(&[]), "10.0.0.1");
    }

    #[test]
    fn the_last_word_on_the_scheme_counts() {
        let https = |value: &'static str| {
            let headers = [("x-forwarded-proto", value)];
            let pair = |(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            https(&headers.map(pair).into_iter().collect())
        };
        assert_eq!(https("https"), Some(true));
        assert_eq!(https("https, http"), Some(false));
        assert_eq!(super::https(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in "[ -~]{0,80}") {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", HeaderValue::from_str(&text).unwrap());
            let _visitor = visitor(&headers, IpAddr::from([127, 0, 0, 1]), &Nets::default());
        }
    }
}
