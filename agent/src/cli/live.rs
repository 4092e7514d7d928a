//! What a running share looks like: results on stdout, and one line on stderr that tells how it is.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::snippets::{self, Endpoint};
use super::time::{ago_or_in, unix_now};
use super::ui::Ui;
use crate::app::share::{Access, ShareEvent, ShareSpec, Source, Up};

/// Shows one share.
#[derive(Debug)]
pub(super) struct Live {
    ui: Ui,
    what: String,
    client_name: String,
    mcp: bool,
    bar: Option<ProgressBar>,
    url: Option<String>,
    requests: u64,
    last: String,
    /// Why the share was not up when that was last said.
    trouble: Option<String>,
    /// Whether the share goes on in the background when this ends.
    detached: bool,
}

impl Live {
    /// Prepares to show what `spec` becomes.
    pub(super) fn new(ui: Ui, spec: &ShareSpec) -> Self {
        let live = Self {
            ui,
            what: spec.target.to_string(),
            client_name: spec.target.name().to_owned(),
            mcp: matches!(spec.source, Source::Mcp(_)),
            bar: ui.is_live().then(bar),
            url: None,
            requests: 0,
            last: String::new(),
            trouble: None,
            detached: false,
        };
        if spec.access == Access::Public {
            let place = if spec.relay.is_some() { "on the internet" } else { "on this machine" };
            ui.warning(format!(
                "--no-auth: everybody {place} who knows the URL can use {}, without a token",
                live.what
            ));
        }
        live
    }

    /// Shows a share that goes on in the background.
    pub(super) fn detached(self) -> Self {
        Self { detached: true, ..self }
    }

    /// Clears the live line and leaves the share to itself.
    pub(super) fn leave(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Prepares to show the demo.
    #[cfg(feature = "embedded-relay")]
    pub(super) fn for_demo(ui: Ui) -> Self {
        Self {
            ui,
            what: "the demo server".to_owned(),
            client_name: "demo".to_owned(),
            mcp: true,
            bar: ui.is_live().then(bar),
            url: None,
            requests: 0,
            last: String::new(),
            trouble: None,
            detached: false,
        }
    }

    /// Writes a line for people, above the live one.
    #[cfg(feature = "embedded-relay")]
    pub(super) fn note(&self, line: &str) {
        self.apart(|ui| ui.note(line));
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
            ShareEvent::Probing => self.state(format!("Starting {}", self.what)),
            ShareEvent::Probed { server, version } => {
                self.state(format!("{} is {server} {version}", capital(&self.what)));
            }
            ShareEvent::Note(text) => self.apart(|ui| ui.note(text)),
            ShareEvent::Connecting { relay, attempt: 1 } if self.url.is_none() => {
                self.state(format!("Connecting to {relay}"));
            }
            ShareEvent::Connecting { .. } => {}
            ShareEvent::Up(up) => self.up(&up),
            ShareEvent::Reconnecting { reason, hint, retry_in } => {
                self.reconnecting(&reason, hint.as_deref(), retry_in);
            }
            ShareEvent::Activity { requests, active } => {
                self.requests = requests;
                if self.bar.is_some() {
                    self.state(self.connected(active));
                }
            }
            ShareEvent::TokensChanged { tokens } => {
                let text = format!("Tokens changed: {tokens} now open this share.");
                self.apart(|ui| ui.note(text));
            }
            ShareEvent::Expired => self.apart(|ui| ui.note("The share came to its end.")),
            ShareEvent::Warning(text) => self.apart(|ui| ui.warning(text)),
            // Whoever runs the share says how it ended.
            ShareEvent::Over(_) => {}
        }
    }

    /// Says that a signal came.
    pub(super) fn stopping(&mut self) {
        self.state("Stopping".to_owned());
    }

