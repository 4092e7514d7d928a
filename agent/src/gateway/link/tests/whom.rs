//! Whom a message of the server is for.

use super::*;

const LOG: &str = r#"{"method":"notifications/message","params":{}}"#;
const CHANGED: &str = r#"{"method":"notifications/tools/list_changed"}"#;
const UPDATED: &str = r#"{"method":"notifications/resources/updated","params":{"uri":"a"}}"#;
const QUESTION: &str = r#"{"id":"q","method":"elicitation/create"}"#;

#[tokio::test]
async fn what_belongs_to_no_request_waits_for_a_listener_in_order() {
    let (link, mut server) = linked(Era::Legacy);
    server.say(CHANGED).await;
    server.say(QUESTION).await;
    server.arrived().await;
    let mut stream = link.listen().unwrap();
    assert_eq!(link.listen().unwrap_err(), Busy);
    assert_eq!(next(&mut stream).await, same(CHANGED));
    assert_eq!(next(&mut stream).await, same(QUESTION));
    drop(stream);
    server.say(LOG).await;
    server.arrived().await;
    let mut stream = link.listen().unwrap();
    assert_eq!(next(&mut stream).await, same(LOG));
    drop(stream);
    assert!(link.listen().is_ok());
}

#[tokio::test]
async fn a_listener_hears_of_the_end_and_whoever_comes_later_too() {
    let (link, mut server) = linked(Era::Legacy);
    let mut stream = link.listen().unwrap();
    server.say(CHANGED).await;
    server.die().await;
    assert_eq!(next(&mut stream).await, same(CHANGED));
    assert!(stream.recv().await.is_none());
    drop(stream);
    assert!(link.listen().unwrap().recv().await.is_none());
}

