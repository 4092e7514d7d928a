//! One server process: started in a group of its own, watched, ended and reaped.
//!
//! The process belongs to a supervisor task. Everybody else holds a [`Handle`], with which it can
//! be told to stop and its end awaited. Ending is always the same: its stdin closes, then SIGTERM
//! to the group, then SIGKILL, so that wrappers such as `npx` leave nothing behind.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use mcpm_shared::scope::Scope;
use process_wrap::tokio::{ChildWrapper, CommandWrap, KillOnDrop};
use tokio::io::AsyncRead;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::error::GatewayError;
use super::guard::Guard;
use super::{StderrSink, environment};
use crate::mcp::line::{Line, LineCodec};
use crate::model::Vars;

/// How long a server may take to end after its stdin closed.
const GRACE_STDIN: Duration = Duration::from_millis(1500);
/// How long a server may take to end after SIGTERM.
const GRACE_TERM: Duration = Duration::from_millis(1500);
/// How long the system may take to end a group after SIGKILL.
const GRACE_KILL: Duration = Duration::from_secs(1);
/// Longest line of stderr that is kept whole.
const MAX_STDERR_LINE: usize = 16 * 1024;
/// How many last lines of stderr an error quotes.
const TAIL_LINES: usize = 20;
/// Longest quoted line.
const TAIL_WIDTH: usize = 400;

/// How a server is started.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) server: String,
    pub(super) command: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vars,
    pub(super) cwd: Option<PathBuf>,
}

impl Spec {
    /// Looks whether the process can be started at all.
    ///
    /// # Errors
    /// Names the command, or the working directory, that does not exist.
    pub(super) fn check(&self) -> Result<(), GatewayError> {
        self.check_cwd()?;
        if environment::may_exist(&self.command, self.cwd.as_deref(), &environment_of(self)) {
            return Ok(());
        }
        Err(GatewayError::Spawn {
            server: self.server.clone(),
            command: self.command.clone(),
            source: std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such command"),
        })
    }

    fn check_cwd(&self) -> Result<(), GatewayError> {
        match self.cwd.as_deref().filter(|cwd| !cwd.as_os_str().is_empty() && !cwd.is_dir()) {
            Some(cwd) => {
                let (server, cwd) = (self.server.clone(), cwd.to_owned());
                Err(GatewayError::WorkingDirectory { server, cwd })
            }
            None => Ok(()),
        }
    }
}

/// What all children of a gateway share.
#[derive(Clone, Debug)]
pub(super) struct Nursery {
    pub(super) scope: Scope,
    pub(super) guard: Guard,
    pub(super) stderr: Option<StderrSink>,
    pub(super) alive: watch::Sender<usize>,
}

impl Nursery {
    /// Makes a nursery whose children end with the scope.
    pub(super) fn new(scope: Scope, guard: Guard, stderr: Option<StderrSink>) -> Self {
        Self { scope, guard, stderr, alive: watch::Sender::new(0) }
    }

    /// Waits until no child is left.
    pub(super) async fn empty(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        drop(self.alive.subscribe().wait_for(|alive| *alive == 0).await);
    }
}

/// A started server with its pipes.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) handle: Handle,
}

/// How a server ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) success: bool,
    pub(super) status: String,
}

