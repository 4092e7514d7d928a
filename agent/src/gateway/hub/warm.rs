//! Servers that are started before anybody uses them.

use std::sync::Arc;

use super::Hub;
use super::member::{Isolation, Member, SlotKey, Unavailable};
use super::session::{Session, shared_client};
use crate::gateway::upstream::Opening;
use crate::mcp::era::Era;

impl Hub {
    /// Starts what is to be warm and that everybody shares.
    pub(in crate::gateway) fn warm(self: &Arc<Self>) {
        for member in self.warm_members().filter(|m| m.isolation == Isolation::Shared) {
            // Where the era is not known yet: nearly all servers speak the legacy one.
            let era = member.known().hop(Era::Legacy).unwrap_or(Era::Legacy);
            self.start_early(member, SlotKey::Shared(era), shared_client().opening(era));
        }
    }

    /// Starts what is to be warm for a client that has just come.
    pub(super) fn warm_for(self: &Arc<Self>, session: &Session) {
        for member in self.warm_members() {
            if session.view.has(member.index).is_some() {
                let key = session.slot_key(member);
                self.start_early(member, key.clone(), session.opening(&key));
            }
        }
    }

    fn warm_members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter().filter(|member| self.warm[member.index])
    }

    /// Starts a conversation in the background. Whoever wants it meanwhile waits for the same start.
    fn start_early(self: &Arc<Self>, member: &Arc<Member>, key: SlotKey, opening: Opening) {
        // The place is taken now: a client that goes before the server is there closes it.
        let slot = member.slot(key);
        let (hub, member) = (self.clone(), member.clone());
        self.scope().spawn_until_cancelled(async move {
            drop(slot.conn(&hub, &member, || opening).await.inspect_err(Unavailable::log));
        });
    }
}
