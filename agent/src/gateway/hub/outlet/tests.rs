use futures_util::FutureExt as _;

use super::*;

const CHANGED: &str = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;

fn log(number: usize) -> Bytes {
    format!(r#"{{"method":"notifications/message","params":{{"data":{number}}}}}"#).into()
}

fn read(said: &mut Said) -> Vec<Bytes> {
    std::iter::from_fn(|| said.recv().now_or_never().flatten()).map(|p| p.message).collect()
}

#[tokio::test]
async fn a_client_that_is_slow_to_read_loses_nothing_of_a_flood() {
    let outlet = Outlet::default();
    let mut said = outlet.listen(None).unwrap();
    for number in 0..5000 {
        assert_eq!(outlet.say(log(number)), [] as [Bytes; 0]);
    }
    assert_eq!(read_all(&mut said, 5000).await, (0..5000).map(log).collect::<Vec<_>>());
    drop(said);
    // Nor before its stream is open.
    for number in 0..5000 {
        assert_eq!(outlet.say(log(number)), [] as [Bytes; 0]);
    }
    let mut said = outlet.listen(None).unwrap();
    assert_eq!(read_all(&mut said, 5000).await.len(), 5000);
}

async fn read_all(said: &mut Said, count: usize) -> Vec<Bytes> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(said.recv().await.unwrap().message);
    }
    all
}

#[tokio::test]
async fn what_does_not_fit_is_handed_back() {
    let outlet = Outlet::default();
    let big = |fill: u8| Bytes::from(vec![fill; MAX_BACKLOG / 2]);
    assert!(outlet.say(big(b'a')).is_empty());
    assert_eq!(outlet.say(big(b'b')), [big(b'a')], "the oldest makes room in a backlog");
    let mut said = outlet.listen(None).unwrap();
    let lost: Vec<_> = (b'c'..=b'z').flat_map(|fill| outlet.say(big(fill))).collect();
    assert_eq!(lost.last(), Some(&big(b'z')), "a stream keeps what it has");
    assert_eq!(read(&mut said).len() + lost.len(), 25);
}

#[tokio::test]
async fn what_a_stream_did_not_read_comes_first_on_the_next_one() {
    let outlet = Outlet::default();
    let mut said = outlet.listen(None).unwrap();
    assert_eq!(outlet.listen(None).unwrap_err(), Busy);
    (0..3).for_each(|number| drop(outlet.say(log(number))));
    assert_eq!(said.recv().await.unwrap().message, log(0));
    drop(said);
    drop(outlet.say(log(3)));
    let mut said = outlet.listen(None).unwrap();
    assert_eq!(read(&mut said), [log(1), log(2), log(3)]);
}

#[tokio::test]
async fn a_reader_that_leaves_its_channel_is_followed_at_once_and_loses_nothing() {
    let outlet = Outlet::default();
    let (sink, mut channel) = mpsc::channel(1);
    let said = outlet.listen(Some(&sink)).unwrap();
    (0..3).for_each(|number| drop(outlet.say(log(number))));
    let mut passing = Box::pin(said.pass_to(sink));
    assert!(passing.as_mut().now_or_never().is_none());
    assert_eq!(channel.recv().await.unwrap().message, log(0));
    drop(channel);
    // The one who passes on has not noticed yet.
    let mut next = outlet.listen(None).unwrap();
    assert_eq!(read(&mut next), [log(1), log(2)]);
    passing.await;
    assert!(outlet.is_open(), "the end of the former reader is not that of the next one");
}

#[tokio::test]
async fn a_change_between_two_streams_is_told_once_by_the_next_one() {
    let outlet = Outlet::default();
    drop(outlet.listen(None).unwrap());
    let changed = Bytes::from_static(CHANGED.as_bytes());
    (0..3).for_each(|_| drop(outlet.say_once(changed.clone())));
    let mut said = outlet.listen(None).unwrap();
    assert_eq!(read(&mut said), [&changed]);
    (0..2).for_each(|_| drop(outlet.say_once(changed.clone())));
    assert_eq!(read(&mut said).len(), 2, "an open stream hears each");
}

#[tokio::test]
async fn a_subscriber_hears_more_than_it_has_read_and_only_what_it_asked_for() {
    let outlet = Outlet::default();
    let mut filter = Filter::default();
    filter.lists[List::Tools.at()] = true;
    let (number, mut told) = outlet.subscribe("7", filter).unwrap();
    let changed = Bytes::from_static(CHANGED.as_bytes());
    for _ in 0..1000 {
        outlet.changed(List::Tools, &changed);
        outlet.changed(List::Prompts, &changed);
    }
    let first = told.recv().await.unwrap().message;
    assert!(String::from_utf8_lossy(&first).contains(SUBSCRIPTION_ID));
    for _ in 1..1000 {
        assert!(told.recv().await.is_some());
    }
    outlet.unsubscribe(number);
    assert!(told.recv().await.is_none());
}
