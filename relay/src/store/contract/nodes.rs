//! What holds for nodes in any store.

use super::{NOW, claim, name};
use crate::store::{Claim, NewNode, Store};

fn node(id: &str, now: u64) -> NewNode {
    let (address, version) = ("127.0.0.1:6278".to_owned(), "3.0.0".to_owned());
    NewNode { id: id.to_owned(), address, version, now }
}

pub(super) async fn are_told_apart_by_their_generation(store: &dyn Store) {
    let first = store.enter_node(node("a", NOW)).await.unwrap();
    store.enter_node(node("b", NOW)).await.unwrap();
    let beat = store.beat_node("a", first, false, NOW + 1).await.unwrap();
    let ids: Vec<_> = beat.nodes.iter().map(|node| node.id.as_str()).collect();
    assert_eq!((beat.known, ids.as_slice()), (true, ["a", "b"].as_slice()));
    let (before, other) = (&beat.nodes[0], &beat.nodes[1]);
    assert_eq!((before.generation, before.seen_at, before.draining), (first, NOW + 1, false));
    assert_eq!((other.started_at, other.address.as_str()), (NOW, "127.0.0.1:6278"));
    let later = store.beat_node("a", first, true, NOW + 2).await.unwrap();
    assert!(later.nodes[0].beats > before.beats && later.nodes[0].draining);
    // Another process of the same name, in the same second: the first is none any more.
    let second = store.enter_node(node("a", NOW)).await.unwrap();
    assert!(second > first);
    let beat = store.beat_node("a", first, false, NOW + 3).await.unwrap();
    assert!(!beat.known && beat.nodes[0].generation == second && !beat.nodes[0].draining);
    assert!(!store.lose_node("a", first, None).await.unwrap(), "another process has the name");
    let beats = beat.nodes[0].beats;
    assert!(store.beat_node("a", second, false, NOW + 4).await.unwrap().known);
    assert!(!store.lose_node("a", second, Some(beats)).await.unwrap(), "it beat since");
    assert!(store.lose_node("a", second, Some(beats + 1)).await.unwrap());
    assert!(!store.lose_node("a", second, None).await.unwrap());
    let beat = store.beat_node("a", second, false, NOW + 5).await.unwrap();
    assert_eq!((beat.known, beat.nodes.len()), (false, 1));
}

pub(super) async fn that_are_lost_give_their_names_back(store: &dyn Store) {
    let generation = store.enter_node(node("a", NOW)).await.unwrap();
    store.enter_node(node("b", NOW)).await.unwrap();
    for (text, at) in [("one", "a"), ("two", "b")] {
        let claim = Claim { node: at.to_owned(), ..claim(text, "ada", NOW) };
        store.claim(claim).await.unwrap();
    }
    assert_eq!(store.release_orphans(NOW + 1).await.unwrap(), 0);
    assert!(store.lose_node("a", generation, None).await.unwrap());
    assert_eq!(store.release_orphans(NOW + 2).await.unwrap(), 1);
    let one = store.lease(&name("one")).await.unwrap().unwrap();
    assert_eq!((one.released_at, one.generation), (Some(NOW + 2), 1));
    // What the lost node still writes changes nothing.
    assert!(!store.renew(&name("one"), 1, NOW + 3, None).await.unwrap());
    let again = Claim { node: "b".to_owned(), ..claim("one", "ada", NOW + 3) };
    assert_eq!(store.claim(again).await.unwrap().generation, 2);
    assert!(!store.release(&name("one"), "ada", 1, NOW + 4).await.unwrap());
    // A process that takes the name of a node takes its names from the one before.
    store.enter_node(node("b", NOW + 5)).await.unwrap();
    assert!(!store.lease(&name("two")).await.unwrap().unwrap().is_live(NOW + 6));
}
