//! Sharing servers, several as one, or HTTP services, until told to stop.
//!
//! The order matters: a server is tried before anything is published, and whatever happens,
//! tunnel, listener and children end before this returns. Several shares of a process have one
//! session at their relay, and one of them that fails leaves the others as they are.

mod access;
mod clerks;
mod error;
mod keeper;
mod member;
mod session;
mod start;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::name::Name;
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;
use tokio::sync::mpsc;
use tokio_util::future::FutureExt as _;
use tokio_util::sync::CancellationToken;

pub use self::error::ShareError;
use self::session::Session;
pub use self::stop::Stop;
use super::serving::Serving;
use crate::credentials::{RelayCredential, ShareTarget};
use crate::fs::Paths;
use crate::gateway::GatewayOptions;
use crate::tunnel::{HttpTarget, ProxySettings, RelayAddress};

/// How long tasks may take to end once everything was told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// What to share, and how.
#[derive(Debug)]
pub struct ShareSpec {
    /// What users call it.
    pub target: ShareTarget,
    /// What answers visitors.
    pub source: Source,
    /// The relay; none to serve this machine only. Held in common, as `gateway` is: there may be hundreds of shares.
    pub relay: Option<Arc<RelaySpec>>,
    /// The name that is wanted, instead of the derived one.
    pub name: Option<Name>,
    /// Who may visit.
    pub access: Access,
    /// After what time the relay ends the share.
    pub expires: Option<Duration>,
    /// A local address to serve as well. Boxed: few have one.
    pub local: Option<Box<Local>>,
    /// When to give up on the first connection.
    pub patience: Patience,
    /// How the gateway treats the servers, where there are any.
    pub gateway: Arc<GatewayOptions>,
}

/// What answers visitors.
#[derive(Debug)]
pub enum Source {
    /// One MCP server behind the gateway, or several. Boxed: it is larger than all else.
    Mcp(Box<Serving>),
    /// An HTTP service, as it is.
    Http(HttpTarget),
}

/// The relay to use, and what it needs to know of us.
#[derive(Clone, Debug)]
pub struct RelaySpec {
    /// Where it is.
    pub address: RelayAddress,
    /// What we show it and expect of it.
    pub credential: RelayCredential,
    /// The HTTP proxy on the way.
    pub proxy: ProxySettings,
    /// How many connections to keep.
    pub connections: u8,
}

/// Who may visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Holders of a token.
    Token,
    /// Holders of a token or of the link.
    Link,
    /// Everybody.
    Public,
}

/// A local address.
#[derive(Clone, Debug)]
pub struct Local {
    /// The address or name to bind.
    pub host: String,
    /// The port; 0 for any.
    pub port: u16,
}

/// When to give up on the first connection. Once the share was up, it comes back for ever.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// After this time.
    Time(Duration),
    /// After so many retries.
    Retries(u32),
}

impl Patience {
    fn retries(self) -> Option<u32> {
        match self {
            Self::Time(_) => None,
            Self::Retries(retries) => Some(retries),
        }
    }
}

/// What happened to a share.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShareEvent {
    /// The server is being tried.
    Probing,
    /// The server answered.
    Probed {
        /// What it calls itself.
        server: String,
        /// Its version.
        version: String,
    },
    /// Something about the servers that the user may want to know.
    Note(String),
    /// The relay is being dialled.
    Connecting {
        /// Where it is.
        relay: String,
        /// Which attempt this is, from 1.
        attempt: u32,
    },
    /// Visitors can come.
    Up(Box<Up>),
    /// The connection is lost, or could not be made, and is tried again.
    Reconnecting {
        /// What happened.
        reason: String,
        /// What the user may do.
        hint: Option<String>,
        /// How long until the next attempt.
        retry_in: Duration,
    },
    /// Requests were served since the last time.
    Activity {
        /// All requests so far.
        requests: u64,
        /// Requests being served now.
        active: usize,
    },
    /// The tokens of the share changed on disk and count from now on.
    TokensChanged {
        /// How many there are.
        tokens: usize,
    },
    /// The share came to the end that it was given.
    Expired,
    /// Something is odd, but the share goes on.
    Warning(String),
    /// The share is over: as it was told to, or because it could not go on. The last event of each
    /// share of [`share_all`].
    Over(Result<(), ShareError>),
}

/// A share that visitors can reach.
#[derive(Debug)]
pub struct Up {
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// The owner's token; none for a public share, and once it was revoked.
    pub token: Option<Token>,
    /// The URL with the link secret, when asked for.
    pub link: Option<String>,
    /// Its URL on this machine, when asked for.
    pub local: Option<String>,
    /// When it ends, in Unix seconds, if an end was asked for.
    pub expires_at: Option<u64>,
    /// Whether it was up before.
    pub again: bool,
}

