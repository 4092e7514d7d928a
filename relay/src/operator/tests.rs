use mcpm_shared::proto::ShareMode;

use super::*;
use crate::store::{Claim, ClaimError, MemoryStore};

const NOW: u64 = 1_800_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

async fn claim(store: &MemoryStore, text: &str, owner: &str, now: u64) -> Result<u64, ClaimError> {
    let claim = Claim {
        name: name(text),
        owner: owner.to_owned(),
        node: "main".to_owned(),
        mode: ShareMode::Mcp,
        floor_generation: 0,
        now,
        expires_at: None,
        keep_secs: 30 * DAY.as_secs(),
        max_live: 9,
    };
    store.claim(claim).await.map(|lease| lease.generation)
}

async fn trail(store: &MemoryStore) -> Vec<String> {
    let trail = store.audit_trail(9).await.unwrap();
    trail.iter().map(|it| format!("{} {} {}", it.action, it.object, it.detail)).collect()
}

#[test]
fn owners_are_written_as_subjects_or_keys() {
    for (text, owner) in [("ada", "sub:ada"), ("sub:a:b", "sub:a:b"), ("key:xyz", "key:xyz")] {
        assert_eq!(parse_owner(text).unwrap().as_str(), owner);
    }
    // Not an owner's form, so it is a subject with a colon.
    assert_eq!(parse_owner("idp:ada").unwrap().as_str(), "sub:idp:ada");
    for text in ["", "key:", "a b", "a\nb", &"x".repeat(129)] {
        assert!(parse_owner(text).is_err(), "{text:?}");
    }
}

#[tokio::test]
async fn a_name_passes_from_reserved_to_free_again() {
    let store = MemoryStore::new();
    let ada = parse_owner("ada").unwrap();
    let note = "for the launch".to_owned();
    reserve_name(&store, name("calc"), Some(ada), note, NOW).await.unwrap();
    assert!(matches!(claim(&store, "calc", "sub:bob", NOW).await, Err(ClaimError::Kept(_))));
    claim(&store, "calc", "sub:ada", NOW).await.unwrap();
    let released = release_name(&store, name("calc"), DAY, NOW).await.unwrap();
    assert_eq!(released, Released::Rule);
    assert!(matches!(claim(&store, "calc", "sub:bob", NOW).await, Err(ClaimError::Taken(_))));
    let released = release_name(&store, name("calc"), DAY, NOW + 1).await.unwrap();
    let cooling_until = NOW + 1 + DAY.as_secs();
    assert_eq!(released, Released::Owner { owner: "sub:ada".to_owned(), cooling_until });
    let early = claim(&store, "calc", "sub:ada", cooling_until - 1).await;
    assert!(matches!(early, Err(ClaimError::Cooling { .. })));
    assert_eq!(claim(&store, "calc", "sub:bob", cooling_until).await.unwrap(), 2);
    assert_eq!(
        trail(&store).await,
        [
            "name.release calc taken from sub:ada",
            "name.release calc ",
            "name.reserve calc for sub:ada"
        ]
    );
}

#[tokio::test]
async fn what_nobody_has_cannot_be_released() {
    let store = MemoryStore::new();
    let error = release_name(&store, name("calc"), DAY, NOW).await.unwrap_err();
    assert!(matches!(error, OperatorError::NothingToRelease(_)));
    claim(&store, "calc", "sub:ada", NOW).await.unwrap();
    release_name(&store, name("calc"), DAY, NOW).await.unwrap();
    // A name that cools off is free at once when it is released again.
    assert_eq!(release_name(&store, name("calc"), DAY, NOW).await.unwrap(), Released::Rule);
    claim(&store, "calc", "sub:bob", NOW).await.unwrap();
}

#[tokio::test]
async fn the_list_of_names_says_who_has_what_and_why() {
    let store = MemoryStore::new();
    claim(&store, "live", "sub:ada", NOW).await.unwrap();
    claim(&store, "gone", "sub:ada", NOW).await.unwrap();
    store.release(&name("gone"), "sub:ada", 1, NOW).await.unwrap();
    claim(&store, "bad", "sub:eve", NOW).await.unwrap();
    block_name(&store, name("bad"), "phishing".to_owned(), NOW).await.unwrap();
    claim(&store, "old", "sub:ada", NOW).await.unwrap();
    release_name(&store, name("old"), DAY, NOW).await.unwrap();
    reserve_name(&store, name("ours"), None, String::new(), NOW).await.unwrap();
    let names = names(&store, NOW).await.unwrap();
    let seen: Vec<_> = names.iter().map(|it| (it.name.as_str(), it.state)).collect();
    let expected = [
        ("bad", "blocked"),
        ("gone", "kept"),
        ("live", "live"),
        ("old", "cooling"),
        ("ours", "reserved"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(names[0].rule.as_ref().unwrap().note, "phishing");
    assert_eq!(names[0].lease.as_ref().unwrap().owner, "sub:eve");
    assert_eq!(names[3].lease, None);
}

#[tokio::test]
async fn owners_are_counted_with_what_they_were_granted() {
    let store = MemoryStore::new();
    claim(&store, "a", "sub:ada", NOW).await.unwrap();
    claim(&store, "b", "sub:ada", NOW).await.unwrap();
    store.release(&name("b"), "sub:ada", 1, NOW).await.unwrap();
    let (ada, bob) = (parse_owner("ada").unwrap(), parse_owner("bob").unwrap());
    let shares = |max| QuotaChange { max_shares: Change::replacing(max), ..QuotaChange::default() };
    set_quota(&store, &bob, shares(Some(1)), NOW).await.unwrap();
    set_quota(&store, &ada, shares(Some(7)), NOW).await.unwrap();
    set_quota(&store, &ada, shares(None), NOW).await.unwrap();
    let owners = owners(&store, NOW).await.unwrap();
    let seen: Vec<_> = owners.iter().map(|it| (it.owner.as_str(), it.live, it.names)).collect();
    assert_eq!(seen, [("sub:ada", 1, 2), ("sub:bob", 0, 0)]);
    assert_eq!((owners[0].max_shares, owners[1].max_shares), (None, Some(1)));
    assert_eq!(trail(&store).await[0], "owner.quota sub:ada default");
}
