//! What a running share looks like: results on stdout, and one line on stderr that tells how it is.

use std::time::Duration;

use super::shown::{
    LiveLine, capital, page, print_snippets, reconnecting, to_json, warn_of_public,
};
use super::ui::Ui;
use crate::app::share::{ShareEvent, ShareSpec, Source, Up};

/// Shows one share.
#[derive(Debug)]
pub(super) struct Live {
    ui: Ui,
    line: LiveLine,
    what: String,
    client_name: String,
    mcp: bool,
    url: Option<String>,
    requests: u64,
    /// Why the share was not up when that was last said.
    trouble: Option<String>,
    /// Whether the share goes on in the background when this ends.
    detached: bool,
}

impl Live {
    /// Prepares to show what `spec` becomes.
    pub(super) fn new(ui: Ui, spec: &ShareSpec) -> Self {
        warn_of_public(ui, std::slice::from_ref(spec));
        let mcp = matches!(spec.source, Source::Mcp(_));
        Self::of(ui, spec.target.to_string(), spec.target.name(), mcp)
    }

    /// Prepares to show the demo.
    #[cfg(feature = "embedded-relay")]
    pub(super) fn for_demo(ui: Ui) -> Self {
        Self::of(ui, "the demo server".to_owned(), "demo", true)
    }

    fn of(ui: Ui, what: String, client_name: &str, mcp: bool) -> Self {
        Self {
            ui,
            line: LiveLine::new(ui),
            what,
            client_name: client_name.to_owned(),
            mcp,
            url: None,
            requests: 0,
            trouble: None,
            detached: false,
        }
    }

    /// Shows a share that goes on in the background.
    pub(super) fn detached(self) -> Self {
        Self { detached: true, ..self }
    }

    /// Clears the live line and leaves the share to itself.
    pub(super) fn leave(&mut self) {
        self.line.clear();
    }

    /// Writes a line for people, above the live one.
    #[cfg(feature = "embedded-relay")]
    pub(super) fn note(&self, line: &str) {
        self.line.apart(|ui| ui.note(line));
    }

    /// Shows one event.
    pub(super) fn show(&mut self, event: ShareEvent) {
        if self.ui.is_json() {
            if let Some(value) = to_json(&event) {
                self.ui.json(&value);
            }
            return;
        }
        match event {
            ShareEvent::Probing => self.line.state(format!("Starting {}", self.what)),
            ShareEvent::Probed { server, version } => {
                self.line.state(format!("{} is {server} {version}", capital(&self.what)));
            }
            ShareEvent::Note(text) => self.line.apart(|ui| ui.note(text)),
            ShareEvent::Connecting { relay, attempt: 1 } if self.url.is_none() => {
                self.line.state(format!("Connecting to {relay}"));
            }
            ShareEvent::Connecting { .. } => {}
            ShareEvent::Up(up) => self.up(&up),
            ShareEvent::Reconnecting { reason, hint, retry_in } => {
                self.reconnecting(&reason, hint.as_deref(), retry_in);
            }
            ShareEvent::Activity { requests, active } => {
                self.requests = requests;
                if self.line.is_redrawn() {
                    self.line.state(self.connected(active));
                }
            }
            ShareEvent::TokensChanged { tokens } => {
                let text = format!("Tokens changed: {tokens} now open this share.");
                self.line.apart(|ui| ui.note(text));
            }
            ShareEvent::Expired => self.line.apart(|ui| ui.note("The share came to its end.")),
            ShareEvent::Warning(text) => self.line.apart(|ui| ui.warning(text)),
            // Whoever runs the share says how it ended.
            ShareEvent::Over(_) => {}
        }
    }

    /// Says that a signal came.
    pub(super) fn stopping(&mut self) {
        self.line.state("Stopping");
    }

    /// Clears the live line and says how it ended.
    pub(super) fn end(&mut self, well: bool) {
        self.line.end(well);
    }

    fn up(&mut self, up: &Up) {
        self.trouble = None;
        let moved = self.url.as_ref().is_some_and(|url| *url != up.url);
        let first = self.url.replace(up.url.clone()).is_none();
        if first || moved {
            self.line.apart(|ui| {
                page(ui, "", up);
                print_snippets(ui, self.mcp.then_some((&*self.client_name, up)).into_iter());
            });
            if !self.detached {
                self.line.state("Connected. Press Ctrl-C to stop.");
            }
        } else {
            self.line.state(self.connected(0));
        }
    }

    fn reconnecting(&mut self, reason: &str, hint: Option<&str>, retry_in: Duration) {
        // Where a line cannot be redrawn, every attempt that fails alike would be one more.
        if !self.line.is_redrawn() && self.trouble.as_deref() == Some(reason) {
            return;
        }
        self.trouble = Some(reason.to_owned());
        self.line.state(capital(&reconnecting(reason, hint, retry_in)));
    }

    fn connected(&self, active: usize) -> String {
        let active = if active > 0 { format!(", {active} open") } else { String::new() };
        format!("Connected. Requests: {}{active}", self.requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_line_is_redrawn_the_same_trouble_is_told_once() {
        let mut live = Live::of(Ui::new(false, false), "server `time`".to_owned(), "time", false);
        live.line = LiveLine::unseen(false);
        let mut told = Vec::new();
        for (reason, secs) in [("no route", 1), ("no route", 2), ("refused", 4), ("no route", 8)] {
            let (reason, retry_in) = (reason.to_owned(), Duration::from_secs(secs));
            live.show(ShareEvent::Reconnecting { reason, hint: None, retry_in });
            told.push(live.line.last().to_owned());
        }
        assert_eq!(told[0], told[1]);
        told.dedup();
        assert_eq!(told.len(), 3, "{told:?}");
    }
}
