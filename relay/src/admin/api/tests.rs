use axum::body::Body;
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use mcpm_shared::proto::control::{self as wire, RelayMessage};
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::ports::Ports;
use crate::store::Health;
use crate::tunnel::tests::{Agent, tunnels_over};

/// The API over a relay with no listeners.
struct Bench {
    api: Api,
    router: Router,
    token: Token,
    tunnels: Arc<Tunnels>,
    scope: Scope,
    _phase: watch::Sender<Phase>,
}

impl Bench {
    fn new() -> Self {
        let (scope, token) = (Scope::new(), Token::generate());
        let tunnels = tunnels_over(&scope, &Ports::in_memory());
        let (phase, seen) = watch::channel(Phase::Serving);
        let api = Api {
            token: AdminToken::new(token.digest()),
            tunnels: Arc::clone(&tunnels),
            nodes: None,
            reloader: Arc::new(Reloader::new(tunnels.config.clone(), None, Vec::new())),
            cert: None,
            phase: seen,
            started_at: 1,
        };
        let settling = Arc::clone(&tunnels);
        scope.spawn_until_cancelled(async move {
            settling.debts.settle(&settling, watch::Sender::new(Health::Up).subscribe()).await;
        });
        Self { router: router(api.clone()), api, token, tunnels, scope, _phase: phase }
    }

    async fn send(&self, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send(method, path, self.token.expose(), body).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
}

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[tokio::test]
async fn the_document_names_every_path_and_method_of_the_router() {
    let (bench, document) = (Bench::new(), document());
    let documented = document["paths"].as_object().unwrap();
    let mut paths: Vec<_> = documented.keys().map(String::as_str).collect();
    let mut routes: Vec<_> = ROUTES.iter().map(|(path, _)| *path).collect();
    paths.sort_unstable();
    routes.sort_unstable();
    assert_eq!(paths, routes);
    for (path, methods) in documented {
        let real = path.replace(['{', '}'], "");
        for method in ["get", "put", "post", "delete", "patch"] {
            let (status, _) = bench.ask(&method.to_uppercase(), &real, Value::Null).await;
            let known = methods.get(method).is_some();
            assert_eq!(status != 405, known, "{method} {path}: {status}");
        }
    }
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    fn walk(value: &Value, all: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(path)) = members.get("$ref") {
                    let target = all.pointer(path.trim_start_matches('#'));
                    assert!(target.is_some(), "{path}");
                }
                members.values().for_each(|member| walk(member, all));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, all)),
            _ => {}
        }
    }
    let document = document();
    walk(&document, &document);
}

/// Checks the members of an object against one schema of the document.
fn is_a(value: &Value, schema: &str) {
    let schema = &document()["components"]["schemas"][schema];
    let members = value.as_object().unwrap_or_else(|| panic!("{value}"));
    for key in members.keys() {
        assert!(schema["properties"].get(key).is_some(), "{key} is not in {schema}");
    }
    for key in schema["required"].as_array().unwrap() {
        assert!(members.contains_key(key.as_str().unwrap()), "{key} is missing in {value}");
    }
}

#[tokio::test]
async fn nothing_is_told_without_the_token() {
    let bench = Bench::new();
    for path in ["/status", "/shares", "/openapi.json", "/nothing"] {
        let (status, body) = bench.send("GET", path, "guess", Value::Null).await;
        assert_eq!((status, body["code"].as_str()), (401, Some("unauthorized")), "{path}");
        is_a(&body, "Error");
    }
    assert_eq!(bench.ask("GET", "/nothing", Value::Null).await.0, 404);
    assert_eq!(bench.get("/openapi.json").await, document());
}

#[derive(Debug)]
struct NoBodies;

impl crate::config::SettingsSource for NoBodies {
    fn read(&self) -> Result<crate::Config, String> {
        let mut config = crate::Config::local();
        config.limits.max_body_bytes = 0;
        config.node = "other".to_owned();
        Ok(config)
    }

    fn prepare(&self, _: &crate::Config) -> Result<crate::config::Obey, String> {
        Ok(Box::new(|| ()))
    }
}

