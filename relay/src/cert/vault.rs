//! Files that only this relay can read: the account at an authority and the certificates' keys.
//!
//! Sealed with ChaCha20-Poly1305 under a key that is derived from the relay's own key file. The
//! name of a file is sealed with it, so that one file cannot be put in the place of another.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::CertError;

/// What a sealed file begins with.
const MAGIC: &[u8] = b"mcpm-sealed/1\n";

/// A directory of sealed files.
#[derive(Debug)]
pub(super) struct Vault {
    dir: PathBuf,
    key: LessSafeKey,
}

impl Vault {
    /// Opens a directory, which need not exist before the first file is kept.
    pub(super) fn new(dir: PathBuf, key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has 32 bytes");
        Self { dir, key: LessSafeKey::new(key) }
    }

    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// Fails when it cannot be read, or was sealed otherwise.
    pub(super) fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CertError> {
        let path = self.dir.join(name);
        let mut sealed = match std::fs::read(&path) {
            Ok(sealed) => Zeroizing::new(sealed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CertError::Read { path, source }),
        };
        let Some((nonce, text)) = sealed
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.split_first_chunk::<NONCE_LEN>())
            .map(|(nonce, text)| (*nonce, text.len()))
        else {
            return Err(CertError::Sealed(path));
        };
        let start = sealed.len() - text;
        let nonce = Nonce::assume_unique_for_key(nonce);
        match self.key.open_in_place(nonce, Aad::from(aad(name)), &mut sealed[start..]) {
            Ok(plain) => Ok(Some(Zeroizing::new(plain.to_vec()))),
            Err(_) => Err(CertError::Sealed(path)),
        }
    }

    /// Keeps a file, in place of the one before.
    ///
    /// # Errors
    /// Fails when it cannot be written; the one before stays.
    pub(super) fn save(&self, name: &str, plain: &[u8]) -> Result<(), CertError> {
        let path = self.dir.join(name);
        let sealed = self.seal(name, plain);
        std::fs::create_dir_all(&self.dir)
            .and_then(|()| replace(&path, &sealed))
            .map_err(|source| CertError::Write { path, source })
    }

    fn seal(&self, name: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        // Random nonces of 96 bits are good for more files than a relay ever writes.
        SystemRandom::new().fill(&mut nonce).expect("the system has random numbers");
        let mut text = Zeroizing::new(plain.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad(name)),
                text.as_mut_slice(),
            )
            .expect("the text is far below the cipher's bound");
        [MAGIC, &nonce, &text, tag.as_ref()].concat()
    }
}

fn aad(name: &str) -> Vec<u8> {
    [MAGIC, name.as_bytes()].concat()
}

/// Writes a private file that is whole from its first moment.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(draft);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_can_be_read_again_with_the_same_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::new(dir.path().join("acme"), &[1; 32]);
        assert!(vault.load("account").unwrap().is_none());
        vault.save("account", b"the account's key").unwrap();
        vault.save("account", b"the account's new key").unwrap();
        assert_eq!(vault.load("account").unwrap().unwrap().as_slice(), b"the account's new key");
        let other = Vault::new(dir.path().join("acme"), &[2; 32]);
        assert!(matches!(other.load("account"), Err(CertError::Sealed(_))));
    }

    #[test]
    fn a_sealed_file_tells_nothing_and_cannot_be_moved_or_changed() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::new(dir.path().to_owned(), &[1; 32]);
        vault.save("a", b"a secret of some length").unwrap();
        let path = dir.path().join("a");
        let mut sealed = std::fs::read(&path).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        std::fs::copy(&path, dir.path().join("b")).unwrap();
        assert!(matches!(vault.load("b"), Err(CertError::Sealed(_))));
        *sealed.last_mut().unwrap() ^= 1;
        std::fs::write(&path, sealed).unwrap();
        assert!(matches!(vault.load("a"), Err(CertError::Sealed(_))));
        for broken in [&b""[..], b"mcpm-sealed/1\nshort", b"plain text that was never sealed"] {
            std::fs::write(&path, broken).unwrap();
            assert!(matches!(vault.load("a"), Err(CertError::Sealed(_))));
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
