use futures_util::future::join_all;
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;

use super::record::unix_now;
use super::testing::Stage;
use super::*;
use crate::fs::Paths;
use crate::hint::Hint as _;
use crate::model::Vars;

const REDIRECT: &str = "http://127.0.0.1:1/callback";

fn ask(stage: &Stage) -> Ask {
    Ask {
        server: "far".to_owned(),
        url: stage.url(),
        headers: Vars::default(),
        client: None,
        scopes: Vec::new(),
        redirect_uri: REDIRECT.to_owned(),
        allow_private: false,
    }
}

/// What the browser does: it goes where it is sent, up to the redirect to us.
async fn visit(flow: &Flow) -> String {
    let uri: http::Uri = flow.visit().parse().unwrap();
    let request = http::Request::get(uri).body(http_body_util::Empty::<bytes::Bytes>::new());
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http();
    let answer = client.request(request.unwrap()).await.unwrap();
    answer.headers()["location"].to_str().unwrap().to_owned()
}

/// A folder of logins, and two views of it that know nothing of each other, like two processes.
struct Desk {
    _dir: tempfile::TempDir,
    paths: Paths,
    scope: Scope,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("mcpm"));
        Self { _dir: dir, paths, scope: Scope::new() }
    }

    fn store(&self) -> Store {
        Store::open(&self.paths)
    }

    fn bearer(&self, stage: &Stage) -> Bearer {
        Credentials::open(&self.paths, self.scope.clone()).bearer("far", &stage.url())
    }
}

/// A login whose access token has ended.
fn ended(stage: &Stage) -> Record {
    let record = stage.login("far");
    stage.books().access.remove(record.access_token.expose());
    Record { expires_at: Some(unix_now() - 1), ..record }
}

#[tokio::test]
async fn a_login_finds_registers_and_proves_all_by_itself() {
    let stage = Stage::start().await;
    let flow = Flow::begin(ask(&stage), None).await.unwrap();
    let redirect = visit(&flow).await;
    assert!(flow.is_answered_by(&redirect));
    let record = flow.finish(&redirect).await.unwrap();
    assert_eq!((record.server.as_str(), record.url), ("far", stage.url()));
    assert_eq!(record.issuer, Some(stage.issuer()));
    assert_eq!(record.resource, stage.url());
    assert_eq!(record.scopes, ["read", "offline_access"]);
    assert!(stage.books().access.contains(record.access_token.expose()));
    assert!(record.refresh_token.is_some() && !record.client.given);
    assert!(record.expires_at.is_some_and(|end| end >= record.obtained_at + 3600));
    assert_eq!(stage.books().visits[0]["redirect_uri"], REDIRECT);
    // A code is good once.
    assert!(flow.finish(&redirect).await.is_err());
    stage.stop().await;
}

#[tokio::test]
async fn a_redirect_of_another_login_or_another_issuer_is_refused() {
    let stage = Stage::start().await;
    let flow = Flow::begin(ask(&stage), None).await.unwrap();
    let redirect = visit(&flow).await;
    let other = visit(&Flow::begin(ask(&stage), None).await.unwrap()).await;
    for strange in [other.as_str(), "http://127.0.0.1:1/callback?code=x", "hello", ""] {
        assert!(!flow.is_answered_by(strange), "{strange}");
        let error = flow.finish(strange).await.unwrap_err();
        assert!(matches!(error, OauthError::Redirect(_)), "{error}");
    }
    let issuer =
        url::form_urlencoded::byte_serialize(stage.issuer().as_bytes()).collect::<String>();
    let mixed = redirect.replace(&issuer, "https%3A%2F%2Fevil.example");
    let without = redirect.replace(&format!("&iss={issuer}"), "");
    for wrong in [mixed, without] {
        assert_ne!(wrong, redirect);
        let error = flow.finish(&wrong).await.unwrap_err();
        assert!(matches!(error, OauthError::Redirect(_)), "{error}");
    }
    assert!(stage.books().access.is_empty());
    // None of it spoils the true one; its query alone is enough.
    let query = &redirect[redirect.find('?').unwrap()..];
    assert!(flow.finish(query).await.is_ok());
}

#[tokio::test]
async fn a_person_who_says_no_is_understood() {
    let stage = Stage::start().await;
    stage.manners().agrees = false;
    let flow = Flow::begin(ask(&stage), None).await.unwrap();
    let redirect = visit(&flow).await;
    let error = flow.finish(&redirect).await.unwrap_err();
    assert_eq!(error.to_string(), "the login was refused: access_denied (not today)");
    stage.manners().issuer = Some("https://evil.example".to_owned());
    let redirect = visit(&flow).await;
    let error = flow.finish(&redirect).await.unwrap_err();
    assert!(matches!(error, OauthError::Redirect(_)), "{error}");
}

