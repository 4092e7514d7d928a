//! Relays that are replaced by another process while visitors ask: nobody is refused, nothing fails.
#![cfg(unix)]

mod http2;

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use harness::process::{Program, built, command, processes_of};
use harness::{Service, TestShare, eventually, full, request, soon, visitor};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use mcpm::tunnel::{Tunnel, TunnelConfig};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::Proof;
use mcpm_shared::identity::AgentKey;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::scope::Scope;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How many visitors ask at once, half of them on connections that they keep.
const VISITORS: usize = 12;
/// How many answers each kind of visitor must have had at least for a round to count.
const ENOUGH: usize = 20;

/// A relay process, and where it listens.
struct RelayProcess {
    program: Program,
    addr: SocketAddr,
}

impl RelayProcess {
    async fn start(data: &Path, args: &[&str]) -> Self {
        let mut command = command(built("mcpm-relay"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--http-mode", "--requests-per-second", "0"]);
        if !args.contains(&"--grace-secs") {
            command.args(["--grace-secs", "10"]);
        }
        command.arg("--data-dir").arg(data).args(args);
        Self::of(command).await
    }

    async fn of(command: tokio::process::Command) -> Self {
        let mut program = Program::start(command);
        let addr = program.line("the line that says where it listens", listening).await;
        Self { program, addr }
    }

    async fn ended(mut self) {
        let ended = self.program.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}

fn listening(line: &str) -> Option<SocketAddr> {
    let (_, addr) = line.strip_prefix("listening on ")?.split_once("://")?;
    addr.split_whitespace().next()?.parse().ok()
}

/// Shares a service at a relay process; the tunnel ends with `scope`.
fn share(relay: SocketAddr, name: &str, service: &Service, scope: &Scope) -> TestShare {
    let config = TunnelConfig {
        relay: format!("http://{relay}").parse().unwrap(),
        key: AgentKey::generate(),
        proof: Proof::None.into(),
        tls: Default::default(),
        connections: 2,
        proxy: Default::default(),
        agent_version: "test".to_owned(),
    };
    let asked = request(name, ShareMode::Http, AccessPolicy::public());
    TestShare { tunnel: Tunnel::start(config, asked, service.backend(), scope.clone()) }
}

/// Whoever asks a share again and again.
trait Asks: Send + 'static {
    /// Asks once, and returns what came in place of the expected answer.
    fn ask(&mut self, body: &str) -> impl Future<Output = Result<(), String>> + Send;
}

/// A visitor without mercy: it tries nothing twice, unlike HTTP libraries.
struct Visitor {
    relay: SocketAddr,
    path: &'static str,
    keeps: bool,
    sender: Option<SendRequest<Full<Bytes>>>,
    scope: Scope,
}

impl Asks for Visitor {
    async fn ask(&mut self, body: &str) -> Result<(), String> {
        // A connection that is known to be closed is nobody's fault.
        let kept = self.sender.take().filter(|sender| !sender.is_closed());
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect().await.map_err(|error| format!("connect: {error}"))?,
        };
        let request = Request::post(self.path)
            .header("host", format!("localhost:{}", self.relay.port()))
            .body(Full::from(body.to_owned()))
            .unwrap();
        sender.ready().await.map_err(|error| format!("not ready: {error}"))?;
        let answer = sender.send_request(request).await.map_err(|error| format!("{error:?}"))?;
        let (parts, answer) = answer.into_parts();
        let read = answer.collect().await.map_err(|error| format!("body: {error:?}"))?.to_bytes();
        if parts.status != 200 || read != body.as_bytes() {
            return Err(format!("{parts:?} {}", String::from_utf8_lossy(&read)));
        }
        let last = parts.headers.get("connection").is_some_and(|value| value == "close");
        self.sender = Some(sender).filter(|_| self.keeps && !last);
        Ok(())
    }
}

impl Visitor {
    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = TcpStream::connect(self.relay).await.map_err(|error| error.to_string())?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        self.scope.spawn_until_cancelled(async move { drop(connection.await) });
        Ok(sender)
    }
}

/// Visitors who ask all the time.
struct Crowd {
    scope: Scope,
    /// Answers so far, to every other visitor: of HTTP/1.1, to those who do not keep connections and to those who do.
    answers: watch::Receiver<[usize; 2]>,
    failures: watch::Receiver<Vec<String>>,
}

impl Crowd {
    fn gather(relay: SocketAddr, path: &'static str) -> Self {
        Self::of(|number, scope| {
            let (keeps, scope) = (number % 2 == 0, scope.clone());
            Visitor { relay, path, keeps, sender: None, scope }
        })
    }

