//! What comes before a share can be published: its server is tried, its credentials are read or
//! made, and its local address is opened.

use std::sync::Arc;

use mcpm_shared::access::AccessPolicy;
use mcpm_shared::identity::AgentKey;
use mcpm_shared::name::Name;
use mcpm_shared::scope::Scope;
use tokio::sync::{OnceCell, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::access::Keyring;
use super::keeper::off_thread;
use super::{Local, ShareError, ShareEvent, ShareSpec, Source};
use crate::credentials::{CredentialError, Inherited, NO_RELAY, agent_key, inherited};
use crate::fs::Paths;
use crate::gateway::listen::{self, ListenOptions, listen};
use crate::gateway::{Gateway, Probe};
use crate::tunnel::{HttpTarget, knock};

/// A share that is about to start.
pub(super) struct Starting {
    pub(super) at: usize,
    pub(super) spec: ShareSpec,
    pub(super) gateway: Option<Gateway>,
    pub(super) stop: CancellationToken,
    pub(super) paths: Paths,
    pub(super) events: mpsc::Sender<(usize, ShareEvent)>,
    /// What all shares of a run need to know only once.
    pub(super) heirs: Arc<OnceCell<Inherited>>,
    /// What the share has of its own ends with it.
    pub(super) scope: Scope,
}

/// A share that can be published.
pub(super) struct Ready {
    pub(super) starting: Starting,
    pub(super) key: AgentKey,
    pub(super) keyring: Keyring,
    pub(super) reach: Option<Reach>,
}

/// How visitors on this machine get in, and who they may be.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) url: String,
    pub(super) access: watch::Sender<AccessPolicy>,
    /// Ends the listener.
    pub(super) scope: Scope,
}

/// Why a share does not start.
pub(super) struct Failed {
    pub(super) at: usize,
    pub(super) gateway: Option<Gateway>,
    pub(super) result: Result<(), ShareError>,
}

impl Starting {
    /// Makes the share ready; one that is given up meanwhile fails well.
    pub(super) async fn start(self) -> Result<Ready, Failed> {
        let stop = self.stop.clone();
        let result = match stop.run_until_cancelled(self.make_ready()).await {
            Some(Ok((key, keyring, reach))) => {
                return Ok(Ready { starting: self, key, keyring, reach });
            }
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        let Self { at, gateway, .. } = self;
        Err(Failed { at, gateway, result })
    }

    async fn make_ready(&self) -> Result<(AgentKey, Keyring, Option<Reach>), ShareError> {
        match (&self.gateway, &self.spec.source) {
            (Some(gateway), _) => self.probe(gateway).await?,
            (None, Source::Http(target)) => self.look_at(target).await,
            (None, Source::Mcp(_)) => {}
        }
        // Only now: what does not work leaves no tokens behind.
        let (key, keyring) = self.credentials().await?;
        let (Some(local), Some(gateway)) = (&self.spec.local, &self.gateway) else {
            return Ok((key, keyring, None));
        };
        match self.listen(local, gateway, &keyring).await {
            Ok(reach) => Ok((key, keyring, Some(reach))),
            Err(error) => {
                keyring.forget().await;
                Err(error)
            }
        }
    }

    async fn say(&self, event: ShareEvent) {
        // Nobody listening is no reason to stop sharing.
        let _nobody = self.events.send((self.at, event)).await;
    }

    /// Tries the server, so that a broken one is never published. Of several as one none is started:
    /// one that does not work must not keep the others from being shared.
    async fn probe(&self, gateway: &Gateway) -> Result<(), ShareError> {
        let several = matches!(&self.spec.source, Source::Mcp(serving) if serving.is_aggregate());
        if !several {
            self.say(ShareEvent::Probing).await;
            let Probe { server_name: server, version, .. } = gateway.probe().await?;
            self.say(ShareEvent::Probed { server, version }).await;
        }
        for note in gateway.notes() {
            self.say(ShareEvent::Note(note)).await;
        }
        Ok(())
    }

    /// Warns when nobody is there to be shared. It may come later, and is shared all the same.
    async fn look_at(&self, target: &HttpTarget) {
        if let Err(error) = knock(target).await {
            let warning =
                format!("nothing answers at {target} ({error}); visitors get 502 until it does");
            self.say(ShareEvent::Warning(warning)).await;
        }
    }

    /// Reads the credentials of the share, or makes them.
    async fn credentials(&self) -> Result<(AgentKey, Keyring), CredentialError> {
        let spec = &self.spec;
        let (wanted, target, access) = (spec.name.clone(), spec.target.clone(), spec.access);
        let origin =
            spec.relay.as_ref().map_or_else(|| NO_RELAY.to_owned(), |r| r.address.origin());
        let paths = self.paths.clone();
        let name = match wanted {
            Some(name) => Some(name),
            None => self.heirs().await?.name(&target, &origin),
        };
        off_thread(move || {
            let key = agent_key(&paths)?;
            let name = name.unwrap_or_else(|| Name::derived(&target.base(), &key.thumbprint()));
            let keyring = Keyring::open(&paths, name, &origin, &target, access)?;
            Ok((key, keyring))
        })
        .await
    }

    /// Returns the names that do not come from what is shared. All shares of a run look once.
    async fn heirs(&self) -> Result<&Inherited, CredentialError> {
        let paths = self.paths.clone();
        self.heirs.get_or_try_init(|| off_thread(move || inherited(&paths))).await
    }

    /// Opens the local listener.
    async fn listen(
        &self,
        local: &Local,
        gateway: &Gateway,
        keyring: &Keyring,
    ) -> Result<Reach, ShareError> {
        let (access, policy) = watch::channel(keyring.policy());
        let options = ListenOptions {
            host: local.host.clone(),
            port: local.port,
            access: Some(policy),
            ..ListenOptions::default()
        };
        let scope = self.scope.child();
        let address = listen(gateway.clone(), options, &scope).await?;
        Ok(Reach { url: format!("http://{address}{}", listen::PATH), access, scope })
    }
}
