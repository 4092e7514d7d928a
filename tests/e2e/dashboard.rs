//! The dashboard of the admin listener, as browsers see it.

mod browser;

use std::sync::Arc;

use harness::{Service, TestAgent, TestRelay, TestShare, eventually, visitor};
use mcpm_relay::config::AuthMode;
use mcpm_relay::{Config, Ports};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::Proof;
use mcpm_shared::token::Token;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use self::browser::Browser;

const ADMIN: &str = "correct horse battery staple";
/// An owner that an operator was talked into, or that came from elsewhere.
const EVIL: &str = "<img/src=x/onerror=document.title='owned'>";

/// A relay with a dashboard.
struct Bench {
    relay: TestRelay,
    client: reqwest::Client,
    service: Service,
}

impl Bench {
    async fn start() -> Self {
        let ports = Ports { admin_token: Some(Token::new(ADMIN)), ..Ports::in_memory() };
        let config = Config { auth: AuthMode::Token, ..Config::for_tests() };
        let relay = TestRelay::on(config, ports).await;
        Self { relay, client: visitor(), service: Service::echo().await }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.relay.relay.admin_addr().unwrap())
    }

    async fn api(&self, method: &str, path: &str, body: Value) -> Value {
        let url = self.url(&format!("/api/v1{path}"));
        let request = self.client.request(method.parse().unwrap(), url).bearer_auth(ADMIN);
        request.json(&body).send().await.unwrap().json().await.unwrap()
    }

    /// Shares something as an owner.
    async fn share(&self, name: &str, subject: &str) -> (TestAgent, TestShare) {
        let issued = self.api("POST", "/tokens", json!({ "subject": subject })).await;
        let token = issued["token"].as_str().unwrap_or_else(|| panic!("{issued}"));
        let agent = TestAgent::showing(Proof::Token(Token::new(token)));
        let (share, _) =
            agent.share(&self.relay, name, &self.service, AccessPolicy::public()).await;
        (agent, share)
    }

    async fn names_of_shares(&self) -> Vec<String> {
        let shares = self.api("GET", "/shares", Value::Null).await;
        let names = shares.as_array().unwrap().iter();
        names.map(|share| share["name"].as_str().unwrap().to_owned()).collect()
    }

    fn post(&self, path: &str, form: &[(&str, &str)]) -> RequestBuilder {
        let body = form.iter().map(|(key, value)| format!("{key}={}", value.replace(' ', "+")));
        self.client
            .post(self.url(path))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.collect::<Vec<_>>().join("&"))
    }

    /// Logs in; returns the cookie and the token that forms carry.
    async fn login(&self) -> (String, String) {
        let answer = self.post("/login", &[("token", ADMIN)]).send().await.unwrap();
        assert_eq!(answer.status(), 303);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let page = self.page(&cookie).await;
        let csrf = page.split("name=\"csrf\" content=\"").nth(1).unwrap();
        (cookie, csrf.split('"').next().unwrap().to_owned())
    }

    async fn page(&self, cookie: &str) -> String {
        let request = self.client.get(self.url("/")).header("cookie", cookie);
        request.send().await.unwrap().text().await.unwrap()
    }
}

/// Checks what every answer tells browsers.
fn is_strict(answer: &Response) {
    let policy = answer.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers()["referrer-policy"], "no-referrer");
}

#[tokio::test]
async fn the_dashboard_is_for_who_shows_the_admin_token() {
    let bench = Bench::start().await;
    let asked = bench.client.get(bench.url("/")).send().await.unwrap();
    is_strict(&asked);
    let form = asked.text().await.unwrap();
    assert!(form.contains("type=\"password\"") && !form.contains("dashboard.js"), "{form}");
    let live = bench.client.get(bench.url("/dashboard.json"));
    assert_eq!(live.send().await.unwrap().status(), 401);
    let wrong = bench.post("/login", &[("token", "wrong")]).send().await.unwrap();
    is_strict(&wrong);
    assert_eq!(wrong.status(), 401);
    assert!(!wrong.headers().contains_key("set-cookie"));

    let (cookie, csrf) = bench.login().await;
    assert!(!cookie.contains("horse"), "the token itself is no cookie: {cookie}");
    let page = bench.page(&cookie).await;
    assert!(page.contains("<h2>Shares ") && !page.contains("style="), "{page}");
    let live = bench.client.get(bench.url("/dashboard.json")).bearer_auth(ADMIN);
    let live = live.send().await.unwrap();
    assert_eq!(live.headers()["cache-control"], "no-store");
    assert_eq!(live.json::<Value>().await.unwrap()["domain"], "localhost");

    let out = bench.post("/logout", &[("csrf", &csrf)]).header("cookie", &cookie);
    assert_eq!(out.send().await.unwrap().status(), 303);
    assert!(bench.page(&cookie).await.contains("type=\"password\""));
}

#[tokio::test]
async fn an_action_wants_the_cookie_and_the_token_of_its_page() {
    let bench = Bench::start().await;
    let (_agent, share) = bench.share("calc", "ada").await;
    let (cookie, csrf) = bench.login().await;
    let (good, path) = ([("csrf", csrf.as_str())], "/shares/calc/close");
    let with_cookie = |form: &[(&str, &str)]| bench.post(path, form).header("cookie", &cookie);
    let refused = [
        bench.post(path, &good),
        with_cookie(&[("csrf", "guessed")]),
        with_cookie(&good).header("sec-fetch-site", "cross-site"),
        with_cookie(&good).header("sec-fetch-site", "same-site"),
    ];
    for request in refused {
        assert_eq!(request.send().await.unwrap().status(), 403);
    }
    assert_eq!(with_cookie(&[]).send().await.unwrap().status(), 422);
    assert_eq!(bench.names_of_shares().await, ["calc"]);
    let done = with_cookie(&good).header("sec-fetch-site", "same-origin").send().await.unwrap();
    assert_eq!(done.status(), 303);
    assert_eq!(done.headers()["location"], "../../?done=closed&name=calc");
    share.refused().await;
    assert!(bench.names_of_shares().await.is_empty());
    let events = bench.api("GET", "/audit", Value::Null).await;
    let closed = |event: &&Value| event["action"] == "share.close" && event["object"] == "calc";
    assert!(events.as_array().unwrap().iter().any(|event| closed(&event)), "{events}");
}

