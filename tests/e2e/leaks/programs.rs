//! `mcpm` as a process, long-lived and short-lived.

use std::cell::Cell;

use harness::home::Home;
use harness::process::Program;
use harness::{TestRelay, eventually};
use tokio::time::timeout;

use super::count::{descriptors, kill, settled, targets};
use super::visitor::{Door, hang, initialize, pid, who};
use super::{PATIENCE, Visit, broken, each, home, visit};

#[tokio::test]
async fn a_served_process_is_as_small_after_a_hundred_clients_as_before() {
    let home = home();
    let serve = home.command("mcpm", &["run", "x", "--http", "--port", "0"]);
    let mut program = Program::start(serve);
    let url = program.line("the URL", |line| Some(line.to_owned())).await;
    let door = Door { url, token: None };
    let process = program.id();
    let good = [Visit::Whole, Visit::Dropped, Visit::Killed, Visit::Modern, Visit::ModernDropped];
    let state = || (home.processes().len(), descriptors(process));

    each(&good, 2, async |kind| visit(&door, kind).await).await;
    let before = settled(state).await;
    let held = targets(process);
    each(&good, 18, async |kind| visit(&door, kind).await).await;
    broken(&home, true);
    each(&[Visit::Broken], 10, async |kind| visit(&door, kind).await).await;
    broken(&home, false);
    each(&good, 1, async |kind| visit(&door, kind).await).await;
    let after = settled(state).await;
    assert!(before.1 > 0, "the descriptors of {process} cannot be counted");
    assert!(
        after.0 <= before.0 && after.1 <= before.1,
        "processes and descriptors: {before:?} became {after:?}\n{:#?}\n{held:#?}\n{:#?}",
        home.processes(),
        targets(process),
    );

    program.signal("TERM");
    assert_eq!(program.ended().await.code, Some(143), "{}", program.transcript());
    nothing_is_left(&home).await;
}

async fn nothing_is_left(home: &Home) {
    let gone =
        eventually("nothing is left", || async { home.processes().is_empty().then_some(()) });
    if timeout(PATIENCE, gone).await.is_err() {
        panic!("left behind: {:#?}", home.processes());
    }
}

/// How `mcpm run` over stdio ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It is killed when its server runs.
    Kill,
    /// It is killed while a call is under way.
    KillInCall,
    /// It is asked to end.
    Term,
    /// Its client closes stdin.
    Input,
    /// Its server is killed first.
    Server,
}

async fn run(home: &Home, end: End) {
    let mut program = Program::start(home.command("mcpm", &["run", "x"]));
    program.say(&initialize().to_string()).await;
    program.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    program.say(&who(1).to_string()).await;
    let said = |text: &'static str| move |line: &str| line.contains(text).then(|| line.to_owned());
    let server = pid(&program.line("the answer", said("\"pid\"")).await);
    if let End::KillInCall | End::Server = end {
        program.say(&hang(2).to_string()).await;
        program.line("the call", said("notifications/progress")).await;
    }
    let (code, signal) = match end {
        End::Kill | End::KillInCall => {
            program.signal("KILL");
            (None, Some(9))
        }
        End::Term => {
            program.signal("TERM");
            (Some(143), None)
        }
        End::Input => {
            program.hang_up();
            (Some(0), None)
        }
        End::Server => {
            kill(server).await;
            program.line("the end of the call", said("\"id\":2")).await;
            program.hang_up();
            (Some(0), None)
        }
    };
    let ended = program.ended().await;
    assert_eq!((ended.code, ended.signal), (code, signal), "{end:?}: {}", program.transcript());
}

#[tokio::test]
async fn no_way_of_ending_a_run_leaves_a_process_behind() {
    let home = home();
    let ends = [End::Kill, End::KillInCall, End::Term, End::Input, End::Server];
    each(&ends, 10, async |end| run(&home, end).await).await;
    broken(&home, true);
    each(&[()], 5, async |()| {
        let mut program = Program::start(home.command("mcpm", &["run", "x"]));
        program.say(&initialize().to_string()).await;
        program.hang_up();
        program.ended().await;
    })
    .await;
    nothing_is_left(&home).await;
}

#[tokio::test]
async fn no_way_of_ending_a_share_leaves_a_process_behind() {
    let home = home();
    let relay = TestRelay::start().await;
    let address = relay.url("");
    let next = Cell::new(0);
    each(&["INT", "TERM", "KILL"], 4, async |signal| {
        next.set(next.get() + 1);
        let name = format!("leaks-{}", next.get());
        let args = ["share", "x", "--json", "--address", &address, "--subdomain", &name];
        let mut program = Program::start(home.command("mcpm", &args));
        let up = program.event("up").await;
        let text = |key: &str| up[key].as_str().map(str::to_owned);
        let door = Door { url: text("url").unwrap(), token: text("token") };
        let session = door.open().await;
        assert!(session.call(&who(1)).await.contains("pid"));
        program.signal(signal);
        program.ended().await;
    })
    .await;
    nothing_is_left(&home).await;
}
