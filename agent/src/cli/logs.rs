//! `mcpm logs`: what a server wrote to stderr.

use std::time::Duration;

use super::error::CliError;
use super::ui::Ui;
use super::{Context, JsonArg};
use crate::config::{ConfigError, GlobalConfigManager};
use crate::fs::Paths;
use crate::logs::{self, LogLine};
use crate::model::Transport;

/// How often to look for new lines.
const LOOK: Duration = Duration::from_millis(250);

/// Show what a server wrote to stderr
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server, as `mcpm ls` shows it
    server: String,
    /// Go on with the lines that come, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Show the last so many lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: usize,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let paths = context.paths()?;
    // Before the last lines are read: a line may come twice then, but none is missing.
    let mut follower = logs::follow(&paths, &args.server);
    match logs::last(&paths, &args.server, args.lines)? {
        Some(lines) => {
            if !show(context.ui, &lines) {
                return Ok(());
            }
        }
        None => context.ui.note(no_log(&paths, &args.server)?),
    }
    if !args.follow {
        return Ok(());
    }
    // Ctrl-C ends the process, as it ends `tail -f`.
    while show(context.ui, &follower.look()?) {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Says why there is no log.
fn no_log(paths: &Paths, server: &str) -> Result<String, CliError> {
    let remote = match GlobalConfigManager::open(paths)?.server(server) {
        Ok(found) => matches!(found.transport, Transport::Remote { .. }),
        Err(ConfigError::InvalidServer { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    Ok(if remote {
        format!("Server `{server}` is remote: what it writes to stderr stays where it runs.")
    } else {
        format!("Server `{server}` has written nothing to stderr since mcpm keeps logs.")
    })
}

/// Shows lines; false when their reader went away.
fn show(ui: Ui, lines: &[LogLine]) -> bool {
    lines.iter().all(|line| ui.offer(shown(line, ui.is_json())))
}

fn shown(line: &LogLine, json: bool) -> String {
    if json {
        return serde_json::to_string(line).unwrap_or_default();
    }
    match &line.at {
        Some(at) => format!("{at} {}", line.text),
        None => line.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: &str = r#"{
        "time": {"command": "x"}, "far": {"url": "https://x.example/mcp"}, "bad": {"env": 1}
    }"#;

    #[test]
    fn an_unknown_server_is_an_error_and_a_missing_log_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.servers(), SERVERS).unwrap();
        assert!(no_log(&paths, "time").unwrap().contains("nothing"));
        assert!(no_log(&paths, "bad").unwrap().contains("nothing"));
        assert!(no_log(&paths, "far").unwrap().contains("remote"));
        let error = no_log(&paths, "tiem").unwrap_err();
        assert_eq!(error.to_json()["code"], "unknown_server");
        assert!(error.hint().unwrap().contains("`time`"));
    }

    #[test]
    fn the_log_of_a_server_that_is_gone_is_still_shown() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::create_dir(paths.logs()).unwrap();
        std::fs::write(logs::path(&paths, "gone"), "x\n").unwrap();
        let context = Context { ui: Ui::new(true, false), config_dir: Some(dir.path().to_owned()) };
        let json = JsonArg { json: true };
        let args = Args { server: "gone".to_owned(), follow: false, lines: 0, json };
        run(&args, &context).unwrap();
    }

    #[test]
    fn machines_get_one_object_per_line() {
        let at = Some("2026-11-21T05:00:00.000Z".to_owned());
        let line = LogLine { at, text: "up".to_owned() };
        assert_eq!(shown(&line, true), r#"{"at":"2026-11-21T05:00:00.000Z","text":"up"}"#);
        assert_eq!(shown(&line, false), "2026-11-21T05:00:00.000Z up");
        let strange = LogLine { at: None, text: "x y".to_owned() };
        assert_eq!(shown(&strange, false), "x y");
    }
}
