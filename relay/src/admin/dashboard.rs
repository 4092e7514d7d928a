//! The dashboard: what a relay does right now, for an operator with a browser.
//!
//! Pages are made here; a script of a few lines fetches the same content as JSON and puts it in
//! place. Nothing comes from elsewhere, nothing is inline, and everything an agent or a visitor could
//! have chosen is text: the policy for content would stop it otherwise. Who has shown the admin
//! token gets a cookie; what changes something also asks for a token of the session.

mod history;
mod page;
mod session;
mod tables;
mod view;
mod words;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Form, Path, Query, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::middleware;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use mcpm_shared::name::Name;
use serde::Deserialize;

use self::history::History;
use self::session::{Login, Sessions};
use self::view::{Content, Kept};
use super::api::{self, Api};
use crate::admission::unix_now;
use crate::nodes::shares::{self, CloseError, Elsewhere};
use crate::operator::{self, COOLING};

/// How often the history gets a sample.
const SAMPLING: Duration = Duration::from_secs(5);
/// The longest form that is read, in bytes.
const MAX_FORM: usize = 16 * 1024;

/// What pages may load and do: nothing that is not from here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// The dashboard of a relay. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Dashboard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    api: Api,
    sessions: Sessions,
    history: History,
    /// What came from the database.
    stored: Kept<Content>,
    /// The shares of other nodes.
    elsewhere: Kept<Elsewhere>,
}

impl Dashboard {
    /// Makes the dashboard over what the API answers from.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self(Arc::new(Inner {
            sessions: Sessions::new(api.token.clone()),
            history: History::default(),
            stored: Kept::default(),
            elsewhere: Kept::default(),
            api,
        }))
    }

    /// Notes from time to time how much there is to do, for the chart. Never ends.
    pub async fn sample(&self) {
        let mut ticks = tokio::time::interval(SAMPLING);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.0.history.add(&self.0.api.tunnels.metrics.read());
        }
    }
}

/// Returns the routes of the dashboard.
pub fn router(dashboard: Dashboard) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/dashboard.json", get(live))
        .route("/dashboard.css", get(style))
        .route("/dashboard.js", get(script))
        .route("/dashboard.svg", get(icon))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .route("/shares/{name}/close", post(close))
        .route("/names/{name}/block", post(block))
        .route("/names/{name}/release", post(release))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .layer(middleware::map_response(harden))
        .with_state(dashboard)
}

/// Adds what every answer says to browsers.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// What an operator looks for, and what was done just before.
#[derive(Debug, Default, Deserialize)]
struct Look {
    /// Part of a name or an owner.
    #[serde(default)]
    q: String,
    done: Option<Done>,
    name: Option<String>,
}

/// What an action has led to.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Done {
    Closed,
    Blocked,
    Released,
    Gone,
    Away,
    Failed,
}

impl Look {
    fn notice(&self) -> Option<String> {
        let name: Name = self.name.as_deref()?.parse().ok()?;
        Some(match self.done? {
            Done::Closed => format!("The share {name} was closed. Its agent was told to stop."),
            Done::Blocked => format!("The name {name} is blocked."),
            Done::Released => format!("The name {name} was released."),
            Done::Gone => format!("There is nothing to do about {name} any more."),
            Done::Away => format!("Nothing was done about {name}: its node does not answer."),
            Done::Failed => format!("Nothing was done about {name}: the database does not answer."),
        })
    }
}

async fn home(
    State(Dashboard(inner)): State<Dashboard>,
    Query(look): Query<Look>,
    headers: HeaderMap,
) -> Response {
    let Some(login) = inner.sessions.find(&headers) else {
        return Html(page::login(None)).into_response();
    };
    let view = inner.view(&look.q).await;
    Html(page::dashboard(&view, &look.q, &login.csrf, look.notice())).into_response()
}

async fn live(
    State(Dashboard(inner)): State<Dashboard>,
    Query(look): Query<Look>,
    headers: HeaderMap,
) -> Response {
    let bearer = api::shown_token(&headers).is_some_and(|token| inner.api.token.matches(token));
    if !bearer && inner.sessions.find(&headers).is_none() {
        return api::unauthorized();
    }
    Json(inner.view(&look.q).await).into_response()
}

/// The admin token, as the login form sends it.
#[derive(Deserialize)]
struct Credentials {
    token: String,
}

async fn login(
    State(Dashboard(inner)): State<Dashboard>,
    headers: HeaderMap,
    Form(credentials): Form<Credentials>,
) -> Response {
    if !same_origin(&headers) {
        return refused();
    }
    match inner.sessions.login(credentials.token.trim(), &headers) {
        Login::In(cookie) => ([(header::SET_COOKIE, cookie)], home_again(None)).into_response(),
        Login::Wrong => {
            tracing::warn!("a login to the dashboard with a wrong token");
            let page = page::login(Some("That is not the admin token of this relay."));
            (StatusCode::UNAUTHORIZED, Html(page)).into_response()
        }
        Login::TooMany => {
            let page = page::login(Some("Too many attempts: wait a minute."));
            (StatusCode::TOO_MANY_REQUESTS, Html(page)).into_response()
        }
    }
}