    fn of<V: Asks>(visitor: impl Fn(usize, &Scope) -> V) -> Self {
        let scope = Scope::new();
        let (answered, answers) = watch::channel([0; 2]);
        let (failed, failures) = watch::channel(Vec::new());
        let told = Arc::new((answered, failed));
        for number in 0..VISITORS {
            let mut visitor = visitor(number, &scope);
            let told = Arc::clone(&told);
            scope.spawn_until_cancelled(async move {
                for round in 0_usize.. {
                    match visitor.ask(&format!("visitor {number}, round {round}")).await {
                        Ok(()) => told.0.send_modify(|answers| answers[1 - number % 2] += 1),
                        Err(failure) => told.1.send_modify(|failures| failures.push(failure)),
                    }
                }
            });
        }
        Self { scope, answers, failures }
    }

    /// Waits until both kinds of visitors have had some more answers.
    async fn goes_on(&mut self) {
        let before = *self.answers.borrow();
        let more =
            self.answers.wait_for(|now| (0..2).all(|kind| now[kind] >= before[kind] + ENOUGH));
        soon("visitors get answers", more).await.unwrap();
    }

    fn leave(self) -> usize {
        self.scope.cancel();
        let failures = self.failures.borrow().clone();
        assert!(
            failures.is_empty(),
            "{} failed: {:#?}",
            failures.len(),
            &failures[..3.min(failures.len())]
        );
        self.answers.borrow().iter().sum()
    }
}

/// A service that says what it is told; at `/slow` it waits until it may.
async fn echo(mut may: watch::Receiver<bool>) -> Service {
    may.mark_unchanged();
    Service::start(move |request| {
        let mut may = may.clone();
        async move {
            if request.uri().path() == "/slow" {
                may.wait_for(|may| *may).await.unwrap();
            }
            Response::new(full(request.into_body().collect().await.unwrap().to_bytes()))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_is_replaced_again_and_again_and_no_request_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (let_go, may) = watch::channel(false);
    let (service, scope) = (echo(may).await, Scope::new());
    let mut relay = RelayProcess::start(dir.path(), &[]).await;
    let addr = relay.addr;
    let share = share(addr, "steady", &service, &scope);
    let mut info = share.up().await;
    let mut crowd = Crowd::gather(addr, "/s/steady/");
    crowd.goes_on().await;
    // One call that lasts longer than the process that took it.
    let slow = {
        let client = visitor();
        let call = client.post(format!("http://{addr}/s/steady/slow")).body("slow");
        let (came, answer) = tokio::sync::oneshot::channel();
        scope.spawn(async move { drop(came.send(call.send().await.unwrap().text().await)) });
        answer
    };
    for round in 0..3 {
        let next = RelayProcess::start(dir.path(), &["--take-over"]).await;
        assert_eq!(next.addr, addr, "the very socket");
        info = share.up_after(info.generation).await;
        crowd.goes_on().await;
        if round == 0 {
            let_go.send_replace(true);
        }
        std::mem::replace(&mut relay, next).ended().await;
        crowd.goes_on().await;
    }
    assert_eq!(soon("the slow call ends", slow).await.unwrap().unwrap(), "slow");
    let answers = crowd.leave();
    assert!(answers >= 6 * ENOUGH, "{answers}");
    relay.program.signal("TERM");
    relay.ended().await;
    scope.cancel();
}

/// What a service manager hears next.
fn heard(manager: &UnixDatagram) -> Option<String> {
    let mut buffer = [0; 256];
    let length = manager.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_sigusr2_a_relay_starts_its_own_successor_and_the_manager_watches_that_one() {
    let dir = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_nonblocking(true).unwrap();
    let (let_go, may) = watch::channel(true);
    let (service, scope) = (echo(may).await, Scope::new());
    let mut command = command(built("mcpm-relay"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "none", "--http-mode"]);
    command
        .args(["--requests-per-second", "0"])
        .arg("--data-dir")
        .arg(dir.path())
        .env("NOTIFY_SOCKET", dir.path().join("notify"));
    let mut relay = RelayProcess::of(command).await;
    let first = relay.program.id();
    let hear = || async { heard(&manager) };
    let told = eventually("the manager hears", hear).await;
    assert_eq!(told, format!("READY=1\nMAINPID={first}"));
    let share = share(relay.addr, "own", &service, &scope);
    let info = share.up().await;
    let mut crowd = Crowd::gather(relay.addr, "/s/own/");
    crowd.goes_on().await;

    relay.program.signal("USR2");
    // It writes to the same terminal.
    let again = relay.program.line("the successor's line", listening).await;
    assert_eq!(again, relay.addr);
    let told = eventually("the manager hears again", hear).await;
    let second = told.strip_prefix("READY=1\nMAINPID=").unwrap().to_owned();
    assert_ne!(second, first.to_string());
    share.up_after(info.generation).await;
    let one_is_left = || async {
        let left = processes_of(dir.path());
        matches!(&left[..], [one] if one.starts_with(&format!("{second} "))).then_some(())
    };
    eventually("the first process is gone", one_is_left).await;
    crowd.goes_on().await;
    crowd.leave();
    assert!(heard(&manager).is_none(), "who is replaced does not say that the service stops");

    let kill = std::process::Command::new("kill").args(["-s", "TERM", &second]).status();
    assert!(kill.unwrap().success());
    let told = eventually("the manager hears the end", hear).await;
    assert_eq!(told, "STOPPING=1");
    let ended = relay.program.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    scope.cancel();
    drop(let_go);
}

#[tokio::test]
async fn a_successor_that_cannot_start_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_let_go, may) = watch::channel(true);
    let (service, scope) = (echo(may).await, Scope::new());
    let relay = RelayProcess::start(dir.path(), &["--take-over"]).await;
    let share = share(relay.addr, "calm", &service, &scope);
    let info = share.up().await;
    let mut broken = command(built("mcpm-relay"));
    broken.args(["serve", "--take-over", "--tls-cert", "/nowhere", "--tls-key", "/nowhere"]);
    broken.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"]);
    let ended = Program::start({
        broken.arg(dir.path());
        broken
    })
    .ended()
    .await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let answer = visitor().post(&info.url).body("hi").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "hi");
    assert_eq!(share.up().await.generation, info.generation, "no agent was asked to go");
    let next = RelayProcess::start(dir.path(), &["--take-over"]).await;
    assert_eq!(next.addr, relay.addr, "the next one can");
    relay.ended().await;
    next.program.signal("TERM");
    next.ended().await;
    scope.cancel();
}

#[tokio::test]
async fn a_second_relay_over_one_database_is_refused_and_the_first_notices_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_let_go, may) = watch::channel(true);
    let (service, scope) = (echo(may).await, Scope::new());
    let mut relay = RelayProcess::start(dir.path(), &[]).await;
    let share = share(relay.addr, "only", &service, &scope);
    let info = share.up().await;
    let names = || {
        let mut names = command(built("mcpm-relay"));
        names.args(["name", "ls", "--data-dir"]).arg(dir.path());
        Program::start(names)
    };
    let before = names().ended().await.stdout;

    let mut second = command(built("mcpm-relay"));
    second.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "none", "--data-dir"]);
    second.arg(dir.path());
    let ended = Program::start(second).ended().await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    let database = dir.path().join("relay.db");
    let told = format!("error: another relay runs on the database {}", database.display());
    assert!(ended.stderr.contains(&told), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: ") && ended.stderr.contains("--take-over"));

    assert!(before.contains("only") && before.contains("live"), "{before}");
    assert_eq!(names().ended().await.stdout, before);
    assert_eq!(share.up().await.generation, info.generation, "its agent was not sent away");
    relay.program.signal("TERM");
    let ended = relay.program.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("successor"), "{}", ended.stderr);
    // The right to the database ends with the process, however that ends.
    for _ in 0..2 {
        let mut next = RelayProcess::start(dir.path(), &[]).await;
        next.program.signal("KILL");
        next.program.ended().await;
    }
    scope.cancel();
}