#[tokio::test]
async fn a_name_is_blocked_and_released() {
    let bench = Bench::start().await;
    let (_agent, share) = bench.share("paypal", "ada").await;
    let (cookie, csrf) = bench.login().await;
    let post = |path: &str| bench.post(path, &[("csrf", &csrf)]).header("cookie", &cookie);
    assert_eq!(post("/names/paypal/block").send().await.unwrap().status(), 303);
    share.refused().await;
    let page = bench.page(&cookie).await;
    assert!(page.contains(">blocked<") && page.contains("names/paypal/release"), "{page}");
    let released = post("/names/paypal/release").send().await.unwrap();
    assert_eq!(released.headers()["location"], "../../?done=released&name=paypal");
    assert!(!bench.page(&cookie).await.contains(">blocked<"));
    let nothing = post("/names/nobody-had/release").send().await.unwrap();
    assert_eq!(nothing.headers()["location"], "../../?done=gone&name=nobody-had");
}

#[tokio::test]
async fn what_others_chose_is_text() {
    let bench = Bench::start().await;
    let _shared = bench.share("calc", EVIL).await;
    let (cookie, _) = bench.login().await;
    let page = bench.page(&cookie).await;
    assert!(!page.contains("<img/") && page.contains("sub:&lt;img/"), "{page}");
    let look = bench.client.get(bench.url("/?q=%22%3E%3Cscript%3E&done=closed&name=%3Cb%3E"));
    let page = look.header("cookie", &cookie).send().await.unwrap().text().await.unwrap();
    assert!(!page.contains("\"><script>") && !page.contains("<b>&"), "{page}");
}

#[tokio::test]
async fn names_and_owners_are_found() {
    let bench = Bench::start().await;
    let _ada = bench.share("calc", "ada").await;
    let _bob = bench.share("notes", "bob").await;
    for (wanted, found) in [("", 2), ("CAL", 1), ("sub:bob", 1), ("nobody", 0)] {
        let url = bench.url(&format!("/dashboard.json?q={wanted}"));
        let live = bench.client.get(url).bearer_auth(ADMIN).send().await.unwrap();
        let live: Value = live.json().await.unwrap();
        assert_eq!(live["tables"][0]["rows"].as_array().unwrap().len(), found, "{wanted}");
    }
}

#[tokio::test]
async fn a_browser_shows_what_happens_and_does_what_it_is_told() {
    let Some(browser) = Browser::start().await else { return };
    let bench = Arc::new(Bench::start().await);
    let (_agent, share) = bench.share("calc", EVIL).await;
    browser.size(1280, 900).await;
    let empty = browser.picture("empty").await;
    browser.open(&bench.url("/")).await;
    let login = browser.picture("login").await;
    assert!(login.bytes > 3 * empty.bytes, "nothing to be seen: {login:?} beside {empty:?}");
    browser.run("document.querySelector('#token').value = arguments[0]", &[ADMIN]).await;
    browser.run("document.querySelector('form').submit()", &[]).await;
    let row = |name: &str| {
        format!(
            "return document.querySelector('#table-shares tbody')?.innerText.includes('{name}')"
        )
    };
    browser.until(&row("calc")).await;
    let title = browser.run("return document.title", &[]).await;
    assert_eq!(title, "localhost · mcpm relay", "a script of an owner has run");

    // It keeps up by itself.
    let (_other_agent, _other) = bench.share("notes", "bob").await;
    browser.until(&row("notes")).await;
    for _ in 0..20 {
        bench.client.get(bench.relay.url("/s/calc/")).send().await.unwrap();
    }
    let counted = "return document.querySelector('#table-shares tbody').innerText.includes('20')";
    browser.until(counted).await;
    for (name, width, dark) in
        [("light", 1280, false), ("dark", 1280, true), ("narrow", 390, false)]
    {
        browser.size(width, 900).await;
        browser.dark(dark).await;
        let picture = browser.picture(name).await;
        // But for a bar to scroll by.
        let is_wide = (width - 20..=width).contains(&picture.width);
        assert!(is_wide && picture.height >= 900, "{name}: {picture:?}");
        assert!(picture.bytes > 3 * empty.bytes, "{name}: {picture:?} beside {empty:?}");
        let wider = "return document.documentElement.scrollWidth - window.innerWidth";
        assert!(browser.run(wider, &[]).await.as_i64().unwrap() <= 0, "{name} scrolls sideways");
    }

    // A button asks first, and then does what it says.
    browser.run("window.confirm = (question) => question.startsWith('Close')", &[]).await;
    let press = "document.querySelector(\"form[action='shares/calc/close'] button\").click()";
    browser.run(press, &[]).await;
    share.refused().await;
    browser.until("return document.querySelector('.notice')?.innerText.includes('calc')").await;
    let bench = Arc::clone(&bench);
    eventually("one share is left", || async {
        (bench.names_of_shares().await == ["notes"]).then_some(())
    })
    .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}
