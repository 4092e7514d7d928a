//! Addresses a person writes: of a relay, and of an HTTP service to share.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// Why text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It does not parse.
    #[error("write it as HOST, HOST:PORT or a URL")]
    Malformed,
    /// A scheme that is none of ours.
    #[error("the scheme `{0}` is not one of https and http")]
    Scheme(String),
    /// A path, query or user name, which an origin does not have.
    #[error("it must be a host and a port alone, without path, query or user name")]
    Extra,
}

/// Why text does not name an HTTP service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// It does not parse.
    #[error("write it as PORT, HOST:PORT or http://HOST:PORT")]
    Malformed,
    /// A number that is no port.
    #[error("a port is a number from 1 to 65535")]
    Port,
    /// A host alone, which is more often a slip than a service at port 80.
    #[error("it names no port: write {0}:PORT, or http://{0} for port 80")]
    NoPort(String),
    /// A service that speaks TLS itself, or no HTTP at all.
    #[error("the scheme `{0}` cannot be shared: the service must speak plain http")]
    Scheme(String),
    /// A path, query or user name: the whole service is shared.
    #[error("it must be a host and a port alone, without path, query or user name")]
    Extra,
}

/// Where a relay is: an origin. `HOST` and `HOST:PORT` mean https, except on loopback, where a
/// relay rarely has a certificate.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RelayAddress {
    https: bool,
    host: Host,
    port: u16,
}

impl RelayAddress {
    /// Returns the origin as browsers write it: `https://host[:port]`, default ports left out.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// Returns the host and, unless it is the scheme's own, the port.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == (if self.https { 443 } else { 80 }) {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Tells whether the relay is spoken to over TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Tells whether the relay is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Returns the host without brackets, as the resolver and TLS want it.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Ipv6(address) => address.to_string(),
            host => host.to_string(),
        }
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for RelayAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let bare = !text.contains("://");
        let url = if bare { format!("https://{text}") } else { text.to_owned() };
        let url = Url::parse(&url).map_err(|_| AddressError::Malformed)?;
        let https = match url.scheme() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            other => return Err(AddressError::Scheme(other.to_owned())),
        };
        let plain = matches!(url.path(), "" | "/") && url.query().is_none();
        if !plain || url.fragment().is_some() || !url.username().is_empty() {
            return Err(AddressError::Extra);
        }
        let host = url.host().ok_or(AddressError::Malformed)?.to_owned();
        let https = https && !(bare && is_loopback(&host));
        // `Url` forgets a port that is its scheme's own, which loopback may have turned around.
        let written =
            text.rsplit_once(':').and_then(|(_, port)| port.trim_end_matches('/').parse().ok());
        let port = url.port().or(written.filter(|_| bare && !text.ends_with(']')));
        Ok(Self { https, host, port: port.unwrap_or(if https { 443 } else { 80 }) })
    }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}

impl fmt::Debug for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayAddress({})", self.origin())
    }
}

/// An HTTP service on this machine or near it: `PORT`, `HOST:PORT` or `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    host: Box<str>,
    port: u16,
}

impl HttpTarget {
    /// Returns host and port, as a connect wants them and as `Host` says them.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Returns the host without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HttpTarget {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let text = text.trim();
        // A URL would take a bare number for an address.
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let port =
                text.parse::<u16>().ok().filter(|port| *port > 0).ok_or(TargetError::Port)?;
            return Ok(Self { host: "127.0.0.1".into(), port });
        }
        let bare = !text.contains("://");
        let url = if bare { format!("http://{text}") } else { text.to_owned() };
        let url = Url::parse(&url).map_err(|error| match error {
            url::ParseError::InvalidPort => TargetError::Port,
            _ => TargetError::Malformed,
        })?;
        if url.scheme() != "http" {
            return Err(TargetError::Scheme(url.scheme().to_owned()));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || !url.username().is_empty() {
            return Err(TargetError::Extra);
        }
        let host = url.host().ok_or(TargetError::Malformed)?;
        // `Url` forgets a port that is its scheme's own.
        let written = text.trim_end_matches('/').rsplit_once(':').map(|(_, port)| port);
        if bare && written.is_none_or(|port| port.parse::<u16>().is_err()) {
            return Err(TargetError::NoPort(host.to_string()));
        }
        let port = url.port().unwrap_or(80);
        if port == 0 {
            return Err(TargetError::Port);
        }
        let host = match host {
            Host::Ipv6(address) => address.to_string(),
            host => host.to_string(),
        };
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_are_written_in_many_ways() {
        for (text, origin) in [
            ("relay.acme.dev", "https://relay.acme.dev"),
            ("relay.acme.dev:6276", "https://relay.acme.dev:6276"),
            ("https://relay.acme.dev/", "https://relay.acme.dev"),
            ("wss://relay.acme.dev:443", "https://relay.acme.dev"),
            ("http://relay.acme.dev:80", "http://relay.acme.dev"),
            ("localhost:8080", "http://localhost:8080"),
            ("127.0.0.1:443", "http://127.0.0.1:443"),
            ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
            ("[::1]:8080", "http://[::1]:8080"),
            ("[::1]", "http://[::1]"),
        ] {
            assert_eq!(text.parse::<RelayAddress>().unwrap().origin(), origin, "{text}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in ["", "ftp://x", "https://x/path", "https://u@x", "x:port", "https://x?y"] {
            assert!(text.parse::<RelayAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn services_are_a_port_or_a_plain_url() {
        for (text, authority) in [
            ("3000", "127.0.0.1:3000"),
            ("localhost:3000", "localhost:3000"),
            ("http://192.168.1.5:80", "192.168.1.5:80"),
            ("http://[::1]:9", "[::1]:9"),
            ("[::1]:80", "[::1]:80"),
            ("server.lan:80", "server.lan:80"),
            ("http://server.lan", "server.lan:80"),
        ] {
            assert_eq!(text.parse::<HttpTarget>().unwrap().authority(), authority, "{text}");
        }
    }

    #[test]
    fn what_is_no_service_is_refused_in_words_that_fit() {
        for (text, says) in [
            ("https://localhost:1", "`https` cannot be shared"),
            ("ftp://localhost", "`ftp` cannot be shared"),
            ("70000", "from 1 to 65535"),
            ("0", "from 1 to 65535"),
            ("localhost:70000", "from 1 to 65535"),
            ("localhost:0", "from 1 to 65535"),
            ("abc", "no port: write abc:PORT, or http://abc"),
            ("abc:", "no port: write abc:PORT"),
            ("[::1]", "no port: write [::1]:PORT"),
            ("", "write it as PORT"),
            ("http://localhost:1/path", "without path"),
        ] {
            let error = text.parse::<HttpTarget>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
