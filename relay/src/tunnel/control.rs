//! What an agent asks for on its control stream.

use std::net::IpAddr;
use std::sync::Arc;

use mcpm_shared::name::Name;
use mcpm_shared::proto::control::{
    AgentMessage, Beat, Claim, Claimed, Refused, RelayMessage, Release, Unsupported, Update,
};
use mcpm_shared::proto::{Refusal, ShareMode, code};

use super::Tunnels;
use super::debts::Debt;
use super::session::{Outbox, Session};
use super::share::{Share, ShareFacts, rate_address};
use super::table::{Installed, Left};
use crate::admission::unix_now;
use crate::grants::Ticket;
use crate::host::Kept;
use crate::metrics::ClaimResult;
use crate::store::{Claim as StoreClaim, ClaimError, Lease, StoreError, Tally, until_next_hour};

/// One control stream's side of the conversation.
pub(super) struct Speaker<'a> {
    pub(super) tunnels: &'a Tunnels,
    pub(super) session: &'a Arc<Session>,
    pub(super) peer: IpAddr,
    pub(super) outbox: Outbox,
    /// Whether this is the session's first connection: only that one claims.
    pub(super) primary: bool,
}

impl Speaker<'_> {
    /// Does what a message asks for and answers it. Not cancel-safe.
    pub(super) async fn handle(&mut self, message: AgentMessage) {
        match message {
            AgentMessage::Ping(beat) => self.say(RelayMessage::Pong(Beat { seq: beat.seq })).await,
            AgentMessage::Claim(claim) if self.primary => self.claim(claim).await,
            AgentMessage::Update(update) if self.primary => self.update(update).await,
            AgentMessage::Release(release) if self.primary => self.release(release).await,
            // Nothing is asked yet that an agent could decide over; an answer changes nothing.
            AgentMessage::Decision(_) | AgentMessage::Unsupported(_) => {}
            _ => self.say(RelayMessage::Unsupported(Unsupported { message_type: None })).await,
        }
    }

    async fn say(&self, message: RelayMessage) {
        // The writer's end is noticed by whoever drives the connection.
        let _sent = self.outbox.send(Box::new(message)).await;
    }

    async fn refuse(&self, request: u32, refusal: Refusal) {
        tracing::info!(code = %refusal.code, agent.id = %self.session.admitted.subject, "refused");
        self.say(RelayMessage::Refused(Refused { request, refusal })).await;
    }

    async fn claim(&self, claim: Claim) {
        let request = claim.request;
        match self.granted(&claim).await {
            Ok((lease, expires_at)) => self.install(claim, lease, expires_at).await,
            Err((result, refusal)) => {
                self.tunnels.metrics.claim(result);
                match result {
                    // A failure decides nothing.
                    ClaimResult::Failed => {}
                    // Not a row each: whoever asks too often would fill the trail.
                    ClaimResult::Limited => self.tunnels.note_limited(self.session, self.peer),
                    _ => self.audit("name.refuse", &claim.name, refusal.code.clone()),
                }
                self.refuse(request, refusal).await;
            }
        }
    }

    /// Decides over a claim, last of all in the store.
    async fn granted(&self, claim: &Claim) -> Result<(Lease, Option<u64>), (ClaimResult, Refusal)> {
        self.check_claim(claim)?;
        let taken = self.take_name(claim).await?;
        let granted = self.ask_store(claim).await;
        if granted.is_err() {
            taken.give_back(self.tunnels).await;
        }
        granted
    }

    /// Counts a name that was not the owner's before, where these are limited: in the store, for all
    /// nodes together.
    async fn take_name(&self, claim: &Claim) -> Result<Taken, (ClaimResult, Refusal)> {
        let (tunnels, now) = (self.tunnels, unix_now());
        let owner = self.session.admitted.owner.as_str();
        let by_owner = tunnels.owners.meter(owner).names_limit();
        let by_address = tunnels.owners.names_per_address();
        let mut taken = Taken::default();
        let unlimited = by_owner.is_none() && by_address.is_none();
        if unlimited || self.is_own(claim, now).await {
            return Ok(taken);
        }
        // The address first: an owner costs nothing to make where anybody may come in, and a row of
        // the store for each would be left of claims that their address may not make.
        let address = tunnels.key.pseudonym(&rate_address(self.peer).to_string());
        let parties = [
            (by_address, format!("names/address/{address}"), "your address has"),
            (by_owner, format!("names/owner/{owner}"), "you have"),
        ];
        for (limit, what, whose) in parties {
            let Some(limit) = limit else { continue };
            let tally = Tally::of_hour(what, now, limit);
            let (what, began) = (tally.what.clone(), tally.began);
            let refused = match tunnels.store.count(tally).await {
                Ok(true) => {
                    taken.0.push((what, began));
                    continue;
                }
                Ok(false) => (ClaimResult::TooMany, too_many_names(whose, now)),
                Err(error) => store_refusal(&error.into()),
            };
            taken.give_back(tunnels).await;
            return Err(refused);
        }
        Ok(taken)
    }

    /// Tells whether a name is the owner's already: by a ticket, as this node remembers, or as the
    /// store says. While the store is away no name is new.
    async fn is_own(&self, claim: &Claim, now: u64) -> bool {
        let (tunnels, owner) = (self.tunnels, self.session.admitted.owner.as_str());
        if self.ticket_floor(claim, now) > 0
            || tunnels.table.last_lease(&claim.name).is_some_and(|left| left.owner == owner)
        {
            return true;
        }
        match tunnels.store.lease(&claim.name).await {
            Ok(lease) => lease.is_some_and(|lease| lease.owner == owner),
            Err(error) => error.is_unreachable(),
        }
    }

    async fn ask_store(
        &self,
        claim: &Claim,
    ) -> Result<(Lease, Option<u64>), (ClaimResult, Refusal)> {
        let (tunnels, admitted) = (self.tunnels, &self.session.admitted);
        let now = unix_now();
        let config = tunnels.config.load_full();
        let ttl = config.timing.share_ttl.map(|ttl| ttl.as_secs());
        let wanted = [claim.expires_in_secs, ttl].into_iter().flatten().min();
        let expires_at = wanted.map(|secs| now.saturating_add(secs));
        let limit = admitted.max_shares.unwrap_or(config.limits.max_shares_per_owner);
        let ask = StoreClaim {
            name: claim.name.clone(),
            owner: admitted.owner.as_str().to_owned(),
            node: config.node.clone(),
            mode: claim.mode,
            floor_generation: self.ticket_floor(claim, now),
            now,
            expires_at,
            keep_secs: config.timing.keep_name.as_secs(),
            max_live: limit,
        };
        let lease = match tunnels.store.claim(ask.clone()).await {
            Err(ClaimError::Store(error)) if error.is_unreachable() => self.give_back(ask, error),
            decided => decided,
        };
        match lease {
            Ok(lease) => Ok((lease, expires_at)),
            Err(error) => Err(store_refusal(&error)),
        }
    }

    /// Decides over a claim while the store does not answer: whoever had the name, by a ticket or
    /// as this node remembers, gets it back. Everybody else must wait.
    fn give_back(&self, ask: StoreClaim, error: StoreError) -> Result<Lease, ClaimError> {
        let tunnels = self.tunnels;
        let remembered = tunnels.table.last_lease(&ask.name).filter(|left| left.owner == ask.owner);
        let remembered = remembered.map_or(0, |left| left.generation);
        let last = ask.floor_generation.max(remembered);
        if last == 0 {
            return Err(error.into());
        }
        if !tunnels.rules.allow(&ask.name, &ask.owner, ask.now) {
            return Err(ClaimError::Kept(ask.name));
        }
        let others = self.session.share_count();
        if others >= ask.max_live as usize {
            return Err(ClaimError::TooMany { max: ask.max_live });
        }
        let lease = Lease {
            name: ask.name,
            owner: ask.owner,
            generation: last.saturating_add(1),
            node: ask.node,
            mode: ask.mode,
            claimed_at: ask.now,
            held_until: ask.expires_at,
            released_at: None,
        };
        if !tunnels.debts.owe(Debt::Given(lease.clone())) {
            return Err(error.into());
        }
        tracing::warn!(share.name = %lease.name, "name given from memory: the store is away");
        Ok(lease)
    }

    fn audit(&self, action: &str, name: &Name, detail: impl Into<String>) {
        let owner = self.session.admitted.owner.as_str();
        self.tunnels.debts.audit(action, owner, name.as_str(), detail);
    }

    fn check_claim(&self, claim: &Claim) -> Result<(), (ClaimResult, Refusal)> {
        let (tunnels, admitted) = (self.tunnels, &self.session.admitted);
        let by_key = tunnels.claims.by_key.check(&admitted.subject);
        let by_address = tunnels.claims.by_address.check(&rate_address(self.peer));
        if let Err(wait) = by_key.and(by_address) {
            let refusal =
                Refusal::new(code::RATE_LIMITED, "too many names claimed in a short time")
                    .retry_after(wait.as_secs().max(1));
            return Err((ClaimResult::Limited, refusal));
        }
        let forbidden = |refusal| Err((ClaimResult::Forbidden, refusal));
        if tunnels.owners.is_blocked(admitted.owner.as_str()) {
            return forbidden(tunnels.blocked());
        }
        let kept = tunnels.config.load().labels.keep(&claim.name);
        if let Some(kept) = kept.filter(|_| !self.is_granted(&claim.name)) {
            return forbidden(kept_refusal(kept, &claim.name));
        }
        if !admitted.names.allows(&claim.name) {
            let message = format!("the token does not allow the name `{}`", claim.name);
            let allowed = admitted.names.to_texts().join(", ");
            return forbidden(
                Refusal::new(code::NAME_FORBIDDEN, message)
                    .hint(format!("Choose a --subdomain that it allows: {allowed}")),
            );
        }
        if claim.mode == ShareMode::Http && !tunnels.config.load().http_mode {
            return forbidden(
                Refusal::new(code::MODE_FORBIDDEN, "this relay serves MCP only, not any HTTP")
                    .hint("Share an MCP server with `mcpm share`, or use a relay with --http-mode"),
            );
        }
        if let Err(refusal) = tunnels.admission.recheck(admitted, unix_now()) {
            return forbidden(refusal);
        }
        Ok(())
    }

    /// Tells whether an operator reserved the name for this owner: then no list counts.
    fn is_granted(&self, name: &Name) -> bool {
        self.tunnels.rules.grant(name, self.session.admitted.owner.as_str())
    }

    /// Returns the generation that a valid ticket proves, so that a store that forgot does not
    /// count from one again.
    fn ticket_floor(&self, claim: &Claim, now: u64) -> u64 {
        let Some(ticket) = &claim.ticket else { return 0 };
        match self.tunnels.key.verify_ticket(ticket, now) {
            Ok(ticket)
                if ticket.name == claim.name
                    && ticket.owner == self.session.admitted.owner.as_str() =>
            {
                ticket.generation
            }
            Ok(_) | Err(_) => 0,
        }
    }

    async fn install(&self, claim: Claim, lease: Lease, expires_at: Option<u64>) {
        let (tunnels, session) = (self.tunnels, self.session);
        let facts = ShareFacts {
            id: session.next_share_id(),
            name: lease.name.clone(),
            generation: lease.generation,
            owner: lease.owner.clone(),
            mode: claim.mode,
        };
        let claimed = self.claimed(&claim, &facts, expires_at);
        let share = Share::new(
            facts,
            Arc::clone(session),
            claim.access,
            expires_at,
            tunnels.owners.meter(session.admitted.owner.as_str()),
            Arc::clone(&tunnels.metrics),
        );
        let share = Arc::new(share);
        // The agent hears of the share before any visitor's stream can name it: both take the same
        // connection's order, or the agent waits for the message when streams overtake it.
        session.add_share(Arc::clone(&share));
        self.say(RelayMessage::Claimed(claimed)).await;
        match tunnels.table.install(&share) {
            Installed::Serving(displaced) => {
                tunnels.metrics.claim(ClaimResult::Given);
                let generation = share.facts.generation;
                self.audit("name.claim", &share.facts.name, format!("generation {generation}"));
                tracing::info!(
                    share.name = %share.facts.name,
                    share.generation = share.facts.generation,
                    agent.id = %session.admitted.subject,
                    "share up"
                );
                if let Some(displaced) = displaced {
                    let facts = &displaced.facts;
                    displaced.session.revoke(facts.id, superseded(&facts.name));
                }
            }
            Installed::Superseded => {
                share.end();
                session.revoke(share.facts.id, superseded(&share.facts.name));
            }
        }
    }

    fn claimed(&self, claim: &Claim, facts: &ShareFacts, expires_at: Option<u64>) -> Claimed {
        let tunnels = self.tunnels;
        let config = tunnels.config.load();
        let ticket = Ticket {
            name: facts.name.clone(),
            owner: facts.owner.clone(),
            generation: facts.generation,
            // As long as the name stays with its owner.
            expires_at: unix_now().saturating_add(config.timing.keep_name.as_secs()),
        };
        Claimed {
            request: claim.request,
            share: facts.id,
            name: facts.name.clone(),
            url: config.share_url(tunnels.bound, &facts.name, facts.mode),
            generation: facts.generation,
            ticket: tunnels.key.sign_ticket(&ticket),
            expires_at,
        }
    }

    async fn update(&self, update: Update) {
        let Some(share) = self.session.share(update.share) else {
            return self.refuse(update.request, no_such_share()).await;
        };
        if let Some(access) = update.access {
            share.set_access(access);
        }
        if let Some(secs) = update.expires_in_secs {
            let now = unix_now();
            let ttl = self.tunnels.config.load().timing.share_ttl.map(|ttl| ttl.as_secs());
            let expires_at = now.saturating_add(ttl.map_or(secs, |ttl| ttl.min(secs)));
            let (name, generation) = (&share.facts.name, share.facts.generation);
            match self.tunnels.store.renew(name, generation, now, Some(expires_at)).await {
                Ok(true) => share.set_expiry(Some(expires_at)),
                Ok(false) => self.refuse(update.request, no_such_share()).await,
                Err(error) if error.is_unreachable() && self.extend(&share, expires_at) => {}
                Err(error) => {
                    self.refuse(update.request, store_refusal(&error.into()).1).await;
                }
            }
        }
    }

    /// Moves the end of a share while the store does not answer; `false` when it is to be told too
    /// much already.
    fn extend(&self, share: &Share, expires_at: u64) -> bool {
        let facts = &share.facts;
        let lease = Lease {
            name: facts.name.clone(),
            owner: facts.owner.clone(),
            generation: facts.generation,
            node: self.tunnels.config.load().node.clone(),
            mode: facts.mode,
            claimed_at: unix_now(),
            held_until: Some(expires_at),
            released_at: None,
        };
        let owed = self.tunnels.debts.owe(Debt::Given(lease));
        if owed {
            share.set_expiry(Some(expires_at));
        }
        owed
    }

    async fn release(&self, release: Release) {
        let Some(share) = self.session.remove_share(release.share) else {
            return self.refuse(release.request, no_such_share()).await;
        };
        let (tunnels, facts) = (self.tunnels, &share.facts);
        tunnels.table.away(&share, false);
        let now = unix_now();
        let released = tunnels.store.release(&facts.name, &facts.owner, facts.generation, now);
        if released.await.is_err() {
            let (name, owner) = (facts.name.clone(), facts.owner.clone());
            tunnels.debts.ended(Left { name, owner, generation: facts.generation });
        }
        self.audit("name.release", &facts.name, "");
        tracing::info!(share.name = %facts.name, "share released");
    }
}

