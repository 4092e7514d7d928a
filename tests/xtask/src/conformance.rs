//! `cargo xtask conformance`: the MCP conformance suite against an upstream that passes it, alone and behind mcpm.
//!
//! What the upstream passes alone must pass through mcpm, except for the scenarios that `tests/conformance/expected-*.yml`
//! lists with reasons. A listed scenario that passes is an error too: the list would hide the day it breaks.

mod processes;
mod score;
mod way;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::peers;
use crate::step::{self, Failed};
use crate::tree::Tree;
use score::Score;
use way::{Era, Way};

/// One selection of scenarios, with the release of the suite that knows them.
struct Suite {
    name: &'static str,
    package: &'static str,
    flags: &'static [&'static str],
}

const SUITES: [Suite; 3] = [
    Suite { name: "active", package: "conformance-released", flags: &["--suite", "active"] },
    Suite {
        name: "2025-11-25",
        package: "conformance-next",
        flags: &["--requirements", "2025-11-25", "--timeout", "15000"],
    },
    Suite {
        name: "2026-07-28",
        package: "conformance-next",
        flags: &["--requirements", "2026-07-28", "--timeout", "15000"],
    },
];

/// What `--quick` runs: the newest set of scenarios through one child.
const QUICK: (&[Way], &[&str]) = (&[Way::Stdio], &["2026-07-28"]);

/// What to run.
struct Plan {
    ways: Vec<Way>,
    suites: Vec<&'static Suite>,
    /// The only era that the upstream speaks, if not both.
    era: Option<Era>,
    /// The folder of programs to use instead of building them.
    bins: Option<PathBuf>,
}

impl Plan {
    fn of(args: &[&str]) -> Result<Self, Failed> {
        let mut plan = Self { ways: Vec::new(), suites: Vec::new(), era: None, bins: None };
        let mut quick = false;
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().copied().ok_or(Failed(format!("{arg} wants a value")));
            match *arg {
                "--quick" => quick = true,
                "--legacy-only" => plan.era = Some(Era::Legacy),
                "--modern-only" => plan.era = Some(Era::Modern),
                "--bins" => plan.bins = Some(PathBuf::from(value()?)),
                "--through" => plan.ways.push(Way::named(value()?)?),
                "--suite" => plan.suites.push(suite(value()?)?),
                _ => return Err(Failed(format!("conformance knows no {arg}"))),
            }
        }
        if plan.ways.is_empty() {
            plan.ways = if quick { QUICK.0 } else { &Way::ALL }.to_vec();
        }
        if plan.suites.is_empty() {
            let wanted = |suite: &&Suite| !quick || QUICK.1.contains(&suite.name);
            plan.suites = SUITES.iter().filter(wanted).collect();
        }
        Ok(plan)
    }
}

fn suite(name: &str) -> Result<&'static Suite, Failed> {
    let names: Vec<_> = SUITES.iter().map(|suite| suite.name).collect();
    let unknown = || Failed(format!("no suite `{name}`: there are {}", names.join(", ")));
    SUITES.iter().find(|suite| suite.name == name).ok_or_else(unknown)
}

/// Runs what `args` choose, all by default; prints a table.
pub(crate) fn run(tree: &Tree, args: &[&str]) -> Result<(), Failed> {
    let mut plan = Plan::of(args)?;
    let (modules, node) = peers::conformance(tree)?;
    let bins = match plan.bins.take() {
        Some(bins) => tree.root.join(bins),
        None => {
            let packages =
                ["build", "-p", "mcpm", "-p", "mcpm-relay", "-p", "mcpm-upstream", "--bins"];
            step::run(tree, "bins", tree.cargo(&packages))?;
            tree.target.join("debug")
        }
    };
    Bench { tree, modules, node, bins }.run(&plan)
}

