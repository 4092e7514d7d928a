use serde_json::{Value, json};

use super::super::testing::{Asked, Reply, reply};
use super::*;

const META: &str = "io.modelcontextprotocol.registry/official";

pub(super) fn item(name: &str) -> Value {
    item_at(name, "1.0.0", "active", "2025-12-11T10:00:00Z")
}

fn item_at(name: &str, version: &str, status: &str, updated_at: &str) -> Value {
    json!({
        "server": {
            "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
            "name": name, "title": "A title", "description": format!("About {name}."), "version": version,
            "repository": {"url": "https://git.example/x", "source": "git"},
            "packages": [{"registryType": "npm", "registryBaseUrl": "https://registry.npmjs.org",
                "identifier": "@acme/x", "version": version, "transport": {"type": "stdio"}}],
        },
        "_meta": {META: {"status": status, "publishedAt": "2025-12-01T10:00:00Z", "updatedAt": updated_at, "isLatest": true}}
    })
}

fn page_of(items: &[Value], next: Option<&str>) -> String {
    let mut metadata = json!({ "count": items.len() });
    if let Some(next) = next {
        metadata["nextCursor"] = next.into();
    }
    json!({ "servers": items, "metadata": metadata }).to_string()
}

pub(super) fn page(names: &[&str], next: Option<&str>) -> String {
    let items: Vec<Value> = names.iter().map(|name| item(name)).collect();
    page_of(&items, next)
}

async fn search(site: &Site, paths: &Paths, policy: Policy, query: Option<&str>) -> Found {
    registry(site, paths, policy).search(query, Some(Origin::Official)).await
}

/// Three pages, then what changed since.
fn paged(asked: &Asked) -> Reply {
    assert_eq!(asked.path, "/v0.1/servers");
    let body = match (asked.param("updated_since"), asked.param("cursor")) {
        (None, None) => page(&["io.a/one", "io.a/two"], Some("c+1/x")),
        (None, Some("c+1/x")) => page(&["io.a/three"], Some("c2")),
        (None, Some("c2")) => {
            page_of(&[item_at("io.a/four", "1.0.0", "active", "2025-12-12T08:00:00Z")], None)
        }
        (Some("2025-12-12T08:00:00Z"), None) => page_of(
            &[
                item_at("io.a/two", "2.0.0", "deprecated", "2025-12-13T08:00:00Z"),
                item_at("io.a/three", "1.0.0", "deleted", "2025-12-13T09:00:00Z"),
                item_at("io.a/five", "1.0.0", "active", "2025-12-13T07:00:00Z"),
            ],
            None,
        ),
        _ => page(&[], None),
    };
    reply(200, body)
}

#[tokio::test]
async fn all_pages_are_read_once_and_then_only_what_changed() {
    let site = Site::start(paged).await;
    let (_dir, paths) = home();
    let found = search(&site, &paths, Policy::Usual, None).await;
    assert_eq!(names(&found), ["io.a/four", "io.a/one", "io.a/three", "io.a/two"]);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    let asked = site.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|asked| asked.param("version") == Some("latest")));

    search(&site, &paths, Policy::Usual, Some("four")).await;
    assert!(site.asked().is_empty(), "the copy is current");

    age(&paths, "official.json");
    let found = search(&site, &paths, Policy::Usual, Some("a/")).await;
    assert_eq!(names(&found), ["io.a/five", "io.a/four", "io.a/one", "io.a/two"]);
    let two = &found.manifests[3];
    assert_eq!((two.version.as_deref(), two.archived), (Some("2.0.0"), true));
    let asked = site.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].param("include_deleted"), Some("true"));

    age(&paths, "official.json");
    search(&site, &paths, Policy::Usual, None).await;
    assert_eq!(site.asked()[0].param("updated_since"), Some("2025-12-13T09:00:00Z"));
    site.stop().await;
}

#[tokio::test]
async fn a_round_that_was_cut_goes_on_where_it_stopped() {
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let fails = Arc::clone(&broken);
    let site = Site::start(move |asked| {
        let second = asked.param("cursor") == Some("c+1/x");
        if second && fails.load(std::sync::atomic::Ordering::Relaxed) {
            return reply(503, "");
        }
        paged(asked)
    })
    .await;
    let (_dir, paths) = home();
    let found = search(&site, &paths, Policy::Usual, None).await;
    assert_eq!(names(&found), ["io.a/one", "io.a/two"]);
    assert_eq!(found.problems.len(), 1);
    site.asked();
    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    let found = search(&site, &paths, Policy::Usual, None).await;
    assert_eq!((found.manifests.len(), found.problems.len()), (4, 0));
    assert_eq!(site.asked()[0].param("cursor"), Some("c+1/x"));
    site.stop().await;
}

