//! The admin API, version 1: what `mcpm-relay name|owner|share|token|status|audit` do, over HTTP.
//!
//! Every request carries the admin token, so that neither a page in a browser nor another user of
//! the machine can use it. `openapi.json` describes it; a test holds it against `ROUTES`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};
use axum::{Json, Router};
use mcpm_shared::name::Name;
use mcpm_shared::proto::{Refusal, ShareMode, code};
use mcpm_shared::token::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use super::{Phase, STORE_TIMEOUT};
use crate::admission::{IssueError, issue_token, revoke_token, unix_now};
use crate::grants::{GrantRequest, NamePattern, NamePatterns};
use crate::operator::{self, COOLING, OperatorError};
use crate::store::{AuditEvent, NameRule, OwnerQuota, StoreError, TokenRecord};
use crate::tunnel::Tunnels;
use crate::tunnel::share::Share;

/// Where the API is.
pub const BASE: &str = "/api/v1";
/// The description of the API.
pub const OPENAPI: &str = include_str!("openapi.json");
/// How many events of the audit trail are told at once, unless asked otherwise, and at most.
const TRAIL: u32 = 100;
const MAX_TRAIL: u32 = 10_000;
/// Life of a token for which none is asked.
const TOKEN_LIFE: u64 = 90 * 24 * 3600;

/// What the API answers from.
#[derive(Clone, Debug)]
pub struct Api {
    /// What requests must carry.
    pub token: Digest,
    /// Live shares and sessions.
    pub tunnels: Arc<Tunnels>,
    /// Where the relay is in its life.
    pub phase: watch::Receiver<Phase>,
    /// When it started, in Unix seconds.
    pub started_at: u64,
}

/// One path below [`BASE`] and what answers there.
type Route = (&'static str, fn() -> MethodRouter<Api>);

const ROUTES: [Route; 11] = [
    ("/audit", || routing::get(audit)),
    ("/openapi.json", || routing::get(openapi)),
    ("/status", || routing::get(status)),
    ("/shares", || routing::get(shares)),
    ("/shares/{name}", || routing::delete(close_share)),
    ("/names", || routing::get(names)),
    ("/names/{name}", || routing::put(keep_name).delete(release_name)),
    ("/owners", || routing::get(owners)),
    ("/owners/{owner}/quota", || routing::put(set_quota)),
    ("/tokens", || routing::get(tokens).post(issue)),
    ("/tokens/{id}", || routing::delete(revoke)),
];

/// Returns the routes of the API.
pub fn router(api: Api) -> Router {
    let router = ROUTES.iter().fold(Router::new(), |all, (path, route)| all.route(path, route()));
    let gate = middleware::from_fn_with_state(api.clone(), check_token);
    let unknown = || async { ApiError::NotFound("there is no such path in this API".to_owned()) };
    router.fallback(unknown).layer(gate).with_state(api)
}

/// Lets requests pass that carry the admin token.
async fn check_token(State(api): State<Api>, request: Request, next: Next) -> Response {
    let value = request.headers().get(header::AUTHORIZATION);
    let shown = value.and_then(|value| value.to_str().ok()).and_then(|value| value.split_once(' '));
    match shown {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") && api.token.matches(token.as_bytes()) =>
        {
            next.run(request).await
        }
        _ => ApiError::Unauthorized.into_response(),
    }
}

/// Why a request failed. Codes are API: add, never rename.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("this asks for the admin token, as Authorization: Bearer TOKEN")]
    Unauthorized,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("the relay's database does not answer")]
    Unavailable,
    #[error("the relay failed; its log says why")]
    Failed,
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_unreachable() {
            return Self::Unavailable;
        }
        tracing::error!(error = &error as &dyn std::error::Error, "store failed");
        Self::Failed
    }
}

impl From<OperatorError> for ApiError {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::Store(error) => error.into(),
            OperatorError::NothingToRelease(_) => Self::NotFound(error.to_string()),
            OperatorError::Owner(_) => Self::Invalid(error.to_string()),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::Invalid(rejection.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        (status, Json(json!({ "code": code, "message": self.to_string() }))).into_response()
    }
}

type Answer<T> = Result<Json<T>, ApiError>;

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// A relay in numbers.
#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    node: String,
    domain: String,
    phase: &'static str,
    /// `up` or `down`.
    database: &'static str,
    started_at: u64,
    sessions: i64,
    connections: i64,
    shares: i64,
    requests_in_flight: i64,
    held_requests: i64,
}

async fn status(State(api): State<Api>) -> Json<Status> {
    let (metrics, config) = (&api.tunnels.metrics, &api.tunnels.config);
    let ping = tokio::time::timeout(STORE_TIMEOUT, api.tunnels.store.ping()).await;
    let phase = *api.phase.borrow();
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        node: config.node.clone(),
        domain: config.domain.to_string(),
        phase: phase.name(),
        database: if matches!(ping, Ok(Ok(()))) { "up" } else { "down" },
        started_at: api.started_at,
        sessions: metrics.sessions.get(),
        connections: metrics.connections.get(),
        shares: metrics.shares.get(),
        requests_in_flight: metrics.requests_in_flight.get(),
        held_requests: metrics.held_requests.get(),
    })
}

/// A share that is up on this node.
#[derive(Debug, Serialize)]
struct ShareEntry {
    name: Name,
    owner: String,
    /// Thumbprint of the agent's key.
    agent: String,
    mode: ShareMode,
    url: String,
    generation: u64,
    expires_at: Option<u64>,
    requests_in_flight: usize,
}

