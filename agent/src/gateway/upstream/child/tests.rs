use super::super::testing::{LIMITS, ask, next, nursery, opening};
use super::super::{Conn, Target};
use super::*;
use crate::gateway::child::tests::sh;

/// A server in shell: each branch of the `case` is told the id of what it hears.
fn server(branches: &str) -> Spec {
    sh(&format!(
        r#"
        say() {{ printf '%s\n' "$1"; }}
        result() {{ say "{{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$1}}"; }}
        error() {{ say "{{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{{\"code\":$1,\"message\":\"no\"}}}}"; }}
        hello() {{ result '{{"protocolVersion":"2025-06-18","capabilities":{{}},"serverInfo":{{"name":"'"$1"'"}}}}'; }}
        modern() {{ result '{{"supportedVersions":["2026-07-28"],"capabilities":{{}},"_meta":{{"io.modelcontextprotocol/serverInfo":{{"name":"'"$1"'"}}}}}}'; }}
        n=0
        while read -r l; do
            n=$((n + 1)); id=${{l#*\"id\":}}; id=${{id%%,*}}
            case "$l" in
            {branches}
            esac
        done"#
    ))
}

async fn open(
    branches: &str,
    known: Option<Era>,
    limits: &Limits,
) -> Result<Arc<Conn>, GatewayError> {
    Conn::open(&Target::Child(server(branches)), &opening(), known, &nursery(), limits).await
}

fn name(conn: &Conn) -> String {
    conn.facts().server_info.as_ref().unwrap().get().to_owned()
}

const QUICK: Limits = Limits { start_timeout: Duration::from_millis(1500), max_line: 1000 };

#[tokio::test]
async fn a_legacy_child_is_found_with_one_process() {
    let branches = r#"
        *server/discover*) error -32601;;
        *'"initialize"'*) hello "heard $n";;
        *notifications/initialized*) ready=yes;;
        *) result "{\"ready\":\"$ready\"}";;"#;
    let conn = open(branches, None, &LIMITS).await.unwrap();
    assert_eq!((conn.facts().era, conn.facts().version.as_str()), (Era::Legacy, "2025-06-18"));
    assert_eq!(name(&conn), r#"{"name":"heard 2"}"#);
    let (_claim, mut queue) = ask(&conn, r#"{"id":"a","method":"x"}"#).await;
    let answer = r#"{"jsonrpc":"2.0","id":"a","result":{"ready":"yes"}}"#;
    assert_eq!(next(&mut queue).await, (answer.to_owned(), true));
    assert!(!conn.is_busy());
    conn.stop();
    assert!(conn.over().await.contains("exit status: 0"));
    assert!(conn.is_over());
}

#[tokio::test]
async fn a_modern_child_is_never_sent_an_initialize() {
    let branches = r#"
        *server/discover*) modern m;;
        *'"initialize"'*) exit 1;;
        *) result '{"ok":1}';;"#;
    for known in [None, Some(Era::Modern)] {
        let conn = open(branches, known, &LIMITS).await.unwrap();
        assert_eq!(conn.facts().era, Era::Modern);
        let (_claim, mut queue) = ask(&conn, r#"{"id":7,"method":"x"}"#).await;
        let answer = r#"{"jsonrpc":"2.0","id":7,"result":{"ok":1}}"#;
        assert_eq!(next(&mut queue).await, (answer.to_owned(), true));
    }
}

#[tokio::test]
async fn a_child_that_is_known_is_not_probed() {
    let branches = r#"
        *server/discover*) exit 1;;
        *'"initialize"'*) hello "heard $n";;"#;
    let conn = open(branches, Some(Era::Legacy), &LIMITS).await.unwrap();
    assert_eq!(name(&conn), r#"{"name":"heard 1"}"#);
}

#[tokio::test]
async fn a_child_that_ends_at_the_probe_is_started_again() {
    let branches = r#"
        *server/discover*) exit 1;;
        *'"initialize"'*) hello "heard $n";;"#;
    let conn = open(branches, None, &LIMITS).await.unwrap();
    assert_eq!((conn.facts().era, name(&conn)), (Era::Legacy, r#"{"name":"heard 1"}"#.to_owned()));
}

#[tokio::test]
async fn a_child_that_the_probe_has_locked_is_started_again() {
    for locked in ["error -32600", ":", "exit 3"] {
        let branches = format!(
            r#"
            *server/discover*) locked=yes; error -32602;;
            *'"initialize"'*) if [ "$locked" ]; then {locked}; else hello "heard $n"; fi;;"#
        );
        let conn = open(&branches, None, &QUICK).await.unwrap();
        assert_eq!(name(&conn), r#"{"name":"heard 1"}"#, "{locked}");
    }
}

#[tokio::test]
async fn a_child_that_never_answers_the_probe_is_a_legacy_one() {
    let branches = r#"
        *server/discover*) :;;
        *'"initialize"'*) hello "heard $n";;"#;
    let conn = open(branches, None, &QUICK).await.unwrap();
    assert_eq!(name(&conn), r#"{"name":"heard 2"}"#);
}

