use super::*;

async fn findings(servers: &str, only: &[&str]) -> Vec<Finding> {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    std::fs::write(paths.servers(), servers).unwrap();
    let (tell, mut told) = mpsc::channel(1);
    let what = Examination {
        servers: only.iter().map(|name| (*name).to_owned()).collect(),
        patience: Duration::from_secs(20),
        places: None,
        relay: None,
    };
    let gather = async {
        let mut findings = Vec::new();
        while let Some(finding) = told.recv().await {
            findings.push(finding);
        }
        findings
    };
    tokio::join!(examine(what, &paths, tell), gather).1
}

fn of(area: Area, findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.area == area).collect()
}

#[cfg(unix)]
#[tokio::test]
async fn every_server_is_started_and_its_tools_are_counted() {
    let answers = concat!(
        r#"while read -r line; do id=${line#*'"id":'}; id=${id%%[,\}]*}; "#,
        r#"say() { echo '{"jsonrpc":"2.0","id":'$id',"result":'"$1"'}'; }; case $line in "#,
        r#"*'"initialize"'*) say '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"toy","version":"1.2"}}';; "#,
        r#"*tools/list*) say '{"tools":[{"name":"a","inputSchema":{"type":"object"}},{"name":"b","inputSchema":{"type":"object"}}]}';; "#,
        r#"esac; done"#
    );
    let servers = serde_json::json!({
        "toy": { "command": "sh", "args": ["-c", answers] },
        "dead": { "command": "sh", "args": ["-c", "echo why >&2; exit 3"] },
        "gone": { "command": "mcpm-no-such-command" },
        "bad": { "env": {} },
        "own": { "config": {} },
    });
    let found = findings(&servers.to_string(), &[]).await;
    let told: Vec<(&str, Health)> =
        of(Area::Server, &found).iter().map(|f| (f.subject.as_str(), f.health)).collect();
    let (ok, broken) = (Health::Ok, Health::Broken);
    assert_eq!(
        told,
        [("toy", ok), ("dead", broken), ("gone", broken), ("bad", broken), ("own", ok)],
        "{found:?}"
    );
    assert_eq!(of(Area::Server, &found)[0].detail, "toy 1.2 (2 tools)");
    assert!(of(Area::Server, &found)[1].detail.contains("why"), "{found:?}");
    let silent = found.iter().find(|f| f.health == broken && f.hint.is_none());
    assert!(silent.is_none(), "{silent:?}");
}

#[tokio::test]
async fn a_file_that_does_not_parse_is_found_and_nothing_is_started() {
    let found = findings("{,", &[]).await;
    let files = of(Area::File, &found);
    assert_eq!((files[0].subject.as_str(), files[0].health), ("servers.json", Health::Broken));
    assert!(files[0].hint.as_deref().unwrap().contains("Repair"));
    assert!(of(Area::Server, &found).is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_others_can_read_is_told_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    std::fs::write(paths.servers(), "{}").unwrap();
    let mode = |mode| {
        std::fs::set_permissions(paths.servers(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o644);
    let found = files::look(&paths);
    assert_eq!(found[0].health, Health::Warning);
    assert!(found[0].hint.as_deref().unwrap().contains("chmod 600"));
    mode(0o600);
    assert_eq!(files::look(&paths)[0].health, Health::Ok);
}

#[test]
fn a_clock_that_is_off_is_told_before_a_relay_refuses_us() {
    let seen = |ahead| {
        let look = Look { status: 200, ahead_secs: Some(ahead) };
        relay("https://r.example".to_owned(), Ok(look))
    };
    assert_eq!(seen(3).health, Health::Ok);
    assert_eq!(seen(-20).health, Health::Warning);
    let late = seen(90);
    assert_eq!(late.health, Health::Broken);
    assert!(late.detail.contains("90 s behind"), "{late:?}");
    assert!(late.hint.unwrap().contains("clock"));
    let strange = Look { status: 404, ahead_secs: None };
    let strange = relay("x".to_owned(), Ok(strange));
    assert_eq!(strange.health, Health::Broken);
    let spared = spared(strange);
    assert!(spared.health == Health::Warning && spared.hint.is_some(), "{spared:?}");
}

#[tokio::test]
async fn who_asks_for_one_server_is_not_told_what_others_are_missing() {
    let servers = r#"{"a": {"command": "uvx"}, "b": {"command": "mcpm-no-such-command"}}"#;
    let found = findings(servers, &["b"]).await;
    let runtimes = of(Area::Runtime, &found);
    // Where `uvx` is installed, what needs it stands below.
    let is_spared = |finding: &&Finding| finding.health == Health::Ok && finding.more.is_empty();
    assert!(runtimes.iter().all(is_spared), "{runtimes:?}");
    assert_eq!(of(Area::Server, &found).len(), 1);
}
