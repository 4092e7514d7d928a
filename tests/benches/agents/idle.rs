//! Agents that nobody visits.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use mcpm::app::share::{
    Access, Patience, RelaySpec, ShareEvent, ShareSpec, Source, Stop, Wish, share_all,
};
use mcpm::credentials::{RelayCredential, ShareTarget};
use mcpm::fs::Paths;
use mcpm::gateway::GatewayOptions;
use mcpm::tunnel::{HttpTarget, ProxySettings, RelayAddress, Tunnel};
use mcpm_shared::identity::AgentKey;
use mcpm_shared::scope::Scope;
use tokio::sync::mpsc;

use crate::library::{config, is_up, start};

/// How many agents of one address come at most; the relay takes 4096.
const PER_ADDRESS: usize = 4000;
/// How many dial at a time.
const BATCH: usize = 100;
/// How long many shares of one agent may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has so many agents, each with its own key and share.
pub(crate) async fn tunnels(
    count: usize,
    target: HttpTarget,
    relays: &[RelayAddress],
    fingerprint: Option<String>,
) -> anyhow::Result<()> {
    let scope = Scope::new();
    let mut up = Vec::with_capacity(count);
    while up.len() < count {
        let batch = up.len()..count.min(up.len() + BATCH);
        let begun = batch.map(|index| {
            let relay = relays.get(index / PER_ADDRESS).unwrap_or(&relays[relays.len() - 1]);
            let config = config(relay.clone(), fingerprint.clone(), AgentKey::generate());
            start(config, &name(index), &target, &scope)
        });
        let begun: Vec<Tunnel> = begun.collect::<anyhow::Result<_>>()?;
        for tunnel in &begun {
            is_up(tunnel).await?;
        }
        up.extend(begun);
        println!("up {}", up.len());
    }
    std::future::pending().await
}

/// Shares so many HTTP servers, none of which is there, by the function that the commands share with.
pub(crate) async fn shares(count: usize, relay: &RelayAddress) -> anyhow::Result<()> {
    let (home, scope) = (tempfile::tempdir()?, Scope::new());
    let (place, gateway) = (Arc::new(place(relay)), Arc::default());
    let stops = Stop::several(scope.token(), count);
    let wishes: anyhow::Result<Vec<Wish>> = (0..count)
        .zip(stops)
        .map(|(index, stop)| {
            let spec = spec(index, &place, &gateway)?;
            Ok(Wish { spec: Box::new(spec), stop })
        })
        .collect();
    let (events, mut inbox) = mpsc::channel(64);
    let told = async {
        let mut up = 0;
        while let Some((_, event)) = inbox.recv().await {
            match event {
                ShareEvent::Up(_) => up += 1,
                ShareEvent::Over(result) => bail!("a share is over: {result:?}"),
                _ => continue,
            }
            if up == count {
                println!("up {up}");
            }
        }
        Ok(())
    };
    let paths = Paths::new(home.path());
    let sharing = share_all(wishes?, &paths, events, scope.token().clone());
    tokio::join!(told, sharing).0
}

fn place(address: &RelayAddress) -> RelaySpec {
    RelaySpec {
        address: address.clone(),
        credential: RelayCredential::default(),
        proxy: ProxySettings::default(),
        connections: 1,
    }
}

/// What `mcpm tunnel` makes of one of its words.
fn spec(
    index: usize,
    place: &Arc<RelaySpec>,
    gateway: &Arc<GatewayOptions>,
) -> anyhow::Result<ShareSpec> {
    let target: HttpTarget = (20_000 + index).to_string().parse()?;
    Ok(ShareSpec {
        target: ShareTarget::Http(target.to_string()),
        source: Source::Http(target),
        relay: Some(Arc::clone(place)),
        name: Some(name(index).parse()?),
        access: Access::Token,
        expires: None,
        local: None,
        patience: Patience::Time(PATIENCE),
        gateway: Arc::clone(gateway),
    })
}

/// Names of this process: a relay keeps those of an earlier one for its owner.
fn name(index: usize) -> String {
    format!("idle-{}-{index}", std::process::id())
}
