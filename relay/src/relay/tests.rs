//! What a relay does at its end, by itself or in good order.

use super::*;

async fn relay() -> Relay {
    let mut config = Config::local();
    config.listen.set_port(0);
    Relay::start(config, Ports::in_memory()).await.unwrap()
}

#[tokio::test]
async fn a_service_that_ends_ends_the_relay() {
    let relay = relay().await;
    relay.serve_always(std::future::ready(()));
    relay.closed().await;
}

#[tokio::test]
async fn nobody_is_told_to_connect_elsewhere_who_could_get_here_again() {
    let relay = relay().await;
    let (listening, goaways) = (relay.listeners.clone(), relay.goaways.clone());
    let (say, told) = tokio::sync::oneshot::channel();
    // In the place of a listener that has one more to let in.
    relay.listeners.spawn(async move {
        listening.cancelled().await;
        tokio::time::timeout(PARTING / 100, goaways.cancelled()).await.ok();
        say.send(goaways.is_cancelled()).unwrap();
    });
    let (goaways, _cut) = (relay.goaways.clone(), relay.hand_over().await);
    assert!(!told.await.unwrap() && goaways.is_cancelled());
}
