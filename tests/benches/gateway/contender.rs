//! Who is measured.

use crate::Options;
use crate::wire::Era;

/// One way from the load generator to the servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contender {
    /// The name of its row.
    pub(crate) name: &'static str,
    /// Whose program it is.
    pub(crate) maker: Maker,
    /// How many servers stand behind it.
    pub(crate) servers: usize,
    /// How its clients and servers speak.
    pub(crate) era: Era,
}

/// Whose program a contender is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// Nobody's: the server itself.
    Direct,
    /// `mcpm run` and `mcpm profile run`.
    Mcpm,
    /// `mcpm share` through `mcpm-relay`.
    Share,
    /// The proxy of `fastmcp`.
    FastMcp,
    /// mcp-proxy, the one in Python.
    McpProxy,
    /// supergateway, a child for each session.
    Supergateway,
}

impl Contender {
    /// Whether the memory of its sessions is weighed. Supergateway's are processes.
    pub(crate) fn has_sessions(self) -> bool {
        self.era == Era::Legacy && !matches!(self.maker, Maker::Direct | Maker::Supergateway)
    }
}

const fn legacy(name: &'static str, maker: Maker, servers: usize) -> Contender {
    Contender { name, maker, servers, era: Era::Legacy }
}

const fn modern(name: &'static str, maker: Maker, servers: usize) -> Contender {
    Contender { name, maker, servers, era: Era::Modern }
}

/// The names of rows that budgets speak of.
pub(crate) mod row {
    pub(crate) const DIRECT: &str = "the server itself (limit)";
    pub(crate) const RUN: &str = "mcpm run";
    pub(crate) const PROFILE_5: &str = "mcpm profile run, 5 servers";
    pub(crate) const PROFILE_20: &str = "mcpm profile run, 20 servers";
    pub(crate) const SHARE: &str = "mcpm share through a relay";
    pub(crate) const FASTMCP: &str = "FastMCP proxy";
    pub(crate) const FASTMCP_5: &str = "FastMCP proxy, 5 servers";
    pub(crate) const MCP_PROXY: &str = "mcp-proxy";
}

/// The contenders over stdio.
pub(crate) const STDIO: [Contender; 6] = [
    legacy(row::DIRECT, Maker::Direct, 1),
    legacy(row::RUN, Maker::Mcpm, 1),
    legacy(row::PROFILE_5, Maker::Mcpm, 5),
    legacy(row::PROFILE_20, Maker::Mcpm, 20),
    legacy(row::FASTMCP, Maker::FastMcp, 1),
    legacy(row::FASTMCP_5, Maker::FastMcp, 5),
];

/// The contenders over HTTP.
pub(crate) const HTTP: [Contender; 10] = [
    legacy(row::DIRECT, Maker::Direct, 1),
    legacy(row::RUN, Maker::Mcpm, 1),
    legacy(row::PROFILE_5, Maker::Mcpm, 5),
    legacy(row::SHARE, Maker::Share, 1),
    modern("mcpm run, modern era", Maker::Mcpm, 1),
    modern("mcpm profile run, 5 servers, modern era", Maker::Mcpm, 5),
    legacy(row::FASTMCP, Maker::FastMcp, 1),
    legacy(row::FASTMCP_5, Maker::FastMcp, 5),
    legacy(row::MCP_PROXY, Maker::McpProxy, 1),
    legacy("supergateway, stateful", Maker::Supergateway, 1),
];

/// Those whose programs are there and whose rows are wanted.
pub(crate) fn available(all: &[Contender], options: &Options) -> Vec<Contender> {
    let there = |contender: &&Contender| match contender.maker {
        Maker::Direct | Maker::Mcpm | Maker::Share => true,
        Maker::FastMcp => options.fastmcp.exists(),
        Maker::McpProxy => options.mcp_proxy.exists(),
        Maker::Supergateway => options.supergateway.exists(),
    };
    let wanted = |contender: &&Contender| {
        options.only.is_empty() || options.only.iter().any(|only| contender.name.contains(only))
    };
    all.iter().filter(there).filter(wanted).copied().collect()
}
