use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, BufReader, DuplexStream, ReadHalf, WriteHalf, duplex, split,
};
use tokio::sync::watch;

use super::*;

/// A server under the control of a test.
struct Server {
    lines: tokio::io::Lines<BufReader<ReadHalf<DuplexStream>>>,
    writer: WriteHalf<DuplexStream>,
    exit: watch::Sender<Option<Exit>>,
}

impl Server {
    async fn heard(&mut self) -> String {
        self.lines.next_line().await.unwrap().unwrap()
    }

    async fn say(&mut self, line: &str) {
        self.writer.write_all(line.as_bytes()).await.unwrap();
        self.writer.write_all(b"\n").await.unwrap();
    }

    async fn die(mut self) {
        self.exit.send_replace(Some(Exit { success: false, status: "signal: 9".to_owned() }));
        self.writer.shutdown().await.unwrap();
    }
}

fn linked(ids: Ids) -> (Arc<Link>, Server) {
    let (handle, exit) = Handle::fake("test");
    let (ours, theirs) = duplex(64 * 1024);
    let (stdout, stdin) = split(ours);
    let (reader, writer) = split(theirs);
    let link = Link::new(stdin, stdout, handle, ids, 20_000_000, &Scope::new());
    (link, Server { lines: BufReader::new(reader).lines(), writer, exit })
}

/// Makes a request; keep the claim for as long as the answer is wanted.
async fn ask(link: &Arc<Link>, text: &str) -> (Claim, mpsc::Receiver<Packet>) {
    let (sink, queue) = mpsc::channel(INBOX);
    let begun = link.begin(&Message::parse(text).unwrap(), sink).unwrap();
    link.send(begun.line).await.unwrap();
    (begun.claim, queue)
}

async fn next(queue: &mut mpsc::Receiver<Packet>) -> (String, bool) {
    let packet = queue.recv().await.unwrap();
    (String::from_utf8(packet.message.to_vec()).unwrap(), packet.last)
}

fn same(text: &str) -> (String, bool) {
    (text.to_owned(), false)
}

fn last(text: &str) -> (String, bool) {
    (text.to_owned(), true)
}

