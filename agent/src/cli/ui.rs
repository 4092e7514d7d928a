//! The one place that writes to the terminal: results go to stdout, all the rest to stderr.

use std::io::{self, IsTerminal as _, Write as _};

use mcpm_shared::token::Token;
use serde::Serialize;

use super::env;
use super::error::CliError;
use super::line::Line;
use super::pick::{self, Pick};

/// Where and how a command speaks.
///
/// A reader that went away (`mcpm ls | head -1`) is not an error: what it does not want to read
/// is dropped without a word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ui {
    json: bool,
    interactive: bool,
    /// Nobody is to be asked, because the user said so.
    silent: bool,
}

impl Ui {
    /// Makes one that speaks JSON or text, and that may ask when `interactive` and a person is there.
    pub(super) fn new(json: bool, interactive: bool) -> Self {
        Self { json, interactive, silent: false }
    }

    /// Returns one that asks nobody anything, because the user said so.
    pub(super) fn never_asking(self) -> Self {
        Self { interactive: false, silent: true, ..self }
    }

    /// Tells whether the user said that nobody is to be asked, and so that it goes on without.
    pub(super) fn must_not_ask(self) -> bool {
        self.silent
    }

    /// Tells whether machines read stdout.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// Returns one that speaks to a person even when machines read stdout.
    pub(super) fn for_people(self) -> Self {
        Self { json: false, ..self }
    }

    /// Tells whether there is somebody to ask, at a terminal that can show a form.
    pub(super) fn may_ask(self) -> bool {
        self.interactive
            && io::stdin().is_terminal()
            && io::stderr().is_terminal()
            && !env::is_dumb()
    }

    /// Tells whether a line on stderr may be redrawn.
    pub(super) fn is_live(self) -> bool {
        !self.json && io::stderr().is_terminal() && !env::is_dumb()
    }

    /// Asks for a secret without showing it.
    pub(super) fn ask_secret(self, prompt: &str, may_be_empty: bool) -> Result<Token, CliError> {
        let line = Line::secret(prompt);
        answered(if may_be_empty { line.or_nothing() } else { line }).map(Token::new)
    }

    /// Asks for a line; an empty one takes the default, and is asked for again without one.
    pub(super) fn ask(self, prompt: &str, default: Option<&str>) -> Result<String, CliError> {
        answered(Line::text(prompt).or(default))
    }

    /// Asks for a line that may be empty.
    pub(super) fn ask_or_nothing(self, prompt: &str) -> Result<String, CliError> {
        self.ask_with(prompt, "")
    }

    /// Asks for a line that may be empty, and that begins as `text`.
    pub(super) fn ask_with(self, prompt: &str, text: &str) -> Result<String, CliError> {
        answered(Line::text(prompt).or_nothing().beginning(text))
    }

    /// Asks for one of several; returns which.
    pub(super) fn choose(self, prompt: &str, items: &[&str]) -> Result<usize, CliError> {
        let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
        let picked = Pick::one(prompt, &items).ask().map_err(|error| cannot_ask(&error))?;
        picked.and_then(|picked| picked.first().copied()).ok_or_else(CliError::stopped)
    }

    /// Asks for any of several, of which some are chosen already; returns which.
    pub(super) fn choose_many(
        self,
        prompt: &str,
        items: &[String],
        chosen: &[bool],
    ) -> Result<Vec<usize>, CliError> {
        let pick = Pick::many(prompt, items, chosen);
        let picked = pick.ask().map_err(|error| cannot_ask(&error))?;
        picked.ok_or_else(CliError::stopped)
    }

    /// Asks a question whose answer is no unless said otherwise.
    pub(super) fn confirm(self, question: &str) -> Result<bool, CliError> {
        let answer = pick::confirm(question).map_err(|error| cannot_ask(&error))?;
        answer.ok_or_else(CliError::stopped)
    }

    /// Writes one line of the result.
    pub(super) fn result(self, line: impl AsRef<str>) {
        write_line(io::stdout().lock(), line.as_ref());
    }

    /// Writes one line of a result that has no end; false when its reader went away.
    pub(super) fn offer(self, line: impl AsRef<str>) -> bool {
        let mut out = io::stdout().lock();
        out.write_all(format!("{}\n", line.as_ref()).as_bytes()).and_then(|()| out.flush()).is_ok()
    }

    /// Writes raw bytes of the result, such as a completion script.
    pub(super) fn raw(self, bytes: &[u8]) {
        let mut out = io::stdout().lock();
        let _gone = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// Writes one JSON value of the result, on one line.
    pub(super) fn json(self, value: &impl Serialize) {
        if let Ok(line) = serde_json::to_string(value) {
            write_line(io::stdout().lock(), &line);
        }
    }

    /// Writes one line for people, unless machines read.
    pub(super) fn note(self, line: impl AsRef<str>) {
        if !self.json {
            write_line(io::stderr().lock(), line.as_ref());
        }
    }

    /// Writes a warning, which no mode suppresses.
    pub(super) fn warning(self, line: impl AsRef<str>) {
        write_line(io::stderr().lock(), &format!("warning: {}", line.as_ref()));
    }

    /// Writes why the command failed.
    pub(super) fn error(self, error: &CliError) {
        if self.json {
            self.json(&error.to_json());
            return;
        }
        if error.is_stop() {
            // Who stopped it knows.
            return;
        }
        let mut err = io::stderr().lock();
        write_line(&mut err, &format!("error: {error}"));
        if let Some(hint) = error.hint() {
            write_line(&mut err, &format!("hint: {hint}"));
        }
    }
}

fn answered(line: Line<'_>) -> Result<String, CliError> {
    line.ask().map_err(|error| cannot_ask(&error))?.ok_or_else(CliError::stopped)
}

fn cannot_ask(error: &io::Error) -> CliError {
    CliError::user("prompt", format!("cannot ask: {error}"))
        .with_hint("Say it with options; `--help` lists them")
}

fn write_line(mut out: impl io::Write, line: &str) {
    // One call, so that lines of several processes on one terminal do not mix.
    let _gone = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}
