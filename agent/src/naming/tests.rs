//! Tests of advertised names.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn origin(server: &str, name: &str) -> Origin {
    Origin { server: server.to_owned(), name: name.to_owned() }
}

#[test]
fn names_are_those_of_the_python_mcpm() {
    assert_eq!(advertised("github", "create_issue"), "github_create_issue");
    assert_eq!(advertised("my-fs", "read-file"), "my-fs_read-file");
}

#[test]
fn what_hosts_refuse_in_a_name_becomes_an_underscore() {
    assert_eq!(advertised("@scope/git hub", "repo.list:all"), "_scope_git_hub_repo_list_all");
    assert_eq!(advertised("日本", "é"), "____");
}

#[test]
fn a_long_name_is_cut_and_told_from_its_likes_by_a_hash_that_never_changes() {
    let name = "x".repeat(80);
    let long = advertised("server", &name);
    assert_eq!(long.len(), MAX_NAME);
    assert_eq!(long, format!("server_{}_712a2820", "x".repeat(48)));
    assert_ne!(long, advertised("server", &(name + "y")));
    assert_eq!(advertised("s", &"x".repeat(62)).len(), MAX_NAME);
    assert!(!advertised("s", &"x".repeat(62)).ends_with(|c| c != 'x'));
}

#[test]
fn a_contested_name_belongs_to_the_server_that_is_configured_first() {
    let claims = [(0, "b_c"), (1, "c")];
    let mut seen = HashSet::new();
    for order in [[0, 1], [1, 0]] {
        let mut names = Names::new(&["a", "a_b"]);
        for at in order {
            names.advertise(claims[at].0, claims[at].1);
        }
        assert_eq!(names.resolve("a_b_c"), Some((0, "b_c")));
        let other = names.name_of(1, "c").unwrap().to_owned();
        assert!(other.starts_with("a_b_c_") && other.len() == "a_b_c_".len() + HASH_LEN);
        assert_eq!(names.resolve(&other), Some((1, "c")));
        let name = "a_b_c".to_owned();
        let (owner, loser) = (origin("a", "b_c"), origin("a_b", "c"));
        let expected = [Collision { name, owner, loser, given: Some(other.clone()) }];
        assert_eq!(names.collisions(), expected);
        assert_eq!(names.new_collisions(), expected);
        assert!(names.new_collisions().is_empty(), "each is told once");
        seen.insert(other);
    }
    assert_eq!(seen.len(), 1, "the order in which servers answer must not matter");
}

#[test]
fn within_one_server_the_name_that_needs_no_change_wins() {
    let mut names = Names::new(&["s"]);
    names.advertise(0, "a.b");
    names.advertise(0, "a_b");
    assert_eq!(names.resolve("s_a_b"), Some((0, "a_b")));
    assert_eq!(names.collisions()[0].loser, origin("s", "a.b"));
}

#[test]
fn a_server_cannot_take_the_name_that_a_collision_left_to_another() {
    let mut names = Names::new(&["a", "a_b", "z"]);
    names.advertise(0, "b_c");
    let second = names.advertise(1, "c");
    // A later server whose own prefix leads to that very name has to give way.
    let mut names = Names::new(&["a", "a_b", "a_b_c"]);
    names.advertise(2, second.strip_prefix("a_b_c_").unwrap());
    names.advertise(1, "c");
    names.advertise(0, "b_c");
    assert_eq!(names.resolve(&second), Some((1, "c")));
    assert_eq!(names.collisions().len(), 2);
    assert_eq!(names.len(), 3);
}

#[test]
fn an_original_name_is_understood_when_one_server_alone_has_it() {
    let mut names = Names::new(&["a", "b"]);
    names.advertise(0, "shared");
    names.advertise(1, "shared");
    names.advertise(1, "own");
    assert_eq!(names.resolve_bare("own"), Some((1, "own")));
    assert_eq!(names.resolve_bare("shared"), None);
    assert_eq!(names.resolve_bare("none"), None);
    assert_eq!(names.resolve("own"), None);
}

