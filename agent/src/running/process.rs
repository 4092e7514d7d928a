//! A process by its id and the time it started: systems give ids away again.

use std::io;

use serde::{Deserialize, Serialize};

/// One process of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it started, in a form that only compares; none where the system does not tell.
    #[serde(default)]
    pub started: Option<String>,
}

impl Process {
    /// Returns this very process.
    #[must_use]
    pub fn this() -> Self {
        let pid = std::process::id();
        Self { pid, started: started(pid) }
    }

    /// Tells whether the process with this id is the one that was meant, as far as the system tells.
    #[must_use]
    pub fn is_there(&self) -> bool {
        match &self.started {
            Some(then) => started(self.pid).is_some_and(|now| now == *then),
            // The lock of the share is the only proof then.
            None => cfg!(not(unix)),
        }
    }

    /// Tells whether the process is known to have ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        cfg!(unix) && !self.is_there()
    }

    /// Ends the process by force, if it is the one that was meant.
    ///
    /// # Errors
    /// When it is another one now, or the system refuses.
    pub fn kill(&self) -> io::Result<()> {
        if self.pid <= 1 || !self.is_there() {
            let text = "another process has its id now";
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        kill(self.pid)
    }
}

/// Returns field 22 of `/proc/PID/stat`: the start in clock ticks since boot (`proc_pid_stat(5)`);
/// none for one that has ended and only waits to be reaped.
#[cfg(target_os = "linux")]
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next(), None | Some("Z" | "X")) {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// Returns what `ps` says of the start, to the second.
#[cfg(all(unix, not(target_os = "linux")))]
fn started(pid: u32) -> Option<String> {
    let told = std::process::Command::new("ps")
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .args(["-o", "lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8(told.stdout).ok()?.trim().to_owned();
    (told.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(not(unix))]
fn started(_pid: u32) -> Option<String> {
    None
}

#[cfg(unix)]
fn kill(pid: u32) -> io::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};

    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, Signal::KILL)?)
}

#[cfg(not(unix))]
fn kill(pid: u32) -> io::Result<()> {
    use std::process::{Command, Stdio};

    let killed = Command::new("taskkill")
        .args(["/F", "/PID", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if killed.success() { Ok(()) } else { Err(io::Error::other("taskkill failed")) }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    #[test]
    fn a_process_is_known_by_its_id_and_its_start() {
        let this = Process::this();
        assert!(this.is_there());
        let mut child = sleeper();
        let theirs = Process { pid: child.id(), started: started(child.id()) };
        assert!(theirs.is_there());
        assert!(!theirs.has_ended());
        theirs.kill().unwrap();
        child.wait().unwrap();
        assert!(!theirs.is_there() && theirs.has_ended());
        assert!(theirs.kill().is_err());
    }

    #[test]
    fn a_process_that_got_the_id_of_another_is_not_killed() {
        let mut child = sleeper();
        for started in [Some("1".to_owned()), None] {
            let recycled = Process { pid: child.id(), started };
            assert!(!recycled.is_there());
            assert!(recycled.kill().is_err());
        }
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
