//! The compose files, read by Compose itself, and their settings shown to the relay.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::peers::{peer, peers_folder, programs};

use super::settings::{are_obeyed, write_files};
use super::{root, yaml};

/// Compose: the plugin of today, or Debian's older program.
struct Compose {
    plugin: bool,
}

impl Compose {
    fn find() -> Option<Self> {
        let asked = peer("docker").map(|docker| {
            docker.into_std().args(["compose", "version"]).stderr(Stdio::null()).output()
        });
        let plugin = asked.is_some_and(|asked| asked.is_ok_and(|asked| asked.status.success()));
        (plugin || programs(&["docker-compose"])).then_some(Self { plugin })
    }

    fn command(&self) -> Command {
        let program = if self.plugin { "docker" } else { "docker-compose" };
        let mut command = peer(program).expect("found before").into_std();
        match self.plugin {
            true => command.arg("compose"),
            // Unpacked, it is a script beside its libraries.
            false => command.env(
                "PYTHONPATH",
                peers_folder().join("docker-compose/usr/lib/python3/dist-packages"),
            ),
        };
        command
    }
}

/// A copy of `deploy/` with secrets, and with the settings of the example where `env` says so.
fn copy(compose: &Compose, dir: &Path, env: bool) {
    let deploy = root().join("deploy");
    std::fs::create_dir_all(dir.join("secrets")).unwrap();
    write_files(&dir.join("secrets"));
    for file in ["compose.yaml", "compose.postgres.yaml", "compose.nodes.yaml"] {
        let mut text = std::fs::read_to_string(deploy.join(file)).unwrap();
        if !compose.plugin {
            // The older program knows no project names.
            text = text
                .lines()
                .filter(|line| !line.starts_with("name:"))
                .collect::<Vec<_>>()
                .join("\n");
        }
        std::fs::write(dir.join(file), text).unwrap();
    }
    if env {
        std::fs::copy(deploy.join(".env.example"), dir.join(".env")).unwrap();
    }
}

#[test]
fn compose_understands_its_files_and_the_relay_what_they_set() {
    let Some(compose) = Compose::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    copy(&compose, dir.path(), true);
    for (files, relays) in [
        (&["compose.yaml"][..], 1),
        (&["compose.yaml", "compose.postgres.yaml"], 1),
        (&["compose.nodes.yaml"], 3),
    ] {
        let mut config = compose.command();
        config.current_dir(dir.path());
        for file in files {
            config.args(["-f", file]);
        }
        let done = config.arg("config").stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{files:?}: {said}");
        let text = String::from_utf8(done.stdout).unwrap();
        let [read] = yaml::documents(&text).try_into().unwrap();
        let services = read["services"].as_object().unwrap();
        let ours = services.iter().filter(|(name, _)| name.starts_with("relay"));
        let mut count = 0;
        for (name, service) in ours {
            let variables = service["environment"].as_object().unwrap();
            let secrets = format!("{}/", dir.path().join("secrets").display());
            let variables: BTreeMap<_, _> = variables
                .iter()
                .map(|(name, value)| {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    (name.clone(), value.replace("/run/secrets/", &secrets))
                })
                .collect();
            are_obeyed(dir.path(), &variables);
            assert!(service["read_only"] == true && service["cap_drop"][0] == "ALL", "{name}");
            count += 1;
        }
        assert_eq!(count, relays, "{files:?}");
    }
}

#[test]
fn compose_says_which_settings_are_missing() {
    let Some(compose) = Compose::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    copy(&compose, dir.path(), false);
    let mut config = compose.command();
    config.current_dir(dir.path()).args(["-f", "compose.yaml", "config"]);
    let done = config.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains("say in .env"), "{said}");
}
