use serde_json::json;

use super::*;
use crate::model::Transport;
use crate::registry::fill::Answers;

fn package(package: Value) -> Manifest {
    let server = json!({"name": "io.github.acme/weather", "description": "d", "version": "1.2.0", "packages": [package]});
    manifest(&server, &Value::Null, Origin::Official).unwrap()
}

fn command(manifest: &Manifest, pairs: &[(&str, &str)]) -> (String, Vec<String>) {
    let answers: Answers = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let filled = manifest.methods[0].fill(&answers).unwrap();
    let Transport::Stdio { command, args, env, .. } = filled.transport else { panic!("not stdio") };
    let line = std::iter::once(command).chain(args).collect::<Vec<_>>().join(" ");
    (line, env.iter().map(|(name, value)| format!("{name}={value}")).collect())
}

#[test]
fn each_kind_of_package_has_its_runner() {
    let line = |value: Value| command(&package(value), &[]).0;
    let npm = json!({"registryType": "npm", "registryBaseUrl": "https://registry.npmjs.org", "identifier": "@a/b", "version": "1.0.0",
        "runtimeHint": "npx", "transport": {"type": "stdio"},
        "runtimeArguments": [{"type": "positional", "value": "-y"}],
        "packageArguments": [{"type": "positional", "value": "serve"}, {"type": "named", "name": "--port", "value": "80"}]});
    assert_eq!(line(npm), "npx -y @a/b@1.0.0 serve --port 80");
    assert_eq!(
        line(json!({"registryType": "pypi", "identifier": "w", "version": "2.1"})),
        "uvx w@2.1"
    );
    let nuget = json!({"registryType": "nuget", "identifier": "A.B", "version": "0.1.0",
        "packageArguments": [{"type": "positional", "value": "mcp"}]});
    assert_eq!(line(nuget), "dnx A.B@0.1.0 --yes -- mcp");
    assert_eq!(
        line(json!({"registryType": "oci", "identifier": "ghcr.io/a/b:1"})),
        "docker run -i --rm ghcr.io/a/b:1"
    );
    let cargo = package(json!({"registryType": "cargo", "identifier": "weather-mcp"}));
    assert_eq!(command(&cargo, &[]).0, "weather-mcp");
    assert!(cargo.methods[0].notes[0].contains("cargo install weather-mcp"));
}

#[test]
fn an_image_of_the_older_schema_gets_its_host_and_its_tag() {
    let line = |value: Value| command(&package(value), &[]).0;
    let older = json!({"registryType": "oci", "registryBaseUrl": "https://ghcr.io", "identifier": "a/b", "version": "3"});
    assert_eq!(line(older), "docker run -i --rm ghcr.io/a/b:3");
    let hub = json!({"registryType": "oci", "registryBaseUrl": "https://docker.io", "identifier": "a/b", "version": "3"});
    assert_eq!(line(hub), "docker run -i --rm a/b:3");
    let digest = json!({"registryType": "oci", "identifier": "a/b@sha256:00", "version": "3"});
    assert_eq!(line(digest), "docker run -i --rm a/b@sha256:00");
}

#[test]
fn variables_reach_a_container_without_standing_on_its_command_line() {
    let oci = package(json!({"registryType": "oci", "identifier": "a/b:1",
        "runtimeArguments": [
            {"type": "named", "name": "--mount", "value": "type=bind,src={source},dst={target}", "isRequired": true,
             "variables": {"source": {"isRequired": true}, "target": {"default": "/data"}}},
            {"type": "positional", "value": "--rm"}],
        "environmentVariables": [
            {"name": "KEY", "isRequired": true, "isSecret": true}, {"name": "REGION"}, {"name": "MODE", "default": "ro"}]}));
    assert_eq!(
        oci.methods[0].missing(&Answers::new()).iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
        ["KEY", "source"]
    );
    let (line, env) = command(&oci, &[("KEY", "s3cret"), ("source", "/x")]);
    assert_eq!(line, "docker run -i --rm -e KEY -e MODE --mount type=bind,src=/x,dst=/data a/b:1");
    assert_eq!(env, ["KEY=s3cret", "MODE=ro"]);
}

