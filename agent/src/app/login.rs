//! Logging in to a remote server with a browser.

use std::time::Duration;

use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::fs::Paths;
use crate::gateway::{GatewayError, secrets};
use crate::hint::Hint;
use crate::model::{Server, Transport, Vars};
use crate::oauth::{Ask, Client, Flow, Hit, OauthError, Page, Record, Redirect, Store};

/// How long a person may take to log in.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the browser may take to fetch the last page.
const GRACE: Duration = Duration::from_secs(1);

/// Which server to log in to, and how.
#[derive(Clone, Debug)]
pub struct LoginSpec {
    /// The server.
    pub server: Server,
    /// The client that a person registered by hand: its id, and its secret if it has one.
    pub client: Option<(String, Option<Token>)>,
    /// What to ask for; what the server suggests when empty.
    pub scopes: Vec<String>,
    /// Where the browser is sent at the end; a free port of this machine by default.
    pub redirect_uri: Option<Url>,
    /// Whether the server may send us into a private network although it is not in one.
    pub allow_private: bool,
}

/// Why there is no login.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The server runs on this machine.
    #[error("server `{0}` is not remote, so there is nothing to log in to")]
    NotRemote(String),
    /// The entry of the server brings its own credentials.
    #[error("server `{0}` has an `Authorization` header of its own")]
    OwnHeader(String),
    /// The entry of the server cannot be used.
    #[error(transparent)]
    Entry(#[from] GatewayError),
    /// The login failed.
    #[error(transparent)]
    Oauth(#[from] OauthError),
    /// Nobody came back from the browser.
    #[error("nobody logged in within {} minutes", PATIENCE.as_secs() / 60)]
    TimedOut,
    /// The login was given up.
    #[error("the login was given up; nothing has changed")]
    Stopped,
}

impl Hint for LoginError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotRemote(server) => {
                Some(format!("If `{server}` wants a key, put it into its `env` in servers.json"))
            }
            Self::OwnHeader(server) => Some(format!(
                "Remove it from the `headers` of `{server}` in servers.json; a login would not be used beside it"
            )),
            Self::Entry(error) => error.hint(),
            Self::Oauth(error) => error.hint(),
            Self::TimedOut => Some("Start the login again".to_owned()),
            Self::Stopped => None,
        }
    }
}

/// Logs in to a server and keeps the login.
///
/// `visit` is told the URL that a person must open. The answer comes to a listener on this machine,
/// or as a URL that a person pastes: `pasted` gives it, or nothing when nobody will.
///
/// # Errors
/// When the server offers no login, the person says no, or the login cannot be kept.
pub async fn login(
    spec: LoginSpec,
    paths: &Paths,
    visit: impl FnOnce(&str),
    pasted: impl Future<Output = Option<String>>,
    stop: CancellationToken,
) -> Result<Record, LoginError> {
    let scope = Scope::new();
    let work = log_in(spec, paths, visit, pasted, &scope);
    let outcome = stop.run_until_cancelled(work).await.unwrap_or(Err(LoginError::Stopped));
    scope.drain(GRACE).await;
    outcome
}

async fn log_in(
    spec: LoginSpec,
    paths: &Paths,
    visit: impl FnOnce(&str),
    pasted: impl Future<Output = Option<String>>,
    scope: &Scope,
) -> Result<Record, LoginError> {
    let LoginSpec { server, client, scopes, redirect_uri, allow_private } = spec;
    let (url, headers) = remote(&server)?;
    let store = Store::open(paths);
    // Read first: a file that we must not replace should not cost a person a login.
    let kept = store.read(&server.name, &url).map_err(OauthError::from)?;
    let redirect = Redirect::bind(redirect_uri.as_ref()).await?;
    let ask = Ask {
        server: server.name,
        url,
        headers,
        client: client.map(|(id, secret)| Client { id, secret, given: true }),
        scopes,
        redirect_uri: redirect.uri().to_owned(),
        allow_private,
    };
    let flow = Flow::begin(ask, kept.as_ref()).await?;
    let hits = redirect.serve(scope);
    visit(flow.visit());
    let answered = tokio::time::timeout(PATIENCE, answer(&flow, hits, pasted)).await;
    let record = answered.map_err(|_| LoginError::TimedOut)??;
    store.keep(&record).map_err(OauthError::from)?;
    Ok(record)
}

fn remote(server: &Server) -> Result<(String, Vars), LoginError> {
    // Kept under the URL that the gateway asks with.
    let server = secrets::resolve(server)?;
    let Transport::Remote { url, headers } = &server.transport else {
        return Err(LoginError::NotRemote(server.name.clone()));
    };
    if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
        return Err(LoginError::OwnHeader(server.name.clone()));
    }
    Ok((url.clone(), headers.clone()))
}

/// Waits for the answer to a login, whichever way it comes first. A browser that brings another one
/// ends nothing: any page can send it here.
async fn answer(
    flow: &Flow,
    mut hits: mpsc::Receiver<Hit>,
    pasted: impl Future<Output = Option<String>>,
) -> Result<Record, OauthError> {
    let pasted = async {
        match pasted.await {
            Some(url) => url,
            None => std::future::pending().await,
        }
    };
    let mut pasted = std::pin::pin!(pasted);
    loop {
        let hit = tokio::select! {
            Some(hit) = hits.recv() => hit,
            url = pasted.as_mut() => return flow.finish(&url).await,
        };
        if !flow.is_answered_by(&hit.url) {
            let _gone = hit.page.send(Page::Strange);
            continue;
        }
        let outcome = flow.finish(&hit.url).await;
        let page = if outcome.is_ok() { Page::Done } else { Page::Failed };
        let _gone = hit.page.send(page);
        return outcome;
    }
}

#[cfg(test)]
mod tests;
