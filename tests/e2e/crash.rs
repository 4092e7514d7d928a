//! kill -9 at any moment: every file holds what it held before or what it should hold then, nothing is locked, and
//! what was begun is cleared away. The writes are those of the real program, so that nothing is left out.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use harness::process::built;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// How many processes are killed, on as many homes at once as `HOMES`.
const ROUNDS: u32 = 1_000;
const HOMES: u32 = 2;
/// How many servers a home has: enough that the write is a good part of the life of the process.
const SERVERS: u32 = 40;
/// How the names of files begin that are not finished yet.
const DRAFT: &str = ".mcpm-";

/// Commands each of which changes something after the one before it, and nothing when it is done twice.
const STEPS: &[&[&str]] = &[
    &["new", "extra", "--command", "x", "--args", "a 'b c'", "--force"],
    &["edit", "s07", "--env", "ROUND=1"],
    &["profile", "create", "p", "--force"],
    &["profile", "edit", "work", "--set-servers", "s01,s02,s03"],
    &["client", "edit", "cursor", "--add-server", "s01"],
    &["client", "edit", "codex-cli", "--add-server", "s01"],
    &["client", "edit", "goose-cli", "--add-server", "s01"],
    &["config", "set", "node_executable", "bunx"],
    &["install", "memory", "--offline", "--force"],
    &["uninstall", "extra", "--force"],
    &["edit", "s07", "--env", "ROUND=2"],
    &["profile", "rm", "p", "--force"],
    &["profile", "edit", "work", "--set-servers", "s04"],
    &["client", "edit", "cursor", "--remove-server", "s01"],
    &["client", "edit", "codex-cli", "--remove-server", "s01"],
    &["client", "edit", "goose-cli", "--remove-server", "s01"],
    &["config", "set", "node_executable", "npx"],
    &["uninstall", "memory", "--force"],
];

/// The clients that are edited: their files, and what people have in them.
const CLIENTS: [(&str, &str); 3] = [
    (
        ".cursor/mcp.json",
        "// mine\n{\n  \"mcpServers\": {\n    \"a\": { \"command\": \"x\" }, // a\n  }\n}\n",
    ),
    (".codex/config.toml", "# mine\nmodel = \"m\"\n\n[mcp_servers.a]\ncommand = \"x\" # a\n"),
    (".config/goose/config.yaml", "# mine\nextensions:\n  a: # a\n    cmd: x\n    type: stdio\n"),
];

/// The contents of all files that are ever written, by their path below the home.
type Contents = BTreeMap<PathBuf, String>;

#[test]
#[expect(clippy::print_stderr, reason = "who looks into a failure wants the seed")]
fn kill_9_at_random_moments_of_a_thousand_writes_loses_nothing() {
    let seed = std::hash::RandomState::new().build_hasher().finish();
    eprintln!("seed {seed}");
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let lives =
            (0..HOMES).map(|home| scope.spawn(move || live(seed.wrapping_add(home.into()))));
        let lives: Vec<_> = lives.collect();
        lives.into_iter().map(|life| life.join().unwrap()).collect()
    });
    let sum = |of: fn(&Tally) -> u32| tallies.iter().map(of).sum::<u32>();
    let (killed, changed, drafts) = (sum(|t| t.killed), sum(|t| t.changed), sum(|t| t.drafts));
    eprintln!(
        "{ROUNDS} rounds: {killed} killed, {changed} had changed a file, {drafts} drafts were left"
    );
    // Else the moments were not those of the writes.
    assert!(killed > ROUNDS / 4 && changed + drafts > ROUNDS / 20, "{killed} {changed} {drafts}");
}

#[test]
fn many_processes_that_write_at_once_lose_no_change_of_each_other() {
    let home = Home::new();
    let names: Vec<String> = (0..24).map(|number| format!("new{number}")).collect();
    let started: Vec<Child> =
        names.iter().map(|name| home.start(&["new", name, "--command", "x"])).collect();
    for child in started {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let servers = home.servers();
    assert!(names.iter().all(|name| servers.contains_key(name)));
    assert_eq!(servers.len(), names.len() + SERVERS as usize);
    assert_eq!(home.drafts(), Vec::<PathBuf>::new());
}

/// What became of the processes of one home.
#[derive(Default)]
struct Tally {
    killed: u32,
    changed: u32,
    drafts: u32,
}

/// Lives through its share of the rounds.
fn live(seed: u64) -> Tally {
    let (home, mut random) = (Home::new(), Random(seed));
    let usual = home.usual_time();
    let mut tally = Tally::default();
    for round in 0..ROUNDS / HOMES {
        let step = STEPS[round as usize % STEPS.len()];
        let old = home.contents();
        // Half of the moments lie where the writes are: near the end.
        let share = random.below(1_000);
        let share = if round % 2 == 0 { 400 + share * 8 / 10 } else { share * 12 / 10 };
        let was_killed = home.kill_within(step, usual * share / 1_000);
        let found = home.contents();
        let again = home.run(step);
        let told = String::from_utf8_lossy(&again.stderr).into_owned();
        // What is gone already cannot be taken away a second time.
        assert!(matches!(again.status.code(), Some(0 | 1)), "{step:?}: {told}");
        assert!(!told.contains("lock"), "{step:?}: {told}");
        let new = home.contents();
        for (path, text) in &found {
            let whole = [old.get(path), new.get(path), backed_up(path, &old)];
            let between = || is_between(text, old.get(path), new.get(path));
            let fine = whole.contains(&Some(text)) || between();
            assert!(fine, "seed {seed}, round {round}, {step:?}: {}\n{text}", path.display());
        }
        let lost = old.keys().find(|path| !found.contains_key(*path) && new.contains_key(*path));
        assert!(lost.is_none(), "seed {seed}, round {round}, {step:?}: {lost:?} was not there");
        tally.killed += u32::from(was_killed);
        tally.changed += u32::from(was_killed && found != old);
    }
    let servers = home.servers();
    assert!((0..SERVERS).all(|number| servers.contains_key(&name(number))), "{servers:?}");
    tally.drafts = u32::try_from(home.drafts().len()).unwrap();
    home.what_was_begun_is_cleared_away();
    tally
}

/// The text that a backup is made of.
fn backed_up<'a>(path: &Path, old: &'a Contents) -> Option<&'a String> {
    let of = path.to_str()?.strip_suffix(".mcpm.bak")?;
    old.get(Path::new(of))
}

