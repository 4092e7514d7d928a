//! The servers that this program knows by itself, so that `search` and `install` work offline.

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{Listing, Origin, Source, catalogue};

/// Written by hand, in the form of the catalogue: what each server is, and how its maker says that
/// it is started.
const SERVERS: &str = include_str!("builtin.json");

/// The built-in list.
#[derive(Debug)]
pub(super) struct BuiltIn;

fn servers() -> Map<String, Value> {
    // A test reads the list, so it parses.
    serde_json::from_str(SERVERS).unwrap_or_default()
}

#[async_trait]
impl Source for BuiltIn {
    fn origin(&self) -> Origin {
        Origin::BuiltIn
    }

    async fn list(&self, query: Option<&str>) -> Listing {
        let mut manifests = catalogue::parse(&servers(), Origin::BuiltIn);
        manifests.retain(|manifest| query.is_none_or(|query| manifest.matches(query)));
        Listing { manifests, problem: None }
    }

    async fn find(&self, name: &str, _version: Option<&str>) -> Listing {
        let servers = servers();
        let found =
            servers.get(name).and_then(|value| catalogue::manifest(name, value, Origin::BuiltIn));
        Listing { manifests: found.into_iter().collect(), problem: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fill::Answers;
    use crate::registry::manifest::Launch;

    #[test]
    fn every_server_of_the_list_can_be_installed() {
        let all: Map<String, Value> = serde_json::from_str(SERVERS).unwrap();
        let manifests = catalogue::parse(&all, Origin::BuiltIn);
        assert_eq!(manifests.len(), all.len());
        assert!((20..=40).contains(&all.len()), "{}", all.len());
        for manifest in &manifests {
            assert!(
                !manifest.description.is_empty() && !manifest.categories.is_empty(),
                "{}",
                manifest.name
            );
            assert!(
                !manifest.methods.is_empty() && manifest.unusable.is_empty(),
                "{}",
                manifest.name
            );
            for method in &manifest.methods {
                let answers: Answers = method
                    .inputs
                    .iter()
                    .map(|input| (input.name.clone(), "x".to_owned()))
                    .collect();
                assert!(method.fill(&answers).is_ok(), "{} {}", manifest.name, method.id);
                assert!(method.notes.is_empty(), "{} {:?}", manifest.name, method.notes);
                assert!(!matches!(method.launch, Launch::Bundle { .. }));
            }
        }
    }

    #[test]
    fn the_list_is_in_order() {
        let all: Map<String, Value> = serde_json::from_str(SERVERS).unwrap();
        assert!(all.keys().is_sorted());
    }
}
