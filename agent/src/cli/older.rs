//! Words of mcpm 1 that are commands no more, and what replaced them.

use super::error::CliError;

/// A word, and what to type now.
const WORDS: [(&str, &str); 13] = [
    ("add", "Install a server with `mcpm install NAME`, for a profile with `mcpm profile edit`"),
    ("rm", "Remove a server with `mcpm uninstall NAME`"),
    ("remove", "Remove a server with `mcpm uninstall NAME`"),
    ("list", "List servers with `mcpm ls`"),
    ("cp", "Servers are there for all clients: choose with `mcpm client edit CLIENT`"),
    ("mv", "Rename a server with `mcpm edit NAME --name NEW`"),
    ("stash", "Take a server out of a client with `mcpm client edit CLIENT --remove-server NAME`"),
    ("pop", "Bring stashed servers back with `mcpm migrate --restore-stashed`"),
    ("import", "Add a server with `mcpm new`, or take over a client's with `mcpm client import`"),
    ("inspector", "Look at a server with `mcpm inspect NAME`"),
    ("target", "There is no active target: commands name what they work on, see `mcpm --help`"),
    ("activate", "Choose what a client starts with `mcpm client edit CLIENT`"),
    ("deactivate", "Choose what a client starts with `mcpm client edit CLIENT`"),
];

/// Returns what to say of a word that is no command, if mcpm 1 knew it.
pub(super) fn replaced(word: &str) -> Option<CliError> {
    let (word, hint) = WORDS.iter().find(|(known, _)| *known == word)?;
    Some(CliError::usage(format!("`mcpm {word}` is a command of mcpm 1")).with_hint(*hint))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn no_word_of_mcpm_1_hides_a_command() {
        let root = Cli::command();
        for (word, _) in WORDS {
            let taken = root.get_subcommands().any(|command| {
                command.get_name() == word || command.get_all_aliases().any(|alias| alias == word)
            });
            assert!(!taken, "{word}");
            assert_eq!(replaced(word).unwrap().exit(), 2);
        }
        assert!(replaced("ls").is_none());
    }
}
