//! A client over standard input and output. It waits with a thread, which is what takes the least
//! time.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mcpm_bench::outcome::Outcome;
use mcpm_bench::process::Pipes;
use memchr::memmem;
use serde_json::Value;

use crate::wire::{self, Era};

/// How long a session may take beyond what was asked for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A session that is open.
#[derive(Debug)]
pub(crate) struct Talk {
    to: File,
    from: BufReader<File>,
    line: Vec<u8>,
    last_id: u64,
}

impl Talk {
    /// Opens a session of the legacy era.
    pub(crate) fn open(pipes: Pipes) -> anyhow::Result<Self> {
        let Pipes { stdin, stdout } = pipes;
        let from = BufReader::with_capacity(64 * 1024, stdout);
        let mut talk = Self { to: stdin, from, line: Vec::new(), last_id: 0 };
        talk.request("initialize", wire::INITIALIZE)?;
        talk.send(wire::INITIALIZED.to_owned())?;
        Ok(talk)
    }

    /// Asks for the names of all tools.
    pub(crate) fn tools(&mut self) -> anyhow::Result<Vec<String>> {
        wire::tools(&self.request("tools/list", "")?)
    }

    /// Calls the tools in turn, one call after the other, for `duration`.
    pub(crate) fn calls(
        &mut self,
        tools: &[String],
        duration: Duration,
    ) -> anyhow::Result<Outcome> {
        let calls: Vec<String> = tools.iter().map(|tool| wire::call(tool)).collect();
        let started = Instant::now();
        let mut outcome = Outcome::default();
        for call in calls.iter().cycle() {
            if started.elapsed() >= duration {
                break;
            }
            let begun = Instant::now();
            self.call(call)?;
            outcome.latencies.push(begun.elapsed().as_secs_f64());
        }
        outcome.elapsed = started.elapsed();
        outcome.latencies.sort_by(f64::total_cmp);
        Ok(outcome)
    }

    fn request(&mut self, method: &str, params: &str) -> anyhow::Result<Value> {
        self.last_id += 1;
        self.send(Era::Legacy.request(self.last_id, method, params))?;
        loop {
            self.read()?;
            // A server may notify at any time.
            let message: Value = serde_json::from_slice(&self.line).context("a line of JSON")?;
            if message.get("id").and_then(Value::as_u64) == Some(self.last_id)
                && message.get("method").is_none()
            {
                return wire::result(&self.line);
            }
        }
    }

    /// Makes one call; `params` are those of [`wire::call`].
    pub(crate) fn call(&mut self, params: &str) -> anyhow::Result<()> {
        self.last_id += 1;
        self.send(Era::Legacy.request(self.last_id, "tools/call", params))?;
        loop {
            self.read()?;
            if wire::echoes(&self.line) {
                return Ok(());
            }
            if memmem::find(&self.line, br#""method""#).is_none() {
                bail!("a call was answered {:?}", String::from_utf8_lossy(&self.line));
            }
        }
    }

    fn send(&mut self, mut message: String) -> anyhow::Result<()> {
        message.push('\n');
        self.to.write_all(message.as_bytes()).context("send a message")
    }

    fn read(&mut self) -> anyhow::Result<()> {
        self.line.clear();
        let read = self.from.read_until(b'\n', &mut self.line).context("read a message")?;
        ensure!(read > 0, "the program ended before an answer");
        Ok(())
    }
}

/// Lets a thread wait for what `work` waits for. It ends when the program does that it speaks to.
pub(crate) async fn on_thread<T: Send + 'static>(
    takes: Duration,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let done = tokio::time::timeout(takes + PATIENCE, tokio::task::spawn_blocking(work)).await;
    done.context("an answer does not come")?.context("a session's thread")?
}