#[tokio::test]
async fn a_modern_child_that_was_slow_to_start_is_found_out() {
    // It answers the probe only when the next message has come, as one that is slow would.
    let branches = r#"
        *server/discover*) if [ $n = 1 ] && [ ! -e "$0.slow" ]; then slow=$id; else modern m; fi;;
        *'"initialize"'*) [ "$slow" ] && : > "$0.slow" && id=$slow && modern late;;"#;
    let folder = tempfile::tempdir().unwrap();
    let mut spec = server(branches);
    // `$0` of `sh -c SCRIPT NAME`.
    spec.args.push(folder.path().join("mark").to_string_lossy().into_owned());
    let limits = Limits { start_timeout: Duration::from_secs(3), max_line: 1000 };
    let conn = Conn::open(&Target::Child(spec), &opening(), None, &nursery(), &limits).await;
    let conn = conn.unwrap();
    assert_eq!((conn.facts().era, name(&conn)), (Era::Modern, r#"{"name":"m"}"#.to_owned()));
}

#[tokio::test]
async fn a_child_that_has_changed_its_era_is_found_out() {
    let modern = r#"
        *server/discover*) modern m;;
        *'"initialize"'*) error -32022;;"#;
    let conn = open(modern, Some(Era::Legacy), &LIMITS).await.unwrap();
    assert_eq!(conn.facts().era, Era::Modern);
    let legacy = r#"
        *server/discover*) error -32601;;
        *'"initialize"'*) hello l;;"#;
    let conn = open(legacy, Some(Era::Modern), &LIMITS).await.unwrap();
    assert_eq!(conn.facts().era, Era::Legacy);
}

#[tokio::test]
async fn a_child_that_wants_an_older_version_gets_it() {
    let branches = r#"
        *server/discover*) error -32601;;
        *2024-11-05*) result '{"protocolVersion":"2024-11-05","serverInfo":{"name":"old"}}';;
        *'"initialize"'*) say "{\"id\":$id,\"error\":{\"code\":-32602,\"message\":\"no\",\"data\":{\"supported\":[\"2024-11-05\"]}}}";;"#;
    let conn = open(branches, None, &LIMITS).await.unwrap();
    assert_eq!(conn.facts().version, "2024-11-05");
}

#[tokio::test]
async fn why_a_child_does_not_open_is_said() {
    let error = open(r"*) echo no key >&2; exit 4;;", None, &LIMITS).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("exit status: 4") && text.contains("no key"), "{text}");
    let branches = r#"
        *server/discover*) error -32601;;
        *) say "{\"id\":$id,\"error\":{\"code\":-1,\"message\":\"no licence\"}}";;"#;
    let error = open(branches, None, &QUICK).await.unwrap_err();
    assert!(error.to_string().contains("no licence"), "{error}");
    let error = open(r"*) :;;", None, &QUICK).await.unwrap_err();
    assert!(matches!(error, GatewayError::StartTimeout { .. }), "{error}");
    let future = r#"*) say "{\"id\":$id,\"error\":{\"code\":-32022,\"message\":\"no\",\"data\":{\"supported\":[\"2031-01-01\"]}}}";;"#;
    let error = open(future, None, &LIMITS).await.unwrap_err();
    assert!(error.to_string().contains("2031-01-01"), "{error}");
}

#[tokio::test]
async fn what_a_child_says_while_it_opens_is_kept_for_the_listener() {
    let branches = r#"
        *server/discover*) error -32601;;
        *'"initialize"'*)
            say '{"method":"notifications/message","params":{}}'
            say '{"id":"q","method":"roots/list"}'
            hello l;;"#;
    let conn = open(branches, None, &LIMITS).await.unwrap();
    let mut unasked = conn.listen().unwrap();
    let note = r#"{"method":"notifications/message","params":{}}"#;
    assert_eq!(next(&mut unasked).await, (note.to_owned(), false));
    assert_eq!(next(&mut unasked).await.0, r#"{"id":"q","method":"roots/list"}"#);
}

#[tokio::test]
async fn a_child_that_dies_answers_every_request() {
    let branches = r#"
        *server/discover*) error -32601;;
        *'"initialize"'*) hello l;;
        *'"die"'*) exit 9;;"#;
    let conn = open(branches, None, &LIMITS).await.unwrap();
    let (_a, mut first) = ask(&conn, r#"{"id":"a","method":"hang"}"#).await;
    let (_b, mut second) = ask(&conn, r#"{"id":2,"method":"die"}"#).await;
    for (queue, id) in [(&mut first, r#""a""#), (&mut second, "2")] {
        let (text, last) = next(queue).await;
        assert!(last && text.contains(&format!(r#""id":{id},"#)), "{text}");
        assert!(text.contains("upstream_exited") && text.contains("exit status: 9"), "{text}");
    }
    assert!(conn.is_over());
}
