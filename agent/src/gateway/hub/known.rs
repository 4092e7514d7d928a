//! What is known of a server without asking it: in each era what it said of itself and its lists,
//! and which eras it speaks.

use std::sync::Arc;

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::kinds::List;
use super::session::raw;
use super::welcome;
use crate::catalog::{Entry, Identity, Lists, Side, Told};
use crate::gateway::upstream::{Facts, Listed, Opening};
use crate::mcp::era::Era;
use crate::mcp::message::string;
use crate::mcp::object::Object;

/// Items of a list as the server wrote them.
pub(super) type Items = Listed;

/// What is known of a server.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// In the legacy era and in the modern one; a server may speak both.
    said: [Said; 2],
    /// Whether it speaks an era, as far as that was tried.
    speaks: [Option<bool>; 2],
    /// Its last list was late: what is known is served at once until it answers again.
    pub(super) slow: bool,
    /// Tells conversations of the modern era that what clients want to hear of has changed.
    pub(super) resubscribe: Arc<tokio::sync::Notify>,
}

/// What a server said in one era.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) facts: Option<Arc<Facts>>,
    /// The revision that was asked for when it said so.
    asked: Option<String>,
    /// To which client it said so.
    told: Option<Told>,
    pub(super) lists: [Option<Items>; 4],
    /// Which lists clients got with what was known of the server, or without it: they are told when
    /// it says something else.
    pub(super) owed: [bool; 4],
    /// How often each list was asked for, and which of these questions what is known answers.
    turns: [(u64, u64); 4],
}

const fn at(era: Era) -> usize {
    match era {
        Era::Legacy => 0,
        Era::Modern => 1,
    }
}

const fn other(era: Era) -> Era {
    match era {
        Era::Legacy => Era::Modern,
        Era::Modern => Era::Legacy,
    }
}

impl Known {
    /// Takes up what an earlier run wrote down.
    pub(super) fn of(entry: Entry) -> Self {
        let Entry { legacy, modern, only, .. } = entry;
        let mut known = Self::default();
        for (era, side) in [(Era::Legacy, legacy), (Era::Modern, modern)] {
            let Some(Side { opened, asked, told, lists }) = side else { continue };
            let Lists { tools, prompts, resources, templates } = lists;
            let lists = [tools, prompts, resources, templates].map(|list| list.map(Arc::new));
            let facts = Some(Arc::new(welcome::facts(era, &opened)));
            known.said[at(era)] = Said { facts, asked, told, lists, ..Said::default() };
            known.speaks[at(era)] = Some(true);
        }
        if let Some(only) = only {
            known.speaks[at(other(only))] = Some(false);
        }
        known
    }

    /// Returns what is to be written down for the next run; `None` when that is nothing.
    pub(super) fn entry(&self, identity: &Identity) -> Option<Entry> {
        let side = |era: Era| {
            let Said { facts, asked, told, lists, .. } = self.said(era);
            let opened = String::from_utf8_lossy(&facts.as_ref()?.opened).into_owned();
            let list = |list: List| lists[list.at()].as_deref().cloned();
            Some(Side {
                opened: RawValue::from_string(opened).ok()?,
                asked: asked.clone(),
                told: told.clone(),
                lists: Lists {
                    tools: list(List::Tools),
                    prompts: list(List::Prompts),
                    resources: list(List::Resources),
                    templates: list(List::Templates),
                },
            })
        };
        let only = |era: Era| (self.speaks[at(other(era))] == Some(false)).then_some(era);
        let (legacy, modern) = (side(Era::Legacy), side(Era::Modern));
        let anything = legacy.is_some() || modern.is_some();
        anything.then(|| Entry {
            identity: identity.clone(),
            legacy,
            modern,
            only: only(Era::Legacy).or_else(|| only(Era::Modern)),
            saved_at: 0,
        })
    }

    pub(super) fn said(&self, era: Era) -> &Said {
        &self.said[at(era)]
    }

    pub(super) fn said_mut(&mut self, era: Era) -> &mut Said {
        &mut self.said[at(era)]
    }

    /// Returns the era in which the server talks with clients of this one, when that is known: its
    /// own where the server speaks that.
    pub(super) fn hop(&self, client: Era) -> Option<Era> {
        let speaks = |era: Era| self.speaks[at(era)];
        match (speaks(client), speaks(other(client))) {
            (Some(true), _) => Some(client),
            (Some(false), Some(true)) => Some(other(client)),
            _ => None,
        }
    }

    /// Returns the era to open a conversation in first, and whether the server is known to speak
    /// it.
    pub(super) fn first(&self, client: Era) -> (Era, bool) {
        let speaks = |era: Era| self.speaks[at(era)];
        match (speaks(client), speaks(other(client))) {
            (Some(true), _) => (client, true),
            (Some(false), its) => (other(client), its == Some(true)),
            (None, _) => (client, false),
        }
    }

