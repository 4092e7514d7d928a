//! The options about the servers that a command serves, which `run` and `share` have in common.

use crate::gateway::{GatewayOptions, ToolFilter, ToolPattern};

/// How to treat the servers.
#[derive(Debug, clap::Args)]
pub(super) struct ServerOptions {
    /// Serve only tools of this name, in which `*` stands for any characters; may be given again
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    allow_tool: Vec<ToolPattern>,
    /// Leave out tools of this name, also those that are allowed; may be given again
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    deny_tool: Vec<ToolPattern>,
    /// Start servers at once, rather than when they are first used
    #[arg(long)]
    warm: bool,
}

impl ServerOptions {
    /// Returns the options of a gateway with these.
    pub(super) fn apply(self, options: GatewayOptions) -> GatewayOptions {
        let Self { allow_tool, deny_tool, warm } = self;
        GatewayOptions { tools: ToolFilter::new(allow_tool, deny_tool), warm, ..options }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: ServerOptions,
    }

    fn parse(words: &[&str]) -> Result<GatewayOptions, clap::Error> {
        let line = Line::try_parse_from([&["x"], words].concat())?;
        Ok(line.options.apply(GatewayOptions::default()))
    }

    #[test]
    fn tools_are_allowed_and_denied_by_name() {
        let options = parse(&["--allow-tool", "a_*", "--allow-tool=b", "--deny-tool", "a_x,a_y"]);
        let options = options.unwrap();
        let passing = ["a_1", "b", "a_x", "a_y", "c"].map(|name| options.tools.admits(name));
        assert_eq!(passing, [true, true, false, false, false]);
        assert!(!options.warm && parse(&["--warm"]).unwrap().warm);
        assert!(parse(&[]).unwrap().tools.is_open());
    }

    #[test]
    fn a_name_that_cannot_match_is_refused() {
        for words in [["--deny-tool", ""], ["--deny-tool", "a, b"], ["--allow-tool", "a,"]] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
    }
}
