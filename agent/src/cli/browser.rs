//! Opening a page in the browser of whoever sits here, if somebody does.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use super::env;

/// Tells whether there may be a browser on this machine's screen.
pub(super) fn is_there() -> bool {
    if cfg!(any(target_os = "macos", windows)) {
        return !env::is_remote();
    }
    env::browser().is_some() || env::has_screen()
}

/// Opens a URL; that it does not work shows on the screen.
pub(super) fn open(url: &str) {
    for (program, arguments) in programs() {
        let mut command = Command::new(&program);
        command.args(arguments).arg(url);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C is for us, and not for a browser that this has started.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        match command.spawn() {
            Ok(_runs_on) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(program = ?program, error, "cannot open a browser");
            }
        }
    }
}

/// What may open a page, best first. None of these is a shell: a URL is a stranger's text.
fn programs() -> Vec<(OsString, &'static [&'static str])> {
    const NONE: &[&str] = &[];
    if cfg!(target_os = "macos") {
        return vec![("open".into(), NONE)];
    }
    if cfg!(windows) {
        return vec![("rundll32".into(), &["url.dll,FileProtocolHandler"])];
    }
    // Development environments on other machines set it to a way back to the user's own.
    let chosen = env::browser();
    // A list of them, or one with places for the URL, is for `xdg-open` to make sense of.
    let chosen = chosen.filter(|chosen| !chosen.to_string_lossy().contains([':', '%', ' ']));
    let known = ["xdg-open", "wslview", "gio"].map(OsString::from);
    let known = known.map(|program| match program == "gio" {
        true => (program, &["open"] as &[&str]),
        false => (program, NONE),
    });
    chosen.map(|program| (program, NONE)).into_iter().chain(known).collect()
}