    /// Notes that a conversation was opened, which was first tried in an era.
    pub(super) fn opened(&mut self, tried: Era, opening: &Opening, facts: Facts) {
        let era = facts.era;
        self.speaks[at(era)] = Some(true);
        if era != tried {
            self.speaks[at(tried)] = Some(false);
        }
        let said = self.said_mut(era);
        let (asked, client) = (opening.version.clone(), digest(&opening.client_info));
        let another = said.told.as_ref().is_some_and(|told| told.client != client);
        let alone = match &said.facts {
            // Another version of the server says other things to everybody.
            Some(before) if version_of(before) != version_of(&facts) => false,
            Some(before) if another && said.asked.as_ref() == Some(&asked) => {
                before.opened != facts.opened
            }
            _ => said.told.as_ref().is_some_and(|told| told.alone),
        };
        said.told = Some(Told { client, alone });
        (said.facts, said.asked) = (Some(Arc::new(facts)), Some(asked));
    }

    /// Returns what the server said of itself to clients of this era, or else to others.
    pub(super) fn facts(&self, client: Era) -> Option<Arc<Facts>> {
        let era = self.hop(client).unwrap_or(client);
        self.said(era).facts.clone().or_else(|| self.said(other(era)).facts.clone())
    }

    /// Notes that a client of this era got a list that the server did not say just now.
    pub(super) fn owe(&mut self, client: Era, list: List) {
        let hop = self.hop(client);
        // As long as nobody knows in which era it will answer, in either.
        for era in [Era::Legacy, Era::Modern] {
            if hop.is_none_or(|hop| hop == era) {
                self.said_mut(era).owed[list.at()] = true;
            }
        }
    }

    /// Returns a list as one of its conversations knows it.
    pub(super) fn any_list(&self, list: List) -> Option<Items> {
        self.list(Era::Legacy, list).map(|(_, items)| items)
    }

    /// Returns a list as it is known in this era, or else in the other one, and in which.
    pub(super) fn list(&self, era: Era, list: List) -> Option<(Era, Items)> {
        let eras = [era, other(era)];
        eras.into_iter().find_map(|era| Some((era, self.said(era).lists[list.at()].clone()?)))
    }

    /// Tells whether the server offers a list, as far as is known.
    pub(super) fn offers(&self, list: List) -> bool {
        let mut facts = self.said.iter().filter_map(|said| said.facts.as_deref()).peekable();
        facts.peek().is_none() || facts.any(|facts| offers(facts, list))
    }
}

impl Said {
    /// Notes that a list is asked for, and returns which question that is.
    pub(super) fn ask(&mut self, list: List) -> u64 {
        let (last, _) = &mut self.turns[list.at()];
        *last += 1;
        *last
    }

    /// Tells whether an answer is the latest: two questions may be on their way at once, and what
    /// was asked first may be answered last.
    pub(super) fn is_news(&mut self, list: List, asked: u64) -> bool {
        let (_, known) = &mut self.turns[list.at()];
        let news = asked >= *known;
        *known = asked.max(*known);
        news
    }

    /// Returns what the server said, unless it might say more to a client of this revision, or is
    /// known to say something else to others than the one who heard it.
    pub(super) fn facts_for(&self, version: &str, client: &str) -> Option<Arc<Facts>> {
        let facts = self.facts.as_ref()?;
        let asked = self.asked.as_deref().unwrap_or_default();
        let enough = facts.version.as_str() >= version || asked >= version;
        let its = |told: &Told| told.client == digest(client);
        let others = self.told.as_ref().is_some_and(|told| told.alone && !its(told));
        (enough && !others).then(|| facts.clone())
    }
}

/// Returns the version that a server says it has.
fn version_of(facts: &Facts) -> Option<String> {
    let info = Object::of(facts.server_info.as_deref()?)?;
    string(info.get("version")?).map(std::borrow::Cow::into_owned)
}

