//! What mcpm runs on this machine right now, and what that takes: its own processes with all their
//! children, by the table of processes of the system. Where there is none to read, nothing is told.

use std::collections::HashMap;

use serde::Serialize;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

/// Commands of mcpm that run servers, as words on a command line.
const RUNNING: [&[&str]; 6] = [
    &["profile", "run"],
    &["profile", "share"],
    &["router", "share"],
    &["run"],
    &["share"],
    &["tunnel"],
];

/// One mcpm that runs something.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RunningMcpm {
    /// Its process.
    pub pid: u32,
    /// What it does, as it is typed: `profile run work`.
    pub command: String,
    /// How many processes it has, itself and those of its servers.
    pub processes: usize,
    /// The memory that they have together, in bytes. What several share counts for each.
    pub memory_bytes: u64,
    /// The time of processors that they took together.
    pub cpu_ms: u64,
}

/// One process of the table.
#[derive(Clone, Debug, Default)]
struct Row {
    pid: u32,
    parent: u32,
    memory_bytes: u64,
    cpu_ms: u64,
    words: Vec<String>,
}

/// Returns what runs, the largest first; none where the system has no table that we read. `names`
/// are those of servers and profiles, by which a word is told from the value of an option.
#[must_use]
pub fn running(names: &[String]) -> Option<Vec<RunningMcpm>> {
    Some(told(&table()?, std::process::id(), names))
}

fn told(table: &[Row], own: u32, names: &[String]) -> Vec<RunningMcpm> {
    let mut children: HashMap<u32, Vec<&Row>> = HashMap::new();
    for row in table.iter().filter(|row| row.parent != row.pid) {
        children.entry(row.parent).or_default().push(row);
    }
    let roots = table.iter().filter(|row| row.pid != own);
    let mut all: Vec<RunningMcpm> = roots
        .filter_map(|root| {
            let command = command(&root.words, names)?;
            let mut sum =
                RunningMcpm { pid: root.pid, command, processes: 0, memory_bytes: 0, cpu_ms: 0 };
            let mut rest = vec![root];
            // No more steps than there are rows: a table that was read while ids changed hands may
            // lead round in a circle.
            while let Some(row) = rest.pop().filter(|_| sum.processes < table.len()) {
                sum.processes += 1;
                sum.memory_bytes += row.memory_bytes;
                sum.cpu_ms += row.cpu_ms;
                rest.extend(children.get(&row.pid).into_iter().flatten());
            }
            Some(sum)
        })
        .collect();
    all.sort_by_key(|one| (std::cmp::Reverse(one.memory_bytes), one.pid));
    all
}

/// Tells what a command line of mcpm runs; none when it is another program or command.
fn command(words: &[String], names: &[String]) -> Option<String> {
    let (program, rest) = words.split_first()?;
    let file = program.rsplit(['/', '\\']).next().unwrap_or(program).to_ascii_lowercase();
    if file.strip_suffix(".exe").unwrap_or(&file) != "mcpm" {
        return None;
    }
    let plain: Vec<&str> =
        rest.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let (lead, after) = RUNNING.iter().find_map(|lead| {
        let at = plain.windows(lead.len()).position(|window| window == *lead)?;
        Some((lead, &plain[at + lead.len()..]))
    })?;
    let name = after.iter().find(|word| names.iter().any(|name| name == *word)).or(after.first());
    // Other words may be secrets of whoever wrote them.
    Some(lead.iter().copied().chain(name.copied()).collect::<Vec<_>>().join(" "))
}

/// Reads the table of the system; `None` where it has none that can be read.
fn table() -> Option<Vec<Row>> {
    if !sysinfo::IS_SUPPORTED_SYSTEM {
        return None;
    }
    let wanted = ProcessRefreshKind::nothing()
        .with_memory()
        .with_cpu()
        .with_cmd(UpdateKind::Always)
        .without_tasks();
    let mut system = System::new();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, wanted);
    let rows = system.processes().values().map(|process| Row {
        pid: process.pid().as_u32(),
        parent: process.parent().map_or(0, sysinfo::Pid::as_u32),
        memory_bytes: process.memory(),
        cpu_ms: process.accumulated_cpu_time(),
        words: process.cmd().iter().map(|word| word.to_string_lossy().into_owned()).collect(),
    });
    Some(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: u32, parent: u32, line: &str) -> Row {
        let words = line.split(' ').map(str::to_owned).collect();
        Row { pid, parent, memory_bytes: 10, cpu_ms: 1, words }
    }

    #[test]
    fn what_runs_is_told_with_all_its_children_and_nothing_of_others() {
        let table = [
            row(1, 0, "init"),
            row(10, 1, "/usr/bin/mcpm --config-dir /x profile run --port 6277 work"),
            row(11, 10, "/usr/bin/mcpm guard"),
            row(12, 10, "npx -y server --token s3cret"),
            row(13, 12, "node server.js"),
            row(20, 1, "C:\\Tools\\mcpm.exe run time"),
            row(30, 1, "mcpm usage --resources"),
            row(40, 1, "vim mcpm run time"),
            row(50, 1, "mcpm ls"),
        ];
        let names = ["work", "time"].map(str::to_owned);
        let told = told(&table, 30, &names);
        let short: Vec<_> =
            told.iter().map(|one| (one.pid, one.command.as_str(), one.processes)).collect();
        assert_eq!(short, [(10, "profile run work", 4), (20, "run time", 1)]);
        assert_eq!((told[0].memory_bytes, told[0].cpu_ms), (40, 4));
    }

    #[test]
    fn a_table_that_leads_round_in_a_circle_has_an_end() {
        let table = [row(2, 3, "mcpm run time"), row(3, 2, "x")];
        assert_eq!(told(&table, 9, &[])[0].processes, 2);
    }

    #[test]
    fn this_process_is_in_the_table_of_the_system() {
        let table = table().unwrap();
        let own = table.iter().find(|row| row.pid == std::process::id()).unwrap();
        assert!(own.memory_bytes > 0 && !own.words.is_empty());
    }
}
