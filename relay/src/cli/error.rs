//! What went wrong, for people: the error, its causes, and what to do.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use mcpm_relay::admission::IssueError;
use mcpm_relay::config::{ConfigError, FileError};
#[cfg(unix)]
use mcpm_relay::handover::HandoverError;
use mcpm_relay::host::CustomDomain;
use mcpm_relay::keys::KeyFileError;
use mcpm_relay::operator::OperatorError;
use mcpm_relay::ports::PortsError;
use mcpm_relay::relay::StartError;
use mcpm_relay::store::StoreError;
use mcpm_shared::telemetry::TelemetryError;

use super::out::note;

/// A command that could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The settings cannot be obeyed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The settings file cannot be read.
    #[error("cannot read the settings file {}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The settings file cannot be understood.
    #[error("cannot understand the settings file {}", path.display())]
    ConfigSyntax {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// What the relay needs cannot be opened.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The relay did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The relay stopped without being asked.
    #[error("the relay stopped by itself")]
    Stopped,
    /// Somebody asked twice.
    #[error("stopped before open streams could end")]
    Impatient,
    /// The runtime or the signal handlers did not come up.
    #[error("cannot {0}")]
    System(&'static str, #[source] std::io::Error),
    /// The log filter is wrong.
    #[error(transparent)]
    Log(#[from] TelemetryError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A token cannot be issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Tokens make no sense in the memory of this process.
    #[error("a database in memory belongs to one process: nothing can be issued or read here")]
    MemoryDatabase,
    /// No relay has worked there.
    #[error("there is no database at {}", .0.display())]
    NoDatabase(PathBuf),
    /// The token of the admin API cannot be read.
    #[error("cannot read the relay's admin token {}", path.display())]
    AdminToken {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A secret was given where everybody can read it.
    #[error("the database's password must not stand on the command line")]
    PasswordInArgv,
    /// A decision over a name or an owner cannot be made.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The DNS does not say that a domain is its owner's.
    #[error("the domain `{domain}` is not proved: {problem}")]
    NotProved {
        /// The domain.
        domain: CustomDomain,
        /// What is missing.
        problem: String,
    },
    /// There is no such token.
    #[error("no token has the id `{0}`")]
    UnknownToken(String),
    /// The relay has no admin listener to ask.
    #[error("the admin listener is switched off or has no fixed port")]
    NoAdminListener,
    /// The relay could not be asked.
    #[error("no answer from the relay's admin listener at {addr}")]
    Unreachable {
        /// The address.
        addr: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Something else listens there.
    #[error("what answers at {0} is not HTTP")]
    NotHttp(std::net::SocketAddr),
    /// The relay wants another token.
    #[error("the relay does not take this admin token")]
    WrongAdminToken,
    /// The relay refused.
    #[error("the relay says: {0}")]
    Answer(String),
    /// The relay said that it is not ready.
    #[error("the relay is not ready: {0}")]
    NotReady(String),
    /// The listeners of a running relay did not pass to this process.
    #[cfg(unix)]
    #[error(transparent)]
    TakeOver(#[from] HandoverError),
    /// Nothing can pass to this process.
    #[error("--take-over needs a Unix system and a takeover socket")]
    NoTakeover,
    /// stdout failed.
    #[error("cannot write the result")]
    Output(#[source] std::io::Error),
}

impl CliError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Ports(error) => return error.hint(),
            Self::Start(error) => return error.hint(),
            Self::ConfigFile { .. } => "Check the path after --config",
            Self::ConfigSyntax { .. } => {
                "Compare it with deploy/config/relay.example.toml; keys are those of \
                 `mcpm-relay config print`"
            }
            Self::Config(_) => "See `mcpm-relay serve --help`",
            Self::Log(_) => {
                "Give --log a level, such as info, or a filter such as mcpm_relay=debug"
            }
            Self::MemoryDatabase => {
                "Give --database or --data-dir as for `mcpm-relay serve`, with a file"
            }
            Self::NoDatabase(_) => {
                "Give --config, --data-dir or --database as for `mcpm-relay serve`, which makes it"
            }
            Self::AdminToken { .. } => {
                "A running relay with an admin listener has made it: give --config, --data-dir or \
                 --admin-token-file as for it"
            }
            Self::UnknownToken(_) => "List tokens with `mcpm-relay token ls`",
            Self::PasswordInArgv => {
                "Put the URL into a file for --database-file, or into MCPM_RELAY_DATABASE"
            }
            Self::WrongAdminToken => {
                "Give --data-dir or --admin-token-file as for `mcpm-relay serve`"
            }
            Self::Operator(OperatorError::NoDomain(_)) => {
                "List domains with `mcpm-relay domain ls`"
            }
            Self::Operator(OperatorError::DomainTaken { .. }) => {
                "Take it out first: `mcpm-relay domain rm DOMAIN`"
            }
            Self::Operator(OperatorError::Lookup(_)) => {
                "Check that a name server can be reached by TCP, or name one with --dns-servers"
            }
            Self::NotProved { .. } => {
                "`mcpm-relay domain ls --json` shows the record; a new one may take minutes to be seen"
            }
            Self::Operator(OperatorError::NothingToRelease(_)) => {
                "List names with `mcpm-relay name ls`"
            }
            #[cfg(unix)]
            Self::TakeOver(HandoverError::Late(_)) => {
                "Find out why this one took a minute to start, such as a slow database; then try \
                 again"
            }
            #[cfg(unix)]
            Self::TakeOver(_) => "Stop the running relay, and start this one without --take-over",
            Self::NoTakeover => "Give --data-dir or --takeover-socket, or leave --take-over out",
            Self::NotHttp(_) => "Check that --admin-listen is the same as for `mcpm-relay serve`",
            Self::NoAdminListener => "Give --admin-listen as for `mcpm-relay serve`",
            Self::Unreachable { .. } => {
                "Check that the relay runs, and that --admin-listen is the same as for it"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Tells the person at the terminal and returns the exit code.
    pub(super) fn report(&self) -> ExitCode {
        note(&self.render());
        ExitCode::from(1)
    }

    fn render(&self) -> String {
        let mut text = format!("error: {self}");
        let mut cause = self.source();
        while let Some(error) = cause {
            // Some end with a line break.
            let said = error.to_string();
            // Some libraries say their cause themselves.
            if !text.ends_with(said.trim_end()) {
                let _ = write!(text, "\n  caused by: {}", said.trim_end());
            }
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            let _ = write!(text, "\nhint: {hint}");
        }
        text
    }
}

/// Returns an error and its causes as one line, for a log or an answer.
pub(super) fn in_full(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes
        .fold(error.to_string(), |text, cause| format!("{text}: {}", cause.to_string().trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_causes_and_what_to_do() {
        let source = std::io::Error::other("no such file");
        let error = CliError::ConfigFile { path: "relay.toml".into(), source };
        insta::assert_snapshot!(error.render(), @r"
        error: cannot read the settings file relay.toml
          caused by: no such file
        hint: Check the path after --config
        ");
    }

    #[test]
    fn a_cause_that_was_said_already_is_not_said_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("no answer: {0}")]
        struct Outer(#[source] std::io::Error);

        let source = std::io::Error::other(Outer(std::io::Error::other("refused")));
        let error = CliError::System("ask", source);
        assert_eq!(error.render(), "error: cannot ask\n  caused by: no answer: refused");
    }
}
