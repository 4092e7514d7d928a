//! The inputs of `server.json`: variables, headers and arguments that somebody must say.

use serde_json::Value;

use super::super::catalogue::{scalar, strings, text};
use super::super::manifest::{Arg, Input, Var, is_secret_name};
use super::super::template::{from_braces, placeholders};

/// Gathers the inputs of one method, each name once.
#[derive(Debug, Default)]
pub(super) struct Inputs(Vec<Input>);

impl Inputs {
    pub(super) fn done(self) -> Vec<Input> {
        self.0
    }

    fn add(&mut self, input: Input) {
        if !self.0.iter().any(|known| known.name == input.name) {
            self.0.push(input);
        }
    }

    /// Adds the variables that a text names as `{name}`. What holds the text says whether it is
    /// required; else each variable says it.
    pub(super) fn add_variables(&mut self, text: &str, holder: &Value, required: Option<bool>) {
        let variables = &holder["variables"];
        let hidden = holder["isSecret"] == true;
        let text = from_braces(text);
        for name in placeholders(&text) {
            let input = input(name, &variables[name]);
            // Nothing says what an undeclared one could be but the user.
            let own = input.required || variables[name].is_null();
            let secret = hidden || input.secret;
            self.add(Input { required: required.unwrap_or(own), secret, ..input });
        }
    }

    /// Reads variables of the environment, or headers.
    pub(super) fn vars(&mut self, vars: &Value) -> Vec<Var> {
        let vars = vars.as_array().into_iter().flatten();
        vars.filter_map(|var| {
            let name = text(&var["name"])?;
            Some(Var { value: self.value(&name, var), name })
        })
        .collect()
    }

    /// Reads the arguments of a command; `of_runtime` when they are for what runs a package.
    pub(super) fn args(&mut self, args: &Value, of_runtime: bool) -> Vec<Arg> {
        let args = args.as_array().into_iter().flatten().enumerate();
        args.filter_map(|(at, arg)| self.arg(at, arg, of_runtime)).collect()
    }

    fn arg(&mut self, at: usize, arg: &Value, of_runtime: bool) -> Option<Arg> {
        if arg["type"] != "named" {
            let hint = text(&arg["valueHint"]).or_else(|| text(&arg["name"]));
            let name = hint.unwrap_or_else(|| format!("argument-{}", at + 1));
            let value = self.value(&name, arg);
            return Some(Arg::Words(vec![value]));
        }
        let word = text(&arg["name"])?;
        let name = word.trim_start_matches('-').to_owned();
        let says = |key: &str| scalar(&arg[key]).is_some();
        if says("value") {
            let value = self.value(&name, arg);
            let words = if value.is_empty() { vec![word] } else { vec![word, value] };
            return Some(Arg::Words(words));
        }
        if arg["format"] == "boolean" {
            self.add(input(&name, arg));
            return Some(Arg::Switch { word, input: name });
        }
        let asks = says("default") || says("placeholder") || arg["choices"].is_array();
        if of_runtime && !asks && !says("valueHint") {
            // A word of a runner that nothing is said about, such as `-y`, stands for itself.
            return Some(Arg::Words(vec![word]));
        }
        self.add(input(&name, arg));
        Some(Arg::Words(vec![word, format!("${{{name}}}")]))
    }

    /// Returns the text of a variable, header or argument: its own, or a placeholder of its name.
    fn value(&mut self, name: &str, holder: &Value) -> String {
        if let Some(value) = scalar(&holder["value"]) {
            let required = holder["isRequired"].as_bool();
            self.add_variables(&value, holder, required);
            return from_braces(&value);
        }
        self.add(input(name, holder));
        format!("${{{name}}}")
    }
}

fn input(name: &str, value: &Value) -> Input {
    let fixed = scalar(&value["value"]);
    Input {
        name: name.to_owned(),
        description: text(&value["description"]),
        required: value["isRequired"] == true,
        secret: value["isSecret"].as_bool().unwrap_or(false) || is_secret_name(name),
        default: fixed.or_else(|| scalar(&value["default"])),
        example: scalar(&value["placeholder"]),
        choices: strings(&value["choices"]),
    }
}
