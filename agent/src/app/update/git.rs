//! Servers that run from a Git checkout, as `sources.json` notes them: fetched, compared, and
//! brought forward. What was noted to be run afterwards is run by nobody but who agreed to it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::hint::Hint;
use crate::model::{Server, Transport};

/// How long Git may take over one thing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long what runs afterwards may take: it may build something.
const AFTERWARDS: Duration = Duration::from_secs(600);

/// A checkout, compared with where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    /// Its folder.
    pub folder: PathBuf,
    /// How many commits it lacks.
    pub behind: u32,
    /// A command of the shell to run after an update.
    pub afterwards: Option<String>,
}

/// Why a checkout cannot be updated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// The note about it makes no sense.
    #[error("sources.json does not say where the checkout is")]
    NoFolder,
    /// Git is not there.
    #[error("cannot start git")]
    Start(#[source] std::io::Error),
    /// Git refuses.
    #[error("`git {what}` failed in {}: {said}", folder.display())]
    Failed {
        /// What it was asked for.
        what: String,
        /// Where.
        folder: PathBuf,
        /// What it said.
        said: String,
    },
    /// What was to run after the update failed.
    #[error("`{command}` failed in {}: {said}", folder.display())]
    Afterwards {
        /// The command.
        command: String,
        /// Where.
        folder: PathBuf,
        /// How.
        said: String,
    },
    /// It took too long.
    #[error("`{0}` takes too long")]
    TimedOut(String),
}

impl Hint for GitError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoFolder => "Note it again with `mcpm update --init`".to_owned(),
            Self::Start(_) => "Install Git: https://git-scm.com".to_owned(),
            Self::Failed { folder, .. } | Self::Afterwards { folder, .. } => {
                format!("Look into {}; with changes of your own, try --rebase", folder.display())
            }
            Self::TimedOut(_) => "Check the network, and try again".to_owned(),
        })
    }
}

/// Fetches, and tells how far a checkout is behind.
///
/// # Errors
/// When Git cannot do it.
pub async fn look(source: &Value) -> Result<Checkout, GitError> {
    let folder = PathBuf::from(source["path"].as_str().ok_or(GitError::NoFolder)?);
    git(&folder, &["fetch", "--quiet"]).await?;
    let count = git(&folder, &["rev-list", "--count", "HEAD..@{upstream}"]).await?;
    let afterwards = source["post_update"].as_str().filter(|line| !line.trim().is_empty());
    Ok(Checkout {
        folder,
        behind: count.trim().parse().unwrap_or(0),
        afterwards: afterwards.map(str::to_owned),
    })
}

/// Brings a checkout forward; one with commits of its own only by a rebase, which is undone when
/// it does not go through.
///
/// # Errors
/// When Git cannot do it; the checkout is then as it was.
pub async fn pull(checkout: &Checkout, rebase: bool) -> Result<(), GitError> {
    let folder = &checkout.folder;
    if !rebase {
        return git(folder, &["merge", "--ff-only", "--quiet", "@{upstream}"]).await.map(drop);
    }
    match git(folder, &["rebase", "--quiet", "@{upstream}"]).await {
        Ok(_) => Ok(()),
        Err(error) => {
            // What was begun is undone; where nothing was begun there is nothing to undo.
            drop(git(folder, &["rebase", "--abort"]).await);
            Err(error)
        }
    }
}

/// Runs what the user wants to be run after an update.
///
/// # Errors
/// When it fails.
pub async fn finish(checkout: &Checkout) -> Result<(), GitError> {
    let Some(line) = &checkout.afterwards else { return Ok(()) };
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let mut command = Command::new(shell);
    command.args([flag, line.as_str()]).current_dir(&checkout.folder);
    let failed = |said: String| GitError::Afterwards {
        command: line.clone(),
        folder: checkout.folder.clone(),
        said,
    };
    let outcome = run(command, AFTERWARDS).await.ok_or(GitError::TimedOut(line.clone()))?;
    let (success, text) = outcome.map_err(|error| failed(error.to_string()))?;
    if success { Ok(()) } else { Err(failed(text)) }
}

/// Describes the checkout that a server runs from, if it does.
pub async fn describe(server: &Server) -> Option<Value> {
    let folder = folder_of(server)?;
    let ask = async |args: &[&str]| {
        let text = git(&folder, args).await.ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let remote = ask(&["remote", "get-url", "origin"]).await?;
    let branch = ask(&["symbolic-ref", "--short", "HEAD"]).await?;
    Some(json!({
        "type": "git",
        "path": folder.display().to_string(),
        // A password in it is of no use here.
        "remote_url": without_password(&remote),
        "branch": branch,
    }))
}

/// Returns what people usually run after an update of such a folder, to be shown and not to be run.
#[must_use]
pub fn usual(folder: &Path) -> Option<&'static str> {
    let has = |name: &str| folder.join(name).is_file();
    let builds = || {
        let text = std::fs::read_to_string(folder.join("package.json")).ok()?;
        let package: Value = serde_json::from_str(&text).ok()?;
        package["scripts"]["build"].as_str().map(str::to_owned)
    };
    match () {
        () if has("pyproject.toml") => Some("uv sync"),
        () if has("package.json") && builds().is_some() => Some("npm install && npm run build"),
        () if has("package.json") => Some("npm install"),
        () if has("go.mod") => Some("go build ./..."),
        () if has("Cargo.toml") => Some("cargo build --release"),
        () => None,
    }
}