/// What every form beside the login sends.
#[derive(Debug, Deserialize)]
struct Wish {
    csrf: String,
}

impl Inner {
    /// Tells whether a form was sent from a page that the sender got here after a login.
    fn may(&self, headers: &HeaderMap, wish: &Wish) -> bool {
        let login = self.sessions.find(headers);
        same_origin(headers) && login.is_some_and(|login| login.is_own(&wish.csrf))
    }
}

/// Browsers say where a request comes from; those that do not still need the session's token.
fn same_origin(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none")
}

async fn logout(
    State(Dashboard(inner)): State<Dashboard>,
    headers: HeaderMap,
    Form(wish): Form<Wish>,
) -> Response {
    if !inner.may(&headers, &wish) {
        return refused();
    }
    let cookie = inner.sessions.logout(&headers);
    ([(header::SET_COOKIE, cookie)], home_again(None)).into_response()
}

async fn close(
    State(Dashboard(inner)): State<Dashboard>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Form(wish): Form<Wish>,
) -> Response {
    let Some(name) = inner.wanted(&headers, &wish, &name) else { return refused() };
    let (tunnels, nodes) = (&inner.api.tunnels, inner.api.nodes.as_deref());
    let done = match shares::close(tunnels, nodes, &name).await {
        Ok(true) => Done::Closed,
        Ok(false) => Done::Gone,
        Err(CloseError::Node(_)) => Done::Away,
        Err(_) => Done::Failed,
    };
    inner.elsewhere.forget();
    home_again(Some((done, &name)))
}

async fn block(
    State(Dashboard(inner)): State<Dashboard>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Form(wish): Form<Wish>,
) -> Response {
    let Some(name) = inner.wanted(&headers, &wish, &name) else { return refused() };
    let (store, note) = (&*inner.api.tunnels.store, "from the dashboard".to_owned());
    let blocked = operator::block_name(store, name.clone(), note, unix_now()).await;
    inner.stored.forget();
    home_again(Some((if blocked.is_ok() { Done::Blocked } else { Done::Failed }, &name)))
}

async fn release(
    State(Dashboard(inner)): State<Dashboard>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Form(wish): Form<Wish>,
) -> Response {
    let Some(name) = inner.wanted(&headers, &wish, &name) else { return refused() };
    let store = &*inner.api.tunnels.store;
    let done = match operator::release_name(store, name.clone(), COOLING, unix_now()).await {
        Ok(_) => Done::Released,
        Err(operator::OperatorError::Store(_)) => Done::Failed,
        Err(_) => Done::Gone,
    };
    inner.stored.forget();
    home_again(Some((done, &name)))
}

impl Inner {
    /// Returns the name that something is to be done about, where the sender may.
    fn wanted(&self, headers: &HeaderMap, wish: &Wish, name: &str) -> Option<Name> {
        self.may(headers, wish).then(|| name.parse().ok())?
    }
}

/// Sends the browser to the page, relative to wherever a proxy has put it.
fn home_again(done: Option<(Done, &Name)>) -> Response {
    let at = match done {
        // Two folders up from `/shares/NAME/close`.
        Some((done, name)) => format!("../../?done={}&name={name}", done.word()),
        None => "./".to_owned(),
    };
    Redirect::to(&at).into_response()
}

impl Done {
    fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Blocked => "blocked",
            Self::Released => "released",
            Self::Gone => "gone",
            Self::Away => "away",
            Self::Failed => "failed",
        }
    }
}

fn refused() -> Response {
    let page = page::login(Some("Your session has ended, or this did not come from this page."));
    (StatusCode::FORBIDDEN, Html(page)).into_response()
}

async fn style(uri: Uri) -> Response {
    file("text/css; charset=utf-8", include_str!("dashboard/dashboard.css"), &uri)
}

async fn script(uri: Uri) -> Response {
    file("text/javascript; charset=utf-8", include_str!("dashboard/dashboard.js"), &uri)
}

async fn icon(uri: Uri) -> Response {
    file("image/svg+xml", include_str!("dashboard/dashboard.svg"), &uri)
}

/// Pages name the version of the file that they were made for, so it may be kept for long.
fn file(kind: &'static str, content: &'static str, uri: &Uri) -> Response {
    let keep = if uri.query().is_some() { "public, max-age=31536000" } else { "no-cache" };
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, keep)], content).into_response()
}
