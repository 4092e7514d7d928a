//! A program of the operator's that writes the records.
//!
//! It is called as `PROGRAM present|cleanup NAME VALUE`, with the same in `MCPM_ACME_ACTION`,
//! `MCPM_ACME_NAME` and `MCPM_ACME_VALUE`, and returns 0 once the record can be seen.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::{Dns, DnsError, Txt};

/// How long the program may take: it may wait for its provider.
const PATIENCE: Duration = Duration::from_secs(300);
/// How much of its complaint is told.
const MAX_COMPLAINT: u64 = 4096;

#[derive(Debug)]
pub(super) struct Exec {
    program: PathBuf,
}

impl Exec {
    pub(super) fn new(program: PathBuf) -> Self {
        Self { program }
    }

    async fn call(&self, action: &str, txt: &Txt) -> Result<(), DnsError> {
        let told = || format!("{action} a record by {}", self.program.display());
        match tokio::time::timeout(PATIENCE, self.run(action, txt)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(DnsError::new(told(), error)),
            Err(_) => Err(DnsError::new(told(), "it took longer than five minutes")),
        }
    }

    async fn run(
        &self,
        action: &str,
        txt: &Txt,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut child = Command::new(&self.program)
            .args([action, &txt.name, &txt.value])
            .env("MCPM_ACME_ACTION", action)
            .env("MCPM_ACME_NAME", &txt.name)
            .env("MCPM_ACME_VALUE", &txt.value)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut complaint = Vec::new();
        if let Some(mut stderr) = child.stderr.take() {
            (&mut stderr).take(MAX_COMPLAINT).read_to_end(&mut complaint).await?;
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
        }
        let status = child.wait().await?;
        if status.success() {
            return Ok(());
        }
        Err(format!("{status}: {}", String::from_utf8_lossy(&complaint).trim()).into())
    }
}

#[async_trait]
impl Dns for Exec {
    async fn add(&self, txt: &Txt) -> Result<(), DnsError> {
        self.call("present", txt).await
    }

    async fn remove(&self, txt: &Txt) -> Result<(), DnsError> {
        self.call("cleanup", txt).await
    }

    /// The program waits itself.
    fn usual_wait(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(dir: &std::path::Path, script: &str) -> Exec {
        let path = dir.join("dns.sh");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Exec::new(path)
    }

    fn txt() -> Txt {
        Txt { name: "_acme-challenge.a.example".to_owned(), value: "-v_1".to_owned() }
    }

    #[tokio::test]
    async fn the_program_is_told_what_to_do_twice() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let exec = program(
            dir.path(),
            &format!(
                "echo \"$@ $MCPM_ACME_ACTION $MCPM_ACME_NAME $MCPM_ACME_VALUE\" >> {}",
                log.display()
            ),
        );
        exec.add(&txt()).await.unwrap();
        exec.remove(&txt()).await.unwrap();
        let name = "_acme-challenge.a.example";
        let line = |action| format!("{action} {name} -v_1 {action} {name} -v_1\n");
        let told = std::fs::read_to_string(log).unwrap();
        assert_eq!(told, line("present") + &line("cleanup"));
    }

    #[tokio::test]
    async fn what_a_failing_program_says_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let exec = program(dir.path(), "echo 'no such zone' >&2; exit 3");
        let error = exec.add(&txt()).await.unwrap_err();
        let told = crate::cert::in_full(&error);
        assert!(told.contains("exit status: 3: no such zone"), "{told}");
        let error = Exec::new("/nowhere/dns.sh".into()).add(&txt()).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/dns.sh"), "{error}");
    }
}
