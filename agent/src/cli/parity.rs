//! Every command and option of the Python `mcpm` 2.15, as its help lists them, and those that its
//! documents promised: a command line that worked there is understood here.

use clap::{Command, CommandFactory as _};

use super::Cli;

/// A command, its options, and how many words it takes at least and at most.
type Line = (&'static str, &'static str, (usize, usize));

const PYTHON: &[Line] = &[
    ("", "-v --version -h --help", (0, 0)),
    ("search", "--table -h --help", (0, 1)),
    ("info", "-h --help", (1, 1)),
    ("install", "--force --alias -h --help", (1, 1)),
    ("uninstall", "-f --force -h --help", (1, 1)),
    ("ls", "-v --verbose -h --help", (0, 0)),
    (
        "edit",
        "-N --new -e --editor --name --command --args --env --url --headers --force -h --help",
        (0, 1),
    ),
    ("new", "--type --command --args --env --url --headers --force -h --help", (0, 1)),
    ("inspect", "-h --help", (0, 1)),
    ("update", "-c --check --dry-run --rebase --force -V --verbose --init -h --help", (0, 1)),
    ("run", "--http --sse --port --host -h --help", (1, 1)),
    ("share", "--port --address --http --timeout --retry --no-auth -h --help", (1, 1)),
    ("usage", "-d --days -s --server -p --profile -h --help", (0, 0)),
    ("profile", "-h --help", (0, 0)),
    ("profile ls", "-v --verbose -h --help", (0, 0)),
    ("profile create", "--force -h --help", (1, 1)),
    (
        "profile edit",
        "--name --servers --add-server --remove-server --set-servers --force -h --help",
        (1, 1),
    ),
    ("profile rm", "-f --force -h --help", (1, 1)),
    ("profile run", "--http --sse --port --host -h --help", (1, 1)),
    ("profile share", "--port --address --http --no-auth -h --help", (1, 1)),
    ("profile inspect", "--server --port --host --http --sse -h --help", (1, 1)),
    ("client", "-h --help", (0, 0)),
    ("client ls", "-v --verbose -h --help", (0, 0)),
    (
        "client edit",
        "-e --external -f --file --add-server --remove-server --set-servers --add-profile \
         --remove-profile --set-profiles --force --disabled -h --help",
        (1, 1),
    ),
    ("client import", "-h --help", (1, 1)),
    ("config", "-h --help", (0, 0)),
    ("config set", "--key --value --force -h --help", (0, 0)),
    ("config ls", "-h --help", (0, 0)),
    ("config unset", "-h --help", (1, 1)),
    ("config clear-cache", "-h --help", (0, 0)),
    ("doctor", "-h --help", (0, 0)),
    ("migrate", "--force -h --help", (0, 0)),
];

/// What its documents, and those of mcpm 1 that describe sharing, name and it never had, or has no
/// more.
const PROMISED: &[Line] = &[
    ("config", "", (0, 0)),
    ("config edit", "", (0, 0)),
    ("config reset", "", (0, 0)),
    ("config get", "", (1, 1)),
    ("doctor", "--server --profile --verbose --cleanup", (0, 0)),
    ("usage", "--resources --export", (0, 0)),
    ("client import", "--profile", (1, 1)),
    ("share", "--subdomain --auth --local-only", (1, 1)),
    ("profile share", "--auth --timeout --retry", (1, 1)),
    ("profile ls", "", (0, 1)),
    ("install", "--name", (1, 1)),
    ("router share", "-p --profile -a --address --http", (0, 0)),
    ("router unshare", "", (0, 0)),
    ("router status", "", (0, 0)),
    ("router on", "", (0, 0)),
    ("router off", "", (0, 0)),
    ("router set", "", (0, 0)),
];

fn find<'a>(root: &'a Command, path: &str) -> &'a Command {
    path.split_whitespace().fold(root, |command, word| {
        command.find_subcommand(word).unwrap_or_else(|| panic!("there is no `mcpm {path}`"))
    })
}

fn knows(command: &Command, option: &str) -> bool {
    command.get_arguments().any(|arg| match option.strip_prefix("--") {
        Some(long) => {
            arg.get_long() == Some(long)
                || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&long))
        }
        None => {
            let short = option.chars().nth(1);
            arg.get_short() == short
                || arg
                    .get_all_short_aliases()
                    .is_some_and(|all| all.iter().any(|a| Some(*a) == short))
        }
    })
}

fn words_of(command: &Command) -> (usize, usize) {
    // What follows `--` is for the server, and what is hidden for nobody.
    let words = command.get_positionals().filter(|arg| !arg.is_last_set() && !arg.is_hide_set());
    let (mut least, mut most) = (0, 0);
    for word in words {
        least += usize::from(word.is_required_set());
        most += 1;
    }
    (least, most)
}

#[test]
fn every_command_and_option_of_the_python_version_is_understood() {
    let mut root = Cli::command();
    root.build();
    for (path, options, (least, most)) in PYTHON.iter().chain(PROMISED) {
        let command = find(&root, path);
        for option in options.split_whitespace() {
            assert!(knows(command, option), "`mcpm {path}` does not know {option}");
        }
        let (needs, takes) = words_of(command);
        assert!(needs <= *least, "`mcpm {path}` needs {needs} words");
        assert!(takes >= *most, "`mcpm {path}` takes {takes} words only");
    }
}

/// Those numbers are in scripts of people.
#[test]
fn defaults_are_those_of_the_python_version() {
    let mut root = Cli::command();
    root.build();
    for (path, option, value) in [
        ("usage", "days", Some("30")),
        ("run", "host", Some("127.0.0.1")),
        ("profile run", "host", Some("127.0.0.1")),
        ("profile inspect", "host", Some("127.0.0.1")),
        ("share", "timeout", Some("30")),
        // Found when nobody names one, from 6276 on.
        ("run", "port", None),
    ] {
        let command = find(&root, path);
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(option)).unwrap();
        let default = arg.get_default_values().first().and_then(|value| value.to_str());
        assert_eq!(default, value, "`mcpm {path} --{option}`");
    }
}
