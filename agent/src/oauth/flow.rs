//! One login, from the server's URL to its tokens.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use mcpm_shared::token::Token;
use rmcp::transport::auth::{
    AuthError, AuthorizationCallback, AuthorizationManager, AuthorizationMetadata,
    OAuthClientConfig,
};
use serde::Deserialize;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;
use url::Url;

use super::challenge;
use super::error::{OauthError, said, tame};
use super::given::{AUTH_METHODS, Given};
use super::reach::Reach;
use super::record::{Client, Record, unix_now};
use super::web::Web;
use crate::model::Vars;

/// What authorization servers show people who are asked to agree.
const CLIENT_NAME: &str = "mcpm";
/// What gets a refresh token where there are two kinds of login (OIDC Core §11).
const OFFLINE: &str = "offline_access";

/// What a login needs to know.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The server's name.
    pub server: String,
    /// The server's URL.
    pub url: String,
    /// What requests to the server carry besides a token.
    pub headers: Vars,
    /// Who we are, when a person says so; else we register.
    pub client: Option<Client>,
    /// What to ask for; what the server suggests when empty.
    pub scopes: Vec<String>,
    /// Where the browser is sent at the end.
    pub redirect_uri: String,
    /// Whether the server may send us into a private network although it is not in one.
    pub allow_private: bool,
}

