//! Names of tools and prompts, and owners of URIs, in an aggregate of several servers.
//!
//! A tool or prompt is advertised as `<server>_<name>`, as `mcpm` 2.x does, and found again by a
//! map, never by splitting: servers and tools may both have `_` in their names. The advertised name
//! depends on the server's and the item's own names alone, so that adding a server to a profile
//! renames nothing. Only where two would be advertised alike does the later one differ, and then it
//! is told. URIs are never rewritten; [`Uris`] knows whom to ask for them.

mod template;
mod uris;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

pub use self::uris::Uris;

/// How long an advertised name may be: what the large model APIs accept.
pub const MAX_NAME: usize = 64;
/// How many entries one table holds; what a server lists beyond that is not routed.
pub const MAX_ENTRIES: usize = 100_000;
/// How many bytes of text of servers one table holds.
const MAX_TEXT: usize = 32 * 1024 * 1024;
/// How many hexadecimal digits tell a cut or colliding name from its likes.
const HASH_LEN: usize = 8;

/// Returns the text with every character but `[A-Za-z0-9_-]` replaced by `_`.
#[must_use]
pub fn sanitised(text: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    text.chars().map(keep).collect()
}

/// Returns what the advertised names of a server start with, unless that is longer than a name.
#[must_use]
pub fn prefix(server: &str) -> String {
    format!("{}_", sanitised(server))
}

/// Returns the name under which a server's tool or prompt is advertised when no other claims it:
/// at most 64 characters of `[A-Za-z0-9_-]`, the same for ever.
#[must_use]
pub fn advertised(server: &str, name: &str) -> String {
    candidate(server, name, 0)
}

/// Returns the name to try after `attempt` were taken; all but the first end in a hash.
fn candidate(server: &str, name: &str, attempt: u32) -> String {
    let mut text = prefix(server) + &sanitised(name);
    if attempt == 0 && text.len() <= MAX_NAME {
        return text;
    }
    let digest = Sha256::new()
        // The length tells where the server's name ends, so that no two pairs are hashed alike.
        .chain_update((server.len() as u64).to_be_bytes())
        .chain_update(server)
        .chain_update(name)
        .chain_update(attempt.to_be_bytes())
        .finalize();
    text.truncate(MAX_NAME - HASH_LEN - 1);
    text.push('_');
    text.extend(digest.iter().flat_map(hex_digits).take(HASH_LEN));
    text
}

/// Returns the two lower-case hexadecimal digits of a byte.
fn hex_digits(byte: &u8) -> [char; 2] {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    [digit(byte >> 4), digit(byte & 15)]
}

/// Where something in an aggregate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The name of the server.
    pub server: String,
    /// What the server itself calls it: a name, a URI or a template.
    pub name: String,
}

/// Two things of an aggregate that would be reached alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The advertised name, the URI or the template in question.
    pub name: String,
    /// Who has it: the server that is configured first.
    pub owner: Origin,
    /// Who does not.
    pub loser: Origin,
    /// The name that a tool or prompt got instead; without one it cannot be reached.
    pub given: Option<String>,
}

/// The advertised names of one kind, tools or prompts, of an aggregate; maps both ways.
#[derive(Debug)]
pub struct Names {
    servers: Vec<Arc<str>>,
    /// Who has an advertised name.
    claims: HashMap<Arc<str>, Claim>,
    /// For each server, the advertised names by original ones.
    given: Vec<HashMap<Arc<str>, Arc<str>>>,
    /// Who did not get the name of its first choice.
    lost: Vec<Claim>,
    /// How many of them were told.
    told: usize,
    text: usize,
    /// How often a name was given.
    changes: u64,
}

#[derive(Clone, Debug)]
struct Claim {
    server: usize,
    original: Arc<str>,
    attempt: u32,
}

impl Claim {
    /// The lower wins. All claimants of a name are ranked alike, so that who has which name in the
    /// end does not depend on who came first.
    fn rank(&self) -> (usize, bool, &str) {
        (self.server, sanitised(&self.original) != *self.original, &self.original)
    }
}

impl Names {
    /// Makes an empty table for these servers, in configured order.
    #[must_use]
    pub fn new<S: AsRef<str>>(servers: &[S]) -> Self {
        Self {
            servers: servers.iter().map(|server| server.as_ref().into()).collect(),
            claims: HashMap::new(),
            given: vec![HashMap::new(); servers.len()],
            lost: Vec::new(),
            told: 0,
            text: 0,
            changes: 0,
        }
    }

