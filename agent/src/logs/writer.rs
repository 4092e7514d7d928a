//! The task that writes logs.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use mcpm_shared::scope::Scope;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{path, previous};
use crate::fs::{Paths, create_private_dir, lock};

/// How many lines may wait to be written.
const QUEUE: usize = 1024;
/// Longest line that is kept whole, in bytes. With the queue it bounds the memory: 4 MB.
const MAX_LINE: usize = 4096;
/// How long the first line of a batch waits for others.
const LINGER: Duration = Duration::from_millis(100);
/// Largest log, in bytes. A server keeps two of them.
const MAX_SIZE: u64 = 2 * 1024 * 1024;
/// How long the last lines may take to be written.
const GRACE: Duration = Duration::from_secs(2);

struct Line {
    at: SystemTime,
    server: Arc<str>,
    text: String,
}

/// Where lines go in. Clones are the same.
#[derive(Clone, Debug)]
pub struct Logs {
    queue: mpsc::Sender<Line>,
    lost: Arc<AtomicU64>,
}

/// Where they come out; it runs beside what makes the lines.
#[derive(Debug)]
pub struct LogWriter {
    paths: Paths,
    queue: mpsc::Receiver<Line>,
    lost: Arc<AtomicU64>,
    max_size: u64,
}

/// Makes both ends. Nothing is written before the first line.
#[must_use]
pub fn channel(paths: &Paths) -> (Logs, LogWriter) {
    channel_of(paths, MAX_SIZE)
}

fn channel_of(paths: &Paths, max_size: u64) -> (Logs, LogWriter) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let writer = LogWriter { paths: paths.clone(), queue, lost: lost.clone(), max_size };
    (Logs { queue: sender, lost }, writer)
}

impl Logs {
    /// Keeps one line of a server. Never waits: with a full queue the line is lost, and the log
    /// says how many were.
    pub fn line(&self, server: &str, line: &str) {
        let Ok(room) = self.queue.try_reserve() else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        room.send(Line { at: SystemTime::now(), server: server.into(), text: plain(line) });
    }
}

impl LogWriter {
    /// Does `work` and writes beside it; what is left at its end is written then.
    pub async fn beside<T>(self, work: impl Future<Output = T>) -> T {
        let scope = Scope::new();
        scope.spawn(self.run(scope.token().clone()));
        let done = work.await;
        scope.drain(GRACE).await;
        done
    }

    /// Writes until `stop` is cancelled or nobody can send any more, and then all that is queued.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut warned = false;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.queue.is_closed() => {
                    self.queue.close();
                    continue;
                }
                count = self.queue.recv_many(&mut batch, QUEUE) => if count == 0 { break },
            }
            stop.run_until_cancelled(tokio::time::sleep(LINGER)).await;
            while batch.len() < QUEUE
                && let Ok(line) = self.queue.try_recv()
            {
                batch.push(line);
            }
            let (paths, max_size) = (self.paths.clone(), self.max_size);
            let lost = self.lost.swap(0, Ordering::Relaxed);
            let lines = std::mem::take(&mut batch);
            let written = tokio::task::spawn_blocking(move || write(&paths, lines, lost, max_size));
            if let Ok(Err(error)) = written.await
                && !warned
            {
                warned = true;
                tracing::warn!(%error, "what servers write to stderr is not kept");
            }
        }
    }
}

/// Appends lines to the logs of their servers.
fn write(paths: &Paths, lines: Vec<Line>, lost: u64, max_size: u64) -> io::Result<()> {
    let mut chunks: BTreeMap<Arc<str>, Vec<u8>> = BTreeMap::new();
    for Line { at, server, text } in lines {
        let chunk = chunks.entry(server).or_default();
        writeln!(chunk, "{} {text}", humantime::format_rfc3339_millis(at))?;
    }
    if lost > 0 {
        // Whose lines they were is not known; all that wrote just now may have lost some.
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        for chunk in chunks.values_mut() {
            writeln!(chunk, "{now} (mcpm: {lost} lines came too fast and are lost)")?;
        }
    }
    create_private_dir(&paths.logs())?;
    for (server, chunk) in chunks {
        append(&path(paths, &server), &chunk, max_size)?;
    }
    Ok(())
}

/// Appends whole lines to a log, which another process may append to as well.
fn append(log: &Path, chunk: &[u8], max_size: u64) -> io::Result<()> {
    let mut rest = chunk;
    while !rest.is_empty() {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(log)?;
        let room = max_size.saturating_sub(file.metadata()?.len());
        let part = whole_lines(rest, usize::try_from(room).unwrap_or(usize::MAX));
        if part == 0 {
            drop(file);
            rotate(log, rest, max_size)?;
            continue;
        }
        file.write_all(&rest[..part])?;
        rest = &rest[part..];
    }
    Ok(())
}

