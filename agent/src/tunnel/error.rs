//! What goes wrong between an agent and its relay.

use std::sync::Arc;

use mcpm_shared::proto::{Refusal, code};
use mcpm_shared::token::Digest;

use crate::hint::Hint;

/// Why the relay could not be reached or did not take the share. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The relay's host cannot be resolved or connected to.
    #[error("cannot connect to the relay {relay}")]
    Connect {
        /// The relay's origin.
        relay: String,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// The relay did not answer in time.
    #[error("the relay {relay} did not answer in time")]
    Timeout {
        /// The relay's origin.
        relay: String,
    },
    /// The proxy on the way did not let us through.
    #[error("the proxy {proxy} refused the connection: {message}")]
    Proxy {
        /// The proxy, without its credentials.
        proxy: String,
        /// What it said.
        message: String,
    },
    /// TLS failed, most often because the certificate is not trusted.
    #[error("no secure connection to the relay {relay}")]
    Tls {
        /// The relay's origin.
        relay: String,
        /// Why.
        source: Arc<std::io::Error>,
        /// Whether trying again is pointless.
        untrusted: bool,
    },
    /// The relay showed another certificate than the pinned one.
    #[error("the relay {relay} shows another certificate than the one you pinned: {shown}")]
    Pin {
        /// The relay's origin.
        relay: String,
        /// SHA-256 of the certificate that it showed.
        shown: Digest,
    },
    /// The proxy that the environment names cannot be used.
    #[error("the proxy in HTTPS_PROXY or ALL_PROXY cannot be used: {0}")]
    ProxySetting(&'static str),
    /// The command that prints the token for the relay failed.
    #[error("the command for the token failed: {0}")]
    TokenCommand(String),
    /// A setting of TLS cannot be used.
    #[error("{0}")]
    TlsSetting(String),
    /// The relay said no.
    #[error("the relay {relay} refused: {refusal}")]
    Refused {
        /// The relay's origin.
        relay: String,
        /// What it said.
        refusal: Box<Refusal>,
    },
    /// Something answered that is not a relay.
    #[error("{relay} is not an mcpm relay: it answered with HTTP {status}")]
    NotARelay {
        /// The address.
        relay: String,
        /// The status it answered with.
        status: u16,
    },
    /// The connection broke.
    #[error("the connection to the relay broke: {0}")]
    Lost(String),
}

impl TunnelError {
    /// Tells whether trying again without a change is pointless. A share that `was_up` outlasts what
    /// the network on the way may cause, such as the certificate of a captive portal.
    #[must_use]
    pub fn is_terminal(&self, was_up: bool) -> bool {
        match self {
            Self::Refused { refusal, .. } => {
                refusal.is_terminal()
                    || matches!(
                        refusal.code.as_ref(),
                        code::SUPERSEDED | code::REVOKED | code::EXPIRED
                    )
            }
            Self::TlsSetting(_) | Self::ProxySetting(_) => true,
            Self::Tls { untrusted, .. } => *untrusted && !was_up,
            Self::Pin { .. } | Self::TokenCommand(_) => !was_up,
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Proxy { .. }
            | Self::NotARelay { .. }
            | Self::Lost(_) => false,
        }
    }

    /// Returns how long the relay asked us to stay away.
    #[must_use]
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Refused { refusal, .. } => {
                refusal.retry_after_secs.map(std::time::Duration::from_secs)
            }
            _ => None,
        }
    }

    /// Returns a stable code for machines.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Connect { .. } => "relay_unreachable",
            Self::Timeout { .. } => "relay_timeout",
            Self::Proxy { .. } => "proxy_refused",
            Self::Tls { .. } => "relay_tls",
            Self::Pin { .. } => "relay_pin",
            Self::ProxySetting(_) => "proxy_setting",
            Self::TlsSetting(_) => "tls_setting",
            Self::TokenCommand(_) => "token_command",
            Self::Refused { refusal, .. } => &refusal.code,
            Self::NotARelay { .. } => "not_a_relay",
            Self::Lost(_) => "connection_lost",
        }
    }
}

