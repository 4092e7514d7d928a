//! Real programs as processes: started, listened to line by line, signalled, and never left behind.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::eventually;

/// How long a process may take over one thing: a line, or its end. Generous, for a busy machine; no test waits for it
/// unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Output,
    stderr: Output,
    /// Lines of stdout that were waited for already.
    read: usize,
    _readers: JoinSet<()>,
}

/// The lines of a pipe so far, and whether it ended; the watch tells of a change.
#[derive(Clone, Debug)]
struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    changes: watch::Receiver<bool>,
}

impl Output {
    fn collect(pipe: impl AsyncRead + Unpin + Send + 'static, readers: &mut JoinSet<()>) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (change, changes) = watch::channel(false);
        let collected = lines.clone();
        readers.spawn(async move {
            let mut pipe = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = pipe.next_line().await {
                collected.lock().expect("no reader panics").push(line);
                change.send_replace(false);
            }
            change.send_replace(true);
        });
        Self { lines, changes }
    }

    fn text(&self) -> String {
        self.lines.lock().expect("no reader panics").join("\n")
    }
}

/// How a program ended, with all that it said.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Program {
    /// Starts `command` with all three standard streams piped.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        let mut readers = JoinSet::new();
        let stdout = Output::collect(child.stdout.take().expect("piped"), &mut readers);
        let stderr = Output::collect(child.stderr.take().expect("piped"), &mut readers);
        let stdin = child.stdin.take();
        Self { name, child, stdin, stdout, stderr, read: 0, _readers: readers }
    }

    /// Waits for the next line of stdout that `wanted` makes something of, and skips those before.
    ///
    /// # Panics
    /// When the program ends, or says nothing of the kind for a minute; with all that it said.
    pub async fn line<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let found = self.line_or_end(what, wanted).await;
        found.unwrap_or_else(|| panic!("{} ended without {what}\n{}", self.name, self.transcript()))
    }

    /// As [`Program::line`]; `None` when the program ends without it.
    async fn line_or_end<T>(
        &mut self,
        what: &str,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let wait = async {
            loop {
                let ended = *self.stdout.changes.borrow_and_update();
                let fresh = {
                    let lines = self.stdout.lines.lock().expect("no reader panics");
                    lines[self.read..].to_vec()
                };
                for line in fresh {
                    self.read += 1;
                    if let Some(found) = wanted(&line) {
                        return Some(found);
                    }
                }
                if ended || self.stdout.changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        match timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("{} does not come to {what}\n{}", self.name, self.transcript()),
        }
    }

    /// Starts a program that listens, and waits for the line that says where. An address that was let go may be somebody
    /// else's for a moment: the program is started again for as long as it is.
    ///
    /// # Panics
    /// As [`Program::line`], and when the address stays taken.
    pub async fn listening<T>(
        start: impl Fn() -> Command,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> (Self, T) {
        let what = "the line that says where it listens";
        eventually("the address is free again", || async {
            let mut program = Self::start(start());
            let found = program.line_or_end(what, &wanted).await;
            if found.is_none() {
                let stderr = program.ended().await.stderr;
                let is_taken = stderr.contains("Address already in use");
                assert!(is_taken, "{} ended without {what}\n{stderr}", program.name);
            }
            Some((program, found?))
        })
        .await
    }

    /// Waits for the next line of stdout that is a JSON object with this `event`.
    ///
    /// # Panics
    /// As [`Program::line`].
    pub async fn event(&mut self, event: &str) -> Value {
        self.line(&format!("the event `{event}`"), |line| {
            let value: Value = serde_json::from_str(line).ok()?;
            (value["event"] == event).then_some(value)
        })
        .await
    }

    /// Writes one line to stdin.
    ///
    /// # Panics
    /// When the program does not read any more.
    pub async fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(format!("{line}\n").as_bytes()).await.expect("the program reads stdin");
        stdin.flush().await.expect("the program reads stdin");
    }

    /// Ends stdin.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Opens a session of MCP as `client`, lists the tools, hangs up and waits for the end. Returns both answers.
    ///
    /// # Panics
    /// When an answer or the end does not come.
    pub async fn visited(mut self, client: &str) -> ([Value; 2], Ended) {
        let client = json!({ "name": client, "version": "1" });
        let opening =
            json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client });
        let opened = self.asked(1, "initialize", opening).await;
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        self.say(&initialized.to_string()).await;
        let listed = self.asked(2, "tools/list", json!({})).await;
        self.hang_up();
        ([opened, listed], self.ended().await)
    }

    /// Sends a request of MCP and returns the message that answers it; what the program says or asks meanwhile is
    /// passed over.
    ///
    /// # Panics
    /// When the answer does not come.
    pub async fn asked(&mut self, id: u64, method: &str, params: Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.say(&request.to_string()).await;
        self.line(&format!("the answer to {method}"), |line| {
            let message: Value = serde_json::from_str(line).ok()?;
            (message["id"] == id && message.get("method").is_none()).then_some(message)
        })
        .await
    }

    /// Waits until somebody listens on a port of this machine, which must be this program: it was told to.
    ///
    /// # Panics
    /// When the program ends without it, or does not come to it within a minute; with all that it said.
    pub async fn listens(&mut self, port: u16) {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let listens = async {
            loop {
                ticks.tick().await;
                if let Some(status) = self.child.try_wait().expect("a child can be asked for") {
                    return Err(format!("has ended with {status}"));
                }
                if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
                    return Ok(());
                }
            }
        };
        let late = || Err("does not come to it".to_owned());
        if let Err(why) = timeout(PATIENCE, listens).await.unwrap_or_else(|_| late()) {
            panic!("{} was to listen on {port} and {why}\n{}", self.name, self.transcript());
        }
    }

    /// Sends a signal by its short name, such as `TERM`.
    ///
    /// # Panics
    /// When the program has ended.
    pub fn signal(&self, signal: &str) {
        let pid = self.id().to_string();
        let sent = std::process::Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -s {signal} {pid}");
    }

    /// The id of the process.
    ///
    /// # Panics
    /// When the program has ended.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or_else(|| panic!("{} has ended", self.name))
    }

    /// Waits for the end, with stdin left as it is.
    ///
    /// # Panics
    /// When it does not come within a minute.
    pub async fn ended(&mut self) -> Ended {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let Ok(status) = status else {
            panic!("{} does not end\n{}", self.name, self.transcript())
        };
        let status: ExitStatus = status.expect("a child can be waited for");
        for output in [&mut self.stdout, &mut self.stderr] {
            // A child of the program may hold a pipe open: that is a leftover, and reported as such.
            timeout(PATIENCE, output.changes.wait_for(|ended| *ended)).await.ok();
        }
        Ended {
            code: status.code(),
            signal: std::os::unix::process::ExitStatusExt::signal(&status),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }

    /// All that it said on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// All that it said so far, for the message of a failing test.
    #[must_use]
    pub fn transcript(&self) -> String {
        format!("--- stdout\n{}\n--- stderr\n{}", self.stdout.text(), self.stderr.text())
    }
}