#[tokio::test]
async fn a_cursor_that_became_void_begins_a_new_round() {
    let site = Site::start(|asked| match asked.param("cursor") {
        Some("c2") => reply(400, "{}"),
        _ => paged(asked),
    })
    .await;
    let (_dir, paths) = home();
    assert_eq!(search(&site, &paths, Policy::Usual, None).await.problems.len(), 1);
    site.asked();
    search(&site, &paths, Policy::Usual, None).await;
    assert_eq!(site.asked()[0].param("cursor"), None);
    site.stop().await;
}

#[tokio::test]
async fn pages_without_an_end_end() {
    let site = Site::start(|_| reply(200, page(&["io.a/one"], Some("same")))).await;
    let (_dir, paths) = home();
    let found = search(&site, &paths, Policy::Usual, None).await;
    assert!(matches!(found.problems[..], [RegistryError::Broken { .. }]), "{:?}", found.problems);
    assert_eq!(names(&found), ["io.a/one"]);
    site.stop().await;
}

#[tokio::test]
async fn a_word_is_looked_for_at_the_registry_as_long_as_not_all_of_it_is_known() {
    let site = Site::start(|asked| match (asked.param("search"), asked.param("cursor")) {
        (Some("weather"), None) => reply(200, page(&["io.a/weather"], Some("n"))),
        (Some("weather"), Some("n")) => reply(200, page(&["io.b/weather"], None)),
        _ => reply(500, ""),
    })
    .await;
    let (_dir, paths) = home();
    let found = search(&site, &paths, Policy::Usual, Some("weather")).await;
    assert_eq!(names(&found), ["io.a/weather", "io.b/weather"]);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    // What was found once is there without a network too.
    let found = search(&site, &paths, Policy::Offline, Some("weather")).await;
    assert_eq!(found.manifests.len(), 2);
    site.stop().await;
}

#[tokio::test]
async fn one_server_is_asked_for_by_its_escaped_name_and_version() {
    let site = Site::start(|asked| match asked.path.as_str() {
        "/v0.1/servers/io.github.acme%2Fweather/versions/latest" => {
            reply(200, item("io.github.acme/weather").to_string())
        }
        "/v0.1/servers/io.github.acme%2Fweather/versions/0.9.0" => {
            let mut old =
                item_at("io.github.acme/weather", "0.9.0", "active", "2025-01-01T00:00:00Z");
            old["_meta"][META]["isLatest"] = false.into();
            reply(200, old.to_string())
        }
        "/v0.1/servers/io.github.acme%2Fbroken/versions/latest" => reply(200, "{\"server\": "),
        _ => reply(404, "{}"),
    })
    .await;
    let (_dir, paths) = home();
    let registry = registry(&site, &paths, Policy::Usual);
    let version = |found: Result<(Manifest, Vec<RegistryError>), RegistryError>| {
        found.unwrap().0.version.unwrap()
    };
    assert_eq!(version(registry.find("io.github.acme/weather", None).await), "1.0.0");
    assert_eq!(version(registry.find("io.github.acme/weather", Some("0.9.0")).await), "0.9.0");
    let error = registry.find("io.github.acme/none", None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unknown { .. }), "{error}");
    let error = registry.find("io.github.acme/broken", None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unsure { .. }), "{error}");
    // Names of this form are asked for nowhere else but for advice.
    let asked = site.asked();
    assert!(asked.iter().take(2).all(|asked| asked.path.starts_with("/v0.1/")), "{asked:?}");
    site.stop().await;
}

#[tokio::test]
async fn the_last_good_copy_of_a_server_is_used_when_the_registry_is_down() {
    let down = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let site = Site::start(move |_| {
        let down = is_down.load(std::sync::atomic::Ordering::Relaxed);
        if down { reply(502, "") } else { reply(200, item("io.a/one").to_string()) }
    })
    .await;
    let (_dir, paths) = home();
    let registry = registry(&site, &paths, Policy::Usual);
    registry.find("io.a/one", None).await.unwrap();
    down.store(true, std::sync::atomic::Ordering::Relaxed);
    let (manifest, problems) = registry.find("io.a/one", None).await.unwrap();
    assert_eq!((manifest.name.as_str(), problems.len()), ("io.a/one", 1));
    site.stop().await;
}

#[tokio::test]
async fn a_page_that_never_comes_is_given_up_and_what_came_is_kept() {
    let came = Arc::new(tokio::sync::Notify::new());
    let comes = Arc::clone(&came);
    let site = Site::start(move |asked| match asked.param("cursor") {
        None => reply(200, page(&["io.a/one"], Some("next"))),
        Some(_) => {
            comes.notify_one();
            None
        }
    })
    .await;
    let (_dir, paths) = home();
    let (found, ()) = tokio::join!(search(&site, &paths, Policy::Usual, None), hurry(&came));
    let [RegistryError::Web { source: WebError::TimedOut { .. }, .. }] = found.problems[..] else {
        panic!("{:?}", found.problems)
    };
    assert_eq!(names(&found), ["io.a/one"]);
    let found = search(&site, &paths, Policy::Offline, None).await;
    assert_eq!(names(&found), ["io.a/one"]);
    site.stop().await;
}
