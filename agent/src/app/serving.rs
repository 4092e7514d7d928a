//! What a command serves: one server, or those of a profile as one.

use mcpm_shared::scope::Scope;

use crate::catalog::Catalog;
use crate::fs::Paths;
use crate::gateway::{Gateway, GatewayError, GatewayOptions};
use crate::model::Server;
use crate::oauth::Credentials;
use crate::usage::{About, Action, Origin, Recorder};

/// The servers behind one gateway, and why it is these.
#[derive(Clone, Debug)]
pub struct Serving {
    servers: Vec<Server>,
    profile: Option<String>,
}

/// Which way clients come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Over our own stdin and stdout.
    Stdio,
    /// Over HTTP on this machine.
    Http,
    /// Through a relay, as a share.
    Relay,
    /// To a share without a relay.
    LocalShare,
}

impl Serving {
    /// Serves one server.
    #[must_use]
    pub fn server(server: Server) -> Self {
        Self { servers: vec![server], profile: None }
    }

    /// Serves the servers of a profile: one as it is, several as one.
    #[must_use]
    pub fn profile(name: impl Into<String>, servers: Vec<Server>) -> Self {
        Self { servers, profile: Some(name.into()) }
    }

    /// Returns the profile, when one is served.
    #[must_use]
    pub fn profile_name(&self) -> Option<&str> {
        self.profile.as_deref()
    }

    /// Tells whether it is several servers as one.
    #[must_use]
    pub fn is_aggregate(&self) -> bool {
        self.servers.len() != 1
    }

    /// Makes the gateway. Drain the scope of `recorder` after `scope`: what ends last is written
    /// too.
    pub(super) fn gateway(
        &self,
        way: Way,
        options: GatewayOptions,
        recorder: Recorder,
        paths: &Paths,
        scope: Scope,
    ) -> Result<Gateway, GatewayError> {
        let usage = Some((recorder, self.about(way)));
        let catalog = Some(Catalog::open(paths));
        let credentials = Some(Credentials::open(paths, scope.child()));
        let options = GatewayOptions { usage, catalog, credentials, ..options };
        // Who names the one profile that is served gets it.
        let all = || self.servers.iter().map(|server| server.name.clone()).collect();
        let parts: Vec<_> = self.profile.iter().map(|name| (name.clone(), all())).collect();
        let name = match (self.servers.as_slice(), &self.profile) {
            ([only], _) => &only.name,
            (_, profile) => profile.as_deref().unwrap_or_default(),
        };
        Gateway::aggregate(name, &self.servers, &parts, options, scope)
    }

    /// Returns what all sessions have in common.
    fn about(&self, way: Way) -> About {
        let action = match (way, &self.profile) {
            (Way::Stdio, None) => Action::Run,
            (Way::Stdio, Some(_)) => Action::ProfileRun,
            (Way::Http, None) => Action::RunHttp,
            (Way::Http, Some(_)) => Action::ProfileRunHttp,
            (Way::Relay | Way::LocalShare, None) => Action::Share,
            (Way::Relay | Way::LocalShare, Some(_)) => Action::ProfileShare,
        };
        let origin = match way {
            Way::Stdio => Origin::Stdio,
            Way::Http | Way::LocalShare => Origin::LocalHttp,
            Way::Relay => Origin::Relay,
        };
        let server = match self.servers.as_slice() {
            [only] => Some(only.name.clone()),
            _ => None,
        };
        About { server, profile: self.profile.clone(), action, origin, client: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdio(name: &str) -> Server {
        Server::stdio(name, "true", [""; 0])
    }

    #[test]
    fn usage_tells_server_profile_and_command_apart() {
        let about = Serving::server(stdio("a")).about(Way::Stdio);
        assert_eq!((about.server.as_deref(), about.profile), (Some("a"), None));
        assert_eq!((about.action, about.origin), (Action::Run, Origin::Stdio));
        let one = Serving::profile("work", vec![stdio("a")]).about(Way::Relay);
        assert_eq!((one.server.as_deref(), one.profile.as_deref()), (Some("a"), Some("work")));
        assert_eq!((one.action, one.origin), (Action::ProfileShare, Origin::Relay));
        let several = Serving::profile("work", vec![stdio("a"), stdio("b")]).about(Way::Http);
        assert_eq!((several.server, several.profile.as_deref()), (None, Some("work")));
        assert_eq!((several.action, several.origin), (Action::ProfileRunHttp, Origin::LocalHttp));
    }

    #[tokio::test]
    async fn what_cannot_be_served_is_told_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("mcpm"));
        let remote = Server::remote("far", "not a url");
        let serving = Serving::profile("work", vec![stdio("a"), remote]);
        let options = GatewayOptions::default();
        let made = serving.gateway(Way::Stdio, options, Recorder::off(), &paths, Scope::new());
        assert!(made.unwrap_err().to_string().contains("`far`"));
        assert!(!paths.dir().exists());
    }
}
