//! What a reload changes at once, as `docs/environment.md` lists it, is found by asking the code that
//! decides. After a change: `MCPM_UPDATE_DOCS=1 cargo test -p mcpm-relay reference`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;

const BEGIN: &str = "<!-- made of what a reload obeys: begin -->\n";
const END: &str = "<!-- made of what a reload obeys: end -->\n";

/// Two relays that differ in all settings, and yet ask the same issuer. Where they differ, `<A|B>` has
/// what each says.
const PROVIDER: &str = r#"
domain = "<a|b>.example"
listen = "127.0.0.<1|2>:1"
tunnel-listen = "127.0.0.<1|2>:2"
http-listen = "127.0.0.<1|2>:3"
admin-listen = "127.0.0.<1|2>:4"
admin-token-file = "<a|b>"
data-dir = "<a|b>"
database = "postgres://<a|b>@db/<a|b>"
key-file = "<a|b>"
takeover-socket = "<a|b>"
ready-without-database = <true|false>
paths = <true|false>
public-url = "https://<a|b>.example"
tls = "acme"
acme-directory = "https://<a|b>.example/<a|b>"
acme-email = "<a|b>@<a|b>.example"
acme-ca = "<a|b>"
acme-challenge = "dns-01"
acme-dns = "<desec|cloudflare>"
acme-dns-token-file = "DIR/secret-<a|b>"
acme-dns-wait-secs = <1|2>
acme-domains-challenge = "<tls-alpn-01|http-01>"
acme-domains-per-hour = <1|2>
dns-servers = "192.0.2.<1|2>"
hsts = <1|2>
proxy-protocol = "192.0.2.<1|2>"
trusted-proxies = "192.0.2.<1|2>"
http-mode = <true|false>
node-id = "<a|b>"
node-listen = "127.0.0.<1|2>:5"
node-advertise = "<a|b>.example:1"
node-secret-file = "DIR/secret-<a|b>"
log-format = "<text|json>"
log = "<info|debug>"
access-log = "<text|json>"
access-log-file = "<a|b>"
otlp-endpoint = "http://<a|b>.example:1"
trace-ratio = 0.<1|2>
grace-secs = 10<1|2>
drain-secs = 10<1|2>
hold-secs = 10<1|2>
idle-secs = 10<1|2>
share-ttl-secs = 10<1|2>
keep-name-days = 10<1|2>
reserved-names-file = "DIR/names-<a|b>"
protect-brands = <true|false>
abuse-contact = "<a|b>@<a|b>.example"
[oidc]
issuer = "https://idp.example"
audience = "<a|b>"
names-claim = "<a|b>"
require = "<a|b>=<a|b>"
ca = "DIR/secret-<a|b>"
"#;

/// Two relays of teams with a secret, a certificate in files and a database in a file.
const TEAM: &str = r#"
secret-file = "DIR/secret-<a|b>"
tls-cert = "<a|b>"
tls-key = "<a|b>"
database-file = "DIR/url-<a|b>"
key-file = "<a|b>"
"#;

/// Two relays that differ in what says who owns names, and in where certificates come from.
const OTHER: [&str; 2] = [
    "domain = \"a.example\"\ndata-dir = \"a\"\npaths = true\nauth = \"open\"\ntls = \"acme\"\n\
     acme-challenge = \"tls-alpn-01\"\n",
    "database = \"memory:\"\ntls = \"self-signed\"\n[oidc]\nissuer = \"https://b.example\"\n\
     audience = \"b\"\nowner-claim = \"b\"\n",
];

/// Returns what each of two relays says.
fn both(text: &str) -> [String; 2] {
    let mut parts = text.split(['<', '|', '>']);
    let begin = parts.next().unwrap_or_default().to_owned();
    let mut both = [begin.clone(), begin];
    while let (Some(one), Some(other), Some(common)) = (parts.next(), parts.next(), parts.next()) {
        both[0].extend([one, common]);
        both[1].extend([other, common]);
    }
    both
}

