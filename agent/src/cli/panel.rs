//! What several shares of one process look like: results on stdout as each comes up, and one line on
//! stderr that tells how all of them are.

use std::time::Duration;

use serde_json::json;

use super::error::CliError;
use super::shown::{
    LiveLine, capital, page, print_snippets, reconnecting, to_json, warn_of_public,
};
use super::ui::Ui;
use crate::app::share::{ShareEvent, ShareSpec, Source, Up};
use crate::credentials::ShareTarget;

/// Shows several shares.
#[derive(Debug)]
pub(super) struct Panel {
    ui: Ui,
    line: LiveLine,
    rows: Vec<Row>,
    /// Whether what clients need was shown.
    explained: bool,
    /// Whether the shares go on in the background when this ends.
    detached: bool,
    /// All of them are to end.
    stopping: bool,
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

#[derive(Debug, PartialEq, Eq)]
enum State {
    Starting,
    Up,
    /// It is not up, and tried again.
    Waiting {
        reason: String,
        /// All that there is to say of it.
        text: String,
    },
    Over,
}

impl Panel {
    /// Prepares to show what `specs` become.
    pub(super) fn new(ui: Ui, specs: &[ShareSpec]) -> Self {
        warn_of_public(ui, specs);
        let mcp = |spec: &ShareSpec| matches!(spec.source, Source::Mcp(_));
        let rows = specs.iter().map(|spec| Row::new(spec.target.clone(), mcp(spec))).collect();
        Self {
            ui,
            line: LiveLine::new(ui),
            rows,
            explained: false,
            detached: false,
            stopping: false,
        }
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
            ShareEvent::Probing => self.line.state(format!("Starting {what}")),
            ShareEvent::Note(text) => self.line.apart(|ui| ui.note(format!("{what}: {text}"))),
            ShareEvent::Up(up) => self.up(at, up),
            ShareEvent::Reconnecting { reason, hint, retry_in } => {
                self.waits(at, reason, hint.as_deref(), retry_in);
            }
            ShareEvent::Activity { requests, active } => {
                (self.rows[at].requests, self.rows[at].active) = (requests, active);
                if self.line.is_redrawn() {
                    self.summary();
                }
            }
            ShareEvent::TokensChanged { tokens } => {
                let text = format!("Tokens changed: {tokens} now open {what}.");
                self.line.apart(|ui| ui.note(text));
            }
            ShareEvent::Expired => {
                self.line.apart(|ui| ui.note(format!("{} came to its end.", capital(&what))));
            }
            ShareEvent::Warning(text) => {
                self.line.apart(|ui| ui.warning(format!("{what}: {text}")));
            }
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
                self.line.apart(|ui| ui.warning(format!("{what} is not shared: {error}{hint}")));
            }
            Ok(()) => self.line.apart(|ui| ui.note(format!("Stopped sharing {what}."))),
        }
        self.settled();
    }

    /// Says that a signal came.
    pub(super) fn stopping(&mut self) {
        self.stopping = true;
        self.line.state("Stopping");
    }

    /// Clears the live line and leaves the shares to themselves, with what clients need of those
    /// that are up.
    pub(super) fn leave(&mut self) {
        self.line.clear();
        self.explain();
    }

    /// Clears the live line and says how it ended.
    pub(super) fn end(&mut self, well: bool) {
        self.line.end(well);
    }

    fn up(&mut self, at: usize, up: Box<Up>) {
        let row = &mut self.rows[at];
        row.state = State::Up;
        let fresh = row.up.as_ref().is_none_or(|before| before.url != up.url);
        let up = &**row.up.insert(up);
        if fresh {
            let title = capital(&row.target.to_string());
            self.line.apart(|ui| {
                ui.result(title);
                page(ui, "  ", up);
            });
        }
        if fresh && self.explained {
            self.line.apart(|ui| print_snippets(ui, self.rows[at].endpoint().into_iter()));
        }
        self.settled();
    }

    /// Shows that a share is not up. Where the line is not redrawn, every attempt that fails alike
    /// would be one more.
    fn waits(&mut self, at: usize, reason: String, hint: Option<&str>, retry_in: Duration) {
        let row = &mut self.rows[at];
        let known = matches!(&row.state, State::Waiting { reason: known, .. } if *known == reason);
        let text = format!("{}: {}", row.target, reconnecting(&reason, hint, retry_in));
        let text = capital(&text);
        if self.line.is_redrawn() {
            row.state = State::Waiting { reason, text };
            self.summary();
        } else if !known {
            self.line.state(text.clone());
            row.state = State::Waiting { reason, text };
        }
    }

    /// Shows what clients need once it is known which shares are there, and how all of them are.
    fn settled(&mut self) {
        if self.ui.is_json() {
            return;
        }
        if !self.rows.iter().any(|row| row.state == State::Starting) {
            self.explain();
        }
        let all_up = self.rows.iter().all(|row| matches!(row.state, State::Up | State::Over));
        let any_up = self.rows.iter().any(|row| row.state == State::Up);
        if !self.detached && any_up && (all_up || self.line.is_redrawn()) {
            self.summary();
        }
    }

    /// Shows once what to paste into clients, for all shares of MCP that are up together.
    fn explain(&mut self) {
        if !std::mem::replace(&mut self.explained, true) {
            self.line.apart(|ui| print_snippets(ui, self.rows.iter().filter_map(Row::endpoint)));
        }
    }

    /// Says how all shares are, and why one is not up.
    fn summary(&mut self) {
        if self.stopping {
            // All of them end: how many are left is no news.
            return;
        }
        let up = self.rows.iter().filter(|row| row.state == State::Up).count();
        let all = self.rows.len();
        if !self.line.is_redrawn() {
            // Lines that stay are few: not one for each share that went.
            let text = format!("{up} of {all} shares are connected. Press Ctrl-C to stop.");
            return self.line.state(text);
        }
        let why = self.rows.iter().find_map(|row| match &row.state {
            State::Waiting { text, .. } => Some(text.clone()),
            _ => None,
        });
        let requests: u64 = self.rows.iter().map(|row| row.requests).sum();
        let active: usize = self.rows.iter().map(|row| row.active).sum();
        let active = if active > 0 { format!(", {active} open") } else { String::new() };
        let then = match why {
            Some(why) => why,
            None if requests == 0 => "Press Ctrl-C to stop.".to_owned(),
            None => format!("Requests: {requests}{active}"),
        };
        self.line.state(format!("{up} of {all} connected. {then}"));
    }
}