/// Returns what tells a client from others: what it says of itself may be as long as a message.
fn digest(client_info: &str) -> String {
    Sha256::digest(client_info).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tells whether a server offers a list.
pub(super) fn offers(facts: &Facts, list: List) -> bool {
    crate::mcp::object::Object::of(&facts.capabilities)
        .is_none_or(|all| all.contains(list.capability()))
}

/// Makes the raw text that facts hold.
pub(super) fn opened(facts: &Facts) -> Box<RawValue> {
    raw(String::from_utf8_lossy(&facts.opened).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::era::LATEST_LEGACY;

    fn opening(client: &str) -> Opening {
        let ours = crate::gateway::hub::session::Client::ourselves().opening(Era::Legacy);
        Opening { client_info: client.to_owned(), ..ours }
    }

    fn facts(era: Era) -> Facts {
        welcome::facts(era, &raw("{}".to_owned()))
    }

    #[test]
    fn a_server_of_both_eras_talks_with_each_client_in_its_own() {
        let mut known = Known::default();
        assert_eq!(known.hop(Era::Legacy), None);
        assert_eq!(known.first(Era::Modern), (Era::Modern, false));
        known.opened(Era::Legacy, &opening("t"), facts(Era::Legacy));
        assert_eq!(known.hop(Era::Modern), None, "it has not been tried");
        assert_eq!(known.first(Era::Modern), (Era::Modern, false));
        known.opened(Era::Modern, &opening("t"), facts(Era::Modern));
        assert_eq!(known.hop(Era::Modern), Some(Era::Modern));
        assert_eq!(known.hop(Era::Legacy), Some(Era::Legacy));
    }

    #[test]
    fn what_a_server_said_to_an_older_client_is_not_said_to_a_newer_one() {
        let old = raw(r#"{"protocolVersion":"2024-11-05"}"#.to_owned());
        let mut said = Said {
            facts: Some(Arc::new(welcome::facts(Era::Legacy, &old))),
            asked: Some("2024-11-05".to_owned()),
            ..Said::default()
        };
        assert!(said.facts_for("2024-11-05", "{}").is_some());
        assert!(said.facts_for(LATEST_LEGACY, "{}").is_none());
        // It was asked for more and had no more.
        said.asked = Some(LATEST_LEGACY.to_owned());
        assert!(said.facts_for(LATEST_LEGACY, "{}").is_some());
    }

    #[test]
    fn what_a_server_says_to_one_client_alone_is_told_to_no_other_also_in_the_next_run() {
        let said = |text: &str| welcome::facts(Era::Legacy, &raw(text.to_owned()));
        let instructions = |known: &Known, client: &str| {
            let facts = known.said(Era::Legacy).facts_for(LATEST_LEGACY, client)?;
            facts.instructions.clone()
        };
        let mut known = Known::default();
        known.opened(Era::Legacy, &opening("ann"), said(r#"{"instructions":"hi ann"}"#));
        // Nearly all servers say the same to everybody, and are believed to.
        assert_eq!(instructions(&known, "bob").as_deref(), Some("hi ann"));
        known.opened(Era::Legacy, &opening("bob"), said(r#"{"instructions":"hi bob"}"#));
        let identity = Identity::of(&crate::model::Server::stdio("x", "x", [""; 0]));
        for known in [Known::of(known.entry(&identity).unwrap()), known] {
            assert_eq!(instructions(&known, "bob").as_deref(), Some("hi bob"));
            assert_eq!(instructions(&known, "ann"), None);
        }
        let mut known = Known::default();
        for client in ["ann", "bob", "ann"] {
            known.opened(Era::Legacy, &opening(client), said(r#"{"instructions":"hi"}"#));
        }
        assert_eq!(instructions(&known, "bob").as_deref(), Some("hi"));
        // A new version of a server says something else to everybody.
        for (client, server) in [
            ("ann", r#"{"instructions":"old","serverInfo":{"name":"s","version":"1"}}"#),
            ("bob", r#"{"instructions":"new","serverInfo":{"name":"s","version":"2"}}"#),
        ] {
            known.opened(Era::Legacy, &opening(client), said(server));
        }
        assert_eq!(instructions(&known, "ann").as_deref(), Some("new"));
    }

    #[test]
    fn an_answer_that_was_overtaken_by_a_later_one_is_no_news() {
        let mut said = Said::default();
        let (first, second) = (said.ask(List::Tools), said.ask(List::Tools));
        assert!(said.is_news(List::Tools, second));
        assert!(!said.is_news(List::Tools, first));
        assert!(said.is_news(List::Tools, second), "a page of the same answer");
        let prompts = said.ask(List::Prompts);
        assert!(said.is_news(List::Prompts, prompts));
    }

    #[test]
    fn a_server_of_one_era_is_asked_in_that_from_then_on_and_in_the_next_run() {
        let mut known = Known::default();
        known.opened(Era::Modern, &opening("t"), facts(Era::Legacy));
        let identity = Identity::of(&crate::model::Server::stdio("x", "x", [""; 0]));
        for known in [Known::of(known.entry(&identity).unwrap()), known] {
            assert_eq!(known.hop(Era::Modern), Some(Era::Legacy));
            assert_eq!(known.first(Era::Modern), (Era::Legacy, true));
            assert!(known.facts(Era::Modern).is_some());
        }
    }
}
