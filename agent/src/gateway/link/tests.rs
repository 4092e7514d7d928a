use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;

mod limits;
mod whom;

/// A server under the control of a test.
struct Server {
    lines: tokio::io::Lines<BufReader<DuplexStream>>,
    writer: DuplexStream,
    exit: watch::Sender<Option<Exit>>,
}

impl Server {
    async fn heard(&mut self) -> String {
        let line = timeout(Duration::from_secs(20), self.lines.next_line()).await;
        line.expect("in time").unwrap().unwrap()
    }

    async fn say(&mut self, line: &str) {
        self.writer.write_all(line.as_bytes()).await.unwrap();
        self.writer.write_all(b"\n").await.unwrap();
    }

    /// Waits until all that was said has arrived; what it was sent must be heard before.
    async fn arrived(&mut self) {
        self.say(r#"{"id":"arrived","method":"ping"}"#).await;
        let answer = self.heard().await;
        assert!(answer.contains(r#""id":"arrived""#), "{answer}");
    }

    fn exit(&self, success: bool, status: &str) {
        self.exit.send_replace(Some(Exit { success, status: status.to_owned() }));
    }

    async fn die(mut self) {
        self.exit(false, "signal: 9");
        self.writer.shutdown().await.unwrap();
    }
}

fn linked(era: Era) -> (Arc<Link>, Server) {
    linked_with(era, false, 20_000_000)
}

fn linked_with(era: Era, sole: bool, max_line: usize) -> (Arc<Link>, Server) {
    let (handle, exit) = Handle::fake("test");
    let (stdin, lines) = duplex(64 * 1024);
    let (stdout, writer) = duplex(64 * 1024);
    let link = Link::new(stdin, stdout, handle, sole, max_line, &Scope::new());
    if era == Era::Modern {
        link.turn_modern();
    }
    (link, Server { lines: BufReader::new(lines).lines(), writer, exit })
}

/// Makes a request; keep the claim for as long as the answer is wanted.
async fn ask(link: &Arc<Link>, text: &str) -> (Claim, Receiver) {
    link.request(&Message::parse(text).unwrap(), Asker::Client(1)).await.unwrap()
}

async fn next(queue: &mut Receiver) -> (String, bool) {
    let packet = timeout(Duration::from_secs(20), queue.recv()).await;
    let packet = packet.expect("in time").expect("a packet");
    (String::from_utf8(packet.message.to_vec()).unwrap(), packet.last)
}

fn same(text: &str) -> (String, bool) {
    (text.to_owned(), false)
}

fn last(text: &str) -> (String, bool) {
    (text.to_owned(), true)
}

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

#[tokio::test]
async fn everything_passes_as_it_is_but_for_ids_and_tokens() {
    for era in ERAS {
        let (link, mut server) = linked(era);
        let request = r#"{ "id" : "\u0061", "method":"x", "z":1e999, "params":{"_meta":{"progressToken":1.0, "k":1}} }"#;
        let (_claim, mut queue) = ask(&link, request).await;
        let sent = r#"{ "id" : 1, "method":"x", "z":1e999, "params":{"_meta":{"progressToken":1, "k":1}} }"#;
        assert_eq!(server.heard().await, sent);
        let progress = r#"{"method":"notifications/progress","params":{"progressToken":1.0, "progress":0.10}}"#;
        for _ in 0..50 {
            server.say(progress).await;
        }
        server.say(r#"{"id":1.0 ,"result":{"n":12345678901234567890}}"#).await;
        for _ in 0..50 {
            // It is the client's own token that happens to be written as the server wrote ours.
            assert_eq!(next(&mut queue).await, same(progress));
        }
        let answer = r#"{"id":"\u0061" ,"result":{"n":12345678901234567890}}"#;
        assert_eq!(next(&mut queue).await, last(answer));
        assert!(queue.recv().await.is_none());
    }
}

#[tokio::test]
async fn clients_of_a_server_may_use_the_same_ids_and_tokens() {
    for era in ERAS {
        let (link, mut server) = linked(era);
        let request = r#"{"id":1,"method":"x","params":{"_meta":{"progressToken":"t"},"id":1}}"#;
        let (_a, mut first) = ask(&link, request).await;
        let (_b, mut second) = ask(&link, request).await;
        for n in 1..=2 {
            let expected = format!(
                r#"{{"id":{n},"method":"x","params":{{"_meta":{{"progressToken":{n}}},"id":1}}}}"#
            );
            assert_eq!(server.heard().await, expected);
        }
        server.say(r#"{"method":"notifications/progress","params":{"progressToken":2}}"#).await;
        server.say(r#"{"id":2,"result":{"for":"second"}}"#).await;
        server.say(r#"{"id":1,"result":{"for":"first"}}"#).await;
        let progress = r#"{"method":"notifications/progress","params":{"progressToken":"t"}}"#;
        assert_eq!(next(&mut second).await, same(progress));
        assert_eq!(next(&mut second).await, last(r#"{"id":1,"result":{"for":"second"}}"#));
        assert_eq!(next(&mut first).await, last(r#"{"id":1,"result":{"for":"first"}}"#));
    }
}

#[tokio::test]
async fn a_server_is_told_when_nobody_waits_any_more() {
    for era in ERAS {
        let (link, mut server) = linked(era);
        let (claim, queue) = ask(&link, r#"{"id":"long","method":"x"}"#).await;
        server.heard().await;
        assert!(link.is_working());
        drop((claim, queue));
        assert!(!link.is_working());
        let told = server.heard().await;
        assert!(told.contains("notifications/cancelled"), "{told}");
        assert!(told.contains(r#""requestId":1"#), "{told}");
        // A late answer disturbs nobody.
        server.say(r#"{"id":1,"result":{}}"#).await;
        let (_claim, mut queue) = ask(&link, r#"{"id":"long","method":"y"}"#).await;
        server.heard().await;
        server.say(r#"{"id":2,"result":{}}"#).await;
        assert_eq!(next(&mut queue).await, last(r#"{"id":"long","result":{}}"#));
    }
}

#[tokio::test]
async fn a_server_is_told_in_the_words_of_the_client_and_nothing_of_the_opening() {
    let (link, mut server) = linked(Era::Legacy);
    let (opening, _queue) = ask(&link, r#"{"id":0,"method":"initialize"}"#).await;
    server.heard().await;
    drop(opening);
    let (claim, _queue) = ask(&link, r#"{"id":"x","method":"m"}"#).await;
    server.heard().await;
    let notice = |end: &str, id: &str| {
        let params = format!(r#""params":{{"requestId":{id},"reason":"no"}}"#);
        format!(r#"{{"method":"notifications/cancelled",{end}{params}}}"#)
    };
    // Over HTTP it may be written on several lines.
    claim.taken_back(&Message::parse(&notice("\n", r#""x""#)).unwrap());
    drop(claim);
    assert_eq!(server.heard().await, notice(" ", "2"));
}

#[tokio::test]
async fn a_server_that_dies_leaves_no_request_unanswered() {
    let (link, mut server) = linked(Era::Legacy);
    let (_a, mut first) = ask(&link, r#"{"id":"a","method":"x"}"#).await;
    let (_b, mut second) = ask(&link, r#"{"id":2,"method":"x"}"#).await;
    server.heard().await;
    server.say(r#"{"id":2,"result":{}}"#).await;
    server.die().await;
    assert_eq!(next(&mut second).await, last(r#"{"id":2,"result":{}}"#));
    let (text, is_last) = next(&mut first).await;
    assert!(is_last && text.starts_with(r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32603"#));
    assert!(text.contains("signal: 9"));
    assert!(link.is_over());
    let request = Message::parse(r#"{"id":3,"method":"x"}"#).unwrap();
    assert_eq!(link.request(&request, Asker::Client(1)).await.unwrap_err(), Refusal::Gone);
}

#[tokio::test]
async fn a_server_that_cannot_be_written_to_is_stopped_and_its_end_answers() {
    let (link, server) = linked(Era::Legacy);
    drop(server.lines);
    let (_claim, mut queue) = ask(&link, r#"{"id":"a","method":"x"}"#).await;
    let stopped = timeout(Duration::from_secs(20), link.child().stopping().cancelled()).await;
    stopped.expect("it is told to stop");
    server.exit.send_replace(Some(Exit { success: true, status: "exit status: 0".to_owned() }));
    drop(server.writer);
    let (text, is_last) = next(&mut queue).await;
    assert!(is_last && text.contains("upstream_exited"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_whose_pipe_stays_open_is_given_up() {
    let (link, server) = linked(Era::Legacy);
    let (_claim, mut queue) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    server.exit(true, "exit status: 0");
    let end = timeout(Duration::from_secs(5), next(&mut queue)).await.unwrap();
    assert!(end.1 && end.0.contains("exit status: 0"));
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn noise_of_the_server_reaches_nobody_and_is_no_use_of_it() {
    let (link, mut server) = linked(Era::Legacy);
    let (_claim, mut queue) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    let used = link.last_used();
    for noise in ["hello", "{\"level\":30}", "12", "\u{1b}[31mred", "{\"id\":1,", "[]"] {
        server.say(noise).await;
    }
    // Time passes when nothing is left to do.
    assert!(timeout(Duration::from_secs(5), queue.recv()).await.is_err());
    assert_eq!(link.last_used(), used);
    server.say(r#"{"id":1,"result":{}}"#).await;
    assert_eq!(next(&mut queue).await, last(r#"{"id":1,"result":{}}"#));
    assert!(link.last_used() > used);
}

#[test]
fn of_noise_only_what_can_be_no_message_is_shown() {
    assert_eq!(shown(b"npm warn deprecated").as_deref(), Some("npm warn deprecated"));
    assert_eq!(shown(&[b'x'; 1000]).unwrap().len(), NOISE);
    for secret in [r#"[{"id":1,"result":"secret"}]"#, r#" {"id":1,"#, r#"  "text": "secret""#] {
        assert_eq!(shown(secret.as_bytes()), None, "{secret}");
    }
}

#[tokio::test]
async fn a_thousand_calls_are_answered_each_with_its_own_answer() {
    let (link, mut server) = linked(Era::Modern);
    let answer_all = async {
        let mut held = Vec::new();
        for _ in 0..1000 {
            let line = server.heard().await;
            let id = Message::parse(&line).unwrap().id().unwrap().get().to_owned();
            held.push(format!(r#"{{"id":{id},"result":{{"params":{line}}}}}"#));
            // Out of order, in groups of ten.
            if held.len() == 10 {
                for line in held.drain(..).rev() {
                    server.say(&line).await;
                }
            }
        }
    };
    let ask_all = async {
        for group in 0..100 {
            let mut waiting = Vec::new();
            for n in 0..10 {
                let number = group * 10 + n;
                let text = format!(r#"{{"id":"n{number}","method":"x","params":{number}}}"#);
                waiting.push((number, ask(&link, &text).await));
            }
            for (number, (_claim, mut queue)) in waiting {
                let (text, is_last) = next(&mut queue).await;
                assert!(is_last && text.starts_with(&format!(r#"{{"id":"n{number}","#)), "{text}");
                assert!(text.contains(&format!(r#""params":{number}}}"#)), "{text}");
            }
        }
    };
    tokio::join!(answer_all, ask_all);
}

#[tokio::test]
async fn ten_megabytes_pass_unchanged() {
    let (link, mut server) = linked(Era::Legacy);
    let (_claim, mut queue) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    let big = format!(r#"{{"id":1,"result":{{"text":"{}"}}}}"#, "é\\n".repeat(2_500_000));
    let (got, ()) = tokio::join!(next(&mut queue), server.say(&big));
    assert_eq!(got, last(&big));
}
