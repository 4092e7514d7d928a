//! One command of a chore: run quietly, told in one line, shown whole when it fails.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::tree::Tree;

/// Why a chore ended early, as one sentence for the person who started it.
pub(crate) struct Failed(pub(crate) String);

impl Failed {
    /// Says what was attempted and what came of it.
    pub(crate) fn new(what: impl Display, error: impl Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

/// Runs one command with its output in `target/xtask/NAME.log`.
///
/// # Errors
/// When it cannot be started or exits with another code than 0; its output has been printed then.
pub(crate) fn run(tree: &Tree, name: &str, mut command: Command) -> Result<(), Failed> {
    print!("{name:.<28} ");
    std::io::stdout().flush().map_err(|error| Failed::new("print", error))?;
    let (log, path) = log(tree, name)?;
    let errors = log.try_clone().map_err(|error| Failed::new("open the log", error))?;
    let started = Instant::now();
    let status = command.stdout(log).stderr(errors).status();
    let seconds = started.elapsed().as_secs_f32();
    let text = fs::read(&path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    match status {
        Ok(status) if status.success() => {
            println!("ok {seconds:>6.1}s{}", summary(&text));
            Ok(())
        }
        Ok(status) => {
            println!("FAILED {seconds:.1}s");
            eprint!("{text}");
            Err(Failed(format!("{name}: `{}` ended with {status}", shown(&command))))
        }
        Err(error) => {
            println!("FAILED");
            Err(Failed::new(format!("{name}: start `{}`", shown(&command)), error))
        }
    }
}

fn log(tree: &Tree, name: &str) -> Result<(File, PathBuf), Failed> {
    let folder = tree.target.join("xtask");
    let path = folder.join(format!("{}.log", name.replace([' ', '/'], "-")));
    let file = fs::create_dir_all(&folder).and_then(|()| File::create(&path));
    Ok((file.map_err(|error| Failed::new(format!("write {}", path.display()), error))?, path))
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy()));
    words.join(" ")
}

/// Picks the line in which nextest says how many tests ran.
fn summary(text: &str) -> String {
    let line = text.lines().rev().find_map(|line| line.trim().strip_prefix("Summary ["));
    line.and_then(|line| line.split_once(']')).map_or_else(String::new, |(_, counts)| {
        format!("  {}", counts.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}
