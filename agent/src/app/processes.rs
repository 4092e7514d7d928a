//! What mcpm runs on this machine right now, and what that takes: its own processes with all their
//! children, by the table of processes of the system. Where there is none to read, nothing is told.

use std::collections::HashMap;

use serde::Serialize;

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

/// Reads `/proc` (`proc(5)`). What ends meanwhile is left out.
#[cfg(target_os = "linux")]
fn table() -> Option<Vec<Row>> {
    /// Ticks of `/proc/PID/stat` in a second; Linux shows a hundred to programs on every machine.
    const TICKS: u64 = 100;
    let read = |pid: u32| -> Option<Row> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program stands in parentheses and may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes =
            resident.and_then(|text| text.split_ascii_whitespace().next()?.parse().ok());
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        Some(Row {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            memory_bytes: kilobytes.unwrap_or(0_u64) * 1024,
            cpu_ms: (number(11)? + number(12)?) * 1000 / TICKS,
            words: words.map(|word| String::from_utf8_lossy(word).into_owned()).collect(),
        })
    };
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Some(pids.filter_map(read).collect())
}

/// Asks `ps`, which POSIX systems have.
#[cfg(all(unix, not(target_os = "linux")))]
fn table() -> Option<Vec<Row>> {
    let told = std::process::Command::new("ps")
        .env("LC_ALL", "C")
        .args(["-axo", "pid=,ppid=,rss=,time=,command="])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&told.stdout);
    told.status.success().then(|| text.lines().filter_map(of_ps).collect())
}

#[cfg(not(unix))]
fn table() -> Option<Vec<Row>> {
    None
}

/// Reads a line of `ps -o pid=,ppid=,rss=,time=,command=`.
#[cfg(any(test, all(unix, not(target_os = "linux"))))]
fn of_ps(line: &str) -> Option<Row> {
    let mut fields = line.split_ascii_whitespace();
    Some(Row {
        pid: fields.next()?.parse().ok()?,
        parent: fields.next()?.parse().ok()?,
        memory_bytes: fields.next()?.parse::<u64>().ok()? * 1024,
        cpu_ms: of_clock(fields.next()?)?,
        words: fields.map(str::to_owned).collect(),
    })
}

/// Reads `[[DAYS-]HOURS:]MINUTES:SECONDS[.HUNDREDTHS]`.
#[cfg(any(test, all(unix, not(target_os = "linux"))))]
fn of_clock(text: &str) -> Option<u64> {
    let (days, clock) = text.split_once('-').unwrap_or(("0", text));
    let (clock, part) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut secs = 0_u64;
    for field in clock.split(':') {
        secs = secs * 60 + field.parse::<u64>().ok()?;
    }
    secs += days.parse::<u64>().ok()? * 86_400;
    let hundredths: u64 = format!("{part:0<2}").get(..2)?.parse().ok()?;
    Some(secs * 1000 + hundredths * 10)
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
    fn lines_of_ps_are_read() {
        let row = of_ps("  501     1  20480   1-02:03:04 /opt/bin/mcpm run time").unwrap();
        assert_eq!((row.pid, row.parent, row.memory_bytes), (501, 1, 20_971_520));
        assert_eq!(row.cpu_ms, 93_784_000);
        assert_eq!(command(&row.words, &[]).unwrap(), "run time");
        assert_eq!(of_clock("0:00.07"), Some(70));
        assert!(of_ps("USER PID").is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_in_the_table_of_the_system() {
        let table = table().unwrap();
        let own = table.iter().find(|row| row.pid == std::process::id()).unwrap();
        assert!(own.memory_bytes > 0 && !own.words.is_empty());
    }
}
