use std::io::Write as _;

use serde_json::json;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;
use crate::registry::testing::{Site, reply};
use crate::registry::{Places, Policy};

struct Desk {
    _dir: tempfile::TempDir,
    installer: Installer,
}

impl Desk {
    fn new() -> Self {
        Self::with(Places::new(None, None), Policy::Offline)
    }

    fn with(places: Places, policy: Policy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("config"));
        let web = Arc::new(Web::new().unwrap());
        let registry = Registry::new(places, &paths, &web, policy);
        let folders = OsString::from(dir.path());
        let installer =
            Installer { paths, registry, web, home: Some(dir.path().to_owned()), folders };
        Self { _dir: dir, installer }
    }

    async fn offer(&self, what: &str, sha256: Option<&str>) -> Result<Offer, InstallError> {
        let reference: Reference = what.parse().unwrap();
        let offer = self.installer.look_up(&reference, None, sha256).await?;
        self.installer.fetch(offer, None, None).await
    }

    /// Installs with these answers and shows the new entry.
    async fn install(&self, what: &str, pairs: &[(&str, &str)]) -> Result<Value, InstallError> {
        let offer = self.offer(what, None).await?;
        self.place(&offer, pairs, false)
    }

    fn place(
        &self,
        offer: &Offer,
        pairs: &[(&str, &str)],
        replace: bool,
    ) -> Result<Value, InstallError> {
        let answers = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let name = offer.manifest.alias.clone();
        let order = Order { name: &name, answers: &answers, args: &[], replace };
        self.installer.install(offer, offer.method(None)?, &order)?;
        Ok(self.servers()[&name].clone())
    }

    fn servers(&self) -> Value {
        fs::read_json(&self.installer.paths.servers()).unwrap().unwrap_or(json!({}))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.installer.home.as_ref().unwrap().join(name)
    }
}