#[tokio::test]
async fn a_session_passes_everything_as_it_is() {
    let (link, mut server) = linked(Ids::Keep);
    let request =
        r#"{ "id" : "\u0061", "method":"x", "z":1e999, "params":{"_meta":{"progressToken":1.0}} }"#;
    let (_claim, mut queue) = ask(&link, request).await;
    assert_eq!(server.heard().await, request);
    let progress =
        r#"{"method":"notifications/progress","params":{"progressToken":1,"progress":0.10}}"#;
    server.say(progress).await;
    server.say(r#"{"id":"a" ,"result":{"n":12345678901234567890}}"#).await;
    assert_eq!(next(&mut queue).await, same(progress));
    assert_eq!(next(&mut queue).await, last(r#"{"id":"a" ,"result":{"n":12345678901234567890}}"#));
    assert!(queue.recv().await.is_none());
}

#[tokio::test]
async fn clients_of_a_shared_server_may_use_the_same_ids_and_tokens() {
    let (link, mut server) = linked(Ids::Remap);
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

#[tokio::test]
async fn a_shared_server_is_told_when_nobody_waits_any_more() {
    let (link, mut server) = linked(Ids::Remap);
    let (claim, queue) = ask(&link, r#"{"id":"long","method":"x"}"#).await;
    server.heard().await;
    drop((claim, queue));
    let told = server.heard().await;
    assert!(
        told.contains("notifications/cancelled") && told.contains(r#""requestId":1"#),
        "{told}"
    );
    // A late answer disturbs nobody.
    server.say(r#"{"id":1,"result":{}}"#).await;
    let (_claim, mut queue) = ask(&link, r#"{"id":"long","method":"y"}"#).await;
    server.heard().await;
    server.say(r#"{"id":2,"result":{}}"#).await;
    assert_eq!(next(&mut queue).await, last(r#"{"id":"long","result":{}}"#));
}

#[tokio::test]
async fn a_lost_connection_of_a_session_cancels_nothing() {
    let (link, mut server) = linked(Ids::Keep);
    let (claim, queue) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    server.heard().await;
    drop((claim, queue));
    let (_claim, _queue) = ask(&link, r#"{"id":2,"method":"y"}"#).await;
    assert_eq!(server.heard().await, r#"{"id":2,"method":"y"}"#);
}

#[tokio::test]
async fn a_cancelled_request_ends_without_an_answer() {
    let (link, mut server) = linked(Ids::Keep);
    let (_claim, mut queue) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    server.heard().await;
    link.cancelled(&Key::Integer(1));
    assert!(queue.recv().await.is_none());
    server.say(r#"{"id":1,"result":{}}"#).await;
    assert!(!link.is_busy());
}

#[tokio::test]
async fn what_belongs_to_no_request_goes_to_the_stream_of_the_session_in_order() {
    let (link, mut server) = linked(Ids::Keep);
    server.say(r#"{"method":"notifications/tools/list_changed"}"#).await;
    server.say(r#"{"id":"s1","method":"roots/list"}"#).await;
    while link.table().kept() < 2 {
        tokio::task::yield_now().await;
    }
    let mut stream = link.listen().unwrap();
    assert_eq!(link.listen().unwrap_err(), Busy);
    assert_eq!(next(&mut stream).await, same(r#"{"method":"notifications/tools/list_changed"}"#));
    assert_eq!(next(&mut stream).await, same(r#"{"id":"s1","method":"roots/list"}"#));
    drop(stream);
    assert!(link.listen().is_ok());
}

#[tokio::test]
async fn questions_go_with_the_latest_request_and_logs_with_the_only_one() {
    let (link, mut server) = linked(Ids::Keep);
    let mut stream = link.listen().unwrap();
    let (_a, mut first) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    server.say(r#"{"method":"notifications/message","params":{}}"#).await;
    server.say(r#"{"method":"notifications/resources/updated"}"#).await;
    assert_eq!(next(&mut first).await, same(r#"{"method":"notifications/message","params":{}}"#));
    assert_eq!(next(&mut stream).await, same(r#"{"method":"notifications/resources/updated"}"#));
    let (_b, mut second) = ask(&link, r#"{"id":2,"method":"y"}"#).await;
    server.say(r#"{"id":9,"method":"sampling/createMessage"}"#).await;
    assert_eq!(next(&mut second).await, same(r#"{"id":9,"method":"sampling/createMessage"}"#));
}

#[tokio::test]
async fn a_subscription_of_a_shared_server_gets_its_own_id_back() {
    const KEY: &str = r#""io.modelcontextprotocol/subscriptionId""#;
    let (link, mut server) = linked(Ids::Remap);
    let listen = r#"{"id":"sub","method":"subscriptions/listen","params":{}}"#;
    let (_claim, mut queue) = ask(&link, listen).await;
    server.heard().await;
    let note = |id: &str| {
        format!(r#"{{"method":"notifications/x","params":{{"_meta":{{{KEY}:{id}}},"u":1}}}}"#)
    };
    server.say(&note("1")).await;
    server.say(&note("77")).await;
    server.say(&format!(r#"{{"id":1,"result":{{"_meta":{{{KEY}:1}}}}}}"#)).await;
    assert_eq!(next(&mut queue).await, same(&note(r#""sub""#)));
    let end = format!(r#"{{"id":"sub","result":{{"_meta":{{{KEY}:"sub"}}}}}}"#);
    assert_eq!(next(&mut queue).await, last(&end));
}

#[tokio::test]
async fn a_modern_server_that_asks_is_told_that_it_cannot() {
    let (_link, mut server) = linked(Ids::Remap);
    server.say(r#"{"id":"q","method":"sampling/createMessage"}"#).await;
    let told = server.heard().await;
    assert!(told.starts_with(r#"{"jsonrpc":"2.0","id":"q","error":{"code":-32601"#), "{told}");
}

#[tokio::test]
async fn noise_of_the_server_reaches_nobody() {
    let (link, mut server) = linked(Ids::Keep);
    let (_claim, mut queue) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    for noise in ["hello", "{\"level\":30}", "12", "\u{1b}[31mred", "{\"id\":1,", "[]"] {
        server.say(noise).await;
    }
    server.say(r#"{"id":1,"result":{}}"#).await;
    assert_eq!(next(&mut queue).await, last(r#"{"id":1,"result":{}}"#));
}

#[tokio::test]
async fn a_server_that_dies_leaves_no_request_unanswered() {
    let (link, mut server) = linked(Ids::Keep);
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
    let (sink, _queue) = mpsc::channel(1);
    let request = Message::parse(r#"{"id":3,"method":"x"}"#).unwrap();
    assert_eq!(link.begin(&request, sink).unwrap_err(), Refusal::Gone);
}

#[tokio::test]
async fn an_id_can_be_in_flight_only_once() {
    let (link, _server) = linked(Ids::Keep);
    let (_claim, _queue) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    let (sink, _other) = mpsc::channel(1);
    let again = Message::parse(r#"{"id":1.0,"method":"x"}"#).unwrap();
    assert_eq!(link.begin(&again, sink).unwrap_err(), Refusal::Duplicate);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody_else() {
    let (link, mut server) = linked(Ids::Remap);
    let ask_with_token = r#"{"id":1,"method":"x","params":{"_meta":{"progressToken":1}}}"#;
    let (_slow, mut stuck) = ask(&link, ask_with_token).await;
    let (_quick, mut queue) = ask(&link, r#"{"id":2,"method":"y"}"#).await;
    for _ in 0..=INBOX {
        server.say(r#"{"method":"notifications/progress","params":{"progressToken":1}}"#).await;
    }
    server.say(r#"{"id":2,"result":{}}"#).await;
    assert_eq!(next(&mut queue).await, last(r#"{"id":2,"result":{}}"#));
    server.heard().await;
    server.heard().await;
    assert!(server.heard().await.contains("notifications/cancelled"));
    while stuck.recv().await.is_some() {}
}

#[tokio::test]
async fn a_thousand_calls_are_answered_each_with_its_own_answer() {
    let (link, mut server) = linked(Ids::Remap);
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
    let (link, mut server) = linked(Ids::Keep);
    let (_claim, mut queue) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    let big = format!(r#"{{"id":1,"result":{{"text":"{}"}}}}"#, "é\\n".repeat(2_500_000));
    let (got, ()) = tokio::join!(next(&mut queue), server.say(&big));
    assert_eq!(got, last(&big));
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_whose_pipe_stays_open_is_given_up() {
    let (link, server) = linked(Ids::Keep);
    let (_claim, mut queue) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    server.exit.send_replace(Some(Exit { success: true, status: "exit status: 0".to_owned() }));
    let end = tokio::time::timeout(Duration::from_secs(5), next(&mut queue)).await.unwrap();
    assert!(end.1 && end.0.contains("exit status: 0"));
    drop(server);
}

/// What somebody who leads sees: ids and tokens of ours on the wire, and of the clients before it.
#[tokio::test]
async fn a_led_legacy_server_sees_ids_of_ours_and_its_client_its_own() {
    let (link, mut server) = linked(Ids::Renumber);
    let request = r#"{"id":"x","method":"m","params":{"_meta":{"progressToken":"t","k":1}}}"#;
    let (_claim, mut queue) = ask(&link, request).await;
    let sent = r#"{"id":1,"method":"m","params":{"_meta":{"progressToken":1,"k":1}}}"#;
    assert_eq!(server.heard().await, sent);
    for n in 0..50 {
        let progress =
            r#"{"method":"notifications/progress","params":{"progressToken":1,"progress":"#;
        server.say(&format!("{progress}{n}.0}}}}")).await;
    }
    server.say(r#"{"id":1,"result":{}}"#).await;
    for n in 0..50 {
        let progress =
            r#"{"method":"notifications/progress","params":{"progressToken":"t","progress":"#;
        assert_eq!(next(&mut queue).await, same(&format!("{progress}{n}.0}}}}")));
    }
    assert_eq!(next(&mut queue).await, last(r#"{"id":"x","result":{}}"#));
}

#[tokio::test]
async fn a_led_legacy_server_is_told_of_what_nobody_waits_for_but_the_opening() {
    let (link, mut server) = linked(Ids::Renumber);
    let (opening, _queue) = ask(&link, r#"{"id":0,"method":"initialize"}"#).await;
    server.heard().await;
    drop(opening);
    let (claim, _queue) = ask(&link, r#"{"id":"x","method":"m"}"#).await;
    server.heard().await;
    drop(claim);
    let told = server.heard().await;
    assert!(told.contains("notifications/cancelled"), "{told}");
    assert!(told.contains(r#""requestId":2"#), "{told}");
}

#[tokio::test]
async fn a_led_legacy_server_reaches_whom_it_means() {
    let (link, mut server) = linked(Ids::Renumber);
    let changed = r#"{"method":"notifications/tools/list_changed"}"#;
    let log = r#"{"method":"notifications/message","params":{}}"#;
    let (_a, mut first) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    // A change is nothing to a request, not even when nobody listens yet.
    server.say(changed).await;
    server.say(log).await;
    assert_eq!(next(&mut first).await, same(log));
    let mut unasked = link.listen().unwrap();
    assert_eq!(next(&mut unasked).await, same(changed));
    let (_b, mut second) = ask(&link, r#"{"id":2,"method":"y"}"#).await;
    server.say(r#"{"id":"q","method":"elicitation/create"}"#).await;
    assert_eq!(next(&mut second).await, same(r#"{"id":"q","method":"elicitation/create"}"#));
    server.say(log).await;
    assert_eq!(next(&mut unasked).await, same(log));
    // A question is taken back where it was put, whoever came since.
    let (_c, _third) = ask(&link, r#"{"id":3,"method":"z"}"#).await;
    let back = r#"{"method":"notifications/cancelled","params":{"requestId":"q"}}"#;
    server.say(back).await;
    assert_eq!(next(&mut second).await, same(back));
}

#[tokio::test]
async fn a_led_legacy_server_gets_its_ping_answered() {
    let (link, mut server) = linked(Ids::Renumber);
    let _unasked = link.listen().unwrap();
    server.say(r#"{"jsonrpc":"2.0","id":"p1","method":"ping"}"#).await;
    assert_eq!(server.heard().await, r#"{"jsonrpc":"2.0","id":"p1","result":{}}"#);
    assert!(!link.is_working());
}

#[tokio::test]
async fn a_burst_reaches_a_led_reader_that_is_slow_but_reads() {
    let (link, mut server) = linked(Ids::Renumber);
    let ask_with_token = r#"{"id":1,"method":"x","params":{"_meta":{"progressToken":1}}}"#;
    let (_claim, mut queue) = ask(&link, ask_with_token).await;
    server.heard().await;
    let talk = async {
        for _ in 0..4 * INBOX {
            server.say(r#"{"method":"notifications/progress","params":{"progressToken":1}}"#).await;
        }
        server.say(r#"{"id":1,"result":{}}"#).await;
    };
    let read = async {
        let mut count = 0;
        while !next(&mut queue).await.1 {
            count += 1;
            tokio::task::yield_now().await;
        }
        count
    };
    assert_eq!(tokio::join!(talk, read).1, 4 * INBOX);
}

#[tokio::test(start_paused = true)]
async fn a_led_reader_that_does_not_read_holds_others_up_for_a_moment_only() {
    let (link, mut server) = linked(Ids::Renumber);
    let ask_with_token = r#"{"id":1,"method":"x","params":{"_meta":{"progressToken":1}}}"#;
    let (_slow, _stuck) = ask(&link, ask_with_token).await;
    let (_quick, mut queue) = ask(&link, r#"{"id":2,"method":"y"}"#).await;
    for _ in 0..=INBOX {
        server.say(r#"{"method":"notifications/progress","params":{"progressToken":1}}"#).await;
    }
    server.say(r#"{"id":2,"result":{}}"#).await;
    let answer = tokio::time::timeout(Duration::from_secs(5), next(&mut queue)).await.unwrap();
    assert_eq!(answer, last(r#"{"id":2,"result":{}}"#));
}
