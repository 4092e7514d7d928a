//! Connections of agents over an in-memory socket: how they end.

use mcpm_shared::proto::control::{Beat, Claim};
use mcpm_shared::proto::{PING_INTERVAL, Refusal, ShareMode, code};
use tokio::io::{AsyncWriteExt as _, WriteHalf};

use super::*;
use crate::Config;
use crate::admission::Owner;
use crate::config::Limits;
use crate::grants::NamePatterns;
use crate::ports::Ports;
use crate::quota::Allowance;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(10);

fn tunnels(scope: &Scope) -> Arc<Tunnels> {
    tunnels_over(scope, &Ports::in_memory())
}

pub(crate) fn tunnels_over(scope: &Scope, ports: &Ports) -> Arc<Tunnels> {
    let config = Arc::new(Config::local());
    let bound = SocketAddr::from(([127, 0, 0, 1], 80));
    let edge = crate::relay::edge(&config, ports, bound, None, (scope, scope));
    Arc::clone(&edge.tunnels)
}

pub(super) fn admitted() -> Admitted {
    Admitted {
        owner: Owner::of_key("k"),
        subject: "k".to_owned(),
        names: NamePatterns::new(vec!["*".parse().unwrap()]),
        max_shares: None,
        token_jti: None,
        expires_at: None,
    }
}

/// An agent's end of one connection.
pub(crate) struct Agent {
    pub(crate) reader: ReadHalf<MuxStream>,
    writer: WriteHalf<MuxStream>,
    pub(crate) streams: Streams,
    pub(crate) scope: Scope,
    session: String,
}

impl Agent {
    pub(crate) async fn connect(
        tunnels: &Arc<Tunnels>,
        scope: &Scope,
        session: Option<String>,
    ) -> Self {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let peer = IpAddr::from([127, 0, 0, 1]);
        scope.spawn(Arc::clone(tunnels).connection(far, admitted(), peer));
        let config = Some(mux::websocket_config());
        let socket = WebSocketStream::from_raw_socket(near, Role::Client, config).await;
        let scope = scope.child();
        let close = scope.token().clone();
        let (opener, streams, driver) =
            mux::connect(socket, Side::Agent, Activity::default(), close);
        scope.spawn_essential(async move { driver.await.unwrap() });
        let (mut reader, mut writer) = tokio::io::split(opener.open().await.unwrap());
        let hello = AgentMessage::Hello(Hello {
            version: PROTOCOL_VERSION,
            agent: "test".to_owned(),
            session,
            capabilities: Vec::new(),
        });
        wire::write(&mut writer, &hello).await.unwrap();
        let Ok(RelayMessage::Welcome(Welcome { session, .. })) = wire::read(&mut reader).await
        else {
            panic!("no welcome")
        };
        Self { reader, writer, streams, scope, session }
    }

    pub(crate) async fn claim(&mut self, name: &str) {
        let claimed = self.ask(name, None).await;
        assert!(matches!(claimed, RelayMessage::Claimed(_)), "{claimed:?}");
    }

    /// Claims a name and returns the answer.
    pub(crate) async fn ask(&mut self, name: &str, ticket: Option<String>) -> RelayMessage {
        let claim = AgentMessage::Claim(Claim {
            request: 0,
            name: name.parse().unwrap(),
            mode: ShareMode::Mcp,
            access: mcpm_shared::access::AccessPolicy::public(),
            ticket,
            expires_in_secs: None,
        });
        self.say(&claim).await;
        wire::read(&mut self.reader).await.unwrap()
    }

