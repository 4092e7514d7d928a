//! What several shares of one process look like: results on stdout as each comes up, and one line on
//! stderr that tells how all of them are.

use indicatif::ProgressBar;
use serde_json::json;

use super::error::CliError;
use super::live::{bar, capital, reconnecting, to_json};
use super::snippets::{self, Endpoint};
use super::time::{ago_or_in, unix_now};
use super::ui::Ui;
use crate::app::share::{Access, ShareEvent, ShareSpec, Source, Up};
use crate::credentials::ShareTarget;

/// Shows several shares.
#[derive(Debug)]
pub(super) struct Panel {
    ui: Ui,
    bar: Option<ProgressBar>,
    rows: Vec<Row>,
    last: String,
    /// Whether what clients need was shown.
    explained: bool,
    /// Whether the shares go on in the background when this ends.
    detached: bool,
}

/// One share.
#[derive(Debug)]
struct Row {
    target: ShareTarget,
    mcp: bool,
    up: Option<Box<Up>>,
    state: State,
    requests: u64,
    active: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Up,
    Waiting,
    Over,
}

impl Panel {
    /// Prepares to show what `specs` become.
    pub(super) fn new(ui: Ui, specs: &[ShareSpec]) -> Self {
        let rows = specs.iter().map(|spec| Row {
            target: spec.target.clone(),
            mcp: matches!(spec.source, Source::Mcp(_)),
            up: None,
            state: State::Starting,
            requests: 0,
            active: 0,
        });
        let (rows, bar) = (rows.collect(), ui.is_live().then(bar));
        let panel = Self { ui, bar, rows, last: String::new(), explained: false, detached: false };
        if let Some(open) = specs.iter().find(|spec| spec.access == Access::Public) {
            let place = if open.relay.is_some() { "on the internet" } else { "on this machine" };
            ui.warning(format!(
                "--no-auth: everybody {place} who knows a URL can use these shares, without a token"
            ));
        }
        panel
    }

    /// Shows shares that go on in the background.
    pub(super) fn detached(self) -> Self {
        Self { detached: true, ..self }
    }

    /// Shows one event of a share.
    pub(super) fn show(&mut self, at: usize, event: ShareEvent) {
        if self.ui.is_json() {
            if let Some(mut value) = to_json(&event) {
                value["target"] = json!(self.rows[at].target);
                self.ui.json(&value);
            }
            return;
        }
        let what = self.rows[at].target.to_string();
        match event {
            ShareEvent::Probing => self.state(&format!("Starting {what}")),
            ShareEvent::Note(text) => self.apart(|ui| ui.note(format!("{what}: {text}"))),
            ShareEvent::Up(up) => self.up(at, up),
            ShareEvent::Reconnecting { reason, hint, retry_in } => {
                self.rows[at].state = State::Waiting;
                self.summary(Some(reconnecting(&reason, hint.as_deref(), retry_in)));
            }
            ShareEvent::Activity { requests, active } => {
                (self.rows[at].requests, self.rows[at].active) = (requests, active);
                if self.bar.is_some() {
                    self.summary(None);
                }
            }
            ShareEvent::TokensChanged { tokens } => {
                let text = format!("Tokens changed: {tokens} now open {what}.");
                self.apart(|ui| ui.note(text));
            }
            ShareEvent::Expired => {
                self.apart(|ui| ui.note(format!("{} came to its end.", capital(&what))));
            }
            ShareEvent::Warning(text) => self.apart(|ui| ui.warning(format!("{what}: {text}"))),
            // What only one share has room for.
            _ => {}
        }
    }

    /// Shows how a share ended; the others go on.
    pub(super) fn over(&mut self, at: usize, result: &Result<(), CliError>) {
        self.rows[at].state = State::Over;
        let what = self.rows[at].target.to_string();
        match result {
            Err(error) if self.ui.is_json() => {
                let mut value = error.to_json();
                value["target"] = json!(self.rows[at].target);
                self.ui.json(&value);
            }
            Ok(()) if self.ui.is_json() => {
                self.ui.json(&json!({ "event": "stopped", "target": self.rows[at].target }));
            }
            Err(error) => {
                let hint = error.hint().map(|hint| format!(". {hint}")).unwrap_or_default();
                self.apart(|ui| ui.warning(format!("{what} is not shared: {error}{hint}")));
            }
            Ok(()) => self.apart(|ui| ui.note(format!("Stopped sharing {what}."))),
        }
        self.settled();
    }

    /// Says that a signal came.
    pub(super) fn stopping(&mut self) {
        self.state("Stopping");
    }