/// A hold on a server process. Clones share it; dropping it does nothing.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    server: Arc<str>,
    stop: CancellationToken,
    exit: watch::Receiver<Option<Exit>>,
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Handle {
    /// Returns the server's name.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Asks the process to end; it gets its grace. Whoever holds its stdin must close it.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Returns the token that [`Handle::stop`] cancels.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits for the end of the process and its group. Cancel-safe.
    pub(super) async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        ended.unwrap_or_else(|| Exit { success: false, status: "lost".to_owned() })
    }

    /// Returns the last lines that the process wrote to stderr.
    pub(super) fn stderr_tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Returns the error that tells of this end.
    pub(super) fn died(&self, exit: &Exit) -> GatewayError {
        GatewayError::ChildExited {
            server: self.server.to_string(),
            status: exit.status.clone(),
            stderr: self.stderr_tail(),
        }
    }

    #[cfg(test)]
    pub(super) fn fake(server: &str) -> (Self, watch::Sender<Option<Exit>>) {
        Self::without_process(server)
    }

    /// Makes the handle of something that is no process of ours; whoever runs it tells its end.
    pub(super) fn without_process(server: &str) -> (Self, watch::Sender<Option<Exit>>) {
        let (sender, exit) = watch::channel(None);
        let handle = Self {
            server: server.into(),
            stop: CancellationToken::new(),
            exit,
            tail: Arc::default(),
        };
        (handle, sender)
    }
}

/// Starts a server.
///
/// # Errors
/// Names the command, or the working directory, that does not work.
pub(super) fn spawn(spec: &Spec, nursery: &Nursery) -> Result<Child, GatewayError> {
    let server = spec.server.clone();
    if nursery.scope.is_cancelled() {
        return Err(GatewayError::Stopped);
    }
    spec.check_cwd()?;
    nursery.guard.start();
    let mut process = command(spec).spawn().map_err(|source| GatewayError::Spawn {
        server,
        command: spec.command.clone(),
        source,
    })?;
    let group = process.id();
    if let Some(group) = group {
        nursery.guard.add(group);
    }
    let pipes = (process.stdin().take(), process.stdout().take(), process.stderr().take());
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        unreachable!("all three streams are piped");
    };
    let (exit, exited) = watch::channel(None);
    let handle = Handle {
        server: spec.server.as_str().into(),
        stop: CancellationToken::new(),
        exit: exited,
        tail: Arc::default(),
    };
    let told = tell_stderr(stderr, &handle, nursery);
    nursery.alive.send_modify(|alive| *alive += 1);
    let supervisor = supervise(process, group, handle.stop.clone(), nursery.clone());
    let alive = Alive(nursery.alive.clone());
    nursery.scope.spawn(async move {
        let ended = supervisor.await;
        // The last words come before the news of the end.
        drop(timeout(GRACE_KILL, told).await);
        exit.send_replace(Some(ended));
        drop(alive);
    });
    tracing::debug!(server = %spec.server, group, "server started");
    Ok(Child { stdin, stdout, handle })
}

/// Counts a child for as long as its supervisor lives.
struct Alive(watch::Sender<usize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_modify(|alive| *alive -= 1);
    }
}

/// Returns the variables of a server's process; later ones count.
fn environment_of(spec: &Spec) -> Vec<(OsString, OsString)> {
    let mut environment = environment::inherited(std::env::vars_os());
    for (name, value) in spec.env.iter() {
        environment.push((name.into(), OsString::from(value.as_ref())));
    }
    environment
}

fn command(spec: &Spec) -> CommandWrap {
    let environment = environment_of(spec);
    let program = environment::program(&spec.command, &environment);
    let mut wrap = CommandWrap::with_new(program, |command| {
        command
            .args(&spec.args)
            .env_clear()
            .env(environment::MARK.0, environment::MARK.1)
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(cwd) = spec.cwd.as_deref() {
            command.current_dir(if cwd.as_os_str().is_empty() { Path::new(".") } else { cwd });
        }
    });
    wrap.wrap(KillOnDrop);
    #[cfg(unix)]
    wrap.wrap(process_wrap::tokio::ProcessGroup::leader());
    #[cfg(windows)]
    wrap.wrap(process_wrap::tokio::JobObject);
    wrap
}