/// Adds the settings that are mere numbers, all of which differ.
fn with_numbers(text: &str, number: u32) -> Layer {
    let mut layer = Layer::from_toml(text).unwrap();
    let mut numbers = serde_json::to_value(&layer).unwrap();
    for table in ["limits", "quotas"] {
        for value in numbers[table].as_object_mut().unwrap().values_mut() {
            *value = number.into();
        }
    }
    layer.limits = serde_json::from_value(numbers["limits"].take()).unwrap();
    layer.quotas = serde_json::from_value(numbers["quotas"].take()).unwrap();
    layer
}

/// Returns the settings that a reload changes at once, and those that wait for a restart.
fn decided() -> (BTreeSet<String>, BTreeSet<String>) {
    let dir = tempfile::tempdir().unwrap();
    for one in ["a", "b"] {
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(format!("{name}-{one}")), text).unwrap();
        };
        write("secret", &format!("{one}0123456789abcdef0123456789abcdef\n"));
        write("names", &format!("{one}-*\n"));
        write("url", &format!("postgres://{one}@db/{one}\n"));
    }
    let at = dir.path().to_str().unwrap();
    let (mut at_once, mut later) = (BTreeSet::new(), BTreeSet::new());
    for [one, other] in [both(PROVIDER), both(TEAM), OTHER.map(str::to_owned)] {
        let resolve = |text: &str, number| {
            let layer = with_numbers(&text.replace("DIR", at), number);
            layer.resolve().unwrap_or_else(|error| panic!("{error}"))
        };
        let (now, wanted) = (resolve(&one, 9001), resolve(&other, 9002));
        let next = now.heeding(&wanted);
        at_once.extend(differences(&now, &next));
        later.extend(differences(&next, &wanted));
    }
    (at_once, later)
}

/// Returns the names of all settings, by the table they stand in; "" for those in none.
fn all() -> BTreeMap<String, Vec<String>> {
    let mut tables = BTreeMap::<String, Vec<String>>::new();
    for (key, value) in written(&Config::local()).as_object().unwrap() {
        match value.as_object() {
            Some(members) => {
                tables.insert(key.clone(), members.keys().cloned().collect());
            }
            None => tables.entry(String::new()).or_default().push(key.clone()),
        }
    }
    tables
}

/// Says which settings are in a set; those of a table that is in there as a whole by the table.
fn listed(set: &BTreeSet<String>) -> String {
    let mut words = Vec::new();
    for (table, names) in all() {
        let full = |name: &String| match table.as_str() {
            "" => name.clone(),
            table => format!("{table}.{name}"),
        };
        let found: Vec<_> = names.iter().filter(|name| set.contains(&full(name))).collect();
        if !table.is_empty() && found.len() == names.len() {
            words.push(format!("all of `[{table}]`"));
        } else {
            words.extend(found.iter().map(|name| format!("`{}`", full(name))));
        }
    }
    words.join(", ")
}

fn reference() -> String {
    let (at_once, later) = decided();
    let later = later.difference(&at_once).cloned().collect();
    format!("- At once: {}.\n- With a restart: {}.\n", listed(&at_once), listed(&later))
}

#[test]
fn the_reference_of_what_a_reload_changes_is_what_it_changes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/environment.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let fresh = format!("{before}{BEGIN}{}{END}{after}", reference());
    if std::env::var_os("MCPM_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let now = std::fs::read_to_string(&path).unwrap();
    assert!(now == fresh, "run MCPM_UPDATE_DOCS=1 cargo test -p mcpm-relay reference");
}

#[test]
fn the_reference_of_what_a_reload_changes_speaks_of_every_setting() {
    let (at_once, later) = decided();
    for (table, names) in all() {
        for name in names {
            let name = if table.is_empty() { name } else { format!("{table}.{name}") };
            // A setting in which the relays above do not differ is in neither.
            assert!(at_once.contains(&name) || later.contains(&name), "{name}");
        }
    }
}
