//! The shares of one run: each is made ready and published, all of them are followed by one task,
//! and each ends by itself.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::vec;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::scope::Scope;
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::access::{Look, Watched};
use super::clerks::Clerks;
use super::keeper::Keeper;
use super::member::{Member, Next, Opened};
use super::start::{Common, Failed, Ready, Starting};
use super::{RelaySpec, ShareError, ShareEvent, Source, Wish};
use crate::app::serving::Way;
use crate::fs::Paths;
use crate::gateway::Gateway;
use crate::tunnel::{Backend, ShareRequest, TlsOptions, TunnelConfig, Tunnels};
use crate::usage::Recorder;

/// How often the shares look at their files of tokens: a revocation must count within a second.
const LOOK: Duration = Duration::from_millis(250);
/// How many files are looked at before what was found in them is taken: to hold what is in hundreds of
/// them at once takes much room.
const LOOKS: usize = 32;
/// How many shares are made ready at a time: their servers may have to be installed first.
const AT_ONCE: usize = 8;
/// How many have their credentials read or made at a time: one may wait for somebody's lock.
const FILES: usize = 2;

/// The shares of one run.
pub(super) struct Session {
    common: Arc<Common>,
    keeper: Keeper,
    /// Who looks at files. Not those who open them, who may wait for a lock: a revocation must count.
    looks: Clerks,
    lines: Vec<Line>,
    /// The wishes whose turn has not come, the last of `wishes` in all: the place of the first is
    /// `wishes - queue.len()`.
    queue: vec::IntoIter<Wish>,
    wishes: usize,
    starting: FuturesUnordered<BoxFuture<'static, Result<Ready, Failed>>>,
    /// The gateways of both, which are to be ended in any case.
    gateways: BTreeMap<usize, Option<Gateway>>,
    members: Vec<Member>,
    leaving: FuturesUnordered<BoxFuture<'static, (usize, Result<(), ShareError>)>>,
    /// Those that have ended and of which that is not told yet.
    over: VecDeque<(usize, Result<(), ShareError>)>,
}

/// The session at one relay.
struct Line {
    tunnels: Tunnels,
    news: watch::Receiver<()>,
}

impl Session {
    pub(super) fn new(
        paths: &Paths,
        events: mpsc::Sender<(usize, ShareEvent)>,
        scope: Scope,
    ) -> Self {
        let keeper = Keeper::start(events.clone(), &scope);
        let common = Common {
            over: CancellationToken::new(),
            paths: paths.clone(),
            folders: Mutex::default(),
            events,
            heirs: OnceCell::new(),
            files: Clerks::new(FILES),
            scope,
        };
        Self {
            common: common.into(),
            keeper,
            looks: Clerks::new(1),
            lines: Vec::new(),
            queue: Vec::new().into_iter(),
            wishes: 0,
            starting: FuturesUnordered::new(),
            gateways: BTreeMap::new(),
            members: Vec::new(),
            leaving: FuturesUnordered::new(),
            over: VecDeque::new(),
        }
    }

    /// Takes up what is to be shared. What cannot be served is over at once.
    pub(super) fn begin(&mut self, wishes: Vec<Wish>, books: &Scope) {
        let mut recorder = None;
        self.members.reserve_exact(wishes.len());
        for (at, Wish { spec, .. }) in wishes.iter().enumerate() {
            let gateway = match &spec.source {
                Source::Http(_) => Ok(None),
                Source::Mcp(serving) => {
                    let way = if spec.relay.is_some() { Way::Relay } else { Way::LocalShare };
                    let recorder = recorder
                        .get_or_insert_with(|| Recorder::start(&self.common.paths, books))
                        .clone();
                    let options = (*spec.gateway).clone();
                    let scope = self.common.scope.child();
                    serving.gateway(way, options, recorder, &self.common.paths, scope).map(Some)
                }
            };
            match gateway {
                Err(error) => self.over.push_back((at, Err(error.into()))),
                Ok(gateway) => drop(self.gateways.insert(at, gateway)),
            }
        }
        (self.wishes, self.queue) = (wishes.len(), wishes.into_iter());
    }

