//! What people and machines are shown of a share, be it alone or among others.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::snippets::{self, Endpoint};
use super::time::{ago_or_in, unix_now};
use super::ui::Ui;
use crate::app::share::{Access, ShareEvent, ShareSpec, Up};

/// The line on stderr that tells how things are. It is redrawn where that can be done; elsewhere
/// each text is a line of its own.
#[derive(Debug)]
pub(super) struct LiveLine {
    ui: Ui,
    bar: Option<ProgressBar>,
    last: String,
}

impl LiveLine {
    /// Prepares one, which shows nothing yet.
    pub(super) fn new(ui: Ui) -> Self {
        Self { ui, bar: ui.is_live().then(bar), last: String::new() }
    }

    /// Tells whether the line is redrawn, so that it may change often.
    pub(super) fn is_redrawn(&self) -> bool {
        self.bar.is_some()
    }

    /// Puts `text` on the line; where it is not redrawn, once.
    pub(super) fn state(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.last == text {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(text.clone()),
            None => self.ui.note(&text),
        }
        self.last = text;
    }

    /// Writes while the line is out of the way.
    pub(super) fn apart(&self, write: impl FnOnce(Ui)) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write(self.ui)),
            None => write(self.ui),
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Takes the line away and says that all ended well, if it did.
    pub(super) fn end(&mut self, well: bool) {
        self.clear();
        if well && self.ui.is_json() {
            self.ui.json(&json!({ "event": "stopped" }));
        } else if well {
            self.ui.note("Stopped.");
        }
    }
}

#[cfg(test)]
impl LiveLine {
    /// One that is redrawn where nobody sees it, or never.
    pub(super) fn unseen(is_redrawn: bool) -> Self {
        let bar = is_redrawn.then(ProgressBar::hidden);
        Self { ui: Ui::new(false, false), bar, last: String::new() }
    }

    /// What it says.
    pub(super) fn last(&self) -> &str {
        &self.last
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Warns of shares that are open to everybody.
pub(super) fn warn_of_public(ui: Ui, specs: &[ShareSpec]) {
    let Some(open) = specs.iter().find(|spec| spec.access == Access::Public) else { return };
    let place = if open.relay.is_some() { "on the internet" } else { "on this machine" };
    let (url, what) = match specs {
        [only] => ("the URL", only.target.to_string()),
        _ => ("a URL", "these shares".to_owned()),
    };
    ui.warning(format!(
        "--no-auth: everybody {place} who knows {url} can use {what}, without a token"
    ));
}

/// Writes what the user came for, behind an indent: the results to stdout, what else there is to
/// know to stderr.
pub(super) fn page(ui: Ui, indent: &str, up: &Up) {
    ui.result(format!("{indent}URL    {}", up.url));
    if let Some(token) = &up.token {
        ui.result(format!("{indent}Token  {}", token.expose()));
    }
    if let Some(link) = &up.link {
        ui.result(format!("{indent}Link   {link}"));
    }
    if let Some(local) = up.local.as_ref().filter(|local| **local != up.url) {
        ui.result(format!("{indent}Local  {local}"));
    }
    if let Some(end) = up.expires_at {
        ui.note(format!("{indent}Ends {}.", ago_or_in(end, unix_now())));
    }
}

/// Writes what to paste into clients, for all of these shares together; each has the name that
/// clients list it under.
pub(super) fn print_snippets<'a>(ui: Ui, shares: impl Iterator<Item = (&'a str, &'a Up)>) {
    let endpoint = |(name, up): (&'a str, &'a Up)| {
        let token = up.token.as_ref().map(|token| token.expose());
        Endpoint { name, url: &up.url, token }
    };
    let endpoints: Vec<Endpoint<'_>> = shares.map(endpoint).collect();
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

/// Says why a share is not up, and when it is tried again, as the rest of a sentence.
pub(super) fn reconnecting(reason: &str, hint: Option<&str>, retry_in: Duration) -> String {
    let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
    let wait = humantime::format_duration(Duration::from_secs(retry_in.as_secs().max(1)));
    format!("{reason}{hint}; trying again in {wait}")
}

/// Begins a text with a capital letter.
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
    fn machines_are_spared_what_comforts_people() {
        assert!(to_json(&ShareEvent::Probing).is_none());
        // It comes before the URL, which is to be on the first line.
        assert!(to_json(&ShareEvent::Note("n".to_owned())).is_none());
        assert!(to_json(&ShareEvent::Activity { requests: 1, active: 0 }).is_none());
    }
}
