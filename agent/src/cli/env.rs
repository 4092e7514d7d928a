//! The variables of the environment that are not ours and that clap cannot read: those of proxies,
//! which come in two spellings, and those that tell of a screen. They are read here and nowhere else.

use std::env::var_os;
use std::ffi::OsString;

use crate::tunnel::ProxySettings;

/// Reads the proxy settings as curl does: lower case first.
pub(super) fn proxy() -> ProxySettings {
    ProxySettings {
        https_proxy: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
        no_proxy: first(&["no_proxy", "NO_PROXY"]),
    }
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

fn first(names: &[&str]) -> Option<String> {
    names.iter().filter_map(var_os).find(|value| !value.is_empty())?.into_string().ok()
}
