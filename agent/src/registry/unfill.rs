//! The way back: from the entry of a server and the method that made it to what was answered, so
//! that nothing needs to be asked again.

use super::fill::{Answers, FillError, Filled};
use super::manifest::{Arg, Input, Launch, Method, Var};
use super::template::{capture, placeholders};
use crate::model::{Transport, Vars};

/// How many ways to read the arguments are tried: what a registry says must not keep us busy.
const TRIES: usize = 10_000;

/// What an entry was made of.
#[derive(Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The answers.
    pub answers: Answers,
    /// Words that somebody put behind the arguments.
    pub more: Vec<String>,
}

impl std::fmt::Debug for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Answers may be secrets.
        f.debug_set().entries(self.answers.keys()).finish()
    }
}

impl Launch {
    /// Finds the answers that make this entry of it; none when it was changed so that they cannot
    /// be told. Variables and headers that were changed do not matter.
    #[must_use]
    pub fn unfill(&self, transport: &Transport) -> Option<Recovered> {
        match (self, transport) {
            (
                Self::Stdio { command, args, env, .. },
                Transport::Stdio { command: runs, args: words, env: set, .. },
            ) => {
                let mut answers = Answers::new();
                learn(&mut answers, capture(command, runs)?)?;
                learn_vars(&mut answers, env, set);
                let (answers, more) = read(args, words, &answers, &mut TRIES.clone())?;
                Some(Recovered { answers, more })
            }
            (Self::Remote { url, headers }, Transport::Remote { url: at, headers: set }) => {
                let mut answers = Answers::new();
                learn(&mut answers, capture(url, at)?)?;
                learn_vars(&mut answers, headers, set);
                Some(Recovered { answers, more: Vec::new() })
            }
            _ => None,
        }
    }

    /// Makes again what was made of this with these answers.
    ///
    /// # Errors
    /// When they are not those that it was made with.
    pub fn refill(&self, answers: &Answers) -> Result<Filled, FillError> {
        let inputs = self.inputs().into_iter();
        let input = |name: String| Input { name, ..Input::default() };
        let method = Method {
            id: String::new(),
            kind: String::new(),
            description: None,
            recommended: false,
            inputs: inputs.map(input).collect(),
            launch: self.clone(),
            notes: Vec::new(),
        };
        method.fill(answers)
    }

    /// Returns the names of all inputs that it has a place for.
    #[must_use]
    pub fn inputs(&self) -> Vec<String> {
        let mut names = self.placeholders();
        if let Self::Stdio { args, .. } = self {
            for arg in args {
                match arg {
                    Arg::Switch { input, .. } | Arg::Spread(input) if !names.contains(input) => {
                        names.push(input.clone());
                    }
                    _ => {}
                }
            }
        }
        names
    }
}

/// Takes answers over, unless another part of the entry says otherwise.
fn learn<'a>(
    answers: &mut Answers,
    found: impl IntoIterator<Item = (&'a str, String)>,
) -> Option<()> {
    for (name, value) in found {
        match answers.get(name) {
            Some(known) if *known != value => return None,
            _ => {
                answers.insert(name.to_owned(), value);
            }
        }
    }
    Some(())
}

fn learn_vars(answers: &mut Answers, template: &[Var], set: &Vars) {
    for (name, value) in set.iter() {
        let Some(var) = template.iter().find(|var| var.name == name) else { continue };
        let mut tried = answers.clone();
        if capture(&var.value, &value).and_then(|found| learn(&mut tried, found)).is_some() {
            *answers = tried;
        }
    }
}

/// Reads arguments word by word; what may be left out is tried both ways.
fn read(
    template: &[Arg],
    words: &[String],
    answers: &Answers,
    tries: &mut usize,
) -> Option<(Answers, Vec<String>)> {
    *tries = tries.checked_sub(1)?;
    let Some((first, rest)) = template.split_first() else {
        return Some((answers.clone(), words.to_vec()));
    };
    let go_on = |taken: usize, answers: &Answers, tries: &mut usize| {
        read(rest, words.get(taken..)?, answers, tries)
    };
    match first {
        Arg::Words(group) => {
            let with =
                fit(group, words, answers).and_then(|answers| go_on(group.len(), &answers, tries));
            let optional = group.iter().any(|word| !placeholders(word).is_empty());
            with.or_else(|| if optional { go_on(0, answers, tries) } else { None })
        }
        Arg::Switch { word, input } => {
            let on = words.first() == Some(word);
            let mut answers = answers.clone();
            learn(&mut answers, [(input.as_str(), on.to_string())])?;
            go_on(usize::from(on), &answers, tries)
        }
        Arg::Spread(input) => {
            let most = words.iter().take_while(|word| !word.starts_with('-')).count();
            (0..=most).rev().find_map(|taken| {
                let mut answers = answers.clone();
                if taken > 0 {
                    learn(&mut answers, [(input.as_str(), words[..taken].join(","))])?;
                }
                go_on(taken, &answers, tries)
            })
        }
        Arg::PassEnv(name) => {
            let passed = matches!(words, [e, passed, ..] if e == "-e" && passed == name);
            go_on(if passed { 2 } else { 0 }, answers, tries)
        }
        Arg::Literal(word) => {
            if words.first() == Some(word) {
                go_on(1, answers, tries)
            } else {
                None
            }
        }
    }
}

