//! How mcpm itself is updated. It does not ask anybody for its newest version: it has no server of
//! its own to ask, and calls none home.

use std::path::Path;

use serde_json::{Value, json};

/// What is known of this program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Own {
    how: &'static str,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn advice() -> Own {
    let exe = std::env::current_exe().unwrap_or_default();
    let exe = exe.canonicalize().unwrap_or(exe);
    Own { how: how(&exe) }
}

/// Tells by its place who put a program there.
fn how(exe: &Path) -> &'static str {
    let has = |part: &str| exe.components().any(|own| own.as_os_str() == part);
    match () {
        () if has("Cellar") || has("homebrew") || has("linuxbrew") => "`brew upgrade mcpm`",
        () if has(".cargo") => "`git pull` and `cargo install --path agent` in its source",
        () if has("target") => "`git pull` and `cargo build` in its source",
        () if has("nix") && has("store") => "the way it came into your Nix profile",
        () if exe.starts_with("/usr/bin") => "the package manager of your system",
        () => "the newest release at https://github.com/pathintegral-institute/mcpm.sh/releases",
    }
}

impl Own {
    pub(super) fn text(&self) -> String {
        let how = self.how;
        format!(
            "mcpm itself is {VERSION}. It does not look for newer versions; update it with {how}."
        )
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "version": VERSION, "newest": null, "how": self.how })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_fits_the_way_mcpm_came() {
        assert!(how(Path::new("/opt/homebrew/Cellar/mcpm/3.0/bin/mcpm")).contains("brew"));
        assert!(how(Path::new("/home/a/.cargo/bin/mcpm")).contains("cargo install"));
        assert!(how(Path::new("/usr/bin/mcpm")).contains("package manager"));
        assert!(how(Path::new("/opt/mcpm/mcpm")).contains("releases"));
        assert!(advice().text().contains(VERSION));
    }
}
