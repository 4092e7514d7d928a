use std::path::Path;
use std::time::{Duration, SystemTime};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::*;

/// Long enough for the slowest machine; nothing waits that long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the Python program makes, with one session of its own: it never learnt which server and
/// tool its calls were for.
const PYTHON: &[&str] = &[
    "PRAGMA journal_mode=WAL",
    "CREATE TABLE monitor_events (id INTEGER PRIMARY KEY AUTOINCREMENT, event_type TEXT,
        server_id TEXT, resource_id TEXT, session_id TEXT, client_id TEXT, timestamp DATETIME,
        duration_ms INTEGER, request_size INTEGER, response_size INTEGER, success BOOLEAN,
        error_message TEXT, metadata TEXT, raw_request TEXT, raw_response TEXT)",
    "CREATE INDEX idx_events_timestamp ON monitor_events(timestamp)",
    "CREATE VIEW access_events AS SELECT * FROM monitor_events",
    r#"INSERT INTO monitor_events (event_type, server_id, resource_id, session_id, timestamp,
        success, metadata) VALUES ('SESSION_START', 'browse', 'session', 'p1',
        strftime('%Y-%m-%dT%H:%M:%f', 'now', 'localtime', '-1 hour') || '456', 1,
        '{"middleware": "mcpm", "action": "run", "profile_name": null, "transport": "stdio",
        "source": "local", "server_info": {}, "client_info": {"origin": "local_stdio"}}')"#,
    r#"INSERT INTO monitor_events (event_type, server_id, resource_id, session_id, timestamp,
        duration_ms, success, metadata) VALUES ('TOOL_INVOCATION', 'unknown', 'unknown', 'p1',
        strftime('%Y-%m-%dT%H:%M:%f', 'now', 'localtime', '-1 hour') || '789', 40, 1,
        '{"middleware": "mcpm", "session_action": "run"}')"#,
];

/// Tuning for tests: nothing to wait for.
fn quick() -> Tuning {
    Tuning { linger: Duration::ZERO, pause: Duration::ZERO, ..Tuning::default() }
}

fn place() -> (tempfile::TempDir, Paths) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("mcpm"));
    (dir, paths)
}

