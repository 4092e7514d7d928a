use super::*;
use crate::store::MemoryStore;
use crate::store::moody::Moody;

const MINUTE: Duration = Duration::from_secs(60);

fn guarded() -> (Arc<Moody>, Guarded) {
    let moody = Arc::new(Moody::default());
    let guarded = Guarded::new(Arc::clone(&moody) as Arc<dyn Store>);
    (moody, guarded)
}

async fn back(guarded: &Guarded) {
    let mut health = guarded.health();
    tokio::select! {
        () = guarded.recover() => unreachable!("it recovers for ever"),
        up = health.wait_for(|health| *health == Health::Up) => drop(up.unwrap()),
    }
}

#[tokio::test]
async fn a_guarded_store_keeps_the_contract() {
    let fresh = || async { Guarded::new(Arc::new(MemoryStore::new())) };
    crate::store::contract::check(fresh).await;
}

#[tokio::test(start_paused = true)]
async fn after_one_failure_nobody_waits_until_the_store_is_back() {
    let (moody, guarded) = guarded();
    moody.set_away(true);
    assert!(guarded.token("a").await.unwrap_err().is_unreachable());
    moody.set_silent(true);
    let started = tokio::time::Instant::now();
    assert!(guarded.token("a").await.unwrap_err().is_unreachable());
    assert!(guarded.ping().await.unwrap_err().is_unreachable());
    assert_eq!(started.elapsed(), Duration::ZERO);
    moody.set_silent(false);
    moody.set_away(false);
    back(&guarded).await;
    assert_eq!(guarded.token("a").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_is_asked_ever_less_often() {
    let (moody, guarded) = guarded();
    moody.set_away(true);
    guarded.token("a").await.unwrap_err();
    tokio::time::timeout(MINUTE, guarded.recover()).await.unwrap_err();
    let pings = moody.pings();
    assert!((10..25).contains(&pings), "{pings}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_says_nothing_is_given_up_after_a_while() {
    let (moody, guarded) = guarded();
    moody.set_silent(true);
    let started = tokio::time::Instant::now();
    assert!(guarded.token("a").await.unwrap_err().is_unreachable());
    assert!(started.elapsed() <= PATIENCE + PING_PATIENCE);
    assert_eq!(*guarded.health().borrow(), Health::Down);
}

#[tokio::test(start_paused = true)]
async fn one_slow_question_does_not_close_the_way() {
    let (moody, guarded) = guarded();
    moody.set_stuck(true);
    assert!(guarded.revoked(0).await.unwrap_err().is_unreachable());
    assert_eq!(*guarded.health().borrow(), Health::Up);
}

#[tokio::test]
async fn a_refusal_does_not_close_the_way() {
    let (_moody, guarded) = guarded();
    let token = TokenRecord {
        jti: "a".to_owned(),
        subject: "ada".to_owned(),
        names: Vec::new(),
        max_shares: None,
        bound_to: None,
        issued_at: 1,
        expires_at: 2,
        revoked_at: None,
    };
    guarded.insert_token(token.clone()).await.unwrap();
    assert!(!guarded.insert_token(token).await.unwrap_err().is_unreachable());
    assert_eq!(*guarded.health().borrow(), Health::Up);
}