/// Waits for the end of a process, hastens it when told to, and clears its group away.
async fn supervise(
    mut process: Box<dyn ChildWrapper>,
    group: Option<u32>,
    stop: CancellationToken,
    nursery: Nursery,
) -> Exit {
    let told = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = nursery.scope.cancelled() => stop.cancel(),
        }
    };
    // `wait` is cancel-safe: it keeps the status once it has it.
    let early = tokio::select! {
        status = process.wait() => Some(status),
        () = told => None,
    };
    let status = match early {
        Some(status) => status,
        None => end(process.as_mut()).await,
    };
    // Whoever still writes to it or reads from it may stop too.
    stop.cancel();
    clear(process.as_mut(), group).await;
    if let Some(group) = group {
        nursery.guard.remove(group);
    }
    match status {
        Ok(status) => Exit { success: status.success(), status: status.to_string() },
        Err(error) => Exit { success: false, status: error.to_string() },
    }
}

/// Ends a process whose stdin is being closed by its holder.
async fn end(process: &mut dyn ChildWrapper) -> std::io::Result<ExitStatus> {
    if let Ok(status) = timeout(GRACE_STDIN, process.wait()).await {
        return status;
    }
    #[cfg(unix)]
    {
        const SIGTERM: i32 = 15;
        drop(process.signal(SIGTERM));
        if let Ok(status) = timeout(GRACE_TERM, process.wait()).await {
            return status;
        }
    }
    process.start_kill()?;
    timeout(GRACE_KILL, process.wait()).await?
}

/// Ends what a process left behind in its group.
#[cfg(unix)]
async fn clear(process: &mut dyn ChildWrapper, group: Option<u32>) {
    use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

    let group = group.and_then(|group| Pid::from_raw(i32::try_from(group).ok()?));
    let Some(group) = group else { return };
    if kill_process_group(group, Signal::TERM).is_err() {
        return;
    }
    let step = Duration::from_millis(10);
    for _ in 0..50 {
        if test_kill_process_group(group).is_err() {
            return;
        }
        tokio::time::sleep(step).await;
    }
    drop(process.start_kill());
}

/// The job object ends with its last handle.
#[cfg(not(unix))]
async fn clear(process: &mut dyn ChildWrapper, _group: Option<u32>) {
    drop(process.start_kill());
    tokio::task::yield_now().await;
}

/// Passes stderr on line by line and keeps the last ones; the future ends with the stream.
fn tell_stderr(
    stderr: ChildStderr,
    handle: &Handle,
    nursery: &Nursery,
) -> impl Future<Output = ()> + use<> {
    let (done, ended) = tokio::sync::oneshot::channel::<()>();
    let server = handle.server.clone();
    let tail = handle.tail.clone();
    let sink = nursery.stderr.clone();
    let process = handle.clone();
    nursery.scope.spawn(async move {
        // A process that left the group may hold the pipe for ever; the end of the server is told
        // after its last words, so there is nothing more to come.
        tokio::select! {
            () = read_stderr(stderr, &server, &tail, sink.as_ref()) => {}
            _ = process.exited() => {}
        }
        drop(done);
    });
    async move { drop(ended.await) }
}

async fn read_stderr(
    stderr: impl AsyncRead + Unpin,
    server: &str,
    tail: &Mutex<VecDeque<String>>,
    sink: Option<&StderrSink>,
) {
    let mut lines = FramedRead::new(stderr, LineCodec::new(MAX_STDERR_LINE));
    while let Some(Ok(line)) = lines.next().await {
        let text = match &line {
            Line::Text(bytes) => String::from_utf8_lossy(bytes),
            Line::TooLong(bytes) => format!("({bytes} bytes on one line)").into(),
        };
        match sink {
            Some(sink) => sink.line(server, &text),
            None => tracing::info!(target: "mcpm::server", server, "{text}"),
        }
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.chars().take(TAIL_WIDTH).collect());
    }
}

