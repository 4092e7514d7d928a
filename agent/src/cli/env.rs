//! The variables of the environment that are not ours and that clap cannot read: those of proxies,
//! which come in two spellings. They are read here, once, and nowhere else.

use std::env::var_os;

use crate::tunnel::ProxySettings;

/// Reads the proxy settings as curl does: lower case first.
pub(super) fn proxy() -> ProxySettings {
    ProxySettings {
        https_proxy: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
        no_proxy: first(&["no_proxy", "NO_PROXY"]),
    }
}

fn first(names: &[&str]) -> Option<String> {
    names.iter().filter_map(var_os).find(|value| !value.is_empty())?.into_string().ok()
}
