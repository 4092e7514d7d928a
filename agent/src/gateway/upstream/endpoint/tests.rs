use std::sync::Arc;

use futures_util::future::join_all;
use mcpm_shared::scope::Scope;

use super::super::testing::{LIMITS, ask, next, nursery, opening};
use super::super::{Conn, Target};
use super::*;
use crate::fs::Paths;
use crate::hint::Hint as _;
use crate::oauth::testing::Stage;
use crate::oauth::{Record, Store};

/// A server that wants a login, and a folder where logins are kept.
struct Desk {
    stage: Stage,
    _dir: tempfile::TempDir,
    paths: Paths,
}

impl Desk {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("mcpm"));
        Self { stage: Stage::start().await, _dir: dir, paths }
    }

    fn log_in(&self) -> Record {
        let record = self.stage.login("far");
        Store::open(&self.paths).keep(&record).unwrap();
        record
    }

    /// Makes a token worth nothing, which only the server knows.
    fn revoke(&self, record: &Record) {
        assert!(self.stage.books().access.remove(record.access_token.expose()));
    }

    fn endpoint(&self, headers: &Vars) -> Arc<Endpoint> {
        let credentials = Credentials::open(&self.paths, Scope::new());
        Arc::new(Endpoint::new("far", &self.stage.url(), headers, Some(&credentials)).unwrap())
    }

    async fn open(&self) -> Result<Arc<Conn>, GatewayError> {
        let target = Target::Remote(self.endpoint(&Vars::default()));
        Conn::open(&target, &opening(), None, &nursery(), &LIMITS).await
    }
}

async fn said(conn: &Arc<Conn>, method: &str) -> String {
    let (_claim, mut queue) = ask(conn, &format!(r#"{{"id":"a","method":"{method}"}}"#)).await;
    let (text, last) = next(&mut queue).await;
    assert!(last, "{text}");
    text
}

#[tokio::test]
async fn requests_carry_the_token_of_the_login() {
    let desk = Desk::new().await;
    let record = desk.log_in();
    let conn = desk.open().await.unwrap();
    assert!(said(&conn, "x").await.contains("result"));
    let calls = desk.stage.books().calls.clone();
    let token = record.access_token.expose();
    assert!(calls.len() >= 3 && calls.iter().all(|call| call.as_deref() == Some(token)));
    assert_eq!(desk.stage.books().renewals, 0);
}

#[tokio::test]
async fn many_requests_that_are_refused_at_once_renew_the_login_once_and_all_succeed() {
    let desk = Desk::new().await;
    let record = desk.log_in();
    let conn = desk.open().await.unwrap();
    desk.revoke(&record);
    let texts = join_all((0..10).map(|_| said(&conn, "x"))).await;
    assert!(texts.iter().all(|text| text.contains("result")), "{texts:?}");
    assert_eq!(desk.stage.books().renewals, 1);
}

#[tokio::test]
async fn a_login_that_cannot_be_renewed_tells_the_client_what_to_do() {
    let desk = Desk::new().await;
    let record = desk.log_in();
    let conn = desk.open().await.unwrap();
    desk.stage.manners().refuses_renewal = Some(StatusCode::BAD_REQUEST);
    desk.revoke(&record);
    for _ in 0..2 {
        let text = said(&conn, "x").await;
        assert!(text.contains("takes our login no more (HTTP 401)"), "{text}");
        assert!(text.contains("Log in again with `mcpm login far`"), "{text}");
    }
    assert_eq!(desk.stage.books().renewals, 1);
    desk.log_in();
    assert!(said(&conn, "x").await.contains("result"));
}

#[tokio::test]
async fn a_server_that_wants_a_login_cannot_be_opened_without_one() {
    let desk = Desk::new().await;
    let error = desk.open().await.unwrap_err();
    assert!(matches!(error, GatewayError::Unauthorized { status: 401, .. }), "{error}");
    assert_eq!(error.hint().unwrap(), "Log in with `mcpm login far`");
    assert_eq!(desk.stage.books().calls, [None]);
}

#[tokio::test]
async fn a_missing_scope_is_named_with_those_that_are_there() {
    let desk = Desk::new().await;
    desk.log_in();
    let conn = desk.open().await.unwrap();
    let text = said(&conn, "admin").await;
    assert!(text.contains("asks for a login with more rights (HTTP 403)"), "{text}");
    assert!(text.contains("`mcpm login far --scope 'read admin'`"), "{text}");
    assert_eq!(desk.stage.books().renewals, 0);
}

#[tokio::test]
async fn an_entry_with_credentials_of_its_own_keeps_them() {
    let desk = Desk::new().await;
    desk.log_in();
    let endpoint = desk.endpoint(&Vars::default().with("authorization", "Bearer mine"));
    let answer = endpoint.call(Method::POST, HeaderMap::new(), Bytes::new()).await.unwrap();
    assert_eq!(desk.stage.books().calls, [Some("mine".to_owned())]);
    let error = endpoint.refusal(answer.status(), answer.headers());
    assert!(error.hint().unwrap().contains("`headers` of `far`"), "{error}");
}

#[tokio::test]
async fn a_token_does_not_follow_a_server_to_another_url() {
    let desk = Desk::new().await;
    let record = desk.log_in();
    let elsewhere = Record { url: "http://127.0.0.1:1/mcp".to_owned(), ..record };
    Store::open(&desk.paths).keep(&elsewhere).unwrap();
    let error = desk.open().await.unwrap_err();
    assert!(error.hint().unwrap().contains("mcpm login far"), "{error}");
    assert_eq!(desk.stage.books().calls, [None]);
}

#[tokio::test]
async fn a_login_that_cannot_be_read_is_an_error_with_a_hint() {
    let desk = Desk::new().await;
    desk.log_in();
    std::fs::write(desk.paths.auth().join("far.json"), "{,").unwrap();
    let error = desk.open().await.unwrap_err();
    assert!(matches!(error, GatewayError::Login { .. }), "{error}");
    assert!(error.hint().unwrap().contains("Repair or move away"), "{error}");
    assert!(desk.stage.books().calls.is_empty());
}
