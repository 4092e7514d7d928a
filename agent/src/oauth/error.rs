//! What can go wrong with a login.

use rmcp::transport::auth::AuthError;

use crate::fs::FsError;
use crate::hint::Hint;

/// Longest text of somebody else that is shown, in characters.
const MAX_SAID: usize = 300;

/// Any error of a layer below.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a login cannot be made, kept or renewed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OauthError {
    /// The file of a login cannot be read or written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// TLS does not work on this machine.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// There can be no login at the URL of the server.
    #[error("nobody can log in at the URL of server `{server}`: {reason}")]
    Url {
        /// The server's name.
        server: String,
        /// What is wrong with the URL.
        reason: String,
    },
    /// Something on the way was not reached.
    #[error("cannot reach {url}")]
    Unreachable {
        /// What was called, without its query.
        url: String,
        /// What the HTTP client said.
        source: BoxError,
    },
    /// The server names no authorization server.
    #[error("server `{0}` does not say where to log in")]
    NoLogin(String),
    /// What is published about the login cannot be used.
    #[error("what server `{server}` says about its login cannot be used: {said}")]
    Metadata {
        /// The server's name.
        server: String,
        /// What is wrong with it.
        said: String,
    },
    /// We could not make ourselves known.
    #[error("mcpm could not register itself for server `{server}`: {said}")]
    Registration {
        /// The server's name.
        server: String,
        /// What the authorization server said.
        said: String,
    },
    /// The URL that the browser was sent to does not belong to this login.
    #[error("the redirect is not an answer to this login: {0}")]
    Redirect(String),
    /// The person, or the authorization server, said no.
    #[error("the login was refused: {0}")]
    Denied(String),
    /// The code was not exchanged for a token.
    #[error("no token was given for the login: {0}")]
    Exchange(String),
    /// The browser cannot be waited for.
    #[error("cannot wait for the browser at {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no login to end.
    #[error("nobody is logged in to server `{0}`")]
    NotLoggedIn(String),
    /// The login could not be renewed this time.
    #[error("cannot renew the login to server `{server}`: {said}")]
    Renewal {
        /// The server's name.
        server: String,
        /// What went wrong.
        said: String,
    },
}

impl Hint for OauthError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Fs(error) => return error.hint(),
            Self::Url { server, .. } => format!("Correct the URL of `{server}` in servers.json"),
            Self::Unreachable { source, .. } => return unreachable_hint(source.as_ref()),
            Self::NoLogin(server) => format!(
                "If `{server}` wants a key, put it into its `headers` in servers.json"
            ),
            Self::Registration { .. } => {
                "Register an OAuth application with the provider by hand, and name it with --client-id"
                    .to_owned()
            }
            Self::Redirect(_) => "Use the URL that the browser showed last, in full".to_owned(),
            Self::Denied(_) | Self::Exchange(_) => "Start the login again".to_owned(),
            Self::Listen { .. } => {
                "Choose another port with --redirect-uri, or leave the option out".to_owned()
            }
            Self::NotLoggedIn(server) => format!("Log in with `mcpm login {server}`"),
            Self::Renewal { .. } => "Check your network, and try again".to_owned(),
            Self::Tls(_) | Self::Metadata { .. } => return None,
        })
    }
}

fn unreachable_hint(source: &(dyn std::error::Error + 'static)) -> Option<String> {
    let barred = std::iter::successors(Some(source), |error| error.source())
        .any(<dyn std::error::Error>::is::<super::web::Barred>);
    Some(if barred {
        "Allow it with --allow-private, if you know that this is where you log in".to_owned()
    } else {
        "Check the URL and your network".to_owned()
    })
}

/// Returns what an error of rmcp says, with its sources. Parts of it may be the words of a stranger.
pub(super) fn said(error: &AuthError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    tame(&text)
}

/// Makes a stranger's words fit for a terminal: on one line, and not many.
pub(super) fn tame(text: &str) -> String {
    let mut tame: String =
        text.chars().take(MAX_SAID).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_SAID).is_some() {
        tame.push('…');
    }
    tame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_strangers_are_tamed() {
        assert_eq!(tame("a\u{1b}[2J\nb"), "a [2J b");
        let long = tame(&"ü".repeat(1000));
        assert_eq!(long.chars().count(), MAX_SAID + 1);
        let error = AuthError::RegistrationFailed("<html>\n".repeat(1000));
        assert!(said(&error).starts_with("Registration failed: <html> <html>"));
    }
}
