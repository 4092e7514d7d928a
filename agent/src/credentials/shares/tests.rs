use super::*;

fn record(name: &str, relay: &str, server: &str) -> ShareRecord {
    ShareRecord::new(name.parse().unwrap(), relay, ShareTarget::Server(server.to_owned()))
}

fn keep(paths: &Paths, record: &ShareRecord) -> ShareFile {
    let file = ShareFile::new(paths, &record.name, &record.relay);
    file.edit(|_| Ok((record.clone(), ()))).unwrap();
    file
}

#[test]
fn tokens_are_kept_and_a_revoked_one_leaves_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    let mut made = record("time-abc", "https://relay.example", "time");
    let id = made.add_token(NewToken::default(), 100).id.clone();
    let label = NewToken { label: Some("phone".to_owned()), expires_at: Some(200) };
    made.add_token(label, 100);
    let file = keep(&paths, &made);
    let kept = file.read().unwrap().unwrap();
    assert_eq!(kept.tokens[0].token, made.tokens[0].token);
    assert_eq!(kept.policy(false), made.policy(false));
    assert_eq!(kept.own_token().unwrap().id, id);

    let before = file.version();
    file.update(|record| record.revoke_token(&id)).unwrap();
    assert_ne!(file.version(), before);
    let kept = file.read().unwrap().unwrap();
    assert_eq!(kept.policy(false).tokens.len(), 1);
    assert!(kept.own_token().is_none());
    file.update(|record| record.revoke_token("phone")).unwrap();
    assert!(file.update(|record| record.revoke_token("phone")).is_err());
}

#[test]
fn a_share_is_found_by_full_name_name_or_server() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    keep(&paths, &record("time-abc", "https://a.example", "time"));
    keep(&paths, &record("time-abc", "http://127.0.0.1:80", "time"));
    keep(&paths, &record("notes-abc", "https://a.example", "notes"));
    let find = |asked: &str| find(&paths, asked, |_, error| panic!("{error}"));
    assert_eq!(find("notes").unwrap().1.name.as_str(), "notes-abc");
    assert_eq!(find("notes-abc").unwrap().1.name.as_str(), "notes-abc");
    let error = find("time").unwrap_err().to_string();
    assert!(error.contains("time-abc@a.example, time-abc@http://127.0.0.1:80"), "{error}");
    for relay in ["http://127.0.0.1:80", "127.0.0.1:80", "http+127.0.0.1%3a80"] {
        assert_eq!(find(&format!("time-abc@{relay}")).unwrap().1.relay, "http://127.0.0.1:80");
    }
    keep(&paths, &record("time-abc", "http://a.example", "time"));
    for (relay, origin) in
        [("a.example", "https://a.example"), ("http://a.example", "http://a.example")]
    {
        assert_eq!(find(&format!("time-abc@{relay}")).unwrap().1.relay, origin);
    }
    assert!(matches!(find("none"), Err(CredentialError::UnknownShare(_))));
}

#[test]
fn a_share_that_was_up_goes_before_those_that_never_were() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    keep(&paths, &record("time-abc", "https://mistyped.example", "time"));
    let url = Some("https://time-abc.a.example/mcp".to_owned());
    let up = ShareRecord { url, ..record("time-abc", "https://a.example", "time") };
    keep(&paths, &up);
    for asked in ["time", "time-abc"] {
        let found = find(&paths, asked, |_, error| panic!("{error}")).unwrap();
        assert_eq!(found.1.relay, "https://a.example", "{asked}");
    }
    // A share of this machine alone has no URL to keep, and was up all the same.
    keep(&paths, &record("time-abc", "local", "time"));
    let error = find(&paths, "time", |_, error| panic!("{error}")).unwrap_err();
    assert!(matches!(error, CredentialError::AmbiguousShare { found, .. } if found.len() == 2));
}

#[test]
fn a_file_is_forgotten_only_as_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    let made = record("time-abc", "https://a.example", "time");
    let file = ShareFile::new(&paths, &made.name, &made.relay);
    let ((), version) = file.edit_versioned(|_| Ok((made.clone(), ()))).unwrap();
    // Somebody else has opened the share, and changed nothing.
    let ((), later) = file.edit_versioned(|record| Ok((record.unwrap(), ()))).unwrap();
    file.forget(version).unwrap();
    assert!(file.read().unwrap().is_some());
    file.forget(later).unwrap();
    assert!(file.read().unwrap().is_none());
}