    /// Takes the next one that is to start. Those that are over already have no place among the gateways.
    fn next_to_start(&mut self) -> Option<Starting> {
        loop {
            let at = self.wishes - self.queue.len();
            let Wish { spec, stop } = self.queue.next()?;
            if let Some(gateway) = self.gateways.get(&at).cloned() {
                return Some(Starting {
                    at,
                    spec,
                    gateway,
                    stop,
                    common: Arc::clone(&self.common),
                });
            }
        }
    }

    /// Runs until all shares are over. Dropping the future loses nothing: [`Self::shutdown`] ends
    /// what is left.
    pub(super) async fn run(&mut self) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.skip();
            while self.starting.len() < AT_ONCE
                && let Some(next) = self.next_to_start()
            {
                self.starting.push(Box::pin(next.start()));
            }
            if self.queue.as_slice().is_empty() {
                // It keeps the room of all wishes until it is dropped.
                self.queue = Vec::new().into_iter();
            }
            self.follow().await;
            self.tell_over().await;
            if self.gateways.is_empty() && self.members.is_empty() && self.leaving.is_empty() {
                return;
            }
            let deadline = self.members.iter().filter_map(Member::deadline).min();
            // Every branch is cancel-safe: streams of futures, watch channels and intervals keep
            // their state.
            tokio::select! {
                Some(outcome) = self.starting.next() => self.started(outcome).await,
                Some(over) = self.leaving.next() => self.over.push_back(over),
                () = news(&mut self.lines) => {}
                _ = tick.tick() => self.look().await,
                () = until(deadline) => self.give_up(),
            }
        }
    }

    /// Ends all that has not ended.
    pub(super) async fn shutdown(mut self) {
        self.queue = Vec::new().into_iter();
        // Each takes back what it has made, which does not take long.
        self.common.over.cancel();
        while let Some(outcome) = self.starting.next().await {
            if let Ok(ready) = outcome {
                ready.give_up().await;
            }
        }
        for (at, gateway) in std::mem::take(&mut self.gateways) {
            self.end_gateway(at, gateway, Ok(()));
        }
        while !self.members.is_empty() {
            self.leave(0, Ok(()));
        }
        self.tell_over().await;
        while let Some(over) = self.leaving.next().await {
            self.over.push_back(over);
            self.tell_over().await;
        }
    }

    async fn say(&self, at: usize, event: ShareEvent) {
        // Nobody listening is no reason to stop sharing.
        let _nobody = self.common.events.send((at, event)).await;
    }

    /// Tells of shares that are over. Cancel-safe.
    async fn tell_over(&mut self) {
        while !self.over.is_empty() {
            let Ok(permit) = self.common.events.reserve().await else { return self.over.clear() };
            if let Some((at, result)) = self.over.pop_front() {
                permit.send((at, ShareEvent::Over(result)));
            }
        }
    }

    /// Lets those go that are to end before it was their turn to begin.
    fn skip(&mut self) {
        let first = self.wishes - self.queue.len();
        for (place, wish) in self.queue.as_slice().iter().enumerate() {
            let at = first + place;
            if wish.stop.is_cancelled()
                && let Some(gateway) = self.gateways.remove(&at)
            {
                self.end_gateway(at, gateway, Ok(()));
            }
        }
    }

    /// Publishes a share that is ready.
    async fn started(&mut self, outcome: Result<Ready, Failed>) {
        match outcome {
            Ok(ready) => {
                self.gateways.remove(&ready.starting.at);
                let member = Member::new(ready, |ready| self.publish(ready));
                let (at, event) = (member.at, member.up_here());
                self.members.push(member);
                if let Some(event) = event {
                    self.say(at, event).await;
                }
            }
            Err(Failed { at, gateway, result }) => {
                self.gateways.remove(&at);
                self.end_gateway(at, gateway, result);
            }
        }
    }

    fn end_gateway(&self, at: usize, gateway: Option<Gateway>, result: Result<(), ShareError>) {
        self.leaving.push(Box::pin(async move {
            if let Some(gateway) = gateway {
                gateway.shutdown().await;
            }
            (at, result)
        }));
    }

    /// Opens the tunnel of a share that has a relay.
    fn publish(&mut self, ready: &mut Ready) -> Option<Opened> {
        let Ready { starting, key, fresh, .. } = ready;
        let relay = starting.spec.relay.take()?;
        let shown = relay.address.to_string();
        let (mode, backend) = match (&starting.gateway, &starting.spec.source) {
            (Some(gateway), _) => (ShareMode::Mcp, Backend::Gateway(gateway.clone())),
            (None, Source::Http(target)) => (ShareMode::Http, Backend::Http(target.clone())),
            (None, Source::Mcp(_)) => unreachable!("what speaks MCP has a gateway"),
        };
        let request = ShareRequest {
            name: Some(fresh.keyring.name().clone()),
            base: starting.spec.target.base(),
            mode,
            access: fresh.keyring.policy(),
            expires: starting.spec.expires,
            ticket: fresh.ticket.take().map(Into::into),
            retries: starting.spec.patience.retries(),
        };
        let origin = relay.address.origin();
        let known = self.lines.iter().position(|line| line.tunnels.relay() == origin);
        let line = known.unwrap_or_else(|| {
            let relay = Arc::unwrap_or_clone(relay);
            let tunnels = Tunnels::start(config(relay, key.clone()), &self.common.scope);
            let news = tunnels.news();
            self.lines.push(Line { tunnels, news });
            self.lines.len() - 1
        });
        let tunnel = self.lines[line].tunnels.share(request, backend);
        Some(Opened { tunnel, shown })
    }

    /// Follows the tunnels, and lets those go that are to end.
    async fn follow(&mut self) {
        let mut index = 0;
        while let Some(member) = self.members.get_mut(index) {
            let at = member.at;
            if member.stop.is_cancelled() {
                self.leave(index, Ok(()));
                continue;
            }
            match member.next() {
                None => index += 1,
                Some(Next::Tell(event)) => self.say(at, event).await,
                Some(Next::Up(event, status)) => {
                    self.keeper.keep(at, member.keyring.file_name(), status);
                    self.say(at, event).await;
                }
                Some(Next::Expired) => {
                    self.leave(index, Ok(()));
                    self.say(at, ShareEvent::Expired).await;
                }
                Some(Next::Over(error)) => self.leave(index, Err(error)),
            }
        }
    }

    /// Begins to end a share.
    fn leave(&mut self, index: usize, result: Result<(), ShareError>) {
        let member = self.members.swap_remove(index);
        self.leaving.push(Box::pin(async move {
            let at = member.at;
            member.end().await;
            (at, result)
        }));
    }

    /// Lets those go that could not be published in time.
    fn give_up(&mut self) {
        self.leave_with(Member::out_of_time);
    }

    /// Lets those go that have a reason to.
    fn leave_with(&mut self, reason: impl Fn(&mut Member) -> Option<ShareError>) {
        let mut index = 0;
        while let Some(member) = self.members.get_mut(index) {
            match reason(member) {
                Some(error) => self.leave(index, Err(error)),
                None => index += 1,
            }
        }
    }

    /// Looks for tokens that were added or revoked, and tells what was served since.
    async fn look(&mut self) {
        // The task that keeps a session may be gone; shares at other relays have another.
        let gone = self.common.scope.is_cancelled();
        self.leave_with(|member| (gone || member.is_cut_off()).then_some(ShareError::Stopped));
        // Nobody comes or goes meanwhile.
        for begin in (0..self.members.len()).step_by(LOOKS) {
            let some = begin..self.members.len().min(begin + LOOKS);
            let watched: Vec<_> =
                self.members[some.clone()].iter().map(|member| member.keyring.watched()).collect();
            let changed = self.looks.run(move || changes(watched)).await;
            self.take(some, changed).await;
        }
    }

    /// Takes what a look at the files of some members found, by their places among these.
    async fn take(&mut self, some: Range<usize>, changed: Vec<(usize, Look)>) {
        let mut changed = changed.into_iter().peekable();
        for (place, index) in some.enumerate() {
            let member = &mut self.members[index];
            let (at, look) = (member.at, changed.next_if(|(changed, _)| *changed == place));
            let events = [look.and_then(|(_, look)| member.take(look)), member.activity()];
            for event in events.into_iter().flatten() {
                self.say(at, event).await;
            }
        }
    }
}

