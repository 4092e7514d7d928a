//! What holds for a file of SQLite beside the contract.

use mcpm_shared::proto::ShareMode;

use super::*;

async fn open_in(dir: &tempfile::TempDir) -> SqlStore {
    SqlStore::open(&dir.path().join("relay.db")).await.unwrap()
}

#[tokio::test]
async fn the_sqlite_store_keeps_the_contract() {
    let dirs = std::cell::RefCell::new(Vec::new());
    super::super::contract::check(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.db");
        dirs.borrow_mut().push(dir);
        async move { SqlStore::open(&path).await.unwrap() }
    })
    .await;
}

#[tokio::test]
async fn leases_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let calc: Name = "calc".parse().unwrap();
    let claim = Claim {
        name: calc.clone(),
        owner: "ada".to_owned(),
        node: "main".to_owned(),
        mode: ShareMode::Mcp,
        floor_generation: 0,
        now: 1,
        expires_at: None,
        keep_secs: 1,
        max_live: 1,
    };
    let store = open_in(&dir).await;
    let lease = store.claim(claim).await.unwrap();
    store.close().await;
    assert_eq!(open_in(&dir).await.lease(&calc).await.unwrap(), Some(lease));
}

#[tokio::test]
async fn another_process_sees_a_revocation_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (serving, operator) = (open_in(&dir).await, open_in(&dir).await);
    let token = TokenRecord {
        jti: "t1".to_owned(),
        subject: "ada".to_owned(),
        names: vec!["*".to_owned()],
        max_shares: None,
        bound_to: None,
        issued_at: 1,
        expires_at: 10,
        revoked_at: None,
    };
    operator.insert_token(token).await.unwrap();
    assert!(operator.revoke_token("t1", 2).await.unwrap());
    assert_eq!(serving.revoked(2).await.unwrap(), ["t1"]);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.db");
    std::fs::write(&path, "no database at all").unwrap();
    let error = SqlStore::open(&path).await.unwrap_err();
    assert_eq!(error.to_string(), "the relay's database failed to open its file");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "no database at all");
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_and_its_side_files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let store = open_in(&dir).await;
    store.revoke_token("none", 1).await.unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
        seen += 1;
    }
    assert!(seen >= 1);
}
