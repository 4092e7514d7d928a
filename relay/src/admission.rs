//! May this agent have a session? Its assertion, its proof by the relay's mode, and revocation.
//!
//! Every refusal is a status and a [`Refusal`] that the edge sends as they are. Rates of
//! handshakes are not counted here: they are refused before an assertion is looked at.

mod demand;
pub mod oidc;
mod replay;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::StatusCode;
use mcpm_shared::assertion::{self, AssertionError, LEEWAY_SECS, Verified};
use mcpm_shared::proto::{Refusal, code};
use mcpm_shared::token::Token;
use tokio::sync::watch;

pub use self::demand::Demand;
use self::oidc::{Issuer, OidcError};
use self::replay::{ReplayCache, Seen};
use crate::config::AuthMode;
use crate::grants::{Grant, GrantRequest, NamePatterns, RequestError};
use crate::keys::RelayKey;
use crate::store::{AuditEvent, Store, StoreError, TokenRecord};

/// How often revocations by other processes are looked for: a session ends within a second.
const REVOCATION_INTERVAL: Duration = Duration::from_millis(500);
/// How long before the end of its token an agent is asked to come back with another.
const RENEW_SECS: u64 = 60;
/// How many tokens are remembered for when the store does not answer: a node's agents, several
/// times over.
const MAX_KNOWN: usize = 64 * 1024;

/// Who owns names: `sub:<subject>` with a token, else `key:<thumbprint>`.
///
/// The prefix keeps a token's subject from passing for somebody's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner(String);

impl Owner {
    /// Returns the owner that an agent's key stands for.
    pub fn of_key(thumbprint: &str) -> Self {
        Self(format!("key:{thumbprint}"))
    }

    /// Returns the owner that a token's subject stands for.
    pub fn of_subject(subject: &str) -> Self {
        Self(format!("sub:{subject}"))
    }

    /// Returns the owner as it stands in the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An agent that may have a session, and what it may do.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Who owns the names it claims.
    pub owner: Owner,
    /// Thumbprint of its key.
    pub subject: String,
    /// The names it may claim.
    pub names: NamePatterns,
    /// How many live shares it may have; absent for the relay's default.
    pub max_shares: Option<u32>,
    /// Id of its token, where it has one.
    pub token_jti: Option<String>,
    /// When its session must end, in Unix seconds.
    pub expires_at: Option<u64>,
}

/// An agent that was turned away: the answer to its upgrade request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{refusal}")]
pub struct Refused {
    /// Status of the answer.
    pub status: StatusCode,
    /// Body of the answer.
    pub refusal: Box<Refusal>,
    /// Who was turned away, where that was proved.
    pub owner: Option<Owner>,
}

impl Refused {
    /// Makes the answer that `status` and `refusal` are.
    pub fn new(status: StatusCode, refusal: Refusal) -> Self {
        Self { status, refusal: Box::new(refusal), owner: None }
    }

    /// Says who was turned away, unless more is known.
    #[must_use]
    pub fn of(self, owner: &Owner) -> Self {
        Self { owner: self.owner.or_else(|| Some(owner.clone())), ..self }
    }

    fn credential(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Refusal::new(code::BAD_CREDENTIAL, message))
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { refusal: Box::new(self.refusal.hint(hint)), ..self }
    }

    fn unavailable(message: &str) -> Self {
        let refusal = Refusal::new(code::UNAVAILABLE, message).retry_after(5);
        Self::new(StatusCode::SERVICE_UNAVAILABLE, refusal)
    }
}

