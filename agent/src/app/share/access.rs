//! The credentials of one share while it runs: made on first use, kept, and watched for changes.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mcpm_shared::access::AccessPolicy;
use mcpm_shared::name::Name;
use mcpm_shared::token::Token;

use super::Access;
use super::clerks::off_thread;
use super::error::in_full;
use super::keeper::LAST_WORDS;
use crate::credentials::{
    CredentialError, NewToken, ShareFile, ShareFolder, ShareRecord, ShareTarget, Version,
};
use crate::fs::Paths;

/// Where the files of the shares at one relay are. Held in common: a path of each would take some 90 bytes.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) paths: Paths,
    /// The relay's origin.
    pub(super) relay: String,
    files: ShareFolder,
}

impl Folder {
    pub(super) fn new(paths: Paths, relay: String) -> Self {
        let files = ShareFolder::new(&paths, &relay);
        Self { paths, relay, files }
    }
}

/// Which file is that of a share.
#[derive(Clone, Debug)]
pub(super) struct FileName {
    name: Name,
    folder: Arc<Folder>,
}

impl FileName {
    pub(super) fn new(name: Name, folder: Arc<Folder>) -> Self {
        Self { name, folder }
    }

    /// Returns the file.
    pub(super) fn file(&self) -> ShareFile {
        self.folder.files.file(&self.name)
    }

    /// Returns the same with a name in memory of its own.
    fn copied(&self) -> Self {
        Self { name: self.name.copied(), folder: Arc::clone(&self.folder) }
    }
}

/// The credentials of one running share. There may be hundreds in a process, so it holds of the record what is needed again.
#[derive(Debug)]
pub(super) struct Keyring {
    file_name: FileName,
    access: Access,
    /// The version that was read last; none before the first look, since somebody may have changed
    /// the file right after it was opened.
    version: Option<Version>,
    keys: Keys,
}

/// A keyring that was just opened, and what is needed of it only until the share is up.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) keyring: Keyring,
    /// The version that this run made of a file that was not there.
    pub(super) made: Option<Version>,
    /// The relay's ticket of the last run.
    pub(super) ticket: Option<String>,
}

/// What lets visitors in.
#[derive(Debug, Default, PartialEq)]
struct Keys {
    policy: Arc<AccessPolicy>,
    /// The owner's token, where it is shown.
    own: Option<Token>,
    /// The secret of the link, where it is on. Boxed: few have one.
    link: Option<Box<Token>>,
}

impl Keys {
    fn of(record: &ShareRecord, access: Access) -> Self {
        if access == Access::Public {
            let policy = Arc::new(AccessPolicy::public());
            return Self { policy, ..Self::default() };
        }
        let with_link = access == Access::Link;
        let policy = Arc::new(record.policy(with_link));
        let own = record.own_token().map(|own| own.token.clone());
        Self { policy, own, link: record.link.clone().filter(|_| with_link).map(Box::new) }
    }
}

/// What the file of a share holds now that it is opened.
pub(super) struct Found {
    file_name: FileName,
    access: Access,
    record: ShareRecord,
    made: Option<Version>,
}

impl Found {
    /// Reads what earlier runs kept, and makes the token or link that this run needs. To be run where it may block.
    pub(super) fn open(
        file_name: FileName,
        target: &ShareTarget,
        access: Access,
    ) -> Result<Self, CredentialError> {
        let ((record, is_new), version) = file_name.file().edit_versioned(|record| {
            let is_new = record.is_none();
            let mut record = match record {
                Some(record) if record.target != *target => {
                    // Tokens that were given out for one thing must not open another.
                    return Err(CredentialError::NameInUse {
                        name: file_name.name.to_string(),
                        target: record.target,
                    });
                }
                // A file may have been renamed by hand.
                Some(record) => ShareRecord { name: file_name.name.clone(), ..record },
                None => ShareRecord::new(
                    file_name.name.clone(),
                    &file_name.folder.relay,
                    target.clone(),
                ),
            };
            // What was given to somebody else, or for some time, is not for showing again.
            if access != Access::Public && record.own_token().is_none() {
                record.add_token(NewToken::default(), unix_now());
            }
            if access == Access::Link && record.link.is_none() {
                record.link = Some(Token::generate());
            }
            Ok((record.clone(), (record, is_new)))
        })?;
        Ok(Self { file_name, access, record, made: is_new.then_some(version) })
    }
}

