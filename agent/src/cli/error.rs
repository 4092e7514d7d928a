//! How a command fails: a message, a hint, a code for machines and an exit code.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Value, json};

use crate::hint::Hint;
use crate::running::Ending;

/// The exit code of an error that the user can do something about.
const USER: u8 = 1;
/// The exit code of a command line that makes no sense, as clap has it.
const USAGE: u8 = 2;
/// The exit code of what a person stopped: that of SIGINT.
const STOPPED: u8 = 130;
/// The exit code of an error that is ours (`EX_SOFTWARE` of sysexits.h).
const INTERNAL: u8 = 70;

/// Why a command failed, ready to be shown.
#[derive(Debug)]
pub(super) struct CliError {
    code: Cow<'static, str>,
    message: String,
    hint: Option<String>,
    exit: u8,
}

impl CliError {
    /// Makes one from an error of a lower layer; `code` is API (add, never rename).
    pub(super) fn new(code: impl Into<Cow<'static, str>>, error: &dyn Hint) -> Self {
        Self { code: code.into(), message: with_sources(error), hint: error.hint(), exit: USER }
    }

    /// Makes one in words of the command line itself.
    pub(super) fn user(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), hint: None, exit: USER }
    }

    /// Makes one for arguments that contradict each other or do not parse.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { exit: USAGE, ..Self::user("usage", message) }
    }

    /// Makes one for what should never happen.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        let hint = "This is a defect of mcpm; please report it".to_owned();
        Self { exit: INTERNAL, hint: Some(hint), ..Self::user("internal", message) }
    }

    /// Makes one for a person who pressed Ctrl-C, or Escape, in place of an answer.
    pub(super) fn stopped() -> Self {
        Self { exit: STOPPED, ..Self::user("stopped", "stopped") }
    }

    /// Tells whether a person stopped it.
    pub(super) fn is_stop(&self) -> bool {
        self.exit == STOPPED
    }

    /// Sets what the user may do.
    #[must_use]
    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns what the user may do.
    pub(super) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the exit code of the process.
    pub(super) fn exit(&self) -> u8 {
        self.exit
    }

    /// Returns the form in which another process of ours reads it.
    pub(super) fn ending(&self) -> Ending {
        let Self { code, message, hint, exit } = self;
        Ending {
            code: code.clone().into_owned(),
            message: message.clone(),
            hint: hint.clone(),
            exit: *exit,
        }
    }

    /// Returns the form for machines.
    pub(super) fn to_json(&self) -> Value {
        let Self { code, message, hint, exit: _ } = self;
        let mut value = json!({ "event": "error", "code": code, "message": message });
        if let Some(hint) = hint {
            value["hint"] = hint.as_str().into();
        }
        value
    }
}

impl From<Ending> for CliError {
    fn from(Ending { code, message, hint, exit }: Ending) -> Self {
        Self { code: code.into(), message, hint, exit }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Joins an error and its sources with colons, leaving out what was just said.
pub(super) fn with_sources(error: &dyn Hint) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = error.source();
    }
    message
}

/// Declares which code stands for which error type.
macro_rules! codes {
    ($($error:ty => $code:literal),+ $(,)?) => {$(
        impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::new($code, &error)
            }
        }
    )+};
}

codes! {
    crate::fs::FsError => "file",
    crate::credentials::CredentialError => "credentials",
    crate::gateway::GatewayError => "server",
    crate::usage::UsageError => "usage_file",
    crate::app::doctor::cleanup::CleanupError => "cleanup",
    crate::gateway::listen::ListenError => "listen",
}

impl From<crate::oauth::OauthError> for CliError {
    fn from(error: crate::oauth::OauthError) -> Self {
        use crate::oauth::OauthError;
        let code = match &error {
            OauthError::Fs(_) => "file",
            OauthError::NoLogin(_) => "no_login",
            OauthError::NotLoggedIn(_) => "not_logged_in",
            OauthError::Registration { .. } => "registration",
            OauthError::Denied(_) => "denied",
            OauthError::Unreachable { .. } => "unreachable",
            _ => "login",
        };
        Self::new(code, &error)
    }
}

impl From<crate::clients::ClientError> for CliError {
    fn from(error: crate::clients::ClientError) -> Self {
        use crate::clients::ClientError;
        let code = match &error {
            ClientError::Unknown { .. } => "unknown_client",
            ClientError::Taken { .. } => "name_taken",
            _ => "client_file",
        };
        Self::new(code, &error)
    }
}

impl From<crate::app::clients::ClientsError> for CliError {
    fn from(error: crate::app::clients::ClientsError) -> Self {
        use crate::app::clients::ClientsError;
        let code = match error {
            ClientsError::Client(error) => return error.into(),
            ClientsError::Config(error) => return error.into(),
            ClientsError::NoEntry { .. } => "unknown_server",
            ClientsError::Exists { .. } => "name_taken",
            ClientsError::NotImportable { .. } => "invalid_server",
        };
        Self::new(code, &error)
    }
}

