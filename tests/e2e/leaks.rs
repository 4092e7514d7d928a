//! The leak gate: more than two hundred starts, stops, kills and disconnects leave no process, no session and no
//! descriptor behind.
//!
//! What lives long is counted once it is warm, and again at the end. What a process is started for, or for whom, is
//! found by a folder that all of them know of.
#![cfg(target_os = "linux")]

mod count;
mod embedded;
mod programs;
mod visitor;

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use harness::home::Home;
use harness::process::built;
use harness::soon;
use serde_json::json;

use self::count::kill;
use self::visitor::{Door, pid, who};

/// How many rounds go on at once.
const AT_ONCE: usize = 4;
/// How long what is given up may take to go: the gateway looks for it every few seconds.
const PATIENCE: Duration = Duration::from_secs(12);

/// The answers of the server behind; it repeats what it is told besides.
const ANSWERS: &str = r#"{"initialize":["{\"jsonrpc\":\"2.0\",\"id\":@id@,\"result\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"serverInfo\":{\"name\":\"echo\",\"version\":\"1\"}}}"]}"#;

/// A home with the server `x`, which exits at once as long as there is a file `broken`.
fn home() -> Home {
    let mut home = Home::new();
    let answers = home.path("answers.json");
    std::fs::write(&answers, ANSWERS).unwrap();
    let script =
        format!("test -e '{}' && exit 3; exec \"$0\" \"$@\"", home.path("broken").display());
    let args = [
        json!("-c"),
        json!(script),
        json!(built("conformance-upstream")),
        json!("--echo"),
        json!("--stdio"),
        json!("--answers"),
        json!(answers),
    ];
    home.add("x", json!({ "command": "sh", "args": args, "isolation": "session" }));
    home
}

/// Makes the server exit at once, or work again.
fn broken(home: &Home, is_broken: bool) {
    let file = home.path("broken");
    if is_broken {
        std::fs::write(file, "").unwrap();
    } else {
        std::fs::remove_file(file).unwrap();
    }
}

/// Does each thing so often, several at once.
async fn each<T: Copy>(kinds: &[T], times: usize, round: impl AsyncFn(T)) {
    let all = stream::iter((0..times).flat_map(|_| kinds.iter().copied()));
    all.for_each_concurrent(AT_ONCE, |kind| round(kind)).await;
}

/// What a client over HTTP does.
#[derive(Clone, Copy, Debug)]
enum Visit {
    /// It opens a session, calls, and ends it.
    Whole,
    /// Its connections break while it calls and listens; it ends the session later.
    Dropped,
    /// Its connections break, and it never comes back.
    Gone,
    /// Its server is killed while it calls.
    Killed,
    /// It calls in the modern era.
    Modern,
    /// It does, and leaves before the answer.
    ModernDropped,
    /// Its server exits at once.
    Broken,
}

async fn visit(door: &Door, visit: Visit) {
    match visit {
        Visit::Whole => {
            let session = door.open().await;
            assert!(session.call(&who(1)).await.contains("pid"));
            session.end().await;
        }
        Visit::Dropped => {
            let session = door.open().await;
            let stream = session.listen().await;
            let call = session.hang(1).await;
            drop((stream, call));
            session.end().await;
        }
        Visit::Gone => {
            let session = door.open().await;
            let stream = session.listen().await;
            assert!(session.call(&who(1)).await.contains("pid"));
            drop(stream);
        }
        Visit::Killed => {
            let session = door.open().await;
            let server = pid(&session.call(&who(1)).await);
            let call = session.hang(2).await;
            kill(server).await;
            let rest = soon("the call fails", call.text()).await.unwrap();
            assert!(rest.contains("\"error\"") || rest.contains("isError"), "{rest}");
            session.end().await;
        }
        Visit::Modern => assert!(door.call_modern().await.contains("pid")),
        Visit::ModernDropped => drop(door.hang_modern().await),
        Visit::Broken => {
            // What is known of the server may be told before it is started.
            let session = door.open().await;
            let answer = session.call(&who(1)).await;
            assert!(!answer.contains("\"pid\""), "{answer}");
            session.end().await;
        }
    }
}