async fn shares(State(api): State<Api>) -> Json<Vec<ShareEntry>> {
    let tunnels = &api.tunnels;
    let entry = |share: Arc<Share>| ShareEntry {
        name: share.facts.name.clone(),
        owner: share.facts.owner.clone(),
        agent: share.session.admitted.subject.clone(),
        mode: share.facts.mode,
        url: tunnels.config.share_url(tunnels.bound, &share.facts.name, share.facts.mode),
        generation: share.facts.generation,
        expires_at: share.expires_at(),
        requests_in_flight: share.in_flight(),
    };
    let mut shares: Vec<_> = tunnels.table.live().into_iter().map(entry).collect();
    shares.sort_by(|a, b| a.name.cmp(&b.name));
    Json(shares)
}

async fn close_share(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let name = parse_name(&name)?;
    let none = || ApiError::NotFound(format!("no share named `{name}` is up on this node"));
    let share = api.tunnels.live_share(&name).ok_or_else(none)?;
    let message = format!("the operator of this relay closed the share `{name}`");
    api.tunnels.take_down(&share, Refusal::new(code::FORBIDDEN, message));
    api.tunnels.debts.audit("share.close", "operator", name.as_str(), share.facts.owner.clone());
    Ok(StatusCode::NO_CONTENT)
}

fn parse_name(text: &str) -> Result<Name, ApiError> {
    text.parse().map_err(|error| ApiError::Invalid(format!("`{text}` is no name: {error}")))
}

async fn names(State(api): State<Api>) -> Answer<Vec<operator::NameEntry>> {
    Ok(Json(operator::names(&*api.tunnels.store, unix_now()).await?))
}

/// What keeps a name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepName {
    state: Keep,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    note: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Keep {
    Reserved,
    Blocked,
}

async fn keep_name(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Result<Json<KeepName>, JsonRejection>,
) -> Answer<NameRule> {
    let (name, Json(KeepName { state, owner, note })) = (parse_name(&name)?, body?);
    let (store, now) = (&*api.tunnels.store, unix_now());
    let rule = match (state, owner) {
        (Keep::Reserved, owner) => {
            let owner = owner.as_deref().map(operator::parse_owner).transpose()?;
            operator::reserve_name(store, name, owner, note, now).await?
        }
        (Keep::Blocked, None) => operator::block_name(store, name, note, now).await?,
        (Keep::Blocked, Some(_)) => {
            return Err(ApiError::Invalid("a blocked name is for nobody".to_owned()));
        }
    };
    Ok(Json(rule))
}

#[derive(Debug, Deserialize)]
struct Release {
    cooling_secs: Option<u64>,
}

async fn release_name(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(release): Query<Release>,
) -> Answer<operator::Released> {
    let cooling = release.cooling_secs.map_or(COOLING, Duration::from_secs);
    let (name, store) = (parse_name(&name)?, &*api.tunnels.store);
    Ok(Json(operator::release_name(store, name, cooling, unix_now()).await?))
}

async fn owners(State(api): State<Api>) -> Answer<Vec<operator::OwnerEntry>> {
    Ok(Json(operator::owners(&*api.tunnels.store, unix_now()).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quota {
    max_shares: Option<u32>,
}

async fn set_quota(
    State(api): State<Api>,
    Path(owner): Path<String>,
    body: Result<Json<Quota>, JsonRejection>,
) -> Answer<OwnerQuota> {
    let (owner, Json(quota)) = (operator::parse_owner(&owner)?, body?);
    let store = &*api.tunnels.store;
    Ok(Json(operator::set_quota(store, &owner, quota.max_shares, unix_now()).await?))
}

async fn tokens(State(api): State<Api>) -> Answer<Vec<TokenRecord>> {
    Ok(Json(api.tunnels.store.tokens().await?))
}

/// A wish for a token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Issue {
    subject: String,
    #[serde(default)]
    names: Option<Vec<NamePattern>>,
    #[serde(default)]
    max_shares: Option<u32>,
    #[serde(default)]
    bound_to: Option<String>,
    #[serde(default)]
    expires_in_secs: Option<u64>,
}

async fn issue(
    State(api): State<Api>,
    body: Result<Json<Issue>, JsonRejection>,
) -> Result<Response, ApiError> {
    let (Json(wish), now) = (body?, unix_now());
    let request = GrantRequest {
        subject: wish.subject,
        names: wish.names.map_or_else(NamePatterns::any, NamePatterns::new),
        max_shares: wish.max_shares,
        bound_to: wish.bound_to,
        expires_at: now.saturating_add(wish.expires_in_secs.unwrap_or(TOKEN_LIFE)),
    };
    let issued = issue_token(&api.tunnels.key, &*api.tunnels.store, request, now).await;
    let (token, record) = issued.map_err(|error| match error {
        IssueError::Request(error) => ApiError::Invalid(error.to_string()),
        IssueError::Store(error) => error.into(),
    })?;
    let body = json!({ "token": token.expose(), "record": record });
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

async fn revoke(State(api): State<Api>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    match revoke_token(&*api.tunnels.store, &id, unix_now()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::NotFound(format!("no token has the id `{id}`"))),
    }
}

#[derive(Debug, Deserialize)]
struct Trail {
    limit: Option<u32>,
}

async fn audit(State(api): State<Api>, Query(trail): Query<Trail>) -> Answer<Vec<AuditEvent>> {
    let limit = trail.limit.unwrap_or(TRAIL).min(MAX_TRAIL);
    Ok(Json(api.tunnels.store.audit_trail(limit).await?))
}

#[cfg(test)]
mod tests;
