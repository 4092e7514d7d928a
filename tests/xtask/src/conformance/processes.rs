//! The programs behind one URL: started, asked where they listen, and ended with the run.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::step::Failed;

/// How long a program may take to say where it listens.
const START: Duration = Duration::from_secs(30);

/// Programs that end when this is dropped, the last that was started first.
#[derive(Debug, Default)]
pub(crate) struct Processes(Vec<Child>);

impl Processes {
    /// Starts a program and waits for the URL on its standard output; its standard error goes to `NAME.log` in `folder`.
    pub(crate) fn start(
        &mut self,
        name: &str,
        folder: &Path,
        mut command: Command,
    ) -> Result<String, Failed> {
        let log = folder.join(format!("{name}.log"));
        let log = File::create(&log).map_err(|error| Failed::new("make a log", error))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child =
            command.spawn().map_err(|error| Failed::new(format!("start {name}"), error))?;
        let stdout = child.stdout.take();
        self.0.push(child);
        let (told, urls) = mpsc::sync_channel(1);
        thread::spawn(move || {
            // Read to the end: a program that cannot write any more may stop.
            let lines = stdout.map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok));
            for line in lines.into_iter().flatten() {
                if let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://"))
                {
                    told.try_send(url.to_owned()).ok();
                }
            }
        });
        urls.recv_timeout(START).map_err(|_| Failed(format!("{name} tells no URL")))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        while let Some(mut child) = self.0.pop() {
            // Asked, not killed: mcpm ends what it started.
            Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().ok();
            child.wait().ok();
        }
    }
}
