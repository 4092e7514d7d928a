//! The keyring of the system: Keychain, Credential Manager, or the Secret Service of a desktop.
//!
//! Nothing of it is touched before a secret of it is asked for. A keyring may ask its owner to
//! unlock it, or never answer; so each question has a thread and a time limit of its own.

use std::time::Duration;

use mcpm_shared::token::Token;

use crate::hint::Hint;
use crate::model::reference::Slot;

/// Whose our secrets are in the keyring.
pub const SERVICE: &str = "mcpm";

/// How long a keyring may take: somebody may have to type a password first.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a keyring is of no help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// This system has none that we can reach.
    #[error("there is no keyring here: {0}")]
    Absent(String),
    /// It has no such secret.
    #[error("the keyring has no `{0}`")]
    NoEntry(String),
    /// It does not do what it is asked for.
    #[error("the keyring refuses `{slot}`: {reason}")]
    Refused {
        /// The secret.
        slot: String,
        /// What it says.
        reason: String,
    },
    /// It does not answer.
    #[error("the keyring did not answer within {} s", PATIENCE.as_secs())]
    TimedOut,
}

impl Hint for KeyringError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Absent(_) => {
                "Keep the secret in a file, and write `file:/its/path` in place of it".to_owned()
            }
            Self::NoEntry(_) => {
                "Put it there with `mcpm edit SERVER --secret KEY`, or with a tool of your system"
                    .to_owned()
            }
            Self::Refused { .. } => "Unlock the keyring, and allow mcpm to use it".to_owned(),
            Self::TimedOut => "Unlock the keyring, and try again".to_owned(),
        })
    }
}

/// Returns a secret.
///
/// # Errors
/// When there is no keyring, it has no such secret, or does not give it out.
pub fn read(slot: Slot<'_>) -> Result<Token, KeyringError> {
    aside(slot, system::read)
}

/// Keeps a secret, in place of the one before.
///
/// # Errors
/// When there is no keyring, or it does not take it.
pub fn write(slot: Slot<'_>, secret: &Token) -> Result<(), KeyringError> {
    let secret = secret.clone();
    aside(slot, move |slot| system::write(slot, &secret))
}

/// Forgets a secret; tells whether there was one.
///
/// # Errors
/// When there is no keyring, or it keeps what it has.
pub fn forget(slot: Slot<'_>) -> Result<bool, KeyringError> {
    match aside(slot, system::forget) {
        Ok(()) => Ok(true),
        Err(KeyringError::NoEntry(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Asks on another thread: a library that waits for a bus must not meet our runtime, and what
/// never answers is left behind.
fn aside<T: Send + 'static>(
    slot: Slot<'_>,
    ask: impl FnOnce(Slot<'_>) -> Result<T, KeyringError> + Send + 'static,
) -> Result<T, KeyringError> {
    let (service, name) = (slot.service.to_owned(), slot.name.to_owned());
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("keyring".to_owned());
    let started = thread.spawn(move || {
        // Who asked may have gone on without the answer.
        drop(tell.send(ask(Slot { service: &service, name: &name })));
    });
    started.map_err(|error| KeyringError::Absent(error.to_string()))?;
    told.recv_timeout(PATIENCE).unwrap_or(Err(KeyringError::TimedOut))
}

#[cfg(feature = "keyring")]
mod system {
    use ::keyring::{Entry, Error};
    use mcpm_shared::token::Token;

    use super::{KeyringError, Slot};

    pub(super) fn read(slot: Slot<'_>) -> Result<Token, KeyringError> {
        entry(slot)?.get_password().map(Token::new).map_err(|error| refused(slot, &error))
    }

    pub(super) fn write(slot: Slot<'_>, secret: &Token) -> Result<(), KeyringError> {
        entry(slot)?.set_password(secret.expose()).map_err(|error| refused(slot, &error))
    }

    pub(super) fn forget(slot: Slot<'_>) -> Result<(), KeyringError> {
        entry(slot)?.delete_credential().map_err(|error| refused(slot, &error))
    }

    fn entry(slot: Slot<'_>) -> Result<Entry, KeyringError> {
        if let Err(error) = Entry::store_status() {
            return Err(KeyringError::Absent(error.to_string()));
        }
        Entry::new(slot.service, slot.name).map_err(|error| refused(slot, &error))
    }

    fn refused(slot: Slot<'_>, error: &Error) -> KeyringError {
        match error {
            Error::NoEntry => KeyringError::NoEntry(slot.to_string()),
            // These would repeat what they hold, which may be the secret.
            Error::BadEncoding(_) | Error::BadDataFormat(..) => {
                KeyringError::Refused { slot: slot.to_string(), reason: "it is no text".to_owned() }
            }
            error => KeyringError::Refused { slot: slot.to_string(), reason: error.to_string() },
        }
    }
}

#[cfg(not(feature = "keyring"))]
mod system {
    use mcpm_shared::token::Token;

    use super::{KeyringError, Slot};

    fn none<T>() -> Result<T, KeyringError> {
        Err(KeyringError::Absent("this mcpm was built without it".to_owned()))
    }

    pub(super) fn read(_: Slot<'_>) -> Result<Token, KeyringError> {
        none()
    }

    pub(super) fn write(_: Slot<'_>, _: &Token) -> Result<(), KeyringError> {
        none()
    }

    pub(super) fn forget(_: Slot<'_>) -> Result<(), KeyringError> {
        none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_another_thread_comes_back() {
        let slot = Slot { service: "mcpm", name: "a/B" };
        let asked = aside(slot, |slot| Ok(slot.to_string()));
        assert_eq!(asked.unwrap(), "keyring:mcpm/a/B");
        let refused: Result<(), _> =
            aside(slot, |slot| Err(KeyringError::NoEntry(slot.to_string())));
        assert!(refused.unwrap_err().hint().unwrap().contains("--secret"));
    }

    #[test]
    fn an_asker_that_panics_is_no_answer() {
        let slot = Slot { service: "mcpm", name: "a" };
        let asked: Result<(), _> = aside(slot, |_| panic!("a library has a defect"));
        assert_eq!(asked, Err(KeyringError::TimedOut));
    }
}
