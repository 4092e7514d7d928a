//! The lists that the clients of a view got last: hosts ask again and again, and making one reads all
//! of its text.

use std::sync::{Arc, Mutex};

use super::kinds::List;
use super::lists::Part;
use super::lock;
use crate::mcp::era::Era;

/// One list for each era of clients.
#[derive(Debug, Default)]
pub(super) struct Merged([Mutex<[Option<Last>; 4]>; 2]);

/// A list, and what it was made of.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) parts: Vec<Part>,
    /// The state of the names when it was made.
    pub(super) names: u64,
    pub(super) result: Arc<str>,
}

impl Merged {
    /// Returns a list that was made of these parts, with the names as they are.
    pub(super) fn get(&self, era: Era, list: List, parts: &[Part], names: u64) -> Option<Arc<str>> {
        let lists = lock(&self.0[usize::from(era == Era::Modern)]);
        let last = lists[list.at()].as_ref().filter(|last| last.names == names)?;
        let same = |(now, then): (&Part, &Part)| {
            now.member.index == then.member.index
                && now.era == then.era
                && Arc::ptr_eq(&now.items, &then.items)
        };
        let all = last.parts.len() == parts.len() && parts.iter().zip(&last.parts).all(same);
        all.then(|| last.result.clone())
    }

    /// Returns the list that was made last.
    #[cfg(test)]
    pub(super) fn last(&self, era: Era, list: List) -> Option<Arc<str>> {
        let lists = lock(&self.0[usize::from(era == Era::Modern)]);
        lists[list.at()].as_ref().map(|last| last.result.clone())
    }

    /// Keeps a list; its parts are held, so that no others are taken for them.
    pub(super) fn keep(&self, era: Era, list: List, last: Last) {
        lock(&self.0[usize::from(era == Era::Modern)])[list.at()] = Some(last);
    }
}