#[tokio::test]
async fn a_client_that_is_given_shows_its_secret_and_is_used_again() {
    let stage = Stage::start().await;
    stage.manners().registers = false;
    stage.manners().secret = Some("s3cret".to_owned());
    let error = Flow::begin(ask(&stage), None).await.unwrap_err();
    assert!(error.hint().unwrap().contains("--client-id"), "{error}");
    let secret = Some(Token::new("s3cret"));
    let client = Client { id: "known".to_owned(), secret, given: true };
    let ask_as = Ask { client: Some(client), scopes: vec!["admin".to_owned()], ..ask(&stage) };
    let flow = Flow::begin(ask_as, None).await.unwrap();
    let redirect = visit(&flow).await;
    let record = flow.finish(&redirect).await.unwrap();
    assert_eq!(record.scopes, ["admin", "offline_access"]);
    let again = Flow::begin(ask(&stage), Some(&record)).await.unwrap();
    let redirect = visit(&again).await;
    assert_eq!(again.finish(&redirect).await.unwrap().client, record.client);
    // Its secret is not for another authorization server.
    let elsewhere = Record { issuer: Some("https://other.example".to_owned()), ..record };
    assert!(Flow::begin(ask(&stage), Some(&elsewhere)).await.is_err());
}

#[tokio::test]
async fn what_is_no_place_to_log_in_is_not_opened() {
    let stage = Stage::start().await;
    for place in ["file:///bin/sh", "javascript:alert(1)", "calculator:", "x"] {
        stage.manners().authorization_endpoint = Some(place.to_owned());
        let error = Flow::begin(ask(&stage), None).await.unwrap_err();
        assert!(matches!(error, OauthError::Metadata { .. }), "{place}: {error}");
    }
    stage.manners().authorization_endpoint = None;
    let spoken = Ask { url: "ssh://x.example".to_owned(), ..ask(&stage) };
    assert!(matches!(Flow::begin(spoken, None).await, Err(OauthError::Url { .. })));
}