    /// Clears the live line and says how it ended.
    pub(super) fn end(&mut self, well: bool) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if well && self.ui.is_json() {
            self.ui.json(&json!({ "event": "stopped" }));
        } else if well {
            self.ui.note("Stopped.");
        }
    }

    fn up(&mut self, up: &Up) {
        self.trouble = None;
        let moved = self.url.as_ref().is_some_and(|url| *url != up.url);
        let first = self.url.replace(up.url.clone()).is_none();
        if first || moved {
            self.apart(|ui| self.page(ui, up));
            if !self.detached {
                self.state("Connected. Press Ctrl-C to stop.".to_owned());
            }
        } else {
            self.state(self.connected(0));
        }
    }

    /// Writes what the user came for: the results to stdout, how to use them to stderr.
    fn page(&self, ui: Ui, up: &Up) {
        ui.result(format!("URL    {}", up.url));
        if let Some(token) = &up.token {
            ui.result(format!("Token  {}", token.expose()));
        }
        if let Some(link) = &up.link {
            ui.result(format!("Link   {link}"));
        }
        if let Some(local) = up.local.as_ref().filter(|local| **local != up.url) {
            ui.result(format!("Local  {local}"));
        }
        if let Some(end) = up.expires_at {
            ui.note(format!("Ends {}.", ago_or_in(end, unix_now())));
        }
        if self.mcp {
            self.snippets(ui, up);
        }
    }

    fn snippets(&self, ui: Ui, up: &Up) {
        let token = up.token.as_ref().map(|token| token.expose());
        let endpoint = Endpoint { name: &self.client_name, url: &up.url, token };
        ui.note("");
        for snippets::Snippet { client, place, text } in snippets::all(&[endpoint]) {
            ui.note(format!("{client} ({place}):"));
            for line in text.lines() {
                ui.note(format!("  {line}"));
            }
        }
        ui.note("");
    }

    fn reconnecting(&mut self, reason: &str, hint: Option<&str>, retry_in: Duration) {
        // Where a line cannot be redrawn, every attempt that fails alike would be one more.
        if self.bar.is_none() && self.trouble.as_deref() == Some(reason) {
            return;
        }
        self.trouble = Some(reason.to_owned());
        self.state(reconnecting(reason, hint, retry_in));
    }

    fn connected(&self, active: usize) -> String {
        let active = if active > 0 { format!(", {active} open") } else { String::new() };
        format!("Connected. Requests: {}{active}", self.requests)
    }

    /// Puts `text` on the live line; where there is none, it is a line of its own, once.
    fn state(&mut self, text: String) {
        if self.last == text {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(text.clone()),
            None => self.ui.note(&text),
        }
        self.last = text;
    }

    /// Writes while the live line is out of the way.
    fn apart(&self, write: impl FnOnce(Ui)) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write(self.ui)),
            None => write(self.ui),
        }
    }
}

/// Says why a share is not up, and when it is tried again.
pub(super) fn reconnecting(reason: &str, hint: Option<&str>, retry_in: Duration) -> String {
    let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
    let wait = humantime::format_duration(Duration::from_secs(retry_in.as_secs().max(1)));
    format!("{}{hint}; trying again in {wait}", capital(reason))
}

pub(super) fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The form for machines. What only comforts people has none.
pub(super) fn to_json(event: &ShareEvent) -> Option<Value> {
    Some(match event {
        ShareEvent::Up(up) => {
            let mut value = json!({
                "event": "up",
                "url": up.url,
                "token": up.token.as_ref().map(|token| token.expose()),
                "name": up.name,
            });
            let optional = [
                ("link", up.link.as_deref().map(Value::from)),
                ("local", up.local.as_deref().map(Value::from)),
                ("expires_at", up.expires_at.map(Value::from)),
            ];
            for (key, present) in optional {
                if let Some(present) = present {
                    value[key] = present;
                }
            }
            value
        }
        ShareEvent::Reconnecting { reason, hint, retry_in } => json!({
            "event": "reconnecting",
            "reason": reason,
            "hint": hint,
            "retry_in_ms": u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX),
        }),
        ShareEvent::TokensChanged { tokens } => json!({ "event": "tokens", "count": tokens }),
        ShareEvent::Expired => json!({ "event": "expired" }),
        ShareEvent::Warning(text) => json!({ "event": "warning", "message": text }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use mcpm_shared::token::Token;

    use super::*;

    fn up(link: Option<&str>) -> ShareEvent {
        ShareEvent::Up(Box::new(Up {
            name: "time-abc".to_owned(),
            url: "https://time-abc.example/mcp".to_owned(),
            token: Some(Token::new("T")),
            link: link.map(str::to_owned),
            local: None,
            expires_at: None,
            again: false,
        }))
    }

    #[test]
    fn machines_learn_url_token_and_name_from_the_first_line() {
        assert_eq!(
            to_json(&up(None)).unwrap().to_string(),
            r#"{"event":"up","url":"https://time-abc.example/mcp","token":"T","name":"time-abc"}"#
        );
        assert_eq!(to_json(&up(Some("https://l"))).unwrap()["link"], "https://l");
    }

    #[test]
    fn where_no_line_is_redrawn_the_same_trouble_is_told_once() {
        let mut live = Live {
            ui: Ui::new(false, false),
            what: "server `time`".to_owned(),
            client_name: "time".to_owned(),
            mcp: false,
            bar: None,
            url: None,
            requests: 0,
            last: String::new(),
            trouble: None,
            detached: false,
        };
        let mut told = Vec::new();
        for (reason, secs) in [("no route", 1), ("no route", 2), ("refused", 4), ("no route", 8)] {
            let (reason, retry_in) = (reason.to_owned(), Duration::from_secs(secs));
            live.show(ShareEvent::Reconnecting { reason, hint: None, retry_in });
            told.push(live.last.clone());
        }
        assert_eq!(told[0], told[1]);
        told.dedup();
        assert_eq!(told.len(), 3, "{told:?}");
    }

    #[test]
    fn machines_are_spared_what_comforts_people() {
        assert!(to_json(&ShareEvent::Probing).is_none());
        // It comes before the URL, which is to be on the first line.
        assert!(to_json(&ShareEvent::Note("n".to_owned())).is_none());
        assert!(to_json(&ShareEvent::Activity { requests: 1, active: 0 }).is_none());
    }
}