impl Hint for TunnelError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { relay, .. } | Self::Timeout { relay } => Some(format!(
                "Check the address with `curl {relay}/healthz`, and that the relay is running"
            )),
            Self::Proxy { .. } => Some("Check HTTPS_PROXY and NO_PROXY".to_owned()),
            Self::Tls { relay, untrusted: true, .. } => Some(format!(
                "If the relay has a certificate of its own, trust its authority with `mcpm relay \
                 login {relay} --ca FILE`, or that certificate until its renewal with \
                 `--fingerprint SHA256`"
            )),
            Self::Tls { relay, .. } => Some(format!(
                "If the relay serves plain HTTP, write {}",
                relay.replace("https:", "http:")
            )),
            Self::Pin { relay, .. } => Some(format!(
                "Ask the relay's operator whether they changed the certificate, and only then pin it \
                 with `mcpm relay login {relay} --pin`"
            )),
            Self::ProxySetting(_) => Some("Write it as http://HOST:PORT, or unset it".to_owned()),
            // A relay has several addresses and cannot know which one it is known by here.
            Self::Refused { relay, refusal } => match &refusal.hint {
                Some(hint) => {
                    Some(hint.replace("relay login ADDRESS", &format!("relay login {relay}")))
                }
                None => hint_for(refusal, relay),
            },
            Self::NotARelay { .. } => {
                Some("Check --address: it must be the relay's own domain".to_owned())
            }
            Self::TokenCommand(_) => Some(
                "Run it by hand, or keep another with `mcpm relay login ADDRESS --token-command`"
                    .to_owned(),
            ),
            Self::TlsSetting(_) | Self::Lost(_) => None,
        }
    }
}

/// Says what may be done about a refusal that a relay sent without a hint.
fn hint_for(refusal: &Refusal, relay: &str) -> Option<String> {
    match refusal.code.as_ref() {
        code::RATE_LIMITED | code::UNAVAILABLE => {
            let wait =
                refusal.retry_after_secs.map_or_else(String::new, |secs| format!(" {secs} s"));
            Some(format!(
                "The relay asks to wait{wait}; what is shared for the first time tries for longer \
                 with `--timeout SECONDS`, or more often with `--retry N`"
            ))
        }
        code::EXPIRED => Some(format!(
            "Start it again to take the name back, after `mcpm relay login {relay}` if it was your \
             token for the relay that expired"
        )),
        code::REVOKED => Some(format!(
            "Ask the relay's operator for another token, and keep it with `mcpm relay login {relay}`"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &'static str) -> TunnelError {
        let refusal = Box::new(Refusal::new(code, "no"));
        TunnelError::Refused { relay: "https://r".to_owned(), refusal }
    }

    #[test]
    fn a_foreign_certificate_ends_only_a_share_that_was_never_up() {
        let relay = || "https://r".to_owned();
        let source = Arc::new(std::io::Error::other("unknown issuer"));
        let untrusted = TunnelError::Tls { relay: relay(), source, untrusted: true };
        let other = TunnelError::Pin { relay: relay(), shown: Digest::of(b"x") };
        for error in [untrusted, other] {
            assert!(error.is_terminal(false), "{error}");
            assert!(!error.is_terminal(true), "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
        assert!(refused(code::NAME_TAKEN).is_terminal(true));
    }

    #[test]
    fn the_hint_of_a_relay_names_the_address_that_it_is_known_by() {
        let refusal =
            Refusal::new(code::BAD_CREDENTIAL, "no token").hint("Run `mcpm relay login ADDRESS`");
        let error =
            TunnelError::Refused { relay: "https://r".to_owned(), refusal: Box::new(refusal) };
        assert_eq!(error.hint().unwrap(), "Run `mcpm relay login https://r`");
    }

    #[test]
    fn whoever_is_asked_to_wait_hears_of_both_ways_to_be_patient() {
        let hint = refused(code::RATE_LIMITED).hint().unwrap();
        assert!(hint.contains("`--timeout SECONDS`") && hint.contains("`--retry N`"), "{hint}");
    }

    #[test]
    fn what_the_relay_ends_has_a_hint() {
        for code in [code::EXPIRED, code::REVOKED] {
            assert!(refused(code).hint().is_some(), "{code}");
        }
    }
}
