use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use tokio::sync::oneshot;

use super::*;
use crate::oauth::testing::Stage;

fn spec(stage: &Stage) -> LoginSpec {
    LoginSpec {
        server: Server::remote("far", stage.url()),
        client: None,
        scopes: Vec::new(),
        redirect_uri: None,
        allow_private: false,
    }
}

/// Fetches one page: its status, its text, and where it sends the browser.
async fn fetch(url: &str) -> (u16, String, Option<String>) {
    let http = Http::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = http.get(url.parse().unwrap()).await.unwrap();
    let to = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&text).into_owned(), to)
}

struct Folder {
    _dir: tempfile::TempDir,
    paths: Paths,
}

fn folder() -> Folder {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("mcpm"));
    Folder { _dir: dir, paths }
}

#[tokio::test]
async fn a_person_logs_in_with_a_browser_and_may_go_astray_before() {
    let (stage, folder) = (Stage::start().await, folder());
    let (tell, told) = oneshot::channel();
    let browser = async {
        let visit: String = told.await.unwrap();
        let (_, _, to) = fetch(&visit).await;
        let to = to.unwrap();
        let (status, ..) = fetch(&to.replace("/callback?", "/favicon.ico?")).await;
        assert_eq!(status, 404);
        let (status, text, _) = fetch(&to.replace("state=", "state=x")).await;
        assert!(status == 400 && text.contains("Not this login"), "{text}");
        let (status, text, _) = fetch(&to).await;
        assert!(status == 200 && text.contains("Logged in"), "{text}");
    };
    let visit = |url: &str| tell.send(url.to_owned()).unwrap();
    let none = std::future::ready(None);
    let work = login(spec(&stage), &folder.paths, visit, none, CancellationToken::new());
    let (record, ()) = tokio::join!(work, browser);
    let record = record.unwrap();
    let kept = Store::open(&folder.paths).read("far", &stage.url()).unwrap();
    assert_eq!(kept.as_ref(), Some(&record));
    assert!(stage.books().access.contains(record.access_token.expose()));
    assert!(stage.books().visits[0]["redirect_uri"].starts_with("http://127.0.0.1:"));
}

#[tokio::test]
async fn a_person_may_paste_where_the_browser_of_another_machine_ended() {
    let (stage, folder) = (Stage::start().await, folder());
    let (tell, told) = oneshot::channel();
    let pasted = async {
        let visit: String = told.await.unwrap();
        fetch(&visit).await.2.map(|to| format!(" {to}\n"))
    };
    let visit = |url: &str| tell.send(url.to_owned()).unwrap();
    let record = login(spec(&stage), &folder.paths, visit, pasted, CancellationToken::new()).await;
    assert_eq!(record.unwrap().server, "far");
}

#[tokio::test]
async fn a_refusal_is_shown_in_the_browser_and_nothing_is_kept() {
    let (stage, folder) = (Stage::start().await, folder());
    stage.manners().agrees = false;
    let (tell, told) = oneshot::channel();
    let browser = async {
        let visit: String = told.await.unwrap();
        let to = fetch(&visit).await.2.unwrap();
        let (status, text, _) = fetch(&to).await;
        assert!(status == 400 && text.contains("Not logged in"), "{text}");
        // What a stranger wrote is not part of our page.
        assert!(!text.contains("not today"), "{text}");
    };
    let visit = |url: &str| tell.send(url.to_owned()).unwrap();
    let none = std::future::ready(None);
    let work = login(spec(&stage), &folder.paths, visit, none, CancellationToken::new());
    let (outcome, ()) = tokio::join!(work, browser);
    assert!(matches!(outcome, Err(LoginError::Oauth(OauthError::Denied(_)))));
    assert!(!folder.paths.auth().exists());
}

#[tokio::test]
async fn a_login_that_is_given_up_leaves_nothing() {
    let (stage, folder) = (Stage::start().await, folder());
    let stop = CancellationToken::new();
    let (ours, port) = (stop.clone(), Arc::new(Mutex::new(String::new())));
    let seen = port.clone();
    let visit = move |url: &str| {
        url.clone_into(&mut seen.lock().unwrap());
        ours.cancel();
    };
    let outcome = login(spec(&stage), &folder.paths, visit, std::future::pending(), stop).await;
    assert!(matches!(outcome, Err(LoginError::Stopped)));
    assert!(!folder.paths.dir().exists());
    // Nobody waits for the browser any more.
    let visit = Url::parse(&port.lock().unwrap()).unwrap();
    let redirect = visit.query_pairs().find(|(key, _)| key == "redirect_uri").unwrap().1;
    let redirect = Url::parse(&redirect).unwrap();
    let address = redirect.socket_addrs(|| None).unwrap();
    assert!(tokio::net::TcpStream::connect(address[0]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_must_not_be_replaced_costs_nobody_a_login() {
    let folder = folder();
    std::fs::create_dir_all(folder.paths.auth()).unwrap();
    std::fs::write(folder.paths.auth().join("far.json"), "{,").unwrap();
    let spec = LoginSpec {
        server: Server::remote("far", "https://x.example/mcp"),
        client: None,
        scopes: Vec::new(),
        redirect_uri: None,
        allow_private: false,
    };
    let visit = |_: &str| panic!("nobody is to be bothered");
    let never = std::future::pending();
    let outcome = login(spec, &folder.paths, visit, never, CancellationToken::new()).await;
    let error = outcome.unwrap_err();
    assert!(error.hint().unwrap().contains("Repair or move away"), "{error}");
}