/// A login that waits for a person.
pub struct Flow {
    server: String,
    url: String,
    manager: AuthorizationManager,
    metadata: AuthorizationMetadata,
    client: Client,
    visit: Url,
    state: String,
    resource: String,
    redirect_uri: String,
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Flow {
    /// Finds out where to log in and makes us known there. `kept` is the login before, whose client
    /// is used again when a person named it.
    ///
    /// # Errors
    /// When the server offers no login, or anything on the way does not work.
    pub async fn begin(ask: Ask, kept: Option<&Record>) -> Result<Self, OauthError> {
        let home = home(&ask)?;
        let web = Arc::new(web(&ask, &home).await?);
        let refusal = web.refusal(&home).await.map_err(|source| unreachable(&home, source))?;
        let manager = AuthorizationManager::new_with_oauth_http_client(home.clone(), web).await;
        let mut manager = manager.map_err(|error| metadata_error(&ask.server, error))?;
        let challenge = refusal.as_ref().and_then(challenge::best);
        let found = manager.resolve_metadata_from_challenge(challenge).await;
        let found = found.map_err(|error| metadata_error(&ask.server, error))?;
        // Endpoints that rmcp only guessed (2025-03-26) are worth a try where a login is asked for.
        if !found.source.is_discovered() && refusal.is_none() {
            return Err(OauthError::NoLogin(ask.server));
        }
        let metadata = found.metadata;
        check_endpoints(&ask.server, &home, &metadata)?;
        manager.set_metadata(metadata.clone());
        let scopes = scopes(&ask, &manager, &metadata).await;
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let kept = kept.filter(|kept| kept.client.given && kept.issuer == metadata.issuer);
        let given = ask.client.clone().or_else(|| kept.map(|kept| kept.client.clone()));
        let client = identify(&mut manager, &ask, given, &scopes).await?;
        let visit = manager.get_authorization_url(&scopes).await;
        let visit = visit.map_err(|error| metadata_error(&ask.server, error))?;
        let visit =
            Url::parse(&visit).map_err(|error| metadata_error(&ask.server, error.into()))?;
        let (state, resource) = (query(&visit, "state"), query(&visit, "resource"));
        Ok(Self {
            server: ask.server,
            url: ask.url,
            state: state.unwrap_or_default(),
            resource: resource.unwrap_or_default(),
            redirect_uri: ask.redirect_uri,
            manager,
            metadata,
            client,
            visit,
        })
    }

    /// Returns the URL where a person logs in.
    #[must_use]
    pub fn visit(&self) -> &str {
        self.visit.as_str()
    }

    /// Tells whether a URL that a browser was sent to is an answer to this login.
    #[must_use]
    pub fn is_answered_by(&self, redirect: &str) -> bool {
        self.read(redirect).is_ok()
    }

    /// Exchanges what the browser brought for tokens.
    ///
    /// # Errors
    /// When the URL is not an answer to this login, or of another authorization server than the one
    /// that was asked (RFC 9207), or when the answer is no.
    pub async fn finish(&self, redirect: &str) -> Result<Record, OauthError> {
        let redirect = self.read(redirect)?;
        if let Some(error) = query(&redirect, "error") {
            return Err(self.denied(&redirect, &error));
        }
        let callback = AuthorizationCallback::from_redirect_url(redirect.as_str())
            .map_err(|error| OauthError::Redirect(said(&error)))?;
        let (code, state) = (&callback.code, &callback.csrf_token);
        let exchange = self.manager.exchange_code_for_token_with_issuer(
            code,
            state,
            callback.issuer.as_deref(),
        );
        // rmcp logs codes and what comes with tokens at level debug.
        let given = exchange.with_subscriber(NoSubscriber::default()).await;
        let given = Given::read(&given.map_err(exchange_error)?).map_err(OauthError::Exchange)?;
        let now = unix_now();
        Ok(Record {
            server: self.server.clone(),
            url: self.url.clone(),
            issuer: self.metadata.issuer.clone(),
            resource: self.resource.clone(),
            token_endpoint: self.metadata.token_endpoint.clone(),
            auth_methods: auth_methods(&self.metadata),
            client: self.client.clone(),
            access_token: given.access_token,
            refresh_token: given.refresh_token,
            scopes: self.manager.get_current_scopes().await,
            obtained_at: now,
            expires_at: given.expires_in.map(|life| now.saturating_add(life)),
        })
    }

    /// Reads a URL that a browser was sent to; people may leave out its beginning.
    fn read(&self, redirect: &str) -> Result<Url, OauthError> {
        let wrong = |text: &str| OauthError::Redirect(text.to_owned());
        let text = redirect.trim();
        let url = match text.strip_prefix('?') {
            Some(query) => Url::parse(&format!("{}?{query}", self.redirect_uri)),
            None => Url::parse(text),
        };
        let url = url.map_err(|_| wrong("it is not a URL"))?;
        match query(&url, "state") {
            Some(state) if state == self.state => Ok(url),
            Some(_) => Err(wrong("it belongs to another login")),
            None => Err(wrong("its `state` is missing")),
        }
    }

    fn denied(&self, redirect: &Url, error: &str) -> OauthError {
        // An error of somebody else's is no answer either (RFC 9207 §2.4).
        if let Some(issuer) = query(redirect, "iss")
            && Some(&issuer) != self.metadata.issuer.as_ref()
        {
            return OauthError::Redirect("it comes from another authorization server".to_owned());
        }
        let mut text = tame(error);
        if let Some(description) = query(redirect, "error_description") {
            text.push_str(&format!(" ({})", tame(&description)));
        }
        OauthError::Denied(text)
    }
}

fn query(url: &Url, key: &str) -> Option<String> {
    url.query_pairs().find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}

fn home(ask: &Ask) -> Result<Url, OauthError> {
    let wrong =
        |reason: &str| OauthError::Url { server: ask.server.clone(), reason: reason.to_owned() };
    let url = Url::parse(&ask.url).map_err(|_| wrong("it is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong("it must begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("put credentials into `headers` instead"));
    }
    Ok(url)
}

async fn web(ask: &Ask, home: &Url) -> Result<Web, OauthError> {
    let mut headers = HeaderMap::new();
    for (name, value) in ask.headers.iter() {
        // The gateway tells of headers that are none.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            headers.insert(name, value);
        }
    }
    let reach = Reach::to(home).await.map_err(|error| unreachable(home, error.into()))?;
    let reach = if ask.allow_private { reach.max(Reach::Private) } else { reach };
    Web::towards(home, headers, reach)
}

