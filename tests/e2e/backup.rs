//! Backup and restore, by the very commands of `docs/upgrade.md`, of a relay that is lost while it serves.
#![cfg(unix)]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::peers::{peer, programs};
use harness::process::{Program, built, command};
use harness::{Service, TestAgent, request, visitor};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::Proof;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::token::Token;
use serde_json::Value;

use crate::nodes::private_postgres::PrivatePostgres;

/// A relay's data directory, its settings, and where the backup goes.
struct World {
    folder: tempfile::TempDir,
    /// The URL of the database; that in the data directory without one.
    database: Option<String>,
    addr: SocketAddr,
}

impl World {
    fn new(database: Option<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["data", "etc", "backup"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let world = Self { folder, database, addr: ([127, 0, 0, 1], 0).into() };
        std::fs::write(world.path("etc").join("relay.toml"), "auth = \"token\"\n").unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn at(&self) -> Vec<String> {
        let (settings, data) = (self.path("etc/relay.toml"), self.path("data"));
        let mut args = vec!["--config".to_owned(), settings.display().to_string()];
        args.extend(["--data-dir".to_owned(), data.display().to_string()]);
        args.extend(self.database.iter().flat_map(|url| ["--database".to_owned(), url.clone()]));
        args
    }

    async fn serve(&mut self) -> Program {
        let start = || {
            let mut serve = command(built("mcpm-relay"));
            serve.args(["serve", "--http-mode", "--admin-listen", "none", "--listen"]);
            serve.arg(self.addr.to_string()).args(self.at());
            serve
        };
        let addr = |line: &str| {
            line.strip_prefix("listening on http://")?.split_whitespace().next()?.parse().ok()
        };
        let (relay, addr) = Program::listening(start, addr).await;
        self.addr = addr;
        relay
    }

    fn relay(&self, args: &[&str]) -> Value {
        let mut relay = Command::new(built("mcpm-relay"));
        let done = relay.args(args).arg("--json").args(self.at()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{args:?}: {said}");
        serde_json::from_slice(&done.stdout).unwrap()
    }

    fn subjects(&self) -> Vec<String> {
        let tokens = self.relay(&["token", "ls"]);
        let subject = |token: &Value| token["subject"].as_str().unwrap().to_owned();
        let mut subjects: Vec<_> = tokens.as_array().unwrap().iter().map(subject).collect();
        subjects.sort_unstable();
        subjects
    }

    fn state_of(&self, name: &str) -> Option<String> {
        let names = self.relay(&["name", "ls"]);
        let found = names.as_array().unwrap().iter().find(|it| it["name"] == name)?;
        Some(found["state"].as_str().unwrap().to_owned())
    }

    /// Runs commands of the document, which speaks of other places.
    fn shell(&self, commands: &str, environment: &[(OsString, OsString)]) {
        let places = [("/var/lib/mcpm-relay", "data"), ("/etc/mcpm-relay", "etc")];
        let places = places.into_iter().chain([("/backup", "backup")]);
        let commands = places.fold(commands.to_owned(), |commands, (documented, here)| {
            commands.replace(documented, self.path(here).to_str().unwrap())
        });
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &commands]).envs(environment.iter().cloned());
        let done = shell.current_dir(self.path("backup")).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{commands}\n{said}");
    }
}

/// The environment in which a shell finds a program of other people, which may be unpacked and not installed.
fn reaching(program: &str) -> Vec<(OsString, OsString)> {
    let found = peer(program).expect("it was looked for");
    let found = found.as_std();
    let own = Path::new(found.get_program()).parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path)));
    let libraries = found.get_envs().filter(|(name, _)| *name == "LD_LIBRARY_PATH");
    let libraries = libraries.filter_map(|(name, value)| Some((name.into(), value?.into())));
    libraries.chain([("PATH".into(), path.unwrap())]).collect()
}

/// The commands below a heading of the document, block by block.
fn documented(heading: &str) -> Vec<String> {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/upgrade.md");
    let text = std::fs::read_to_string(text).unwrap();
    let section = text.split_once(&format!("### {heading}\n")).unwrap().1;
    let section = section.split("\n### ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// Has a relay lose what it knows while it serves, after a backup, and looks at what comes back.
async fn comes_back(
    mut world: World,
    backup: impl Fn(&World),
    restore: impl Fn(&World) -> Option<String>,
) {
    let mut relay = world.serve().await;
    let issued = world.relay(&["token", "issue", "--sub", "ada"]);
    world.relay(&["name", "reserve", "team"]);
    let token = Proof::Token(Token::new(issued["token"].as_str().unwrap()));
    let (agent, service) = (TestAgent::showing(token.clone()), Service::echo().await);
    let asked = request("calc", ShareMode::Http, AccessPolicy::public());
    let url = format!("http://{}", world.addr);
    let share = agent.open_at(&url, asked, service.backend());
    let before = share.up().await;
    backup(&world);

    // What comes after the backup is lost with the relay.
    world.relay(&["token", "issue", "--sub", "bob"]);
    world.relay(&["name", "release", "team"]);
    assert_eq!((world.subjects().len(), world.state_of("team")), (2, None));
    relay.signal("KILL");
    relay.ended().await;
    world.database = restore(&world).or(world.database);

    let mut relay = world.serve().await;
    let after = share.up_after(before.generation).await;
    assert_eq!(after.url, before.url);
    let answer = visitor().post(&after.url).body("hi").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(world.subjects(), ["ada"]);
    assert_eq!(world.state_of("team").as_deref(), Some("reserved"));
    // The token that was issued before opens the relay for a machine that was never there.
    let (other, another) = (TestAgent::showing(token), Service::echo().await);
    let asked = request("notes", ShareMode::Http, AccessPolicy::public());
    other.open_at(&url, asked, another.backend()).up().await;
    relay.signal("TERM");
    assert_eq!(relay.ended().await.code, Some(0), "{}", relay.transcript());
}

#[tokio::test]
async fn a_relay_on_a_file_is_restored_as_documented() {
    if !programs(&["sqlite3"]) {
        return;
    }
    let [backup, restore] = documented("SQLite").try_into().unwrap();
    let environment = reaching("sqlite3");
    let restore = |world: &World| {
        world.shell(&restore, &environment);
        None
    };
    comes_back(World::new(None), |world| world.shell(&backup, &environment), restore).await;
}

#[tokio::test]
async fn a_relay_on_postgres_is_restored_as_documented() {
    if !programs(&["pg_dump", "pg_restore", "createdb"]) {
        return;
    }
    let Some(server) = PrivatePostgres::start() else { return };
    let url = server.database();
    let socket = url.split_once("host=").unwrap().1.split('&').next().unwrap().to_owned();
    let environment = [("PGHOST", &*socket), ("PGUSER", "relay")];
    let environment = environment.map(|(name, value)| (name.into(), value.into()));
    let [commands] = documented("PostgreSQL").try_into().unwrap();
    let name = url.split_once(":///").unwrap().1.split('?').next().unwrap();
    let commands = commands.replace("--host=db.example", &format!("--host={socket}"));
    let commands =
        commands.replace("--username=relay relay ", &format!("--username=relay {name} "));
    let (backup, restore) = commands.split_once('\n').unwrap();
    let restored = url.replace(&format!("///{name}?"), "///relay_restored?");
    let restore = |world: &World| {
        world.shell(restore, &environment);
        Some(restored.clone())
    };
    comes_back(World::new(Some(url.clone())), |world| world.shell(backup, &environment), restore)
        .await;
}
