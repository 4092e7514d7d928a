//! Assertions: no text makes the verifier panic, and no change of a good one alters what it says.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mcpm_shared::assertion::{self, Proof};
use mcpm_shared::identity::AgentKey;
use mcpm_shared::token::Token;

const AUDIENCE: &str = "https://relay.example";
const NOW: u64 = 1_800_000_000;

struct Good {
    jwt: String,
    subject: String,
    audience: [String; 1],
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let key = AgentKey::generate();
    let proof = Proof::Secret(Token::new("a shared secret of a team"));
    let jwt = assertion::sign(&key, AUDIENCE, &proof, NOW).expect("the clock and the key are good");
    Good { jwt, subject: key.thumbprint(), audience: [AUDIENCE.to_owned()] }
});

fuzz_target!(|edit: (u16, u16, &str)| {
    let (at, remove, insert) = edit;
    assertion::verify(insert, &GOOD.audience, NOW).ok();

    let good = &GOOD.jwt;
    let start = usize::from(at) % (good.len() + 1);
    let end = (start + usize::from(remove)).min(good.len());
    let edited = format!("{}{insert}{}", &good[..start], &good[end..]);
    if let Ok(verified) = assertion::verify(&edited, &GOOD.audience, NOW) {
        assert_eq!(verified.subject, GOOD.subject);
        assert_eq!(edited, *good, "an edited assertion verifies");
    }
});
