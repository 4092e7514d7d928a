use std::ffi::OsString;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::super::install::Order;
use super::*;
use crate::config::ServerChange;
use crate::fs::Paths;
use crate::registry::testing::{Site, reply};
use crate::registry::{Places, Policy, Registry};
use crate::web::Web;

/// A registry whose only server can be changed, and an installer that asks it.
struct Desk {
    _dir: tempfile::TempDir,
    installer: Installer,
    server: Arc<Mutex<Value>>,
    site: Site,
}

fn package(version: &str) -> Value {
    json!({"registryType": "npm", "identifier": "@acme/weather", "version": version,
        "transport": {"type": "stdio"},
        "packageArguments": [{"type": "named", "name": "--place", "value": "{place}",
            "variables": {"place": {"isRequired": true}}}],
        "environmentVariables": [
            {"name": "KEY", "isRequired": true, "isSecret": true},
            {"name": "MODE", "value": version}]})
}

impl Desk {
    async fn new() -> Self {
        let server = Arc::new(Mutex::new(json!({})));
        let told = Arc::clone(&server);
        let site = Site::start(move |asked| match asked.path.starts_with("/v0.1/servers/") {
            true => reply(200, told.lock().unwrap().to_string()),
            false => reply(200, "{}"),
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("config"));
        let web = Arc::new(Web::new().unwrap());
        let places = Places::new(Some(site.url.clone()), Some(site.url.clone()));
        let registry = Registry::new(places, &paths, &web, Policy::Usual);
        let folders = OsString::from(dir.path());
        let home = Some(dir.path().to_owned());
        let installer = Installer { paths, registry, web, home, folders };
        Self { _dir: dir, installer, server, site }
    }

    fn publish(&self, version: &str, package: Value) {
        *self.server.lock().unwrap() = json!({"server": {"name": "io.github.acme/weather",
            "description": "d", "version": version, "packages": [package]}});
    }

    async fn install(&self, what: &str) {
        let offer = self.installer.look_up(&what.parse().unwrap(), None, None).await.unwrap();
        let answers = [("KEY", "s3cret"), ("place", "Bonn")];
        let answers = answers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let args = ["--mine".to_owned()];
        let order = Order { name: "weather", answers: &answers, args: &args, replace: true };
        self.installer.install(&offer, offer.method(None).unwrap(), &order).unwrap();
    }

    async fn standing(&self) -> Standing {
        self.installer.standing("weather", false).await.unwrap()
    }

    async fn plan(&self) -> Plan {
        match self.standing().await {
            Standing::Newer(plan) => *plan,
            other => panic!("{other:?}"),
        }
    }

    fn entry(&self) -> Value {
        let all: Value = fs::read_json(&self.installer.paths.servers()).unwrap().unwrap();
        all["weather"].clone()
    }

    fn change(&self, change: ServerChange) {
        servers::change(&self.installer.paths, "weather", &change).unwrap();
    }
}

#[tokio::test]
async fn an_update_follows_the_registry_and_keeps_what_the_user_said() {
    let desk = Desk::new().await;
    desk.publish("1.0.0", package("1.0.0"));
    desk.install("io.github.acme/weather").await;
    assert!(matches!(desk.standing().await, Standing::Current { found: None, .. }));
    let noted = std::fs::read_to_string(desk.installer.paths.sources()).unwrap();
    assert!(noted.contains("io.github.acme/weather") && !noted.contains("s3cret"), "{noted}");

    let env = [("OWN", "x")].into_iter().collect();
    desk.change(ServerChange { env, ..ServerChange::default() });
    desk.publish("1.1.0", package("1.1.0"));
    let plan = desk.plan().await;
    assert_eq!((plan.from.as_deref(), plan.to.as_deref()), (Some("1.0.0"), Some("1.1.0")));
    let what: Vec<_> = plan.differences.iter().map(|one| one.what.as_str()).collect();
    assert_eq!(what, ["args", "env.MODE"]);
    assert!(!format!("{:?}", plan.differences).contains("s3cret"));
    assert!(plan.questions().is_empty(), "{:?}", plan.questions());
    let updated = desk.installer.update(plan, &Answers::new()).unwrap();
    assert_eq!(updated, Updated { kept: Vec::new() });
    let entry = desk.entry();
    assert_eq!(entry["args"], json!(["-y", "@acme/weather@1.1.0", "--place", "Bonn", "--mine"]));
    assert_eq!(entry["env"], json!({"KEY": "s3cret", "MODE": "1.1.0", "OWN": "x"}));
    assert!(matches!(desk.standing().await, Standing::Current { found: None, .. }));
    desk.site.stop().await;
}

#[tokio::test]
async fn what_a_new_version_asks_for_is_asked_and_never_made_up() {
    let desk = Desk::new().await;
    desk.publish("1.0.0", package("1.0.0"));
    desk.install("io.github.acme/weather").await;
    let before = desk.entry();
    let mut newer = package("2.0.0");
    let more = json!({"name": "REGION", "isRequired": true, "placeholder": "eu-1"});
    newer["environmentVariables"].as_array_mut().unwrap().push(more);
    desk.publish("2.0.0", newer);
    let plan = desk.plan().await;
    let asked: Vec<String> = plan.questions().into_iter().map(|input| input.name).collect();
    assert_eq!(asked, ["REGION"]);
    let error = desk.installer.update(plan, &Answers::new()).unwrap_err();
    assert!(matches!(error, InstallError::Fill(_)), "{error}");
    assert_eq!(desk.entry(), before, "nothing is changed by half");
    let answers = [("REGION".to_owned(), "us-1".to_owned())].into();
    desk.installer.update(desk.plan().await, &answers).unwrap();
    assert_eq!(desk.entry()["env"]["REGION"], "us-1");
    desk.site.stop().await;
}

#[tokio::test]
async fn what_the_user_changed_by_hand_is_kept_or_in_the_way() {
    let desk = Desk::new().await;
    desk.publish("1.0.0", package("1.0.0"));
    desk.install("io.github.acme/weather").await;
    let env = [("MODE", "mine")].into_iter().collect();
    desk.change(ServerChange { env, ..ServerChange::default() });
    desk.publish("1.1.0", package("1.1.0"));
    let updated = desk.installer.update(desk.plan().await, &Answers::new()).unwrap();
    assert_eq!(updated.kept, ["env.MODE"]);
    assert_eq!(desk.entry()["env"]["MODE"], "mine");
    let args = Some(vec!["-y".to_owned(), "@acme/weather@0.9".to_owned()]);
    desk.change(ServerChange { args, ..ServerChange::default() });
    desk.publish("1.2.0", package("1.2.0"));
    assert!(matches!(desk.standing().await, Standing::Conflict(_)));
    let mut other = package("1.2.0");
    other["registryType"] = "pypi".into();
    desk.publish("1.2.0", other);
    assert!(matches!(desk.standing().await, Standing::Conflict(why) if why.contains("npm")));
    desk.site.stop().await;
}

#[tokio::test]
async fn a_version_that_the_user_asked_for_is_left_alone_unless_it_is_named() {
    let desk = Desk::new().await;
    desk.publish("1.0.0", package("1.0.0"));
    desk.install("io.github.acme/weather@1.0.0").await;
    desk.publish("1.1.0", package("1.1.0"));
    let Standing::Pinned { version, newest } = desk.standing().await else { panic!("not pinned") };
    assert_eq!((version.as_deref(), newest.as_deref()), (Some("1.0.0"), Some("1.1.0")));
    let named = desk.installer.standing("weather", true).await.unwrap();
    assert!(matches!(named, Standing::Newer(_)), "{named:?}");
    desk.site.stop().await;
}

#[tokio::test]
async fn servers_of_other_versions_of_mcpm_are_recognised_by_what_they_are() {
    let desk = Desk::new().await;
    let paths = &desk.installer.paths;
    let (places, web) = (Places::new(None, None), &desk.installer.web);
    let installer = Installer {
        paths: paths.clone(),
        registry: Registry::new(places, paths, web, Policy::Offline),
        web: Arc::clone(&desk.installer.web),
        home: None,
        folders: OsString::new(),
    };
    let offer = installer.look_up(&"time".parse().unwrap(), None, None).await.unwrap();
    let order = Order { name: "time", answers: &Answers::new(), args: &[], replace: false };
    installer.install(&offer, offer.method(None).unwrap(), &order).unwrap();
    // As the Python version leaves it.
    Sources::open(paths).unwrap().put("time", &json!({"type": "uvx", "package": "x"})).unwrap();
    let Standing::Current { found: Some(found), .. } =
        installer.standing("time", false).await.unwrap()
    else {
        panic!("not recognised")
    };
    assert_eq!(found.name, "time");
    found.keep("time", paths).unwrap();
    let again = installer.standing("time", false).await.unwrap();
    assert!(matches!(again, Standing::Current { found: None, .. }), "{again:?}");
    servers::create(paths, Server::stdio("own", "npx", ["-y", "pkg"]), false).unwrap();
    let own = installer.standing("own", false).await.unwrap();
    assert!(
        matches!(own, Standing::Unmanaged(why) if why.contains("`pkg`") && why.contains("write a version"))
    );
    for (name, program, package) in [("a", "npx", "@acme/notes@1.0"), ("b", "uvx", "notes==1.0")] {
        servers::create(paths, Server::stdio(name, program, [package]), false).unwrap();
        let own = installer.standing(name, false).await.unwrap();
        assert!(
            matches!(&own, Standing::Unmanaged(why) if why.contains("names its version")),
            "{own:?}"
        );
    }
    desk.site.stop().await;
}

/// A bundle whose entry point has this name; returns its bytes and their SHA-256.
fn bundle(version: &str, script: &str) -> (Vec<u8>, String) {
    use std::io::Write as _;
    let manifest = json!({"manifest_version": "0.3", "name": "weather", "version": version,
        "server": {"type": "node", "entry_point": script, "mcp_config": {
            "command": "node", "args": [format!("${{__dirname}}/{script}")],
            "env": {"KEY": "${user_config.key}"}}},
        "user_config": {"key": {"type": "string", "sensitive": true, "required": true}}});
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut zip = zip::ZipWriter::new(&mut bytes);
    for (name, text) in [("manifest.json", manifest.to_string()), (script, "1".to_owned())] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap();
    let bytes = bytes.into_inner();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let hash = crate::registry::bundle::sha256_of(file.path()).unwrap();
    (bytes, hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[tokio::test]
async fn a_bundle_is_fetched_anew_and_keeps_its_answers_also_under_another_name() {
    let served = Arc::new(Mutex::new((Vec::new(), json!({}))));
    let told = Arc::clone(&served);
    let site = Site::start(move |asked| {
        let (bytes, server) = told.lock().unwrap().clone();
        match asked.path.as_str() {
            "/x.mcpb" => reply(200, bytes),
            path if path.starts_with("/v0.1/servers/") => reply(200, server.to_string()),
            _ => reply(200, "{}"),
        }
    })
    .await;
    let publish = |version: &str, script: &str| {
        let (bytes, sha256) = bundle(version, script);
        let server = json!({"server": {"name": "io.github.acme/weather", "version": version,
            "packages": [{"registryType": "mcpb", "identifier": format!("{}x.mcpb", site.url),
                "fileSha256": sha256}]}});
        *served.lock().unwrap() = (bytes, server);
    };
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("config"));
    let web = Arc::new(Web::new().unwrap());
    let places = Places::new(Some(site.url.clone()), Some(site.url.clone()));
    let registry = Registry::new(places, &paths, &web, Policy::Usual);
    let folders = OsString::from(dir.path());
    let home = Some(dir.path().to_owned());
    let installer = Installer { paths, registry, web, home, folders };
    publish("1.0.0", "a.js");
    let what = "io.github.acme/weather".parse().unwrap();
    let offer = installer.look_up(&what, None, None).await.unwrap();
    let offer = installer.fetch(offer, None, None).await.unwrap();
    let answers = [("key".to_owned(), "s3cret".to_owned())].into();
    let order = Order { name: "weather", answers: &answers, args: &[], replace: false };
    installer.install(&offer, offer.method(None).unwrap(), &order).unwrap();
    let name = Some("rain".to_owned());
    servers::change(&installer.paths, "weather", &ServerChange { name, ..ServerChange::default() })
        .unwrap();
    let standing = installer.standing("rain", false).await.unwrap();
    assert!(matches!(standing, Standing::Current { found: None, .. }), "{standing:?}");
    publish("1.1.0", "b.js");
    let Standing::Newer(plan) = installer.standing("rain", false).await.unwrap() else {
        panic!("not newer")
    };
    let plan = installer.prepare(*plan).await.unwrap();
    assert!(plan.questions().is_empty(), "{:?}", plan.questions());
    installer.update(plan, &Answers::new()).unwrap();
    let all: Value = fs::read_json(&installer.paths.servers()).unwrap().unwrap();
    let folder = installer.paths.bundles().join("rain");
    let entry = &all["rain"];
    assert_eq!(entry["args"], json!([folder.join("b.js").display().to_string()]));
    assert_eq!(entry["env"], json!({"KEY": "s3cret"}));
    assert!(folder.join("b.js").exists());
    assert!(!installer.paths.bundles().join("weather").exists(), "nothing is left of the old one");
    let standing = installer.standing("rain", false).await.unwrap();
    assert!(matches!(standing, Standing::Current { found: None, .. }), "{standing:?}");
    site.stop().await;
}
