//! Getting the next token with a refresh token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use rmcp::transport::auth::{
    AuthError, AuthorizationManager, AuthorizationMetadata, CredentialStore,
    InMemoryCredentialStore, OAuthClientConfig, OAuthHttpClient, OAuthHttpClientFuture,
    OAuthHttpRequest, StoredCredentials,
};
use serde_json::json;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;
use url::form_urlencoded;

use super::error::{OauthError, said};
use super::given::{AUTH_METHODS, Given};
use super::record::{Record, unix_now};
use super::web::Web;

/// How a renewal ended.
#[derive(Debug)]
pub(super) enum Renewed {
    /// There is a new token.
    Yes(Box<Record>),
    /// The authorization server takes the refresh token, or us, no more.
    Rejected,
    /// Something else went wrong; it may work another time.
    Failed(OauthError),
}

/// Renews a login; the new record is not kept yet.
pub(super) async fn renew(record: &Record) -> Renewed {
    let failed =
        |said: String| Renewed::Failed(OauthError::Renewal { server: record.server.clone(), said });
    let web = match Web::known() {
        Ok(web) => Arc::new(Exchange {
            web,
            resource: record.resource.clone(),
            rejected: AtomicBool::new(false),
        }),
        Err(error) => return Renewed::Failed(error),
    };
    let asked = async { manager(record, web.clone()).await?.refresh_token().await };
    // rmcp logs what comes with tokens at level debug.
    match asked.with_subscriber(NoSubscriber::default()).await {
        Ok(given) => match Given::read(&given) {
            Ok(given) => Renewed::Yes(Box::new(renewed(record, given))),
            Err(text) => failed(text),
        },
        Err(_) if web.rejected.load(Ordering::Relaxed) => Renewed::Rejected,
        Err(AuthError::TokenRefreshRejected(_) | AuthError::TokenRefreshFailed(_)) => {
            failed(format!("{} gives no token", record.token_endpoint))
        }
        Err(error) => failed(said(&error)),
    }
}

fn renewed(old: &Record, given: Given) -> Record {
    let now = unix_now();
    Record {
        access_token: given.access_token,
        // The old one stays good where none is given (RFC 6749 §6).
        refresh_token: given.refresh_token.or_else(|| old.refresh_token.clone()),
        scopes: given.scopes.unwrap_or_else(|| old.scopes.clone()),
        obtained_at: now,
        expires_at: given.expires_in.map(|life| now.saturating_add(life)),
        ..old.clone()
    }
}

/// Makes rmcp's client of what is kept, so that nothing need be discovered again.
async fn manager(record: &Record, web: Arc<Exchange>) -> Result<AuthorizationManager, AuthError> {
    let base = record.url.as_str();
    let mut manager = AuthorizationManager::new_with_oauth_http_client(base, web).await?;
    let mut metadata = AuthorizationMetadata::default();
    metadata.token_endpoint.clone_from(&record.token_endpoint);
    // Not used, but it must be a URL.
    metadata.authorization_endpoint.clone_from(&record.token_endpoint);
    metadata.issuer.clone_from(&record.issuer);
    if !record.auth_methods.is_empty() {
        metadata.additional_fields.insert(AUTH_METHODS.to_owned(), json!(record.auth_methods));
    }
    manager.set_metadata(metadata);
    let config = OAuthClientConfig::new(&record.client.id, "http://127.0.0.1/");
    manager.configure_client(match &record.client.secret {
        Some(secret) => config.with_client_secret(secret.expose()),
        None => config,
    })?;
    let token = serde_json::from_value(json!({
        "access_token": record.access_token.expose(),
        "token_type": "bearer",
        "refresh_token": record.refresh_token.as_ref().map(|token| token.expose()),
    }));
    let token = token.map_err(|error| AuthError::InternalError(error.to_string()))?;
    // Without scopes: what was granted stays granted (RFC 6749 §6).
    let id = record.client.id.clone();
    let kept = InMemoryCredentialStore::new();
    kept.save(StoredCredentials::new(id, Some(token), Vec::new(), None)).await?;
    manager.set_credential_store(kept);
    Ok(manager)
}

/// The one exchange of a renewal.
struct Exchange {
    web: Web,
    resource: String,
    /// Whether the answer was a definite no.
    rejected: AtomicBool,
}

impl OAuthHttpClient for Exchange {
    fn execute(&self, mut request: OAuthHttpRequest) -> OAuthHttpClientFuture<'_> {
        let body = self.for_resource(request.request.body());
        *request.request.body_mut() = body;
        Box::pin(async move {
            let answer = self.web.execute(request).await?;
            let no = matches!(
                answer.status(),
                StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
            );
            self.rejected.store(no, Ordering::Relaxed);
            Ok(answer)
        })
    }
}

impl Exchange {
    /// Names the resource as it was named at the login: rmcp, which discovered nothing this time,
    /// names the URL of the server.
    fn for_resource(&self, form: &[u8]) -> Vec<u8> {
        let mut named = form_urlencoded::Serializer::new(String::new());
        for (key, value) in form_urlencoded::parse(form) {
            let value = if key == "resource" { self.resource.as_str() } else { &value };
            named.append_pair(&key, value);
        }
        named.finish().into_bytes()
    }
}