#[tokio::test]
async fn settings_are_read_again_and_what_stays_is_named() {
    let bench = Bench::new();
    let (status, body) = bench.ask("POST", "/reload", Value::Null).await;
    assert_eq!((status, body["code"].as_str()), (422, Some("invalid")), "nothing to read");
    let live = bench.tunnels.config.clone();
    let reloader = Reloader::new(live.clone(), Some(Arc::new(NoBodies)), Vec::new());
    let api = Api { reloader: Arc::new(reloader), ..bench.api.clone() };
    let bench = Bench { router: router(api), ..bench };
    let (status, body) = bench.ask("POST", "/reload", Value::Null).await;
    is_a(&body, "Reloaded");
    let expected = json!({ "changed": ["limits.max-body-bytes"], "needs_restart": ["node-id"] });
    assert_eq!((status, body), (200, expected));
    assert_eq!(live.load().limits.max_body_bytes, 0);
}

#[tokio::test]
async fn the_settings_that_are_obeyed_are_told_without_secrets() {
    let bench = Bench::new();
    let mut config = crate::Config::local();
    config.auth = crate::config::AuthMode::Secret(vec![Token::new("correct horse battery")]);
    config.database = "postgres://relay:hunter2@db/relay".parse().unwrap();
    let live = crate::config::Live::new(Arc::new(config));
    let reloader = Reloader::new(live.clone(), Some(Arc::new(NoBodies)), Vec::new());
    reloader.reload().unwrap();
    let settings = serde_json::to_value(config_of(&live)).unwrap();
    let required = document()["components"]["schemas"]["Settings"]["required"].clone();
    for key in required.as_array().unwrap() {
        assert!(!settings[key.as_str().unwrap()].is_null(), "{key} in {settings}");
    }
    assert_eq!(settings["limits"]["max-body-bytes"], json!(0), "as it is obeyed now");
    assert_eq!(settings["database"], json!("postgres://relay@db/relay"));
    let shown = settings.to_string();
    assert!(!shown.contains("horse") && !shown.contains("hunter2"), "{shown}");
    assert_eq!(bench.get("/config").await, json!(config_of(&bench.tunnels.config)));
    assert_eq!(bench.ask("GET", "/audit?limit=0", Value::Null).await.0, 422);
}