fn bundle(path: &Path, name: &str) -> String {
    let manifest = json!({"manifest_version": "0.3", "name": name, "version": "1.0.0",
        "server": {"type": "node", "entry_point": "x.js", "mcp_config": {
            "command": "node", "args": ["${__dirname}/x.js"], "env": {"KEY": "${user_config.key}"}}},
        "user_config": {"key": {"type": "string", "sensitive": true, "required": true}}});
    let mut zip = ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, text) in [("manifest.json", manifest.to_string()), ("x.js", "1".to_owned())] {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap();
    let hash = crate::registry::bundle::sha256_of(path).unwrap();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn packages_addresses_and_names_become_entries() {
    let desk = Desk::new();
    let entry = desk.install("npm:@acme/notes-mcp@1.2", &[]).await.unwrap();
    let expected = json!({"name": "notes-mcp", "profile_tags": [], "command": "npx", "args": ["-y", "@acme/notes-mcp@1.2"], "env": {}});
    assert_eq!(entry.to_string(), expected.to_string());
    assert_eq!(desk.install("pypi:mcp-x==2", &[]).await.unwrap()["args"], json!(["mcp-x@2"]));
    let image = desk.install("oci:ghcr.io/acme/img:1", &[]).await.unwrap();
    assert_eq!(image["args"], json!(["run", "-i", "--rm", "ghcr.io/acme/img:1"]));
    assert_eq!(desk.install("nuget:Acme.Mcp", &[]).await.unwrap()["command"], "dnx");
    assert_eq!(desk.install("cargo:acme-mcp", &[]).await.unwrap()["command"], "acme-mcp");
    let remote = desk.install("https://mcp.crm.example/mcp?team=1", &[]).await.unwrap();
    let expected = json!({"name": "crm", "profile_tags": [], "url": "https://mcp.crm.example/mcp?team=1", "headers": {}});
    assert_eq!(remote.to_string(), expected.to_string());
    let github = desk.install("github", &[("GITHUB_PERSONAL_ACCESS_TOKEN", "t")]).await.unwrap();
    assert_eq!(github["headers"], json!({"Authorization": "Bearer t"}));
}

#[tokio::test]
async fn a_server_of_the_official_registry_is_installed_under_its_short_name() {
    let site = Site::start(|asked| {
        assert_eq!(asked.path, "/v0.1/servers/io.github.acme%2Fweather/versions/latest");
        let server = json!({"server": {"name": "io.github.acme/weather", "description": "d", "version": "2.0.0",
            "packages": [{"registryType": "pypi", "identifier": "weather", "version": "2.0.0", "transport": {"type": "stdio"},
                "environmentVariables": [{"name": "KEY", "isRequired": true, "isSecret": true}]}]}});
        reply(200, server.to_string())
    })
    .await;
    let desk =
        Desk::with(Places::new(Some(site.url.clone()), Some(site.url.clone())), Policy::Usual);
    let error = desk.install("io.github.acme/weather", &[]).await.unwrap_err();
    assert!(matches!(error, InstallError::Fill(FillError::Missing(_))), "{error}");
    assert_eq!(desk.servers(), json!({}));
    let entry = desk.install("io.github.acme/weather", &[("KEY", "k")]).await.unwrap();
    assert_eq!(entry["name"], "weather");
    assert_eq!((&entry["command"], &entry["env"]), (&json!("uvx"), &json!({"KEY": "k"})));
    site.stop().await;
}

#[tokio::test]
async fn a_folder_is_installed_in_place() {
    let desk = Desk::new();
    let folder = desk.path("notes");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("package.json"), r#"{"name": "notes", "main": "x.js"}"#).unwrap();
    let entry = desk.install("~/notes", &[]).await.unwrap();
    let script = folder.canonicalize().unwrap().join("x.js");
    assert_eq!(entry["args"], json!([script.display().to_string()]));
}

#[tokio::test]
async fn a_bundle_of_this_machine_is_checked_unpacked_and_removed_again() {
    let desk = Desk::new();
    let file = desk.path("notes.mcpb");
    let sha256 = bundle(&file, "notes");
    let what = file.display().to_string();
    let error = desk.offer(&what, Some("00")).await.unwrap_err();
    assert!(matches!(error, InstallError::Bundle(BundleError::Checksum { .. })), "{error}");
    let offer = desk.offer(&what, Some(&sha256)).await.unwrap();
    let folder = desk.installer.paths.bundles().join("notes");
    assert!(desk.place(&offer, &[], false).is_err());
    assert!(!folder.exists(), "nothing is unpacked before all is known");
    let entry = desk.place(&offer, &[("key", "k")], false).unwrap();
    assert_eq!(entry["args"], json!([folder.join("x.js").display().to_string()]));
    assert_eq!(entry["env"], json!({"KEY": "k"}));
    assert!(folder.join("x.js").exists());
    let removed = uninstall(&desk.installer.paths, "notes").unwrap();
    assert!(removed.bundle && !folder.exists());
    assert_eq!(desk.servers(), json!({}));
}

#[tokio::test]
async fn a_bundle_of_the_web_must_be_what_the_registry_says() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.mcpb");
    let sha256 = bundle(&file, "other-name");
    let bytes = std::fs::read(&file).unwrap();
    let promised = Arc::new(std::sync::Mutex::new("00".repeat(32)));
    let (base, told) = (Arc::new(std::sync::Mutex::new(String::new())), Arc::clone(&promised));
    let own = Arc::clone(&base);
    let site = Site::start(move |asked| {
        if asked.path == "/files/x.mcpb" {
            return reply(200, bytes.clone());
        }
        let url = format!("{}files/x.mcpb", own.lock().unwrap());
        let server = json!({"server": {"name": "io.github.acme/weather", "packages": [
            {"registryType": "mcpb", "identifier": url, "fileSha256": *told.lock().unwrap()}]}});
        reply(200, server.to_string())
    })
    .await;
    *base.lock().unwrap() = site.url.to_string();
    let desk = Desk::with(Places::new(None, Some(site.url.clone())), Policy::Usual);
    let error = desk.install("io.github.acme/weather", &[("key", "k")]).await.unwrap_err();
    assert!(matches!(error, InstallError::Bundle(BundleError::Checksum { .. })), "{error}");
    assert_eq!(std::fs::read_dir(desk.installer.paths.bundles()).unwrap().count(), 0);
    *promised.lock().unwrap() = sha256;
    let entry = desk.install("io.github.acme/weather", &[("key", "k")]).await.unwrap();
    assert_eq!((&entry["name"], &entry["command"]), (&json!("weather"), &json!("node")));
    let left: Vec<_> = std::fs::read_dir(desk.installer.paths.bundles()).unwrap().collect();
    assert_eq!(left.len(), 1, "the download is gone");
    // Without a checksum it works too, and the user is told.
    let offer = desk.offer(&format!("{}files/x.mcpb", site.url), None).await.unwrap();
    assert!(offer.warnings[0].contains("checksum"), "{:?}", offer.warnings);
    site.stop().await;
}