#[test]
fn named_arguments_are_switches_options_or_nothing() {
    let npm = package(json!({"registryType": "npm", "identifier": "x", "packageArguments": [
        {"type": "named", "name": "--loud", "format": "boolean"},
        {"type": "named", "name": "--token", "isSecret": true},
        {"type": "named", "name": "--level", "default": "info", "choices": ["info", "debug"]},
        {"type": "positional", "valueHint": "folder", "isRequired": true, "placeholder": "/home/me"}]}));
    assert!(npm.methods[0].fill(&Answers::new()).is_err());
    assert_eq!(command(&npm, &[("folder", "/f")]).0, "npx -y x --level info /f");
    let all = [("folder", "/f"), ("loud", "true"), ("token", "t"), ("level", "debug")];
    assert_eq!(command(&npm, &all).0, "npx -y x --loud --token t --level debug /f");
}

#[test]
fn a_remote_has_its_address_and_headers_substituted_or_is_refused() {
    let server = json!({"name": "com.acme/mcp", "remotes": [
        {"type": "streamable-http", "url": "https://{tenant}.acme.example/mcp",
         "variables": {"tenant": {"description": "t"}},
         "headers": [{"name": "Authorization", "value": "Bearer {token}", "isSecret": true, "isRequired": true,
                      "variables": {"token": {"isSecret": true}}},
                     {"name": "X-Trace"}]},
        {"type": "sse", "url": "https://acme.example/sse"}, {"type": "websocket", "url": "wss://x.example"}]});
    let manifest = manifest(&server, &json!({"status": "deprecated"}), Origin::Official).unwrap();
    assert_eq!((manifest.alias.as_str(), manifest.archived), ("acme", true));
    let ids: Vec<&str> = manifest.methods.iter().map(|method| method.id.as_str()).collect();
    assert_eq!(ids, ["remote", "remote-2"]);
    assert!(manifest.unusable[0].reason.contains("websocket"));
    let answers: Answers =
        [("tenant", "t1"), ("token", "k")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    let filled = manifest.methods[0].fill(&answers).unwrap();
    let Transport::Remote { url, headers } = filled.transport else { panic!("not remote") };
    assert_eq!(url, "https://t1.acme.example/mcp");
    assert_eq!(
        headers.iter().map(|(n, v)| format!("{n}: {v}")).collect::<Vec<_>>(),
        ["Authorization: Bearer k"]
    );
    assert!(manifest.methods[0].inputs.iter().find(|input| input.name == "token").unwrap().secret);
    assert!(manifest.methods[0].fill(&Answers::new()).is_err());
}

#[test]
fn a_bundle_is_known_by_its_address_and_checksum() {
    let url = "https://github.com/a/b/releases/download/v1/b.mcpb";
    let manifest = package(json!({"registryType": "mcpb", "identifier": url, "fileSha256": "ab"}));
    let expected = Launch::Bundle { url: url.to_owned(), sha256: Some("ab".to_owned()) };
    assert_eq!(manifest.methods[0].launch, expected);
}

#[test]
fn what_cannot_be_run_says_why() {
    let reason = |value: Value| package(value).unusable[0].reason.clone();
    assert!(reason(json!({"registryType": "npm", "identifier": "--eval=x"})).contains("no name"));
    assert!(
        reason(json!({"registryType": "npm", "identifier": "a", "version": "1 2"}))
            .contains("no name")
    );
    assert!(reason(json!({"registryType": "npm", "identifier": "a", "registryBaseUrl": "https://evil.example"})).contains("evil.example"));
    assert!(reason(json!({"registryType": "deb", "identifier": "a"})).contains("`deb`"));
    let http = json!({"registryType": "oci", "identifier": "a", "transport": {"type": "streamable-http", "url": "http://x"}});
    assert!(reason(http).contains("by itself"));
}

#[test]
fn people_call_a_server_by_the_telling_part_of_its_name() {
    assert_eq!(alias("io.github.user/weather"), "weather");
    assert_eq!(alias("com.stripe/mcp"), "stripe");
    assert_eq!(alias("plain"), "plain");
}
