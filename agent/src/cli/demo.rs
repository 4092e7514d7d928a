//! `mcpm demo`: the whole path on one machine, proved.

use super::Context;
use super::JsonArg;
use super::error::CliError;

/// Try sharing on this machine: a relay, a server and a client, with nothing else needed
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// End after the proof that a tool was called through the relay
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

#[cfg(not(feature = "embedded-relay"))]
pub(super) fn run(_: Args, _: &Context) -> Result<(), CliError> {
    Err(CliError::user("no_relay", "this mcpm was built without a relay")
        .with_hint("Build it with the feature `embedded-relay`"))
}

#[cfg(feature = "embedded-relay")]
pub(super) use self::embedded::run;

#[cfg(feature = "embedded-relay")]
mod embedded {
    use serde_json::json;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::{Args, CliError, Context};
    use crate::app::demo::{DemoEvent, Proof, demo};
    use crate::cli::live::Live;
    use crate::cli::run::listen;
    use crate::cli::ui::Ui;
    use crate::cli::{Threads, block_on};

    /// How many events may wait for the terminal.
    const EVENTS: usize = 64;

    pub(in crate::cli) fn run(args: Args, context: &Context) -> Result<(), CliError> {
        let program = std::env::current_exe()
            .map_err(|error| CliError::internal(format!("cannot find this program: {error}")))?;
        let ui = context.ui;
        let mut live = Live::for_demo(ui);
        block_on(Threads::Many, async {
            let mut signals = listen()?;
            let stop = CancellationToken::new();
            let (events, mut inbox) = mpsc::channel(EVENTS);
            let running = demo(program, args.once, events, stop.clone());
            tokio::pin!(running);
            let result = loop {
                tokio::select! {
                    biased;
                    _ = signals.next() => {
                        if stop.is_cancelled() {
                            break Ok(());
                        }
                        live.stopping();
                        stop.cancel();
                    }
                    Some(event) = inbox.recv() => show(&mut live, ui, event),
                    result = &mut running => break result,
                }
            };
            while let Ok(event) = inbox.try_recv() {
                show(&mut live, ui, event);
            }
            live.end(result.is_ok());
            Ok(result?)
        })
    }

    fn show(live: &mut Live, ui: Ui, event: DemoEvent) {
        match event {
            DemoEvent::Relay { origin } => live.note(&format!("A relay runs at {origin}.")),
            DemoEvent::Share(event) => live.show(event),
            DemoEvent::Proof(proof) if ui.is_json() => ui.json(&to_json(&proof)),
            DemoEvent::Proof(proof) => {
                for line in in_words(&proof) {
                    live.note(&line);
                }
            }
        }
    }

    fn in_words(proof: &Proof) -> [String; 4] {
        let Proof { server, tools, sum, progress, stranger } = proof;
        [
            format!("Proved over the public URL: `{server}` offers {}.", tools.join(", ")),
            format!("  add(19, 23) = {sum}"),
            format!("  countdown reported progress {progress} times, in order, before its result"),
            format!("  a visitor without the token got {stranger}"),
        ]
    }

    fn to_json(proof: &Proof) -> serde_json::Value {
        let Proof { server, tools, sum, progress, stranger } = proof;
        json!({
            "event": "proof",
            "server": server,
            "tools": tools,
            "sum": sum,
            "progress": progress,
            "stranger": stranger,
        })
    }
}
