//! Reading what somebody was given to reach a share: a link with its secret, or a URL. Pure.

use std::fmt;
use std::str::FromStr;

use mcpm_shared::token::Token;
use url::{Host, Url};

use crate::config;
use crate::hint::Hint;
use crate::model::Vars;

/// Labels of hosts that say nothing of what is there.
const EMPTY_WORDS: &[&str] = &["www", "mcp", "api", "localhost"];
/// What a share is called whose link tells no name.
const NAMELESS: &str = "share";
/// Where the endpoint is on a host that was given without a path.
const ENDPOINT: &str = "/mcp";
/// Where mcpm 1 served HTTP+SSE.
const SSE: &str = "/sse";
/// Longest link; no browser takes longer ones.
const MAX_LINK: usize = 8192;

/// What a share is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    Nothing,
    /// The secret of its link.
    Link,
    /// A token.
    Token,
}

impl Credential {
    /// Says what it means to be refused with it.
    pub(super) const fn refused(self) -> &'static str {
        match self {
            Self::Nothing => "asks for a token",
            Self::Link => "does not take the secret of this link",
            Self::Token => "does not take this token",
        }
    }
}

/// Why text is no invitation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It is no URL that anything can be reached by. What it is, it may hold a secret.
    #[error("this is not the link or URL of a share")]
    Malformed,
    /// It names a user, or a password.
    #[error("the URL holds a user name or password")]
    UserInfo,
    /// It would be looked up here when it is used.
    #[error("the {0} holds what mcpm would take for a reference to a secret of yours")]
    Reference(&'static str),
    /// It is none that HTTP can carry.
    #[error("the {0} holds characters that no secret has")]
    NoSecret(&'static str),
    /// A link has its secret, and a token is given too.
    #[error("the link holds a secret, and a token is given as well")]
    Twice,
}

impl Hint for LinkError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Malformed => {
                "Write it as https://HOST/mcp, or paste the whole link between quotes".to_owned()
            }
            Self::UserInfo => {
                "Add the server by hand with `mcpm new NAME --url URL --headers …`".to_owned()
            }
            Self::Reference(_) => {
                "Do not trust it. If it is yours, add the server with `mcpm new NAME --url URL`"
                    .to_owned()
            }
            Self::NoSecret(_) => "Paste it again, whole and without anything around it".to_owned(),
            Self::Twice => "Leave one of them out".to_owned(),
        })
    }
}

/// What somebody was given to reach a share. `Debug` shows no secret.
#[derive(Clone)]
pub struct Invitation {
    /// URLs and headers, the most promising first.
    ways: Vec<(String, Vars)>,
    called: String,
    host: String,
    credential: Credential,
    in_clear: bool,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { called, host, credential, .. } = self;
        write!(f, "Invitation({called:?} at {host:?}, {credential:?})")
    }
}

impl FromStr for Invitation {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        if text.len() > MAX_LINK || text.contains(char::is_control) {
            return Err(LinkError::Malformed);
        }
        let mut url = Url::parse(text).map_err(|_| LinkError::Malformed)?;
        let host = url.host().map(|host| host.to_owned()).ok_or(LinkError::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(LinkError::Malformed);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(LinkError::UserInfo);
        }
        url.set_fragment(None);
        if url.as_str().contains("${") {
            return Err(LinkError::Reference("URL"));
        }
        let of = |key: &str| {
            url.query_pairs().find(|(name, _)| name == key).map(|(_, it)| it.into_owned())
        };
        let secret = of("s").filter(|secret| !secret.is_empty());
        if let Some(secret) = &secret {
            check_secret(secret, "secret of the link")?;
        }
        Ok(Self {
            ways: ways(&url, secret.as_deref()),
            called: called(&url, &host, of("profile")),
            host: url.host_str().unwrap_or_default().to_owned(),
            credential: if secret.is_some() { Credential::Link } else { Credential::Nothing },
            in_clear: url.scheme() == "http" && !is_loopback(&host),
        })
    }
}

