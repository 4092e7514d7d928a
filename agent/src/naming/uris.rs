//! Who owns a URI in an aggregate. URIs are identities and are never rewritten.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::template::Template;
use super::{Collision, MAX_ENTRIES, MAX_TEXT, Origin};

/// How many templates are held; each may be looked at for a URI that nobody listed.
const MAX_TEMPLATES: usize = 1000;
/// How many collisions are held; more would only repeat the warning.
const MAX_COLLISIONS: usize = 1000;
/// How many schemes are held.
const MAX_SCHEMES: usize = 1000;
/// How long a URI may be to be held: `data:` URIs are content rather than names.
const MAX_URI: usize = 8192;

/// What is known about which server of an aggregate has which resources.
#[derive(Debug)]
pub struct Uris {
    servers: Vec<Arc<str>>,
    /// In order, so that the nearest relatives of an unknown URI stand beside it.
    known: BTreeMap<Box<str>, Known>,
    learnt: usize,
    text: usize,
    /// The ones with most literal text first, then in configured order.
    templates: Vec<Claimed>,
    schemes: HashMap<String, BTreeSet<usize>>,
    lost: BTreeSet<(Box<str>, usize)>,
}

#[derive(Debug)]
struct Known {
    server: usize,
    /// The server lists it, rather than having named it in some result.
    listed: bool,
}

#[derive(Debug)]
struct Claimed {
    server: usize,
    text: Box<str>,
    /// `None` when it cannot be matched; it is still known by its text.
    template: Option<Template>,
}

impl Claimed {
    fn order(&self) -> (std::cmp::Reverse<usize>, usize) {
        (std::cmp::Reverse(self.template.as_ref().map_or(0, Template::weight)), self.server)
    }
}

impl Uris {
    /// Makes an empty table for these servers, in configured order.
    #[must_use]
    pub fn new<S: AsRef<str>>(servers: &[S]) -> Self {
        Self {
            servers: servers.iter().map(|server| server.as_ref().into()).collect(),
            known: BTreeMap::new(),
            learnt: 0,
            text: 0,
            templates: Vec::new(),
            schemes: HashMap::new(),
            lost: BTreeSet::new(),
        }
    }

    /// Notes that a server lists this resource; of several the first configured one owns it.
    pub fn claim(&mut self, server: usize, uri: &str) {
        if let Some(known) = self.known.get_mut(uri) {
            if !known.listed {
                *known = Known { server, listed: true };
                self.learnt -= 1;
            } else if known.server != server {
                let loser = known.server.max(server);
                known.server = known.server.min(server);
                self.note_loss(uri, loser);
            }
            return;
        }
        if self.is_full(uri) {
            // What is listed counts more than what was merely seen.
            self.forget_learnt();
        }
        self.insert(server, uri, true);
    }

    /// Notes that a server named this URI in a result, or answered for it.
    pub fn learn(&mut self, server: usize, uri: &str) {
        match self.known.get_mut(uri) {
            Some(known) if known.listed => {}
            Some(known) => known.server = server,
            None => self.insert(server, uri, false),
        }
    }

    /// Notes that a server lists this template (RFC 6570).
    pub fn claim_template(&mut self, server: usize, text: &str) {
        let same = self.templates.iter().filter(|claimed| *claimed.text == *text);
        let holders: Vec<usize> = same.map(|claimed| claimed.server).collect();
        let too_much = self.templates.len() >= MAX_TEMPLATES || text.len() > MAX_URI;
        if holders.contains(&server) || too_much {
            return;
        }
        if let Some(first) = holders.iter().copied().min() {
            self.note_loss(text, first.max(server));
        }
        let claimed = Claimed { server, text: text.into(), template: Template::parse(text) };
        let at = self.templates.partition_point(|held| held.order() <= claimed.order());
        self.templates.insert(at, claimed);
        self.note_scheme(server, text);
    }

    /// Forgets who lists what, before it is noted anew. Where URIs were seen stays as a hint.
    pub fn unlist(&mut self) {
        for known in self.known.values_mut() {
            known.listed = false;
        }
        self.learnt = self.known.len();
        self.templates.clear();
        self.lost.clear();
    }

