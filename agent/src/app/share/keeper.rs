//! Keeps what the relay says about a share for the next run, beside the share: whoever holds the
//! lock over its file delays neither visitors nor signals nor revocations.

use std::time::Duration;

use mcpm_shared::scope::Scope;
use tokio::sync::{mpsc, watch};

use super::ShareEvent;
use super::error::in_full;
use crate::credentials::{CredentialError, ShareFile};
use crate::tunnel::ShareInfo;

/// How long the end of the share waits for the last words to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Does file work on a thread that may be blocked.
///
/// Cancel-safe in the sense that the work is done to its end, unseen.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Work is cancelled only by a runtime that ends, which polls nobody any more.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Writes to the file of one share, one after the other, until it is dropped.
#[derive(Debug)]
pub(super) struct Keeper(watch::Sender<Option<ShareInfo>>);

impl Keeper {
    /// Starts the task; that something cannot be kept is told as a warning.
    pub(super) fn start(file: ShareFile, events: mpsc::Sender<ShareEvent>, scope: &Scope) -> Self {
        let (sender, said) = watch::channel(None);
        scope.spawn(keep_all(file, said, events, scope.clone()));
        Self(sender)
    }

    /// Keeps what the relay said, without waiting. Of what comes fast only the last is written.
    pub(super) fn keep(&self, info: &ShareInfo) {
        self.0.send_replace(Some(info.clone()));
    }
}

async fn keep_all(
    file: ShareFile,
    mut said: watch::Receiver<Option<ShareInfo>>,
    events: mpsc::Sender<ShareEvent>,
    scope: Scope,
) {
    // What was said before the sender went is still seen.
    while said.changed().await.is_ok() {
        let Some(info) = said.borrow_and_update().clone() else { continue };
        let file = file.clone();
        let written = off_thread(move || write(&file, &info));
        let last_words = async {
            scope.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        let written = tokio::select! {
            written = written => written,
            () = last_words => return,
        };
        if let Err(error) = written {
            // Nobody listening is no reason to stop keeping.
            let _nobody = events.send(ShareEvent::Warning(in_full(&error))).await;
        }
    }
}

/// Writes what the relay said into the record of the share.
pub(super) fn write(file: &ShareFile, info: &ShareInfo) -> Result<(), CredentialError> {
    file.update(|record| {
        record.url = Some(info.url.clone());
        record.ticket.clone_from(&info.ticket);
        record.generation = Some(info.generation);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::share::Access;
    use crate::app::share::access::Keyring;
    use crate::credentials::ShareTarget;
    use crate::fs::{self, Paths};

    fn info(generation: u64) -> ShareInfo {
        ShareInfo {
            name: "time-abc".parse().unwrap(),
            url: "https://u".to_owned(),
            generation,
            ticket: Some(format!("ticket {generation}")),
            expires_at: None,
            relay: "https://r.example".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_held_lock_delays_neither_the_share_nor_a_revocation() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let target = ShareTarget::Server("time".to_owned());
        let ShareInfo { name, relay, .. } = info(1);
        let mut keyring = Keyring::open(&paths, name, &relay, &target, Access::Token).unwrap();
        let path = paths.shares().join("time-abc@r.example.json");
        let (events, _inbox) = mpsc::channel(1);
        let scope = Scope::new();
        let keeper = Keeper::start(keyring.file().clone(), events, &scope);

        let held = fs::lock(&path).unwrap();
        keeper.keep(&info(1));
        // What an editor does that knows of no lock.
        let text = std::fs::read_to_string(&path).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record["tokens"] = serde_json::json!([]);
        fs::write_json(&path, &record).unwrap();
        assert!(keyring.refresh().await.unwrap().unwrap().tokens.is_empty());

        keeper.keep(&info(2));
        drop(held);
        drop(keeper);
        assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
        let kept = keyring.file().read().unwrap().unwrap();
        assert_eq!(kept.ticket.as_deref(), Some("ticket 2"));
        assert!(kept.tokens.is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let file = ShareFile::new(&paths, &info(1).name, "https://r.example");
        let (events, mut inbox) = mpsc::channel(1);
        let scope = Scope::new();
        let keeper = Keeper::start(file, events, &scope);
        keeper.keep(&info(1));
        let Some(ShareEvent::Warning(text)) = inbox.recv().await else { panic!("no warning") };
        assert!(text.contains("no share named"), "{text}");
    }
}