/// Defect 21 of the Python `mcpm`: `install --force` dropped the profiles of a server.
#[tokio::test]
async fn defect_21_a_replaced_server_keeps_its_profiles() {
    let desk = Desk::new();
    std::fs::create_dir_all(desk.installer.paths.dir()).unwrap();
    let other = "\"other\": {\"command\":\"x\",   \"timeout\": 1.50}";
    let text = format!(
        "{{\n  \"time\": {{\"command\": \"old\", \"profile_tags\": [\"work\"]}},\n  {other}\n}}\n"
    );
    std::fs::write(desk.installer.paths.servers(), &text).unwrap();
    let offer = desk.offer("time", None).await.unwrap();
    let error = desk.place(&offer, &[], false).unwrap_err();
    assert!(error.hint().unwrap().contains("--force"), "{error}");
    assert_eq!(std::fs::read_to_string(desk.installer.paths.servers()).unwrap(), text);
    let entry = desk.place(&offer, &[], true).unwrap();
    assert_eq!((&entry["command"], &entry["profile_tags"]), (&json!("uvx"), &json!(["work"])));
    assert!(std::fs::read_to_string(desk.installer.paths.servers()).unwrap().contains(other));
}

/// Defect 29 of the Python `mcpm`: nothing said that `npx` or `uvx` is not there (#249).
#[tokio::test]
async fn defect_29_a_missing_runtime_is_said() {
    let desk = Desk::new();
    let offer = desk.offer("time", None).await.unwrap();
    let order = Order { name: "time", answers: &Answers::new(), args: &[], replace: false };
    let installed = desk.installer.install(&offer, offer.method(None).unwrap(), &order).unwrap();
    assert!(installed.warnings[0].contains("`uvx` is not installed"), "{:?}", installed.warnings);
}

/// Defect 25 of the Python `mcpm`: an uninstalled server left its source behind.
#[tokio::test]
async fn defect_25_nothing_of_an_uninstalled_server_stays() {
    let desk = Desk::new();
    desk.install("npm:notes", &[]).await.unwrap();
    desk.install("npm:kept", &[]).await.unwrap();
    let paths = &desk.installer.paths;
    let url = "https://x.example/mcp";
    Store::open(paths).keep(&crate::oauth::testing::record("notes", url)).unwrap();
    let removed = uninstall(paths, "notes").unwrap();
    assert!(removed.login && !removed.bundle);
    assert!(desk.servers().get("notes").is_none() && desk.servers().get("kept").is_some());
    let sources: Value = fs::read_json(&paths.sources()).unwrap().unwrap();
    assert!(sources.get("notes").is_none() && sources.get("kept").is_some());
    let error = uninstall(paths, "notes").unwrap_err();
    assert!(matches!(error, InstallError::Config(ConfigError::UnknownServer { .. })), "{error}");
}

#[tokio::test]
async fn npm_packages_run_with_what_the_user_prefers() {
    let desk = Desk::new();
    Settings::open(&desk.installer.paths).unwrap().set(NODE, "pnpm dlx").unwrap();
    let entry = desk.install("npm:notes", &[]).await.unwrap();
    assert_eq!((&entry["command"], &entry["args"]), (&json!("pnpm"), &json!(["dlx", "notes"])));
    let other = desk.install("pypi:notes-py", &[]).await.unwrap();
    assert_eq!(other["command"], "uvx");
}

#[tokio::test]
async fn methods_are_chosen_by_name_and_unknown_ones_name_the_known() {
    let desk = Desk::new();
    let offer = desk.offer("github", None).await.unwrap();
    assert_eq!(offer.method(None).unwrap().id, "remote");
    assert_eq!(offer.method(Some("docker")).unwrap().id, "docker");
    let error = offer.method(Some("apt")).unwrap_err();
    assert_eq!(error.hint().unwrap(), "Choose one of remote, docker");
}

#[test]
fn no_two_names_share_the_folder_of_a_bundle() {
    let paths = Paths::new("/x");
    let folder =
        |name: &str| bundle_folder(&paths, name).file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(folder("notes"), "notes");
    assert_ne!(folder("a/b"), folder("a_b"));
    assert!(folder("a/b").starts_with("a_b-"));
    assert!(!folder("..").starts_with('.') && !folder(".x").starts_with('.'));
}