#[tokio::test]
async fn a_server_without_a_login_is_said_to_have_none() {
    let stage = Stage::start().await;
    for path in ["/open", "/none"] {
        let open = Ask { url: stage.at(path), ..ask(&stage) };
        let error = Flow::begin(open, None).await.unwrap_err();
        assert!(matches!(error, OauthError::NoLogin(_)), "{path}: {error}");
    }
    // One that wants a login and publishes nothing is asked as 2025-03-26 has it, in vain here.
    stage.manners().has_metadata = false;
    let error = Flow::begin(ask(&stage), None).await.unwrap_err();
    assert!(matches!(error, OauthError::Registration { .. }), "{error}");
    let url = stage.url();
    stage.stop().await;
    let gone = Ask { url, ..ask(&Stage::start().await) };
    let error = Flow::begin(gone, None).await.unwrap_err();
    assert!(matches!(error, OauthError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn nobody_logged_in_has_no_token_and_a_login_is_seen_at_once() {
    let (stage, desk) = (Stage::start().await, Desk::new());
    let bearer = desk.bearer(&stage);
    assert_eq!(bearer.token().await.unwrap(), None);
    let record = stage.login("far");
    desk.store().keep(&record).unwrap();
    assert_eq!(bearer.token().await.unwrap(), Some(record.access_token.clone()));
    assert_eq!(bearer.scopes_with("admin read"), "read admin");
    let elsewhere = Credentials::open(&desk.paths, desk.scope.clone());
    let elsewhere = elsewhere.bearer("far", "https://other.example/mcp");
    assert_eq!(elsewhere.token().await.unwrap(), None);
    desk.store().forget("far").unwrap();
    assert_eq!(bearer.token().await.unwrap(), None);
    assert_eq!(bearer.instead_of(&record.access_token).await.unwrap(), None);
}

#[tokio::test]
async fn many_requests_at_once_renew_a_login_once() {
    let (stage, desk) = (Stage::start().await, Desk::new());
    let old = ended(&stage);
    desk.store().keep(&old).unwrap();
    let bearer = desk.bearer(&stage);
    let tokens = join_all((0..10).map(|_| bearer.token())).await;
    let first = tokens[0].clone().unwrap().unwrap();
    assert!(stage.books().access.contains(first.expose()));
    assert!(tokens.into_iter().all(|token| token.unwrap().as_ref() == Some(&first)));
    assert_eq!(stage.books().renewals, 1);
    let kept = desk.store().read("far", &stage.url()).unwrap().unwrap();
    assert_eq!(kept.access_token, first);
    assert_ne!(kept.refresh_token, old.refresh_token);
    assert_eq!((kept.scopes, kept.client), (old.scopes, old.client));
}

#[tokio::test]
async fn a_renewal_names_the_resource_as_the_login_did() {
    let (stage, desk) = (Stage::start().await, Desk::new());
    // A server may have one login for all its URLs, and name it without a slash.
    stage.manners().resource = Some(stage.at(""));
    let flow = Flow::begin(ask(&stage), None).await.unwrap();
    let record = flow.finish(&visit(&flow).await).await.unwrap();
    assert_eq!(record.resource, stage.at(""));
    desk.store().keep(&Record { expires_at: Some(unix_now()), ..record.clone() }).unwrap();
    let token = desk.bearer(&stage).token().await.unwrap().unwrap();
    assert_ne!(token, record.access_token);
}

#[tokio::test]
async fn processes_renew_a_login_once_among_them() {
    let (stage, desk) = (Stage::start().await, Desk::new());
    let old = ended(&stage);
    desk.store().keep(&old).unwrap();
    let bearers: Vec<Bearer> = (0..5).map(|_| desk.bearer(&stage)).collect();
    let tokens = join_all(bearers.iter().map(Bearer::token)).await;
    let tokens: Vec<_> = tokens.into_iter().map(|token| token.unwrap().unwrap()).collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    // Those who come late with the token that has ended get the new one too.
    let late = bearers[4].instead_of(&old.access_token).await.unwrap();
    assert_eq!(late.as_ref(), Some(&tokens[0]));
    assert_eq!(stage.books().renewals, 1);
}

#[tokio::test]
async fn a_request_that_is_given_up_does_not_lose_the_new_token() {
    let (stage, desk) = (Stage::start().await, Desk::new());
    desk.store().keep(&ended(&stage)).unwrap();
    let bearer = desk.bearer(&stage);
    let given_up = tokio::time::timeout(std::time::Duration::ZERO, bearer.token()).await;
    assert!(given_up.is_err());
    let token = bearer.token().await.unwrap().unwrap();
    assert!(stage.books().access.contains(token.expose()));
    assert_eq!(stage.books().renewals, 1);
}

#[tokio::test]
async fn a_refusal_renews_a_login_unless_the_token_is_brand_new() {
    let (stage, desk) = (Stage::start().await, Desk::new());
    let old = stage.login("far");
    desk.store().keep(&old).unwrap();
    let bearer = desk.bearer(&stage);
    let new = bearer.instead_of(&old.access_token).await.unwrap().unwrap();
    assert_ne!(new, old.access_token);
    assert_eq!(bearer.instead_of(&new).await.unwrap(), None);
    assert_eq!(stage.books().renewals, 1);
}

#[tokio::test]
async fn a_renewal_that_is_rejected_is_not_tried_again_until_somebody_logs_in() {
    let (stage, desk) = (Stage::start().await, Desk::new());
    for status in [400, 401] {
        desk.store().keep(&ended(&stage)).unwrap();
        stage.manners().refuses_renewal = Some(status.try_into().unwrap());
        stage.books().renewals = 0;
        let bearer = desk.bearer(&stage);
        for _ in 0..3 {
            assert!(matches!(bearer.token().await, Err(TokenError::Ended)));
        }
        assert_eq!(stage.books().renewals, 1);
        stage.manners().refuses_renewal = None;
        let again = stage.login("far");
        desk.store().keep(&again).unwrap();
        assert_eq!(bearer.token().await.unwrap(), Some(again.access_token));
    }
}

#[tokio::test]
async fn a_renewal_that_fails_leaves_a_token_that_is_still_good() {
    let (stage, desk) = (Stage::start().await, Desk::new());
    let nearly = Record { expires_at: Some(unix_now() + 20), ..stage.login("far") };
    desk.store().keep(&nearly).unwrap();
    stage.manners().refuses_renewal = Some(503_u16.try_into().unwrap());
    let bearer = desk.bearer(&stage);
    for _ in 0..3 {
        assert_eq!(bearer.token().await.unwrap(), Some(nearly.access_token.clone()));
    }
    assert_eq!(stage.books().renewals, 1);
    desk.store().keep(&Record { expires_at: Some(unix_now()), ..nearly }).unwrap();
    let Err(TokenError::Failed(error)) = bearer.token().await else { panic!("no error") };
    assert!(error.to_string().contains("/as/token"), "{error}");
    assert!(error.hint().unwrap().contains("network"));
}

#[tokio::test]
async fn a_login_without_a_refresh_token_ends_with_its_token() {
    let (stage, desk) = (Stage::start().await, Desk::new());
    let nearly =
        Record { expires_at: Some(unix_now() + 20), refresh_token: None, ..stage.login("far") };
    desk.store().keep(&nearly).unwrap();
    let bearer = desk.bearer(&stage);
    assert_eq!(bearer.token().await.unwrap(), Some(nearly.access_token.clone()));
    desk.store().keep(&Record { expires_at: Some(unix_now()), ..nearly }).unwrap();
    assert!(matches!(bearer.token().await, Err(TokenError::Ended)));
}

#[tokio::test]
async fn a_corrupt_file_is_an_error_of_every_request_and_stays_as_it_is() {
    let (stage, desk) = (Stage::start().await, Desk::new());
    std::fs::create_dir_all(desk.paths.auth()).unwrap();
    let path = desk.paths.auth().join("far.json");
    std::fs::write(&path, "{,").unwrap();
    let bearer = desk.bearer(&stage);
    for _ in 0..2 {
        let Err(TokenError::Failed(error)) = bearer.token().await else { panic!("no error") };
        assert!(error.hint().unwrap().contains("Repair or move away"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), "{,");
}
