//! `mcpm doctor --cleanup`: removes what nobody uses, as far as a person agrees.

use serde_json::json;

use crate::app::doctor::cleanup::{DAYS, Leftover, Unused, look, remove};
use crate::app::install::uninstall;
use crate::cli::error::CliError;
use crate::cli::{Context, Threads, block_on, secret};
use crate::clients::Places;
use crate::fs::Paths;

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Consent {
    /// Only tell.
    None,
    /// Ask.
    Ask,
    /// Remove all of it.
    All,
}

pub(super) fn run(consent: Consent, places: &Places, context: &Context) -> Result<(), CliError> {
    let paths = context.paths()?;
    let ui = context.ui;
    let found = block_on(Threads::One, async { Ok(look(&paths, places).await?) })?;
    show(&found, &paths, context);
    let (mut servers, mut leftovers) = (found.servers, found.leftovers);
    match consent {
        Consent::None => return Ok(()),
        Consent::All => {}
        Consent::Ask if servers.is_empty() && leftovers.is_empty() => {}
        Consent::Ask if !ui.may_ask() => {
            return Err(CliError::usage("there is nobody to ask whether to remove that")
                .with_hint("Look with --dry-run, and say yes with --force"));
        }
        Consent::Ask => {
            if !servers.is_empty() && !ui.confirm("Uninstall the servers that nobody uses?")? {
                servers.clear();
            }
            if !leftovers.is_empty()
                && !ui.confirm("Remove what is left of servers that are gone?")?
            {
                leftovers.clear();
            }
        }
    }
    for name in &servers {
        let removed = uninstall(&paths, name)?;
        secret::forget(&removed.secrets, context);
        ui.note(format!("Server `{name}` is removed."));
    }
    remove(&leftovers, &paths)?;
    if ui.is_json() {
        ui.json(&json!({ "event": "removed", "servers": servers, "leftovers": leftovers }));
    }
    Ok(())
}

fn show(found: &Unused, paths: &Paths, context: &Context) {
    let ui = context.ui;
    if ui.is_json() {
        let Unused { servers, counted, leftovers, .. } = found;
        ui.json(&json!({
            "event": "unused", "servers": servers, "counted": counted, "leftovers": leftovers,
        }));
        return;
    }
    for name in &found.servers {
        ui.result(format!(
            "server {name}: in no profile, started by no client, not shared, not called for {DAYS} days"
        ));
    }
    let short = |path: &std::path::Path| {
        path.strip_prefix(paths.dir()).unwrap_or(path).display().to_string()
    };
    for leftover in &found.leftovers {
        ui.result(match leftover {
            Leftover::Source { server } => format!("source of {server}, which is gone"),
            Leftover::Log { path } => format!("log of a server that is gone: {}", short(path)),
            Leftover::Bundle { path } => {
                format!("bundle of a server that is gone: {}", short(path))
            }
        });
    }
    if found.servers.is_empty() && found.leftovers.is_empty() {
        ui.note("There is nothing that nobody uses.");
    }
    if !found.counted {
        ui.note(format!(
            "Calls were not counted for {DAYS} days yet, so no server is taken for unused."
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Home;
    use crate::clients::Os;

    #[test]
    fn nothing_is_removed_that_nobody_agreed_to() {
        let home = Home::new();
        home.write("servers.json", r#"{"a": {"command": "x"}}"#);
        home.write("sources.json", r#"{"gone": {"type": "npx"}}"#);
        let places = Places {
            os: Os::Linux,
            home: home.paths.dir().to_owned(),
            app_data: None,
            xdg_config: None,
            project: home.paths.dir().join("project"),
            path: Vec::new(),
        };
        block_on(Threads::One, async {
            crate::usage::tests::recorded_ago(&home.paths, DAYS + 1).await;
            Ok(())
        })
        .unwrap();
        run(Consent::None, &places, &home.context()).unwrap();
        assert_eq!(run(Consent::Ask, &places, &home.context()).unwrap_err().exit(), 2);
        assert!(home.read("servers.json").contains("\"a\""));
        assert!(home.read("sources.json").contains("gone"));
        run(Consent::All, &places, &home.context()).unwrap();
        assert_eq!(
            (home.read("servers.json"), home.read("sources.json")),
            ("{}".into(), "{}".into())
        );
        run(Consent::Ask, &places, &home.context()).unwrap();
    }
}