#[tokio::test]
async fn a_relay_behind_a_balancer_still_serves_while_it_says_that_it_goes() {
    let mut config = mcpm_relay::Config::for_tests();
    config.timing.drain = std::time::Duration::from_secs(5);
    let relay = harness::TestRelay::with(config).await;
    let (_let_go, may) = watch::channel(true);
    let (agent, service) = (harness::TestAgent::new(), echo(may).await);
    let (_share, info) = agent.share(&relay, "last", &service, AccessPolicy::public()).await;
    let client = visitor();
    let ready = format!("http://{}/readyz", relay.relay.admin_addr().unwrap());
    let addr = relay.relay.addr();
    let down = relay.relay.shutdown();
    let meanwhile = async {
        eventually("it says that it goes", || async {
            let answer = client.get(&ready).send().await.ok()?;
            (answer.status() == 503).then_some(())
        })
        .await;
        // On a new connection, and told that it is the last answer there.
        let answer = visitor().post(&info.url).body("late").send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["connection"]),
            (200, &"close".parse().unwrap())
        );
        assert_eq!(answer.text().await.unwrap(), "late");
        eventually("nothing is accepted any more", || async {
            TcpStream::connect(addr).await.err()
        })
        .await;
    };
    let (cut, ()) = soon("it goes", async { tokio::join!(down, meanwhile) }).await;
    assert_eq!(cut, 0);
}
