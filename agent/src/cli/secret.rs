//! `--secret KEY` of `new` and `edit`: the value goes to the keyring of the system, and only where
//! it is goes to `servers.json`.

use mcpm_shared::token::Token;

use super::Context;
use super::error::CliError;
use crate::hint::Hint as _;
use crate::keyring::{self, KeyringError, SERVICE};
use crate::model::Vars;
use crate::model::reference::Slot;

/// Which values are secrets.
#[derive(Debug, Default, clap::Args)]
pub(super) struct SecretOptions {
    /// Ask for the value of these variables or headers, and keep it in the keyring of the system;
    /// without a terminal it is read from stdin, one line each
    #[arg(long, value_name = "KEY,…", value_delimiter = ',')]
    secret: Vec<String>,
}

impl From<KeyringError> for CliError {
    fn from(error: KeyringError) -> Self {
        Self::new("keyring", &error)
    }
}

impl SecretOptions {
    /// Tells whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.secret.is_empty()
    }

    /// Asks for all of them, keeps them, and returns what stands for them.
    pub(super) fn keep(&self, server: &str, context: &Context) -> Result<Vars, CliError> {
        let ask = |key: &str| -> Result<Token, CliError> {
            if context.ui.may_ask() {
                return context.ui.ask_secret(&format!("Value of {key}"), false);
            }
            let mut line = String::new();
            std::io::stdin()
                .read_line(&mut line)
                .map_err(|error| CliError::user("file", format!("cannot read stdin: {error}")))?;
            Ok(Token::new(line.trim()))
        };
        self.keep_with(server, ask, keyring::write)
    }

    fn keep_with(
        &self,
        server: &str,
        mut ask: impl FnMut(&str) -> Result<Token, CliError>,
        write: impl Fn(Slot<'_>, &Token) -> Result<(), KeyringError>,
    ) -> Result<Vars, CliError> {
        let mut kept = Vec::new();
        for key in self.secret.iter().map(|key| key.trim()).filter(|key| !key.is_empty()) {
            if key.contains('=') {
                // What stands behind it would be the secret.
                return Err(CliError::usage(
                    "--secret takes the name of a variable or header alone",
                )
                .with_hint("The value is asked for, or read from stdin"));
            }
            let secret = ask(key)?;
            if secret.expose().is_empty() {
                let error = CliError::user("empty_secret", format!("the value of {key} is empty"));
                return Err(error.with_hint("Write one line for each secret to stdin"));
            }
            let name = format!("{server}/{key}");
            let slot = Slot { service: SERVICE, name: &name };
            write(slot, &secret)?;
            kept.push((key.to_owned(), slot.to_string()));
        }
        Ok(kept.into_iter().collect())
    }
}

/// Forgets what only this server had in the keyring. Says so where that fails: the server is gone.
pub(super) fn forget(slots: &[String], context: &Context) -> Vec<String> {
    let mut forgotten = Vec::new();
    for text in slots {
        let Some(slot) = Slot::of_value(text) else { continue };
        match keyring::forget(slot) {
            Ok(true) => forgotten.push(text.clone()),
            Ok(false) => {}
            Err(error) => {
                let hint = error.hint().unwrap_or_default();
                context.ui.warning(format!("`{text}` stays in the keyring: {error}. {hint}"));
            }
        }
    }
    forgotten
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn keep(keys: &[&str], value: &str) -> (Result<Vars, CliError>, Vec<String>) {
        let options = SecretOptions { secret: keys.iter().map(|key| (*key).to_owned()).collect() };
        let written = RefCell::new(Vec::new());
        let write = |slot: Slot<'_>, secret: &Token| {
            written.borrow_mut().push(format!("{slot}={}", secret.expose()));
            Ok(())
        };
        let kept = options.keep_with("notes", |_| Ok(Token::new(value)), write);
        (kept, written.into_inner())
    }

    #[test]
    fn the_value_goes_to_the_keyring_and_its_place_to_the_entry() {
        let (kept, written) = keep(&["KEY"], "s3cret");
        let kept: Vec<String> =
            kept.unwrap().iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(kept, ["KEY=keyring:mcpm/notes/KEY"]);
        assert_eq!(written, ["keyring:mcpm/notes/KEY=s3cret"]);
    }

    #[test]
    fn an_empty_secret_and_one_on_the_command_line_are_refused() {
        assert_eq!(keep(&["KEY"], "").0.unwrap_err().exit(), 1);
        let (kept, written) = keep(&["KEY=s3cret"], "x");
        let error = kept.unwrap_err();
        assert!(!error.to_string().contains("s3cret") && error.exit() == 2);
        assert!(written.is_empty());
    }
}