    /// Returns the servers to ask for a URI, in this order.
    ///
    /// The owner alone when a server lists the URI, or the template that this text is. Otherwise
    /// all: who named it before, whose templates match, who has its nearest relatives, who has any
    /// of its scheme, and the others in configured order.
    #[must_use]
    pub fn owner(&self, uri: &str) -> Vec<usize> {
        if let Some(owner) = self.listed(uri) {
            return vec![owner];
        }
        let learnt = self.known.get(uri).map(|known| known.server);
        let matching = self
            .templates
            .iter()
            .filter(|claimed| claimed.template.as_ref().is_some_and(|t| t.matches(uri)))
            .map(|claimed| claimed.server);
        let scheme = scheme(uri).and_then(|scheme| self.schemes.get(&scheme));
        let ranked = learnt
            .into_iter()
            .chain(matching)
            .chain(self.relatives(uri))
            .chain(scheme.into_iter().flatten().copied())
            .chain(0..self.servers.len());
        let mut asked = vec![false; self.servers.len()];
        ranked
            .filter(|server| {
                asked.get_mut(*server).is_some_and(|asked| !std::mem::replace(asked, true))
            })
            .collect()
    }

    /// Returns the URIs and templates that several servers list, at most 1000.
    #[must_use]
    pub fn collisions(&self) -> Vec<Collision> {
        let origin = |server: usize, name: &str| Origin {
            server: self.servers.get(server).map(ToString::to_string).unwrap_or_default(),
            name: name.to_owned(),
        };
        let collision = |(name, loser): &(Box<str>, usize)| {
            let owner = self.listed(name)?;
            let (owner, loser) = (origin(owner, name), origin(*loser, name));
            Some(Collision { name: name.to_string(), owner, loser, given: None })
        };
        self.lost.iter().filter_map(collision).collect()
    }

    /// Returns who owns a listed URI, or a listed template by its text.
    fn listed(&self, text: &str) -> Option<usize> {
        if let Some(known) = self.known.get(text).filter(|known| known.listed) {
            return Some(known.server);
        }
        let same = self.templates.iter().filter(|claimed| *claimed.text == *text);
        same.map(|claimed| claimed.server).min()
    }

    /// Returns who has the known URIs that begin most like this one, up to a `/` or the scheme.
    fn relatives(&self, uri: &str) -> impl Iterator<Item = usize> {
        let mut before = self.known.range::<str, _>((Bound::Unbounded, Bound::Excluded(uri)));
        let mut after = self.known.range::<str, _>((Bound::Excluded(uri), Bound::Unbounded));
        let mut near: Vec<(usize, usize)> = [before.next_back(), after.next()]
            .into_iter()
            .flatten()
            .map(|(known, at)| (common(known, uri), at.server))
            .filter(|(common, _)| *common > 0)
            .collect();
        near.sort_by_key(|(common, server)| (std::cmp::Reverse(*common), *server));
        near.into_iter().map(|(_, server)| server)
    }

    fn insert(&mut self, server: usize, uri: &str, listed: bool) {
        if self.is_full(uri) || uri.len() > MAX_URI {
            return;
        }
        self.text += uri.len();
        self.learnt += usize::from(!listed);
        self.known.insert(uri.into(), Known { server, listed });
        self.note_scheme(server, uri);
    }

    fn is_full(&self, uri: &str) -> bool {
        self.known.len() >= MAX_ENTRIES || self.text + uri.len() > MAX_TEXT
    }

    fn forget_learnt(&mut self) {
        if self.learnt > 0 {
            self.known.retain(|_, known| known.listed);
            self.text = self.known.keys().map(|uri| uri.len()).sum();
            self.learnt = 0;
        }
    }

    fn note_scheme(&mut self, server: usize, uri: &str) {
        let Some(scheme) = scheme(uri) else { return };
        if self.schemes.len() < MAX_SCHEMES || self.schemes.contains_key(&scheme) {
            self.schemes.entry(scheme).or_default().insert(server);
        }
    }

    fn note_loss(&mut self, name: &str, loser: usize) {
        if self.lost.len() < MAX_COLLISIONS {
            self.lost.insert((name.into(), loser));
        }
    }
}

/// Returns the scheme of a URI in lower case (RFC 3986 §3.1).
fn scheme(uri: &str) -> Option<String> {
    let (scheme, _) = uri.split_once(':')?;
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"+.-".contains(&b);
    let ok = (1..=64).contains(&scheme.len()) && scheme.bytes().all(valid);
    ok.then(|| scheme.to_ascii_lowercase())
}

