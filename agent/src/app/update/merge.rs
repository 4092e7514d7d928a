//! What the registry changed, put into an entry that the user may have changed too.

use crate::config::ServerChange;
use crate::model::{Transport, Vars};
use crate::registry::manifest::{Arg, Launch, Var};

/// One thing that a registry says otherwise now. Placeholders stand for answers, so that there is
/// no secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: `command`, `args`, `env.NAME`, `url` or `headers.NAME`.
    pub what: String,
    /// What it was, if it was there.
    pub before: Option<String>,
    /// What it is, if it is still there.
    pub after: Option<String>,
}

/// What an entry becomes.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// The change to it.
    pub(super) change: ServerChange,
    /// What the user had changed, and which therefore stays.
    pub(super) kept: Vec<String>,
}

/// Compares what a registry said with what it says.
pub(super) fn differences(old: &Launch, new: &Launch) -> Vec<Difference> {
    let (old, new) = (parts(old), parts(new));
    let value = |parts: &[(String, String)], what: &str| {
        parts.iter().find(|(name, _)| name == what).map(|(_, value)| value.clone())
    };
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in old.iter().chain(&new) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let difference = |what: &String| {
        let (before, after) = (value(&old, what), value(&new, what));
        (before != after).then(|| Difference { what: what.clone(), before, after })
    };
    names.into_iter().filter_map(difference).collect()
}

/// Takes a launch apart, each part as text.
fn parts(launch: &Launch) -> Vec<(String, String)> {
    let vars = |what: &str, vars: &[Var]| -> Vec<(String, String)> {
        vars.iter().map(|var| (format!("{what}.{}", var.name), var.value.clone())).collect()
    };
    match launch {
        Launch::Stdio { command, args, env, .. } => {
            let args: Vec<String> = args.iter().map(words).collect();
            let mut parts = vec![("command".to_owned(), command.clone())];
            parts.push(("args".to_owned(), args.join(" ")));
            parts.extend(vars("env", env));
            parts
        }
        Launch::Remote { url, headers } => {
            let mut parts = vec![("url".to_owned(), url.clone())];
            parts.extend(vars("headers", headers));
            parts
        }
        Launch::Bundle { url, .. } => vec![("bundle".to_owned(), url.clone())],
    }
}

fn words(arg: &Arg) -> String {
    match arg {
        Arg::Words(words) => words.join(" "),
        Arg::Switch { word, .. } => format!("[{word}]"),
        Arg::Spread(input) => format!("${{{input}}}…"),
        Arg::PassEnv(name) => format!("[-e {name}]"),
        // Words of the user may be secrets.
        Arg::Literal(_) => "…".to_owned(),
    }
}

/// Puts into `current` what differs between `old` and `new`. `more` are words behind the arguments.
pub(super) fn merge(
    current: &Transport,
    old: &Transport,
    new: &Transport,
    template: &Launch,
    more: &[String],
) -> Merged {
    let mut merged = Merged::default();
    match (current, old, new, template) {
        (
            Transport::Stdio { env: has, .. },
            Transport::Stdio { command: was, args: words, env: before, .. },
            Transport::Stdio { command, args, env, .. },
            Launch::Stdio { env: template, .. },
        ) => {
            merged.change.command = (was != command).then(|| command.clone());
            let all = || args.iter().chain(more).cloned().collect();
            merged.change.args = (words != args).then(all);
            let vars = three(has, before, env, template);
            (merged.change.env, merged.change.remove_env) = (vars.set, vars.remove);
            merged.kept = vars.kept.into_iter().map(|name| format!("env.{name}")).collect();
        }
        (
            Transport::Remote { headers: has, .. },
            Transport::Remote { url: was, headers: before },
            Transport::Remote { url, headers },
            Launch::Remote { headers: template, .. },
        ) => {
            merged.change.url = (was != url).then(|| url.clone());
            let vars = three(has, before, headers, template);
            (merged.change.headers, merged.change.remove_headers) = (vars.set, vars.remove);
            merged.kept = vars.kept.into_iter().map(|name| format!("headers.{name}")).collect();
        }
        // Who planned this saw to it that all are of one kind.
        _ => {}
    }
    merged
}

#[derive(Debug, Default)]
struct Three {
    set: Vars,
    remove: Vec<String>,
    kept: Vec<String>,
}

/// Merges variables: what the user changed, added or took away stays so.
fn three(has: &Vars, before: &Vars, after: &Vars, template: &[Var]) -> Three {
    let get = |vars: &Vars, name: &str| {
        vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into_owned())
    };
    let mut three = Three::default();
    for (name, new) in after.iter() {
        let (now, old) = (get(has, name), get(before, name));
        if old.as_deref() == Some(&*new) || now.as_deref() == Some(&*new) {
            continue;
        }
        if now == old {
            three.set = std::mem::take(&mut three.set).with(name, new);
        } else {
            three.kept.push(name.to_owned());
        }
    }
    for (name, old) in before.iter().filter(|(name, _)| get(after, name).is_none()) {
        let ours = template.iter().any(|var| var.name == name && var.value == *old);
        match get(has, name) {
            // The registry wrote it, and nobody changed it.
            Some(now) if ours && now == *old => three.remove.push(name.to_owned()),
            Some(_) => three.kept.push(name.to_owned()),
            None => {}
        }
    }
    three
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        pairs.iter().copied().collect()
    }

    fn shown(vars: &Vars) -> Vec<String> {
        vars.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn what_the_user_changed_stays_and_what_nobody_touched_follows() {
        let template: Vec<Var> = ["A", "B", "C", "GONE", "KEY"]
            .map(|name| Var { name: name.to_owned(), value: name.to_lowercase() })
            .into();
        let before =
            vars(&[("A", "a"), ("B", "b"), ("C", "c"), ("GONE", "gone"), ("KEY", "of user")]);
        let after = vars(&[("A", "2"), ("B", "2"), ("C", "2"), ("NEW", "n"), ("MINE", "theirs")]);
        let has = vars(&[
            ("A", "a"),
            ("B", "changed"),
            ("GONE", "gone"),
            ("KEY", "of user"),
            ("MINE", "mine"),
        ]);
        let three = three(&has, &before, &after, &template);
        assert_eq!(shown(&three.set), ["A=2", "NEW=n"]);
        assert_eq!(three.remove, ["GONE"]);
        assert_eq!(three.kept, ["B", "C", "MINE", "KEY"]);
    }
}
