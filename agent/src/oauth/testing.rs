//! An authorization server and an MCP server behind it, for tests: discovery, registration, PKCE,
//! rotation of refresh tokens, all checked as strictly as the standards have it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::{Url, form_urlencoded};

use super::record::{Client, Record, unix_now};

/// A login that was never made.
pub(crate) fn record(server: &str, url: &str) -> Record {
    Record {
        server: server.to_owned(),
        url: url.to_owned(),
        issuer: None,
        resource: url.to_owned(),
        token_endpoint: "https://x.example/token".to_owned(),
        auth_methods: Vec::new(),
        client: Client { id: "client".to_owned(), secret: None, given: false },
        access_token: Token::new("access-0"),
        refresh_token: None,
        scopes: vec!["read".to_owned()],
        obtained_at: 1000,
        expires_at: None,
    }
}

/// How the two servers behave; a test may change it at any time.
#[derive(Debug)]
pub(crate) struct Manners {
    /// The `iss` of redirects; the true one when absent.
    pub(crate) issuer: Option<String>,
    /// Where metadata says that people log in; the true place when absent.
    pub(crate) authorization_endpoint: Option<String>,
    /// What tokens are for; the URL of the MCP server when absent.
    pub(crate) resource: Option<String>,
    pub(crate) registers: bool,
    pub(crate) has_metadata: bool,
    /// Whether people agree.
    pub(crate) agrees: bool,
    /// How long access tokens live, in seconds.
    pub(crate) expires_in: Option<u64>,
    pub(crate) gives_refresh_tokens: bool,
    /// What answers every renewal, when it is not done.
    pub(crate) refuses_renewal: Option<StatusCode>,
    /// The secret that the client `known` must show.
    pub(crate) secret: Option<String>,
}

/// What was given and asked for.
#[derive(Debug, Default)]
pub(crate) struct Books {
    clients: HashMap<String, String>,
    codes: HashMap<String, HashMap<String, String>>,
    /// Access tokens that are good.
    pub(crate) access: HashSet<String>,
    refresh: HashSet<String>,
    given: usize,
    pub(crate) registrations: usize,
    pub(crate) renewals: usize,
    /// What each call to the MCP server carried.
    pub(crate) calls: Vec<Option<String>>,
    /// The parameters of each visit to where people log in.
    pub(crate) visits: Vec<HashMap<String, String>>,
}

#[derive(Clone)]
pub(crate) struct Stage(Arc<Inner>);

struct Inner {
    origin: String,
    manners: Mutex<Manners>,
    books: Mutex<Books>,
    scope: Scope,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let manners = Manners {
            issuer: None,
            authorization_endpoint: None,
            resource: None,
            registers: true,
            has_metadata: true,
            agrees: true,
            expires_in: Some(3600),
            gives_refresh_tokens: true,
            refuses_renewal: None,
            secret: None,
        };
        let stage = Self(Arc::new(Inner {
            origin: format!("http://{}", listener.local_addr().unwrap()),
            manners: Mutex::new(manners),
            books: Mutex::default(),
            scope: Scope::new(),
        }));
        let routes = Router::new()
            .route("/mcp", post(mcp).get(mcp).delete(mcp))
            .route("/open", get(open).post(open))
            .route("/.well-known/oauth-protected-resource/mcp", get(resource))
            .route("/.well-known/oauth-authorization-server/as", get(metadata))
            .route("/as/register", post(register))
            .route("/as/authorize", get(authorize))
            .route("/as/token", post(token))
            .with_state(stage.clone());
        stage.0.scope.spawn_until_cancelled(async move {
            drop(axum::serve(listener, routes).await);
        });
        stage
    }

    pub(crate) fn url(&self) -> String {
        self.at("/mcp")
    }

    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.0.origin)
    }

    pub(crate) fn issuer(&self) -> String {
        self.at("/as")
    }

    fn resource(&self) -> String {
        self.manners().resource.clone().unwrap_or_else(|| self.url())
    }

    pub(crate) fn manners(&self) -> MutexGuard<'_, Manners> {
        self.0.manners.lock().unwrap()
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.0.books.lock().unwrap()
    }

    /// A login as it was made some time ago: its access token is good, or ended just now.
    pub(crate) fn login(&self, server: &str) -> Record {
        let given = give(self);
        let text = |key: &str| given[key].as_str().map(Token::new);
        Record {
            issuer: Some(self.issuer()),
            token_endpoint: self.at("/as/token"),
            access_token: text("access_token").unwrap(),
            refresh_token: text("refresh_token"),
            obtained_at: unix_now() - 1000,
            expires_at: Some(unix_now() + 3600),
            ..record(server, &self.url())
        }
    }

    pub(crate) async fn stop(self) {
        assert_eq!(self.0.scope.clone().drain(Duration::from_secs(5)).await, 0);
    }
}

