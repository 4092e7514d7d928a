//! What every store must do for what nodes count together.

use super::NOW;
use crate::store::{HOUR_SECS, Store, Tally};

fn tally(what: &str, now: u64, limit: u64) -> Tally {
    Tally::of_hour(what.to_owned(), now, limit)
}

async fn counted(store: &dyn Store, what: &str, now: u64, limit: u64) -> bool {
    store.count(tally(what, now, limit)).await.unwrap()
}

pub(super) async fn end_at_their_limit_and_begin_anew(store: &dyn Store) {
    assert!(counted(store, "a", NOW, 2).await && counted(store, "a", NOW + 1, 2).await);
    assert!(!counted(store, "a", NOW + 2, 2).await);
    assert!(counted(store, "b", NOW, 2).await, "each is counted by itself");
    assert!(!counted(store, "none", NOW, 0).await && !counted(store, "none", NOW, 0).await);
    assert!(counted(store, "much", NOW, u64::MAX).await);
    // A higher limit counts at once; what was taken back leaves room again.
    assert!(counted(store, "a", NOW, 3).await && !counted(store, "a", NOW, 3).await);
    store.take_back("a", tally("a", NOW, 0).began).await.unwrap();
    assert!(counted(store, "a", NOW, 3).await && !counted(store, "a", NOW, 3).await);
    store.take_back("nobody", NOW).await.unwrap();

    let later = NOW + HOUR_SECS;
    assert!(counted(store, "a", later, 1).await);
    // A node whose clock is behind neither begins the old hour again nor has a count of its own.
    assert!(!counted(store, "a", NOW, 1).await);
    assert!(counted(store, "a", NOW, 2).await && !counted(store, "a", later, 2).await);
    store.take_back("a", tally("a", NOW, 0).began).await.unwrap();
    assert!(!counted(store, "a", later, 2).await, "that hour is over");
}

pub(super) async fn are_exact_for_many_at_once(store: &dyn Store) {
    let asked = (0..40).map(|_| store.count(tally("a", NOW, 7)));
    let counted = futures_util::future::join_all(asked).await;
    assert_eq!(counted.into_iter().filter(|it| *it.as_ref().unwrap()).count(), 7);
}

pub(super) async fn are_forgotten_when_they_are_old(store: &dyn Store) {
    assert!(counted(store, "old", NOW, 1).await);
    assert!(counted(store, "new", NOW + HOUR_SECS, 1).await);
    let began = tally("", NOW + HOUR_SECS, 0).began;
    assert_eq!(store.forget_tallies(began).await.unwrap(), 1);
    assert_eq!(store.forget_tallies(began).await.unwrap(), 0);
    assert!(counted(store, "old", NOW, 1).await && !counted(store, "new", NOW, 1).await);
}
