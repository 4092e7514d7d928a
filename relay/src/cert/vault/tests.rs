use std::path::Path;

use super::*;
use crate::store::MemoryStore;

async fn in_files(dir: &Path, key: u8) -> Vault {
    let place = Place::Files { dir: dir.join("acme"), store: Arc::new(MemoryStore::new()) };
    Vault::open(place, &[key; 32], "main").await.unwrap()
}

async fn in_rows(store: &Arc<MemoryStore>, files: Option<&Path>, key: u8) -> Vault {
    let files = files.map(|dir| dir.join("acme"));
    let place = Place::Rows { store: Arc::clone(store) as _, files };
    Vault::open(place, &[key; 32], "main").await.unwrap()
}

#[tokio::test]
async fn what_is_kept_can_be_read_again_with_the_same_key_only() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    for rows in [false, true] {
        let open = async |key| match rows {
            true => in_rows(&store, None, key).await,
            false => in_files(dir.path(), key).await,
        };
        let vault = open(1).await;
        assert!(vault.load("account").await.unwrap().is_none());
        vault.save("account", b"the account's key").await.unwrap();
        vault.save("account", b"the account's new key").await.unwrap();
        let kept = vault.load("account").await.unwrap().unwrap();
        assert_eq!(kept.as_slice(), b"the account's new key");
        let error = open(2).await.load("account").await.unwrap_err();
        assert!(matches!(error, CertError::Sealed(_) | CertError::SealedRow(_)), "{error}");
        vault.forget("account").await.unwrap();
        vault.forget("account").await.unwrap();
        assert!(vault.load("account").await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_sealed_file_tells_nothing_and_cannot_be_moved_or_changed() {
    let dir = tempfile::tempdir().unwrap();
    let vault = in_files(dir.path(), 1).await;
    vault.save("a", b"a secret of some length").await.unwrap();
    let path = dir.path().join("acme/a");
    let mut sealed = std::fs::read(&path).unwrap();
    assert!(!sealed.windows(6).any(|window| window == b"secret"));
    std::fs::copy(&path, dir.path().join("acme/b")).unwrap();
    assert!(matches!(vault.load("b").await, Err(CertError::Sealed(_))));
    *sealed.last_mut().unwrap() ^= 1;
    std::fs::write(&path, sealed).unwrap();
    assert!(matches!(vault.load("a").await, Err(CertError::Sealed(_))));
    for broken in [&b""[..], b"mcpm-sealed/1\nshort", b"plain text that was never sealed"] {
        std::fs::write(&path, broken).unwrap();
        assert!(matches!(vault.load("a").await, Err(CertError::Sealed(_))));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_row_tells_nothing_and_cannot_be_put_in_the_place_of_another() {
    let store = Arc::new(MemoryStore::new());
    let vault = in_rows(&store, None, 1).await;
    vault.save("a", b"a secret of some length").await.unwrap();
    let row = store.sealed("a").await.unwrap().unwrap().sealed;
    let bytes = STANDARD.decode(&row).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
    store.keep_sealed("b", &row, 1).await.unwrap();
    assert!(matches!(vault.load("b").await, Err(CertError::SealedRow(_))));
    let changes = vault.changes(0).await.unwrap();
    let opened: Vec<_> = changes.iter().map(|it| (it.name.as_str(), it.plain.is_some())).collect();
    assert_eq!(opened, [("a", true), ("b", false)]);
    assert!(vault.changes(2).await.unwrap().is_empty());
}

#[tokio::test]
async fn files_of_an_earlier_version_move_into_the_database_once() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let old = in_files(dir.path(), 1).await;
    old.save("account-x", b"account").await.unwrap();
    old.save("certificate-a.example-x", b"old certificate").await.unwrap();
    in_files(dir.path(), 2).await.save("certificate-b.example-x", b"foreign").await.unwrap();
    std::fs::write(dir.path().join("acme/notes.txt"), "not ours").unwrap();
    let first = in_rows(&store, None, 1).await;
    first.save("certificate-a.example-x", b"newer certificate").await.unwrap();

    let vault = in_rows(&store, Some(dir.path()), 1).await;
    assert_eq!(vault.load("account-x").await.unwrap().unwrap().as_slice(), b"account");
    let kept = vault.load("certificate-a.example-x").await.unwrap().unwrap();
    assert_eq!(kept.as_slice(), b"newer certificate", "what is in the database stands");
    assert!(vault.load("certificate-b.example-x").await.unwrap().is_none());
    let left = std::fs::read_dir(dir.path().join("acme")).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["certificate-b.example-x", "notes.txt"]);
}

#[tokio::test(start_paused = true)]
async fn one_process_at_a_time_does_what_is_done_once() {
    let store = Arc::new(MemoryStore::new());
    let (one, two) = (in_rows(&store, None, 1).await, in_rows(&store, None, 1).await);
    let long = tokio::time::sleep(TURN * 3);
    let (first, second) = tokio::join!(one.in_turn("order", long), async {
        tokio::time::sleep(TURN).await;
        two.in_turn("order", async { unreachable!("it is another's turn") }).await
    });
    assert_eq!((first.unwrap(), second.unwrap()), (Some(()), None));
    assert_eq!(two.in_turn("order", async { 7 }).await.unwrap(), Some(7));
}
