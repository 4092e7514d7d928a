use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::gateway::talk::testing::Puppet;

fn log(version: &str) -> Arc<Log> {
    let log = Log::new(Budget::default(), Duration::from_secs(600), Scope::new());
    log.set_version(version);
    log
}

fn packet(message: &'static str, last: bool) -> Packet {
    Packet { message: Bytes::from_static(message.as_bytes()), last }
}

/// Returns a source of one answer, where to send its packets, and what hears of its end.
fn source() -> (Source, mpsc::Sender<Packet>, oneshot::Receiver<()>) {
    let (sink, queue) = mpsc::channel(INBOX);
    let (claim, ended) = oneshot::channel::<()>();
    (Source { queue, claims: vec![Claim::new(claim)], left: 1 }, sink, ended)
}

fn id(text: &str) -> Option<EventId> {
    Some(text.parse().unwrap())
}

async fn next(reader: &mut Reader) -> Option<String> {
    let event = poll_fn(|cx| reader.poll_next(cx)).await?;
    Some(String::from_utf8(event.to_vec()).unwrap())
}

fn event(id: &str, data: &str) -> Option<String> {
    Some(format!("id: {id}\nevent: message\ndata: {data}\n\n"))
}

#[test]
fn an_event_id_names_its_stream() {
    for text in ["p1-0", "g12-345"] {
        assert_eq!(text.parse::<EventId>().unwrap().to_string(), text);
    }
    for text in ["", "1-2", "p1", "p1-", "px-1", "p1-2-3", "x1-2", "p-1-2", "pä-1"] {
        assert_eq!(text.parse::<EventId>(), Err(NoEventId), "{text}");
    }
}