impl From<crate::app::login::LoginError> for CliError {
    fn from(error: crate::app::login::LoginError) -> Self {
        use crate::app::login::LoginError;
        let code = match error {
            LoginError::Oauth(error) => return error.into(),
            LoginError::Entry(error) => return error.into(),
            LoginError::NotRemote(_) => "not_remote",
            LoginError::OwnHeader(_) => "own_header",
            LoginError::TimedOut => "timed_out",
            LoginError::Stopped => "stopped",
        };
        Self::new(code, &error)
    }
}

impl From<crate::app::run::RunError> for CliError {
    fn from(error: crate::app::run::RunError) -> Self {
        use crate::app::run::RunError;
        match error {
            RunError::Gateway(error) => error.into(),
            RunError::Listen(error) => error.into(),
        }
    }
}

impl From<crate::tunnel::TunnelError> for CliError {
    fn from(error: crate::tunnel::TunnelError) -> Self {
        Self::new(error.code().to_owned(), &error)
    }
}

#[cfg(feature = "embedded-relay")]
impl From<crate::app::demo::DemoError> for CliError {
    fn from(error: crate::app::demo::DemoError) -> Self {
        use crate::app::demo::DemoError;
        match error {
            DemoError::Share(error) => error.into(),
            error => Self::new("demo", &error),
        }
    }
}

impl From<crate::app::share::ShareError> for CliError {
    fn from(error: crate::app::share::ShareError) -> Self {
        use crate::app::share::ShareError;
        match error {
            ShareError::Credentials(error) => error.into(),
            ShareError::Gateway(error) => error.into(),
            ShareError::Listen(error) => error.into(),
            ShareError::Tunnel(error) => error.into(),
            error @ ShareError::Unreachable { .. } => Self::new("relay_unreachable", &error),
            error @ ShareError::Ended(_) => Self::new("ended", &error),
            error => Self::new("share", &error),
        }
    }
}

impl From<crate::registry::RegistryError> for CliError {
    fn from(error: crate::registry::RegistryError) -> Self {
        use crate::registry::RegistryError;
        let code = match &error {
            RegistryError::Unknown { .. } => "unknown_server",
            RegistryError::Fs(_) => "file",
            _ => "registry",
        };
        Self::new(code, &error)
    }
}

impl From<crate::app::install::InstallError> for CliError {
    fn from(error: crate::app::install::InstallError) -> Self {
        use crate::app::install::InstallError;
        use crate::config::ConfigError;
        let code = match error {
            InstallError::Registry(error) => return error.into(),
            InstallError::Config(ConfigError::Exists { .. }) => "exists",
            InstallError::Config(error) => return error.into(),
            InstallError::Fs(error) => return error.into(),
            InstallError::Login(error) => return error.into(),
            InstallError::Fill(crate::registry::fill::FillError::Smuggled(_)) => "install",
            // The command line does not say enough.
            InstallError::Fill(_) => {
                return Self { exit: USAGE, ..Self::new("missing_arguments", &error) };
            }
            InstallError::Reference(_) => {
                return Self { exit: USAGE, ..Self::new("usage", &error) };
            }
            InstallError::Bundle(_) | InstallError::Manifest(_) => "bundle",
            InstallError::Fetch(_) => "unreachable",
            _ => "install",
        };
        Self::new(code, &error)
    }
}

impl From<crate::app::servers::DraftError> for CliError {
    fn from(error: crate::app::servers::DraftError) -> Self {
        let usage = Self::usage(error.to_string());
        match error.hint() {
            Some(hint) => usage.with_hint(hint),
            None => usage,
        }
    }
}

impl From<crate::config::ConfigError> for CliError {
    fn from(error: crate::config::ConfigError) -> Self {
        use crate::config::ConfigError;
        let code = match &error {
            ConfigError::UnknownServer { .. } => "unknown_server",
            ConfigError::UnknownProfile { .. } => "unknown_profile",
            ConfigError::InvalidServer { .. } => "invalid_server",
            ConfigError::Exists { .. } => "exists",
            ConfigError::Fs(_) => "file",
            _ => "config",
        };
        Self::new(code, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Paths, read_json};

    #[test]
    fn an_error_says_what_failed_and_why_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.servers(), "{,").unwrap();
        let error: CliError = read_json::<Value>(&paths.servers()).unwrap_err().into();
        let text = error.to_string();
        assert!(text.starts_with("cannot parse "), "{text}");
        assert!(text.ends_with("servers.json: key must be a string at line 1 column 2"), "{text}");
        assert_eq!(error.exit(), 1);
        assert_eq!(error.to_json()["code"], "file");
        assert!(error.to_json()["hint"].as_str().unwrap().contains("Repair"));
    }
}