#[test]
fn a_table_that_is_full_still_says_what_a_name_would_be() {
    let mut names = Names::new(&["s"]);
    names.advertise(0, "first");
    let huge = "x".repeat(MAX_TEXT);
    assert_eq!(names.advertise(0, &huge), advertised("s", &huge));
    assert_eq!(names.resolve(&advertised("s", &huge)), None);
    assert_eq!(names.advertise(0, "first"), "s_first");
    assert_eq!(names.len(), 1);
}

/// Names that collide often: few letters, and characters that are replaced.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[ab_.]{0,4}", "[a-z._/-]{0,100}", any::<String>()]
}

fn servers() -> impl Strategy<Value = Vec<(String, Vec<String>)>> {
    proptest::collection::vec((name(), proptest::collection::vec(name(), 0..8)), 1..5)
}

fn table(servers: &[(String, Vec<String>)]) -> Names {
    let names: Vec<&str> = servers.iter().map(|(server, _)| server.as_str()).collect();
    let mut table = Names::new(&names);
    for (at, (_, items)) in servers.iter().enumerate() {
        for item in items {
            table.advertise(at, item);
        }
    }
    table
}

/// All that is noted: server, original name, advertised name; sorted.
fn given(table: &Names) -> Vec<(usize, String, String)> {
    let mut all: Vec<_> = table
        .claims
        .iter()
        .map(|(name, claim)| (claim.server, claim.original.to_string(), name.to_string()))
        .collect();
    all.sort();
    all
}

proptest! {
    #[test]
    fn every_host_accepts_every_name(server in name(), item in name()) {
        let name = advertised(&server, &item);
        prop_assert!((1..=MAX_NAME).contains(&name.len()), "{name}");
        prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
    }

    #[test]
    fn every_name_leads_back_to_where_it_came_from(servers in servers()) {
        let table = table(&servers);
        for (at, (server, items)) in servers.iter().enumerate() {
            for item in items {
                let name = table.name_of(at, item).unwrap();
                prop_assert_eq!(table.resolve(name), Some((at, item.as_str())));
                prop_assert!(name.len() <= MAX_NAME);
                let lost = |c: &Collision| c.loser == origin(server, item);
                prop_assert!(name == advertised(server, item) || table.collisions().iter().any(lost));
            }
        }
        let items: HashSet<_> = servers.iter().enumerate()
            .flat_map(|(at, (_, items))| items.iter().map(move |item| (at, item))).collect();
        prop_assert_eq!(table.len(), items.len());
    }

    #[test]
    fn a_server_that_is_added_at_the_end_renames_nothing(mut servers in servers()) {
        let more = given(&table(&servers));
        let last = servers.len() - 1;
        servers.pop();
        let fewer: Vec<_> = more.into_iter().filter(|(server, ..)| *server != last).collect();
        prop_assert_eq!(given(&table(&servers)), fewer);
    }

    #[test]
    fn a_server_that_is_added_anywhere_renames_only_what_is_reported(
        servers in servers(), at in 0_usize..5, added in (name(), proptest::collection::vec(name(), 0..8))
    ) {
        let mut more = servers.clone();
        let at = at.min(servers.len());
        more.insert(at, added);
        let (before, after) = (table(&servers), table(&more));
        let losers: Vec<Origin> = after.collisions().into_iter().map(|c| c.loser).collect();
        for (server, original, name) in given(&before) {
            let now = after.name_of(server + usize::from(server >= at), &original).unwrap();
            let reported = losers.contains(&origin(&servers[server].0, &original));
            prop_assert!(now == name || reported, "{name} became {now}");
        }
    }

    #[test]
    fn the_order_in_which_servers_answer_does_not_matter(servers in servers(), seed in any::<usize>()) {
        let expected = table(&servers);
        let mut claims: Vec<(usize, &String)> = servers.iter().enumerate()
            .flat_map(|(at, (_, items))| items.iter().map(move |item| (at, item))).collect();
        let len = claims.len().max(1);
        for at in 0..claims.len() {
            let other = seed.wrapping_mul(at + 1) % len;
            claims.swap(at, other);
        }
        let names: Vec<&str> = servers.iter().map(|(server, _)| server.as_str()).collect();
        let mut got = Names::new(&names);
        for (server, item) in claims {
            got.advertise(server, item);
        }
        prop_assert_eq!(given(&got), given(&expected));
    }
}
