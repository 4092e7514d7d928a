//! How the files of client applications are, and whether what they start through mcpm is there.

use std::path::Path;

use super::super::clients::{Status, follow, list};
use super::{Area, Finding, Health, told};
use crate::clients::{Entry, Places, Target};
use crate::config::{GlobalConfigManager, ProfileConfigManager};
use crate::fs::Paths;
use crate::hint::Hint as _;

/// What our own files have.
struct Known {
    servers: GlobalConfigManager,
    profiles: ProfileConfigManager,
}

/// Looks at every client that is installed, or has a file.
pub(super) fn look(paths: &Paths, places: &Places) -> Vec<Finding> {
    let all = match list(places) {
        Ok(all) => all,
        Err(error) => return vec![Finding::broken(Area::Client, "all", &error)],
    };
    // Without our own files nothing can be said of names; that they do not parse is said elsewhere.
    let known = GlobalConfigManager::open(paths)
        .and_then(|servers| Ok(Known { servers, profiles: ProfileConfigManager::open(paths)? }));
    let known = known.ok();
    let here = all.into_iter().filter(|one| one.installed || one.file.is_file());
    let look = |one: Status| {
        let file = one.file.display().to_string();
        let found = client(&one, known.as_ref(), paths).into_iter();
        found.map(move |finding| finding.more(file.clone()))
    };
    here.flat_map(look).collect()
}

fn client(status: &Status, known: Option<&Known>, paths: &Paths) -> Vec<Finding> {
    let id = status.client.id;
    let entries = match &status.entries {
        Ok(entries) => entries,
        Err(error) => {
            let finding = Finding::new(Area::Client, id, Health::Broken, told(error));
            return vec![Finding { hint: error.hint(), ..finding }];
        }
    };
    let of_mcpm = |entry: &&Entry| entry.target.is_some();
    let faults: Vec<Finding> =
        entries.iter().filter(of_mcpm).filter_map(|e| fault(id, e, known, paths)).collect();
    if !faults.is_empty() {
        return faults;
    }
    let detail = match entries.iter().filter(of_mcpm).count() {
        0 => "starts nothing through mcpm".to_owned(),
        1 => "starts 1 thing through mcpm, which is there".to_owned(),
        many => format!("starts {many} things through mcpm, and all are there"),
    };
    vec![Finding::ok(Area::Client, id, detail)]
}

/// Tells what is wrong with one entry of ours, the worst first.
fn fault(id: &str, entry: &Entry, known: Option<&Known>, paths: &Paths) -> Option<Finding> {
    let target = entry.target.as_ref()?;
    let finding = |health, detail| Finding::new(Area::Client, id, health, detail);
    let (add, remove) = match target {
        Target::Server(_) => ("--add-server", "--remove-server"),
        Target::Profile(_) => ("--add-profile", "--remove-profile"),
    };
    let name = target.name();
    if !is_there(target, entry, known, paths) {
        let detail = format!("`{}` starts {target}, which does not exist", entry.key);
        let hint = format!("Take it out with `mcpm client edit {id} {remove} {name}`");
        return Some(finding(Health::Broken, detail).hint(hint));
    }
    let program = entry.program()?;
    let renew = format!("Renew it with `mcpm client edit {id} {add} {name}`");
    if program.contains(['/', '\\']) {
        let gone = !Path::new(&program).exists();
        let detail = format!("`{}` starts {program}, which is not there", entry.key);
        return gone.then(|| finding(Health::Broken, detail).hint(renew));
    }
    // Applications that were not started from a shell have no `PATH` of their user.
    let detail = format!("`{}` starts `{program}` without its folder", entry.key);
    Some(finding(Health::Warning, detail).hint(renew))
}

fn is_there(target: &Target, entry: &Entry, known: Option<&Known>, paths: &Paths) -> bool {
    // What another folder of mcpm's files has is not known here.
    let Some(known) = known.filter(|_| follow::is_of(entry, paths)) else { return true };
    match target {
        Target::Server(name) => known.servers.has(name),
        Target::Profile(name) => known.profiles.profile(name).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clients::Os;

    #[test]
    fn what_a_client_cannot_start_is_told_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("ours"));
        std::fs::create_dir_all(paths.dir()).unwrap();
        std::fs::write(paths.servers(), r#"{"time": {"command": "x"}}"#).unwrap();
        let mcpm = dir.path().join("mcpm");
        std::fs::write(&mcpm, "").unwrap();
        let entry = |program: &str, args: &[&str]| json!({"command": program, "args": args, "env": {"MCPM_CONFIG_DIR": paths.dir()}});
        let mcpm = mcpm.display().to_string();
        let servers = json!({"mcpServers": {
            "good": entry(&mcpm, &["run", "time"]),
            "bare": entry("mcpm", &["run", "time"]),
            "moved": entry("/no/such/mcpm", &["run", "time"]),
            "gone": entry(&mcpm, &["run", "gone"]),
            "work": entry(&mcpm, &["profile", "run", "work"]),
            "elsewhere": {"command": mcpm, "args": ["run", "theirs"], "env": {"MCPM_CONFIG_DIR": "/else"}},
            "own": {"command": "y"},
        }});
        std::fs::create_dir(dir.path().join(".cursor")).unwrap();
        std::fs::write(dir.path().join(".cursor/mcp.json"), servers.to_string()).unwrap();
        std::fs::create_dir_all(dir.path().join(".kiro/settings")).unwrap();
        std::fs::write(dir.path().join(".kiro/settings/mcp.json"), "{,").unwrap();
        let places = Places {
            os: Os::Linux,
            home: dir.path().to_owned(),
            app_data: None,
            xdg_config: None,
            project: dir.path().join("project"),
            path: Vec::new(),
        };
        let found = look(&paths, &places);
        let told: Vec<(&str, Health, &str)> = found
            .iter()
            .map(|f| (f.subject.as_str(), f.health, f.detail.split('`').nth(1).unwrap_or("")))
            .collect();
        let (broken, warning) = (Health::Broken, Health::Warning);
        let expected = [
            ("cursor", warning, "bare"),
            ("cursor", broken, "moved"),
            ("cursor", broken, "gone"),
            ("cursor", broken, "work"),
        ];
        assert_eq!(told[..4], expected, "{found:?}");
        assert!(found.iter().any(|f| f.subject == "kiro" && f.health == broken), "{found:?}");
        assert!(found.iter().all(|f| f.health == Health::Ok || f.hint.is_some()), "{found:?}");
        let hint = found[3].hint.as_deref().unwrap();
        assert!(hint.contains("mcpm client edit cursor --remove-profile work"), "{hint}");
    }
}
