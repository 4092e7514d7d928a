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
    insta::assert_snapshot!("help_name", help(&["name"]));
    insta::assert_snapshot!("help_name_release", help(&["name", "release"]));
    insta::assert_snapshot!("help_owner", help(&["owner"]));
    insta::assert_snapshot!("help_owner_quota_set", help(&["owner", "quota", "set"]));
    insta::assert_snapshot!("help_audit", help(&["audit"]));
    insta::assert_snapshot!("help_domain", help(&["domain"]));
    insta::assert_snapshot!("help_domain_add", help(&["domain", "add"]));
    insta::assert_snapshot!("help_share", help(&["share"]));
    insta::assert_snapshot!("help_status", help(&["status"]));
    insta::assert_snapshot!("help_reload", help(&["reload"]));
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
fn who_keeps_everything_elsewhere_needs_no_data_directory() {
    let args =
        ["mcpm-relay", "serve", "--database", "postgres://relay@db/relay", "--key-file", "key"];
    let Command::Serve(args) = Cli::parse_from(args).command else {
        unreachable!("that is what was asked for")
    };
    let config = args.resolve().unwrap();
    assert_eq!((config.data_dir, config.admin_token_file), (None, None));
    assert_eq!(config.database.to_string(), "postgres://relay@db/relay");
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

/// Runs a command on the database in a directory.
fn on(dir: &tempfile::TempDir, args: &[&str]) -> Result<(), CliError> {
    let data = dir.path().to_str().unwrap();
    let args = [&["mcpm-relay"], args, &["--data-dir", data]].concat();
    run(Cli::parse_from(args).command)
}

#[test]
fn names_and_owners_are_decided_over_in_the_database() {
    let dir = tempfile::tempdir().unwrap();
    on(&dir, &["name", "reserve", "calc", "--for", "ada", "--note", "hers"]).unwrap();
    on(&dir, &["name", "block", "evil", "--json"]).unwrap();
    on(&dir, &["name", "ls", "--json"]).unwrap();
    on(&dir, &["name", "release", "calc"]).unwrap();
    let error = on(&dir, &["name", "release", "calc"]).unwrap_err();
    assert!(error.to_string().contains("nobody has the name `calc`"), "{error}");
    let set = ["owner", "quota", "set", "ada", "--max-shares", "3", "--requests-per-day", "0"];
    on(&dir, &set).unwrap();
    assert!(on(&dir, &["owner", "quota", "set", "a b", "--default"]).is_err());
    on(&dir, &["owner", "quota", "show", "ada", "--json"]).unwrap();
    on(&dir, &["owner", "ls"]).unwrap();
    on(&dir, &["owner", "show", "ada"]).unwrap();
    on(&dir, &["owner", "block", "ada", "--note", "spam"]).unwrap();
    on(&dir, &["owner", "unblock", "ada", "--json"]).unwrap();
    on(&dir, &["audit", "--action", "owner.*", "--by", "operator", "--since", "1h"]).unwrap();
    on(&dir, &["audit", "--limit", "5"]).unwrap();
    let database = dir.path().join("relay.db");
    let actions = storage::block_on(async {
        let store = mcpm_relay::store::SqlStore::open(&database).await?;
        let trail = mcpm_relay::store::Store::audit_trail(&store, 9).await?;
        let actions: Vec<_> = trail.iter().map(|event| event.action.as_str()).collect();
        assert_eq!(
            actions,
            [
                "owner.unblock",
                "owner.block",
                "owner.quota",
                "name.release",
                "name.block",
                "name.reserve"
            ]
        );
        Ok(())
    });
    actions.unwrap();
}

#[test]
fn a_value_that_makes_no_sense_is_refused_with_what_is_expected() {
    let issue = ["token", "issue", "--sub", "ada", "--expires"];
    let time = "a length of time is written as 90d, 12h, 30m or 45s";
    let challenges = "[possible values: tls-alpn-01, http-01]";
    for (args, said) in [
        (&[&issue[..], &["never"]].concat()[..], time),
        (&["name", "release", "calc", "--cooling", "x"], time),
        (&["audit", "--since", "foo"], time),
        (&["audit", "--limit", "0"], "0 is not in 1.."),
        (&["serve", "--acme-domains-challenge", "dns-01"], challenges),
    ] {
        let error = Cli::try_parse_from([&["mcpm-relay"], args].concat()).unwrap_err().to_string();
        assert!(error.contains(said), "{args:?}: {error}");
    }
    Cli::try_parse_from([&["mcpm-relay"], &issue[..], &["1d 12h"]].concat()).unwrap();
}

#[test]
fn a_running_relay_is_asked_over_its_admin_listener() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let config = mcpm_relay::Config {
        admin_token_file: Some(dir.path().join("admin.token")),
        ..mcpm_relay::Config::for_tests()
    };
    let relay = runtime.block_on(async {
        let ports = mcpm_relay::Ports::open(&config).await.unwrap();
        mcpm_relay::Relay::start(config, ports).await.unwrap()
    });
    let admin = relay.admin_addr().unwrap().to_string();
    let ask = |args: &[&str]| {
        let admin = ["--admin-listen", admin.as_str()];
        on(&dir, &[args, &admin[..]].concat())
    };
    ask(&["status"]).unwrap();
    let error = ask(&["reload"]).unwrap_err();
    assert!(error.to_string().contains("without settings that can be read again"), "{error}");
    ask(&["share", "ls", "--json"]).unwrap();
    let error = ask(&["share", "close", "calc"]).unwrap_err();
    assert!(error.to_string().contains("no share named `calc` is up"), "{error}");
    std::fs::write(dir.path().join("admin.token"), "0123456789abcdef\n").unwrap();
    assert!(matches!(ask(&["status"]), Err(CliError::WrongAdminToken)));
    std::fs::remove_file(dir.path().join("admin.token")).unwrap();
    assert!(matches!(ask(&["status"]), Err(CliError::AdminToken { .. })));
    runtime.block_on(relay.shutdown());
}

