//! What the manifests of the catalogue ask for, and where it goes.

use super::super::manifest::{Arg, Input, Launch, Method, Var, is_secret_name};
use super::super::template::placeholders;

/// Long options without a value that stand in front of words in the catalogue.
const SWITCHES: [&str; 7] =
    ["--rm", "--yes", "--interactive", "--stdio", "--init", "--tty", "--no-cache"];
/// Short options of docker that have a value.
const SHORT_WITH_VALUE: [&str; 4] = ["-e", "-v", "-p", "-w"];

/// Writes `${NAME}` where a word is the example of a declared input: `NAME=example`, or the word
/// after `--name`.
pub(super) fn named(mut args: Vec<String>, declared: &[Input]) -> Vec<String> {
    for at in 0..args.len() {
        if !placeholders(&args[at]).is_empty() {
            continue;
        }
        let of_word = args[at].split_once('=').and_then(|(key, _)| {
            let fits = |input: &&Input| input.name == key && is_shouted(key);
            declared.iter().find(fits).map(|input| format!("{key}=${{{}}}", input.name))
        });
        let of_option = at.checked_sub(1).and_then(|before| {
            let option = args[before].strip_prefix('-')?.trim_start_matches('-').to_owned();
            let is_value = !args[at].starts_with('-') && !args[before].contains('=');
            let fits = |input: &&Input| is_value && plain(&input.name) == plain(&option);
            declared.iter().find(fits).map(|input| format!("${{{}}}", input.name))
        });
        if let Some(word) = of_word.or(of_option) {
            args[at] = word;
        }
    }
    args
}

/// Joins each word that has a placeholder with the option in front of it, so that both go when
/// nothing is answered.
pub(super) fn grouped(args: Vec<String>) -> Vec<Arg> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    for word in args {
        let before = groups.last_mut().filter(|group| group.len() == 1);
        match before.filter(|group| !placeholders(&word).is_empty() && takes_value(&group[0])) {
            Some(group) => group.push(word),
            None => groups.push(vec![word]),
        }
    }
    groups.into_iter().map(Arg::Words).collect()
}

fn takes_value(word: &str) -> bool {
    let long = word.starts_with("--") && word.len() > 2 && !word.contains('=');
    (long && !SWITCHES.contains(&word)) || SHORT_WITH_VALUE.contains(&word)
}

/// Gives a method its inputs: those that its texts name, in the order in which they are declared,
/// then those that it does not name but needs.
pub(super) fn linked(mut method: Method, declared: &[Input]) -> Method {
    let defaults = name_vars(&mut method.launch, declared);
    for input in declared {
        if method.launch.placeholders().contains(&input.name) {
            continue;
        }
        match &mut method.launch {
            Launch::Stdio { command, args, env, .. } if is_shouted(&input.name) => {
                let value = format!("${{{}}}", input.name);
                env.push(Var { name: input.name.clone(), value });
                pass_on(command, args, &input.name);
            }
            // What a remote server wants, and no header has, it asks for at a login.
            Launch::Stdio { .. } if input.required => method.notes.push(format!(
                "the registry says that `{}` is required, and not where it goes",
                input.name
            )),
            _ => {}
        }
    }
    let named = method.launch.placeholders();
    let known = declared.iter().filter(|input| named.contains(&input.name)).cloned();
    method.inputs = known.collect();
    for input in &mut method.inputs {
        input.default = defaults.iter().find(|var| var.name == input.name).map(|v| v.value.clone());
    }
    for name in named {
        if !method.inputs.iter().any(|input| input.name == name) {
            let secret = is_secret_name(&name);
            method.inputs.push(Input { name, required: true, secret, ..Input::default() });
        }
    }
    method
}

/// Names the inputs that variables and headers stand for. Returns those whose text was more than
/// an example: it holds until somebody says otherwise.
fn name_vars(launch: &mut Launch, declared: &[Input]) -> Vec<Var> {
    let vars = match launch {
        Launch::Stdio { env, .. } => env,
        Launch::Remote { headers, .. } => headers,
        Launch::Bundle { .. } => return Vec::new(),
    };
    let mut defaults = Vec::new();
    for var in vars.iter_mut().filter(|var| placeholders(&var.value).is_empty()) {
        let Some(input) = declared.iter().find(|input| input.name == var.name) else { continue };
        let literal = std::mem::replace(&mut var.value, format!("${{{}}}", input.name));
        let is_example = input.example.as_ref() == Some(&literal);
        if !input.required && !input.secret && !is_example && !literal.is_empty() {
            defaults.push(Var { name: var.name.clone(), value: literal });
        }
    }
    defaults
}

/// Has a container get a variable: docker hands on none that it is not told to.
fn pass_on(command: &str, args: &mut Vec<Arg>, name: &str) {
    let is_run = |arg: &Arg| matches!(arg, Arg::Words(words) if words.iter().any(|w| w == "run"));
    if let ("docker" | "podman", Some(run)) = (command, args.iter().position(is_run)) {
        args.insert(run + 1, Arg::PassEnv(name.to_owned()));
    }
}

/// Tells whether a name is written as variables of the environment are.
fn is_shouted(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_') && name.chars().all(fine)
}

fn plain(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}