/// Runs the quick set as one of the checks; a machine that cannot run the suite passes, as without the other peers.
pub(crate) fn check(tree: &Tree) -> Result<(), Failed> {
    if let Err(Failed(why)) = peers::conformance(tree) {
        let first = why.lines().next().unwrap_or_default();
        println!("peers: {first}: the conformance suite is skipped");
        return Ok(());
    }
    run(tree, &["--quick"])
}

/// What all runs use.
struct Bench<'a> {
    tree: &'a Tree,
    /// The folder of the installed suites.
    modules: PathBuf,
    node: PathBuf,
    bins: PathBuf,
}

impl Bench<'_> {
    fn run(&self, plan: &Plan) -> Result<(), Failed> {
        println!("{:<10} {:<12} {:>7} {:>7}  failing", "through", "suite", "passed", "failed");
        let mut wrong = Vec::new();
        for suite in &plan.suites {
            let alone = self.measure(Way::Direct, suite, None)?;
            tell(Way::Direct, suite, &alone);
            for way in plan.ways.iter().filter(|way| **way != Way::Direct) {
                let score = self.measure(*way, suite, plan.era)?;
                tell(*way, suite, &score);
                let list = plan.era.map_or(way.name(), Era::name);
                let expected = self.expected(list, suite)?;
                let lost = score.lost(&alone);
                let name = format!("{} through {}", suite.name, way.name());
                wrong.extend(lost.difference(&expected).map(|it| format!("{name}: {it} fails")));
                wrong.extend(expected.difference(&lost).map(|it| format!("{name}: {it} passes")));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failed(format!("not as tests/conformance expects:\n  {}", wrong.join("\n  "))))
    }

    /// Runs one suite against a fresh server.
    fn measure(&self, way: Way, suite: &Suite, era: Option<Era>) -> Result<Score, Failed> {
        let name = format!("{}-{}", way.name(), suite.name);
        let folder = self.tree.target.join("xtask/conformance").join(name);
        // What an earlier run wrote would be read as this one's.
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .map_err(|error| Failed::new("clear the last run", error))?;
        }
        fs::create_dir_all(&folder)
            .map_err(|error| Failed::new(format!("make {}", folder.display()), error))?;
        let server = way.start(&self.bins, &folder, era)?;
        let mut run = self.tree.command(&self.node, &[]);
        run.arg(self.modules.join(suite.package).join("dist/index.js"));
        run.args(["server", "--url", &server.url]).args(suite.flags);
        run.arg("-o").arg(folder.join("checks"));
        let output = run.output().map_err(|error| Failed::new("start the suite", error))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        fs::write(folder.join("suite.log"), &text)
            .map_err(|error| Failed::new("write the suite's log", error))?;
        let score = Score::read(&text);
        if score.passed() + score.failed() == 0 {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failed(format!("the suite checked nothing:\n{text}{said}")));
        }
        Ok(score)
    }

    /// The scenarios that may fail, by `tests/conformance/expected-LIST.yml`: one list for each suite, with reasons.
    fn expected(&self, list: &str, suite: &Suite) -> Result<BTreeSet<String>, Failed> {
        let path = self.tree.root.join(format!("tests/conformance/expected-{list}.yml"));
        let text = fs::read_to_string(&path)
            .map_err(|error| Failed::new(format!("read {}", path.display()), error))?;
        let mut section = String::new();
        let mut found = BTreeSet::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(name) = line.strip_suffix(':') {
                section = name.trim_matches('"').to_owned();
            } else if let Some(scenario) = line.strip_prefix("- ").filter(|_| section == suite.name)
            {
                found.insert(scenario.to_owned());
            }
        }
        Ok(found)
    }
}

fn tell(way: Way, suite: &Suite, score: &Score) {
    let way = way.name();
    let failing: Vec<_> = score.failing().collect();
    let (passed, failed) = (score.passed(), score.failed());
    println!("{way:<10} {:<12} {passed:>7} {failed:>7}  {}", suite.name, failing.join(", "));
}
