//! The single values that settings are made of, each checked when it is read.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Text that is not a value of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

pub(super) fn invalid(message: impl Into<String>) -> ValueError {
    ValueError(message.into())
}

/// What agents must show, as written in settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "bin", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum AuthKind {
    /// Nothing beyond their key: a public relay
    Open,
    /// A secret shared by a team
    Secret,
    /// A token issued by this relay
    Token,
    /// A token of your identity provider, which speaks OIDC
    Oidc,
}

/// Whom to write to about abuse: a mail address, or a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Contact(String);

impl Contact {
    /// Returns it as a URI, as `security.txt` wants it (RFC 9116 §2.5.3).
    #[must_use]
    pub fn uri(&self) -> String {
        match self.0.starts_with("https://") {
            true => self.0.clone(),
            false => format!("mailto:{}", self.0),
        }
    }

    /// Returns it as people write it.
    #[must_use]
    pub fn in_words(&self) -> &str {
        &self.0
    }
}

impl FromStr for Contact {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        let bare = text.strip_prefix("mailto:").unwrap_or(text);
        // It stands in pages and headers as it is.
        let safe = |byte: u8| byte.is_ascii_graphic() && !b"<>\"'&\\`".contains(&byte);
        let mail = bare.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty() && host.contains('.') && !host.contains(['@', '/', ':'])
        });
        let page = bare.len() > "https://".len() && bare.starts_with("https://");
        if bare.len() > 254 || !bare.bytes().all(safe) || !(mail || page) {
            let hint = "give a mail address, or the https:// URL of a page";
            return Err(invalid(format!("`{text}` is no contact: {hint}")));
        }
        Ok(Self(bare.to_owned()))
    }
}

impl TryFrom<String> for Contact {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<Contact> for String {
    fn from(contact: Contact) -> Self {
        contact.0
    }
}

/// How the public listener speaks TLS, as written in settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "bin", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum TlsKind {
    /// Plain HTTP, for loopback or behind a proxy that ends TLS
    None,
    /// A certificate made by the relay and kept in its data directory
    SelfSigned,
    /// The PEM files of --tls-cert and --tls-key
    Files,
    /// A certificate from an authority such as Let's Encrypt, ordered and renewed by the relay
    Acme,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "bin", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// The apex host of a relay: a DNS name of at most 189 bytes, or an address.
///
/// The bound leaves room for a share's label of 63 bytes and its dot (RFC 1035 §2.3.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

impl Domain {
    /// Returns `localhost`.
    pub fn localhost() -> Self {
        Self("localhost".to_owned())
    }

    /// Returns the domain as text, addresses without brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the address, when the domain is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }

    /// Returns the host as it stands in a URL: IPv6 addresses in brackets.
    pub fn host(&self) -> String {
        match self.address() {
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.0.clone(),
        }
    }

    /// Tells whether the domain is `localhost` or an address, under which names may not resolve.
    pub fn is_local(&self) -> bool {
        self.0 == "localhost" || self.address().is_some()
    }
}

impl FromStr for Domain {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self(address.to_string()));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        // All digits in the last label would be read as an address by URL parsers.
        let numeric = text
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if text.len() > 189 || numeric || !text.split('.').all(label) {
            return Err(invalid(format!(
                "`{text}` is not a host name: give one without scheme, port and path"
            )));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Domain {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

/// An address to listen on, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// Do not listen.
    Off,
    /// Listen here; port 0 takes a free one.
    At(SocketAddr),
}

impl Listen {
    /// Returns the address, unless switched off.
    pub fn addr(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(addr) => Some(addr),
        }
    }
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "none" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| {
            invalid(format!(
                "`{text}` is neither an address with a port, such as 127.0.0.1:6277, nor `none`"
            ))
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("none"),
            Self::At(addr) => addr.fmt(f),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

/// Scheme and port of the URLs that the relay hands out.
///
/// The host part of a written URL is checked against the domain when settings are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    /// `https` rather than `http`.
    pub https: bool,
    /// Port, also where it is the scheme's default.
    pub port: u16,
}

impl PublicUrl {
    /// Returns the origin of a host, without the port where it is the scheme's default.
    pub fn origin(self, host: &str) -> String {
        match (self.https, self.port) {
            (true, 443) => format!("https://{host}"),
            (false, 80) => format!("http://{host}"),
            (true, port) => format!("https://{host}:{port}"),
            (false, port) => format!("http://{host}:{port}"),
        }
    }

    /// Splits a written URL into scheme, port and host.
    ///
    /// # Errors
    /// Fails unless the text is `http(s)://HOST[:PORT]` with nothing behind.
    pub fn parse_with_host(text: &str) -> Result<(Self, String), ValueError> {
        let wrong = || invalid(format!("`{text}` is not a URL such as https://share.example.com"));
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok((Self { https, port }, authority.host().to_ascii_lowercase()))
    }
}

impl FromStr for PublicUrl {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::parse_with_host(text).map(|(url, _host)| url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_lower_case_and_lose_their_root_dot() {
        let domain: Domain = "Share.Example.COM.".parse().unwrap();
        assert_eq!(domain.as_str(), "share.example.com");
        assert!(!domain.is_local());
    }

    #[test]
    fn what_is_not_a_host_name_is_refused() {
        let long = "a".repeat(64);
        for text in [
            "",
            "https://x.com",
            "x.com:443",
            "x.com/mcp",
            "-a.com",
            "a..b",
            "1.2.3",
            long.as_str(),
        ] {
            assert!(text.parse::<Domain>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_and_localhost_are_local() {
        for text in ["localhost", "127.0.0.1", "192.0.2.7", "::1", "[::1]"] {
            assert!(text.parse::<Domain>().unwrap().is_local(), "{text}");
        }
    }

    #[test]
    fn listeners_can_be_switched_off() {
        assert_eq!("none".parse(), Ok(Listen::Off));
        assert_eq!("127.0.0.1:0".parse::<Listen>().unwrap().to_string(), "127.0.0.1:0");
        assert!("6277".parse::<Listen>().is_err());
    }

    #[test]
    fn public_urls_have_neither_path_nor_user() {
        assert_eq!("https://share.example.com".parse(), Ok(PublicUrl { https: true, port: 443 }));
        assert_eq!("http://a.b:8080".parse(), Ok(PublicUrl { https: false, port: 8080 }));
        for text in
            ["share.example.com", "https://a.b/x", "https://u@a.b", "ftp://a.b", "https://a.b?x"]
        {
            assert!(text.parse::<PublicUrl>().is_err(), "{text}");
        }
    }
}