#[cfg(test)]
#[cfg(unix)]
pub(super) mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;

    pub(in crate::gateway) fn nursery() -> Nursery {
        Nursery::new(Scope::new(), Guard::off(), None)
    }

    pub(in crate::gateway) fn sh(script: &str) -> Spec {
        Spec {
            server: "test".to_owned(),
            command: "sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: Vars::default(),
            cwd: None,
        }
    }

    #[tokio::test]
    async fn a_child_gets_the_safe_list_the_mark_and_its_own_variables() {
        let mut spec =
            sh(r#"echo "$MCPM_STDIO_SERVER $MINE ${CARGO_MANIFEST_DIR:-none} ${PATH:+path}""#);
        spec.env = Vars::default().with("MINE", "yes");
        let mut child = spawn(&spec, &nursery()).unwrap();
        let mut out = String::new();
        child.stdout.read_to_string(&mut out).await.unwrap();
        assert_eq!(out, "true yes none path\n");
        assert!(child.handle.exited().await.success);
    }

    #[tokio::test]
    async fn a_command_that_does_not_exist_is_named() {
        let spec = Spec { command: "mcpm-no-such-command".to_owned(), ..sh("") };
        let error = spawn(&spec, &nursery()).unwrap_err();
        assert!(matches!(&error, GatewayError::Spawn { command, .. } if command == &spec.command));
    }

    #[tokio::test]
    async fn a_missing_working_directory_is_named() {
        let spec = Spec { cwd: Some("/no/such/folder".into()), ..sh("") };
        let error = spawn(&spec, &nursery()).unwrap_err();
        assert!(matches!(error, GatewayError::WorkingDirectory { .. }));
    }

    #[tokio::test]
    async fn an_end_is_told_with_its_status_and_the_last_words() {
        let nursery = nursery();
        let child = spawn(&sh("echo one >&2; echo two >&2; exit 3"), &nursery).unwrap();
        let exit = child.handle.exited().await;
        assert_eq!(exit, Exit { success: false, status: "exit status: 3".to_owned() });
        assert_eq!(child.handle.stderr_tail(), "one\ntwo");
        nursery.empty().await;
    }

    #[tokio::test]
    async fn a_child_that_ends_with_its_stdin_is_not_signalled() {
        let mut child = spawn(&sh("cat; exit 7"), &nursery()).unwrap();
        child.stdin.write_all(b"x\n").await.unwrap();
        child.handle.stop();
        drop(child.stdin);
        assert_eq!(child.handle.exited().await.status, "exit status: 7");
    }

    #[tokio::test]
    async fn grandchildren_end_with_the_child() {
        let nursery = nursery();
        let spec = sh("sleep 1000 & echo $!; exec cat");
        let Child { stdin, stdout, handle } = spawn(&spec, &nursery).unwrap();
        let mut pid = String::new();
        BufReader::new(stdout).read_line(&mut pid).await.unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        drop(stdin);
        handle.exited().await;
        // An orphan that was killed stays a zombie until init reaps it, so look at its state.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        assert!(state.map_or(true, |state| state.contains(") Z ")));
    }

    #[tokio::test]
    async fn a_stray_process_that_holds_stderr_keeps_no_task() {
        let scope = Scope::new();
        let nursery = Nursery::new(scope.clone(), Guard::off(), None);
        let script = "setsid sh -c 'echo $$ >&2; echo up; exec sleep 600' & read x";
        let Child { stdin, stdout, handle } = spawn(&sh(script), &nursery).unwrap();
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut String::new()).await.unwrap();
        drop(stdin);
        handle.exited().await;
        let stray = rustix::process::Pid::from_raw(handle.stderr_tail().parse().unwrap());
        assert_eq!(scope.drain(Duration::from_secs(20)).await, 0);
        rustix::process::kill_process(stray.unwrap(), rustix::process::Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn the_end_of_the_scope_ends_a_child_that_is_deaf_to_everything_polite() {
        let nursery = nursery();
        let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
        let Child { stdin, stdout, handle } = spawn(&sh(script), &nursery).unwrap();
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready).await.unwrap();
        drop(stdin);
        nursery.scope.cancel();
        assert!(handle.exited().await.status.contains("signal: 9"));
        assert!(matches!(spawn(&sh(""), &nursery), Err(GatewayError::Stopped)));
    }
}