#[test]
fn shares_of_a_renamed_server_keep_their_names_and_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    let key = agent_key(&paths).unwrap();
    let own = Name::derived("time", &key.thumbprint()).to_string();
    let relay = "https://a.example";
    let mut usual = record(&own, relay, "time");
    usual.add_token(NewToken::default(), 1);
    keep(&paths, &usual);
    keep(&paths, &record("chosen", relay, "time"));
    keep(&paths, &record("notes-abc", relay, "notes"));
    let target = |name: &str| ShareTarget::Server(name.to_owned());
    let (time, clock) = (target("time"), target("clock"));
    let inherited =
        |target: &ShareTarget, relay: &str| inherited(&paths).unwrap().name(target, relay);
    assert_eq!(inherited(&time, relay), None);
    assert_eq!(retarget(&paths, &time, &clock).unwrap().len(), 2);
    // Only the name that nobody chose is that of later shares.
    assert_eq!(inherited(&clock, relay).unwrap().as_str(), own);
    assert_eq!(inherited(&clock, "https://b.example"), None);
    let kept = ShareFile::new(&paths, &usual.name, relay).read().unwrap().unwrap();
    assert_eq!(kept.tokens[0].token, usual.tokens[0].token);
    // Another rename, and a second of the same, which finds nothing to do.
    let watch = ShareTarget::Server("watch".to_owned());
    retarget(&paths, &clock, &watch).unwrap();
    assert!(retarget(&paths, &clock, &watch).unwrap().is_empty());
    assert_eq!(inherited(&watch, relay).unwrap().as_str(), own);
    let notes = find(&paths, "notes", |_, error| panic!("{error}")).unwrap().1;
    assert_eq!((notes.target.name(), notes.inherited), ("notes", false));
}

#[test]
fn what_is_gone_takes_the_tokens_of_its_shares_along_and_leaves_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    let mut time = record("time-abc", "https://a.example", "time");
    time.add_token(NewToken::default(), 1);
    time.link = Some(mcpm_shared::token::Token::generate());
    let mut notes = record("notes-abc", "https://a.example", "notes");
    notes.add_token(NewToken::default(), 1);
    let files = [keep(&paths, &time), keep(&paths, &notes)];
    keep(&paths, &record("closed", "https://a.example", "time"));
    assert_eq!(lock_out(&paths, &time.target).unwrap(), ["time-abc@a.example"]);
    let [left, other] = files.map(|file| file.read().unwrap().unwrap());
    assert!(left.tokens.is_empty() && left.link.is_none());
    assert_eq!((left.name, left.target), (time.name, time.target.clone()));
    assert_eq!(other.tokens.len(), 1);
    assert!(lock_out(&paths, &time.target).unwrap().is_empty());
}

#[test]
fn a_faulty_file_is_in_the_way_of_its_own_share_only() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    keep(&paths, &record("time-abc", "https://a.example", "time"));
    std::fs::write(paths.shares().join("notes-abc@a.example.json"), "{").unwrap();
    let find = |asked: &str| {
        let mut skipped = Vec::new();
        let found = find(&paths, asked, |file, _| skipped.push(file.full_name()));
        (found.map(|(_, record)| record.name.to_string()), skipped)
    };
    for (asked, skips) in [("time-abc@a.example", 0), ("time-abc", 0), ("time", 1)] {
        let (found, skipped) = find(asked);
        assert_eq!(found.unwrap(), "time-abc", "{asked}");
        assert_eq!(skipped.len(), skips, "{asked}");
    }
    for asked in ["notes-abc@a.example", "notes-abc"] {
        assert!(matches!(find(asked).0, Err(CredentialError::Fs(_))), "{asked}");
    }
    let (found, skipped) = find("notes");
    assert!(matches!(found, Err(CredentialError::UnknownShare(_))));
    assert_eq!(skipped, ["notes-abc@a.example"]);
    let listed = list(&paths).unwrap();
    assert!(listed[0].record.is_err() && listed[1].record.is_ok());
}
