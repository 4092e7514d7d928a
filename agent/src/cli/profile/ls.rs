//! `mcpm profile ls`: which profiles there are, and what is in them.

use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::table::{Column, clean, table};
use crate::cli::{Context, JsonArg, ls};
use crate::config::{GlobalConfigManager, Listed, Profile, ProfileConfigManager};

/// List profiles and their servers
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show this profile alone, with commands and URLs
    profile: Option<String>,
    /// Show commands and URLs too; values of variables and headers are never shown
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let paths = context.paths()?;
    let profiles = ProfileConfigManager::open(&paths)?;
    let listed = GlobalConfigManager::open(&paths)?.list_servers();
    let ui = context.ui;
    if let Some(name) = &args.profile {
        let profile = profiles.profile(name)?;
        if ui.is_json() {
            ui.json(&to_json(&profile, &listed));
        } else {
            details(&profile, &listed).into_iter().for_each(|line| ui.result(line));
        }
        return Ok(());
    }
    let profiles = profiles.list_profiles();
    if ui.is_json() {
        ui.json(&profiles.iter().map(|profile| to_json(profile, &listed)).collect::<Value>());
        return Ok(());
    }
    if profiles.is_empty() {
        ui.note("There are no profiles. Make one with `mcpm profile create NAME`.");
    } else if args.verbose {
        let lines = profiles.iter().flat_map(|profile| details(profile, &listed));
        lines.for_each(|line| ui.result(line));
    } else {
        let rows: Vec<[String; 2]> = profiles.into_iter().map(row).collect();
        let columns = [Column::Left("PROFILE"), Column::Left("SERVERS")];
        table(columns, &rows).into_iter().for_each(|line| ui.result(line));
    }
    Ok(())
}

fn row(profile: Profile) -> [String; 2] {
    let servers = match profile.servers.is_empty() {
        true => "-".to_owned(),
        false => profile.servers.join(", "),
    };
    [profile.name, servers]
}

fn details(profile: &Profile, listed: &[Listed]) -> Vec<String> {
    let mut title = clean(&profile.name);
    if let Some(description) = &profile.description {
        title.push_str(&format!(": {}", clean(description)));
    }
    let servers = members(profile, listed);
    let width = servers.iter().map(|entry| entry.name.chars().count()).max().unwrap_or(0);
    let lines = servers.into_iter().map(|Listed { name, server }| match server {
        Ok(server) => ls::line(server, width, true),
        Err(error) => format!("{name:width$}  cannot be used: {error}"),
    });
    let lines = lines.map(|text| format!("  {}", text.replace('\n', "\n  ")));
    std::iter::once(title).chain(lines).collect()
}

fn members<'a>(profile: &Profile, listed: &'a [Listed]) -> Vec<&'a Listed> {
    listed.iter().filter(|entry| profile.servers.contains(&entry.name)).collect()
}

fn to_json(profile: &Profile, listed: &[Listed]) -> Value {
    json!({
        "name": profile.name,
        "description": profile.description,
        "servers": members(profile, listed).into_iter().map(ls::to_json).collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Home;

    #[test]
    fn one_profile_or_all_are_listed() {
        let home = Home::new();
        home.write(
            "servers.json",
            r#"{"a": {"command": "x", "env": {"K": "s3cret"}, "profile_tags": ["work"]}, "bad": {"profile_tags": ["work"]}}"#,
        );
        for args in
            [&["profile", "ls"][..], &["profile", "ls", "work"], &["profile", "ls", "-v", "--json"]]
        {
            home.run(args).unwrap();
        }
        assert_eq!(home.run(&["profile", "ls", "wrk"]).unwrap_err().exit(), 1);
        let profile = ProfileConfigManager::open(&home.paths).unwrap().profile("work").unwrap();
        let listed = GlobalConfigManager::open(&home.paths).unwrap().list_servers();
        let expected = [
            "work",
            "  a    stdio   [work]\n      x\n      env: K=***",
            "  bad  cannot be used: the entry has none of `command`, `url` and `config`",
        ];
        assert_eq!(details(&profile, &listed), expected);
    }

    /// Defect 27 of the Python `mcpm`: a literal `\n` was printed.
    #[test]
    fn no_literal_backslash_n_is_printed() {
        let profile = Profile { name: "a\nb".to_owned(), description: None, servers: Vec::new() };
        assert_eq!(details(&profile, &[]), ["ab"]);
        assert_eq!(row(profile)[1], "-");
    }
}
