//! Several relays over one store are one relay: any node takes any agent and any visitor.

mod failures;
mod hops;
mod operators;
mod postgres;
#[cfg(unix)]
#[path = "../../relay/src/store/sqlx/private_postgres.rs"]
pub(crate) mod private_postgres;
mod restarts;

use std::time::Duration;

use harness::balancer::Balancer;
use harness::{Service, TestAgent, TestRelay, TestShare, request};
use mcpm::tunnel::ShareInfo;
use mcpm_relay::config::{NodeSettings, PublicUrl};
use mcpm_relay::{Config, Ports};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::token::Token;

/// What all nodes know.
const SECRET: &str = "a secret that the nodes of this test have in common";

/// Lets nodes beat so often. The fewer milliseconds, the sooner a node that lives is given up when this process, in which
/// all of them are, stands still: for tests alone that wait for beats.
fn beats(config: &mut Config, millis: u64) {
    config.nodes.as_mut().unwrap().heartbeat = Duration::from_millis(millis);
}

/// Nodes behind a balancer.
struct Nodes {
    balancer: Balancer,
    ports: Ports,
    all: Vec<TestRelay>,
    /// What is different in the settings of all nodes.
    change: fn(&mut Config),
}

impl Nodes {
    /// Starts nodes over one store in memory.
    async fn start(count: usize) -> Self {
        Self::on(Ports::in_memory(), count).await
    }

    async fn on(ports: Ports, count: usize) -> Self {
        Self::with(ports, count, |_| ()).await
    }

    async fn with(ports: Ports, count: usize, change: fn(&mut Config)) -> Self {
        let balancer = Balancer::start().await;
        let mut nodes = Self { balancer, ports, all: Vec::new(), change };
        for n in 0..count {
            nodes.add(&format!("node{n}")).await;
        }
        nodes
    }

    fn config(&self, id: &str) -> Config {
        let mut config = Config::for_tests();
        let secrets = vec![Token::new(SECRET)];
        config.nodes = Some(NodeSettings::new(([127, 0, 0, 1], 0).into(), secrets));
        config.node = id.to_owned();
        config.timing.drain = Duration::from_millis(300);
        config.public_url = Some(PublicUrl { https: false, port: self.balancer.port() });
        (self.change)(&mut config);
        config
    }

    async fn add(&mut self, id: &str) {
        self.all.push(TestRelay::on(self.config(id), self.ports.clone()).await);
        self.balance();
    }

    /// Lets the balancer know of all nodes.
    fn balance(&self) {
        self.balancer.set(self.all.iter().map(|node| node.relay.addr()));
    }

    /// Shares a service by an agent that is connected to the node `at`.
    async fn share(
        &self,
        agent: &TestAgent,
        at: usize,
        name: &str,
        service: &Service,
    ) -> (TestShare, ShareInfo) {
        self.balancer.set([self.all[at].relay.addr()]);
        let asked = request(name, ShareMode::Http, AccessPolicy::public());
        let share = agent.open_at(&self.balancer.url(""), asked, service.backend());
        let info = share.up().await;
        self.balance();
        (share, info)
    }

    /// Returns the URL of a share at one node.
    fn url(&self, at: usize, name: &str) -> String {
        self.all[at].url(&format!("/s/{name}"))
    }

    /// Returns the value of a metric of a node.
    async fn metric(&self, at: usize, name: &str) -> String {
        let admin = self.all[at].relay.admin_addr().unwrap();
        let url = format!("http://{admin}/metrics");
        let text = harness::visitor().get(url).send().await.unwrap().text().await.unwrap();
        let prefix = format!("mcpm_relay_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    }
}