/// Looks which files have changed, and returns these by their places. To be run where it may block.
fn changes(watched: Vec<Watched>) -> Vec<(usize, Look)> {
    let looks = watched.into_iter().enumerate();
    looks.filter_map(|(place, watched)| Some((place, watched.look()?))).collect()
}

fn config(relay: RelaySpec, key: mcpm_shared::identity::AgentKey) -> TunnelConfig {
    let RelaySpec { address, credential, proxy, connections } = relay;
    TunnelConfig {
        relay: address,
        key,
        proof: credential.proof,
        tls: TlsOptions { ca: credential.ca, fingerprint: credential.fingerprint },
        connections,
        proxy,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Waits until the status of a share changes. Cancel-safe.
async fn news(lines: &mut [Line]) {
    let mut changes: FuturesUnordered<_> =
        lines.iter_mut().map(|line| line.news.changed()).collect();
    if changes.next().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Waits until `deadline`; for ever without one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::{nobody, spec};
    use super::super::{Patience, ShareSpec, Stop};
    use super::*;
    use crate::credentials::ShareTarget;

    async fn both_wait(inbox: &mut mpsc::Receiver<(usize, ShareEvent)>) {
        let mut waiting = [false; 2];
        while waiting != [true; 2] {
            match inbox.recv().await {
                Some((at, ShareEvent::Reconnecting { .. })) => waiting[at] = true,
                Some(_) => {}
                None => panic!("nothing is shared"),
            }
        }
    }

    #[tokio::test]
    async fn a_session_that_fails_ends_its_own_shares_and_those_at_other_relays_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let (events, mut inbox) = mpsc::channel(16);
        let (scope, books) = (Scope::new(), Scope::new());
        let mut session = Session::new(&Paths::new(dir.path()), events, scope.clone());
        let relays = [nobody(), "http://127.0.0.1:9".to_owned()];
        let wish = |relay: &String| {
            let source = Source::Http("8080".parse().unwrap());
            let patience = Patience::Time(Duration::from_secs(600));
            let target = ShareTarget::Server(relay.clone());
            let spec = ShareSpec { target, ..spec(source, relay, patience) };
            Wish { spec: Box::new(spec), stop: CancellationToken::new().into() }
        };
        session.begin(relays.iter().map(wish).collect(), &books);
        tokio::select! {
            () = session.run() => panic!("nothing is shared any more"),
            () = both_wait(&mut inbox) => {}
        }
        let line = session.lines.iter().find(|line| line.tunnels.relay() == relays[0]);
        line.unwrap().tunnels.fail();
        let over = async {
            loop {
                if let Some((at, ShareEvent::Over(result))) = inbox.recv().await {
                    return (at, result);
                }
            }
        };
        tokio::select! {
            () = session.run() => panic!("nothing is shared any more"),
            (at, result) = over => {
                assert_eq!(at, 0);
                assert!(matches!(result, Err(ShareError::Stopped)), "{result:?}");
            }
        }
        assert_eq!(session.members.len(), 1);
        session.shutdown().await;
        assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
    }

    #[tokio::test]
    async fn the_tokens_of_each_of_many_shares_are_looked_at() {
        use super::super::share_all;
        use crate::credentials::find;

        let dir = tempfile::tempdir().unwrap();
        let (paths, relay) = (Paths::new(dir.path()), nobody());
        let wish = |at: usize| {
            let source = Source::Http("8080".parse().unwrap());
            let spec = spec(source, &relay, Patience::Time(Duration::from_secs(600)));
            let target = ShareTarget::Server(at.to_string());
            let spec = Box::new(ShareSpec { target, ..spec });
            Wish { spec, stop: CancellationToken::new().into() }
        };
        let (events, mut inbox) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let follow = async {
            let (mut waiting, mut changed) = (BTreeSet::new(), Vec::new());
            while let Some((at, event)) = inbox.recv().await {
                match event {
                    ShareEvent::Reconnecting { .. }
                        if waiting.insert(at) && waiting.len() == LOOKS + 1 =>
                    {
                        let last = LOOKS.to_string();
                        let found = find(&paths, &last, |_, error| panic!("{error}"));
                        let (file, record) = found.unwrap();
                        file.update(|it| it.revoke_token(&record.tokens[0].id)).unwrap();
                    }
                    ShareEvent::TokensChanged { tokens } => {
                        changed.push((at, tokens));
                        stop.cancel();
                    }
                    _ => {}
                }
            }
            changed
        };
        let wishes = (0..=LOOKS).map(wish).collect();
        let ((), changed) = tokio::join!(share_all(wishes, &paths, events, stop.clone()), follow);
        assert_eq!(changed, [(LOOKS, 0)]);
    }

    #[tokio::test]
    async fn one_that_cannot_be_served_is_over_at_once_and_takes_nobodys_place() {
        use super::super::share_all;
        use crate::app::serving::Serving;
        use crate::model::Server;

        let dir = tempfile::tempdir().unwrap();
        let relay = nobody();
        let wish = |at: usize| {
            let source = match at {
                1 => {
                    let entry = serde_json::json!({"url": "https://${MCPM_NOT_SET}/"});
                    Source::Mcp(Serving::server(Server::from_entry("x", &entry).unwrap()).into())
                }
                _ => Source::Http("8080".parse().unwrap()),
            };
            let spec = spec(source, &relay, Patience::Retries(0));
            let target = ShareTarget::Server(at.to_string());
            let spec = Box::new(ShareSpec { target, ..spec });
            Wish { spec, stop: CancellationToken::new().into() }
        };
        let (events, mut inbox) = mpsc::channel(64);
        let follow = async {
            let mut ends = Vec::new();
            while let Some((at, event)) = inbox.recv().await {
                if let ShareEvent::Over(result) = event {
                    ends.push((at, result));
                }
            }
            ends
        };
        let (paths, stop) = (Paths::new(dir.path()), CancellationToken::new());
        let wishes = (0..AT_ONCE + 2).map(wish).collect();
        let ((), mut ends) = tokio::join!(share_all(wishes, &paths, events, stop), follow);
        assert!(matches!(ends.remove(0), (1, Err(ShareError::Gateway(_)))));
        let unreachable = |end: &Result<(), _>| matches!(end, Err(ShareError::Unreachable { .. }));
        assert!(ends.iter().all(|(_, end)| unreachable(end)), "{ends:?}");
        let who: BTreeSet<_> = ends.iter().map(|(at, _)| *at).collect();
        let others: BTreeSet<_> = (0..AT_ONCE + 2).filter(|at| *at != 1).collect();
        assert_eq!((who, ends.len()), (others, AT_ONCE + 1));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_share_that_is_stopped_before_its_turn_waits_for_no_other() {
        use super::super::share_all;
        use crate::app::serving::Serving;
        use crate::model::Server;

        let dir = tempfile::tempdir().unwrap();
        let wish = |at: usize| {
            let server = Server::stdio(at.to_string(), "sleep", ["3600"]);
            let source = Source::Mcp(Serving::server(server).into());
            let spec = spec(source, &nobody(), Patience::Time(Duration::from_secs(600)));
            let target = ShareTarget::Server(at.to_string());
            let spec = Box::new(ShareSpec { target, ..spec });
            Wish { spec, stop: CancellationToken::new().into() }
        };
        let stop = CancellationToken::new();
        let stops = Stop::several(&stop, AT_ONCE + 1);
        let last = stops[AT_ONCE].clone();
        let wishes =
            stops.into_iter().enumerate().map(|(at, stop)| Wish { stop, ..wish(at) }).collect();
        let (events, mut inbox) = mpsc::channel(64);
        let follow = async {
            let mut begun = 0;
            let mut ends = Vec::new();
            while let Some((at, event)) = inbox.recv().await {
                match event {
                    ShareEvent::Probing => begun += 1,
                    ShareEvent::Over(result) => ends.push((at, result.is_ok())),
                    _ => {}
                }
                if begun == AT_ONCE {
                    last.cancel();
                }
                if !ends.is_empty() {
                    stop.cancel();
                }
            }
            ends
        };
        let paths = Paths::new(dir.path());
        let ((), ends) = tokio::join!(share_all(wishes, &paths, events, stop.clone()), follow);
        assert_eq!((ends[0], ends.len()), ((AT_ONCE, true), AT_ONCE + 1), "{ends:?}");
    }
}
