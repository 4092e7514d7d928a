//! `mcpm-relay domain add|verify|rm|ls`: works on the database that a running relay follows.

use clap::{Args, Subcommand};
use mcpm_relay::admission::unix_now;
use mcpm_relay::config::{DnsServers, Domain, Layer};
use mcpm_relay::domains::{Checker, Dns};
use mcpm_relay::host::CustomDomain;
use mcpm_relay::operator::domains::{self, DomainEntry};
use mcpm_relay::operator::parse_owner;
use mcpm_relay::store::DomainState;
use mcpm_shared::name::Name;

use super::error::CliError;
use super::out::{note, say, say_json};
use super::settings::{StorageArgs, StoreArgs};
use super::storage::{block_on, open, open_at, open_or_make_at};
use super::table::{date, or_dash, table};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a domain for a share of its owner; it is served once the DNS proves whose it is
    Add(AddArgs),
    /// Ask the DNS now whether a domain is its owner's; a running relay asks from time to time
    Verify(VerifyArgs),
    /// Take a domain out; a running relay stops serving it within a second
    Rm(RmArgs),
    /// List the domains that were added
    Ls(StoreArgs),
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The domain, such as mcp.example.org
    #[arg(value_name = "DOMAIN")]
    domain: CustomDomain,

    /// Whose it is: a token's subject, or key:THUMBPRINT. Only a share of this owner answers
    #[arg(long, value_name = "OWNER")]
    owner: String,

    /// The name of the share that it leads to
    #[arg(long, value_name = "NAME")]
    name: Name,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    relay: RelayArgs,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The domain
    #[arg(value_name = "DOMAIN")]
    domain: CustomDomain,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    relay: RelayArgs,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// The domain
    #[arg(value_name = "DOMAIN")]
    domain: CustomDomain,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

/// What the DNS is asked with.
#[derive(Debug, Args)]
struct RelayArgs {
    /// The relay's own domain, under which shares are named
    #[arg(long, env = "MCPM_RELAY_DOMAIN", value_name = "HOST")]
    relay_domain: Option<Domain>,

    /// Name servers that say whose the domain is, such as 192.0.2.53 [default: system]
    #[arg(long, env = "MCPM_RELAY_DNS_SERVERS", value_name = "ADDRS")]
    dns_servers: Option<DnsServers>,

    #[command(flatten)]
    storage: StorageArgs,
}

impl RelayArgs {
    fn resolve(self) -> Result<(mcpm_relay::config::Storage, Checker), CliError> {
        let more =
            Layer { domain: self.relay_domain, dns_servers: self.dns_servers, ..Layer::default() };
        let (storage, layer) = self.storage.resolve_with(more)?;
        let servers = layer.dns_servers.unwrap_or_default();
        let apex = layer.domain.map(|domain| domain.as_str().to_owned());
        Ok((storage, Checker { dns: Dns::new(servers.addresses().to_vec()), apex }))
    }
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    block_on(async {
        match command {
            Command::Add(args) => add(args).await,
            Command::Verify(args) => verify(args).await,
            Command::Rm(args) => remove(args).await,
            Command::Ls(args) => list(args).await,
        }
    })
}

async fn add(args: AddArgs) -> Result<(), CliError> {
    let owner = parse_owner(&args.owner)?;
    let (storage, checker) = args.relay.resolve()?;
    let (store, _key) = open_or_make_at(&storage).await?;
    let (apex, now) = (checker.apex.as_deref(), unix_now());
    let added = domains::add_domain(&*store, apex, args.domain, &owner, args.name, now).await?;
    if args.json {
        return say_json(&added);
    }
    note(&to_do(&added, apex));
    Ok(())
}

/// Says what is still to do for a domain that was added.
fn to_do(added: &DomainEntry, apex: Option<&str>) -> String {
    let (record, proof) = (&added.record, &added.proof);
    if record.state == DomainState::Verified {
        return format!("the domain {} leads to {} now", record.domain, record.name);
    }
    let leads = match apex {
        Some(apex) => {
            format!("CNAME {}.{apex}. (or A and AAAA with the relay's addresses)", record.name)
        }
        // Without the relay's domain there is no name to be an alias of.
        None => "A and AAAA with the relay's addresses".to_owned(),
    };
    format!(
        "the domain {} waits for its proof; let its owner make two records in the DNS:\n  \
         {}. TXT \"{}\"\n  \
         {}. {leads}\n\
         A running relay sees them within minutes; `mcpm-relay domain verify {}` looks at once.",
        record.domain, proof.name, proof.text, record.domain, record.domain,
    )
}

