//! The reference of settings in `docs/environment.md` is made of the command line itself. After a
//! change: `MCPM_UPDATE_DOCS=1 cargo test -p mcpm-relay reference`.

use std::path::Path;

use clap::{Arg, CommandFactory as _};
use mcpm_relay::config::Layer;
use serde_json::Value;

use super::Cli;

const BEGIN: &str = "<!-- made of `mcpm-relay serve --help`: begin -->\n";
const END: &str = "<!-- made of `mcpm-relay serve --help`: end -->\n";

/// Where a setting stands in the file, as `key` or `[table] key`.
fn key(flag: &str, layer: &Value) -> String {
    if layer.get(flag).is_some_and(Value::is_null) {
        return format!("`{flag}`");
    }
    let tables = layer.as_object().into_iter().flatten().filter(|(_, value)| value.is_object());
    let found = tables.flat_map(|(table, members)| {
        let keys = members.as_object().into_iter().flat_map(|members| members.keys());
        keys.map(move |key| (table, key))
    });
    let mut found = found.filter(|(table, key)| *key == flag || format!("{table}-{key}") == flag);
    found.next().map_or("—".to_owned(), |(table, key)| format!("`[{table}]` `{key}`"))
}

/// Splits what help says into the text and the default.
fn split(help: &str) -> (String, String) {
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    match help.split_once(" [default: ") {
        Some((text, rest)) => (text.to_owned(), rest.trim_end_matches(']').to_owned()),
        None => (help, "—".to_owned()),
    }
}

/// Keeps a table a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn row(arg: &Arg, layer: &Value) -> Option<String> {
    let (env, flag) = (arg.get_env()?.to_str()?, arg.get_long()?);
    let help = arg.get_long_help().or_else(|| arg.get_help())?.to_string();
    let (mut text, default) = split(&help);
    let choices: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !choices.is_empty() {
        text = format!("{text}: {}", choices.join(", "));
    }
    let (key, text, default) = (key(flag, layer), cell(&text), cell(&default));
    Some(format!("| `{env}` | `--{flag}` | {key} | {default} | {text} |\n"))
}

fn reference() -> String {
    let layer = serde_json::to_value(Layer::default()).unwrap();
    let mut command = Cli::command();
    command.build();
    let serve = command.find_subcommand("serve").unwrap();
    let rows = serve.get_arguments().filter_map(|arg| row(arg, &layer));
    let head = "| environment | flag | in the file | default | |\n|---|---|---|---|---|\n";
    std::iter::once(head.to_owned()).chain(rows).collect()
}

#[test]
fn the_reference_of_settings_is_what_the_command_line_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/environment.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let fresh = format!("{before}{BEGIN}{}{END}{after}", reference());
    if std::env::var_os("MCPM_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let now = std::fs::read_to_string(&path).unwrap();
    assert!(now == fresh, "run MCPM_UPDATE_DOCS=1 cargo test -p mcpm-relay reference");
}

#[test]
fn every_setting_of_the_file_has_a_variable_and_what_has_no_flag_is_described() {
    let reference = reference();
    let layer = serde_json::to_value(Layer::default()).unwrap();
    for (key, value) in layer.as_object().unwrap() {
        let names: Vec<String> = match value {
            Value::Object(members) => {
                members.keys().map(|name| format!("| `[{key}]` `{name}` |")).collect()
            }
            _ => vec![format!("| `{key}` |")],
        };
        for name in names {
            assert!(reference.contains(&name), "{name}");
        }
    }
    // Secrets have no flag: everybody on the machine can read flags.
    let document = include_str!("../../../docs/environment.md");
    let constants =
        include_str!("settings.rs").lines().filter(|line| line.contains("_ENV: &str = "));
    let names: Vec<&str> = constants.filter_map(|line| line.split('"').nth(1)).collect();
    assert!(names.len() >= 2, "{names:?}");
    for name in names {
        assert!(document.contains(&format!("`{name}`")), "{name}");
    }
}