/// One of several shares. How the relay is reached is a matter of all shares there: it is done as the
/// one that is published first says, and what the others say of it beside the address is not read.
#[derive(Debug)]
pub struct Wish {
    /// What to share, and how. Boxed: there may be hundreds, of which few are on their way at a time.
    pub spec: Box<ShareSpec>,
    /// Ends this share alone.
    pub stop: Stop,
}

/// Shares until `stop` is cancelled or the share expires, which are successes, or until sharing is no longer possible.
///
/// # Errors
/// When the server does not work, the relay refuses, or the first connection fails for too long.
pub async fn share(
    spec: ShareSpec,
    paths: &Paths,
    events: mpsc::Sender<ShareEvent>,
    stop: CancellationToken,
) -> Result<(), ShareError> {
    let (sender, mut inbox) = mpsc::channel(1);
    let wish = Wish { spec: Box::new(spec), stop: stop.clone().into() };
    let pass_on = async {
        let mut result = Err(ShareError::Stopped);
        while let Some((_, event)) = inbox.recv().await {
            match event {
                ShareEvent::Over(over) => result = over,
                // Nobody listening is no reason to stop sharing; nor is somebody who does not read.
                event => drop(stop.run_until_cancelled(events.send(event)).await),
            }
        }
        result
    };
    tokio::join!(share_all(vec![wish], paths, sender, stop.clone()), pass_on).1
}