#[tokio::test]
async fn a_stream_opens_with_an_empty_event_from_2025_11_25_on() {
    for (version, primed) in [("2024-11-05", false), ("2025-06-18", false), ("2025-11-25", true)] {
        let log = log(version);
        let (source, sink, _) = source();
        let mut reader = log.answer([Bytes::from_static(b"1")], source);
        sink.try_send(packet("2", true)).unwrap();
        if primed {
            let golden = "id: p1-0\nretry: 1000\ndata: \n\n";
            assert_eq!(next(&mut reader).await.as_deref(), Some(golden));
        }
        assert_eq!(next(&mut reader).await, event("p1-1", "1"));
        assert!(!reader.is_over());
        assert_eq!(next(&mut reader).await, event("p1-2", "2"));
        assert!(reader.is_over());
        assert_eq!(next(&mut reader).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_goes_on_and_is_resumed_after_the_last_event() {
    let (log, talk) = (log("2025-11-25"), Puppet::default());
    let (source, sink, mut ended) = source();
    let mut lost = log.answer([], source);
    assert!(next(&mut lost).await.unwrap().starts_with("id: p1-0\n"));
    sink.try_send(packet("1", false)).unwrap();
    assert_eq!(next(&mut lost).await, event("p1-1", "1"));
    drop(lost);
    sink.try_send(packet("2", false)).unwrap();
    tokio::time::advance(Duration::from_secs(200)).await;
    assert_eq!(ended.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    let mut back = log.listen(&talk, id("p1-0")).unwrap();
    assert_eq!(next(&mut back).await, event("p1-1", "1"));
    assert_eq!(next(&mut back).await, event("p1-2", "2"));
    sink.try_send(packet("3", true)).unwrap();
    assert_eq!(next(&mut back).await, event("p1-3", "3"));
    assert_eq!(next(&mut back).await, None);
    drop(back);
    // The last event may have been lost with its connection.
    let mut again = log.listen(&talk, id("p1-2")).unwrap();
    assert_eq!(next(&mut again).await, event("p1-3", "3"));
    assert_eq!(next(&mut again).await, None);
    assert!(ended.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_come_back_loses_its_request_after_a_while() {
    let (log, talk) = (log("2025-06-18"), Puppet::default());
    let (source, sink, ended) = source();
    drop(log.answer([Bytes::from_static(b"1")], source));
    let start = Instant::now();
    assert!(ended.await.is_err());
    assert_eq!(start.elapsed().as_secs(), TTL.as_secs());
    assert!(sink.is_closed());
    assert_eq!(log.listen(&talk, id("p1-1")).unwrap_err(), NoStream::Gone);
    log.prune(Instant::now());
    assert!(log.lock().streams.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_whose_client_left_before_it_was_told_of_a_stream() {
    let log = log("2025-06-18");
    let (source, sink, mut ended) = source();
    log.adopt(source);
    sink.send(packet("1", false)).await.unwrap();
    assert_eq!(ended.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    sink.send(packet("2", true)).await.unwrap();
    assert!(ended.await.is_err());
}

#[tokio::test]
async fn a_stream_that_is_resumed_twice_belongs_to_the_later_client() {
    let (log, talk) = (log("2025-06-18"), Puppet::default());
    let (source, sink, _) = source();
    let mut first = log.answer([], source);
    let mut second = log.listen(&talk, id("p1-0")).unwrap();
    sink.try_send(packet("1", true)).unwrap();
    assert_eq!(next(&mut first).await, None);
    drop(first);
    assert_eq!(next(&mut second).await, event("p1-1", "1"));
}

#[tokio::test]
async fn the_later_of_two_listeners_displaces_the_earlier_one() {
    let (log, talk) = (log("2025-06-18"), Puppet::default());
    let mut first = log.listen(&talk, None).unwrap();
    let pending = futures_util::future::join(next(&mut first), async {
        tokio::task::yield_now().await;
        log.listen(&talk, None).unwrap()
    });
    let (end, mut second) = pending.await;
    assert_eq!(end, None);
    drop(first);
    assert!(talk.say("1"));
    assert_eq!(next(&mut second).await, event("g2-1", "1"));
}

#[tokio::test]
async fn what_a_lost_listener_did_not_take_comes_on_the_next_one() {
    let (log, talk) = (log("2025-06-18"), Puppet::default());
    let mut first = log.listen(&talk, None).unwrap();
    assert!(talk.say("1") && talk.say("2") && talk.say("3"));
    assert_eq!(next(&mut first).await, event("g1-1", "1"));
    assert_eq!(next(&mut first).await, event("g1-2", "2"));
    drop(first);
    assert!(!talk.say("lost"), "nobody listens, so a server may keep it");
    let mut same = log.listen(&talk, id("g1-1")).unwrap();
    assert_eq!(next(&mut same).await, event("g1-2", "2"));
    assert_eq!(next(&mut same).await, event("g1-3", "3"));
    assert!(talk.say("4") && talk.say("5"));
    assert_eq!(next(&mut same).await, event("g1-4", "4"));
    drop(same);
    let mut fresh = log.listen(&talk, id("g7-1")).unwrap();
    assert_eq!(next(&mut fresh).await, event("g2-1", "5"));
}

#[tokio::test]
async fn a_listener_ends_with_the_conversation() {
    let (log, talk) = (log("2025-06-18"), Puppet::default());
    let mut reader = log.listen(&talk, None).unwrap();
    talk.stop();
    assert_eq!(next(&mut reader).await, None);
}

#[tokio::test]
async fn a_long_stream_without_a_client_keeps_its_answer() {
    let (log, talk) = (log("2025-06-18"), Puppet::default());
    let (source, sink, ended) = source();
    drop(log.answer([], source));
    for _ in 0..1000 {
        sink.send(packet("progress", false)).await.unwrap();
    }
    sink.send(packet("answer", true)).await.unwrap();
    assert!(ended.await.is_err());
    let mut back = log.listen(&talk, id("p1-0")).unwrap();
    let mut events = Vec::new();
    while let Some(event) = next(&mut back).await {
        events.push(event);
    }
    assert_eq!(events.len(), 256);
    assert_eq!(events.pop(), event("p1-1001", "answer"));
}
