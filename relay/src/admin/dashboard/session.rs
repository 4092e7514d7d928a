//! Who is logged in to the dashboard: an unguessable cookie each, in memory, for some hours.
//!
//! The admin token itself is never put into a cookie, and a restart logs everybody out.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::header::{self, HeaderMap, HeaderValue};
use mcpm_shared::token::{Digest, Token};
use tokio::time::Instant;

use crate::admin::api::AdminToken;
use crate::quota::Keyed;

const COOKIE: &str = "mcpm_relay_admin";
/// A working day.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// How many may be logged in; the one that logged in first makes room.
const MAX: usize = 64;
/// Logins a minute, right or wrong: the token may be one that a person chose.
const ATTEMPTS: Option<NonZeroU32> = NonZeroU32::new(20);

/// Everybody who is logged in.
#[derive(Debug)]
pub(super) struct Sessions {
    token: AdminToken,
    open: Mutex<Vec<Session>>,
    attempts: Keyed<()>,
}

/// One login. Clones are copies.
#[derive(Clone, Debug)]
pub(super) struct Session {
    id: Digest,
    /// The admin token that was shown: another one logs everybody out.
    shown: Digest,
    /// What forms of this session carry.
    pub(super) csrf: Token,
    until: Instant,
}

impl Session {
    /// Tells whether a form's token is this session's, in constant time.
    pub(super) fn is_own(&self, csrf: &str) -> bool {
        self.csrf.digest().matches(csrf.as_bytes())
    }
}

/// What came of a login.
#[derive(Debug)]
pub(super) enum Login {
    /// The cookie to set.
    In(HeaderValue),
    /// The token is another one.
    Wrong,
    /// There were too many logins of late.
    TooMany,
}

impl Sessions {
    pub(super) fn new(token: AdminToken) -> Self {
        Self { token, open: Mutex::default(), attempts: Keyed::per_minute(ATTEMPTS) }
    }

    /// Lets somebody in who shows the admin token.
    pub(super) fn login(&self, token: &str, headers: &HeaderMap) -> Login {
        if self.attempts.check(&()).is_err() {
            return Login::TooMany;
        }
        if !self.token.matches(token.as_bytes()) {
            return Login::Wrong;
        }
        let (id, now) = (Token::generate(), Instant::now());
        let session = Session {
            id: id.digest(),
            shown: Digest::of(token.as_bytes()),
            csrf: Token::generate(),
            until: now + LIFE,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|session| session.until > now);
        if open.len() >= MAX {
            open.remove(0);
        }
        open.push(session);
        Login::In(cookie(id.expose(), LIFE, headers))
    }

    /// Returns the session whose cookie a request carries.
    pub(super) fn find(&self, headers: &HeaderMap) -> Option<Session> {
        let shown = cookies(headers).map(|id| Digest::of(id.as_bytes())).collect::<Vec<_>>();
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let known = |session: &&Session| shown.iter().any(|id| session.id.same(id));
        let lasts = |session: &&Session| session.until > now && self.token.is(&session.shown);
        open.iter().filter(known).find(lasts).cloned()
    }

    /// Ends the session of a request; returns the cookie that replaces its own.
    pub(super) fn logout(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(ended) = self.find(headers) {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|session| !session.id.same(&ended.id));
        }
        cookie("", Duration::ZERO, headers)
    }
}

/// The values of our cookie; a browser may send several of one name.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// The listener speaks plain HTTP; `Secure` is for who comes through a proxy that speaks HTTPS. Who
/// lies about that locks out nobody else.
fn cookie(value: &str, life: Duration, headers: &HeaderMap) -> HeaderValue {
    let https = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let secure = if https { "; Secure" } else { "" };
    let life = life.as_secs();
    let text =
        format!("{COOKIE}={value}; Path=/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}");
    let mut cookie = HeaderValue::from_str(&text).expect("base64url is visible ASCII");
    cookie.set_sensitive(true);
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> (AdminToken, Sessions) {
        let token = AdminToken::new(Token::new("right").digest());
        (token.clone(), Sessions::new(token))
    }

    fn logged_in(sessions: &Sessions, token: &str) -> HeaderMap {
        let Login::In(cookie) = sessions.login(token, &HeaderMap::new()) else { panic!("wrong") };
        let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, format!("theme=dark; {pair}").parse().unwrap());
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_lasts_some_hours_and_ends_with_a_logout() {
        let sessions = sessions().1;
        assert!(matches!(sessions.login("wrong", &HeaderMap::new()), Login::Wrong));
        let headers = logged_in(&sessions, "right");
        let session = sessions.find(&headers).unwrap();
        assert!(session.is_own(session.csrf.expose()) && !session.is_own("other"));
        assert!(sessions.find(&HeaderMap::new()).is_none());
        let other = logged_in(&sessions, "right");
        sessions.logout(&headers);
        assert!(sessions.find(&headers).is_none() && sessions.find(&other).is_some());
        tokio::time::advance(LIFE).await;
        assert!(sessions.find(&other).is_none());
    }

    #[tokio::test]
    async fn another_admin_token_logs_everybody_out() {
        let (token, sessions) = sessions();
        let headers = logged_in(&sessions, "right");
        assert!(sessions.find(&headers).is_some());
        token.change(Token::new("other").digest());
        assert!(sessions.find(&headers).is_none());
    }

    #[tokio::test]
    async fn guesses_are_slowed_down() {
        let sessions = sessions().1;
        for _ in 0..20 {
            assert!(matches!(sessions.login("wrong", &HeaderMap::new()), Login::Wrong));
        }
        assert!(matches!(sessions.login("right", &HeaderMap::new()), Login::TooMany));
    }

    #[tokio::test]
    async fn the_cookie_is_for_this_site_and_no_script() {
        let sessions = sessions().1;
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        let Login::In(cookie) = sessions.login("right", &headers) else { panic!("wrong") };
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
        assert!(!cookie.contains("right"));
    }
}