    /// Clears the live line and leaves the shares to themselves.
    pub(super) fn leave(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Clears the live line and says how it ended.
    pub(super) fn end(&mut self, well: bool) {
        self.leave();
        if well && self.ui.is_json() {
            self.ui.json(&json!({ "event": "stopped" }));
        } else if well {
            self.ui.note("Stopped.");
        }
    }

    fn up(&mut self, at: usize, up: Box<Up>) {
        let row = &mut self.rows[at];
        row.state = State::Up;
        let fresh = row.up.as_ref().is_none_or(|before| before.url != up.url);
        row.up = Some(up);
        if fresh {
            let row = &self.rows[at];
            self.apart(|ui| page(ui, row));
        }
        if fresh && self.explained {
            self.apart(|ui| snippets_of(ui, std::slice::from_ref(&self.rows[at])));
        }
        self.settled();
    }

    /// Shows what clients need once it is known which shares are there, and how all of them are.
    fn settled(&mut self) {
        let (json, rows) = (self.ui.is_json(), &self.rows);
        let is_settled = !rows.iter().any(|row| row.state == State::Starting);
        if is_settled && !json && !self.explained {
            self.explained = true;
            self.apart(|ui| snippets_of(ui, &self.rows));
        }
        let all_up = self.rows.iter().all(|row| matches!(row.state, State::Up | State::Over));
        let any_up = self.rows.iter().any(|row| row.state == State::Up);
        if !json && !self.detached && any_up && (all_up || self.bar.is_some()) {
            self.summary(None);
        }
    }

    /// Says how all shares are; why some are not up, where that is known.
    fn summary(&mut self, why: Option<String>) {
        let of = |state| self.rows.iter().filter(|row| row.state == state).count();
        let (up, all) = (of(State::Up), self.rows.len());
        if self.bar.is_none() {
            // Lines that stay are few: not one for each share that went.
            let text = why.unwrap_or_else(|| {
                format!("{up} of {all} shares are connected. Press Ctrl-C to stop.")
            });
            return self.state(&text);
        }
        let requests: u64 = self.rows.iter().map(|row| row.requests).sum();
        let active: usize = self.rows.iter().map(|row| row.active).sum();
        let active = if active > 0 { format!(", {active} open") } else { String::new() };
        let then = match why {
            Some(why) => why,
            None if requests == 0 => "Press Ctrl-C to stop.".to_owned(),
            None => format!("Requests: {requests}{active}"),
        };
        self.state(&format!("{up} of {all} connected. {then}"));
    }

    /// Puts `text` on the live line; where there is none, it is a line of its own, once.
    fn state(&mut self, text: &str) {
        if self.ui.is_json() || self.last == text {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => self.ui.note(text),
        }
        text.clone_into(&mut self.last);
    }

    /// Writes while the live line is out of the way.
    fn apart(&self, write: impl FnOnce(Ui)) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write(self.ui)),
            None => write(self.ui),
        }
    }
}

/// Writes what the user came for, of one share.
fn page(ui: Ui, Row { target, up, .. }: &Row) {
    let Some(up) = up else { return };
    ui.result(capital(&target.to_string()));
    ui.result(format!("  URL    {}", up.url));
    if let Some(token) = &up.token {
        ui.result(format!("  Token  {}", token.expose()));
    }
    if let Some(link) = &up.link {
        ui.result(format!("  Link   {link}"));
    }
    if let Some(local) = up.local.as_ref().filter(|local| **local != up.url) {
        ui.result(format!("  Local  {local}"));
    }
    if let Some(end) = up.expires_at {
        ui.note(format!("  Ends {}.", ago_or_in(end, unix_now())));
    }
}

/// Writes what to paste into clients, for all shares of MCP together.
fn snippets_of(ui: Ui, rows: &[Row]) {
    let endpoints = rows.iter().filter(|row| row.mcp && row.state == State::Up);
    let endpoints: Vec<Endpoint<'_>> = endpoints
        .filter_map(|row| {
            let up = row.up.as_ref()?;
            let token = up.token.as_ref().map(|token| token.expose());
            Some(Endpoint { name: row.target.name(), url: &up.url, token })
        })
        .collect();
    if endpoints.is_empty() {
        return;
    }
    ui.note("");
    for snippets::Snippet { client, place, text } in snippets::all(&endpoints) {
        ui.note(format!("{client} ({place}):"));
        for line in text.lines() {
            ui.note(format!("  {line}"));
        }
    }
    ui.note("");
}