/// Returns the root of the checkout that a command line leads into.
fn folder_of(server: &Server) -> Option<PathBuf> {
    let Transport::Stdio { command, args, cwd, .. } = &server.transport else { return None };
    let words = std::iter::once(command).chain(args).map(PathBuf::from);
    let mut paths = cwd.clone().into_iter().chain(words.filter(|path| path.is_absolute()));
    paths.find_map(|path| {
        let root = path.ancestors().find(|folder| folder.join(".git").exists())?;
        Some(root.to_owned())
    })
}

fn without_password(remote: &str) -> String {
    let Ok(mut url) = url::Url::parse(remote) else { return remote.to_owned() };
    let had = url.password().is_some() && url.set_password(None).is_ok();
    if had { url.into() } else { remote.to_owned() }
}

async fn git(folder: &Path, args: &[&str]) -> Result<String, GitError> {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(args);
    // There may be nobody to ask.
    command.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C");
    let what = args.first().copied().unwrap_or_default().to_owned();
    let outcome = run(command, PATIENCE).await;
    let outcome = outcome.ok_or_else(|| GitError::TimedOut(format!("git {what}")))?;
    let (success, said) = outcome.map_err(GitError::Start)?;
    match success {
        true => Ok(said),
        false => Err(GitError::Failed { what, folder: folder.to_owned(), said }),
    }
}

/// Runs a command to its end; returns whether it succeeded and what it said, to stdout then, and
/// to stderr otherwise. `None` when it takes too long; it is killed then.
async fn run(mut command: Command, patience: Duration) -> Option<std::io::Result<(bool, String)>> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(patience, command.output()).await.ok()? {
        Ok(output) => output,
        Err(error) => return Some(Err(error)),
    };
    let success = output.status.success();
    let said = if success { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(said).trim().to_owned();
    Some(Ok((success, if success { text } else { last_lines(&text) })))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    async fn commit(folder: &Path, file: &str) {
        std::fs::write(folder.join(file), "x").unwrap();
        let me = ["-c", "user.name=a", "-c", "user.email=a@b.example"];
        git(folder, &["add", "."]).await.unwrap();
        git(folder, &[&me[..], &["commit", "--quiet", "-m", file]].concat()).await.unwrap();
    }

    #[tokio::test]
    async fn a_checkout_is_brought_forward_and_nothing_else_is_run_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
        std::fs::create_dir(&theirs).unwrap();
        git(&theirs, &["init", "--quiet", "-b", "main"]).await.unwrap();
        commit(&theirs, "a").await;
        let (from, to) = (theirs.display().to_string(), ours.display().to_string());
        git(dir.path(), &["clone", "--quiet", &from, &to]).await.unwrap();
        let server = Server::stdio("x", "node", [ours.join("a").display().to_string()]);
        let mut source = describe(&server).await.unwrap();
        assert_eq!((&source["branch"], &source["path"]), (&json!("main"), &json!(to)));
        source["post_update"] = "touch built".into();
        assert_eq!(look(&source).await.unwrap().behind, 0);
        commit(&theirs, "b").await;
        let checkout = look(&source).await.unwrap();
        assert_eq!(checkout.behind, 1);
        pull(&checkout, false).await.unwrap();
        assert!(ours.join("b").exists() && !ours.join("built").exists());
        finish(&checkout).await.unwrap();
        assert!(ours.join("built").exists());
    }

    #[tokio::test]
    async fn a_rebase_that_does_not_go_through_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
        std::fs::create_dir(&theirs).unwrap();
        git(&theirs, &["init", "--quiet", "-b", "main"]).await.unwrap();
        commit(&theirs, "a").await;
        let (from, to) = (theirs.display().to_string(), ours.display().to_string());
        git(dir.path(), &["clone", "--quiet", &from, &to]).await.unwrap();
        for key in ["user.name", "user.email"] {
            git(&ours, &["config", key, "a@b.example"]).await.unwrap();
        }
        std::fs::write(theirs.join("b"), "theirs").unwrap();
        commit(&theirs, "c").await;
        std::fs::write(ours.join("b"), "ours").unwrap();
        commit(&ours, "d").await;
        let checkout = look(&json!({"path": to})).await.unwrap();
        assert!(pull(&checkout, false).await.unwrap_err().hint().unwrap().contains("--rebase"));
        assert!(pull(&checkout, true).await.is_err());
        assert_eq!(std::fs::read_to_string(ours.join("b")).unwrap(), "ours");
        assert!(!ours.join(".git/rebase-merge").exists());
        let error = look(&json!({"path": dir.path().join("none")})).await.unwrap_err();
        assert!(matches!(error, GitError::Failed { .. }), "{error}");
    }

    #[test]
    fn passwords_of_remotes_are_not_noted() {
        assert_eq!(without_password("https://me:pw@x.example/r"), "https://me@x.example/r");
        assert_eq!(without_password("git@x.example:r"), "git@x.example:r");
    }
}
