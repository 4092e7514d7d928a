//! The answers to what a server asks for: from the command line, the environment, or a person.

use super::super::error::CliError;
use super::super::table::clean;
use super::super::{Context, env};
use crate::model::reference::masked;
use crate::registry::fill::{Answers, variable_of, variable_of_server};
use crate::registry::manifest::Input;

/// Reads `ARGUMENT=VALUE`.
pub(in crate::cli) fn given(set: &[String]) -> Result<Answers, CliError> {
    let pair = |text: &String| {
        let pair = text.split_once('=').filter(|(name, _)| !name.trim().is_empty());
        // What it says may be a secret.
        let wrong = || CliError::usage("an answer is not of the form ARGUMENT=VALUE");
        pair.map(|(name, value)| (name.trim().to_owned(), value.to_owned())).ok_or_else(wrong)
    };
    set.iter().map(pair).collect()
}

/// Completes what was given on the command line.
pub(in crate::cli) fn gather(
    server: &str,
    inputs: &[Input],
    given: Answers,
    context: &Context,
) -> Result<Answers, CliError> {
    check(inputs, &given)?;
    let mut answers = given;
    for input in inputs {
        if answers.contains_key(&input.name) {
            continue;
        }
        let beforehand = beforehand(server, input);
        let answer = match beforehand {
            Some(answer) => Some(answer),
            None if context.ui.may_ask() => Some(ask(input, context)?),
            None => None,
        };
        answers.extend(answer.map(|answer| (input.name.clone(), answer)));
    }
    Ok(answers)
}

/// Refuses answers to questions that nobody asks, and secrets that everybody can see.
fn check(inputs: &[Input], given: &Answers) -> Result<(), CliError> {
    for (name, value) in given {
        let Some(input) = inputs.iter().find(|input| input.name == *name) else {
            let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
            let hint = match names.as_slice() {
                [] => "It asks for nothing".to_owned(),
                names => format!("It asks for {}", names.join(", ")),
            };
            return Err(
                CliError::usage(format!("the server does not ask for `{name}`")).with_hint(hint)
            );
        };
        // Nothing is left of a secret that is only referred to when its text is masked.
        if input.secret && masked(value) != *value {
            let variable = variable_of(name);
            return Err(CliError::usage(format!("`{name}` is a secret; others can read a command line"))
                .with_hint(format!("Set {variable} in the environment, or say where it is: --set '{name}=${{VARIABLE}}'")));
        }
    }
    Ok(())
}

/// Returns what the environment says: of this server, of any, or of everything.
fn beforehand(server: &str, input: &Input) -> Option<String> {
    let name = &input.name;
    let ours = [variable_of_server(server, name), variable_of(name)];
    let answer = env::answer(&ours.each_ref().map(String::as_str));
    // `DEBUG` or `PORT` in the environment are rarely meant for a server that can do without.
    answer.or_else(|| env::answer(&[name]).filter(|_| input.required))
}

fn ask(input: &Input, context: &Context) -> Result<String, CliError> {
    let ui = context.ui;
    let about = input.description.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
    let example = input.example.as_deref().filter(|_| !input.secret);
    let example = example.map(|text| format!(" (for example {text})")).unwrap_or_default();
    let optional = if input.required { "" } else { " (optional)" };
    let prompt = clean(&format!("{}{about}{example}{optional}", input.name));
    if input.secret {
        let may_be_empty = !input.required || input.default.is_some();
        return Ok(ui.ask_secret(&prompt, may_be_empty)?.expose().to_owned());
    }
    if !input.choices.is_empty() && input.required {
        let items: Vec<&str> = input.choices.iter().map(String::as_str).collect();
        return Ok(input.choices[ui.choose(&prompt, &items)?].clone());
    }
    match &input.default {
        Some(default) => ui.ask(&prompt, Some(default)),
        None if input.required => ui.ask(&prompt, None),
        None => ui.ask_or_nothing(&prompt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::Ui;

    fn input(name: &str, secret: bool) -> Input {
        Input { name: name.to_owned(), required: true, secret, ..Input::default() }
    }

    fn gathered(set: &[&str]) -> Result<Answers, CliError> {
        let context = Context { ui: Ui::new(true, false), config_dir: None };
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        let inputs = [input("place-of-test", false), input("token-of-test", true)];
        gather("x", &inputs, given(&set)?, &context)
    }

    #[test]
    fn a_secret_on_the_command_line_is_refused_and_a_place_of_it_is_not() {
        let error = gathered(&["token-of-test=s3cret"]).unwrap_err();
        assert!(!error.to_string().contains("s3cret"));
        assert!(error.hint().unwrap().contains("MCPM_ARG_TOKEN_OF_TEST"));
        assert_eq!(error.exit(), 2);
        for value in ["${TOKEN}", "file:~/token", "file:/run/secrets/token"] {
            let answers = gathered(&[&format!("token-of-test={value}")]).unwrap();
            assert_eq!(answers["token-of-test"], value);
        }
        assert!(gathered(&["token-of-test=${TOKEN}s3cret"]).is_err());
    }

    #[test]
    fn answers_that_nobody_asked_for_are_refused() {
        let error = gathered(&["plcae-of-test=x"]).unwrap_err();
        assert!(error.hint().unwrap().contains("place-of-test"));
        assert!(gathered(&["no-equal-sign"]).is_err());
        assert_eq!(gathered(&["place-of-test=a=b"]).unwrap()["place-of-test"], "a=b");
    }

    #[test]
    fn nobody_is_asked_where_nobody_is() {
        assert!(gathered(&[]).unwrap().is_empty());
    }
}
