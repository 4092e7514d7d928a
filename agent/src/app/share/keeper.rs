//! Keeps what the relay says about shares for the next run, beside the shares: whoever holds the
//! lock over a file delays neither visitors nor signals nor revocations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mcpm_shared::scope::Scope;
use tokio::sync::{mpsc, watch};

use super::ShareEvent;
use super::access::FileName;
use super::clerks::Clerks;
use super::error::in_full;
use crate::credentials::{CredentialError, ShareFile};
use crate::tunnel::{ShareInfo, TunnelStatus};

/// How long the end of the share waits for the last words to be written.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the relay said of shares and nobody has written yet: of each the last word, and its file.
///
/// As shared pointers: hundreds of shares come up faster than their files are written.
type Said = Arc<Mutex<BTreeMap<usize, (FileName, Arc<TunnelStatus>)>>>;

/// Writes to the files of shares, one after the other, until it is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    said: Said,
    wake: watch::Sender<()>,
}

impl Keeper {
    /// Starts the task; that something cannot be kept is told as a warning.
    pub(super) fn start(events: mpsc::Sender<(usize, ShareEvent)>, scope: &Scope) -> Self {
        let (wake, woken) = watch::channel(());
        let said = Said::default();
        scope.spawn(keep_all(Arc::clone(&said), woken, events, scope.clone()));
        Self { said, wake }
    }

    /// Keeps what the relay said of the share number `at`, without waiting. Of what comes fast only
    /// the last is written. A status other than `Up` has nothing for the next run.
    pub(super) fn keep(&self, at: usize, file_name: &FileName, status: Arc<TunnelStatus>) {
        if !matches!(*status, TunnelStatus::Up(_)) {
            return;
        }
        let word = (file_name.clone(), status);
        self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(at, word);
        self.wake.send_replace(());
    }
}

async fn keep_all(
    said: Said,
    mut woken: watch::Receiver<()>,
    events: mpsc::Sender<(usize, ShareEvent)>,
    scope: Scope,
) {
    let clerk = Clerks::new(1);
    let next = || said.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
    // What was said before the sender went is still seen.
    while woken.changed().await.is_ok() {
        while let Some((at, (file_name, status))) = next() {
            let work = move || match &*status {
                TunnelStatus::Up(info) => write(&file_name.file(), info),
                _ => Ok(()),
            };
            let written = clerk.run(work);
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
                let _nobody = events.send((at, ShareEvent::Warning(in_full(&error)))).await;
            }
        }
    }
}

/// Writes what the relay said into the record of the share.
pub(super) fn write(file: &ShareFile, info: &ShareInfo) -> Result<(), CredentialError> {
    file.update(|record| {
        record.url = Some(info.url.clone());
        record.ticket = info.ticket.as_deref().map(str::to_owned);
        record.generation = Some(info.generation);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::share::Access;
    use crate::app::share::access::{Folder, Keyring};
    use crate::credentials::ShareTarget;
    use crate::fs::{self, Paths};

    fn info(generation: u64) -> ShareInfo {
        ShareInfo {
            name: "time-abc".parse().unwrap(),
            url: "https://u".to_owned(),
            generation,
            ticket: Some(format!("ticket {generation}").into()),
            expires_at: None,
            relay: "https://r.example".into(),
        }
    }

    fn keyring(paths: &Paths) -> Keyring {
        let (ShareInfo { name, relay, .. }, target) =
            (info(1), ShareTarget::Server("time".to_owned()));
        Keyring::open(paths, name, &relay, &target, Access::Token).unwrap()
    }

    fn up(generation: u64) -> Arc<TunnelStatus> {
        Arc::new(TunnelStatus::Up(info(generation)))
    }

    #[tokio::test]
    async fn a_held_lock_delays_neither_the_share_nor_a_revocation() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let mut keyring = keyring(&paths);
        let path = paths.shares().join("time-abc@r.example.json");
        let (events, _inbox) = mpsc::channel(1);
        let scope = Scope::new();
        let keeper = Keeper::start(events, &scope);

        let held = fs::lock(&path).unwrap();
        keeper.keep(0, keyring.file_name(), up(1));
        // What an editor does that knows of no lock.
        let text = std::fs::read_to_string(&path).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record["tokens"] = serde_json::json!([]);
        fs::write_json(&path, &record).unwrap();
        assert!(keyring.refresh().await.unwrap().unwrap().tokens.is_empty());

        keeper.keep(0, keyring.file_name(), up(2));
        drop(held);
        drop(keeper);
        assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
        let kept = keyring.file_name().file().read().unwrap().unwrap();
        assert_eq!(kept.ticket.as_deref(), Some("ticket 2"));
        assert!(kept.tokens.is_empty());
    }

    #[tokio::test]
    async fn what_is_said_of_a_share_that_is_not_up_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let keyring = keyring(&paths);
        let (events, _inbox) = mpsc::channel(1);
        let scope = Scope::new();
        let keeper = Keeper::start(events, &scope);
        keeper.keep(0, keyring.file_name(), up(1));
        keeper.keep(0, keyring.file_name(), Arc::new(TunnelStatus::Connecting { attempt: 1 }));
        drop(keeper);
        assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
        let kept = keyring.file_name().file().read().unwrap().unwrap();
        assert_eq!(kept.ticket.as_deref(), Some("ticket 1"));
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(Paths::new(dir.path()), "https://r.example".to_owned());
        let file_name = FileName::new(info(1).name, folder.into());
        let (events, mut inbox) = mpsc::channel(1);
        let scope = Scope::new();
        let keeper = Keeper::start(events, &scope);
        keeper.keep(7, &file_name, up(1));
        let Some((7, ShareEvent::Warning(text))) = inbox.recv().await else { panic!("no warning") };
        assert!(text.contains("no share named"), "{text}");
    }
}
