//! The chart, rendered by Helm's own library, and its settings shown to the relay.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use harness::peers::{packages, peers_folder};
use harness::process::command;
use serde_json::{Value, json};

use super::settings::{DOMAIN, are_obeyed, write_files};
use super::{root, yaml};

/// Renders the chart; `None` where Helm's library is not installed.
fn render(values: &Value) -> Option<Result<Vec<Value>, String>> {
    if !packages("helm") {
        return None;
    }
    let mut helm = command(peers_folder().join("helm/bin/python")).into_std();
    helm.arg(root().join("tests/peers/chart.py")).arg(root().join("deploy/helm/mcpm-relay"));
    helm.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut helm = helm.spawn().unwrap();
    helm.stdin.take().unwrap().write_all(values.to_string().as_bytes()).unwrap();
    let done = helm.wait_with_output().unwrap();
    assert!(done.status.success(), "{values}");
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    if let Some(error) = said["error"].as_str() {
        return Some(Err(error.to_owned()));
    }
    for message in said["lint"].as_array().unwrap() {
        // 1 is a recommendation, such as that of an icon.
        assert!(message["severity"].as_i64() <= Some(1), "{message}");
    }
    let manifests = said["manifests"].as_object().unwrap();
    let yaml = manifests.iter().filter(|(name, _)| name.ends_with(".yaml"));
    Some(Ok(yaml.flat_map(|(_, text)| yaml::documents(text.as_str().unwrap())).collect()))
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

/// The service that visitors and agents come by.
fn public(documents: &[Value]) -> &Value {
    let mut services = of_kind(documents, "Service").into_iter();
    services.find(|service| service["spec"]["clusterIP"].is_null()).unwrap()
}

fn texts(list: &Value, key: &str) -> BTreeSet<String> {
    let entries = list.as_array().into_iter().flatten();
    entries.map(|entry| entry[key].as_str().unwrap_or_default().to_owned()).collect()
}

/// The variables of the relay's container, with files of this test in the place of the pod's.
fn variables(container: &Value, dir: &Path) -> BTreeMap<String, String> {
    let entries = container["env"].as_array().unwrap();
    let own = entries.iter().filter_map(|entry| {
        let (name, value) = (entry["name"].as_str()?, entry["value"].as_str()?);
        let value = value
            .replace("$(POD_NAME)", "relay-0")
            .replace("$(POD_IP)", "10.1.2.3")
            .replace("/secrets/database/url", dir.join("database").to_str()?)
            .replace("/secrets/nodes/secret", dir.join("node-secret").to_str()?)
            .replace("/tls/", &format!("{}/", dir.display()));
        name.starts_with("MCPM_").then(|| (name.to_owned(), value))
    });
    own.collect()
}

/// What names something in the pod names what is there.
fn is_sound(documents: &[Value]) {
    let [set] = of_kind(documents, "StatefulSet").try_into().unwrap();
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let ports = texts(&container["ports"], "name");
    for service in of_kind(documents, "Service") {
        for target in texts(&service["spec"]["ports"], "targetPort") {
            assert!(ports.contains(&target), "{target} of {service}");
        }
    }
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let port = container[probe]["httpGet"]["port"].as_str().unwrap();
        assert!(ports.contains(port), "{probe}");
    }
    let mut volumes = texts(&pod["volumes"], "name");
    let claims = set["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
    volumes.extend(claims.map(|claim| claim["metadata"]["name"].as_str().unwrap().to_owned()));
    assert_eq!(texts(&container["volumeMounts"], "name"), volumes);
    let selected = &set["spec"]["selector"]["matchLabels"];
    for (label, value) in selected.as_object().unwrap() {
        assert_eq!(&set["spec"]["template"]["metadata"]["labels"][label], value);
    }
    let time = |name: &str| {
        let entries = container["env"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["name"] == name).unwrap();
        entry["value"].as_str().unwrap().parse::<i64>().unwrap()
    };
    let patience = pod["terminationGracePeriodSeconds"].as_i64().unwrap();
    assert!(patience > time("MCPM_RELAY_DRAIN_SECS") + time("MCPM_RELAY_GRACE_SECS"));
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path());
    are_obeyed(dir.path(), &variables(container, dir.path()));
}

#[test]
fn helm_renders_what_the_relay_obeys() {
    for values in [
        json!({ "domain": DOMAIN }),
        json!({ "domain": DOMAIN, "tls": { "existingSecret": "relay-tls" },
            "service": { "tunnelPort": 6276 }, "podMonitor": { "enabled": true } }),
        json!({ "domain": DOMAIN, "service": { "type": "ClusterIP" },
            "settings": { "MCPM_RELAY_TRUSTED_PROXIES": "10.0.0.0/8" },
            "ingress": { "enabled": true, "className": "nginx", "tlsSecret": "relay-tls" } }),
    ] {
        let Some(documents) = render(&values) else { return };
        let documents = documents.unwrap();
        is_sound(&documents);
        assert_eq!(of_kind(&documents, "PodDisruptionBudget").len(), 0);
        assert!(public(&documents)["spec"]["sessionAffinity"].is_null());
        for ingress in of_kind(&documents, "Ingress") {
            let hash = "nginx.ingress.kubernetes.io/upstream-hash-by";
            assert_eq!(ingress["metadata"]["annotations"][hash], "$remote_addr", "{ingress}");
        }
    }
}

#[test]
fn helm_renders_three_nodes_of_which_one_may_go() {
    let values = json!({ "domain": DOMAIN, "replicas": 3, "tls": { "existingSecret": "relay-tls" },
        "database": { "existingSecret": "relay-database" }, "persistence": { "enabled": false },
        "nodes": { "existingSecret": "relay-nodes" } });
    let budget = |most: Value| json!({ "podDisruptionBudget": { "maxUnavailable": most } });
    for (more, most) in [
        (json!({}), json!(1)),
        // A file of values that has the table and leaves it empty.
        (budget(Value::Null), json!(1)),
        (budget(json!(0)), json!(0)),
        (budget(json!("50%")), json!("50%")),
    ] {
        let mut values = values.clone();
        values.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let Some(documents) = render(&values) else { return };
        let documents = documents.unwrap();
        is_sound(&documents);
        let [budget] = of_kind(&documents, "PodDisruptionBudget").try_into().unwrap();
        assert_eq!(budget["spec"]["maxUnavailable"], most, "{budget}");
        // Where nobody asks for it: some load balancers refuse it.
        assert!(public(&documents)["spec"]["sessionAffinity"].is_null());
    }
    let mut values = values;
    values["service"] = json!({ "sessionAffinity": "ClientIP" });
    let Some(documents) = render(&values) else { return };
    assert_eq!(public(&documents.unwrap())["spec"]["sessionAffinity"], "ClientIP");
}

#[test]
fn helm_says_what_is_missing() {
    for (values, missing) in [
        (json!({}), "domain: say which domain"),
        (json!({ "domain": DOMAIN, "replicas": 3 }), "database.existingSecret"),
        (
            json!({ "domain": DOMAIN, "replicas": 3, "database": { "existingSecret": "d" } }),
            "nodes.existingSecret",
        ),
        (json!({ "domain": DOMAIN, "ingress": { "enabled": true } }), "ingress.tlsSecret"),
    ] {
        let Some(rendered) = render(&values) else { return };
        let error = rendered.unwrap_err();
        assert!(error.contains(missing), "{error}");
    }
}
