//! What a running share says of itself.

use mcpm_shared::name::Name;
use serde::{Deserialize, Serialize};

use super::Process;
use crate::credentials::{ShareFile, ShareTarget};
use crate::fs::Paths;

/// One running share. It holds no secret: those are in the file of the share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningShare {
    /// The process that runs it.
    pub process: Process,
    /// When it started, in Unix seconds.
    pub since: u64,
    /// Whether it has a terminal.
    pub mode: Mode,
    /// Whether `mcpm router share` made it.
    #[serde(default)]
    pub router: bool,
    /// What is shared.
    pub target: ShareTarget,
    /// The origin of the relay; `local` for a share without one.
    pub relay: String,
    /// The name that was asked for, where one was.
    #[serde(default)]
    pub wanted: Option<Name>,
    /// Who may visit.
    pub visitors: Visitors,
    /// The name it has.
    #[serde(default)]
    pub name: Option<Name>,
    /// Its URL, once it had one.
    #[serde(default)]
    pub url: Option<String>,
    /// Its URL on this machine, where it has one.
    #[serde(default)]
    pub local: Option<String>,
    /// When it ends, in Unix seconds, if an end was asked for.
    #[serde(default)]
    pub expires_at: Option<u64>,
    /// How many requests it has served.
    #[serde(default)]
    pub requests: u64,
    /// How many it serves now.
    #[serde(default)]
    pub active: usize,
    /// How it is.
    pub state: State,
}

/// Whether a share has a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It runs in somebody's terminal.
    Foreground,
    /// It runs by itself.
    Background,
}

/// Who may visit a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visitors {
    /// Holders of a token.
    Token,
    /// Holders of a token or of the link.
    Link,
    /// Everybody.
    Public,
}

/// How a share is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum State {
    /// It was never up yet.
    Starting,
    /// Visitors can come.
    Connected,
    /// The connection to the relay is lost, or could not be made, and is tried again.
    Reconnecting {
        /// What happened.
        reason: String,
        /// What the user may do.
        #[serde(default)]
        hint: Option<String>,
        /// How long until the next attempt.
        retry_in_ms: u64,
    },
    /// It could not go on. Nobody runs it any more.
    Ended(Ending),
}

impl State {
    /// Returns the word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connected => "connected",
            Self::Reconnecting { .. } => "reconnecting",
            Self::Ended(_) => "ended",
        }
    }
}

/// Why a share could not go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The code for machines.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What the user may do.
    #[serde(default)]
    pub hint: Option<String>,
    /// The exit code of the process.
    pub exit: u8,
}

impl RunningShare {
    /// Returns the name that tells this share from all others: `NAME@RELAY`, as `mcpm token` has
    /// it; none before it has a name.
    #[must_use]
    pub fn full_name(&self) -> Option<String> {
        Some(self.file()?.full_name())
    }

    /// Tells whether this is its full name, as [`ShareFile::is_fully_named`] does.
    #[must_use]
    pub fn is_fully_named(&self, name: &str) -> bool {
        self.file().is_some_and(|file| file.is_fully_named(name))
    }

    /// Names the file of the share; where that is does not matter here.
    fn file(&self) -> Option<ShareFile> {
        Some(ShareFile::new(&Paths::new(""), self.name.as_ref()?, &self.relay))
    }

    /// Tells whether somebody who says `asked` may mean this share.
    #[must_use]
    pub fn is_called(&self, asked: &str) -> bool {
        self.target.name() == asked
            || self.name.as_ref().is_some_and(|name| name.as_str() == asked)
            || self.is_fully_named(asked)
    }

    /// Tells whether another share would take the place of this one at the relay.
    #[must_use]
    pub fn would_yield_to(&self, target: &ShareTarget, relay: &str, wanted: Option<&Name>) -> bool {
        let named =
            self.wanted.as_ref() == wanted || (wanted.is_some() && self.name.as_ref() == wanted);
        self.relay == relay && self.target == *target && named
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::running) fn record() -> RunningShare {
        RunningShare {
            process: Process::this(),
            since: 100,
            mode: Mode::Background,
            router: false,
            target: ShareTarget::Server("time".to_owned()),
            relay: "https://relay.example".to_owned(),
            wanted: None,
            visitors: Visitors::Token,
            name: Some("time-abc".parse().unwrap()),
            url: None,
            local: None,
            expires_at: None,
            requests: 0,
            active: 0,
            state: State::Starting,
        }
    }

    #[test]
    fn a_share_is_called_by_its_server_its_name_or_in_full() {
        let record = record();
        for name in ["time", "time-abc", "time-abc@relay.example"] {
            assert!(record.is_called(name), "{name}");
        }
        assert!(!record.is_called("tim"));
    }

    #[test]
    fn only_a_share_of_the_same_name_and_relay_takes_its_place() {
        let record = record();
        let relay = "https://relay.example";
        let (time, other) = (record.target.clone(), ShareTarget::Profile("time".to_owned()));
        let (abc, new): (Name, Name) = ("time-abc".parse().unwrap(), "new".parse().unwrap());
        assert!(record.would_yield_to(&time, relay, None));
        assert!(record.would_yield_to(&time, relay, Some(&abc)));
        assert!(!record.would_yield_to(&time, relay, Some(&new)));
        assert!(!record.would_yield_to(&time, "local", None));
        assert!(!record.would_yield_to(&other, relay, None));
    }

    #[test]
    fn the_file_of_a_share_is_as_agreed() {
        let mut record = record();
        record.process = Process { pid: 7, started: Some("9".to_owned()) };
        record.state = State::Reconnecting { reason: "r".to_owned(), hint: None, retry_in_ms: 5 };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            r#"{"process":{"pid":7,"started":"9"},"since":100,"mode":"background","router":false,"target":{"server":"time"},"relay":"https://relay.example","wanted":null,"visitors":"token","name":"time-abc","url":null,"local":null,"expires_at":null,"requests":0,"active":0,"state":{"is":"reconnecting","reason":"r","hint":null,"retry_in_ms":5}}"#
        );
        assert_eq!(serde_json::from_str::<RunningShare>(&text).unwrap(), record);
        // A later version may say more.
        let more = text.replacen('{', r#"{"new":1,"#, 1);
        assert_eq!(serde_json::from_str::<RunningShare>(&more).unwrap(), record);
    }
}