async fn database(path: &Path, statements: &[&'static str]) -> SqliteConnection {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = options.busy_timeout(PATIENCE).connect().await.unwrap();
    for statement in statements {
        sqlx::query(*statement).execute(&mut connection).await.unwrap();
    }
    connection
}

/// Writes what a session of so many days ago would have left.
pub(crate) async fn recorded_ago(paths: &Paths, days: u32) {
    let mut connection = database(&paths.monitor_db(), &[schema::TABLE]).await;
    let query = sqlx::query(
        "INSERT INTO monitor_events (event_type, server_id, session_id, timestamp, metadata)
        VALUES ('SESSION_START', 'other', 's' || ?1,
        strftime('%Y-%m-%dT%H:%M:%f', 'now', 'localtime', '-' || ?1 || ' days'), '{}')",
    );
    query.bind(days).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn about(server: Option<&str>, profile: Option<&str>) -> About {
    About {
        server: server.map(str::to_owned),
        profile: profile.map(str::to_owned),
        action: if profile.is_some() { Action::ProfileShare } else { Action::Run },
        origin: if profile.is_some() { Origin::Relay } else { Origin::Stdio },
        client: Some("tester 1".to_owned()),
    }
}

/// Records what `work` does and waits until it is written.
async fn recorded(paths: &Paths, tuning: Tuning, work: impl FnOnce(&Recorder)) -> Recorder {
    let scope = Scope::new();
    let recorder = Recorder::start_with(paths.monitor_db(), &scope, tuning);
    work(&recorder);
    assert_eq!(scope.drain(PATIENCE).await, 0);
    recorder
}

async fn report_of(paths: &Paths, server: Option<&str>, profile: Option<&str>) -> Report {
    let [server, profile] = [server, profile].map(|name| name.map(str::to_owned));
    let reader = Reader::open(paths).await.unwrap().expect("something was recorded");
    reader.report(&Filter { days: 30, server, profile }).await.unwrap()
}

fn names(report: &Report) -> Vec<&str> {
    report.servers.iter().map(|server| server.server.as_str()).collect()
}

#[tokio::test]
async fn a_session_and_its_calls_are_told_apart_by_server_and_tool() {
    let (_dir, paths) = place();
    recorded(&paths, Tuning::default(), |recorder| {
        let session = recorder.begin(about(None, Some("work")));
        session.call(Kind::Tool, "time", "now", Some(10)).end(Outcome::Done, Some(20));
        session.call(Kind::Tool, "time", "now", None).end(Outcome::Failed("no zone".into()), None);
        session.call(Kind::Resource, "notes", "db://me:pw@h/x?k=1", None).end(Outcome::Done, None);
        drop(session.call(Kind::Prompt, "notes", "hello", None));
        let alone = recorder.begin(about(Some("time"), None));
        alone.fail("the server died");
    })
    .await;
    let report = report_of(&paths, None, None).await;
    let Totals { servers, profiles, sessions, calls, errors } = report.totals;
    assert_eq!((servers, profiles, sessions, calls, errors), (2, 1, 2, 4, 2));
    assert_eq!(names(&report), ["time", "notes"]);
    let time = &report.servers[0];
    assert_eq!((time.sessions, time.calls, time.errors), (2, 2, 1));
    assert!(time.p50_ms.unwrap() <= time.p95_ms.unwrap());
    assert!(time.p95_ms.unwrap() <= time.max_ms.unwrap());
    let work = &report.profiles[0];
    assert_eq!((work.profile.as_str(), work.servers, work.calls), ("work", 2, 4));
    assert_eq!(report.per_day.iter().map(|day| day.calls).sum::<i64>(), 4);
    assert!(report.calls.iter().any(|call| call.name == "db://h/x" && call.kind == "resource"));
    let mut errors: Vec<_> = report.errors.iter().filter_map(|e| e.error.as_deref()).collect();
    errors.sort_unstable();
    assert_eq!(errors, ["given up", "no zone"]);
    let alone = report.sessions.iter().find(|session| session.profile.is_none()).unwrap();
    assert_eq!(alone.error.as_deref(), Some("the server died"));
    assert!(alone.duration_ms.is_some() && alone.client.as_deref() == Some("tester 1"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(alone.began_at.unwrap().abs_diff(i64::try_from(now).unwrap()) < 120, "local time");
}

#[tokio::test]
async fn a_report_can_be_about_one_server_or_one_profile() {
    let (_dir, paths) = place();
    recorded(&paths, quick(), |recorder| {
        let session = recorder.begin(about(None, Some("work")));
        session.call(Kind::Tool, "time", "now", None).end(Outcome::Done, None);
        session.call(Kind::Tool, "notes", "add", None).end(Outcome::Done, None);
        drop(recorder.begin(about(Some("time"), None)));
        drop(recorder.begin(about(Some("other"), None)));
    })
    .await;
    let time = report_of(&paths, Some("time"), None).await;
    assert_eq!((names(&time), time.totals.sessions, time.totals.calls), (vec!["time"], 2, 1));
    let work = report_of(&paths, None, Some("work")).await;
    assert_eq!((work.totals.sessions, work.totals.calls), (1, 2));
    let mut reader = Reader::open(&paths).await.unwrap().unwrap();
    assert!(reader.knows_server("time").await.unwrap());
    assert!(!reader.knows_server("never").await.unwrap());
    assert!(reader.knows_profile("work").await.unwrap());
    assert!(!reader.knows_profile("time").await.unwrap());
}

#[tokio::test]
async fn a_file_of_the_python_program_is_appended_to_and_understood() {
    let (_dir, paths) = place();
    database(&paths.monitor_db(), PYTHON).await.close().await.unwrap();
    recorded(&paths, quick(), |recorder| {
        let session = recorder.begin(about(Some("browse"), None));
        session.call(Kind::Tool, "browse", "open", None).end(Outcome::Done, None);
    })
    .await;
    let report = report_of(&paths, None, None).await;
    assert_eq!(names(&report), ["browse"]);
    let browse = &report.servers[0];
    assert_eq!((browse.sessions, browse.calls, browse.max_ms), (2, 2, Some(40.0)));
    // What Python's own report selects.
    let mut connection = database(&paths.monitor_db(), &[]).await;
    let sessions: Vec<(String, String, String, String)> = sqlx::query_as(
        "SELECT server_id, json_extract(metadata, '$.action'),
            json_extract(metadata, '$.transport'), json_extract(metadata, '$.source')
        FROM monitor_events
        WHERE event_type = 'SESSION_START' AND datetime(timestamp) >= datetime('now', '-1 day')",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let ours = ["browse", "run", "stdio", "local"].map(str::to_owned).into();
    assert_eq!(sessions, vec![ours; 2]);
    let (stamp, raw): (String, Option<String>) =
        sqlx::query_as("SELECT timestamp, raw_request FROM access_events ORDER BY id DESC LIMIT 1")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!((stamp.len(), &stamp[10..11], raw), ("2026-11-21T05:00:00.000".len(), "T", None));
}

#[tokio::test]
async fn a_file_from_before_there_were_sessions_gets_their_column() {
    let (_dir, paths) = place();
    let old = PYTHON[1].replace("session_id TEXT, ", "");
    let mut connection = database(&paths.monitor_db(), &[]).await;
    sqlx::query(sqlx::AssertSqlSafe(old)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    assert!(Reader::open(&paths).await.unwrap().is_none());
    recorded(&paths, quick(), |recorder| drop(recorder.begin(about(Some("x"), None)))).await;
    assert_eq!(report_of(&paths, None, None).await.totals.sessions, 1);
}

#[tokio::test]
async fn nothing_is_opened_before_the_first_event() {
    let (_dir, paths) = place();
    recorded(&paths, quick(), |_| {}).await;
    assert!(!paths.dir().exists());
    assert!(Reader::open(&paths).await.unwrap().is_none());
    assert!(!paths.dir().exists(), "reading made a file");
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_belongs_to_its_owner_alone_whoever_made_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_dir, paths) = place();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    recorded(&paths, quick(), |recorder| drop(recorder.begin(about(Some("x"), None)))).await;
    assert_eq!(mode(&paths.monitor_db()), 0o600);
    std::fs::set_permissions(paths.monitor_db(), std::fs::Permissions::from_mode(0o644)).unwrap();
    recorded(&paths, quick(), |recorder| drop(recorder.begin(about(Some("x"), None)))).await;
    assert_eq!(mode(&paths.monitor_db()), 0o600);
}

#[tokio::test]
async fn a_full_queue_loses_events_and_counts_them() {
    let (_dir, paths) = place();
    // On one thread the writer cannot run while we record.
    let recorder = recorded(&paths, quick(), |recorder| {
        let session = recorder.begin(about(Some("x"), None));
        for _ in 0..QUEUE + 4 {
            session.call(Kind::Tool, "x", "y", None).end(Outcome::Done, None);
        }
    })
    .await;
    // The start took one place; the end of the session found none.
    assert_eq!(recorder.lost(), 6);
    assert_eq!(report_of(&paths, None, None).await.totals.calls, 8191);
}

#[tokio::test]
async fn a_file_that_is_no_database_loses_events_and_is_told_to_readers() {
    let (_dir, paths) = place();
    std::fs::create_dir_all(paths.dir()).unwrap();
    std::fs::write(paths.monitor_db(), "x".repeat(5000)).unwrap();
    let recorder =
        recorded(&paths, quick(), |recorder| drop(recorder.begin(about(Some("x"), None)))).await;
    assert_eq!(recorder.lost(), 2);
    assert_eq!(std::fs::read(paths.monitor_db()).unwrap(), "x".repeat(5000).as_bytes());
    let error = Reader::open(&paths).await.unwrap_err();
    assert!(error.hint().unwrap().contains("Move"), "{error:?}");
}

#[tokio::test]
async fn a_locked_file_loses_events_and_is_written_again_once_it_is_free() {
    let (_dir, paths) = place();
    let mut holder = database(&paths.monitor_db(), PYTHON).await;
    let hold = ["BEGIN IMMEDIATE", "DELETE FROM monitor_events"];
    for statement in hold {
        sqlx::query(statement).execute(&mut holder).await.unwrap();
    }
    let tuning = Tuning { busy: Duration::from_millis(20), ..quick() };
    let scope = Scope::new();
    let recorder = Recorder::start_with(paths.monitor_db(), &scope, tuning);
    drop(recorder.begin(about(Some("early"), None)));
    // Loses what comes until both are counted.
    while recorder.lost() < 2 {
        tokio::task::yield_now().await;
    }
    sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
    drop(recorder.begin(about(Some("late"), None)));
    assert_eq!(scope.drain(PATIENCE).await, 0);
    let mut reader = Reader::open(&paths).await.unwrap().unwrap();
    assert!(!reader.knows_server("early").await.unwrap());
    assert!(reader.knows_server("late").await.unwrap());
    assert_eq!(recorder.lost(), 2);
}

#[tokio::test]
async fn old_events_and_too_many_are_deleted() {
    let (_dir, paths) = place();
    let old = "INSERT INTO monitor_events (event_type, server_id, session_id, timestamp)
        VALUES ('SESSION_START', 'old', 'o', strftime('%Y-%m-%dT%H:%M:%f', 'now', '-92 days'))";
    database(&paths.monitor_db(), &[&PYTHON[..2], &[old]].concat()).await.close().await.unwrap();
    let tuning = Tuning { keep_events: 10, ..quick() };
    recorded(&paths, tuning, |recorder| {
        let session = recorder.begin(about(Some("x"), None));
        for number in 0..50 {
            session.call(Kind::Tool, "x", number.to_string(), None).end(Outcome::Done, None);
        }
    })
    .await;
    let mut connection = database(&paths.monitor_db(), &[]).await;
    let left: Vec<String> =
        sqlx::query_scalar("SELECT resource_id FROM monitor_events ORDER BY id")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(left.len(), 10);
    assert_eq!(left.last().unwrap(), "session");
}

#[tokio::test]
async fn a_recorder_that_is_off_keeps_nothing() {
    let recorder = Recorder::off();
    let session = recorder.begin(about(None, None));
    session.call(Kind::Tool, "x", "y", None).end(Outcome::Done, None);
    drop(session);
    assert!(!recorder.is_on());
    assert_eq!(recorder.lost(), 0);
}
