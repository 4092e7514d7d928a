//! `mcpm-relay config print|check`.

use std::path::PathBuf;

use clap::Subcommand;
use mcpm_relay::cert::{CertFiles, CertSource as _, Uncovered, has_ended};
use mcpm_relay::config::{Config, Layer, Tls};
use mcpm_relay::ports::PortsError;
use serde::Serialize;

use super::error::{CliError, in_full};
use super::out::{note, say, say_json};
use super::settings::ServeArgs;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print all settings as TOML, defaults included and secrets left out
    Print(Box<Args>),
    /// Say whether the settings can be obeyed, and everything that is wrong with them
    Check(Box<Args>),
}

// Not documented, as clap would show that in place of what the command says of itself.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: ServeArgs,
}

impl Args {
    #[cfg(test)]
    pub(super) fn resolve(self) -> Result<Config, CliError> {
        self.settings.resolve()
    }
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Print(args) => {
            let layer = Layer::from(&args.settings.resolve()?);
            match args.json {
                true => say_json(&layer),
                false => say(&toml::to_string(&layer).expect("settings are plain TOML")),
            }
        }
        Command::Check(args) => check(*args),
    }
}

fn check(Args { json, settings }: Args) -> Result<(), CliError> {
    let path = settings.file().map(ToOwned::to_owned);
    let checked = settings.resolve().and_then(|config| Ok((certificate(&config)?, config)));
    if json {
        say_json(&Report::new(path, checked.as_ref().map(|(warnings, _)| warnings.as_slice())))?;
        return checked.map(drop);
    }
    let (warnings, config) = checked?;
    warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
    say(&format!("settings are fine: {} on {}", config.domain, config.listen))
}

/// Reads the certificate where it is in files, and says what clients would find wrong with it.
fn certificate(config: &Config) -> Result<Vec<String>, CliError> {
    let Tls::Files { cert, key } = &config.tls else { return Ok(Vec::new()) };
    let files = CertFiles::open(cert, key).map_err(PortsError::Cert)?;
    let Some(leaf) = files.leaf() else { return Ok(Vec::new()) };
    let ended = has_ended(&leaf).then(|| "the certificate has ended: clients refuse it".to_owned());
    let uncovered = Uncovered::find(&leaf, &config.domain, config.paths);
    let uncovered = uncovered.map(|lacks| format!("{lacks}: clients refuse it there"));
    Ok(ended.into_iter().chain(uncovered).collect())
}

/// What a check has found, for machines.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    /// The settings file, where one was named.
    path: Option<PathBuf>,
    problems: Vec<Found>,
    /// What can be obeyed and yet is hardly meant.
    warnings: Vec<String>,
}

/// One thing that cannot be obeyed.
#[derive(Debug, Serialize)]
struct Found {
    /// As in the file, those of a table as `limits.NAME`; null where it is of no one setting.
    setting: Option<String>,
    message: String,
}

impl Report {
    fn new(path: Option<PathBuf>, checked: Result<&[String], &CliError>) -> Self {
        let problems = checked.err().map(problems).unwrap_or_default();
        let warnings = checked.map(<[String]>::to_vec).unwrap_or_default();
        Self { ok: checked.is_ok(), path, problems, warnings }
    }
}

fn problems(error: &CliError) -> Vec<Found> {
    match error {
        CliError::Config(error) => {
            let found = error.problems.iter().map(|problem| Found {
                setting: Some(problem.setting.to_owned()),
                message: problem.message.clone(),
            });
            found.collect()
        }
        CliError::ConfigSyntax { source, .. } => {
            let found = source.problems.iter().map(|problem| Found {
                setting: problem.setting.clone(),
                // With the setting named, its line in the file says no more.
                message: match problem.setting {
                    Some(_) => problem.message.clone(),
                    None => problem.in_words(),
                },
            });
            found.collect()
        }
        error => vec![Found { setting: None, message: in_full(error) }],
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command as Any};

    /// Returns what `config check --json` says of a file.
    fn report(text: &str) -> serde_json::Value {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.toml");
        std::fs::write(&path, text).unwrap();
        let args = ["mcpm-relay", "config", "check", "--json", "--config", path.to_str().unwrap()];
        let Any::Config(Command::Check(args)) = Cli::parse_from(args).command else {
            unreachable!("that is what was asked for")
        };
        let checked = args.settings.resolve();
        let report = Report::new(Some("relay.toml".into()), checked.as_ref().map(|_| &[][..]));
        serde_json::to_value(report).unwrap()
    }

    #[test]
    fn a_check_for_machines_names_each_setting_and_what_is_wrong() {
        let refused = report("domain = \"a.example\"\nidle-secs = 0\ndatabase = \"memory:\"\n");
        insta::assert_json_snapshot!(refused, @r#"
        {
          "ok": false,
          "path": "relay.toml",
          "problems": [
            {
              "setting": "auth",
              "message": "must be chosen for a relay that others can reach: `secret` for a team, `token` or `oidc` for users that you name, `open` for everybody"
            },
            {
              "setting": "idle-secs",
              "message": "must be 1 or more"
            }
          ],
          "warnings": []
        }
        "#);
        let misread = report("auth = \"x\"\n[limits]\nmax-sessions = \"y\"\n");
        insta::assert_json_snapshot!(misread["problems"], @r#"
        [
          {
            "setting": "auth",
            "message": "unknown variant `x`, expected one of `open`, `secret`, `token`, `oidc`"
          },
          {
            "setting": "limits.max-sessions",
            "message": "invalid type: string \"y\", expected usize"
          }
        ]
        "#);
        let unread = report("auth = \n");
        assert_eq!(unread["problems"][0]["setting"], serde_json::Value::Null);
        let fine = serde_json::json!({
            "ok": true, "path": "relay.toml", "problems": [], "warnings": [],
        });
        assert_eq!(report("database = \"memory:\"\n"), fine);
    }
}
