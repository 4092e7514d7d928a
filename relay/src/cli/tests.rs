use clap::CommandFactory as _;

use super::*;

/// Returns the long help of a subcommand, as on a terminal of 100 columns.
fn help(path: &[&str]) -> String {
    let mut command = Cli::command();
    command.build();
    let mut found = &mut command;
    for name in path {
        found = found.find_subcommand_mut(name).unwrap();
    }
    found.clone().term_width(100).render_long_help().to_string()
}

#[test]
fn the_command_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn help_says_this() {
    insta::assert_snapshot!("help", help(&[]));
    insta::assert_snapshot!("help_serve", help(&["serve"]));
    insta::assert_snapshot!("help_token", help(&["token"]));
    insta::assert_snapshot!("help_token_issue", help(&["token", "issue"]));
    insta::assert_snapshot!("help_health", help(&["health"]));
}

#[test]
fn no_flag_takes_a_secret() {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    assert!(serve.get_arguments().all(|arg| arg.get_long() != Some("secret")));
}

#[test]
fn booleans_may_stand_alone_or_say_false() {
    for (flag, paths) in [("--paths", true), ("--paths=false", false)] {
        let args = ["mcpm-relay", "config", "check", flag, "--database", "memory:"];
        let Command::Config(config::Command::Check(args)) = Cli::parse_from(args).command else {
            unreachable!("that is what was asked for")
        };
        assert_eq!(args.resolve().unwrap().paths, paths);
    }
}

#[test]
fn flags_win_over_the_settings_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.toml");
    std::fs::write(&path, "domain = \"a.example\"\nauth = \"open\"\ndatabase = \"memory:\"\n")
        .unwrap();
    let file = path.to_str().unwrap();
    let args = ["mcpm-relay", "serve", "--config", file, "--domain", "b.example"];
    let Command::Serve(args) = Cli::parse_from(args).command else {
        unreachable!("that is what was asked for")
    };
    let config = args.resolve().unwrap();
    assert_eq!(config.domain.as_str(), "b.example");
    assert_eq!(config.data_dir, None, "who keeps nothing gets no directory");
}

#[test]
fn an_unknown_key_in_the_settings_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.toml");
    std::fs::write(&path, "domian = \"a.example\"\n").unwrap();
    let args = ["mcpm-relay", "serve", "--config", path.to_str().unwrap()];
    let Command::Serve(args) = Cli::parse_from(args).command else {
        unreachable!("that is what was asked for")
    };
    let error = args.resolve().unwrap_err();
    let CliError::ConfigSyntax { source, .. } = &error else { unreachable!("{error}") };
    assert!(source.to_string().contains("unknown field `domian`"), "{source}");
}
