//! A file of ours in the user's editor. The editor gets a copy: what does not parse never becomes
//! the file, and what another process wrote meanwhile is not lost.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::CliError;
use super::{Context, env, fields};
use crate::fs::{self, FsError};

/// Lets a person edit a file; `check` says why a text cannot be it.
pub(super) fn edit(
    path: &Path,
    check: impl Fn(&str, &Context) -> Result<(), String>,
    context: &Context,
) -> Result<(), CliError> {
    let editor = match env::editor() {
        Some(editor) => editor,
        None if !context.ui.may_ask() => {
            return Err(CliError::usage("there is no terminal, and no editor is named")
                .with_hint(format!("Set EDITOR, or edit {} by other means", path.display())));
        }
        None => if cfg!(windows) { "notepad" } else { "vi" }.to_owned(),
    };
    edit_with(&editor, path, check, context)
}

fn edit_with(
    editor: &str,
    path: &Path,
    check: impl Fn(&str, &Context) -> Result<(), String>,
    context: &Context,
) -> Result<(), CliError> {
    let ui = context.ui;
    let before = fs::read(path)?;
    let copy = copy_of(path);
    let last = keep_last(&copy, before.as_deref(), context)?;
    fs::write_private(&copy, before.as_deref().unwrap_or("{}\n").as_bytes())?;
    loop {
        let opened = open(editor, &copy);
        let after = fs::read(&copy)?.unwrap_or_default();
        let is_same = Some(&after) == before.as_ref() || (before.is_none() && after == "{}\n");
        if is_same {
            // It has all the secrets of the file.
            remove(&copy);
        }
        if let Err(error) = opened {
            let hint = format!("What you wrote is in {}", copy.display());
            return Err(if is_same { error } else { error.with_hint(hint) });
        }
        if is_same {
            ui.note("Nothing has changed.");
            return Ok(());
        }
        match check(&after, context) {
            Ok(()) => {
                replace(path, before.as_deref(), &after, &copy)?;
                remove(&copy);
                remove(&last);
                ui.note(format!("Wrote {}.", path.display()));
                return Ok(());
            }
            Err(why) => {
                ui.warning(format!("that does not parse: {why}"));
                if !ui.may_ask() || !ui.confirm("Edit it again?")? {
                    let message = format!("{} stays as it was: {why}", path.display());
                    return Err(CliError::user("file", message)
                        .with_hint(format!("What you wrote is in {}", copy.display())));
                }
            }
        }
    }
}

/// Puts aside what was written the last time, and not taken: the copy is about to be made anew.
/// Returns where that is.
fn keep_last(copy: &Path, before: Option<&str>, context: &Context) -> Result<PathBuf, CliError> {
    let mut aside = copy.as_os_str().to_owned();
    aside.push(".last");
    let aside = PathBuf::from(aside);
    let last = fs::read(copy)?;
    if last.is_none_or(|last| before == Some(last.as_str())) {
        return Ok(aside);
    }
    let failed = |source| FsError::Write { path: aside.clone(), source };
    std::fs::rename(copy, &aside).map_err(failed)?;
    let place = aside.display();
    context.ui.note(format!(
        "What you wrote the last time, and was not taken, is in {place} until something is taken."
    ));
    Ok(aside)
}

/// Returns where the editor works: beside the file, under a name by which it knows the language.
fn copy_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from("edited-");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// Puts the new text in place, unless somebody else changed the old one.
fn replace(path: &Path, before: Option<&str>, after: &str, copy: &Path) -> Result<(), CliError> {
    let _lock = fs::lock(path)?;
    if fs::read(path)?.as_deref() != before {
        let message = format!("{} was changed by another process meanwhile", path.display());
        let hint = format!("What you wrote is in {}; bring both together", copy.display());
        return Err(CliError::user("file", message).with_hint(hint));
    }
    Ok(fs::write_private(path, after.as_bytes())?)
}

/// Opens a file in the editor and waits until the person is done.
pub(super) fn open(editor: &str, path: &Path) -> Result<(), CliError> {
    let words = fields::words(editor)?;
    let Some((program, arguments)) = words.split_first() else {
        return Err(CliError::usage("EDITOR is empty"));
    };
    let failed = |why: String| {
        CliError::user("editor", format!("the editor `{editor}` failed: {why}")).with_hint(
            "Set EDITOR to a program that waits until you are done, such as `code --wait`",
        )
    };
    let status = Command::new(program).args(arguments).arg(path).status();
    let status = status.map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(status.to_string())) }
}

