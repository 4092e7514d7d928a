use super::*;

fn home(servers: &str) -> (tempfile::TempDir, Paths) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    std::fs::write(paths.servers(), servers).unwrap();
    (dir, paths)
}

fn link(text: &str) -> Invitation {
    text.parse().unwrap()
}

#[test]
fn a_share_takes_a_free_name_or_that_of_the_server_it_is_already() {
    let servers = r#"{
        "work": {"command": "x"},
        "friend": {"url": "https://a.r.example/mcp", "headers": {"X-MCPM-SECRET": "OLD"}}
    }"#;
    let (_dir, paths) = home(servers);
    let find = |text: &str, asked: Option<&str>, force| place(&paths, &link(text), asked, force);
    let new = "https://b.r.example?s=S&profile=work";
    assert_eq!(find(new, None, false).unwrap(), Place { name: "work-2".into(), replaces: false });
    let known = "https://a.r.example?s=NEW";
    assert_eq!(find(known, None, false).unwrap(), Place { name: "friend".into(), replaces: true });
    assert!(find(known, Some("friend"), false).unwrap().replaces);
    assert!(matches!(find(new, Some("work"), false), Err(ConfigError::Exists { .. })));
    assert!(find(new, Some("work"), true).unwrap().replaces);
    assert!(matches!(find(new, Some("-x"), true), Err(ConfigError::BadName { .. })));
}

#[tokio::test]
async fn a_share_that_is_not_there_is_told_by_its_url_without_the_secret_and_nothing_is_kept() {
    let (_dir, paths) = home("{}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let invitation = link(&format!("http://{address}?s=S3CRET&profile=work"));
    let tried = try_out(&invitation, "work", Duration::from_secs(20), &paths).await;
    let error = tried.unwrap_err();
    assert!(
        matches!(&error, ConnectError::NoAnswer { url, .. } if url.ends_with("/mcp")),
        "{error}"
    );
    assert!(!format!("{error} {error:?}").contains("S3CRET"));
    assert!(GlobalConfigManager::open(&paths).unwrap().list_servers().is_empty());
}