fn fit(group: &[String], words: &[String], answers: &Answers) -> Option<Answers> {
    let mut answers = answers.clone();
    for (at, template) in group.iter().enumerate() {
        learn(&mut answers, capture(template, words.get(at)?)?)?;
    }
    Some(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Arg {
        Arg::Words(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn launch(args: Vec<Arg>) -> Launch {
        let env = vec![
            Var { name: "KEY".to_owned(), value: "${KEY}".to_owned() },
            Var { name: "MODE".to_owned(), value: "fast".to_owned() },
        ];
        Launch::Stdio { command: "npx".to_owned(), args, env, cwd: None }
    }

    fn answers(pairs: &[(&str, &str)]) -> Answers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_was_answered_is_found_again_in_every_kind_of_argument() {
        let switch = Arg::Switch { word: "--loud".to_owned(), input: "loud".to_owned() };
        let launch = launch(vec![
            words(&["-y"]),
            words(&["pkg@1"]),
            Arg::PassEnv("KEY".to_owned()),
            switch,
            words(&["--at", "${HOST}:${PORT}"]),
            words(&["--tz", "${TZ}"]),
            Arg::Spread("dirs".to_owned()),
            Arg::Literal("--mine".to_owned()),
        ]);
        let all = [("KEY", "k"), ("loud", "true"), ("HOST", "h"), ("PORT", "1"), ("dirs", "a,b")];
        for left_out in 0..=all.len() {
            let mut given = answers(&all[left_out..]);
            let filled = launch.refill(&given).unwrap();
            let found = launch.unfill(&filled.transport).unwrap();
            // A switch that is off was answered, as far as anybody can tell.
            given.entry("loud".to_owned()).or_insert_with(|| "false".to_owned());
            if !(given.contains_key("HOST") && given.contains_key("PORT")) {
                given.retain(|name, _| name != "HOST" && name != "PORT");
            }
            assert_eq!(found.answers, given, "without {left_out}");
            assert_eq!(launch.refill(&found.answers).unwrap().transport, filled.transport);
        }
    }

    #[test]
    fn words_behind_the_arguments_are_kept_apart_and_changed_ones_are_noticed() {
        let launch = launch(vec![words(&["-y"]), words(&["pkg@1"])]);
        let entry = |args: &[&str]| {
            let args = args.iter().map(|word| (*word).to_owned()).collect();
            let (command, env) = ("npx".to_owned(), Vars::default().with("MODE", "slow"));
            Transport::Stdio { command, args, env, cwd: None }
        };
        let found = launch.unfill(&entry(&["-y", "pkg@1", "--more", "x"])).unwrap();
        assert_eq!(found.more, ["--more", "x"]);
        assert!(launch.unfill(&entry(&["-y", "pkg@2"])).is_none());
        assert!(launch.unfill(&entry(&[])).is_none());
    }

    #[test]
    fn addresses_are_read_too_and_contradictions_are_noticed() {
        let launch = Launch::Remote {
            url: "https://${a}.example/${b}/${a}".to_owned(),
            headers: Vec::new(),
        };
        let at = |url: &str| Transport::Remote { url: url.to_owned(), headers: Vars::default() };
        let found = launch.unfill(&at("https://x.example/y/x")).unwrap();
        assert_eq!(found.answers, answers(&[("a", "x"), ("b", "y")]));
        assert!(launch.unfill(&at("https://x.example/y/other")).is_none());
        assert!(launch.unfill(&at("https://.example/y/")).is_none());
    }

    #[test]
    fn a_manifest_that_can_be_read_in_many_ways_does_not_keep_us_busy() {
        let many = (0..60).map(|at| words(&["-x", &format!("${{A{at}}}")])).collect();
        let entry: Vec<String> =
            (0..59).map(|_| "-x".to_owned()).chain(["-y".to_owned()]).collect();
        let (command, env) = ("npx".to_owned(), Vars::default());
        let transport = Transport::Stdio { command, args: entry, env, cwd: None };
        let _either_way = launch(many).unfill(&transport);
    }
}