#[tokio::test]
async fn a_legacy_server_reaches_whom_it_means() {
    let (link, mut server) = linked(Era::Legacy);
    let (_a, mut first) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    // A change is nothing to a request, not even when nobody listens yet.
    server.say(CHANGED).await;
    server.say(LOG).await;
    assert_eq!(next(&mut first).await, same(LOG));
    let mut unasked = link.listen().unwrap();
    assert_eq!(next(&mut unasked).await, same(CHANGED));
    server.say(UPDATED).await;
    assert_eq!(next(&mut unasked).await, same(UPDATED));
    let (_b, mut second) = ask(&link, r#"{"id":2,"method":"y"}"#).await;
    server.say(QUESTION).await;
    assert_eq!(next(&mut second).await, same(QUESTION));
    server.say(LOG).await;
    assert_eq!(next(&mut unasked).await, same(LOG));
    // A question is taken back where it was put, whoever came since.
    let (_c, _third) = ask(&link, r#"{"id":3,"method":"z"}"#).await;
    let back = r#"{"method":"notifications/cancelled","params":{"requestId":"q"}}"#;
    server.say(back).await;
    assert_eq!(next(&mut second).await, same(back));
}

#[tokio::test]
async fn one_client_alone_hears_everything_but_changes_of_lists_in_the_order_it_was_said() {
    let (link, mut server) = linked_with(Era::Legacy, true, 1_000_000);
    let mut unasked = link.listen().unwrap();
    let (_a, mut first) =
        ask(&link, r#"{"id":1,"method":"x","params":{"_meta":{"progressToken":1}}}"#).await;
    let progress = r#"{"method":"notifications/progress","params":{"progressToken":1}}"#;
    let own = r#"{"method":"notifications/elicitation/complete"}"#;
    for said in [UPDATED, progress, CHANGED, own, LOG, r#"{"id":1,"result":{}}"#] {
        server.say(said).await;
    }
    for heard in [UPDATED, progress, own, LOG] {
        assert_eq!(next(&mut first).await, same(heard));
    }
    assert_eq!(next(&mut first).await, last(r#"{"id":1,"result":{}}"#));
    assert_eq!(next(&mut unasked).await, same(CHANGED));
    // With none in flight, or several, nobody knows which one is meant.
    server.say(UPDATED).await;
    assert_eq!(next(&mut unasked).await, same(UPDATED));
    let (_b, _second) = ask(&link, r#"{"id":2,"method":"x"}"#).await;
    let (_c, _third) = ask(&link, r#"{"id":3,"method":"x"}"#).await;
    server.say(own).await;
    assert_eq!(next(&mut unasked).await, same(own));
}

#[tokio::test]
async fn a_question_that_may_be_for_one_of_several_clients_is_for_none() {
    let (link, mut server) = linked(Era::Legacy);
    let _unasked = link.listen().unwrap();
    let call = Message::parse(r#"{"id":1,"method":"x"}"#).unwrap();
    let (_a, mut ann) = link.request(&call, Asker::Client(1)).await.unwrap();
    let (bob, _bobs) = link.request(&call, Asker::Client(2)).await.unwrap();
    for _ in 0..2 {
        server.heard().await;
    }
    server.say(QUESTION).await;
    let refusal = server.heard().await;
    assert!(refusal.contains("it is not clear whom to ask"), "{refusal}");
    drop(bob);
    server.say(QUESTION).await;
    assert_eq!(next(&mut ann).await, same(QUESTION));
}

#[tokio::test]
async fn a_request_of_our_own_takes_nothing_but_its_answer() {
    for sole in [false, true] {
        let (link, mut server) = linked_with(Era::Legacy, sole, 1_000_000);
        let mut unasked = link.listen().unwrap();
        let list = Message::parse(r#"{"id":0,"method":"tools/list"}"#).unwrap();
        let (_ours, mut answer) = link.request(&list, Asker::Ourselves).await.unwrap();
        for said in [QUESTION, LOG, UPDATED] {
            server.say(said).await;
            assert_eq!(next(&mut unasked).await, same(said));
        }
        // The only one that a client waits for is the only one that counts.
        let (_claim, mut queue) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
        for said in [QUESTION, LOG] {
            server.say(said).await;
            assert_eq!(next(&mut queue).await, same(said));
        }
        server.say(r#"{"id":1,"result":{}}"#).await;
        assert_eq!(next(&mut answer).await, last(r#"{"id":0,"result":{}}"#));
    }
}

#[tokio::test]
async fn a_legacy_server_gets_its_ping_answered() {
    let (link, mut server) = linked(Era::Legacy);
    let _unasked = link.listen().unwrap();
    server.say(r#"{"jsonrpc":"2.0","id":"p1","method":"ping"}"#).await;
    assert_eq!(server.heard().await, r#"{"jsonrpc":"2.0","id":"p1","result":{}}"#);
    assert!(!link.is_working());
}

#[tokio::test]
async fn a_modern_server_that_asks_is_told_that_it_cannot() {
    let (_link, mut server) = linked(Era::Modern);
    server.say(r#"{"id":"q","method":"sampling/createMessage"}"#).await;
    let told = server.heard().await;
    assert!(told.starts_with(r#"{"jsonrpc":"2.0","id":"q","error":{"code":-32601"#), "{told}");
}

#[tokio::test]
async fn a_subscription_gets_its_own_id_back() {
    const KEY: &str = r#""io.modelcontextprotocol/subscriptionId""#;
    let (link, mut server) = linked(Era::Modern);
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
async fn a_log_line_of_a_modern_server_is_of_the_only_request_whatever_is_subscribed_to() {
    let (link, mut server) = linked(Era::Modern);
    let (_sub, mut subscribed) = ask(&link, r#"{"id":0,"method":"subscriptions/listen"}"#).await;
    let (_a, mut first) = ask(&link, r#"{"id":1,"method":"x"}"#).await;
    assert!(link.is_working());
    server.say(CHANGED).await;
    server.say(LOG).await;
    assert_eq!(next(&mut first).await, same(LOG));
    let (_b, mut second) = ask(&link, r#"{"id":2,"method":"x"}"#).await;
    server.say(LOG).await;
    for n in 1..=3 {
        server.say(&format!(r#"{{"id":{n},"result":{{}}}}"#)).await;
    }
    assert_eq!(next(&mut subscribed).await, last(r#"{"id":0,"result":{}}"#));
    assert_eq!(next(&mut first).await, last(r#"{"id":1,"result":{}}"#));
    assert_eq!(next(&mut second).await, last(r#"{"id":2,"result":{}}"#));
}
