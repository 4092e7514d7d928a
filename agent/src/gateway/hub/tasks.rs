//! Who runs a task: servers number their tasks themselves, and only its maker may ask for one.

use std::collections::{HashMap, VecDeque};

use mcpm_shared::access::Principal;

/// How many tasks are remembered.
const MAX: usize = 4096;

/// The owners of tasks, the latest ones.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    of: HashMap<(Principal, String), usize>,
    oldest: VecDeque<(Principal, String)>,
}

impl Tasks {
    pub(super) fn learn(&mut self, id: &str, principal: &Principal, member: usize) {
        let key = (principal.clone(), id.to_owned());
        if self.of.insert(key.clone(), member).is_none() {
            self.oldest.push_back(key);
        }
        if self.oldest.len() > MAX
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.of.remove(&oldest);
        }
    }

    /// Tells whether a task of a server was made by somebody else, and not by this one.
    pub(super) fn is_of_another(&self, id: &str, principal: &Principal, member: usize) -> bool {
        self.owner(id, principal) != Some(member)
            && self.of.iter().any(|((_, of), at)| of == id && *at == member)
    }

    pub(super) fn owner(&self, id: &str, principal: &Principal) -> Option<usize> {
        self.of.get(&(principal.clone(), id.to_owned())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_there_for_its_maker_only_and_the_oldest_are_forgotten() {
        let (ann, bob) = (Principal::Token("ann".into()), Principal::Token("bob".into()));
        let mut tasks = Tasks::default();
        tasks.learn("t", &ann, 3);
        assert_eq!(tasks.owner("t", &ann), Some(3));
        assert_eq!(tasks.owner("t", &bob), None);
        assert!(tasks.is_of_another("t", &bob, 3));
        assert!(!tasks.is_of_another("t", &ann, 3));
        assert!(!tasks.is_of_another("t", &bob, 4), "another server's task with this number");
        for n in 0..MAX {
            tasks.learn(&n.to_string(), &bob, 0);
        }
        assert_eq!(tasks.owner("t", &ann), None);
    }
}
