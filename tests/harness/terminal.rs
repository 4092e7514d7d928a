//! A program at a terminal: what a person sees there, and the keys that they press.

use std::num::NonZeroU16;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use pty_process::OwnedWritePty;
use rustix::termios::{Termios, tcgetattr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a program may take to show something, or to end. Generous, for a busy machine; no test waits for it unless
/// it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines and columns of the terminal.
const SIZE: (u16, u16) = (24, 100);

/// A program that runs at a terminal of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Terminal {
    name: String,
    child: Child,
    keys: OwnedWritePty,
    /// The terminal itself, to look at its modes.
    itself: OwnedFd,
    before: Termios,
    seen: watch::Receiver<Seen>,
    _reader: JoinSet<()>,
}

/// What the program has written.
#[derive(Debug, Default)]
struct Seen {
    /// What stands on the screen.
    screen: String,
    /// All that ever came, with what was overwritten since.
    all: String,
    cursor_is_hidden: bool,
    ended: bool,
}

/// How a program ended.
#[derive(Debug)]
pub struct Left {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What stands on the screen.
    pub screen: String,
    /// All that it ever wrote.
    pub all: String,
}

impl Terminal {
    /// Starts `command` at a terminal that can do what terminals can.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: Command) -> Self {
        Self::start_as(command, "xterm-256color")
    }

    /// Starts `command` at a terminal of this kind.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_as(mut command: Command, kind: &str) -> Self {
        let name = format!("{:?}", command.as_std());
        let (pty, pts) = pty_process::open().expect("the system has terminals");
        pty.resize(pty_process::Size::new(SIZE.0, SIZE.1)).expect("a terminal has a size");
        let itself = pty.as_fd().try_clone_to_owned().expect("there is room for one more");
        let before = tcgetattr(&itself).expect("a terminal has modes");
        command.env("TERM", kind).kill_on_drop(true);
        let child = pty_process::Command::from(command).spawn(pts);
        let child = child.unwrap_or_else(|error| panic!("start {name}: {error}"));
        let (output, keys) = pty.into_split();
        let (tell, seen) = watch::channel(Seen::default());
        let mut reader = JoinSet::new();
        reader.spawn(watch_screen(output, tell));
        Self { name, child, keys, itself, before, seen, _reader: reader }
    }

    /// Waits until this stands on the screen.
    ///
    /// # Panics
    /// When the program ends without it, or does not come to it within a minute.
    pub async fn shows(&mut self, what: &str) {
        let wait = self.seen.wait_for(|seen| seen.screen.contains(what) || seen.ended);
        let seen = timeout(PATIENCE, wait).await;
        let is_shown = matches!(&seen, Ok(Ok(seen)) if seen.screen.contains(what));
        drop(seen);
        assert!(is_shown, "{} does not show {what:?} but\n{}", self.name, self.screen());
    }

    /// Presses keys: text, or what a terminal sends for them.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub async fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).await.expect("the terminal takes keys");
        self.keys.flush().await.expect("the terminal takes keys");
    }

    /// What stands on the screen now.
    #[must_use]
    pub fn screen(&self) -> String {
        self.seen.borrow().screen.clone()
    }

    /// Waits for the end of the program.
    ///
    /// # Panics
    /// When it does not come within a minute, or leaves the terminal otherwise than it was.
    pub async fn left(mut self) -> Left {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let Ok(status) = status else {
            panic!("{} does not end:\n{}", self.name, self.screen());
        };
        let status = status.expect("a child can be waited for");
        self.is_as_it_was();
        let seen = timeout(PATIENCE, self.seen.wait_for(|seen| seen.ended)).await;
        let seen = seen.expect("a terminal without programs ends").expect("the reader tells");
        assert!(!seen.cursor_is_hidden, "{} leaves the cursor hidden", self.name);
        Left { code: status.code(), screen: seen.screen.clone(), all: seen.all.clone() }
    }

    /// Panics unless the terminal echoes, edits lines and makes signals of keys as it did before.
    fn is_as_it_was(&self) {
        let now = tcgetattr(&self.itself).expect("a terminal has modes");
        let modes =
            |of: &Termios| (of.input_modes, of.output_modes, of.control_modes, of.local_modes);
        assert_eq!(modes(&now), modes(&self.before), "{} changes the terminal", self.name);
    }
}

/// Draws what comes until the last program has left the terminal.
async fn watch_screen(mut output: pty_process::OwnedReadPty, tell: watch::Sender<Seen>) {
    let [rows, columns] = [SIZE.0, SIZE.1].map(|size| NonZeroU16::new(size).expect("not zero"));
    let mut drawn = vt100::Parser::new(rows, columns, 0);
    let mut bytes = vec![0; 4096];
    // The end of a terminal is an error on some systems, and nothing to read on others.
    while let Ok(count @ 1..) = output.read(&mut bytes).await {
        drawn.process(&bytes[..count]);
        let screen = drawn.screen();
        tell.send_modify(|seen| {
            seen.screen = screen.contents();
            seen.cursor_is_hidden = screen.hide_cursor();
            seen.all.push_str(&String::from_utf8_lossy(&bytes[..count]));
        });
    }
    tell.send_modify(|seen| seen.ended = true);
}
