//! The only code of the relay that prints.

use std::io::{ErrorKind, Write as _};

use serde::Serialize;

use super::error::CliError;

/// Prints a result. A reader that went away, such as `head`, is no error.
pub(super) fn say(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}

/// Prints a result for machines.
pub(super) fn say_json(value: &impl Serialize) -> Result<(), CliError> {
    say(&serde_json::to_string_pretty(value).expect("our records are plain JSON"))
}

/// Prints a remark for the person at the terminal; nothing depends on it being read.
pub(super) fn note(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}