impl Fresh {
    /// Takes what was found, as copies: what a thread made that ends soon keeps a part of its heap for as long as the share.
    pub(super) fn of(found: &Found) -> Self {
        let Found { file_name, access, record, made } = found;
        let keyring = Keyring {
            file_name: file_name.copied(),
            access: *access,
            version: None,
            keys: Keys::of(record, *access),
        };
        Self { keyring, made: *made, ticket: record.ticket.clone() }
    }

    /// Forgets a share that is not to be.
    pub(super) async fn forget(self) {
        self.keyring.forget(self.made).await;
    }
}

impl Keyring {
    /// Opens the credentials at once.
    #[cfg(test)]
    pub(super) fn open(
        paths: &Paths,
        name: Name,
        relay: &str,
        target: &ShareTarget,
        access: Access,
    ) -> Result<Self, CredentialError> {
        let folder = Folder::new(paths.clone(), relay.to_owned());
        let file_name = FileName::new(name, folder.into());
        Ok(Fresh::of(&Found::open(file_name, target, access)?).keyring)
    }

    /// Forgets a share that never came up: nobody was shown what opens it. `made` is the version that this
    /// run made, none where the file was there before. One that somebody else has opened or changed meanwhile
    /// stays.
    pub(super) async fn forget(self, made: Option<Version>) {
        let Some(made) = made else { return };
        let file = self.file_name.file();
        let forgotten = off_thread(move || file.forget(made));
        // Whoever holds the lock does not keep the others from ending.
        if let Ok(Err(error)) = tokio::time::timeout(LAST_WORDS, forgotten).await {
            tracing::warn!(error = in_full(&error), "share not forgotten");
        }
    }

    /// Returns the name of the share.
    pub(super) fn name(&self) -> &Name {
        &self.file_name.name
    }

    /// Returns the policy as it stands.
    pub(super) fn policy(&self) -> Arc<AccessPolicy> {
        Arc::clone(&self.keys.policy)
    }

    /// Returns the owner's token, to show it; none for a public share.
    pub(super) fn token(&self) -> Option<Token> {
        self.keys.own.clone()
    }

    /// Returns `url` with the link secret, when the link is on.
    pub(super) fn link(&self, url: &str) -> Option<String> {
        let secret = self.keys.link.as_ref()?;
        Some(format!("{url}?s={}", secret.expose()))
    }

    /// Tells which file it is, for writing beside the share.
    pub(super) fn file_name(&self) -> &FileName {
        &self.file_name
    }

    /// Returns the file and what is known of it, for a look.
    pub(super) fn watched(&self) -> Watched {
        // Never the version after a write of ours: somebody may have revoked a token just before
        // we wrote, and the next look must see it.
        Watched { file_name: self.file_name.clone(), seen: self.version }
    }

    /// Takes what a look found; returns the policy if it changed since.
    ///
    /// A file that went away or turned corrupt lets nobody in: whoever removed it wants that. A public share stays public.
    pub(super) fn take(
        &mut self,
        Look(version, read): Look,
    ) -> Option<Result<Arc<AccessPolicy>, CredentialError>> {
        self.version = Some(version);
        let (keys, failed) = match read {
            Ok(Some(record)) => (Keys::of(&record, self.access), None),
            // Public is what was asked for, whatever the file says.
            read if self.access == Access::Public => {
                return read.err().map(Err);
            }
            read => (Keys::default(), read.err()),
        };
        let other_policy = keys.policy != self.keys.policy;
        // The first look nearly always finds the same. The tunnel holds the policy that is there, so another
        // would be a second copy for good.
        if keys != self.keys {
            self.keys = keys;
        }
        match failed {
            Some(error) => Some(Err(error)),
            None => other_policy.then(|| Ok(self.policy())),
        }
    }

    /// Looks at the file again, off the thread.
    #[cfg(test)]
    pub(super) async fn refresh(&mut self) -> Option<Result<Arc<AccessPolicy>, CredentialError>> {
        let watched = self.watched();
        let look = off_thread(move || watched.look()).await?;
        self.take(look)
    }
}

/// The file of a share, and the version of it that is known.
#[derive(Debug)]
pub(super) struct Watched {
    file_name: FileName,
    seen: Option<Version>,
}

impl Watched {
    /// Looks whether the file has changed. To be run where it may block.
    pub(super) fn look(self) -> Option<Look> {
        let file = self.file_name.file();
        let version = file.version();
        (Some(version) != self.seen).then(|| Look(version, file.read()))
    }
}

