//! What one node tells another of a request that it passes on.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use mcpm_shared::name::Name;
use serde::{Deserialize, Serialize};

/// The field that carries it. The edge takes it out of whatever visitors send.
pub const HOP: HeaderName = HeaderName::from_static("mcpm-hop");

/// What one node tells another of a request that it passes on. It is believed, because the
/// connection was proved to be a node's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopHead {
    /// The share that is asked for.
    pub name: Name,
    /// The generation that the other node is thought to serve, or soon will.
    pub generation: u64,
    /// The visitor's address.
    pub visitor: IpAddr,
    /// Whether the visitor came over TLS.
    pub https: bool,
    /// Whether the visitor asked by a path of the apex host.
    pub by_path: bool,
    /// Whose the custom domain is that was asked for, where one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl HopHead {
    /// Puts it among the headers of a request.
    pub fn write(&self, headers: &mut HeaderMap) {
        // JSON escapes what a header must not hold.
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert(HOP, value);
        }
    }

    /// Takes it out of the headers of a request; `None` when there is none that can be read.
    #[must_use]
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        let value = headers.remove(HOP)?;
        serde_json::from_slice(value.as_bytes()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_whatever_an_owner_is_called() {
        for owner in [None, Some("key:abc"), Some("Zoë\n\"x\""), Some("\u{7f}")] {
            let head = HopHead {
                name: "calc".parse().unwrap(),
                generation: u64::MAX,
                visitor: "2001:db8::1".parse().unwrap(),
                https: true,
                by_path: false,
                owner: owner.map(str::to_owned),
            };
            let mut headers = HeaderMap::new();
            head.write(&mut headers);
            if owner == Some("\u{7f}") {
                // The one character that JSON lets through and HTTP does not: refused, not bent.
                assert!(headers.is_empty());
                continue;
            }
            assert_eq!(HopHead::take(&mut headers), Some(head));
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn what_is_no_head_of_a_hop_is_none() {
        for text in ["", "calc", "{}", r#"{"name":"-","generation":1}"#] {
            let mut headers = HeaderMap::new();
            headers.insert(HOP, HeaderValue::from_str(text).unwrap());
            assert_eq!(HopHead::take(&mut headers), None, "{text}");
        }
    }
}
