//! Agents of the library.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mcpm::tunnel::{
    Backend, HttpTarget, ProxySettings, RelayAddress, ShareRequest, TlsOptions, Tunnel,
    TunnelConfig, TunnelStatus,
};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::Proof;
use mcpm_shared::identity::AgentKey;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::scope::Scope;

/// How long an agent may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts an agent that shares `target` with everybody under `name`.
pub(crate) fn start(
    config: TunnelConfig,
    name: &str,
    target: &HttpTarget,
    scope: &Scope,
) -> anyhow::Result<Tunnel> {
    let request = ShareRequest {
        name: Some(name.parse()?),
        base: name.to_owned(),
        mode: ShareMode::Http,
        access: AccessPolicy::public().into(),
        expires: None,
        ticket: None,
        retries: None,
    };
    Ok(Tunnel::start(config, request, Backend::Http(target.clone()), scope.child()))
}

/// Says how to reach the relay, as an agent that nobody has seen before or as the one of `key`.
pub(crate) fn config(
    relay: RelayAddress,
    fingerprint: Option<String>,
    key: AgentKey,
) -> TunnelConfig {
    TunnelConfig {
        relay,
        key,
        proof: Proof::None.into(),
        tls: TlsOptions { ca: None, fingerprint },
        connections: 1,
        proxy: ProxySettings::default(),
        agent_version: "bench".to_owned(),
    }
}

/// Waits until the share is up.
pub(crate) async fn is_up(tunnel: &Tunnel) -> anyhow::Result<()> {
    let mut status = tunnel.status();
    let told = status.wait_for(|now| !matches!(now, TunnelStatus::Connecting { .. }));
    let told = tokio::time::timeout(PATIENCE, told).await.context("a share comes up")??;
    ensure!(matches!(*told, TunnelStatus::Up(_)), "a share is {told:?}");
    Ok(())
}