/// A file that may have changed: its version, and what it holds.
#[derive(Debug)]
pub(super) struct Look(Version, Result<Option<ShareRecord>, CredentialError>);

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::ShareInfo;

    fn open(paths: &Paths, access: Access) -> Keyring {
        let target = ShareTarget::Server("time".to_owned());
        Keyring::open(paths, "time-abc".parse().unwrap(), "https://r.example", &target, access)
            .unwrap()
    }

    #[test]
    fn the_token_is_made_once_and_shown_again() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let first = open(&paths, Access::Token).token().unwrap();
        assert_eq!(open(&paths, Access::Token).token().unwrap(), first);
        assert!(open(&paths, Access::Public).token().is_none());
        assert!(open(&paths, Access::Token).link("https://u").is_none());
        let link = open(&paths, Access::Link).link("https://u").unwrap();
        assert_eq!(open(&paths, Access::Link).link("https://u").unwrap(), link);
    }

    #[tokio::test]
    async fn a_revocation_is_seen_at_the_next_look_even_when_we_wrote_in_between() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let mut keyring = open(&paths, Access::Token);
        assert!(keyring.refresh().await.is_none());
        let (file, record) = crate::credentials::find(&paths, "time", |_, _| {}).unwrap();
        file.update(|r| r.revoke_token(&record.tokens[0].id)).unwrap();
        let info = ShareInfo {
            name: "time-abc".parse().unwrap(),
            url: "https://u".to_owned(),
            generation: 1,
            ticket: Some("ticket".into()),
            expires_at: None,
            relay: "https://r.example".into(),
        };
        super::super::keeper::write(&file, &info).unwrap();
        assert!(keyring.refresh().await.unwrap().unwrap().tokens.is_empty());
        assert!(keyring.refresh().await.is_none());
        let kept = keyring.file_name().file().read().unwrap().unwrap();
        assert_eq!(kept.ticket.as_deref(), Some("ticket"));
    }

    #[tokio::test]
    async fn a_file_that_goes_away_or_turns_corrupt_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let path = paths.shares().join("time-abc@r.example.json");
        let mut keyring = open(&paths, Access::Link);
        std::fs::write(&path, "{").unwrap();
        assert!(keyring.refresh().await.unwrap().is_err());
        assert_eq!(*keyring.policy(), AccessPolicy::default());
        std::fs::remove_file(&path).unwrap();
        let mut keyring = open(&paths, Access::Link);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*keyring.refresh().await.unwrap().unwrap(), AccessPolicy::default());
    }

    #[tokio::test]
    async fn a_public_share_stays_public_whatever_becomes_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let path = paths.shares().join("time-abc@r.example.json");
        let mut keyring = open(&paths, Access::Public);
        std::fs::write(&path, "{").unwrap();
        assert!(keyring.refresh().await.unwrap().is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(keyring.refresh().await.is_none());
        assert!(keyring.policy().public);
    }

    #[test]
    fn a_file_that_was_renamed_by_hand_is_that_of_its_new_name() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let own = open(&paths, Access::Token).token().unwrap();
        let path = |name: &str| paths.shares().join(format!("{name}@r.example.json"));
        std::fs::rename(path("time-abc"), path("other")).unwrap();
        let (name, target): (Name, _) =
            ("other".parse().unwrap(), ShareTarget::Server("time".to_owned()));
        let keyring =
            Keyring::open(&paths, name.clone(), "https://r.example", &target, Access::Token);
        let keyring = keyring.unwrap();
        assert_eq!((keyring.name(), keyring.token()), (&name, Some(own)));
        assert_eq!(keyring.file_name().file().read().unwrap().unwrap().name, name);
        assert!(!path("time-abc").exists());
    }

    #[test]
    fn a_name_keeps_to_what_its_tokens_were_given_out_for() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        open(&paths, Access::Token);
        let other = ShareTarget::Profile("time".to_owned());
        let name: Name = "time-abc".parse().unwrap();
        let error = Keyring::open(&paths, name, "https://r.example", &other, Access::Token);
        assert!(matches!(error, Err(CredentialError::NameInUse { .. })));
    }

    #[test]
    fn a_token_that_was_given_to_somebody_is_never_shown_as_the_owners() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let own = open(&paths, Access::Token).token().unwrap();
        let (file, record) = crate::credentials::find(&paths, "time", |_, _| {}).unwrap();
        let bob = NewToken { label: Some("bob".to_owned()), expires_at: Some(u64::MAX) };
        let bob = file.update(|record| Ok(record.add_token(bob, 1).token.clone())).unwrap();
        file.update(|r| r.revoke_token(&record.tokens[0].id)).unwrap();
        let shown = open(&paths, Access::Token).token().unwrap();
        assert_ne!(shown, bob);
        assert_ne!(shown, own);
        assert_eq!(open(&paths, Access::Token).token().unwrap(), shown);
    }
}
