use axum::http::HeaderValue;

use super::super::testing::{Asked, Reply, reply};
use super::*;

/// Answers as a static site does: by its `ETag` and date.
fn conditional(asked: &Asked) -> Reply {
    if asked.path != "/api/servers.json" {
        return reply(404, "");
    }
    if asked.etag.as_deref() == Some("\"v1\"") {
        return reply(304, "");
    }
    let mut answer = reply(200, SERVERS)?;
    answer.headers_mut().insert("etag", HeaderValue::from_static("\"v1\""));
    let date = HeaderValue::from_static("Fri, 21 Nov 2025 08:00:00 GMT");
    answer.headers_mut().insert("last-modified", date);
    Some(answer)
}

async fn search(site: &Site, paths: &Paths, policy: Policy) -> Found {
    registry(site, paths, policy).search(None, Some(Origin::Catalogue)).await
}

#[tokio::test]
async fn a_copy_is_used_for_an_hour_and_then_asked_about_by_etag_and_date() {
    let site = Site::start(conditional).await;
    let (_dir, paths) = home();
    let found = search(&site, &paths, Policy::Usual).await;
    assert_eq!(names(&found), ["stem-of-notes", "weather"]);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    assert_eq!(site.asked()[0].etag, None);

    search(&site, &paths, Policy::Usual).await;
    assert!(site.asked().is_empty());

    age(&paths, "catalogue.json");
    let found = search(&site, &paths, Policy::Usual).await;
    assert_eq!((found.manifests.len(), found.problems.len()), (2, 0));
    let asked = site.asked();
    assert_eq!(asked[0].etag.as_deref(), Some("\"v1\""));
    assert_eq!(asked[0].since.as_deref(), Some("Fri, 21 Nov 2025 08:00:00 GMT"));

    // An answer of 304 makes the copy current again.
    search(&site, &paths, Policy::Usual).await;
    assert!(site.asked().is_empty());
    search(&site, &paths, Policy::Refresh).await;
    assert_eq!(site.asked().len(), 1);
    site.stop().await;
}

#[tokio::test]
async fn errors_and_broken_bodies_leave_the_last_good_copy_in_use() {
    let answers = Arc::new(std::sync::Mutex::new(SERVERS.to_owned()));
    let body = Arc::clone(&answers);
    let site = Site::start(move |_| match body.lock().unwrap().as_str() {
        "500" => reply(500, "oops"),
        body => reply(200, body.to_owned()),
    })
    .await;
    let (_dir, paths) = home();
    search(&site, &paths, Policy::Usual).await;
    let whole = std::fs::read(paths.registry().join("catalogue.json")).unwrap();
    let cut = &SERVERS[..SERVERS.len() / 2];
    for bad in ["500", cut, "<html>", "[]", "{}", r#"{"error": "try later"}"#] {
        bad.clone_into(&mut answers.lock().unwrap());
        let found = search(&site, &paths, Policy::Refresh).await;
        assert_eq!(names(&found), ["stem-of-notes", "weather"], "{bad}");
        assert_eq!(found.problems.len(), 1, "{bad}");
        let kept = std::fs::read(paths.registry().join("catalogue.json")).unwrap();
        assert!(kept == whole, "{bad} has replaced the copy");
    }
    site.stop().await;
}

/// Defect 30 of the Python `mcpm`: the request had no time-out.
#[tokio::test]
async fn defect_30_a_registry_that_never_answers_is_given_up() {
    let came = Arc::new(tokio::sync::Notify::new());
    let comes = Arc::clone(&came);
    let site = Site::start(move |_| {
        comes.notify_one();
        None
    })
    .await;
    let (_dir, paths) = home();
    let started = tokio::time::Instant::now();
    let (found, ()) = tokio::join!(search(&site, &paths, Policy::Usual), hurry(&came));
    assert!(found.manifests.is_empty());
    let Some(RegistryError::Web { source, .. }) = found.problems.first() else {
        panic!("{:?}", found.problems)
    };
    assert!(matches!(source, WebError::TimedOut { .. }), "{source}");
    let waited = started.elapsed().as_secs();
    assert!((15..=30).contains(&waited), "{waited} s");
    site.stop().await;
}