/// Refuses endpoints that are none, or less safe than the server itself: one of them is opened by
/// the browser, the others get secrets.
fn check_endpoints(
    server: &str,
    home: &Url,
    metadata: &AuthorizationMetadata,
) -> Result<(), OauthError> {
    let registration = metadata.registration_endpoint.as_ref();
    let both = [&metadata.authorization_endpoint, &metadata.token_endpoint];
    for endpoint in both.into_iter().chain(registration) {
        let fine = Url::parse(endpoint).is_ok_and(|url| match url.scheme() {
            "https" => true,
            "http" => home.scheme() == "http",
            _ => false,
        });
        if !fine {
            let said = format!("`{}` is not a safe address", tame(endpoint));
            return Err(OauthError::Metadata { server: server.to_owned(), said });
        }
    }
    Ok(())
}

/// Returns what to ask for; with it what gets a refresh token, where that has a name.
async fn scopes(
    ask: &Ask,
    manager: &AuthorizationManager,
    metadata: &AuthorizationMetadata,
) -> Vec<String> {
    if ask.scopes.is_empty() {
        return manager.select_initial_scopes(&[]).await;
    }
    let mut scopes = ask.scopes.clone();
    let supported = metadata.scopes_supported.as_deref().unwrap_or_default();
    if supported.iter().any(|scope| scope == OFFLINE) && !scopes.iter().any(|s| s == OFFLINE) {
        scopes.push(OFFLINE.to_owned());
    }
    scopes
}

/// Says who we are, as a client that is given or that we register now (2026-07-28 §Client
/// Registration).
async fn identify(
    manager: &mut AuthorizationManager,
    ask: &Ask,
    given: Option<Client>,
    scopes: &[&str],
) -> Result<Client, OauthError> {
    let Some(client) = given else {
        let made = manager.register_client(CLIENT_NAME, &ask.redirect_uri, scopes).await;
        let made = made.map_err(|error| registration_error(&ask.server, error))?;
        let secret = made.client_secret.map(Token::new);
        return Ok(Client { id: made.client_id, secret, given: false });
    };
    let config = OAuthClientConfig::new(&client.id, &ask.redirect_uri);
    let config = match &client.secret {
        Some(secret) => config.with_client_secret(secret.expose()),
        None => config,
    };
    manager.configure_client(config).map_err(|error| metadata_error(&ask.server, error))?;
    Ok(client)
}

fn auth_methods(metadata: &AuthorizationMetadata) -> Vec<String> {
    let methods = metadata.additional_fields.get(AUTH_METHODS);
    let methods = methods.and_then(|methods| Vec::<String>::deserialize(methods).ok());
    methods.unwrap_or_default()
}

fn unreachable(url: &Url, source: super::error::BoxError) -> OauthError {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    OauthError::Unreachable { url: shown.into(), source }
}

fn metadata_error(server: &str, error: AuthError) -> OauthError {
    match error {
        AuthError::DiscoveryRequestFailed { url, source } => unreachable(&url, source),
        error => OauthError::Metadata { server: server.to_owned(), said: said(&error) },
    }
}

fn registration_error(server: &str, error: AuthError) -> OauthError {
    match error {
        AuthError::RegistrationFailed(text) => {
            OauthError::Registration { server: server.to_owned(), said: tame(&text) }
        }
        error => metadata_error(server, error),
    }
}

fn exchange_error(error: AuthError) -> OauthError {
    match error {
        AuthError::AuthorizationServerMismatch { .. }
        | AuthError::AuthorizationServerMissingIssuer { .. }
        | AuthError::AuthorizationFailed(_) => OauthError::Redirect(said(&error)),
        AuthError::TokenExchangeFailed(text) => OauthError::Exchange(tame(&text)),
        error => OauthError::Exchange(said(&error)),
    }
}