impl From<AssertionError> for Refused {
    fn from(error: AssertionError) -> Self {
        let message = error.to_string();
        match error {
            AssertionError::ClockSkew { .. } => Self::new(
                StatusCode::UNAUTHORIZED,
                Refusal::new(code::CLOCK_SKEW, message).hint("Set this machine's clock"),
            ),
            AssertionError::Audience(_) => Self::credential(message).hint(
                "Use the relay's public address, or ask its operator to set --domain or \
                 --public-url to the one in use",
            ),
            _ => Self::credential(message),
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        // That the store is away is said once, by those who guard it.
        if !error.is_unreachable() {
            tracing::error!(error = &error as &dyn std::error::Error, "store failed");
        }
        Self::unavailable("the relay's database does not answer")
    }
}

/// What the store says of a token.
enum Standing {
    Good,
    Revoked,
    Unknown,
}

/// The tokens that were revoked before their end, by id.
pub type Revoked = Arc<HashSet<String>>;

/// Decides over agents. Shared by all handshakes of a relay.
#[derive(Debug)]
pub struct Admission {
    auth: ArcSwap<AuthMode>,
    key: RelayKey,
    store: Arc<dyn Store>,
    seen: Mutex<ReplayCache>,
    /// Tokens that the store knew when it was asked, and when they end: for the time that it does
    /// not answer.
    known: Mutex<HashMap<String, u64>>,
    revoked: watch::Sender<Revoked>,
    /// Whose tokens are believed, with `--auth oidc`.
    issuer: Option<Issuer>,
}

impl Admission {
    /// Makes the gate of a relay.
    pub fn new(auth: AuthMode, key: RelayKey, store: Arc<dyn Store>) -> Self {
        let revoked = watch::Sender::new(Revoked::default());
        let issuer = match &auth {
            AuthMode::Oidc(settings) => Some(Issuer::new(Arc::clone(settings))),
            _ => None,
        };
        let auth = ArcSwap::from_pointee(auth);
        Self { auth, key, store, seen: Mutex::default(), known: Mutex::default(), revoked, issuer }
    }

    /// Decides over the assertion that came with an upgrade request.
    ///
    /// # Errors
    /// Fails with the answer to send in place of the upgrade.
    pub async fn authenticate(
        &self,
        jwt: &str,
        audiences: &[String],
        now: u64,
    ) -> Result<Admitted, Refused> {
        let verified = assertion::verify(jwt, audiences, now)?;
        let admitted = self.admit(&verified, now).await;
        admitted.map_err(|refused| refused.of(&Owner::of_key(&verified.subject)))
    }

    /// Decides over a verified assertion; the same one is admitted once only.
    ///
    /// # Errors
    /// Fails with the answer to send in place of the upgrade.
    pub async fn admit(&self, verified: &Verified, now: u64) -> Result<Admitted, Refused> {
        let auth = self.auth.load_full();
        let admitted = match &*auth {
            AuthMode::Open => by_key(verified),
            AuthMode::Secret(secrets) => {
                check_secret(secrets, verified)?;
                by_key(verified)
            }
            AuthMode::Token => self.by_token(verified, now).await?,
            AuthMode::Oidc(_) => self.by_issuer(verified, now).await?,
        };
        // Last, so that only those who may come in fill the memory of what came.
        self.remember(verified, now)?;
        Ok(admitted)
    }

    async fn by_token(&self, verified: &Verified, now: u64) -> Result<Admitted, Refused> {
        const LOGIN: &str =
            "Ask the relay's operator for a token and run `mcpm relay login ADDRESS`";
        let token = verified.token.as_ref();
        let token = token.ok_or_else(|| {
            Refused::credential("this relay asks for a token and none was sent").hint(LOGIN)
        })?;
        let grant = self.key.verify_token(token).map_err(|_| {
            Refused::credential("the token was not issued by this relay").hint(LOGIN)
        })?;
        grant
            .check(&verified.subject, now)
            .map_err(|error| Refused::credential(error.to_string()).hint(LOGIN))?;
        match self.standing(&grant, now).await? {
            Standing::Good => {}
            // A signature alone does not do: a token that nobody can list, nobody can revoke.
            Standing::Unknown => {
                return Err(Refused::credential("the token is unknown here").hint(LOGIN));
            }
            Standing::Revoked => {
                let refused = Refused::credential("the token was revoked").hint(LOGIN);
                return Err(refused.of(&Owner::of_subject(&grant.subject)));
            }
        }
        Ok(Admitted {
            owner: Owner::of_subject(&grant.subject),
            subject: verified.subject.clone(),
            names: grant.names,
            max_shares: grant.max_shares,
            token_jti: Some(grant.jti),
            expires_at: Some(grant.expires_at),
        })
    }

