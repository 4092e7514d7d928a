//! Control frames: whatever bytes arrive, reading ends, and a message that was read survives a round trip.
#![no_main]

use std::fmt::Debug;

use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use mcpm_shared::proto::control::{self, AgentMessage, RelayMessage};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads messages until the bytes end; bytes in memory are always ready, so one poll tells all.
fn frames<M>(mut bytes: &[u8], unknown: fn(&M) -> bool)
where
    M: Serialize + DeserializeOwned + PartialEq + Debug,
{
    while let Some(Ok(message)) = control::read::<M>(&mut bytes).now_or_never() {
        if unknown(&message) {
            continue;
        }
        // What came in just below the limit may be longer in our spelling: that is an error, no panic.
        let Ok(frame) = control::encode(&message) else { continue };
        let again: M = control::decode(&frame[4..]).expect("our own frame is a message");
        assert_eq!(again, message);
    }
}

fuzz_target!(|bytes: &[u8]| {
    frames::<AgentMessage>(bytes, |message| matches!(message, AgentMessage::Unknown));
    frames::<RelayMessage>(bytes, |message| matches!(message, RelayMessage::Unknown));
});
