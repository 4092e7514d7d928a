use super::*;
use crate::cli::testing::Home;
use crate::hint::Hint as _;

const OFFLINE: &str = "--offline";

fn code(error: &CliError) -> String {
    error.to_json()["code"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_of_the_built_in_list_is_found_shown_installed_and_removed_offline() {
    let home = Home::new();
    for form in [
        &["search", "clock", OFFLINE][..],
        &["search", "clock", OFFLINE, "--table"],
        &["search", "clock", OFFLINE, "--detailed"],
        &["info", "time", OFFLINE],
    ] {
        home.run(form).unwrap();
    }
    assert!(!home.paths.dir().join("registry").exists(), "looking writes nothing");
    home.run(&["install", "time", OFFLINE, "--set", "TIMEZONE=Europe/Berlin"]).unwrap();
    let text = home.read("servers.json");
    assert!(text.contains("\"Europe/Berlin\""), "{text}");
    assert_eq!(code(&home.run(&["install", "time", OFFLINE]).unwrap_err()), "exists");
    home.run(&["install", "time", OFFLINE, "--alias", "clock"]).unwrap();
    home.run(&["install", "time", OFFLINE, "--force"]).unwrap();
    assert!(!home.read("servers.json").contains("Berlin"));
    home.run(&["uninstall", "time", "--force"]).unwrap();
    assert_eq!(code(&home.run(&["uninstall", "time"]).unwrap_err()), "unknown_server");
    home.run(&["uninstall", "clock", "-f"]).unwrap();
}

/// Defect 29 of the Python `mcpm`: without a terminal, examples were stored as values.
#[test]
fn defect_29_what_is_missing_is_refused_with_its_names_where_nobody_can_be_asked() {
    let home = Home::new();
    let error = home.run(&["install", "sqlite", OFFLINE]).unwrap_err();
    assert_eq!((code(&error).as_str(), error.exit()), ("missing_arguments", 2));
    assert!(error.to_string().contains("`DB_PATH`"), "{error}");
    assert!(error.hint().unwrap().contains("--set DB_PATH="), "{error:?}");
    assert!(!home.paths.servers().exists());
    let error = home
        .run(&["install", "tavily", OFFLINE, "--set", "TAVILY_API_KEY=tvly-s3cret"])
        .unwrap_err();
    assert!(error.exit() == 2 && !error.to_string().contains("s3cret"), "{error}");
    home.run(&["install", "tavily", OFFLINE, "--set", "TAVILY_API_KEY=${TAVILY}"]).unwrap();
    assert!(home.read("servers.json").contains("\"TAVILY_API_KEY\": \"${TAVILY}\""));
}

#[test]
fn unknown_names_and_references_without_sense_fail() {
    let home = Home::new();
    // Offline, the registry that may have it was not asked.
    assert_eq!(code(&home.run(&["install", "githb", OFFLINE]).unwrap_err()), "registry");
    assert_eq!(code(&home.run(&["info", "githb", OFFLINE]).unwrap_err()), "registry");
    assert_eq!(home.run(&["info", "npm:x", OFFLINE]).unwrap_err().exit(), 2);
    assert_eq!(home.run(&["install", "", OFFLINE]).unwrap_err().exit(), 2);
    assert_eq!(home.run(&["install", "npm:x", "--sha256", "00"]).unwrap_err().exit(), 2);
    assert_eq!(code(&home.run(&["install", "./no/such/folder"]).unwrap_err()), "install");
    assert_eq!(code(&home.run(&["install", "/no/such.mcpb"]).unwrap_err()), "bundle");
    let error = home.run(&["install", "npm:x", "--alias=-bad"]).unwrap_err();
    assert!(error.hint().is_some(), "{error}");
}

#[test]
fn more_arguments_go_behind_those_of_the_server() {
    let home = Home::new();
    home.run(&["install", "npm:notes", "--", "--dir", "/x"]).unwrap();
    let text = home.read("servers.json");
    let entry: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(entry["notes"]["args"], json!(["-y", "notes", "--dir", "/x"]));
    let remote = home.run(&["install", "https://x.example/mcp", "--", "--dir"]).unwrap_err();
    assert_eq!(remote.exit(), 2);
}

#[test]
fn secrets_are_not_shown_in_what_was_installed() {
    let secrets = ["s3cret".to_owned()];
    let server = crate::model::Server::stdio("x", "y", ["--key=s3cret"]);
    let mut value = json!({});
    describe(&server.transport, &secrets, &mut value);
    assert_eq!(value["args"], json!(["--key=***"]));
}

#[test]
fn an_address_in_the_settings_that_is_none_is_said_to_be_so() {
    let home = Home::new();
    home.write("config.json", r#"{"registry_url": "not an address"}"#);
    let error = home.run(&["search", "x", OFFLINE]).unwrap_err();
    assert!(error.to_string().contains("registry_url"), "{error}");
    assert!(
        crate::registry::RegistryError::NoCopy(crate::registry::Origin::Official).hint().is_some()
    );
}