    async fn by_issuer(&self, verified: &Verified, now: u64) -> Result<Admitted, Refused> {
        const LOGIN: &str = "Run `mcpm relay login ADDRESS` with a token of your identity provider, or \
                             with --token-command and a command that prints one";
        let token = verified.token.as_ref().ok_or_else(|| {
            let message = "this relay asks for a token of its identity provider and none was sent";
            Refused::credential(message).hint(LOGIN)
        })?;
        let Some(issuer) = &self.issuer else { return Err(Refused::unavailable("no issuer")) };
        let found = issuer.identify(token.expose(), &verified.subject, now).await;
        let identity = found.map_err(|error| refused(&error, LOGIN))?;
        Ok(Admitted {
            owner: Owner::of_subject(&identity.subject),
            subject: verified.subject.clone(),
            names: identity.names,
            max_shares: None,
            token_jti: None,
            expires_at: Some(identity.expires_at),
        })
    }

    /// Tells whether an agent should come back with a newer token, because its own ends soon: those
    /// of identity providers live for minutes, and their agents can get another.
    pub fn should_renew(&self, admitted: &Admitted, now: u64) -> bool {
        self.issuer.is_some()
            && admitted.expires_at.is_some_and(|end| end.saturating_sub(now) <= RENEW_SECS)
    }

    /// Reads the keys of the identity provider from time to time, until dropped.
    pub async fn follow_issuer(&self) {
        match &self.issuer {
            Some(issuer) => issuer.follow().await,
            None => std::future::pending().await,
        }
    }

    /// Tells what the store says of a token; while it does not answer, what it said last.
    async fn standing(&self, grant: &Grant, now: u64) -> Result<Standing, Refused> {
        let record = match self.store.token(&grant.jti).await {
            Ok(record) => record,
            Err(error) if error.is_unreachable() && self.knew(&grant.jti) => {
                let revoked = self.revoked.borrow().contains(&grant.jti);
                return Ok(if revoked { Standing::Revoked } else { Standing::Good });
            }
            Err(error) => return Err(error.into()),
        };
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match record {
            Some(TokenRecord { revoked_at: None, .. }) => {
                if known.len() >= MAX_KNOWN {
                    known.retain(|_, end| *end > now);
                }
                if known.len() < MAX_KNOWN {
                    known.insert(grant.jti.clone(), grant.expires_at);
                }
                Ok(Standing::Good)
            }
            Some(_) => {
                known.remove(&grant.jti);
                Ok(Standing::Revoked)
            }
            None => {
                known.remove(&grant.jti);
                Ok(Standing::Unknown)
            }
        }
    }

    fn knew(&self, jti: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.contains_key(jti)
    }

    fn remember(&self, verified: &Verified, now: u64) -> Result<(), Refused> {
        let until = verified.expires_at.saturating_add(LEEWAY_SECS);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match seen.see(&verified.subject, &verified.jti, until, now) {
            Seen::First => Ok(()),
            Seen::Again => Err(Refused::new(
                StatusCode::UNAUTHORIZED,
                Refusal::new(code::REPLAYED, "the agent's assertion was used before"),
            )),
            Seen::Full => Err(Refused::unavailable("too many agents are connecting at once")),
        }
    }

