//! House chores of the workspace, run as `cargo xtask CHORE`: the one way to check, fuzz and bench it.
//!
//! It uses the standard library alone, so that it builds in a second on a fresh machine. It holds no knowledge of the
//! product beyond the names of its packages.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program whose result is text")]

mod bench;
mod checks;
mod conformance;
mod dist;
mod fuzz;
mod images;
mod order;
mod peers;
mod scene;
mod step;
mod tree;
mod unpacked;

use std::process::ExitCode;

use step::Failed;
use tree::Tree;

const USAGE: &str = "\
usage: cargo xtask CHORE

  test                   install the peers, then run every check; this is what CI runs
  peers [--fresh]        install the npm and PyPI packages that the peer suites use
  conformance [--quick] [--through direct|stdio|http|relay] [--suite NAME] [--legacy-only|--modern-only] [--bins DIR]
                         run the MCP conformance suite against an upstream, alone and behind mcpm
  bench [tunnel] [--quick] [--only NAME] [--rows ROW,...] [--minutes N]
                         measure the tunnel beside its peers (release build); rows are tunnel, in-process, tls, connect,
                         rtt, idle-services, handshakes and, only when it is named, soak (of N minutes, 5)
  bench gateway [--quick] [--only NAME]
                         measure the gateway beside its peers
  bench cli [--quick]    measure the start of commands and of a gateway, and the sizes of the programs
  bench … --dist         the same of what `dist` made last
  images [--bins DIR]    build the images of deploy/docker from built programs, and run them; on a root machine without
                         Docker, by an engine of Debian's for that time
  dist                   build both programs as they are given to others, into target/dist: optimised by what they are
                         watched to do (twice a release build; component llvm-tools of rustup)
  order                  record which functions the programs run when they start, for the linker (release build, valgrind)
  fuzz [--seconds N] [TARGET]
                         fuzz each target for N seconds (30)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let tree = Tree::locate();
    let done = match args.as_slice() {
        ["test"] => checks::run(&tree),
        ["peers"] => peers::install(&tree, false).map(drop),
        ["peers", "--fresh"] => peers::install(&tree, true).map(drop),
        ["conformance", rest @ ..] => conformance::run(&tree, rest),
        ["bench", rest @ ..] => bench::run(&tree, rest),
        ["images", rest @ ..] => images::run(&tree, rest),
        ["order"] => order::run(&tree),
        ["dist"] => dist::run(&tree),
        ["fuzz", rest @ ..] => fuzz::run(&tree, rest),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(message)) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
