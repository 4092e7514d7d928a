//! `--auth oidc`: tokens of the operator's identity provider, checked against its published keys.
//!
//! The keys come from the issuer's discovery document (`OpenID` Connect Discovery 1.0) and are kept:
//! an issuer that is away keeps nobody out who has a good token. A token signed by a key that is not
//! known makes the relay look once more, and not again for a while, whoever asks. Until the keys were
//! read once, nobody comes in.

mod claims;
mod keys;
#[cfg(test)]
mod tests;
#[cfg(feature = "oidc")]
mod web;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use bytes::Bytes;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

pub(super) use self::claims::{ClaimsError, Identity};
use self::keys::KeySet;
use crate::config::{Oidc, is_loopback_url};

/// The algorithms that are accepted: each key has one, whatever a token says of itself.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// How often the keys are read anew, so that one that was withdrawn is not believed for long.
const REFRESH: Duration = Duration::from_secs(3600);
/// Between attempts while the issuer does not answer.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long an unknown key is not looked for again.
const LOOK_PAUSE: Duration = Duration::from_secs(30);
/// How long reading the keys may take: below the time that an agent waits for its upgrade.
const PATIENCE: Duration = Duration::from_secs(8);

/// Anything that went wrong on the way to the issuer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Reads documents of an issuer.
#[async_trait]
pub trait Fetch: fmt::Debug + Send + Sync {
    /// Returns the body of a successful answer.
    ///
    /// # Errors
    /// On anything else.
    async fn get(&self, url: &str) -> Result<Bytes, BoxError>;
}

/// Why a token was not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OidcError {
    /// The keys of the issuer are not known: later they may be.
    #[error("the relay cannot read the keys of its identity provider")]
    NoKeys,
    /// The token is signed by a key that the relay may not look for yet.
    #[error("the token is signed by a key that the relay does not know yet")]
    Later(Duration),
    /// It is no token of the issuer's.
    #[error("the token was not issued by {issuer}: {why}")]
    Invalid {
        /// The issuer.
        issuer: String,
        /// What is wrong.
        why: &'static str,
    },
    /// It is, and does not do.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
}

/// One attempt to read the keys.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// When it ended.
    at: Instant,
    /// Whether they were read.
    read: bool,
}

/// By what the issuer's server is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trust {
    /// By what the system trusts.
    System,
    /// By a root, as its file was when it was read.
    Root { path: PathBuf, pem: Vec<u8> },
}

impl Trust {
    fn read(settings: &Oidc) -> Result<Self, BoxError> {
        let Some(path) = settings.ca.clone() else { return Ok(Self::System) };
        match std::fs::read(&path) {
            Ok(pem) => Ok(Self::Root { path, pem }),
            Err(error) => Err(format!("cannot read {}: {error}", path.display()).into()),
        }
    }
}

/// The way to the issuer's documents.
#[derive(Debug)]
struct Way {
    /// What it was made of.
    trust: Trust,
    fetch: Arc<dyn Fetch>,
}

impl Way {
    fn by(trust: Trust) -> Result<Self, BoxError> {
        let fetch = web(&trust)?;
        Ok(Self { trust, fetch })
    }
}

/// Changed settings, with what it takes to obey them.
#[derive(Debug)]
pub struct Prepared {
    settings: Arc<Oidc>,
    /// Absent where the way stays as it is.
    way: Option<Arc<Way>>,
}

/// The issuer whose tokens are believed.
#[derive(Debug)]
pub struct Issuer {
    settings: ArcSwap<Oidc>,
    /// Absent until it could be made.
    way: ArcSwapOption<Way>,
    keys: ArcSwapOption<KeySet>,
    /// Asks for the keys to be read at once: there is another way to them.
    again: Notify,
    /// When the keys were last read or tried to be; one at a time.
    looked: Mutex<Option<Look>>,
}

