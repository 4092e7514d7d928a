//! The variables of the environment that are not ours and that clap cannot read: those of proxies,
//! which come in two spellings, and those that tell of a screen, an editor or a service. They are
//! read here and nowhere else.

use std::env::var_os;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::clients::{Os, Places};
use crate::fs::FsError;
use crate::tunnel::ProxySettings;

/// Reads the proxy settings as curl does: lower case first.
pub(super) fn proxy() -> ProxySettings {
    ProxySettings {
        https_proxy: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
        no_proxy: first(&["no_proxy", "NO_PROXY"]),
    }
}

/// Returns the program that the user edits text with, and its arguments.
pub(super) fn editor() -> Option<String> {
    first(&["VISUAL", "EDITOR"])
}

/// Returns the arguments that we were started with, without the program.
pub(super) fn arguments() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}

/// Returns the folders that commands are looked for in.
pub(super) fn path() -> OsString {
    var_os("PATH").unwrap_or_default()
}

/// Returns the folders of this person and machine in which clients keep their files.
pub(super) fn places() -> Result<Places, FsError> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let home = home.ok_or(FsError::NoHome)?;
    // XDG says that a path which is not absolute does not count.
    let folder = |name| var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(Places {
        os: Os::of_build(),
        app_data: folder("APPDATA"),
        xdg_config: folder("XDG_CONFIG_HOME"),
        // A folder that was deleted under us is no project.
        project: std::env::current_dir().unwrap_or_else(|_| home.clone()),
        path: std::env::split_paths(&path()).collect(),
        home,
    })
}

/// Returns what the first of these variables that is set says: an answer that is given beforehand.
pub(super) fn answer(names: &[&str]) -> Option<String> {
    first(names)
}

/// Tells whether a service runs us, as the Python `mcpm` finds out.
pub(super) fn is_ci() -> bool {
    let names = ["CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "TRAVIS"];
    first(&names).is_some()
}

/// Tells whether the terminal can do nothing but show lines one below the other.
pub(super) fn is_dumb() -> bool {
    var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Returns the program that the user wants pages to be opened with.
pub(super) fn browser() -> Option<OsString> {
    var_os("BROWSER").filter(|value| !value.is_empty())
}

/// Tells whether the user sits at another machine.
pub(super) fn is_remote() -> bool {
    var_os("SSH_CONNECTION").is_some_and(|value| !value.is_empty())
}

/// Tells whether there is a screen, on systems that may have none.
pub(super) fn has_screen() -> bool {
    let names = ["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"];
    names.into_iter().any(|name| var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Returns the level that the Python `mcpm` is told to log at, in our word for it.
pub(super) fn log_level() -> Option<&'static str> {
    let level = first(&["MCPM_LOG_LEVEL"])?;
    Some(match level.to_ascii_uppercase().as_str() {
        "DEBUG" => "debug",
        "INFO" => "info",
        "WARNING" | "WARN" => "warn",
        "ERROR" | "CRITICAL" | "FATAL" => "error",
        _ => return None,
    })
}

fn first(names: &[&str]) -> Option<String> {
    names.iter().filter_map(var_os).find(|value| !value.is_empty())?.into_string().ok()
}