#[test]
fn a_wrong_directory_is_not_taken_for_an_empty_relay() {
    let dir = tempfile::tempdir().unwrap();
    for command in [
        &["token", "ls"][..],
        &["token", "revoke", "x"],
        &["name", "ls"],
        &["owner", "ls"],
        &["domain", "ls"],
        &["domain", "rm", "a.example.org"],
        &["domain", "verify", "a.example.org"],
        &["audit"],
    ] {
        let error = on(&dir, command).unwrap_err();
        assert!(matches!(error, CliError::NoDatabase(_)), "{command:?}: {error}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "{command:?} made something");
    }
    // What may be decided before the first start makes what it needs.
    on(&dir, &["token", "issue", "--sub", "ada"]).unwrap();
    on(&dir, &["token", "ls"]).unwrap();
}

#[test]
fn a_check_of_the_settings_reads_the_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    let files = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let check = || on(&dir, &[&["config", "check", "--auth", "open"], &files[..]].concat());
    let error = check().unwrap_err().to_string();
    assert_eq!(error, format!("cannot read {}", key.display()));
    std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let error = check().unwrap_err().to_string();
    assert_eq!(error, "the certificate and its key cannot be used together");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    // That it is for another domain is a warning: what stands in front may know better.
    check().unwrap();
}

#[cfg(unix)]
#[path = "../store/sqlx/private_postgres.rs"]
mod private_postgres;

#[cfg(unix)]
#[test]
fn commands_work_on_postgres_by_a_file_with_its_url() {
    let Some(server) = private_postgres::PrivatePostgres::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("database");
    std::fs::write(&file, server.database()).unwrap();
    let by = ["--database-file", file.to_str().unwrap()];
    let on = |args: &[&str]| on(&dir, &[args, &by[..]].concat());
    on(&["token", "issue", "--sub", "ada"]).unwrap();
    on(&["name", "reserve", "calc", "--for", "ada"]).unwrap();
    on(&["name", "ls"]).unwrap();
    on(&["owner", "ls", "--json"]).unwrap();
    on(&["audit"]).unwrap();
    assert!(!dir.path().join("relay.db").exists());
    server.stop();
    let error = on(&["name", "ls"]).unwrap_err();
    assert!(error.to_string().starts_with("cannot use the database postgres://"), "{error}");
}
