//! A certificate from PEM files that somebody else renews, such as certbot.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;

use super::status::LastLook;
use super::{CertError, CertSource, Current, certified};

/// Certificate chain and key in two PEM files, read again when either changes.
#[derive(Debug)]
pub struct CertFiles {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
    read_at: Mutex<Stamp>,
    last_look: LastLook,
}

/// When the files were written, as far as the file system tells.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl CertFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// Fails when they cannot be read, are not PEM, or do not fit together.
    pub fn open(cert: &Path, key: &Path) -> Result<Self, CertError> {
        let read_at = stamp(cert, key);
        let current = Current::new(read(cert, key)?);
        Ok(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            current,
            read_at: Mutex::new(read_at),
            last_look: LastLook::default(),
        })
    }
}

impl CertSource for CertFiles {
    fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.current) as _
    }

    fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.current.leaf()
    }

    fn refresh(&self) -> Result<bool, CertError> {
        self.last_look.note(self.look())
    }

    fn trouble(&self) -> Option<String> {
        self.last_look.trouble()
    }
}

impl CertFiles {
    /// Shows what is in the files, where they have changed.
    fn look(&self) -> Result<bool, CertError> {
        let mut read_at = self.read_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stamp = stamp(&self.cert, &self.key);
        if *read_at == stamp {
            return Ok(false);
        }
        // Of two files that are written one after the other, the pair may not fit yet: the stamp
        // is kept only when it does, so that the next look tries again.
        let fresh = read(&self.cert, &self.key)?;
        *read_at = stamp;
        let old = self.current.leaf();
        self.current.show(fresh);
        Ok(old != self.current.leaf())
    }
}

fn stamp(cert: &Path, key: &Path) -> Stamp {
    [cert, key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(cert: &Path, key: &Path) -> Result<CertifiedKey, CertError> {
    let text = |path: &Path| {
        std::fs::read(path)
            .map(zeroize::Zeroizing::new)
            .map_err(|source| CertError::Read { path: path.to_owned(), source })
    };
    let not_pem = |path: &Path, wanted| {
        let path = path.to_owned();
        move |source| CertError::Pem { path, wanted, source }
    };
    let chain = CertificateDer::pem_slice_iter(&text(cert)?)
        .collect::<Result<Vec<_>, _>>()
        .and_then(|chain| match chain.is_empty() {
            true => Err(rustls::pki_types::pem::Error::NoItemsFound),
            false => Ok(chain),
        })
        .map_err(not_pem(cert, "certificate"))?;
    let private =
        PrivateKeyDer::from_pem_slice(&text(key)?).map_err(not_pem(key, "private key"))?;
    certified(chain, private)
}

#[cfg(test)]
mod tests {
    use mcpm_shared::token::Digest;

    use super::*;
    use crate::cert::CertStatus;

    /// Writes a new pair; returns the fingerprint of its certificate.
    fn write_pair(dir: &Path, cert: bool, key: bool) -> Digest {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        if cert {
            std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
        }
        if key {
            std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        }
        Digest::of(made.cert.der())
    }

    fn open(dir: &Path) -> Result<CertFiles, CertError> {
        CertFiles::open(&dir.join("cert.pem"), &dir.join("key.pem"))
    }

    #[test]
    fn a_renewed_certificate_is_shown_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = write_pair(dir.path(), true, true);
        let files = open(dir.path()).unwrap();
        assert_eq!(files.fingerprint().unwrap(), first);
        assert!(!files.refresh().unwrap());
        let second = write_pair(dir.path(), true, true);
        // As if it took a while: file systems may count time in seconds.
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        for file in ["cert.pem", "key.pem"] {
            let file = std::fs::File::options().append(true).open(dir.path().join(file)).unwrap();
            file.set_modified(later).unwrap();
        }
        assert!(files.refresh().unwrap());
        assert_eq!(files.fingerprint().unwrap(), second);
    }

    #[test]
    fn a_pair_that_does_not_fit_leaves_the_old_one_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let first = write_pair(dir.path(), true, true);
        let files = open(dir.path()).unwrap();
        write_pair(dir.path(), true, false);
        let cert = std::fs::File::options().append(true).open(dir.path().join("cert.pem")).unwrap();
        cert.set_modified(SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
        assert!(matches!(files.refresh(), Err(CertError::Unusable(_))));
        assert!(matches!(files.refresh(), Err(CertError::Unusable(_))), "it tries again");
        assert_eq!(files.fingerprint().unwrap(), first);
        let problem = CertStatus::of(&files).problem.unwrap();
        assert!(problem.contains("cannot be used together"), "{problem}");
        let second = write_pair(dir.path(), true, true);
        let cert = std::fs::File::options().append(true).open(dir.path().join("cert.pem")).unwrap();
        cert.set_modified(SystemTime::now() + std::time::Duration::from_secs(9)).unwrap();
        assert!(files.refresh().unwrap());
        assert_eq!((files.fingerprint().unwrap(), CertStatus::of(&files).problem), (second, None));
    }

    #[test]
    fn each_file_is_named_when_it_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open(dir.path()), Err(CertError::Read { .. })));
        write_pair(dir.path(), true, true);
        std::fs::write(dir.path().join("key.pem"), "nothing").unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("key.pem holds no private key in PEM form"), "{error}");
        std::fs::write(dir.path().join("cert.pem"), "nothing").unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("cert.pem holds no certificate in PEM form"), "{error}");
    }
}