impl Row {
    fn new(target: ShareTarget, mcp: bool) -> Self {
        Self { target, mcp, up: None, state: State::Starting, requests: 0, active: 0 }
    }

    /// Returns what clients need to reach it; none unless it speaks MCP and is up.
    fn endpoint(&self) -> Option<(&str, &Up)> {
        let up = self.up.as_deref().filter(|_| self.mcp && self.state == State::Up)?;
        Some((self.target.name(), up))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(is_redrawn: bool) -> Panel {
        let rows = ["a", "b"].map(|name| Row::new(ShareTarget::Server(name.to_owned()), false));
        Panel {
            ui: Ui::new(false, false),
            line: LiveLine::unseen(is_redrawn),
            rows: rows.into(),
            explained: false,
            detached: false,
            stopping: false,
        }
    }

    fn waits(reason: &str, secs: u64) -> ShareEvent {
        let (reason, retry_in) = (reason.to_owned(), Duration::from_secs(secs));
        ShareEvent::Reconnecting { reason, hint: None, retry_in }
    }

    #[test]
    fn where_no_line_is_redrawn_each_share_tells_its_trouble_once_and_by_name() {
        let mut panel = panel(false);
        let mut told = Vec::new();
        for (at, reason, secs) in
            [(0, "no route", 1), (0, "no route", 2), (1, "refused", 1), (0, "no route", 4)]
        {
            panel.show(at, waits(reason, secs));
            told.push(panel.line.last().to_owned());
        }
        told.dedup();
        assert_eq!(
            told,
            ["Server `a`: no route; trying again in 1s", "Server `b`: refused; trying again in 1s",]
        );
        panel.show(0, waits("refused", 1));
        assert_eq!(panel.line.last(), "Server `a`: refused; trying again in 1s");
    }

    #[test]
    fn why_a_share_waits_stays_on_the_line_whatever_the_others_do() {
        let mut panel = panel(true);
        panel.show(1, waits("too many", 20));
        let before = panel.line.last().to_owned();
        assert!(before.ends_with("Server `b`: too many; trying again in 20s"), "{before}");
        panel.show(0, ShareEvent::Activity { requests: 1, active: 0 });
        assert_eq!(panel.line.last(), before);
        panel.over(1, &Ok(()));
        panel.show(0, ShareEvent::Activity { requests: 2, active: 0 });
        assert!(panel.line.last().ends_with("Requests: 2"), "{}", panel.line.last());
    }

    #[test]
    fn who_is_left_is_not_counted_while_all_of_them_end() {
        for is_redrawn in [false, true] {
            let mut panel = panel(is_redrawn);
            panel.rows.iter_mut().for_each(|row| row.state = State::Up);
            panel.stopping();
            panel.show(1, ShareEvent::Activity { requests: 1, active: 0 });
            panel.over(0, &Ok(()));
            assert_eq!(panel.line.last(), "Stopping");
        }
    }
}
