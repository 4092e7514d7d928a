//! The shares of this process: run, shown, told to other commands, and ended.

use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::scope::Scope;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::background::{Beacon, BeaconTask, Run};
use crate::app::share::{ShareEvent, ShareSpec, Source, Stop, Wish, share_all};
use crate::cli::background::Screen;
use crate::cli::error::CliError;
use crate::cli::run::listen;
use crate::cli::{Threads, block_on};
use crate::credentials::ShareTarget;
use crate::fs::Paths;
use crate::gateway::StderrSink;
use crate::logs;
use crate::running::RunId;

/// How many events may wait for the terminal.
const EVENTS: usize = 64;
/// How many shares that failed are named in one line.
const NAMED: usize = 5;
/// How long it may take to tell other commands that the share is over.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Runs shares, shows what happens and stops them at the first signal, or when another command wants
/// them to end: that is a success. The second signal does not wait for anything. Those that are
/// `refused` are over at once, and the rest runs.
pub(in crate::cli) fn run_here(
    mut specs: Vec<ShareSpec>,
    refused: Vec<(usize, CliError)>,
    run: &Run,
    mut screen: Screen,
    paths: &Paths,
) -> Result<(), CliError> {
    let (logs, writer) = logs::channel(paths);
    let sink = StderrSink::new(move |server, line| {
        logs.line(server, line);
        tracing::info!(target: "mcpm::server", server, "{line}");
    });
    // What has no servers goes on sharing the options that it does not need.
    for spec in specs.iter_mut().filter(|spec| matches!(spec.source, Source::Mcp(_))) {
        Arc::make_mut(&mut spec.gateway).stderr = Some(sink.clone());
    }
    let stop = CancellationToken::new();
    let mut book = Book::new(&specs);
    for (at, error) in refused {
        book.over(at, Err(error), &mut screen);
    }
    let specs: Vec<_> =
        specs.into_iter().enumerate().filter(|(at, _)| !book.is_over(*at)).collect();
    block_on(Threads::Many, async {
        // Before anybody knows of the shares: a signal must not leave their records behind.
        let mut signals = listen()?;
        let (task, stops) = book.light(&specs, run, paths, &stop)?;
        let scope = Scope::new();
        scope.spawn(task.run());
        let (places, wishes): (Vec<_>, _) = specs
            .into_iter()
            .zip(stops)
            .map(|((at, spec), stop)| (at, Wish { spec: Box::new(spec), stop }))
            .unzip();
        let (events, mut inbox) = mpsc::channel(EVENTS);
        let sharing = writer.beside(share_all(wishes, paths, events, stop.clone()));
        tokio::pin!(sharing);
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                _ = signals.next() => {
                    if stop.is_cancelled() {
                        break;
                    }
                    stop.cancel();
                }
                () = stop.cancelled(), if !told => {
                    told = true;
                    screen.stopping();
                }
                Some((wish, event)) = inbox.recv() => book.take(places[wish], event, &mut screen),
                () = &mut sharing => break,
            }
        }
        while let Ok((wish, event)) = inbox.try_recv() {
            book.take(places[wish], event, &mut screen);
        }
        let result = book.close();
        scope.drain(LAST_WORDS).await;
        screen.end(&result);
        result
    })
}

/// What other commands are told of the shares of this process, and how each of them ended.
struct Book {
    targets: Vec<ShareTarget>,
    beacons: Vec<Option<Beacon>>,
    failures: Vec<(usize, CliError)>,
}

impl Book {
    fn new(specs: &[ShareSpec]) -> Self {
        let targets = specs.iter().map(|spec| spec.target.clone()).collect();
        let beacons = specs.iter().map(|_| None).collect();
        Self { targets, beacons, failures: Vec::new() }
    }

    /// Tells whether a share has failed.
    fn is_over(&self, at: usize) -> bool {
        self.failures.iter().any(|(failed, _)| *failed == at)
    }

    /// Makes the shares known; the first is the run that is given. Returns what ends each of them.
    fn light(
        &mut self,
        specs: &[(usize, ShareSpec)],
        run: &Run,
        paths: &Paths,
        stop: &CancellationToken,
    ) -> Result<(BeaconTask, Vec<Stop>), CliError> {
        let mut task = BeaconTask::new();
        // The end of the only share is that of all.
        let several = self.targets.len() > 1;
        let stops = match several {
            true => Stop::several(stop, specs.len()),
            false => vec![Stop::from(stop.clone()); specs.len()],
        };
        for (index, ((at, spec), stop)) in specs.iter().zip(&stops).enumerate() {
            let id = if index == 0 { run.id.clone() } else { RunId::generate() };
            let run = Run { id, ..run.clone() };
            self.beacons[*at] = Some(task.add(paths, &run, spec, stop.clone())?);
        }
        Ok((task, stops))
    }

    fn take(&mut self, at: usize, event: ShareEvent, screen: &mut Screen) {
        if let ShareEvent::Over(result) = event {
            return self.over(at, result.map_err(CliError::from), screen);
        }
        if let Some(beacon) = &mut self.beacons[at] {
            beacon.note(&event);
        }
        screen.show(at, event);
    }

    fn over(&mut self, at: usize, result: Result<(), CliError>, screen: &mut Screen) {
        screen.over(at, &result);
        let beacon = self.beacons[at].take();
        if let Err(error) = result {
            if let Some(mut beacon) = beacon {
                beacon.ended(error.ending());
            }
            self.failures.push((at, error));
        }
    }

    /// Puts the lights out, and returns how all of it ended.
    fn close(&mut self) -> Result<(), CliError> {
        self.beacons.clear();
        let shares = self.targets.len();
        if shares == 1 {
            return self.failures.pop().map_or(Ok(()), |(_, error)| Err(error));
        }
        let mut failed: Vec<usize> = self.failures.iter().map(|(at, _)| *at).collect();
        failed.sort_unstable();
        if failed.is_empty() { Ok(()) } else { Err(some_failed(&self.targets, &failed)) }
    }
}

/// Says which of several shares failed, each of which was told of when it did.
pub(in crate::cli) fn some_failed(targets: &[ShareTarget], failed: &[usize]) -> CliError {
    let names = failed.iter().take(NAMED).map(|at| targets[*at].to_string());
    let names: Vec<String> = names.collect();
    let more = match failed.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (count, all) = (failed.len(), targets.len());
    let message = format!("{count} of {all} shares failed: {}{more}", names.join(", "));
    CliError::user("shares_failed", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_of_several_shares_failed_is_told_by_their_names() {
        let targets = ["a", "b", "c"].map(|name| ShareTarget::Server(name.to_owned()));
        let error = some_failed(&targets, &[0, 2]);
        assert_eq!(error.to_string(), "2 of 3 shares failed: server `a`, server `c`");
        assert_eq!(error.exit(), 1);
    }

    #[test]
    fn of_many_shares_that_failed_some_are_named() {
        let targets: Vec<_> = (0..9).map(|at| ShareTarget::Server(at.to_string())).collect();
        let error = some_failed(&targets, &(0..9).collect::<Vec<_>>());
        assert!(error.to_string().ends_with("server `4` and 4 more"), "{error}");
    }
}