/// What a name was counted in as new, until the store has given it: of what, and in which hour.
#[derive(Default)]
struct Taken(Vec<(String, u64)>);

impl Taken {
    async fn give_back(self, tunnels: &Tunnels) {
        for (what, began) in self.0 {
            if let Err(error) = tunnels.store.take_back(&what, began).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a name counts too much");
            }
        }
    }
}

fn too_many_names(whose: &str, now: u64) -> Refusal {
    let message = format!("{whose} taken as many new names in this hour as allowed");
    Refusal::new(code::RATE_LIMITED, message)
        .hint("Use a name that you had before, or wait")
        .retry_after(until_next_hour(now))
}

fn kept_refusal(kept: Kept, name: &Name) -> Refusal {
    let why = match kept {
        Kept::Reserved => format!("the relay keeps the name `{name}` for itself"),
        Kept::Brand => format!("the name `{name}` looks like one that many trust"),
        Kept::Listed => format!("the operator of this relay does not give the name `{name}`"),
    };
    Refusal::new(code::NAME_RESERVED, why)
        .hint("Choose another --subdomain, or ask the relay's operator to reserve it for you")
}

/// What an agent is told whose name another one of its owner has claimed since.
pub fn superseded(name: &Name) -> Refusal {
    Refusal::new(code::SUPERSEDED, format!("another agent of yours shares `{name}` now"))
        .hint("Stop the other one, or choose another name with --subdomain")
}