/// Shares several things at once until all of them have ended, or `stop` is cancelled. Those at the
/// same relay have one session there. Events tell to which of `wishes` they belong; the last one of
/// each is [`ShareEvent::Over`].
pub async fn share_all(
    wishes: Vec<Wish>,
    paths: &Paths,
    events: mpsc::Sender<(usize, ShareEvent)>,
    stop: CancellationToken,
) {
    let (scope, books) = (Scope::new(), Scope::new());
    let mut session = Session::new(paths, events, scope.clone());
    session.begin(wishes, &books);
    // Whatever it waits for, a stop is heard.
    session.run().with_cancellation_token(&stop).await;
    session.shutdown().await;
    scope.drain(GRACE).await;
    // Usage is written last: whatever ended just now is part of it.
    books.drain(GRACE).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Server;

    pub(super) fn spec(source: Source, relay: &str, patience: Patience) -> ShareSpec {
        let relay = RelaySpec {
            address: relay.parse().unwrap(),
            credential: RelayCredential::default(),
            proxy: ProxySettings::default(),
            connections: 1,
        };
        ShareSpec {
            target: ShareTarget::Server("x".to_owned()),
            source,
            relay: Some(relay.into()),
            name: None,
            access: Access::Token,
            expires: None,
            local: None,
            patience,
            gateway: Arc::default(),
        }
    }

    async fn run_alone(spec: ShareSpec, paths: &Paths) -> Result<(), ShareError> {
        // A listener that never reads must not hold the share up.
        let (events, inbox) = mpsc::channel(1);
        drop(inbox);
        share(spec, paths, events, CancellationToken::new()).await
    }

    /// Returns an address that nobody listens on.
    pub(super) fn nobody() -> String {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", free.local_addr().unwrap())
    }

    #[tokio::test]
    async fn a_server_that_does_not_start_is_not_published_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("mcpm"));
        let server = Server::stdio("x", "/nonexistent/server", [""; 0]);
        let patience = Patience::Time(Duration::from_secs(20));
        let spec = spec(Source::Mcp(Serving::server(server).into()), &nobody(), patience);
        let error = run_alone(spec, &paths).await.unwrap_err();
        assert!(matches!(error, ShareError::Gateway(_)), "{error}");
        assert!(!paths.dir().exists());
    }

    #[tokio::test]
    async fn of_several_servers_none_is_tried_and_it_is_told_that_they_start_later() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("mcpm"));
        let broken = |name| Server::stdio(name, "/nonexistent/server", [""; 0]);
        let serving = Serving::profile("work", vec![broken("a"), broken("b")]);
        let spec = spec(Source::Mcp(serving.into()), &nobody(), Patience::Retries(0));
        let (events, mut inbox) = mpsc::channel(16);
        let error = share(spec, &paths, events, CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, ShareError::Unreachable { .. }), "{error}");
        let Some(ShareEvent::Note(note)) = inbox.recv().await else { panic!("no note") };
        assert_eq!(note, "Servers that start when they are first used: a, b");
    }

    #[tokio::test]
    async fn a_relay_that_is_down_is_given_up_after_the_retries() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let source = Source::Http("8080".parse().unwrap());
        let error = run_alone(spec(source, &nobody(), Patience::Retries(1)), &paths).await;
        let error = error.unwrap_err();
        assert!(matches!(error, ShareError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("1 retry"), "{error}");
        assert!(crate::credentials::list(&paths).unwrap().is_empty(), "nobody was shown a token");
    }

    #[tokio::test]
    async fn a_share_that_was_there_before_stays_when_its_relay_is_down() {
        use super::access::Keyring;

        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let spec = spec(Source::Http("8080".parse().unwrap()), &nobody(), Patience::Retries(0));
        let (target, name): (_, Name) = (spec.target.clone(), "x-abc".parse().unwrap());
        let origin = spec.relay.as_ref().unwrap().address.origin();
        let token = || {
            Keyring::open(&paths, name.clone(), &origin, &target, Access::Token).unwrap().token()
        };
        let before = token();
        let spec = ShareSpec { name: Some(name.clone()), ..spec };
        run_alone(spec, &paths).await.unwrap_err();
        assert_eq!(crate::credentials::list(&paths).unwrap().len(), 1);
        assert_eq!(token(), before);
    }

    #[tokio::test]
    async fn as_many_attempts_are_made_as_asked_for_however_late_somebody_looks() {
        let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", relay.local_addr().unwrap());
        let (attempts, counted) = tokio::sync::watch::channel(0);
        // Each attempt is a connection of its own, which is closed without a word.
        let hang_up = async || {
            while relay.accept().await.is_ok() {
                attempts.send_modify(|attempts| *attempts += 1);
            }
        };
        for retries in [0, 2] {
            attempts.send_replace(0);
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths::new(dir.path());
            let source = Source::Http("8080".parse().unwrap());
            let (events, mut inbox) = mpsc::channel(1);
            let spec = spec(source, &address, Patience::Retries(retries));
            let late = async {
                let mut counted = counted.clone();
                counted.wait_for(|attempts| *attempts == retries + 1).await.unwrap();
                let mut waits = 0;
                while let Some(event) = inbox.recv().await {
                    waits += u32::from(matches!(event, ShareEvent::Reconnecting { .. }));
                }
                waits
            };
            let sharing = share(spec, &paths, events, CancellationToken::new());
            let (result, waits) = tokio::select! {
                () = hang_up() => unreachable!("it takes all who come"),
                done = async { tokio::join!(sharing, late) } => done,
            };
            let error = result.unwrap_err();
            assert!(matches!(error, ShareError::Unreachable { .. }), "{error}");
            assert_eq!(*counted.borrow(), retries + 1);
            assert!(waits <= retries, "the last failure is not said to be tried again");
        }
    }

    #[tokio::test]
    async fn a_service_that_does_not_run_is_warned_of_and_shared_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let running = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let running = format!("http://{}", running.local_addr().unwrap());
        for (service, warned) in [(nobody(), true), (running, false)] {
            let source = Source::Http(service.parse().unwrap());
            let spec = spec(source, &nobody(), Patience::Retries(0));
            let (events, mut inbox) = mpsc::channel(64);
            let ended = share(spec, &paths, events, CancellationToken::new()).await.unwrap_err();
            assert!(matches!(ended, ShareError::Unreachable { .. }), "{ended}");
            let mut warnings = Vec::new();
            while let Some(event) = inbox.recv().await {
                if let ShareEvent::Warning(text) = event {
                    warnings.push(text);
                }
            }
            assert_eq!(!warnings.is_empty(), warned, "{warnings:?}");
            assert!(warnings.iter().all(|text| text.contains(&service)), "{warnings:?}");
        }
    }

    #[tokio::test]
    async fn a_stop_before_the_share_is_up_is_a_success() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let source = Source::Http("8080".parse().unwrap());
        let spec = spec(source, &nobody(), Patience::Time(Duration::from_secs(60)));
        let (events, mut inbox) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let stopping = async {
            while !matches!(inbox.recv().await, Some(ShareEvent::Reconnecting { .. })) {}
            stop.cancel();
        };
        let (result, ()) = tokio::join!(share(spec, &paths, events, stop.clone()), stopping);
        result.unwrap();
    }

    #[tokio::test]
    async fn a_time_out_beyond_all_clocks_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let source = Source::Http("8080".parse().unwrap());
        let spec = spec(source, &nobody(), Patience::Time(Duration::from_secs(u64::MAX)));
        let (events, mut inbox) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let stopping = async {
            while !matches!(inbox.recv().await, Some(ShareEvent::Reconnecting { .. })) {}
            stop.cancel();
        };
        let (result, ()) = tokio::join!(share(spec, &paths, events, stop.clone()), stopping);
        result.unwrap();
    }

    #[test]
    fn a_stop_is_heard_while_somebody_else_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let held = crate::fs::lock(&paths.agent_key()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let source = Source::Http("8080".parse().unwrap());
        let spec = spec(source, &nobody(), Patience::Time(Duration::from_secs(60)));
        let stop = CancellationToken::new();
        let (events, _inbox) = mpsc::channel(16);
        let stopping = async { stop.cancel() };
        let sharing = share(spec, &paths, events, stop.clone());
        let (result, ()) = runtime.block_on(async { tokio::join!(sharing, stopping) });
        result.unwrap();
        assert!(!paths.agent_key().exists());
        // The thread that waits for the lock ends before the folder goes.
        drop(held);
        drop(runtime);
    }

    /// The time stands while threads work, so nothing here ends by patience.
    #[tokio::test(start_paused = true)]
    async fn a_share_that_waits_for_its_turn_ends_as_soon_as_it_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let (relay, service) = (nobody(), nobody());
        let held = crate::fs::lock(&paths.agent_key()).unwrap();
        let wish = |name: &str| {
            let source = Source::Http(service.parse().unwrap());
            let spec = spec(source, &relay, Patience::Retries(0));
            let target = ShareTarget::Server(name.to_owned());
            let spec = ShareSpec { target, name: Some(name.parse().unwrap()), ..spec };
            Wish { spec: Box::new(spec), stop: CancellationToken::new().into() }
        };
        let stops = Stop::several(&CancellationToken::new(), 3);
        let wishes = ["one", "two", "three"].into_iter().zip(&stops);
        let wishes = wishes.map(|(name, stop)| Wish { stop: stop.clone(), ..wish(name) }).collect();
        let (events, mut inbox) = mpsc::channel(16);
        let sharing = share_all(wishes, &paths, events, CancellationToken::new());
        let follow = async {
            let (mut tried, mut over, mut held) = (0, 0, Some(held));
            while let Some((_, event)) = inbox.recv().await {
                match event {
                    // Nobody listens there. Two have their turn after it, and find the lock taken.
                    ShareEvent::Warning(_) => tried += 1,
                    ShareEvent::Over(result) => {
                        result.unwrap();
                        over += 1;
                        held = None;
                    }
                    _ => {}
                }
                if tried == 3 {
                    stops.iter().for_each(Stop::cancel);
                }
            }
            (over, held.is_none())
        };
        let ((), ended) = tokio::join!(sharing, follow);
        assert_eq!(ended, (3, true));
        assert!(crate::credentials::list(&paths).unwrap().is_empty());
    }

    #[tokio::test]
    async fn of_several_shares_each_ends_by_itself_and_says_how() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let relay = nobody();
        let wish = |source, target: &str, patience| {
            let target = ShareTarget::Server(target.to_owned());
            let spec = ShareSpec { target, ..spec(source, &relay, patience) };
            Wish { spec: Box::new(spec), stop: CancellationToken::new().into() }
        };
        let http = |port: &str| Source::Http(port.parse().unwrap());
        let broken = Server::stdio("broken", "/nonexistent/server", [""; 0]);
        let broken = Source::Mcp(Serving::server(broken).into());
        let long = Patience::Time(Duration::from_secs(600));
        let wishes = vec![
            wish(http("8080"), "stopped", long),
            wish(broken, "broken", long),
            wish(http("8081"), "unreachable", Patience::Retries(0)),
            wish(http("8082"), "all", long),
        ];
        let (alone, stop) = (wishes[0].stop.clone(), CancellationToken::new());
        let (events, mut inbox) = mpsc::channel(16);
        let follow = async {
            let mut ends = Vec::new();
            while let Some((at, event)) = inbox.recv().await {
                match event {
                    ShareEvent::Reconnecting { .. } if at == 0 => alone.cancel(),
                    ShareEvent::Over(result) => ends.push((at, result)),
                    _ => {}
                }
                if ends.len() == 3 {
                    stop.cancel();
                }
            }
            ends.sort_by_key(|(at, _)| *at);
            ends
        };
        let sharing = share_all(wishes, &paths, events, stop.clone());
        let ((), ends) = tokio::join!(sharing, follow);
        let ends: Vec<_> = ends.into_iter().map(|(_, result)| result).collect();
        assert!(matches!(
            ends.as_slice(),
            [Ok(()), Err(ShareError::Gateway(_)), Err(ShareError::Unreachable { .. }), Ok(())]
        ));
    }
}
