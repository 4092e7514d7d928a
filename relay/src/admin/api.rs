//! The admin API, version 1: what `mcpm-relay name|owner|domain|share|token|status|audit` do, over
//! HTTP.
//!
//! Every request carries the admin token, so that neither a page in a browser nor another user of
//! the machine can use it. `openapi.json` describes it; a test holds it against `ROUTES`.

mod domains;
mod owners;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};
use axum::{Json, Router};
use mcpm_shared::name::Name;
use mcpm_shared::token::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use super::{Phase, STORE_TIMEOUT};
use crate::admission::{IssueError, issue_token, revoke_token, unix_now};
use crate::cert::{CertSource, CertStatus};
use crate::config::{Layer, Live, ReloadError, Reloaded, Reloader};
use crate::grants::{GrantRequest, NamePattern, NamePatterns};
use crate::nodes::Nodes;
use crate::nodes::shares::{self, CloseError, ShareEntry};
use crate::operator::{self, COOLING, OperatorError};
use crate::store::{AuditEvent, AuditFilter, NameRule, NodeRecord, StoreError, TokenRecord};
use crate::tunnel::Tunnels;

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
    pub token: AdminToken,
    /// Live shares and sessions.
    pub tunnels: Arc<Tunnels>,
    /// The other nodes, where there are any.
    pub nodes: Option<Arc<Nodes>>,
    /// Reads the settings again.
    pub reloader: Arc<Reloader>,
    /// What is shown to those who connect by TLS; `None` without.
    pub cert: Option<Arc<dyn CertSource>>,
    /// Where the relay is in its life.
    pub phase: watch::Receiver<Phase>,
    /// When it started, in Unix seconds.
    pub started_at: u64,
}

/// What requests to the API must carry; changes when its file is read again. Clones are one token.
#[derive(Clone, Debug)]
pub struct AdminToken(Arc<ArcSwap<Digest>>);

impl AdminToken {
    /// Makes a token of which this is the digest.
    #[must_use]
    pub fn new(token: Digest) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(token)))
    }

    /// Asks for another token from now on.
    pub fn change(&self, token: Digest) {
        self.0.store(Arc::new(token));
    }

    /// Tells whether this is the digest of the token, in constant time.
    #[must_use]
    pub fn is(&self, digest: &Digest) -> bool {
        self.0.load().same(digest)
    }

    /// Tells whether this is the token.
    #[must_use]
    pub fn matches(&self, token: &[u8]) -> bool {
        self.0.load().matches(token)
    }
}

/// One path below [`BASE`] and what answers there.
type Route = (&'static str, fn() -> MethodRouter<Api>);

const ROUTES: &[Route] = &[
    ("/domains", || routing::get(domains::list)),
    ("/domains/{domain}", || routing::put(domains::add).delete(domains::remove)),
    ("/domains/{domain}/verify", || routing::post(domains::verify)),
    ("/config", || routing::get(config)),
    ("/reload", || routing::post(reload)),
    ("/audit", || routing::get(audit)),
    ("/openapi.json", || routing::get(openapi)),
    ("/status", || routing::get(status)),
    ("/nodes", || routing::get(nodes)),
    ("/shares", || routing::get(list_shares)),
    ("/shares/{name}", || routing::delete(close_share)),
    ("/names", || routing::get(names)),
    ("/names/{name}", || routing::put(keep_name).delete(release_name)),
    ("/owners", || routing::get(owners::list)),
    ("/owners/{owner}", || routing::get(owners::show)),
    ("/owners/{owner}/block", || routing::put(owners::block).delete(owners::unblock)),
    ("/owners/{owner}/quota", || routing::put(owners::set_quota)),
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
    match shown_token(request.headers()) {
        Some(token) if api.token.matches(token) => next.run(request).await,
        _ => unauthorized(),
    }
}

/// Returns the token that a request carries.
pub(super) fn shown_token(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.as_bytes())
}

