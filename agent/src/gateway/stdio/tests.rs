use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, duplex};

use super::super::child::tests::{nursery, sh};
use super::*;

async fn run(script: &str, input: &[u8]) -> (Result<(), GatewayError>, String) {
    let nursery = nursery();
    let child = child::spawn(&sh(script), &nursery).unwrap();
    let mut out = Vec::new();
    let end = pass(child, input, &mut out, Limits::of(1_000_000), std::future::pending()).await;
    nursery.empty().await;
    (end, String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn lines_pass_byte_for_byte() {
    let lines = concat!(
        "{\"x\":1e400, \"id\" : 12345678901234567890,\"method\":\"a\",\"\\u0061\":0.10 }\n",
        "{\"method\":\"notifications/ü\"}\n[{\"id\":1,\"method\":\"b\"}]\n",
    );
    let (end, out) = run("cat", lines.as_bytes()).await;
    end.unwrap();
    assert_eq!(out, lines);
}

#[tokio::test]
async fn stray_prints_of_the_server_do_not_reach_the_client() {
    let script = r#"echo 'Server ready!'; echo '{"level":"info"}'; echo 42; cat"#;
    let (end, out) = run(script, b"{\"method\":\"n\"}\n").await;
    end.unwrap();
    assert_eq!(out, "{\"method\":\"n\"}\n");
}

#[tokio::test]
async fn answers_still_come_after_the_input_ended() {
    let script = r#"cat >/dev/null; echo '{"id":7,"result":{}}'"#;
    let (end, out) = run(script, b"{\"id\":7,\"method\":\"x\"}\n").await;
    end.unwrap();
    assert_eq!(out, "{\"id\":7,\"result\":{}}\n");
}

#[tokio::test]
async fn a_server_that_dies_leaves_no_request_unanswered() {
    let nursery = nursery();
    let script = "read a; read b; echo gone >&2; exit 9";
    let child = child::spawn(&sh(script), &nursery).unwrap();
    let (mut client, stdin) = duplex(1000);
    let text = b"{\"id\":\"\\u0061\",\"method\":\"x\"}\n{\"id\":2,\"method\":\"y\"}\n";
    client.write_all(text).await.unwrap();
    let mut out = Vec::new();
    let end = pass(child, stdin, &mut out, Limits::of(1000), std::future::pending()).await;
    let error = end.unwrap_err();
    assert!(matches!(&error, GatewayError::ChildExited { status, stderr, .. }
        if status == "exit status: 9" && stderr == "gone"));
    let out = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with(r#"{"jsonrpc":"2.0","id":"\u0061","error":{"code":-32603,"#));
    assert!(lines[1].contains(r#""id":2,"#));
}

#[tokio::test]
async fn a_thousand_calls_come_back_in_order() {
    let nursery = nursery();
    let child = child::spawn(&sh("cat"), &nursery).unwrap();
    let (client, server) = duplex(4096);
    let (stdin, stdout) = tokio::io::split(server);
    let serve = pass(child, stdin, stdout, Limits::of(1000), std::future::pending());
    let (reader, mut writer) = tokio::io::split(client);
    let talk = async move {
        for n in 0..1000 {
            writer.write_all(format!("{{\"id\":{n},\"result\":1}}\n").as_bytes()).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let listen = async move {
        let mut lines = BufReader::new(reader).lines();
        for n in 0..1000 {
            let line = lines.next_line().await.unwrap().unwrap();
            assert_eq!(line, format!("{{\"id\":{n},\"result\":1}}"));
        }
    };
    let (end, (), ()) = tokio::join!(serve, talk, listen);
    end.unwrap();
}

#[tokio::test]
async fn a_stop_from_outside_ends_the_server() {
    let nursery = nursery();
    let child = child::spawn(&sh("echo '{\"method\":\"up\"}'; cat"), &nursery).unwrap();
    let handle = child.handle.clone();
    let (client, server) = duplex(1000);
    let (stdin, stdout) = tokio::io::split(server);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve = pass(child, stdin, stdout, Limits::of(1000), async move { drop(stopped.await) });
    let watch = async move {
        let mut client = client;
        client.read_u8().await.unwrap();
        drop(stop);
        client
    };
    let (end, _client) = tokio::join!(serve, watch);
    end.unwrap();
    assert!(handle.exited().await.success);
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_next_one_whatever_follows_it() {
    let nursery = nursery();
    let script = r#"
        answer() { printf '{"id":1,"result":{}}\n'"$1"; read line; }
        read line
        answer 'done\n'; answer '\n'; answer ' \n\n'; answer '{"half'; cat >/dev/null"#;
    let child = child::spawn(&sh(script), &nursery).unwrap();
    let (client, server) = duplex(1000);
    let (stdin, stdout) = tokio::io::split(server);
    let serve = pass(child, stdin, stdout, Limits::of(1000), std::future::pending());
    let talk = async move {
        let (reader, mut writer) = tokio::io::split(client);
        let mut lines = BufReader::new(reader).lines();
        for noise in ["\n", "  \n\n", "noise\n", ""] {
            let line = format!("{{\"id\":1,\"method\":\"x\"}}\n{noise}");
            writer.write_all(line.as_bytes()).await.unwrap();
            let answer = lines.next_line().await.unwrap().unwrap();
            assert_eq!(answer, r#"{"id":1,"result":{}}"#, "{noise:?}");
        }
        writer.shutdown().await.unwrap();
    };
    let talk = tokio::time::timeout(Duration::from_secs(20), talk);
    let (end, talked) = tokio::join!(serve, talk);
    talked.expect("an answer stayed behind");
    end.unwrap();
}

fn brief() -> Limits {
    let soon = Duration::from_millis(50);
    Limits { drain: soon, linger: soon, ..Limits::of(1_000_000) }
}

#[tokio::test]
async fn a_stray_process_that_holds_the_pipes_does_not_keep_us() {
    let nursery = nursery();
    let script = r#"setsid sh -c 'echo $$ >&2; echo "{\"method\":\"up\"}"; exec sleep 600' &
        read first; read second; exit 5"#;
    for closes in [true, false] {
        let child = child::spawn(&sh(script), &nursery).unwrap();
        let handle = child.handle.clone();
        let (client, server) = duplex(1000);
        let (stdin, stdout) = tokio::io::split(server);
        let serve = pass(child, stdin, stdout, brief(), std::future::pending());
        let talk = async move {
            let (reader, mut writer) = tokio::io::split(client);
            let mut lines = BufReader::new(reader).lines();
            assert!(lines.next_line().await.unwrap().unwrap().contains("up"));
            writer.write_all(b"{\"id\":1,\"method\":\"x\"}\n").await.unwrap();
            if closes {
                writer.shutdown().await.unwrap();
            } else {
                writer.write_all(b"{\"method\":\"last\"}\n").await.unwrap();
                assert!(lines.next_line().await.unwrap().unwrap().contains("-32603"));
            }
            (writer, lines)
        };
        let both = async { tokio::join!(serve, talk).0 };
        let end = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        assert_eq!(end.is_ok(), closes);
        let stray = rustix::process::Pid::from_raw(handle.stderr_tail().parse().unwrap());
        rustix::process::kill_process(stray.unwrap(), rustix::process::Signal::KILL).unwrap();
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_more_does_not_keep_us() {
    let nursery = nursery();
    let child = child::spawn(&sh("while :; do echo '{\"method\":\"n\"}'; done"), &nursery);
    let (stdout, _unread) = duplex(10);
    let serve = pass(child.unwrap(), &b""[..], stdout, brief(), std::future::pending());
    tokio::time::timeout(Duration::from_secs(60), serve).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_closed_its_input_is_stopped_and_what_is_still_asked_is_answered() {
    let nursery = nursery();
    let script = "exec <&-; echo '{\"method\":\"deaf\"}'; while :; do sleep 1; done";
    let child = child::spawn(&sh(script), &nursery).unwrap();
    let (client, server) = duplex(1000);
    let (stdin, stdout) = tokio::io::split(server);
    let serve = pass(child, stdin, stdout, Limits::of(1000), std::future::pending());
    let talk = async move {
        let (reader, mut writer) = tokio::io::split(client);
        let mut lines = BufReader::new(reader).lines();
        assert!(lines.next_line().await.unwrap().unwrap().contains("deaf"));
        for id in 1..=2 {
            let line = format!("{{\"id\":{id},\"method\":\"x\"}}\n");
            writer.write_all(line.as_bytes()).await.unwrap();
        }
        for id in 1..=2 {
            let answer = lines.next_line().await.unwrap().unwrap();
            assert!(answer.contains(&format!("\"id\":{id},\"error\"")), "{answer}");
        }
    };
    let both = async { tokio::join!(serve, talk).0 };
    let end = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    assert!(matches!(end, Err(GatewayError::ChildExited { .. })));
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_told_to_whoever_waits_for_it() {
    let nursery = nursery();
    let script = r#"read line; printf '%02000d\n' 7; cat"#;
    let child = child::spawn(&sh(script), &nursery).unwrap();
    let mut out = Vec::new();
    let input = &b"{\"id\":\"a\",\"method\":\"x\"}\n"[..];
    pass(child, input, &mut out, Limits::of(1000), std::future::pending()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(answer["id"], "a");
    assert!(answer["error"]["message"].as_str().unwrap().contains("too long: 2000 bytes"));
}