/// Settings that are read once somebody says so.
#[derive(Debug)]
struct Held(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

impl crate::config::SettingsSource for Held {
    fn read(&self) -> Result<crate::Config, String> {
        self.0.lock().unwrap().recv().unwrap();
        NoBodies.read()
    }

    fn prepare(&self, config: &crate::Config) -> Result<crate::config::Obey, String> {
        NoBodies.prepare(config)
    }
}

#[tokio::test]
async fn a_reload_that_nobody_waits_for_is_in_the_trail() {
    let bench = Bench::new();
    let (read, held) = std::sync::mpsc::channel();
    let source = Arc::new(Held(std::sync::Mutex::new(held)));
    let reloader = Reloader::new(bench.tunnels.config.clone(), Some(source), Vec::new());
    let api = Api { reloader: Arc::new(reloader), ..bench.api.clone() };
    let bench = Bench { router: router(api), ..bench };
    assert!(bench.ask("POST", "/reload", Value::Null).now_or_never().is_none(), "it was held");
    read.send(()).unwrap();
    let told = async {
        loop {
            let trail = bench.get("/audit?action=settings.reload").await;
            if let Some(event) = trail.get(0) {
                break event["detail"].clone();
            }
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
    assert_eq!(told, "limits.max-body-bytes");
}

#[tokio::test]
async fn shares_are_listed_and_closed() {
    let bench = Bench::new();
    let mut agent = Agent::connect(&bench.tunnels, &bench.scope, None).await;
    let claimed = agent.ask("calc", None).await;
    assert!(matches!(claimed, RelayMessage::Claimed(_)));
    // The agent hears of its share a moment before the table does.
    while bench.tunnels.table.live().is_empty() {
        tokio::task::yield_now().await;
    }
    let shares = bench.get("/shares").await;
    is_a(&shares[0], "Share");
    assert_eq!((&shares[0]["name"], &shares[0]["owner"]), (&json!("calc"), &json!("key:k")));
    assert_eq!((&shares[0]["node"], &shares[0]["agent"]), (&json!("main"), &json!("k")));
    let status = bench.get("/status").await;
    is_a(&status, "Status");
    assert_eq!(status["certificate"], Value::Null, "no TLS");
    let made = crate::cert::SelfSigned::generate(&"share.example.com".parse().unwrap()).unwrap();
    let cert = Some(Arc::new(made) as Arc<dyn CertSource>);
    let with_tls = Bench { router: router(Api { cert, ..bench.api.clone() }), ..Bench::new() };
    let (_, status) = with_tls.send("GET", "/status", bench.token.expose(), Value::Null).await;
    is_a(&status["certificate"], "Certificate");
    assert_eq!(status["certificate"]["problem"], Value::Null);
    assert_eq!((&status["shares"], &status["database"]), (&json!(1), &json!("up")));
    assert_eq!(bench.ask("DELETE", "/shares/calc", Value::Null).await.0, 204);
    let told = wire::read::<RelayMessage>(&mut agent.reader).await.unwrap();
    let RelayMessage::Revoked(revoked) = told else { panic!("{told:?}") };
    assert!(revoked.refusal.is_terminal(), "the agent must not come back by itself");
    assert_eq!(bench.get("/shares").await, json!([]));
    assert_eq!(bench.ask("DELETE", "/shares/calc", Value::Null).await.0, 404);
    assert_eq!(bench.ask("DELETE", "/shares/No_Name", Value::Null).await.0, 422);
    while bench.tunnels.store.audit_trail(9).await.unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    let trail = bench.get("/audit?limit=1").await;
    is_a(&trail[0], "Event");
    assert_eq!((trail.as_array().unwrap().len(), &trail[0]["action"]), (1, &json!("share.close")));
}

#[tokio::test]
async fn names_and_owners_are_decided_over() {
    let bench = Bench::new();
    let wish = json!({ "state": "reserved", "owner": "ada", "note": "hers" });
    let (status, rule) = bench.ask("PUT", "/names/calc", wish).await;
    assert_eq!((status, &rule["owner"]), (200, &json!("sub:ada")));
    is_a(&rule, "Rule");
    let names = bench.get("/names").await;
    is_a(&names[0], "Name");
    assert_eq!(
        (&names[0]["state"], &names[0]["rule"]["note"]),
        (&json!("reserved"), &json!("hers"))
    );
    let (status, released) = bench.ask("DELETE", "/names/calc", Value::Null).await;
    assert_eq!((status, &released["released"]), (200, &json!("rule")));
    is_a(&released, "Released");
    assert_eq!(bench.ask("DELETE", "/names/calc?cooling_secs=5", Value::Null).await.0, 404);
    for bad in
        [json!({}), json!({ "state": "blocked", "owner": "ada" }), json!({ "state": "open" })]
    {
        let (status, body) = bench.ask("PUT", "/names/calc", bad).await;
        assert_eq!((status, &body["code"]), (422, &json!("invalid")), "{body}");
    }
    assert_eq!(bench.ask("PUT", "/names/calc", json!({ "state": "blocked" })).await.0, 200);
    let (status, quota) = bench.ask("PUT", "/owners/ada/quota", json!({ "max_shares": 3 })).await;
    assert_eq!(status, 200);
    is_a(&quota, "Quota");
    let owners = bench.get("/owners").await;
    is_a(&owners[0], "Owner");
    is_a(&owners[0]["today"], "Amounts");
    assert_eq!((&owners[0]["owner"], &owners[0]["max_shares"]), (&json!("sub:ada"), &json!(3)));
}

#[tokio::test]
async fn owners_are_shown_granted_and_shut_out() {
    let bench = Bench::new();
    let wish = json!({ "requests_per_day": 500, "max_streams": 0 });
    let (status, quota) = bench.ask("PUT", "/owners/key:x/quota", wish).await;
    assert_eq!((status, &quota["requests_per_day"]), (200, &json!(500)));
    assert_eq!((&quota["max_streams"], &quota["bytes_per_day"]), (&json!(0), &Value::Null));
    let (status, _) = bench.ask("PUT", "/owners/key:x/quota", json!({ "max_share": 1 })).await;
    assert_eq!(status, 422);
    let (status, blocked) =
        bench.ask("PUT", "/owners/key:x/block", json!({ "note": "spam" })).await;
    assert_eq!((status, &blocked["note"]), (200, &json!("spam")));
    is_a(&blocked, "Quota");
    let detail = bench.get("/owners/key:x").await;
    is_a(&detail, "OwnerDetail");
    assert_eq!(detail["quota"]["requests_per_day"], json!(500));
    assert_eq!(bench.ask("DELETE", "/owners/key:x/block", Value::Null).await.0, 204);
    assert_eq!(bench.ask("DELETE", "/owners/key:x/block", Value::Null).await.0, 404);
    let (status, _) = bench.ask("GET", "/owners/a%20b", Value::Null).await;
    assert_eq!(status, 422);
    let trail = bench.get("/audit?action=owner&object=key:x").await;
    let actions: Vec<_> = trail.as_array().unwrap().iter().map(|it| &it["action"]).collect();
    assert_eq!(actions, ["owner.unblock", "owner.block", "owner.quota"]);
    assert_eq!(bench.get("/audit?action=token").await, json!([]));
}

#[tokio::test]
async fn tokens_are_issued_once_and_revoked() {
    let bench = Bench::new();
    let wish = json!({ "subject": "ada", "names": ["ada-*"], "expires_in_secs": 60 });
    let (status, issued) = bench.ask("POST", "/tokens", wish).await;
    assert_eq!(status, 201);
    is_a(&issued["record"], "Token");
    let token = Token::new(issued["token"].as_str().unwrap());
    assert_eq!(bench.tunnels.key.verify_token(&token).unwrap().subject, "ada");
    let tokens = bench.get("/tokens").await;
    is_a(&tokens[0], "Token");
    let path = format!("/tokens/{}", tokens[0]["jti"].as_str().unwrap());
    assert_eq!(bench.ask("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(bench.ask("DELETE", "/tokens/none", Value::Null).await.0, 404);
    assert_eq!(bench.ask("POST", "/tokens", json!({ "subject": "" })).await.0, 422);
}

#[tokio::test]
async fn domains_are_added_listed_and_removed() {
    let bench = Bench::new();
    let wish = json!({ "owner": "ada", "name": "calc" });
    let path = "/domains/MCP.example.org";
    let (status, added) = bench.ask("PUT", path, wish.clone()).await;
    assert_eq!(
        (status, &added["state"], &added["owner"]),
        (200, &json!("pending"), &json!("sub:ada"))
    );
    is_a(&added, "Domain");
    assert_eq!(added["proof"]["name"], "_mcpm-relay.mcp.example.org");
    assert_eq!(bench.get("/domains").await, json!([added]));
    let (status, body) = bench.ask("PUT", path, json!({ "owner": "bob", "name": "calc" })).await;
    assert_eq!((status, &body["code"]), (409, &json!("conflict")));
    for (path, wish) in [
        ("/domains/org", wish.clone()),
        ("/domains/x.localhost", wish),
        (path, json!({ "owner": "ada" })),
        (path, json!({ "owner": "ada", "name": "No Name" })),
    ] {
        let (status, body) = bench.ask("PUT", path, wish).await;
        assert_eq!((status, &body["code"]), (422, &json!("invalid")), "{path}: {body}");
    }
    assert_eq!(bench.ask("POST", "/domains/b.example.org/verify", Value::Null).await.0, 404);
    assert_eq!(bench.ask("DELETE", path, Value::Null).await.0, 204);
    assert_eq!(bench.ask("DELETE", path, Value::Null).await.0, 404);
    assert_eq!(bench.get("/domains").await, json!([]));
}