/// Returns what requests without the token get.
pub(super) fn unauthorized() -> Response {
    ApiError::Unauthorized.into_response()
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
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    DnsFailed(String),
    #[error("the relay's database does not answer")]
    Unavailable,
    #[error("{0}")]
    NodeAway(String),
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
            OperatorError::NothingToRelease(_) | OperatorError::NoDomain(_) => {
                Self::NotFound(error.to_string())
            }
            OperatorError::DomainTaken { .. } | OperatorError::DomainChanged(_) => {
                Self::Conflict(error.to_string())
            }
            OperatorError::Lookup(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a domain was not checked"
                );
                Self::DnsFailed(error.to_string())
            }
            OperatorError::Owner(_) | OperatorError::DomainOfRelay(_) => {
                Self::Invalid(error.to_string())
            }
        }
    }
}

impl From<CloseError> for ApiError {
    fn from(error: CloseError) -> Self {
        match error {
            CloseError::Store(error) => error.into(),
            error => Self::NodeAway(error.to_string()),
        }
    }
}

impl From<ReloadError> for ApiError {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Failed => Self::Failed,
            error => Self::Invalid(error.to_string()),
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
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::DnsFailed(_) => (StatusCode::BAD_GATEWAY, "dns_failed"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::NodeAway(_) => (StatusCode::SERVICE_UNAVAILABLE, "node_away"),
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        (status, Json(json!({ "code": code, "message": self.to_string() }))).into_response()
    }
}

type Answer<T> = Result<Json<T>, ApiError>;

async fn reload(State(api): State<Api>) -> Answer<Reloaded> {
    Ok(Json(api.tunnels.reload(&api.reloader).await?))
}

/// Returns the settings that are obeyed now, as `config print --json` does: without secrets.
async fn config(State(api): State<Api>) -> Json<Layer> {
    Json(config_of(&api.tunnels.config))
}

fn config_of(live: &Live) -> Layer {
    Layer::from(&**live.load())
}

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
    /// Where the relay speaks TLS.
    certificate: Option<CertStatus>,
    started_at: u64,
    sessions: i64,
    connections: i64,
    shares: i64,
    requests_in_flight: i64,
    held_requests: i64,
    /// All nodes, where there are several.
    nodes: Vec<NodeRecord>,
}

async fn status(State(api): State<Api>) -> Json<Status> {
    let (metrics, config) = (&api.tunnels.metrics, api.tunnels.config.load_full());
    let ping = tokio::time::timeout(STORE_TIMEOUT, api.tunnels.store.ping()).await;
    let phase = *api.phase.borrow();
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        node: config.node.clone(),
        domain: config.domain.to_string(),
        phase: phase.name(),
        database: if matches!(ping, Ok(Ok(()))) { "up" } else { "down" },
        certificate: api.cert.as_deref().map(CertStatus::of),
        started_at: api.started_at,
        sessions: metrics.sessions.get(),
        connections: metrics.connections.get(),
        shares: metrics.shares.get(),
        requests_in_flight: metrics.requests_in_flight.get(),
        held_requests: metrics.held_requests.get(),
        nodes: api.tunnels.nodes.load().to_vec(),
    })
}

async fn nodes(State(api): State<Api>) -> Json<Vec<NodeRecord>> {
    Json(api.tunnels.nodes.load().to_vec())
}

async fn list_shares(State(api): State<Api>) -> Answer<Vec<ShareEntry>> {
    Ok(Json(shares::all_shares(&api.tunnels, api.nodes.as_deref()).await?))
}

async fn close_share(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let name = parse_name(&name)?;
    match shares::close(&api.tunnels, api.nodes.as_deref(), &name).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::NotFound(format!("no share named `{name}` is up"))),
    }
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

/// Which events are asked for.
#[derive(Debug, Deserialize)]
struct Trail {
    limit: Option<u32>,
    since: Option<u64>,
    until: Option<u64>,
    action: Option<String>,
    actor: Option<String>,
    object: Option<String>,
}

async fn audit(State(api): State<Api>, Query(trail): Query<Trail>) -> Answer<Vec<AuditEvent>> {
    let Trail { limit, since, until, action, actor, object } = trail;
    let limit = limit.unwrap_or(TRAIL).min(MAX_TRAIL);
    if limit == 0 {
        return Err(ApiError::Invalid("`limit` must be 1 or more".to_owned()));
    }
    let filter = AuditFilter { limit, since, until, action, actor, object };
    Ok(Json(api.tunnels.store.audit_events(filter).await?))
}

#[cfg(test)]
mod tests;