/// The path of one of the workspace's programs, which cargo has put above the tests.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn built(program: &str) -> PathBuf {
    let path = target_folder("..").join(program);
    assert!(path.exists(), "{} is not built: run `cargo build --bins`", path.display());
    path
}

/// A folder relative to the one that holds test programs (`target/debug/deps`).
pub(crate) fn target_folder(relative: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a test knows its own path");
    this.parent().expect("it lies in a folder").join(relative)
}

/// The processes that know of `folder`, by an argument or by their environment: those of one test, when each test has a
/// folder of its own. Tells the id and the command of each; nothing where there is no `/proc`.
#[must_use]
pub fn processes_of(folder: &Path) -> Vec<String> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let Ok(listed) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| *id != std::process::id())
        .filter_map(|id| {
            let read = |file: &str| std::fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
            let command = read("cmdline");
            let knows = |bytes: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
            // What was killed and waits for its parent has neither; it holds nothing any more.
            (knows(&command) || knows(&read("environ"))).then(|| {
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                format!("{id} {}", command.trim_end())
            })
        })
        .collect()
}

/// A command that sees nothing of the environment but what programs need.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for name in ["PATH", "HOME", "LANG", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_finds_its_address_taken_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let script = "mkdir taken 2>/dev/null && { echo 'Address already in use' >&2; exit 1; }
            echo listening on 1; exec cat";
        let start = || {
            let mut shell = command("sh");
            shell.args(["-c", script]).current_dir(folder.path());
            shell
        };
        let addr = |line: &str| line.strip_prefix("listening on ")?.parse().ok();
        let (_program, addr): (_, u16) = Program::listening(start, addr).await;
        assert_eq!(addr, 1);
    }
}