    /// Notes that a server has this item and returns the name it is advertised by.
    ///
    /// A server that is configured before takes a contested name away from a later one when it
    /// comes, so lists are made when all that is known is noted, or from [`Names::name_of`].
    /// Beyond [`MAX_ENTRIES`] the name is returned but not noted: it resolves to nothing.
    ///
    /// # Panics
    /// When `server` is no index into the servers of this table.
    pub fn advertise(&mut self, server: usize, original: &str) -> String {
        if let Some(name) = self.name_of(server, original) {
            return name.to_owned();
        }
        if self.is_full(original.len()) {
            return advertised(&self.servers[server], original);
        }
        self.text += original.len();
        self.place(Claim { server, original: original.into(), attempt: 0 });
        self.name_of(server, original).unwrap_or_default().to_owned()
    }

    /// Returns the name by which an item that was noted is advertised now.
    #[must_use]
    pub fn name_of(&self, server: usize, original: &str) -> Option<&str> {
        self.given.get(server)?.get(original).map(|name| &**name)
    }

    /// Returns the server and the original name behind an advertised one.
    #[must_use]
    pub fn resolve(&self, advertised: &str) -> Option<(usize, &str)> {
        self.claims.get(advertised).map(|claim| (claim.server, &*claim.original))
    }

    /// Returns the server of an original name when exactly one has it.
    ///
    /// MCP Apps and skills call tools by the server's own names. To be asked after
    /// [`Names::resolve`], since one server's name may be another's advertised one.
    #[must_use]
    pub fn resolve_bare(&self, original: &str) -> Option<(usize, &str)> {
        let having = |(server, given): (usize, &'_ HashMap<Arc<str>, _>)| {
            given.contains_key(original).then_some(server)
        };
        let mut servers = self.given.iter().enumerate().filter_map(having);
        let server = servers.next()?;
        if servers.next().is_some() {
            return None;
        }
        self.given[server].get_key_value(original).map(|(original, _)| (server, &**original))
    }

    /// Returns all that did not get the name of their first choice, and who has it.
    #[must_use]
    pub fn collisions(&self) -> Vec<Collision> {
        self.collisions_from(0)
    }

    /// Returns the collisions that were not returned by this before.
    pub fn new_collisions(&mut self) -> Vec<Collision> {
        let told = std::mem::replace(&mut self.told, self.lost.len());
        self.collisions_from(told)
    }

    fn collisions_from(&self, first: usize) -> Vec<Collision> {
        let collision = |loser: &Claim| {
            let name = advertised(&self.servers[loser.server], &loser.original);
            let owner = self.origin(self.claims.get(name.as_str())?);
            let given = self.name_of(loser.server, &loser.original).map(str::to_owned);
            Some(Collision { name, owner, loser: self.origin(loser), given })
        };
        self.lost[first..].iter().filter_map(collision).collect()
    }

    /// Returns a number that changes when any name does.
    #[must_use]
    pub const fn state(&self) -> u64 {
        self.changes
    }

    /// Returns how many names are noted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Returns whether no name is noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    fn is_full(&self, more: usize) -> bool {
        self.claims.len() >= MAX_ENTRIES || self.text + more > MAX_TEXT
    }

    fn origin(&self, claim: &Claim) -> Origin {
        Origin { server: self.servers[claim.server].to_string(), name: claim.original.to_string() }
    }

    /// Gives the claim the first of its names that nobody of lower rank has; whoever is displaced
    /// moves on in the same way.
    fn place(&mut self, mut claim: Claim) {
        self.changes += 1;
        loop {
            let server = &self.servers[claim.server];
            let name: Arc<str> = candidate(server, &claim.original, claim.attempt).into();
            match self.claims.entry(name.clone()) {
                Entry::Vacant(free) => {
                    self.given[claim.server].insert(claim.original.clone(), name);
                    free.insert(claim);
                    return;
                }
                Entry::Occupied(mut held) if claim.rank() < held.get().rank() => {
                    self.given[claim.server].insert(claim.original.clone(), name);
                    claim = held.insert(claim);
                }
                Entry::Occupied(_) => {}
            }
            if claim.attempt == 0 {
                self.lost.push(claim.clone());
            }
            claim.attempt += 1;
        }
    }
}

#[cfg(test)]
mod tests;