/// Returns how many bytes two URIs have in common, up to the last `/` or `:` of those.
fn common(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let end = a.as_bytes()[..same].iter().rposition(|byte| matches!(byte, b'/' | b':'));
    end.map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uris() -> Uris {
        Uris::new(&["a", "b", "c"])
    }

    #[test]
    fn a_listed_uri_belongs_to_the_server_that_is_configured_first_whoever_answers_first() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut uris = uris();
            for server in order {
                uris.claim(server, "file:///x");
                uris.claim_template(server, "file:///{y}");
            }
            assert_eq!(uris.owner("file:///x"), [0]);
            assert_eq!(uris.owner("file:///{y}"), [0]);
            let found: Vec<_> = uris
                .collisions()
                .into_iter()
                .map(|c| (c.name, c.owner.server, c.loser.server))
                .collect();
            let expected = ["file:///x", "file:///{y}"].into_iter().flat_map(|name| {
                ["b", "c"].map(|loser| (name.to_owned(), "a".to_owned(), loser.to_owned()))
            });
            assert_eq!(found, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_server_that_lists_a_resource_twice_does_not_collide_with_itself() {
        let mut uris = uris();
        uris.claim(1, "x:1");
        uris.claim(1, "x:1");
        uris.claim_template(1, "x:{a}");
        uris.claim_template(1, "x:{a}");
        assert!(uris.collisions().is_empty());
    }

    #[test]
    fn the_most_literal_template_is_asked_first() {
        let mut uris = uris();
        uris.claim_template(0, "{+anything}");
        uris.claim_template(1, "note://{id}");
        uris.claim_template(2, "note://special-{id}");
        assert_eq!(uris.owner("note://special-1"), [2, 1, 0]);
        assert_eq!(uris.owner("note://1"), [1, 0, 2]);
        assert_eq!(uris.owner("other://1"), [0, 1, 2]);
    }

    #[test]
    fn who_named_a_uri_before_is_asked_first_until_somebody_lists_it() {
        let mut uris = uris();
        uris.learn(2, "ui://app/main.html");
        assert_eq!(uris.owner("ui://app/main.html"), [2, 0, 1]);
        uris.learn(1, "ui://app/main.html");
        assert_eq!(uris.owner("ui://app/main.html"), [1, 2, 0]);
        uris.claim(0, "ui://app/main.html");
        uris.learn(2, "ui://app/main.html");
        assert_eq!(uris.owner("ui://app/main.html"), [0]);
    }

    #[test]
    fn the_nearest_relative_comes_before_others_of_the_scheme() {
        let mut uris = uris();
        uris.claim(1, "file:///home/one/a.txt");
        uris.claim(2, "file:///srv/b.txt");
        assert_eq!(uris.owner("file:///srv/c/d.txt"), [2, 1, 0]);
        assert_eq!(uris.owner("file:///home/one/z"), [1, 2, 0]);
        uris.learn(2, "skill://review/SKILL.md");
        assert_eq!(uris.owner("skill://review/more.md"), [2, 0, 1]);
        assert_eq!(uris.owner("SKILL:other"), [2, 0, 1]);
        assert_eq!(uris.owner("no scheme"), [0, 1, 2]);
    }

    #[test]
    fn lists_that_are_noted_anew_replace_the_old_ones() {
        let mut uris = uris();
        uris.claim(0, "x:1");
        uris.claim(1, "x:1");
        uris.unlist();
        assert!(uris.collisions().is_empty());
        assert_eq!(uris.owner("x:1"), [0, 1, 2]);
        uris.claim(1, "x:1");
        assert_eq!(uris.owner("x:1"), [1]);
    }

    #[test]
    fn a_full_table_drops_what_was_seen_for_what_is_listed() {
        let mut uris = uris();
        for n in 0..MAX_ENTRIES {
            uris.learn(1, &format!("x:{n}"));
        }
        uris.learn(1, "y:1");
        assert_eq!(uris.known.len(), MAX_ENTRIES);
        uris.claim(2, "y:2");
        assert_eq!(uris.owner("y:2"), [2]);
        assert_eq!((uris.known.len(), uris.learnt), (1, 0));
    }

    #[test]
    fn a_uri_that_is_content_is_not_held() {
        let mut uris = uris();
        uris.learn(1, &format!("data:,{}", "x".repeat(MAX_URI)));
        assert!(uris.known.is_empty());
    }
}