/// Returns how many bytes of whole lines fit into `room`.
fn whole_lines(lines: &[u8], room: usize) -> usize {
    if lines.len() <= room {
        return lines.len();
    }
    memchr::memrchr(b'\n', &lines[..room]).map_or(0, |end| end + 1)
}

/// Makes the log the previous one, unless another process just did.
fn rotate(log: &Path, rest: &[u8], max_size: u64) -> io::Result<()> {
    let _lock = lock(log).map_err(io::Error::other)?;
    let size = fs::metadata(log).map_or(0, |file| file.len());
    let room = usize::try_from(max_size.saturating_sub(size)).unwrap_or(usize::MAX);
    if whole_lines(rest, room) > 0 {
        return Ok(());
    }
    if size == 0 {
        return Err(io::Error::other("a line is longer than a whole log"));
    }
    fs::rename(log, previous(log))
}

/// Returns a line as plain text: without escape sequences and control characters, and not longer
/// than what is kept.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len().min(MAX_LINE));
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        if text.len() + char.len_utf8() > MAX_LINE {
            text.push('…');
            break;
        }
        match char {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => text.push('\t'),
            char if char.is_control() => {}
            char => text.push(char),
        }
    }
    text
}

/// Skips an escape sequence whose first character was read (ECMA-48 §5.4): CSI ends with a
/// character of `@` to `~`, OSC with BEL or ST, others after one character.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => {
            let _end = chars.find(|char| ('@'..='~').contains(char));
        }
        Some(']') => {
            let end = chars.find(|char| ['\u{7}', '\u{1b}'].contains(char));
            if end == Some('\u{1b}') {
                chars.next();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::last;

    fn place() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("mcpm"));
        (dir, paths)
    }

    fn texts(paths: &Paths, server: &str) -> Vec<String> {
        last(paths, server, usize::MAX)
            .unwrap()
            .unwrap()
            .into_iter()
            .map(|line| line.text)
            .collect()
    }

    #[tokio::test]
    async fn lines_are_kept_per_server_with_the_time_for_their_owner_alone() {
        let (_dir, paths) = place();
        let (logs, writer) = channel(&paths);
        let work = async {
            logs.line("time", "one");
            logs.line("../up", "other");
            logs.line("time", "two");
            assert!(!paths.dir().exists(), "the hot path touched the disk");
        };
        writer.beside(work).await;
        assert_eq!(texts(&paths, "time"), ["one", "two"]);
        assert_eq!(texts(&paths, "../up"), ["other"]);
        let line = last(&paths, "time", 1).unwrap().unwrap().remove(0);
        assert!(line.at.unwrap().ends_with('Z'));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&path(&paths, "time")), 0o600);
            assert_eq!(mode(&paths.logs()), 0o700);
        }
    }

    #[tokio::test]
    async fn a_flood_loses_lines_and_says_so_but_never_waits() {
        let (_dir, paths) = place();
        let (logs, writer) = channel(&paths);
        for number in 0..QUEUE + 5 {
            logs.line("loud", &number.to_string());
        }
        writer.beside(async {}).await;
        let kept = texts(&paths, "loud");
        assert_eq!(kept[..2], ["0".to_owned(), "1".to_owned()]);
        assert_eq!(kept.last().unwrap(), "(mcpm: 5 lines came too fast and are lost)");
    }

    #[tokio::test]
    async fn a_log_does_not_grow_beyond_its_size_and_one_predecessor() {
        let (_dir, paths) = place();
        let (logs, writer) = channel_of(&paths, 300);
        for number in 0..100 {
            logs.line("x", &format!("line {number:02}"));
        }
        writer.beside(async {}).await;
        let log = path(&paths, "x");
        for file in [log.clone(), previous(&log)] {
            let size = fs::metadata(&file).unwrap().len();
            assert!(size > 0 && size <= 300, "{size} bytes");
        }
        let kept = texts(&paths, "x");
        assert_eq!(kept.last().unwrap(), "line 99");
        assert_eq!(kept.first().unwrap(), &format!("line {:02}", 100 - kept.len()));
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_disturbs_nothing() {
        let (_dir, paths) = place();
        fs::write(paths.dir(), "a file in the way").unwrap();
        let (logs, writer) = channel(&paths);
        let work = async {
            logs.line("x", "lost");
            7
        };
        assert_eq!(writer.beside(work).await, 7);
    }

    #[test]
    fn what_would_play_with_the_terminal_is_left_out() {
        assert_eq!(plain("\u{1b}[31mred\u{1b}[0m\tend\r"), "red\tend");
        assert_eq!(plain("\u{1b}]0;title\u{7}a\u{1b}]8;;x\u{1b}\\b\u{1b}Mc"), "abc");
        let long = plain(&"é".repeat(MAX_LINE));
        assert_eq!(long.len(), MAX_LINE + '…'.len_utf8());
    }
}
