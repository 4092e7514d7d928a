//! The folders of a person's machine that clients keep their files in. Everything here is computed
//! from what it is given, so that the rules of every system are tested on each.

use std::path::{Path, PathBuf};

/// A family of systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Os {
    /// Linux and other Unix systems.
    Linux,
    /// macOS.
    MacOs,
    /// Windows.
    Windows,
}

impl Os {
    /// Returns the one this program was built for.
    #[must_use]
    pub const fn of_build() -> Self {
        if cfg!(windows) {
            Self::Windows
        } else if cfg!(target_os = "macos") {
            Self::MacOs
        } else {
            Self::Linux
        }
    }
}

/// The folders that matter.
#[derive(Clone, Debug)]
pub struct Places {
    /// The family of systems.
    pub os: Os,
    /// The home folder.
    pub home: PathBuf,
    /// `%APPDATA%`, on Windows.
    pub app_data: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`, where it is set.
    pub xdg_config: Option<PathBuf>,
    /// The folder that the command runs in: the project.
    pub project: PathBuf,
    /// The folders of `PATH`.
    pub path: Vec<PathBuf>,
}

impl Places {
    /// Returns `~/.config`, or what stands for it.
    pub(super) fn dot_config(&self) -> PathBuf {
        self.xdg_config.clone().unwrap_or_else(|| self.home.join(".config"))
    }

    /// Returns the folder where desktop applications of this system keep their settings.
    pub(super) fn app_config(&self) -> PathBuf {
        match self.os {
            Os::Linux => self.dot_config(),
            Os::MacOs => self.home.join("Library").join("Application Support"),
            Os::Windows => {
                let usual = || self.home.join("AppData").join("Roaming");
                self.app_data.clone().unwrap_or_else(usual)
            }
        }
    }

    /// Returns the user folder of VS Code.
    pub(super) fn vscode_user(&self) -> PathBuf {
        self.app_config().join("Code").join("User")
    }

    /// Finds a program in `PATH`.
    pub(super) fn find_program(&self, name: &str) -> Option<PathBuf> {
        let endings: &[&str] = match self.os {
            Os::Windows => &[".exe", ".cmd", ".bat", ".ps1"],
            Os::Linux | Os::MacOs => &[""],
        };
        let candidates = self.path.iter().flat_map(|folder| {
            endings.iter().map(move |ending| folder.join(format!("{name}{ending}")))
        });
        candidates.into_iter().find(|candidate| candidate.is_file())
    }

    /// Returns the path by which clients shall start this program: absolute, since applications
    /// with a window have no `PATH`. A name in `PATH` that leads to it is preferred, because it
    /// outlives an update where a package manager puts each version in its own folder.
    #[must_use]
    pub fn launcher(&self, exe: &Path) -> PathBuf {
        let resolved = std::fs::canonicalize(exe).unwrap_or_else(|_| exe.to_owned());
        let named = self.find_program("mcpm").filter(|named| {
            named.is_absolute()
                && std::fs::canonicalize(named).is_ok_and(|target| target == resolved)
        });
        named.unwrap_or_else(|| match self.os {
            // The resolved form is `\\?\C:\…` there, which not every program takes.
            Os::Windows => exe.to_owned(),
            Os::Linux | Os::MacOs => resolved,
        })
    }
}