async fn verify(args: VerifyArgs) -> Result<(), CliError> {
    let (storage, checker) = args.relay.resolve()?;
    let (store, _key) = open_at(&storage).await?;
    let found = domains::verify_domain(&*store, &checker, &args.domain, unix_now()).await?;
    if args.json {
        say_json(&found)?;
    }
    let record = found.record;
    if !record.problem.is_empty() {
        return Err(CliError::NotProved { domain: record.domain, problem: record.problem });
    }
    if !args.json {
        note(&format!("the domain {} is served and leads to {}", record.domain, record.name));
    }
    Ok(())
}

async fn remove(args: RmArgs) -> Result<(), CliError> {
    let (store, _key) = open(args.storage).await?;
    let removed = domains::remove_domain(&*store, &args.domain, unix_now()).await?;
    if args.json {
        return say_json(&removed);
    }
    note(&format!("the domain {} is not served any more", args.domain));
    Ok(())
}

async fn list(args: StoreArgs) -> Result<(), CliError> {
    let (store, _key) = open(args.storage).await?;
    let all = domains::domains(&*store).await?;
    if args.json {
        return say_json(&all);
    }
    if all.is_empty() {
        note("no domain was added yet");
        return Ok(());
    }
    say(&rows(&all))
}

fn rows(all: &[DomainEntry]) -> String {
    let row = |entry: &DomainEntry| {
        let record = &entry.record;
        [
            record.domain.to_string(),
            record.state.name().to_owned(),
            record.owner.clone(),
            record.name.to_string(),
            or_dash(record.proved_at.map(date)),
            record.problem.clone(),
        ]
    };
    let head = ["DOMAIN", "STATE", "OWNER", "NAME", "PROVED", "PROBLEM"];
    table(head, all.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use mcpm_relay::store::DomainRecord;

    use super::*;

    fn entry(domain: &str, state: DomainState) -> DomainEntry {
        let proved = state == DomainState::Verified;
        let problem = "there is no TXT record _mcpm-relay.b.example.org";
        DomainEntry::from(DomainRecord {
            domain: domain.parse().unwrap(),
            owner: "sub:ada".to_owned(),
            name: "calc".parse().unwrap(),
            token: "PROOF".to_owned(),
            state,
            added_at: 1_800_000_000,
            checked_at: Some(1_800_000_000),
            proved_at: proved.then_some(1_800_000_000),
            failing_since: None,
            problem: if proved { String::new() } else { problem.to_owned() },
            changed_at: 1_800_000_000,
            revision: 1,
        })
    }

    #[test]
    fn the_table_of_domains_says_which_are_served_and_what_is_missing() {
        let all = [
            entry("a.example.org", DomainState::Verified),
            entry("b.example.org", DomainState::Pending),
        ];
        insta::assert_snapshot!(rows(&all), @r"
        DOMAIN         STATE     OWNER    NAME  PROVED                PROBLEM
        a.example.org  verified  sub:ada  calc  2027-01-15T08:00:00Z
        b.example.org  pending   sub:ada  calc  -                     there is no TXT record _mcpm-relay.b.example.org
        ");
    }

    #[test]
    fn who_adds_a_domain_is_told_what_the_dns_must_say() {
        let added = entry("b.example.org", DomainState::Pending);
        insta::assert_snapshot!(to_do(&added, Some("share.example.com")), @r#"
        the domain b.example.org waits for its proof; let its owner make two records in the DNS:
          _mcpm-relay.b.example.org. TXT "mcpm-relay-verify=PROOF"
          b.example.org. CNAME calc.share.example.com. (or A and AAAA with the relay's addresses)
        A running relay sees them within minutes; `mcpm-relay domain verify b.example.org` looks at once.
        "#);
    }
}
