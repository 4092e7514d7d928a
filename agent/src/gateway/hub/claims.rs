//! Who has which name and URI; names of several servers that collide are told, once each.

use super::kinds::List;
use super::known::Items;
use super::member::Member;
use super::{Hub, lists};
use crate::mcp::lists::name_of;
use crate::naming::{Collision, Origin};

/// The lists whose names carry their server's.
const NAMED: [List; 2] = [List::Tools, List::Prompts];

impl Hub {
    /// Notes the names or URIs of a list.
    pub(super) fn note(&self, member: &Member, items: &Items, list: List) {
        if list == List::Tools {
            self.mirrored.learn(member, items);
        }
        for item in items.iter() {
            match list {
                List::Tools | List::Prompts => {
                    let name = name_of(item);
                    // What nobody may see takes no name away.
                    let takes = |name: &str| {
                        list == List::Prompts || self.filters.entry_admits(member, name)
                    };
                    if let Some(name) = name.filter(|name| takes(name)) {
                        self.names(list).advertise(member.index, &name);
                    }
                }
                List::Resources | List::Templates => {
                    let Some(uri) = lists::uri_of(item, list) else { continue };
                    let mut uris = self.uris();
                    if list == List::Resources {
                        uris.claim(member.index, &uri);
                    } else {
                        uris.claim_template(member.index, &uri);
                    }
                }
            }
        }
        self.tell_clashes(list);
    }

    /// Logs the collisions that came up since the last time.
    fn tell_clashes(&self, list: List) {
        if !self.everything.prefixed || !NAMED.contains(&list) {
            return;
        }
        let new = self.names(list).new_collisions();
        for collision in new.iter().filter(|collision| self.shows(list, collision)) {
            tracing::warn!(
                name = %collision.name,
                kind = list.kind(),
                owner = %collision.owner.server,
                owner_name = %collision.owner.name,
                loser = %collision.loser.server,
                loser_name = %collision.loser.name,
                given = collision.given.as_deref(),
                "two names collide; one is served under another"
            );
        }
    }

    /// Returns what the user may want to know before the servers run.
    pub(in crate::gateway) fn notes(&self) -> Vec<String> {
        if !self.everything.prefixed {
            return Vec::new();
        }
        let cold = self.members.iter().filter(|member| !self.warm[member.index]);
        let cold: Vec<&str> = cold.map(|member| member.name.as_str()).collect();
        let mut notes = Vec::new();
        if !cold.is_empty() {
            notes.push(format!("Servers that start when they are first used: {}", cold.join(", ")));
        }
        for list in NAMED {
            let collisions = self.names(list).collisions();
            let shown = collisions.iter().filter(|collision| self.shows(list, collision));
            notes.extend(shown.map(|collision| told(list, collision)));
        }
        notes
    }

    /// Tells whether clients see both sides of a collision.
    fn shows(&self, list: List, collision: &Collision) -> bool {
        let sees = |Origin { server, name }: &Origin| {
            let member = self.members.iter().find(|member| member.name == *server);
            list != List::Tools || member.is_some_and(|member| self.admits(member, name))
        };
        sees(&collision.owner) && sees(&collision.loser)
    }
}

fn told(list: List, collision: &Collision) -> String {
    let Collision { name, owner, loser, given } = collision;
    let kind = list.kind();
    format!(
        "{kind} `{}` of server `{}` is called `{}`: `{name}` is {kind} `{}` of server `{}`",
        loser.name,
        loser.server,
        given.as_deref().unwrap_or_default(),
        owner.name,
        owner.server
    )
}
