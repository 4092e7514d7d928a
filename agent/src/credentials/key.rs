//! The agent's own key, made once.

use mcpm_shared::identity::AgentKey;

use super::CredentialError;
use crate::fs::{self, Paths};

/// Returns the agent's key, making it when there is none.
///
/// Names of shares and ownership of them depend on it, so a faulty file is never replaced.
///
/// # Errors
/// When the file cannot be read, made, or holds no key.
pub fn agent_key(paths: &Paths) -> Result<AgentKey, CredentialError> {
    let path = paths.agent_key();
    let parse = |pem: String| {
        AgentKey::from_pem(&pem)
            .map_err(|source| CredentialError::Key { path: path.clone(), source })
    };
    if let Some(pem) = fs::read(&path)? {
        return parse(pem);
    }
    let _lock = fs::lock(&path)?;
    // Another agent may have made it while we waited.
    if let Some(pem) = fs::read(&path)? {
        return parse(pem);
    }
    let key = AgentKey::generate();
    fs::write_private(&path, key.to_pem().as_bytes())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint as _;

    #[test]
    fn the_key_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("mcpm"));
        let first = agent_key(&paths).unwrap().thumbprint();
        assert_eq!(agent_key(&paths).unwrap().thumbprint(), first);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(paths.agent_key()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn agents_that_start_together_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let prints: Vec<String> = std::thread::scope(|scope| {
            let make = || scope.spawn(|| agent_key(&paths).unwrap().thumbprint());
            let threads: Vec<_> = (0..8).map(|_| make()).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(prints.iter().all(|print| *print == prints[0]));
    }

    #[test]
    fn a_faulty_key_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.agent_key(), "garbage").unwrap();
        let error = agent_key(&paths).unwrap_err();
        assert!(error.hint().unwrap().contains("backup"));
        assert_eq!(std::fs::read_to_string(paths.agent_key()).unwrap(), "garbage");
    }
}
