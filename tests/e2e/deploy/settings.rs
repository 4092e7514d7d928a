//! What a container would start the relay with, shown to the relay.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use harness::process::{built, command};

/// The domain in all of these.
pub(super) const DOMAIN: &str = "share.example.com";

/// Files that stand for those of the container: a certificate, and secrets.
pub(super) fn write_files(dir: &Path) {
    let domain = DOMAIN.parse().unwrap();
    mcpm_relay::cert::SelfSigned::open(dir, &domain).unwrap();
    let pem = std::fs::read(dir.join(format!("self-signed-{DOMAIN}.pem"))).unwrap();
    for file in ["tls.crt", "tls.key"] {
        std::fs::write(dir.join(file), &pem).unwrap();
    }
    for (file, text) in [
        ("database", "postgres://relay:secret@postgres:5432/relay"),
        ("node-secret", "0123456789abcdef0123456789abcdef"),
        ("dns-token", "0123456789abcdef"),
        ("postgres-password", "secret"),
    ] {
        std::fs::write(dir.join(file), text).unwrap();
    }
}

/// Asks the relay whether it would obey these variables, and expects that it does without a warning.
pub(super) fn are_obeyed(data: &Path, variables: &BTreeMap<String, String>) {
    let mut check = command(built("mcpm-relay")).into_std();
    check.args(["config", "check"]).envs(variables).env("MCPM_RELAY_DATA_DIR", data);
    let done = check.stdin(Stdio::null()).output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(done.status.success() && !said.contains("warning"), "{variables:#?}\n{said}");
    assert!(said.contains(&format!("settings are fine: {DOMAIN} on ")), "{said}");
}
