//! Temporary.
#![allow(missing_docs, clippy::all)]
use mcpm_shared::{
    access::AccessPolicy, assertion::Proof, identity::AgentKey, name::Name, proto::ShareMode,
    scope::Scope,
};
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};
use tokio::sync::watch;
#[derive(Clone, Debug)]
pub struct RelayAddress(String);
impl RelayAddress {
    pub fn origin(&self) -> String {
        self.0.clone()
    }
}
#[derive(Debug, thiserror::Error)]
#[error("bad")]
pub struct Bad;
impl FromStr for RelayAddress {
    type Err = Bad;
    fn from_str(s: &str) -> Result<Self, Bad> {
        match s.split_once("://") {
            None => Ok(Self(format!("https://{s}"))),
            Some(("http" | "https", _)) => Ok(Self(s.to_owned())),
            _ => Err(Bad),
        }
    }
}
impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
#[derive(Clone, Debug)]
pub struct HttpTarget(String);
impl FromStr for HttpTarget {
    type Err = Bad;
    fn from_str(s: &str) -> Result<Self, Bad> {
        Ok(Self(s.to_owned()))
    }
}
impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
#[derive(Clone, Debug, Default)]
pub struct ProxySettings {
    pub https_proxy: Option<String>,
    pub no_proxy: Option<String>,
}
#[derive(Clone, Debug)]
pub struct TlsOptions {
    pub ca: Option<PathBuf>,
    pub fingerprint: Option<String>,
}
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    pub relay: RelayAddress,
    pub key: AgentKey,
    pub proof: Proof,
    pub tls: TlsOptions,
    pub connections: u8,
    pub proxy: ProxySettings,
    pub agent_version: String,
}
#[derive(Clone, Debug)]
pub struct ShareRequest {
    pub name: Option<Name>,
    pub base: String,
    pub mode: ShareMode,
    pub access: AccessPolicy,
    pub expires: Option<Duration>,
    pub ticket: Option<String>,
}
#[derive(Clone, Debug)]
pub enum Backend {
    Gateway(crate::gateway::Gateway),
    Http(HttpTarget),
}
#[derive(Clone, Debug)]
pub struct ShareInfo {
    pub name: Name,
    pub url: String,
    pub generation: u64,
    pub ticket: Option<String>,
    pub expires_at: Option<u64>,
}
#[derive(Clone, Debug, thiserror::Error)]
#[error("x")]
pub struct TunnelError;
impl crate::hint::Hint for TunnelError {}
#[derive(Clone, Debug)]
pub enum TunnelStatus {
    Connecting { attempt: u32 },
    Up(ShareInfo),
    Reconnecting { reason: String, hint: Option<String>, retry_in: Duration },
    Refused(TunnelError),
    Ended(String),
}
#[derive(Debug)]
pub struct Tunnel(watch::Sender<TunnelStatus>);
pub struct TunnelStats {
    pub requests: u64,
    pub active: u64,
}
impl Tunnel {
    pub fn start(_: TunnelConfig, _: ShareRequest, _: Backend, _: Scope) -> Self {
        Self(watch::channel(TunnelStatus::Connecting { attempt: 1 }).0)
    }
    pub fn status(&self) -> watch::Receiver<TunnelStatus> {
        self.0.subscribe()
    }
    pub fn update_access(&self, _: AccessPolicy) {}
    pub fn stats(&self) -> TunnelStats {
        TunnelStats { requests: 0, active: 0 }
    }
    pub async fn shutdown(self) {}
}
