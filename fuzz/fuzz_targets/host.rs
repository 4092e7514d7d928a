//! `Host` headers and share paths: no text panics, and a share is only ever found at its own host.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpm_relay::host::{self, Target};

const DOMAIN: &str = "relay.example";

fuzz_target!(|request: (&str, &str, bool)| {
    let (authority, path, local) = request;
    match host::classify(authority, DOMAIN, local) {
        Target::Share(name) => {
            let own = format!("{name}.{DOMAIN}");
            let spelled = authority.to_ascii_lowercase();
            assert!(spelled.starts_with(&own), "{authority} is not the host of {name}");
        }
        Target::Apex => {
            let spelled = authority.to_ascii_lowercase();
            assert!(local || spelled.starts_with(DOMAIN), "{authority} is not the apex");
        }
        Target::Custom(route) => panic!("nobody proved {route:?}"),
        Target::Unknown => {}
    }
    if let Some((name, rest)) = host::split_share_path(path) {
        assert!(rest.starts_with('/'), "{rest}");
        let rebuilt = format!("/s/{name}{rest}");
        assert!(rebuilt == path || rebuilt == format!("{path}/"), "{path} became {rebuilt}");
    }
});
