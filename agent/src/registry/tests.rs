//! Both registries, replayed by a site of this process. The answers are ours, in the shape of the
//! real ones.

mod catalogue;
mod official;

use super::testing::Site;
use super::*;

const SERVERS: &str = include_str!("tests/servers.json");

/// Registries below one site, with their copies in `paths`.
fn registry(site: &Site, paths: &Paths, policy: Policy) -> Registry {
    let places = Places::new(Some(site.url.clone()), Some(site.url.clone()));
    Registry::new(places, paths, &Arc::new(Web::new().unwrap()), policy)
}

fn home() -> (tempfile::TempDir, Paths) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    (dir, paths)
}

fn names(found: &Found) -> Vec<&str> {
    found.manifests.iter().map(|manifest| manifest.name.as_str()).collect()
}

/// Lets waits end at once from the moment when a request has come: before it, the clock would run
/// ahead of the connection.
async fn hurry(came: &tokio::sync::Notify) {
    came.notified().await;
    tokio::time::pause();
}

/// Makes the copy old, as if an hour had passed.
fn age(paths: &Paths, file: &str) {
    let path = paths.registry().join(file);
    let mut copy: serde_json::Value = crate::fs::read_json(&path).unwrap().unwrap();
    copy["checked_at"] = 1.into();
    crate::fs::write_json(&path, &copy).unwrap();
}

#[test]
fn a_catalogue_is_named_by_its_file_or_its_site() {
    let catalogue =
        |url: &str| Places::new(Some(Url::parse(url).unwrap()), None).catalogue.to_string();
    assert_eq!(catalogue("https://x.example"), "https://x.example/api/servers.json");
    assert_eq!(catalogue("https://x.example/mcp/api/"), "https://x.example/mcp/api/servers.json");
    assert_eq!(catalogue("https://x.example/a.json?k=1"), "https://x.example/a.json?k=1");
    assert_eq!(Places::new(None, None).catalogue.as_str(), CATALOGUE);
}

#[tokio::test]
async fn an_unknown_name_is_an_error_that_suggests_what_looks_like_it() {
    let registry = Registry::of(vec![Arc::new(builtin::BuiltIn)]);
    let error = registry.find("githb", None).await.unwrap_err();
    assert_eq!(error.to_string(), "no registry has a server named `githb`");
    assert!(error.hint().unwrap().contains("`github`"), "{:?}", error.hint());
    let error = registry.find("zzzzzz", None).await.unwrap_err();
    assert!(error.hint().unwrap().contains("mcpm search"));
}

/// Every source answers the port in the same way.
#[tokio::test]
async fn all_sources_keep_the_contract_of_the_port() {
    let site = Site::start(|asked| match asked.path.as_str() {
        "/api/servers.json" => testing::reply(200, SERVERS),
        path if path.contains("nobody") => testing::reply(404, "{}"),
        "/v0.1/servers" => testing::reply(200, official::page(&["io.github.acme/weather"], None)),
        _ => testing::reply(200, official::item("io.github.acme/weather").to_string()),
    })
    .await;
    let (_dir, paths) = home();
    for (source, known) in registry(&site, &paths, Policy::Usual).sources.iter().zip([
        "weather",
        "time",
        "io.github.acme/weather",
    ]) {
        let all = source.list(None).await;
        assert!(all.problem.is_none() && !all.manifests.is_empty(), "{source:?}");
        assert!(all.manifests.iter().all(|manifest| manifest.origin == source.origin()));
        let some = source.list(Some(&known.to_uppercase())).await.manifests;
        assert!(some.iter().any(|manifest| manifest.name == known), "{known}");
        assert!(source.list(Some("no such thing at all")).await.manifests.is_empty());
        let found = source.find(known, None).await;
        assert_eq!(found.manifests[0].name, known);
        let none = source.find("io.nobody/none", None).await;
        assert!(none.manifests.is_empty() && none.problem.is_none());
    }
    site.stop().await;
}

#[tokio::test]
async fn without_a_network_and_without_a_copy_the_built_in_list_is_there() {
    let (_dir, paths) = home();
    // Nobody listens at this port: it was free a moment ago.
    let site = Site::start(|_| None).await;
    let url = site.url.clone();
    site.stop().await;
    let places = Places::new(Some(url.clone()), Some(url));
    let registry = Registry::new(places, &paths, &Arc::new(Web::new().unwrap()), Policy::Usual);
    let found = registry.search(Some("time zone"), None).await;
    assert_eq!(names(&found), ["time"]);
    assert_eq!(found.problems.len(), 2);
    assert!(found.problems.iter().all(|problem| problem.hint().is_some()));
    let (manifest, problems) = registry.find("time", None).await.unwrap();
    assert_eq!((manifest.origin, problems.len()), (Origin::BuiltIn, 1));
    // What is in no list may well be in the registry that was not reached.
    let error = registry.find("weather", None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unsure { .. }), "{error}");
    assert!(error.hint().unwrap().contains("network"), "{error:?}");
    let error = registry.find("timee", None).await.unwrap_err();
    assert!(error.hint().unwrap().contains("`time`"), "{error:?}");
}