fn no_such_share() -> Refusal {
    Refusal::new(code::EXPIRED, "the share has ended")
}

fn store_refusal(error: &ClaimError) -> (ClaimResult, Refusal) {
    match error {
        ClaimError::Taken(_) => (
            ClaimResult::Taken,
            Refusal::new(code::NAME_TAKEN, error.to_string())
                .hint("Choose another name with --subdomain, or leave it out for one of your own"),
        ),
        ClaimError::Cooling { .. } => (
            ClaimResult::Taken,
            Refusal::new(code::NAME_TAKEN, error.to_string())
                .hint("Choose another name with --subdomain, or come back later"),
        ),
        ClaimError::Kept(_) => (
            ClaimResult::Forbidden,
            Refusal::new(code::NAME_RESERVED, error.to_string())
                .hint("Choose another --subdomain, or ask the relay's operator"),
        ),
        ClaimError::TooMany { .. } => (
            ClaimResult::TooMany,
            Refusal::new(code::TOO_MANY_SHARES, error.to_string()).hint("Stop a share first"),
        ),
        ClaimError::Store(error) => {
            // That the store is away is said once, by those who guard it.
            if !error.is_unreachable() {
                tracing::error!(error = error as &dyn std::error::Error, "store failed");
            }
            let message = "the relay's database does not answer";
            (ClaimResult::Failed, Refusal::new(code::UNAVAILABLE, message).retry_after(5))
        }
    }
}