type Params = HashMap<String, String>;

fn form(text: &str) -> Params {
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

fn answer(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn no(error: &str) -> Response {
    answer(StatusCode::BAD_REQUEST, &json!({ "error": error }))
}

async fn mcp(State(stage): State<Stage>, headers: HeaderMap, body: Bytes) -> Response {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let mut books = stage.books();
    books.calls.push(token.clone());
    let good = token.is_some_and(|token| books.access.contains(&token));
    drop(books);
    if !good {
        let metadata = stage.at("/.well-known/oauth-protected-resource/mcp");
        let challenge = format!(r#"Bearer resource_metadata="{metadata}", scope="read""#);
        let named = stage.manners().has_metadata.then_some(challenge);
        let challenge = named.unwrap_or_else(|| "Bearer".to_owned());
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (id, method) = (message["id"].clone(), message["method"].as_str().unwrap_or_default());
    match method {
        "initialize" => {
            let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                "serverInfo": {"name": "guarded", "version": "1"}});
            answer(StatusCode::OK, &json!({"jsonrpc": "2.0", "id": id, "result": result}))
        }
        "server/discover" => {
            let error = json!({"code": -32601, "message": "unknown"});
            answer(StatusCode::NOT_FOUND, &json!({"jsonrpc": "2.0", "id": id, "error": error}))
        }
        "admin" => {
            let challenge = r#"Bearer error="insufficient_scope", scope="admin""#;
            (StatusCode::FORBIDDEN, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
        }
        "" => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        _ if id.is_null() => StatusCode::ACCEPTED.into_response(),
        _ => answer(StatusCode::OK, &json!({"jsonrpc": "2.0", "id": id, "result": {}})),
    }
}

/// A server that wants no login, and has a stream that never says anything.
async fn open(method: Method) -> Response {
    if method == Method::POST {
        return answer(StatusCode::OK, &json!({"jsonrpc": "2.0", "id": 0, "result": {}}));
    }
    let silence = futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>();
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    (kind, axum::body::Body::from_stream(silence)).into_response()
}

async fn resource(State(stage): State<Stage>) -> Response {
    if !stage.manners().has_metadata {
        return StatusCode::NOT_FOUND.into_response();
    }
    let value = json!({
        "resource": stage.resource(),
        "authorization_servers": [stage.issuer()],
        "scopes_supported": ["read", "admin"],
    });
    answer(StatusCode::OK, &value)
}

async fn metadata(State(stage): State<Stage>) -> Response {
    let manners = stage.manners();
    let place = manners.authorization_endpoint.clone();
    let mut value = json!({
        "issuer": stage.issuer(),
        "authorization_endpoint": place.unwrap_or_else(|| stage.at("/as/authorize")),
        "token_endpoint": stage.at("/as/token"),
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["read", "admin", "offline_access"],
        "authorization_response_iss_parameter_supported": true,
    });
    if manners.registers {
        value["registration_endpoint"] = stage.at("/as/register").into();
    }
    answer(StatusCode::OK, &value)
}

async fn register(State(stage): State<Stage>, body: Bytes) -> Response {
    let asked: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(asked["application_type"], "native");
    let mut books = stage.books();
    books.registrations += 1;
    let id = format!("client-{}", books.registrations);
    let redirect = asked["redirect_uris"][0].as_str().unwrap().to_owned();
    books.clients.insert(id.clone(), redirect);
    let value = json!({"client_id": id, "redirect_uris": asked["redirect_uris"]});
    answer(StatusCode::CREATED, &value)
}

async fn authorize(State(stage): State<Stage>, uri: Uri) -> Response {
    let asked = form(uri.query().unwrap_or_default());
    let mut books = stage.books();
    books.visits.push(asked.clone());
    let known = asked["client_id"] == "known";
    if !known && books.clients.get(&asked["client_id"]) != Some(&asked["redirect_uri"]) {
        return no("invalid_client");
    }
    let right = asked["response_type"] == "code"
        && asked["code_challenge_method"] == "S256"
        && asked["resource"] == stage.resource();
    let manners = stage.manners();
    let mut back = Url::parse(&asked["redirect_uri"]).unwrap();
    let issuer = manners.issuer.clone().unwrap_or_else(|| stage.issuer());
    let mut pairs = back.query_pairs_mut();
    pairs.append_pair("state", &asked["state"]).append_pair("iss", &issuer);
    if !right {
        pairs.append_pair("error", "invalid_request");
    } else if !manners.agrees {
        pairs.append_pair("error", "access_denied").append_pair("error_description", "not today");
    } else {
        books.given += 1;
        let code = format!("code-{}", books.given);
        pairs.append_pair("code", &code);
        books.codes.insert(code, asked);
    }
    drop(pairs);
    (StatusCode::FOUND, [(header::LOCATION, back.to_string())]).into_response()
}

async fn token(State(stage): State<Stage>, headers: HeaderMap, body: String) -> Response {
    let asked = form(&body);
    if !shows_secret(&stage, &asked, &headers) {
        return answer(StatusCode::UNAUTHORIZED, &json!({ "error": "invalid_client" }));
    }
    if asked["resource"] != stage.resource() {
        return no("invalid_target");
    }
    match asked["grant_type"].as_str() {
        "authorization_code" => {
            let Some(visit) = stage.books().codes.remove(&asked["code"]) else {
                return no("invalid_grant");
            };
            let challenge = Sha256::digest(asked["code_verifier"].as_bytes());
            let right = URL_SAFE_NO_PAD.encode(challenge) == visit["code_challenge"]
                && asked["redirect_uri"] == visit["redirect_uri"];
            if !right {
                return no("invalid_grant");
            }
        }
        "refresh_token" => {
            stage.books().renewals += 1;
            if let Some(status) = stage.manners().refuses_renewal {
                return answer(status, &json!({ "error": "invalid_grant" }));
            }
            let mut books = stage.books();
            if !books.refresh.remove(&asked["refresh_token"]) {
                // Somebody uses a token twice: RFC 9700 §4.14.2 has all of them end.
                books.refresh.clear();
                books.access.clear();
                return no("invalid_grant");
            }
        }
        _ => return no("unsupported_grant_type"),
    }
    answer(StatusCode::OK, &give(&stage))
}

fn shows_secret(stage: &Stage, asked: &Params, headers: &HeaderMap) -> bool {
    let basic = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let basic = basic.and_then(|value| STANDARD.decode(value.strip_prefix("Basic ")?).ok());
    match &stage.manners().secret {
        Some(secret) => basic == Some(format!("known:{secret}").into_bytes()),
        None => basic.is_none() && asked.contains_key("client_id"),
    }
}

fn give(stage: &Stage) -> Value {
    let manners = stage.manners();
    let mut books = stage.books();
    books.given += 1;
    let (access, refresh) = (format!("access-{}", books.given), format!("refresh-{}", books.given));
    books.access.insert(access.clone());
    let mut value = json!({"access_token": access, "token_type": "Bearer"});
    if let Some(life) = manners.expires_in {
        value["expires_in"] = life.into();
    }
    if manners.gives_refresh_tokens {
        books.refresh.insert(refresh.clone());
        value["refresh_token"] = refresh.into();
    }
    value
}