/// Whether a file is what a step of several writes leaves between two of them: no entry that stays is missing, and
/// whatever is in it was there before or is there in the end.
fn is_between(text: &str, old: Option<&String>, new: Option<&String>) -> bool {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let ends = [old, new].map(|end| end.map_or_else(|| json!({}), |end| parsed(end)));
    let found = parsed(text);
    let Some(entries) = found.as_object() else { return false };
    let of_an_end = |name: &String, entry: &Value| match entry.as_object() {
        Some(entry) => {
            entry.iter().all(|(key, value)| ends.iter().any(|end| end[name][key] == *value))
        }
        None => ends.iter().any(|end| end[name] == *entry),
    };
    let stays = |name: &str| ends.iter().all(|end| end.get(name).is_some());
    let kept = ends[0]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(name, _)| !stays(name) || entries.contains_key(name));
    kept && entries.iter().all(|(name, entry)| of_an_end(name, entry))
}

/// A home with servers, a profile and clients.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        let servers: Map<String, Value> = (0..SERVERS)
            .map(|number| {
                let entry = json!({
                    "name": name(number), "profile_tags": ["work"], "command": "npx",
                    "args": ["-y", format!("@example/server-{number}"), "--verbose"],
                    "env": { "KEY": "x".repeat(500) }, "timeout": 1.50,
                });
                (name(number), entry)
            })
            .collect();
        let config = home.path(".config/mcpm");
        fs::create_dir_all(&config).unwrap();
        let servers = serde_json::to_string_pretty(&servers).unwrap();
        fs::write(config.join("servers.json"), servers).unwrap();
        for (file, text) in CLIENTS {
            fs::create_dir_all(home.path(file).parent().unwrap()).unwrap();
            fs::write(home.path(file), text).unwrap();
        }
        home
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(built("mcpm"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.0.path()).env("MCPM_NON_INTERACTIVE", "true");
        command
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// How long a step takes that nobody kills.
    fn usual_time(&self) -> Duration {
        let time = |step: &&[&str]| {
            let started = Instant::now();
            let output = self.run(step);
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{step:?}: {told}");
            started.elapsed()
        };
        let mut times: Vec<Duration> = STEPS.iter().map(time).collect();
        times.sort();
        times[times.len() / 2]
    }

    /// Does a step and kills it after this time; tells whether that was before its end.
    fn kill_within(&self, args: &[&str], moment: Duration) -> bool {
        let mut child = self.start(args);
        // The moment is what this is about, so nothing else can be waited for.
        std::thread::park_timeout(moment);
        child.kill().unwrap();
        child.wait().unwrap().signal() == Some(9)
    }

    /// Everything but locks, which have nothing in them, and drafts.
    fn contents(&self) -> Contents {
        let mut contents = Contents::new();
        self.walk(&mut |path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.ends_with(".lock") && !name.starts_with(DRAFT) {
                let below = path.strip_prefix(self.0.path()).unwrap().to_owned();
                contents.insert(below, fs::read_to_string(path).unwrap());
            }
        });
        contents
    }

    fn drafts(&self) -> Vec<PathBuf> {
        let mut drafts = Vec::new();
        self.walk(&mut |path| {
            if path.file_name().unwrap().as_encoded_bytes().starts_with(DRAFT.as_bytes()) {
                drafts.push(path.to_owned());
            }
        });
        drafts
    }

    fn walk(&self, visit: &mut dyn FnMut(&Path)) {
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { visit(&path) }
            }
        }
    }

    fn servers(&self) -> Map<String, Value> {
        let text = fs::read_to_string(self.path(".config/mcpm/servers.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Asserts that drafts go with the next write in their folder, once they are a minute old.
    fn what_was_begun_is_cleared_away(&self) {
        let long_ago = SystemTime::now() - Duration::from_secs(600);
        for draft in self.drafts() {
            fs::File::options().write(true).open(draft).unwrap().set_modified(long_ago).unwrap();
        }
        for step in STEPS {
            self.run(step);
        }
        assert_eq!(self.drafts(), Vec::<PathBuf>::new());
    }
}

fn name(number: u32) -> String {
    format!("s{number:02}")
}

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed >> 33) % u64::from(bound)).unwrap()
    }
}
