use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::app::share::{ShareEvent, Source, Stop};
use crate::credentials::ShareRecord;
use crate::running::{Ending, Mode, Process, Registration, RunId};
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;

fn home() -> (tempfile::TempDir, Paths) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("mcpm"));
    (dir, paths)
}

fn spec(access: Access) -> ShareSpec {
    ShareSpec {
        target: ShareTarget::Profile("work".to_owned()),
        source: Source::Http("8080".parse().unwrap()),
        relay: None,
        name: None,
        access,
        expires: None,
        local: None,
        patience: Patience::Retries(1),
        gateway: Arc::default(),
    }
}

fn run(mode: Mode) -> Run {
    Run { id: RunId::generate(), mode, router: false }
}

/// The beacon of a share that is the only one of its process.
fn lone(paths: &Paths, run: &Run, spec: &ShareSpec) -> Result<(Beacon, BeaconTask), FsError> {
    let mut task = BeaconTask::new();
    let beacon = task.add(paths, run, spec, CancellationToken::new().into())?;
    Ok((beacon, task))
}

fn up_event() -> ShareEvent {
    ShareEvent::Up(Box::new(Up {
        name: "work-abc".to_owned(),
        url: "http://u/mcp".to_owned(),
        token: None,
        link: None,
        local: None,
        expires_at: None,
        again: false,
    }))
}