/// A copy that stays does no harm.
fn remove(copy: &Path) {
    drop(std::fs::remove_file(copy));
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cli::testing::Home;

    fn valid(text: &str, _: &Context) -> Result<(), String> {
        serde_json::from_str::<serde_json::Value>(text).map(drop).map_err(|e| e.to_string())
    }

    /// An editor that runs a line of shell with the file as `$1`.
    fn editor(home: &Home, line: &str) -> String {
        let path = home.paths.dir().join("editor.sh");
        std::fs::write(&path, line).unwrap();
        format!("sh '{}'", path.display())
    }

    #[test]
    fn what_parses_becomes_the_file_for_its_owner_alone() {
        let home = Home::new();
        home.write("servers.json", "{}");
        let path = home.paths.servers();
        let line = editor(&home, "printf '{ \"a\": {\"command\":\"x\"} }' > \"$1\"");
        edit_with(&line, &path, valid, &home.context()).unwrap();
        assert_eq!(home.read("servers.json"), r#"{ "a": {"command":"x"} }"#);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!copy_of(&path).exists());
    }

    #[test]
    fn what_does_not_parse_leaves_the_file_alone_and_is_kept_beside_it() {
        let home = Home::new();
        home.write("servers.json", "{}");
        let path = home.paths.servers();
        let line = editor(&home, "printf '{,' > \"$1\"");
        let error = edit_with(&line, &path, valid, &home.context()).unwrap_err();
        assert!(error.hint().unwrap().contains("edited-servers.json"), "{error}");
        assert_eq!(home.read("servers.json"), "{}");
        assert_eq!(home.read("edited-servers.json"), "{,");
        // The next edit begins with the file, and does not forget.
        edit_with("true", &path, valid, &home.context()).unwrap();
        assert_eq!(home.read("edited-servers.json.last"), "{,");
        assert!(!copy_of(&path).exists());
        // It may have secrets; once something was taken nobody needs it.
        let line = editor(&home, "printf '{\"a\":1}' > \"$1\"");
        edit_with(&line, &path, valid, &home.context()).unwrap();
        assert_eq!(home.read("servers.json"), "{\"a\":1}");
        assert!(!home.paths.dir().join("edited-servers.json.last").exists());
    }

    #[test]
    fn what_was_not_taken_is_not_lost_where_it_cannot_be_put_aside() {
        let home = Home::new();
        home.write("servers.json", "{}");
        home.write("edited-servers.json", "{,");
        std::fs::create_dir(home.paths.dir().join("edited-servers.json.last")).unwrap();
        assert!(edit_with("true", &home.paths.servers(), valid, &home.context()).is_err());
        assert_eq!(home.read("edited-servers.json"), "{,");
    }

    #[test]
    fn what_another_process_wrote_meanwhile_is_not_lost() {
        let home = Home::new();
        home.write("servers.json", "{}");
        let path = home.paths.servers();
        let line =
            format!("printf '{{\"b\":1}}' > '{}'; printf '{{\"a\":1}}' > \"$1\"", path.display());
        let line = editor(&home, &line);
        assert!(edit_with(&line, &path, valid, &home.context()).is_err());
        assert_eq!(home.read("servers.json"), "{\"b\":1}");
    }

    #[test]
    fn an_editor_that_does_nothing_or_fails_changes_nothing() {
        let home = Home::new();
        let path = home.paths.servers();
        edit_with("true", &path, valid, &home.context()).unwrap();
        assert!(!path.exists());
        let error = edit_with("false", &path, valid, &home.context()).unwrap_err();
        assert!(error.hint().unwrap().contains("EDITOR"));
        // A copy would hold all secrets of the file; but what was written is not lost.
        assert!(!copy_of(&path).exists());
        let line = editor(&home, "printf '{\"a\":1}' > \"$1\"; exit 1");
        let error = edit_with(&line, &path, valid, &home.context()).unwrap_err();
        assert!(error.hint().unwrap().contains("edited-servers.json"), "{error:?}");
        assert!(!path.exists() && copy_of(&path).exists());
        assert!(edit_with("mcpm-no-such-editor", &path, valid, &home.context()).is_err());
    }
}
