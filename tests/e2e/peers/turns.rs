//! The Python `mcpm` and ours take turns on one home. After each step each says what it reads, which must be the same;
//! and after each of our steps all that the step was not about is there byte for byte.

mod home;

use serde_json::{Value, json};

use self::home::Home;
use super::sdks::mcpm_ready;

#[tokio::test]
async fn servers_made_by_one_are_edited_grouped_and_removed_by_the_other() {
    if !mcpm_ready() {
        return;
    }
    let mut home = Home::new().await;
    let notes = ["new", "notes", "--type", "stdio", "--command", "uvx"];
    let rest = ["--args", "notes-mcp --dir /tmp/notes", "--env", "NOTES_KEY=k1"];
    home.theirs(&[&notes[..], &rest].concat()).await;
    let crm = ["new", "crm", "--url", "https://crm.example/mcp", "--headers", "X-Key=t"];
    home.ours(&crm, &["crm"]).await;
    home.theirs(&["profile", "create", "work"]).await;
    home.ours(&["profile", "edit", "work", "--add-server", "notes,crm"], &["notes", "crm"]).await;
    home.theirs(&["edit", "notes", "--args", "notes-mcp --dir /tmp/x", "--env", "MORE=2"]).await;
    let read = home.ours(&["edit", "notes", "--env", "MORE=3"], &["notes"]).await;
    assert_eq!(read["servers"]["notes"]["args"], json!(["notes-mcp", "--dir", "/tmp/x"]));
    assert_eq!(read["servers"]["notes"]["env"], json!({ "NOTES_KEY": "k1", "MORE": "3" }));
    assert_eq!(read["servers"]["crm"]["headers"], json!({ "X-Key": "t" }));
    // The Python program moves a server that it edits to the end.
    assert_eq!(read["profiles"]["work"], json!(["crm", "notes"]));

    home.theirs(&["profile", "edit", "work", "--set-servers", "crm"]).await;
    let rename = ["profile", "edit", "work", "--name", "job"];
    let read = home.ours(&rename, &["work", "job", "crm"]).await;
    assert_eq!(read["profiles"], json!({ "job": ["crm"] }));
    home.theirs(&["edit", "notes", "--name", "memo"]).await;
    home.ours(&["edit", "crm", "--name", "sales"], &["crm", "sales"]).await;
    home.theirs(&["uninstall", "memo", "--force"]).await;
    let read = home.ours(&["uninstall", "sales", "--force"], &["sales"]).await;
    assert_eq!(read["servers"], json!({}));
    assert_eq!(read["profiles"], json!({ "job": [] }));
    home.theirs(&["profile", "rm", "job", "--force"]).await;
    let read = home.ours(&["profile", "create", "last", "--description", "d"], &["last"]).await;
    assert_eq!(read["profiles"], json!({ "last": [] }));
}

#[tokio::test]
async fn what_one_installs_from_the_catalogue_the_other_reads_and_replaces() {
    if !mcpm_ready() {
        return;
    }
    let mut home = Home::new().await;
    home.theirs(&["install", "weather", "--force"]).await;
    let read = home.ours(&["install", "far", "--offline"], &["far"]).await;
    // An argument that nobody named: the Python program passes `--units=`, ours leaves it out.
    let theirs = json!(["weather-mcp", "--units="]);
    assert_eq!(read["servers"]["weather"]["args"], theirs);
    assert_eq!(read["servers"]["weather"]["env"], json!({ "WEATHER_KEY": "k1" }));
    assert_eq!(read["servers"]["far"]["headers"], json!({ "Authorization": "Bearer f1" }));
    home.theirs(&["profile", "create", "sky"]).await;
    home.ours(&["profile", "edit", "sky", "--add-server", "weather,far"], &["weather", "far"])
        .await;
    let again = ["install", "weather", "--offline", "--force"];
    let read = home.ours(&again, &["weather"]).await;
    assert_eq!(read["servers"]["weather"]["args"], json!(["weather-mcp"]));
    assert_eq!(read["profiles"]["sky"], json!(["weather", "far"]));

    home.theirs(&["config", "set", "--key", "node_executable", "--value", "bunx"]).await;
    let read = home.ours(&["install", "clock", "--offline"], &["clock"]).await;
    assert_eq!(read["settings"], json!({ "node_executable": "bunx" }));
    assert_eq!(read["servers"]["clock"]["command"], "bunx");
    let set = ["config", "set", "node_executable", "npx"];
    let read = home.ours(&set, &["node_executable"]).await;
    assert_eq!(read["settings"], json!({ "node_executable": "npx" }));
    home.theirs(&["install", "clock", "--alias", "clock2", "--force"]).await;
    let read = home.ours(&["uninstall", "clock", "--force"], &["clock"]).await;
    assert_eq!(read["servers"]["clock2"]["command"], "npx");
}

#[tokio::test]
async fn clients_that_one_edits_are_edited_on_by_the_other() {
    if !mcpm_ready() {
        return;
    }
    let mut home = Home::new().await;
    for name in ["a", "b"] {
        home.ours(&["new", name, "--command", "x"], &[name]).await;
    }
    home.ours(&["profile", "create", "both"], &["both"]).await;
    home.ours(&["profile", "edit", "both", "--add-server", "a,b"], &["a", "b"]).await;
    home.theirs(&["client", "edit", "cursor", "--add-server", "a", "--add-profile", "both"]).await;
    let add = ["client", "edit", "cursor", "--add-server", "b"];
    let read = home.ours(&add, &["mcpm_b"]).await;
    let entries = read["client"].as_object().unwrap();
    let names: Vec<&String> = entries.keys().collect();
    assert_eq!(names, ["files", "mcpm_profile_both", "mcpm_a", "mcpm_b"]);
    // Ours finds the program where there is no PATH, which the Python program's entries do not.
    let program = |name: &str| read["client"][name]["command"].as_str().unwrap().to_owned();
    assert_eq!(program("mcpm_a"), "mcpm");
    assert!(std::path::Path::new(&program("mcpm_b")).is_absolute());

    home.theirs(&["client", "edit", "cursor", "--remove-server", "a"]).await;
    let both = ["client", "edit", "cursor", "--remove-server", "b", "--remove-profile", "both"];
    let read = home.ours(&both, &["mcpm_b", "mcpm_profile_both"]).await;
    let left: Vec<&String> = read["client"].as_object().unwrap().keys().collect();
    assert_eq!(left, ["files"]);
    let read = home.ours(&["client", "import", "cursor", "--all"], &["files"]).await;
    assert_eq!(read["servers"]["files"]["command"], "npx");
    home.theirs(&["edit", "files", "--env", "ROOT=/tmp"]).await;
}

#[tokio::test]
async fn what_one_noted_of_its_use_the_other_reads() {
    if !mcpm_ready() {
        return;
    }
    let mut home = Home::new().await;
    let demo = harness::process::built("mcpm").display().to_string();
    home.theirs(&["new", "demo", "--type", "stdio", "--command", &demo, "--args", "demo-server"])
        .await;
    home.serve_by_theirs("demo").await;
    let usage: Value = home.usage().await;
    assert_eq!(usage["totals"]["sessions"], 1, "{usage}");
    home.serve_by_ours("demo").await;
    let usage: Value = home.usage().await;
    assert_eq!(usage["totals"]["sessions"], 2, "{usage}");
    let told = home.theirs(&["usage"]).await;
    assert!(told.contains("demo"), "{told}");
}
