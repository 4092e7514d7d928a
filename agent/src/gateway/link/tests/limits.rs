//! Readers that do not read, servers that do not, and lines that are too long.

use std::fmt::Write as _;

use super::*;

const WITH_TOKEN: &str = r#"{"id":1,"method":"x","params":{"_meta":{"progressToken":1}}}"#;
const PING: &str = r#"{"id":"p","method":"ping"}"#;

/// More than a queue takes, in pieces.
const PIECES: usize = 80;

async fn say_too_much(server: &mut Server, method: &str) {
    let params = format!(r#"{{"progressToken":1,"message":"{}"}}"#, padding());
    for _ in 0..PIECES {
        server.say(&format!(r#"{{"method":"{method}","params":{params}}}"#)).await;
    }
}

fn padding() -> String {
    "x".repeat(64 * 1024)
}

/// Asks something for which a full queue has no room.
async fn ask_at_length(server: &mut Server, id: &str) {
    let params = padding();
    let question =
        format!(r#"{{"id":{id},"method":"sampling/createMessage","params":"{params}"}}"#);
    server.say(&question).await;
}

/// Reads a queue to its end; returns how many packets preceded the answer.
async fn read_all(queue: &mut Receiver, answer: &str) -> usize {
    let mut count = 0;
    loop {
        let packet = next(queue).await;
        if packet.1 {
            assert_eq!(packet, last(answer));
            return count;
        }
        count += 1;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_burst_reaches_a_reader_that_is_slow_but_reads() {
    for era in ERAS {
        let (link, mut server) = linked(era);
        let (_claim, mut queue) = ask(&link, WITH_TOKEN).await;
        server.heard().await;
        let talk = async {
            for _ in 0..1000 {
                let token = r#""params":{"progressToken":1}"#;
                server.say(&format!(r#"{{"method":"notifications/progress",{token}}}"#)).await;
            }
            server.say(r#"{"id":1,"result":{}}"#).await;
        };
        let read = read_all(&mut queue, r#"{"id":1,"result":{}}"#);
        assert_eq!(tokio::join!(talk, read).1, 1000);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_holds_up_nobody_and_gets_its_answer_all_the_same() {
    for era in ERAS {
        let began = Instant::now();
        let (link, mut server) = linked(era);
        let (_slow, mut stuck) = ask(&link, WITH_TOKEN).await;
        let (_quick, mut queue) = ask(&link, r#"{"id":2,"method":"y"}"#).await;
        say_too_much(&mut server, "notifications/progress").await;
        server.say(r#"{"id":2,"result":{}}"#).await;
        assert_eq!(next(&mut queue).await, last(r#"{"id":2,"result":{}}"#));
        // Time passes only when everybody waits.
        assert_eq!(began.elapsed(), Duration::ZERO);
        server.say(r#"{"id":1,"result":{}}"#).await;
        let count = read_all(&mut stuck, r#"{"id":1,"result":{}}"#).await;
        assert!((PIECES / 2..PIECES).contains(&count), "{count}");
    }
}

#[tokio::test]
async fn a_question_that_nobody_takes_is_answered() {
    let (link, mut server) = linked(Era::Legacy);
    let mut unasked = link.listen().unwrap();
    say_too_much(&mut server, "notifications/x").await;
    ask_at_length(&mut server, r#""early""#).await;
    let told = server.heard().await;
    assert!(told.starts_with(r#"{"jsonrpc":"2.0","id":"early","error":{"code":-32603"#), "{told}");
    let (_claim, mut queue) = ask(&link, WITH_TOKEN).await;
    server.heard().await;
    say_too_much(&mut server, "notifications/progress").await;
    ask_at_length(&mut server, "7").await;
    let told = server.heard().await;
    assert!(told.starts_with(r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603"#), "{told}");
    server.say(r#"{"id":1,"result":{}}"#).await;
    assert!(read_all(&mut queue, r#"{"id":1,"result":{}}"#).await < PIECES);
    assert!(next(&mut unasked).await.0.contains("notifications/x"));
}

#[tokio::test]
async fn a_server_that_asks_and_does_not_read_is_never_waited_for_and_stopped_in_the_end() {
    let (link, mut server) = linked(Era::Legacy);
    let (_claim, mut queue) = ask(&link, WITH_TOKEN).await;
    // The pipe and what is before it hold somewhat more than two thousand answers.
    for _ in 0..2500 {
        server.say(PING).await;
    }
    server.say(r#"{"id":1,"result":{}}"#).await;
    assert_eq!(next(&mut queue).await, last(r#"{"id":1,"result":{}}"#));
    assert!(!link.is_over());
    for _ in 0..2500 {
        server.say(PING).await;
    }
    let stopped = timeout(Duration::from_secs(20), link.child().stopping().cancelled()).await;
    stopped.expect("it is told to stop");
}

#[tokio::test]
async fn a_burst_of_questions_is_answered_to_the_last_one() {
    let (_link, mut server) = linked(Era::Legacy);
    let mut burst = String::new();
    for n in 0..1000 {
        writeln!(burst, r#"{{"id":{n},"method":"ping"}}"#).unwrap();
    }
    server.say(burst.trim_end()).await;
    for n in 0..1000 {
        assert_eq!(server.heard().await, format!(r#"{{"jsonrpc":"2.0","id":{n},"result":{{}}}}"#));
    }
}

#[tokio::test]
async fn a_request_that_was_given_up_before_there_was_room_for_it_was_never_made() {
    let (link, mut server) = linked(Era::Legacy);
    let big = format!(r#"{{"id":1,"method":"{}"}}"#, "x".repeat(100_000));
    let big = Message::parse(&big).unwrap();
    let mut claims = Vec::new();
    loop {
        let request = timeout(Duration::from_millis(50), link.request(&big, Asker::Client(1)));
        match request.await {
            Ok(begun) => claims.push(begun.unwrap()),
            Err(_) => break,
        }
    }
    assert_eq!(link.table().in_flight(), claims.len());
    for _ in &claims {
        assert!(server.heard().await.contains("xxx"));
    }
    let (_claim, _queue) = ask(&link, r#"{"id":2,"method":"y"}"#).await;
    assert!(server.heard().await.contains(r#""method":"y""#));
}

#[tokio::test]
async fn the_only_request_is_told_that_its_answer_was_too_long() {
    let (link, mut server) = linked_with(Era::Modern, false, 1000);
    let (_sub, _subscribed) = ask(&link, r#"{"id":0,"method":"subscriptions/listen"}"#).await;
    let (_claim, mut queue) = ask(&link, r#"{"id":"a","method":"x"}"#).await;
    server.say(&"x".repeat(5000)).await;
    let (text, is_last) = next(&mut queue).await;
    assert!(is_last && text.starts_with(r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32603"#));
    assert!(text.contains("the answer of server `test` was too long: 5000 bytes"), "{text}");
    assert!(queue.recv().await.is_none());
    assert!(!link.is_working());
}

#[tokio::test]
async fn of_several_requests_nobody_can_tell_whose_answer_was_too_long() {
    let (link, mut server) = linked_with(Era::Legacy, false, 1000);
    let (_a, mut first) = ask(&link, r#"{"id":"a","method":"x"}"#).await;
    let (_b, mut second) = ask(&link, r#"{"id":"b","method":"x"}"#).await;
    server.say(&"x".repeat(5000)).await;
    server.say(r#"{"id":1,"result":{}}"#).await;
    server.say(r#"{"id":2,"result":{}}"#).await;
    assert_eq!(next(&mut first).await, last(r#"{"id":"a","result":{}}"#));
    assert_eq!(next(&mut second).await, last(r#"{"id":"b","result":{}}"#));
}