    pub(crate) async fn say(&mut self, message: &AgentMessage) {
        wire::write(&mut self.writer, message).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_session_ends_is_told_why_before_its_connection_closes() {
    let scope = Scope::new();
    let tunnels = tunnels(&scope);
    let mut agent = Agent::connect(&tunnels, &scope, None).await;
    agent.claim("told").await;
    let session = tunnels.sessions().pop().unwrap();
    session.go_away("first", LONG);
    session.end(&Refusal::new(code::REVOKED, "taken away"));
    let first = wire::read::<RelayMessage>(&mut agent.reader).await;
    assert!(matches!(first, Ok(RelayMessage::GoAway(_))), "{first:?}");
    let last = wire::read::<RelayMessage>(&mut agent.reader).await;
    let Ok(RelayMessage::Revoked(revoked)) = last else { panic!("{last:?}") };
    assert_eq!(revoked.refusal.code, code::REVOKED);
    tokio::time::timeout(LONG, agent.scope.cancelled()).await.unwrap();
    assert!(tunnels.sessions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_its_agent_leaves_ends_when_nothing_is_in_flight_there() {
    let scope = Scope::new();
    let tunnels = tunnels(&scope);
    let mut first = Agent::connect(&tunnels, &scope, None).await;
    first.claim("wide").await;
    let mut further = Agent::connect(&tunnels, &scope, Some(first.session.clone())).await;
    let session = tunnels.sessions().pop().unwrap();
    let share = session.share(1).unwrap();
    let (mut one, mut two) = (share.enter(9).unwrap(), share.enter(9).unwrap());
    let (_, _kept) = share.lane(&mut one).await.unwrap();
    let (slot, _lane) = share.lane(&mut two).await.unwrap();
    assert_eq!(slot, 1);
    further.writer.shutdown().await.unwrap();
    let cut = tokio::time::timeout(LONG, further.scope.cancelled()).await;
    assert!(cut.is_err(), "what is in flight is not cut");
    let mut three = share.enter(9).unwrap();
    assert_eq!(share.lane(&mut three).await.unwrap().0, 0, "nothing new goes there");
    drop(two);
    tokio::time::timeout(LONG, further.scope.cancelled()).await.unwrap();
    assert!(!first.scope.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_which_nothing_comes_any_more_is_given_up_and_one_that_pings_is_not() {
    let scope = Scope::new();
    let tunnels = tunnels(&scope);
    let mut agent = Agent::connect(&tunnels, &scope, None).await;
    agent.claim("still").await;
    for seq in 0..4 {
        tokio::time::sleep(PING_INTERVAL).await;
        agent.say(&AgentMessage::Ping(Beat { seq })).await;
        let pong = wire::read::<RelayMessage>(&mut agent.reader).await;
        assert!(matches!(&pong, Ok(RelayMessage::Pong(beat)) if beat.seq == seq), "{pong:?}");
    }
    let started = tokio::time::Instant::now();
    tokio::time::timeout(2 * DEAD_AFTER, agent.scope.cancelled()).await.unwrap();
    let borne = started.elapsed();
    assert!((DEAD_AFTER..DEAD_AFTER + 2 * FAREWELL).contains(&borne), "{borne:?}");
    assert!(tunnels.sessions().is_empty());
}

/// Opens a connection that goes as far as `speak`, and returns how long the relay bears it.
async fn borne(speak: impl AsyncFnOnce(&Opener)) -> Duration {
    let scope = Scope::new();
    let tunnels = tunnels(&scope);
    let (near, far) = tokio::io::duplex(64 * 1024);
    let peer = IpAddr::from([127, 0, 0, 1]);
    let driven = Arc::clone(&tunnels).connection(far, admitted(), peer);
    let config = Some(mux::websocket_config());
    let socket = WebSocketStream::from_raw_socket(near, Role::Client, config).await;
    let close = scope.token().clone();
    let (opener, _streams, driver) = mux::connect(socket, Side::Agent, Activity::default(), close);
    scope.spawn(async move { drop(driver.await) });
    let started = tokio::time::Instant::now();
    tokio::join!(driven, speak(&opener));
    assert!(tunnels.sessions().is_empty());
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_halfway_is_not_waited_for() {
    let in_time = HANDSHAKE_TIMEOUT + FAREWELL + Duration::from_secs(1);
    assert!(borne(async |_| ()).await <= in_time, "no control stream");
    let silent = borne(async |opener| {
        let stream = opener.open().await.unwrap();
        tokio::time::sleep(in_time).await;
        drop(stream);
    });
    assert!(silent.await <= in_time, "no hello");
    let half = borne(async |opener| {
        let mut stream = opener.open().await.unwrap();
        stream.write_all(&[0, 0, 0, 40, b'{']).await.unwrap();
        tokio::time::sleep(in_time).await;
    });
    assert!(half.await <= in_time, "half a hello");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_claims_to_be_huge_ends_the_connection() {
    let borne = borne(async |opener| {
        let mut stream = opener.open().await.unwrap();
        stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        stream.write_all(&[0; 1024]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    assert!(borne.await <= Duration::from_secs(3), "it is not waited for");
}

#[tokio::test(start_paused = true)]
async fn agents_that_shook_hands_together_do_not_overfill_the_relay() {
    let scope = Scope::new();
    let mut config = Config::local();
    config.limits.max_sessions = 1;
    let (bound, ports) = (SocketAddr::from(([127, 0, 0, 1], 80)), Ports::in_memory());
    let edge = crate::relay::edge(&Arc::new(config), &ports, bound, None, (&scope, &scope));
    let tunnels = Arc::clone(&edge.tunnels);
    let first = Agent::connect(&tunnels, &scope, None).await;
    // It was let in by the handshake before the first one was there.
    assert!(turned_away(&tunnels, &scope).await);
    assert_eq!(tunnels.sessions().len(), 1);
    assert!(!first.scope.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn one_key_that_shook_hands_many_times_at_once_gets_no_more_sessions_than_it_may() {
    let scope = Scope::new();
    let tunnels = tunnels(&scope);
    let mut agents = Vec::new();
    for _ in 0..handshake::SESSIONS_PER_KEY {
        agents.push(Agent::connect(&tunnels, &scope, None).await);
    }
    assert!(turned_away(&tunnels, &scope).await);
    assert_eq!(tunnels.sessions().len(), handshake::SESSIONS_PER_KEY);
    // One that ends makes room for another, whatever it ends by.
    agents.pop().unwrap().scope.cancel();
    let ended = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while tunnels.sessions().len() == handshake::SESSIONS_PER_KEY {
            tick.tick().await;
        }
    };
    tokio::time::timeout(LONG, ended).await.unwrap();
    agents.push(Agent::connect(&tunnels, &scope, None).await);
    assert!(turned_away(&tunnels, &scope).await);
}

#[tokio::test]
async fn a_claim_that_its_address_may_not_make_leaves_no_row_of_its_owner() {
    let (scope, ports) = (Scope::new(), Ports::in_memory());
    let tunnels = tunnels_over(&scope, &ports);
    let names = |limit| Allowance { names_per_hour: Some(limit), ..Allowance::default() };
    let limits = Limits { per_owner: names(5), per_address: names(0), ..Limits::default() };
    tunnels.owners.obey(&limits);
    let mut agent = Agent::connect(&tunnels, &scope, None).await;
    let told = agent.ask("new", None).await;
    let RelayMessage::Refused(refused) = told else { panic!("{told:?}") };
    assert!(refused.refusal.message.starts_with("your address"), "{refused:?}");
    assert_eq!(ports.store.forget_tallies(u64::MAX).await.unwrap(), 0);
    tunnels.owners.obey(&Limits { per_address: names(1), ..limits });
    agent.claim("new").await;
    assert_eq!(ports.store.forget_tallies(u64::MAX).await.unwrap(), 2);
}

/// Opens a connection that the handshake has let in and that says hello, and tells whether it gets
/// no session.
async fn turned_away(tunnels: &Arc<Tunnels>, scope: &Scope) -> bool {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let driven = Arc::clone(tunnels).connection(far, admitted(), IpAddr::from([127, 0, 0, 1]));
    let config = Some(mux::websocket_config());
    let socket = WebSocketStream::from_raw_socket(near, Role::Client, config).await;
    let scope = scope.child();
    let close = scope.token().clone();
    let (opener, _streams, driver) = mux::connect(socket, Side::Agent, Activity::default(), close);
    scope.spawn(async move { drop(driver.await) });
    let speaking = async {
        let mut stream = opener.open().await.unwrap();
        let hello = Hello {
            version: PROTOCOL_VERSION,
            agent: "test".to_owned(),
            session: None,
            capabilities: Vec::new(),
        };
        wire::write(&mut stream, &AgentMessage::Hello(hello)).await.unwrap();
        let said = wire::read::<RelayMessage>(&mut stream).await;
        scope.cancel();
        said.is_err()
    };
    tokio::join!(speaking, driven).0
}