/// Waits until the only run that is known is as wanted.
async fn seen(paths: &Paths, wanted: impl Fn(&RunningShare) -> bool) -> RunningShare {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let found = async {
        loop {
            tick.tick().await;
            let all = running::list(paths).unwrap();
            let found = all.into_iter().find_map(|seen| seen.record.ok().filter(&wanted));
            if let Some(found) = found {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap()
}

#[tokio::test]
async fn a_share_is_told_of_while_it_runs_and_forgotten_after() {
    let (_dir, paths) = home();
    let (mut task, stop) = (BeaconTask::new(), CancellationToken::new());
    let run = run(Mode::Background);
    let mut beacon = task.add(&paths, &run, &spec(Access::Token), stop.clone().into()).unwrap();
    assert_eq!(look(&paths).unwrap().running.len(), 1, "it is not known at once");
    let scope = Scope::new();
    scope.spawn(task.run());
    beacon.note(&up_event());
    let share = seen(&paths, |share| share.state == State::Connected).await;
    assert_eq!(share.full_name().unwrap(), "work-abc@local");
    beacon.note(&ShareEvent::Activity { requests: 3, active: 1 });
    seen(&paths, |share| (share.requests, share.active) == (3, 1)).await;
    assert!(!stop.is_cancelled());
    let id = look(&paths).unwrap().running.remove(0).id;
    running::ask_to_stop(&paths, &id).unwrap();
    stop.cancelled().await;
    drop(beacon);
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
    assert_eq!(std::fs::read_dir(paths.live_shares()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_share_in_a_terminal_writes_nothing_before_it_is_up() {
    let (_dir, paths) = home();
    let (mut beacon, task) = lone(&paths, &run(Mode::Foreground), &spec(Access::Token)).unwrap();
    let scope = Scope::new();
    scope.spawn(task.run());
    let ending = || Ending { code: "c".into(), message: "m".into(), hint: None, exit: 1 };
    beacon.ended(ending());
    drop(beacon);
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
    assert!(!paths.dir().exists());

    let (mut beacon, task) = lone(&paths, &run(Mode::Foreground), &spec(Access::Token)).unwrap();
    let scope = Scope::new();
    scope.spawn(task.run());
    beacon.note(&up_event());
    seen(&paths, |share| share.mode == Mode::Foreground).await;
    // Its terminal has seen why it ended.
    beacon.ended(ending());
    drop(beacon);
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
    assert_eq!(std::fs::read_dir(paths.live_shares()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_share_in_the_background_that_fails_leaves_its_reason_until_somebody_looks() {
    let (_dir, paths) = home();
    let (mut beacon, task) = lone(&paths, &run(Mode::Background), &spec(Access::Token)).unwrap();
    let scope = Scope::new();
    scope.spawn(task.run());
    beacon.note(&up_event());
    let ending = Ending { code: "superseded".into(), message: "m".into(), hint: None, exit: 1 };
    beacon.ended(ending.clone());
    drop(beacon);
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
    let shares = look(&paths).unwrap();
    assert!(shares.running.is_empty());
    assert_eq!(shares.ended[0].state, State::Ended(ending));
    let shares = look(&paths).unwrap();
    assert!(shares.running.is_empty() && shares.ended.is_empty());
}

#[tokio::test]
async fn another_share_of_the_same_name_is_known_before_it_is_started() {
    let (_dir, paths) = home();
    let (_beacon, _task) = lone(&paths, &run(Mode::Background), &spec(Access::Token)).unwrap();
    let again = spec(Access::Public);
    assert_eq!(rival(&paths, &again).unwrap().unwrap().target, again.target);
    let other = ShareSpec { name: Some("other".parse().unwrap()), ..again };
    assert!(rival(&paths, &other).unwrap().is_none());
}

#[tokio::test]
async fn a_share_that_has_the_name_a_renamed_thing_kept_is_its_rival() {
    let (_dir, paths) = home();
    let (mut beacon, task) = lone(&paths, &run(Mode::Background), &spec(Access::Token)).unwrap();
    let scope = Scope::new();
    scope.spawn(task.run());
    beacon.note(&up_event());
    let share = seen(&paths, |share| share.name.is_some()).await;
    let (name, target) = (share.name.unwrap(), ShareTarget::Profile("job".to_owned()));
    let renamed = ShareSpec { target: target.clone(), ..spec(Access::Token) };
    assert!(rival(&paths, &renamed).unwrap().is_none());
    let mut record = ShareRecord::new(name.clone(), NO_RELAY, target);
    record.inherited = true;
    ShareFile::new(&paths, &name, NO_RELAY).edit(|_| Ok((record, ()))).unwrap();
    assert_eq!(rival(&paths, &renamed).unwrap().unwrap().target, share.target);
    let other = ShareSpec { name: Some("other".parse().unwrap()), ..renamed };
    assert!(rival(&paths, &other).unwrap().is_none());
    drop(beacon);
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
}

#[test]
fn what_visitors_need_comes_from_the_file_of_the_share_and_never_from_the_run() {
    let (_dir, paths) = home();
    let name: mcpm_shared::name::Name = "work-abc".parse().unwrap();
    let file = ShareFile::new(&paths, &name, NO_RELAY);
    file.edit(|_| {
        let mut record = ShareRecord::new(name.clone(), NO_RELAY, spec(Access::Link).target);
        record.add_token(crate::credentials::NewToken::default(), 1);
        record.link = Some(Token::new("S3CRET"));
        Ok((record, ()))
    })
    .unwrap();
    let token = file.read().unwrap().unwrap().tokens.remove(0).token;
    for (access, has_token, has_link) in
        [(Access::Token, true, false), (Access::Link, true, true), (Access::Public, false, false)]
    {
        let (beacon, task) = lone(&paths, &run(Mode::Background), &spec(access)).unwrap();
        let mut share = look(&paths).unwrap().running.remove(0).record.unwrap();
        assert!(up(&paths, &share).unwrap().is_none(), "it is not up yet");
        (share.name, share.url) =
            (Some(name.clone()), Some("https://work-abc.r.example/mcp".into()));
        let text = serde_json::to_string(&share).unwrap();
        assert!(!text.contains("S3CRET") && !text.contains(token.expose()));
        let up = up(&paths, &share).unwrap().unwrap();
        assert_eq!(up.token.is_some(), has_token, "{access:?}");
        assert_eq!(up.link.is_some(), has_link, "{access:?}");
        drop((beacon, task));
    }
}

#[test]
fn the_link_of_mcpm_1_has_the_address_the_secret_and_the_profile() {
    let up = |url: &str| Up {
        name: "x".to_owned(),
        url: url.to_owned(),
        token: None,
        link: Some(format!("{url}?s=S-_1")),
        local: None,
        expires_at: None,
        again: false,
    };
    let link = |url: &str, profile: &str| router_link(&up(url), profile).unwrap();
    assert_eq!(
        link("https://work-abc.r.example/mcp", "work"),
        "https://work-abc.r.example?s=S-_1&profile=work"
    );
    assert_eq!(
        link("http://localhost:80/s/work-abc/mcp", "my work&x"),
        "http://localhost:80/s/work-abc?s=S-_1&profile=my+work%26x"
    );
    assert!(router_link(&Up { link: None, ..up("https://u/mcp") }, "work").is_none());
}

#[test]
fn the_wait_is_longer_than_what_the_share_itself_waits_for() {
    let patient = ShareSpec { patience: Patience::Time(Duration::MAX), ..spec(Access::Token) };
    assert_eq!(limit(&patient), Duration::MAX);
    let retrying = ShareSpec { patience: Patience::Retries(u32::MAX), ..spec(Access::Token) };
    assert!(limit(&retrying) > Duration::from_secs(1_000_000));
    assert!(limit(&spec(Access::Token)) > Duration::from_secs(60));
}

#[cfg(unix)]
fn sleeper() -> std::process::Child {
    std::process::Command::new("sleep").arg("1000").spawn().unwrap()
}

#[cfg(unix)]
#[tokio::test]
async fn a_process_that_got_the_id_of_a_share_is_spared_by_force() {
    let (_dir, paths) = home();
    let mut child = sleeper();
    let mut record = {
        let (_beacon, _task) = lone(&paths, &run(Mode::Background), &spec(Access::Token)).unwrap();
        look(&paths).unwrap().running.remove(0).record.unwrap()
    };
    // We hold the lock, as the process of the share would; its id is that of a stranger by now.
    let id = RunId::generate();
    record.process = Process { pid: child.id(), started: Some("0".to_owned()) };
    let registration = Registration::new(&paths, &id, &record).unwrap();
    let share = look(&paths).unwrap().running.remove(0);
    let error = stop::stop_within(&paths, &share, Duration::ZERO).await.unwrap_err();
    assert!(
        matches!(error, StopError::Stuck { pid: Some(pid), .. } if pid == child.id()),
        "{error}"
    );
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    drop(registration);
    // What is gone has ended as it should.
    let gone = stop(&paths, &share).await.unwrap();
    assert_eq!(gone, Stopped::Orderly);
    assert_eq!(std::fs::read_dir(paths.live_shares()).unwrap().count(), 0);
}

/// A process that holds the lock of its run, hears nothing, and is what its record says.
#[cfg(target_os = "linux")]
async fn deaf(paths: &Paths) -> (std::process::Child, Seen) {
    let (mut record, id) = {
        let run = run(Mode::Background);
        let (_beacon, _task) = lone(paths, &run, &spec(Access::Token)).unwrap();
        (look(paths).unwrap().running.remove(0).record.unwrap(), run.id)
    };
    // `flock` becomes what it runs, which holds the lock then.
    let file = |ending: &str| paths.live_shares().join(format!("{id}.{ending}"));
    let mut command = std::process::Command::new("flock");
    let holder = command.arg("-F").arg(file("lock")).args(["sleep", "30"]).spawn().unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while !running::is_alive(paths, &id) {
        tick.tick().await;
    }
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", holder.id())).unwrap();
    let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    record.process = Process { pid: holder.id(), started: Some(started) };
    std::fs::write(file("json"), serde_json::to_string(&record).unwrap()).unwrap();
    (holder, look(paths).unwrap().running.remove(0))
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_share_that_does_not_hear_is_ended_by_force() {
    let (_dir, paths) = home();
    let (mut holder, share) = deaf(&paths).await;
    let stopped = stop::stop_within(&paths, &share, Duration::ZERO).await.unwrap();
    assert_eq!(stopped, Stopped::Forced);
    assert!(!holder.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(paths.live_shares()).unwrap().count(), 0);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn force_ends_no_share_of_the_process_that_nobody_asked_to_end() {
    let (_dir, paths) = home();
    let (mut holder, share) = deaf(&paths).await;
    let (id, target) = (RunId::generate(), ShareTarget::Server("notes".to_owned()));
    let record = RunningShare { target, ..share.record.as_ref().unwrap().clone() };
    let _neighbour = Registration::new(&paths, &id, &record).unwrap();
    let error = stop::stop_within(&paths, &share, Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, StopError::NotAlone { pid, .. } if pid == holder.id()), "{error}");
    assert!(error.to_string().contains("server `notes`"), "{error}");
    assert!(holder.try_wait().unwrap().is_none());
    // Once both are asked to end, nobody is in the way.
    running::ask_to_stop(&paths, &id).unwrap();
    let stopped = stop::stop_within(&paths, &share, Duration::ZERO).await.unwrap();
    assert_eq!(stopped, Stopped::Forced);
    assert!(!holder.wait().unwrap().success());
}

#[cfg(unix)]
fn order(paths: &Paths, program: &str, args: &[&str], limit: Duration) -> Order {
    let id = RunId::generate();
    let log = log(paths, &ShareTarget::Server("x".to_owned()));
    let args = args.iter().map(Into::into).collect();
    Order { program: program.into(), args, id, log, limit }
}

#[cfg(unix)]
#[tokio::test]
async fn a_process_that_ends_without_a_word_is_told_with_its_log() {
    let (_dir, paths) = home();
    let order = order(&paths, "sh", &["-c", "echo broken >&2; exit 7"], Duration::from_secs(20));
    let error = launch(&paths, &order, |_| {}, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, LaunchError::Died { .. }), "{error}");
    assert!(error.hint_text().contains(&order.log.display().to_string()));
    assert_eq!(std::fs::read_to_string(&order.log).unwrap(), "broken\n");
    let none = Order { program: "/nonexistent/mcpm".into(), ..order };
    let error = launch(&paths, &none, |_| {}, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, LaunchError::Spawn { .. }), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_share_that_is_not_up_in_time_or_not_wanted_any_more_does_not_go_on() {
    let (_dir, paths) = home();
    // It ends when it is asked to, as a share does.
    let ends = r#"until [ -e "$0" ]; do sleep 0.02; done"#;
    for wanted in [true, false] {
        let mut order = order(&paths, "sh", &[], Duration::ZERO);
        let wish = paths.live_shares().join(format!("{}.stop", order.id));
        order.args = vec!["-c".into(), ends.into(), wish.into_os_string()];
        let stop = CancellationToken::new();
        if !wanted {
            order.limit = Duration::from_secs(60);
            stop.cancel();
        }
        let error = launch(&paths, &order, |_| {}, &stop).await.unwrap_err();
        match wanted {
            true => assert!(matches!(error, LaunchError::TimedOut { .. }), "{error}"),
            false => assert!(matches!(error, LaunchError::Stopped), "{error}"),
        }
        assert_eq!(std::fs::read_dir(paths.live_shares()).unwrap().count(), 0);
    }
}

impl LaunchError {
    fn hint_text(&self) -> String {
        crate::hint::Hint::hint(self).unwrap_or_default()
    }
}

#[tokio::test]
async fn each_of_several_shares_of_a_process_is_told_of_stopped_and_forgotten_by_itself() {
    let (_dir, paths) = home();
    let mut task = BeaconTask::new();
    let stops = Stop::several(&CancellationToken::new(), 2);
    let mut beacons: Vec<Beacon> = stops
        .iter()
        .map(|stop| {
            let run = run(Mode::Foreground);
            task.add(&paths, &run, &spec(Access::Token), stop.clone()).unwrap()
        })
        .collect();
    let scope = Scope::new();
    scope.spawn(task.run());
    beacons.iter_mut().for_each(|beacon| beacon.note(&up_event()));
    beacons[0].note(&ShareEvent::Activity { requests: 7, active: 0 });
    let first = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            let running = look(&paths).unwrap().running;
            let is_it = |seen: &&Seen| seen.record.as_ref().is_ok_and(|r| r.requests == 7);
            if let (2, Some(first)) = (running.len(), running.iter().find(is_it)) {
                return first.id.clone();
            }
        }
    };
    let id = tokio::time::timeout(Duration::from_secs(20), first).await.unwrap();
    running::ask_to_stop(&paths, &id).unwrap();
    stops[0].cancelled().await;
    assert!(!stops[1].is_cancelled());
    drop(beacons.remove(0));
    let gone = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while running::is_alive(&paths, &id) {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    assert_eq!(look(&paths).unwrap().running.len(), 1);
    beacons.clear();
    assert_eq!(scope.drain(Duration::from_secs(10)).await, 0);
    assert_eq!(std::fs::read_dir(paths.live_shares()).unwrap().count(), 0);
}
