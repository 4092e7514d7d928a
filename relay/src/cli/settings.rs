//! From flags, environment and file to one layer of settings.

use std::path::{Path, PathBuf};

use clap::Args;
use mcpm_relay::config::{Config, Database, Layer, Storage, TlsKind};
use mcpm_shared::token::Token;

use super::error::CliError;

/// The environment variable with the shared secret itself. It is read here because a flag of
/// clap's could also be given in argv, which everybody on the machine can read.
const SECRET_ENV: &str = "MCPM_RELAY_SECRET";

/// The environment variable with the token of the DNS provider, for the same reason.
const ACME_DNS_TOKEN_ENV: &str = "MCPM_RELAY_ACME_DNS_TOKEN";

/// The environment variable by which OpenTelemetry names the collector to every program; our own
/// counts before it.
const OTLP_ENDPOINT_ENV: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

#[derive(Clone, Debug, Args)]
pub(super) struct ServeArgs {
    /// Settings file in TOML; flags and environment win over it
    #[arg(long, env = "MCPM_RELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    layer: Layer,
}

impl ServeArgs {
    /// Returns the settings file, where one was named.
    pub(super) fn file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Puts the layers together and resolves them.
    pub(super) fn resolve(self) -> Result<Config, CliError> {
        let read = |name| std::env::var_os(name)?.into_string().ok().map(Token::new);
        let environment = Layer {
            secret: read(SECRET_ENV),
            acme_dns_token: read(ACME_DNS_TOKEN_ENV),
            otlp_endpoint: std::env::var_os(OTLP_ENDPOINT_ENV)
                .and_then(|url| url.into_string().ok()),
            ..Layer::default()
        };
        let layer = layered(self.layer, environment, self.config.as_deref())?;
        Ok(layer.resolve()?)
    }
}

// What commands take that only read the database. Not documented, as clap would show that in place
// of what the command says of itself.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) storage: StorageArgs,
}

/// Where a relay keeps things, for commands that work on its database.
#[derive(Debug, Args)]
pub(super) struct StorageArgs {
    /// Settings file of the relay
    #[arg(long, env = "MCPM_RELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory for the database and the key
    #[arg(long, env = "MCPM_RELAY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Where leases and tokens live: `sqlite:///FILE` or `postgres://USER@HOST/DATABASE`
    /// [default: relay.db in the data directory]
    #[arg(long, env = "MCPM_RELAY_DATABASE", value_name = "URL", hide_env_values = true)]
    database: Option<Database>,

    /// File with the URL of the database, where it holds a password
    #[arg(long, env = "MCPM_RELAY_DATABASE_FILE", value_name = "FILE")]
    database_file: Option<PathBuf>,

    /// Key that signs agent tokens [default: relay.key in the data directory]
    #[arg(long, env = "MCPM_RELAY_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// File with the secret that all nodes have, of which their key is made without --key-file
    #[arg(long, env = "MCPM_RELAY_NODE_SECRET_FILE", value_name = "FILE")]
    node_secret_file: Option<PathBuf>,
}

impl StorageArgs {
    /// Returns where the relay keeps things.
    pub(super) fn resolve(self) -> Result<Storage, CliError> {
        self.resolve_with(Layer::default()).map(|(storage, _)| storage)
    }

    /// Returns where the relay keeps things, and all settings, `more` among them.
    pub(super) fn resolve_with(self, more: Layer) -> Result<(Storage, Layer), CliError> {
        let flags = Layer {
            data_dir: self.data_dir,
            database: self.database,
            database_file: self.database_file,
            key_file: self.key_file,
            node_secret_file: self.node_secret_file,
            ..Layer::default()
        };
        let layer = layered(flags.or(more), Layer::default(), self.config.as_deref())?;
        Ok((layer.storage()?, layer))
    }
}

/// Returns flags over what only the environment may say over file over the default place for data.
pub(super) fn layered(
    flags: Layer,
    environment: Layer,
    file: Option<&Path>,
) -> Result<Layer, CliError> {
    let mut layer = flags.or(environment).or(file.map(read).transpose()?.unwrap_or_default());
    // Who keeps the database in memory keeps nothing, unless told where; and who names a place for
    // everything may have no home.
    let database = layer.database.is_some() || layer.database_file.is_some();
    // Those that are ordered are in the database.
    let makes_certificates = layer.tls == Some(TlsKind::SelfSigned);
    let key = layer.key_file.is_some() || layer.node_secret_file.is_some();
    let elsewhere = database && key && !makes_certificates;
    if layer.database != Some(Database::Memory) && !elsewhere {
        layer.data_dir = layer.data_dir.or_else(default_data_dir);
    }
    Ok(layer)
}

fn read(path: &Path) -> Result<Layer, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| CliError::ConfigFile { path: path.to_owned(), source })?;
    Layer::from_toml(&text)
        .map_err(|source| CliError::ConfigSyntax { path: path.to_owned(), source })
}

fn default_data_dir() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".local/share/mcpm-relay"))
}
