//! The variables of the environment in `docs/environment.md` are those of the command line itself.
//! After a change: `MCPM_UPDATE_DOCS=1 cargo test -p mcpm --lib reference`.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Command, CommandFactory as _};

use super::Cli;

const BEGIN: &str = "<!-- made of `mcpm --help`: begin -->\n";
const END: &str = "<!-- made of `mcpm --help`: end -->\n";

/// What is known of one variable.
struct Variable {
    flag: String,
    text: String,
    commands: Vec<String>,
}

/// Collects the variables of a command and those below it.
fn collect(command: &Command, path: &str, found: &mut BTreeMap<String, Variable>) {
    for arg in command.get_arguments() {
        let Some((env, flag)) = arg.get_env().and_then(|env| env.to_str()).zip(arg.get_long())
        else {
            continue;
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let variable = found.entry(env.to_owned()).or_insert_with(|| Variable {
            flag: format!("--{flag}"),
            text: help.split_whitespace().collect::<Vec<_>>().join(" "),
            commands: Vec::new(),
        });
        if arg.is_global_set() {
            variable.commands = vec!["every command".to_owned()];
        } else if !command.is_hide_set() {
            variable.commands.push(format!("`{path}`"));
        }
    }
    for child in command.get_subcommands() {
        let path = format!("{path} {}", child.get_name());
        collect(child, path.trim_start(), found);
    }
}

fn reference() -> String {
    let mut found = BTreeMap::new();
    collect(&Cli::command(), "", &mut found);
    let mut text = "| environment | flag | of | |\n|---|---|---|---|\n".to_owned();
    for (env, Variable { flag, text: help, commands }) in found {
        let of = match commands.len() {
            0..=4 => commands.join(", "),
            many => format!("{many} commands"),
        };
        let help = help.replace('|', "\\|").replace('<', "&lt;");
        text.push_str(&format!("| `{env}` | `{flag}` | {of} | {help} |\n"));
    }
    text
}

#[test]
fn the_reference_of_variables_is_what_the_command_line_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/environment.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let fresh = format!("{before}{BEGIN}{}{END}{after}", reference());
    if std::env::var_os("MCPM_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let now = std::fs::read_to_string(&path).unwrap();
    assert!(now == fresh, "run MCPM_UPDATE_DOCS=1 cargo test -p mcpm --lib reference");
}
