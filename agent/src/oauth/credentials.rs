//! What the gateway knows of logins: tokens that are good when they are asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;
use tokio::sync::watch;

use super::error::OauthError;
use super::record::{Record, unix_now};
use super::renewal::{Renewed, renew};
use super::store::{Store, Version};
use crate::fs::{FsError, Paths};

/// How long a renewal that failed is not tried again while the token is still good.
const REST: Duration = Duration::from_secs(10);

/// The logins of the user, to be handed to gateways. Clones are the same.
#[derive(Clone, Debug)]
pub struct Credentials {
    store: Store,
    scope: Scope,
}

impl Credentials {
    /// Uses the logins below `paths`. Renewals run in `scope`: what is under way when a request is
    /// given up is finished all the same, since the old token is worth nothing then.
    #[must_use]
    pub fn open(paths: &Paths, scope: Scope) -> Self {
        Self { store: Store::open(paths), scope }
    }

    /// Returns the tokens for one server at one URL.
    #[must_use]
    pub fn bearer(&self, server: &str, url: &str) -> Bearer {
        Bearer(Arc::new(Inner {
            store: self.store.clone(),
            scope: self.scope.clone(),
            server: server.to_owned(),
            url: url.to_owned(),
            state: Mutex::default(),
        }))
    }
}

/// Why there is no token although there was a login.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The login has ended; only a person can begin another one.
    #[error("the login has ended")]
    Ended,
    /// The login cannot be read or renewed just now.
    #[error(transparent)]
    Failed(Arc<OauthError>),
}

/// The tokens for one server at one URL. Clones are the same.
///
/// Logins, logouts and renewals of other processes are seen with the next request.
#[derive(Clone, Debug)]
pub struct Bearer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    scope: Scope,
    server: String,
    url: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was read last, and of which version of the file.
    read: Option<(Version, Option<Arc<Record>>)>,
    /// The access token whose renewal was rejected for good.
    rejected: Option<Token>,
    /// When a renewal that failed may be tried again.
    rest_until: Option<Instant>,
    /// The renewal under way, or the last one.
    flight: Option<watch::Receiver<Option<Outcome>>>,
}

/// A token, or none when nobody is logged in.
type Outcome = Result<Option<Token>, TokenError>;

impl Bearer {
    /// Returns a token for a request, renewed when its end is near; `None` when nobody is logged in.
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the login has ended, or cannot be read or renewed.
    pub async fn token(&self) -> Outcome {
        let Some(record) = self.0.current()? else { return Ok(None) };
        let now = unix_now();
        let token = record.access_token.clone();
        if !record.is_due(now) {
            return Ok(Some(token));
        }
        let over = record.is_over(now);
        if !over && (record.refresh_token.is_none() || self.0.rests()) {
            return Ok(Some(token));
        }
        match self.0.renewed(&record).await {
            Err(_) if !over => Ok(Some(token)),
            outcome => outcome,
        }
    }

    /// Returns another token than the one that the server has just refused; `None` when there is
    /// none to be had without a person, though the login may be good. Cancel-safe.
    ///
    /// # Errors
    /// When the login has ended, or cannot be read or renewed.
    pub async fn instead_of(&self, refused: &Token) -> Outcome {
        let Some(record) = self.0.current()? else { return Ok(None) };
        if record.access_token != *refused {
            return Ok(Some(record.access_token.clone()));
        }
        if record.is_young(unix_now()) {
            return Ok(None);
        }
        let token = self.0.renewed(&record).await?;
        Ok(token.filter(|token| token != refused))
    }

    /// Tells whether somebody is logged in, for good or not.
    #[must_use]
    pub fn is_logged_in(&self) -> bool {
        self.0.current().is_ok_and(|record| record.is_some())
    }

    /// Returns all scopes that a login needs so that nothing is lost and `more` is won.
    #[must_use]
    pub fn scopes_with(&self, more: &str) -> String {
        let record = self.0.current().ok().flatten();
        let mut scopes = record.map(|record| record.scopes.clone()).unwrap_or_default();
        for scope in more.split_whitespace() {
            if !scopes.iter().any(|known| known == scope) {
                scopes.push(scope.to_owned());
            }
        }
        scopes.join(" ")
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the login as it is now; the file is read only when it is another one.
    fn current(&self) -> Result<Option<Arc<Record>>, TokenError> {
        let version = self.store.version(&self.server);
        if let Some((known, record)) = &self.state().read
            && *known == version
        {
            return Ok(record.clone());
        }
        let record = self.store.read(&self.server, &self.url).map_err(failed)?.map(Arc::new);
        self.state().read = Some((version, record.clone()));
        Ok(record)
    }

    fn rests(&self) -> bool {
        self.state().rest_until.is_some_and(|until| Instant::now() < until)
    }

    /// Waits for the renewal of a login, which is begun unless one is under way.
    async fn renewed(self: &Arc<Self>, stale: &Record) -> Outcome {
        let mut flight = self.flight(stale.access_token.clone());
        match flight.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(None)),
            Err(_) => {
                let (server, said) = (self.server.clone(), "it was interrupted".to_owned());
                Err(TokenError::Failed(Arc::new(OauthError::Renewal { server, said })))
            }
        }
    }

    fn flight(self: &Arc<Self>, stale: Token) -> watch::Receiver<Option<Outcome>> {
        let mut state = self.state();
        if let Some(flight) = &state.flight
            && flight.has_changed().is_ok()
            && flight.borrow().is_none()
        {
            return flight.clone();
        }
        let (sender, flight) = watch::channel(None);
        state.flight = Some(flight.clone());
        drop(state);
        let this = self.clone();
        self.scope.spawn(async move {
            let outcome = this.renew(stale).await;
            sender.send_replace(Some(outcome));
        });
        flight
    }

    /// Renews the login, unless somebody else did so meanwhile.
    async fn renew(&self, stale: Token) -> Outcome {
        if self.state().rejected.as_ref() == Some(&stale) {
            return Err(TokenError::Ended);
        }
        let (store, server) = (self.store.clone(), self.server.clone());
        let turn = tokio::task::spawn_blocking(move || store.turn(&server)).await;
        let _turn = turn.map_err(|_| TokenError::Ended)?.map_err(failed)?;
        let record = self.store.read(&self.server, &self.url).map_err(failed)?;
        let Some(record) = record else { return Ok(None) };
        if record.access_token != stale {
            return Ok(Some(record.access_token));
        }
        if record.refresh_token.is_none() {
            return Err(TokenError::Ended);
        }
        match renew(&record).await {
            Renewed::Yes(new) => self.keep(record, *new).await,
            Renewed::Rejected => {
                tracing::info!(server = self.server, "the login has ended");
                self.state().rejected = Some(stale);
                Err(TokenError::Ended)
            }
            Renewed::Failed(error) => {
                self.state().rest_until = Some(Instant::now() + REST);
                Err(TokenError::Failed(Arc::new(error)))
            }
        }
    }

    async fn keep(&self, old: Record, new: Record) -> Outcome {
        let store = self.store.clone();
        let kept = tokio::task::spawn_blocking(move || store.replace(&old, &new)).await;
        let kept = kept.map_err(|_| TokenError::Ended)?.map_err(failed)?;
        tracing::debug!(server = self.server, "the login was renewed");
        Ok(kept.map(|record| record.access_token))
    }
}

fn failed(error: FsError) -> TokenError {
    TokenError::Failed(Arc::new(error.into()))
}