#[tokio::test]
async fn a_body_without_an_end_is_given_up_at_its_bound() {
    let site = Site::start(|_| {
        let endless =
            futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 20]));
        reply(200, axum::body::Body::from_stream(endless))
    })
    .await;
    let (_dir, paths) = home();
    let found = search(&site, &paths, Policy::Usual).await;
    let Some(RegistryError::Web { source, .. }) = found.problems.first() else { panic!() };
    assert!(matches!(source, WebError::TooBig { .. }), "{source}");
    site.stop().await;
}

#[tokio::test]
async fn offline_nobody_is_asked_and_the_last_good_copy_is_used() {
    let site = Site::start(conditional).await;
    let (_dir, paths) = home();
    let nothing = search(&site, &paths, Policy::Offline).await;
    assert!(matches!(nothing.problems[..], [RegistryError::NoCopy(_)]));
    search(&site, &paths, Policy::Usual).await;
    age(&paths, "catalogue.json");
    site.asked();
    let found = search(&site, &paths, Policy::Offline).await;
    assert_eq!((found.manifests.len(), found.problems.len()), (2, 0));
    assert!(site.asked().is_empty());
    site.stop().await;
}

#[tokio::test]
async fn a_copy_of_another_catalogue_is_not_taken_for_this_one() {
    let (first, second) = (Site::start(conditional).await, Site::start(|_| reply(500, "")).await);
    let (_dir, paths) = home();
    search(&first, &paths, Policy::Usual).await;
    let found = search(&second, &paths, Policy::Usual).await;
    assert!(found.manifests.is_empty());
    assert_eq!(second.asked()[0].etag, None);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_damaged_copy_is_made_again() {
    let site = Site::start(conditional).await;
    let (_dir, paths) = home();
    std::fs::create_dir(paths.registry()).unwrap();
    std::fs::write(paths.registry().join("catalogue.json"), "{,").unwrap();
    assert_eq!(search(&site, &paths, Policy::Usual).await.manifests.len(), 2);
    assert!(
        crate::fs::read_json::<serde_json::Value>(&paths.registry().join("catalogue.json")).is_ok()
    );
    site.stop().await;
}

#[tokio::test]
async fn the_copy_of_the_python_mcpm_is_better_than_none() {
    let (_dir, paths) = home();
    let cache = format!(r#"{{"servers": {SERVERS}, "last_refresh": "2025-11-21T09:00:00"}}"#);
    std::fs::write(paths.servers_cache(), cache).unwrap();
    let places = Places::new(None, None);
    let registry = Registry::new(places, &paths, &Arc::new(Web::new().unwrap()), Policy::Offline);
    let found = registry.search(Some("forecast"), Some(Origin::Catalogue)).await;
    assert_eq!(names(&found), ["weather"]);
}

#[tokio::test]
async fn a_server_is_found_by_its_key_and_by_the_name_that_only_it_has() {
    let site = Site::start(conditional).await;
    let (_dir, paths) = home();
    let registry = registry(&site, &paths, Policy::Usual);
    for name in ["stem-of-notes", "notes"] {
        let (manifest, _) = registry.find(name, None).await.unwrap();
        assert_eq!(manifest.name, "stem-of-notes");
    }
    let (weather, _) = registry.find("weather", None).await.unwrap();
    assert_eq!(weather.preferred().unwrap().id, "npm");
    assert_eq!(weather.examples, ["Will it rain tomorrow?"]);
    // The catalogue is believed before the built-in list, and the official registry is not asked.
    assert!(site.asked().iter().all(|asked| asked.path == "/api/servers.json"));
    site.stop().await;
}