    /// Tells whether a session's right still stands: asked before every new stream, so cheap.
    ///
    /// # Errors
    /// Fails with what the agent shall be told.
    pub fn recheck(&self, admitted: &Admitted, now: u64) -> Result<(), Refusal> {
        if admitted.expires_at.is_some_and(|end| end <= now) {
            return Err(Refusal::new(code::EXPIRED, "the agent's token has expired"));
        }
        match &admitted.token_jti {
            Some(jti) if self.revoked.borrow().contains(jti) => {
                Err(Refusal::new(code::REVOKED, "the agent's token was revoked"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the revoked tokens, as they change: a session whose token is in there must end.
    pub fn revoked(&self) -> watch::Receiver<Revoked> {
        self.revoked.subscribe()
    }

    /// Reads the revoked tokens from the store once.
    ///
    /// # Errors
    /// Fails when the store does; what was known stays.
    pub async fn refresh(&self, now: u64) -> Result<(), StoreError> {
        let fresh: HashSet<String> = self.store.revoked(now).await?.into_iter().collect();
        self.revoked.send_if_modified(|known| {
            let changed = **known != fresh;
            if changed {
                *known = Arc::new(fresh);
            }
            changed
        });
        Ok(())
    }

    /// Follows revocations by other processes, until dropped.
    ///
    /// `mcpm-relay token revoke` writes the same database while the relay serves.
    pub async fn follow_revocations(&self) {
        if !matches!(**self.auth.load(), AuthMode::Token) {
            return std::future::pending().await;
        }
        let mut ticks = tokio::time::interval(REVOCATION_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            ticks.tick().await;
            match self.refresh(unix_now()).await {
                Err(error) if !failing => {
                    failing = true;
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "cannot look for revoked tokens");
                }
                Err(_) => {}
                Ok(()) => failing = false,
            }
        }
    }
}

fn refused(error: &OidcError, hint: &str) -> Refused {
    match error {
        OidcError::NoKeys => Refused::unavailable(&error.to_string()),
        OidcError::Later(wait) => {
            let refusal = Refusal::new(code::UNAVAILABLE, error.to_string());
            let refusal = refusal.retry_after(wait.as_secs().max(1));
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, refusal)
        }
        OidcError::Claims(claims) if claims.is_forbidden() => Refused::new(
            StatusCode::FORBIDDEN,
            Refusal::new(code::FORBIDDEN, error.to_string()).hint("Ask the relay's operator"),
        ),
        _ => Refused::credential(error.to_string()).hint(hint),
    }
}

fn by_key(verified: &Verified) -> Admitted {
    Admitted {
        owner: Owner::of_key(&verified.subject),
        subject: verified.subject.clone(),
        names: NamePatterns::any(),
        max_shares: None,
        token_jti: None,
        expires_at: None,
    }
}

fn check_secret(secrets: &[Token], verified: &Verified) -> Result<(), Refused> {
    const LOGIN: &str = "Run `mcpm relay login ADDRESS` with the secret of this relay";
    if verified.secret_mac.is_none() {
        let message = "this relay asks for its secret and no proof of it was sent";
        return Err(Refused::credential(message).hint(LOGIN));
    }
    // All are tried, so that time does not tell which one matched.
    let matching =
        secrets.iter().filter(|secret| assertion::secret_mac_matches(secret, verified)).count();
    match matching {
        0 => Err(Refused::credential("the secret is not the one of this relay").hint(LOGIN)),
        _ => Ok(()),
    }
}

/// Returns the time as the store and the tokens count it: seconds since the Unix epoch.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a token could not be issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The wish is out of bounds.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It could not be kept, so it would not be believed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Issues an agent token: signs it, and keeps its record so that it can be listed and revoked.
///
/// # Errors
/// Fails when the wish is out of bounds or the store fails.
pub async fn issue_token(
    key: &RelayKey,
    store: &dyn Store,
    request: GrantRequest,
    now: u64,
) -> Result<(Token, TokenRecord), IssueError> {
    // Twelve characters are plenty to be unique and few enough to type after `token revoke`.
    let jti: String = Token::generate().digest().to_string().chars().take(12).collect();
    let grant = request.grant(jti, now)?;
    let record = TokenRecord {
        jti: grant.jti.clone(),
        subject: grant.subject.clone(),
        names: grant.names.to_texts(),
        max_shares: grant.max_shares,
        bound_to: grant.confirmation.as_ref().map(|bound| bound.jkt.clone()),
        issued_at: grant.issued_at,
        expires_at: grant.expires_at,
        revoked_at: None,
    };
    store.insert_token(record.clone()).await?;
    store.audit(token_event("token.issue", &record, now)).await?;
    Ok((key.sign_token(&grant), record))
}

/// Revokes an agent token; `false` when there is none with this id.
///
/// # Errors
/// Fails when the store does.
pub async fn revoke_token(store: &dyn Store, jti: &str, now: u64) -> Result<bool, StoreError> {
    // Read first: afterwards nothing may stand between the revocation and its row in the trail.
    let Some(record) = store.token(jti).await? else { return Ok(false) };
    let known = store.revoke_token(jti, now).await?;
    if known {
        store.audit(token_event("token.revoke", &record, now)).await?;
    }
    Ok(known)
}

/// Says whom a token is for and which names it allows, so that the trail tells it also when the
/// token is gone.
fn token_event(action: &str, record: &TokenRecord, now: u64) -> AuditEvent {
    let owner = Owner::of_subject(&record.subject);
    AuditEvent {
        at: now,
        action: action.to_owned(),
        actor: "operator".to_owned(),
        object: record.jti.clone(),
        detail: format!("{owner}: names {}", record.names.join(" ")),
    }
}

#[cfg(test)]
mod tests;