impl Invitation {
    /// Adds a token that was given apart from the URL.
    ///
    /// # Errors
    /// When the link has a secret already, or the token cannot be one.
    pub fn with_token(mut self, token: &Token) -> Result<Self, LinkError> {
        if self.credential == Credential::Link {
            return Err(LinkError::Twice);
        }
        let token = token.expose();
        check_secret(token, "token")?;
        for (_, headers) in &mut self.ways {
            *headers = Vars::default().with("Authorization", format!("Bearer {token}"));
        }
        self.credential = Credential::Token;
        Ok(self)
    }

    /// Returns what the share is to be called, where nobody says otherwise.
    #[must_use]
    pub fn called(&self) -> &str {
        &self.called
    }

    /// Returns the host, for people.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns what is shown to the share.
    #[must_use]
    pub fn credential(&self) -> Credential {
        self.credential
    }

    /// Tells whether everybody on the way can read what is shown.
    #[must_use]
    pub fn is_in_clear(&self) -> bool {
        self.in_clear && self.credential != Credential::Nothing
    }

    /// Tells whether a server at this URL is the same share.
    #[must_use]
    pub fn is_at(&self, url: &str) -> bool {
        self.ways.iter().any(|(way, _)| without_secret(way) == without_secret(url))
    }

    /// Iterates over the ways to the share.
    pub(super) fn ways(&self) -> impl Iterator<Item = &(String, Vars)> {
        self.ways.iter()
    }
}

/// Returns the ways that a link may mean. The secret goes into a header wherever a share of ours
/// answers; as a part of the URL only where nothing else is understood.
fn ways(url: &Url, secret: Option<&str>) -> Vec<(String, Vars)> {
    let with_path = |path: &str| {
        let mut url = url.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}{path}"));
        url
    };
    let header = secret.map(|secret| Vars::default().with("X-MCPM-SECRET", secret));
    let by_header = |url: &Url| (without_secret(url.as_str()), header.clone().unwrap_or_default());
    let whole = |url: &Url| (url.as_str().to_owned(), Vars::default());
    let mut ways = Vec::new();
    if is_root(url) {
        ways.push(by_header(&with_path(ENDPOINT)));
        if secret.is_some() {
            ways.push(whole(&with_path(SSE)));
        }
    } else {
        ways.push(by_header(url));
    }
    if secret.is_some() || is_root(url) {
        ways.push(whole(url));
    }
    ways
}

/// Tells whether a URL names a share and no path at it: the host of the share, or `/s/NAME` of a
/// relay that serves shares by paths.
fn is_root(url: &Url) -> bool {
    let path = url.path().trim_end_matches('/');
    path.is_empty() || path.strip_prefix("/s/").is_some_and(|name| !name.contains('/'))
}

/// Returns a URL without the secret of a link, and otherwise as it is.
fn without_secret(url: &str) -> String {
    mcpm_shared::access::strip_link_secret(url).into_owned()
}

fn called(url: &Url, host: &Host, profile: Option<String>) -> String {
    let good = |name: &String| config::check_name("server", name).is_ok();
    let by_path = url.path().strip_prefix("/s/").and_then(|rest| rest.split('/').next());
    let by_host = match host {
        Host::Domain(domain) => domain.split('.').find(|label| !EMPTY_WORDS.contains(label)),
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    };
    profile
        .filter(good)
        .or_else(|| by_path.map(str::to_owned).filter(good))
        .or_else(|| by_host.map(str::to_owned).filter(good))
        .unwrap_or_else(|| NAMELESS.to_owned())
}

/// Refuses what HTTP cannot carry in a header, and what `servers.json` would not take as it is.
fn check_secret(secret: &str, what: &'static str) -> Result<(), LinkError> {
    if secret.contains("${") || secret.starts_with("file:") || secret.starts_with("keyring:") {
        return Err(LinkError::Reference(what));
    }
    let fine = !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic());
    if fine { Ok(()) } else { Err(LinkError::NoSecret(what)) }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

#[cfg(test)]
mod tests;