/// What of a discovery document is of use.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    /// Makes the issuer of these settings; its keys are not known yet. The way to them is made when
    /// they are to be read; where it cannot be, such as with a root that is none, that is said, and
    /// tried again the next time.
    #[must_use]
    pub fn new(settings: Arc<Oidc>) -> Self {
        Self::by(settings, None)
    }

    fn by(settings: Arc<Oidc>, way: Option<Way>) -> Self {
        Self {
            settings: ArcSwap::new(settings),
            way: ArcSwapOption::from_pointee(way),
            keys: ArcSwapOption::empty(),
            again: Notify::new(),
            looked: Mutex::default(),
        }
    }

    /// Makes what judging tokens by these settings takes; reads the file of the root again.
    ///
    /// # Errors
    /// When the root cannot be read or is none; nothing has changed.
    pub fn prepare(&self, settings: Arc<Oidc>) -> Result<Prepared, BoxError> {
        let trust = Trust::read(&settings)?;
        let is_same = self.way.load().as_ref().is_some_and(|way| way.trust == trust);
        let way = if is_same { None } else { Some(Arc::new(Way::by(trust)?)) };
        Ok(Prepared { settings, way })
    }

    /// Judges tokens by these settings from now on. The issuer is the same, and so its keys stay;
    /// they are read anew where the way to them is another.
    pub fn obey(&self, prepared: Prepared) {
        self.settings.store(prepared.settings);
        if let Some(way) = prepared.way {
            self.way.store(Some(way));
            self.again.notify_one();
        }
    }

    /// Tells whose token it is that the agent with the key `thumbprint` shows, and what it allows.
    ///
    /// # Errors
    /// When it does not do.
    pub async fn identify(
        &self,
        jwt: &str,
        thumbprint: &str,
        now: u64,
    ) -> Result<Identity, OidcError> {
        let header = jsonwebtoken::decode_header(jwt).map_err(|_| self.invalid("it is no JWT"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(self.invalid("its algorithm is none of RS256, ES256 and EdDSA"));
        }
        // What is critical must be understood (RFC 7515 §4.1.11), and nothing beyond it is.
        if header.crit.is_some() {
            return Err(self.invalid("it has critical extensions"));
        }
        let claims = match self.signed(jwt, &header) {
            Some(claims) => claims,
            None => {
                // A key with its name that does not fit is a forgery, not a rotation.
                if self.knows(&header) {
                    return Err(self.invalid("its signature does not hold"));
                }
                self.look_again().await?;
                let unknown = || self.invalid("no key of the issuer has signed it");
                self.signed(jwt, &header).ok_or_else(unknown)?
            }
        };
        Ok(claims::identity(&self.settings.load(), &claims, thumbprint, now)?)
    }

    fn invalid(&self, why: &'static str) -> OidcError {
        OidcError::Invalid { issuer: self.settings.load().issuer.clone(), why }
    }

    /// Tells whether the key that a token names is known.
    fn knows(&self, header: &Header) -> bool {
        let keys = self.keys.load();
        header.kid.is_some() && keys.as_ref().is_some_and(|keys| keys.fitting(header).count() > 0)
    }

    /// Returns the claims of a token that a known key has signed.
    fn signed(&self, jwt: &str, header: &Header) -> Option<Map<String, Value>> {
        let keys = self.keys.load();
        let mut rules = Validation::new(header.alg);
        // Checked afterwards, by the caller's clock and with more to say.
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        keys.as_ref()?.fitting(header).find_map(|key| {
            let decoded = jsonwebtoken::decode::<Map<String, Value>>(jwt, &key.key, &rules);
            decoded.ok().map(|token| token.claims)
        })
    }

    /// Reads the keys once more, unless that was done a moment ago: whoever makes up names of keys
    /// must not make the relay hammer the issuer.
    async fn look_again(&self) -> Result<(), OidcError> {
        let asked = Instant::now();
        let mut looked = self.looked.lock().await;
        if let Some(Look { at, read }) = *looked {
            // While this one waited, another has looked.
            if at > asked && read {
                return Ok(());
            }
            let pause = LOOK_PAUSE.saturating_sub(at.elapsed());
            if !pause.is_zero() {
                return Err(match self.keys.load().is_some() {
                    true => OidcError::Later(pause),
                    false => OidcError::NoKeys,
                });
            }
        }
        let read = self.read().await;
        *looked = Some(Look { at: Instant::now(), read: read.is_ok() });
        match read {
            Ok(()) => Ok(()),
            Err(error) => {
                let issuer = &self.settings.load().issuer;
                tracing::warn!(error, issuer, "keys of the issuer not read");
                Err(OidcError::NoKeys)
            }
        }
    }

    /// Reads the keys from time to time, until dropped.
    pub async fn follow(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let read = {
                let mut looked = self.looked.lock().await;
                let read = self.read().await;
                *looked = Some(Look { at: Instant::now(), read: read.is_ok() });
                read
            };
            let wait = match read {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    REFRESH
                }
                Err(error) => {
                    let issuer = &self.settings.load().issuer;
                    if pause == FIRST_PAUSE {
                        tracing::error!(error, issuer, "keys of the issuer not read");
                    }
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.again.notified() => pause = FIRST_PAUSE,
            }
        }
    }

    /// Reads the keys; those that are known stay where this fails.
    async fn read(&self) -> Result<(), String> {
        let keys = match tokio::time::timeout(PATIENCE, self.fetch_keys()).await {
            Ok(keys) => keys.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("no answer within {} seconds", PATIENCE.as_secs())),
        };
        tracing::debug!(keys = keys.len(), "keys of the issuer read");
        self.keys.store(Some(Arc::new(keys)));
        Ok(())
    }

    /// Returns the way to the issuer's documents. Where there is none yet it is made, as what it takes
    /// may be there by now.
    async fn way(&self, settings: &Arc<Oidc>) -> Result<Arc<Way>, BoxError> {
        if let Some(way) = self.way.load_full() {
            return Ok(way);
        }
        let settings = Arc::clone(settings);
        // It reads files.
        let make = move || Trust::read(&settings).and_then(Way::by);
        let made = Arc::new(tokio::task::spawn_blocking(make).await??);
        let none: Option<Arc<Way>> = None;
        let before = self.way.compare_and_swap(&none, Some(Arc::clone(&made)));
        // A reload may have been faster.
        Ok(before.as_ref().map_or(made, Arc::clone))
    }

    async fn fetch_keys(&self) -> Result<KeySet, BoxError> {
        let settings = self.settings.load_full();
        let way = self.way(&settings).await?;
        let fetch = &way.fetch;
        let issuer = &settings.issuer;
        let base = issuer.trim_end_matches('/');
        let document = fetch.get(&format!("{base}/.well-known/openid-configuration")).await?;
        let found: Discovery = serde_json::from_slice(&document)
            .map_err(|error| format!("its discovery document cannot be read: {error}"))?;
        // Another one's document would have us believe another one's keys (Discovery §4.3).
        if found.issuer != *issuer {
            return Err(format!("its discovery document is that of {}", found.issuer).into());
        }
        let local = settings.is_local() && is_loopback_url(&found.jwks_uri);
        if !found.jwks_uri.starts_with("https://") && !local {
            return Err(format!("its keys are at {}, which is not https", found.jwks_uri).into());
        }
        let keys = fetch.get(&found.jwks_uri).await?;
        Ok(KeySet::parse(&keys)?)
    }
}

/// Returns what reads documents of an issuer.
#[cfg(feature = "oidc")]
fn web(trust: &Trust) -> Result<Arc<dyn Fetch>, BoxError> {
    Ok(Arc::new(web::Web::new(trust)?))
}

/// Returns what reads documents of an issuer.
#[cfg(not(feature = "oidc"))]
fn web(_: &Trust) -> Result<Arc<dyn Fetch>, BoxError> {
    Err("this relay was built without the feature `oidc`".into())
}
