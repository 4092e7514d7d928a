//! Where leases and tokens live, as it is written: a URL, which for PostgreSQL may hold a password.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::values::{ValueError, invalid};

/// Where leases and tokens live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Database {
    /// In the memory of the process: forgotten at its end.
    Memory,
    /// In an SQLite file.
    Sqlite(PathBuf),
    /// In a database of a PostgreSQL server.
    Postgres(PostgresUrl),
}

impl FromStr for Database {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if text.starts_with("postgres:") || text.starts_with("postgresql:") {
            return text.parse().map(Self::Postgres);
        }
        let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:"));
        match path {
            Some(path) if !path.is_empty() && !path.contains(['?', '#']) => {
                Ok(Self::Sqlite(PathBuf::from(path)))
            }
            // What was meant may hold a password: it must not be repeated.
            _ => Err(invalid(
                "not a database URL: give sqlite:///path/to/relay.db, \
                 postgres://USER@HOST/DATABASE or memory:",
            )),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl TryFrom<String> for Database {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<Database> for String {
    fn from(database: Database) -> Self {
        database.to_string()
    }
}

/// The URL of a PostgreSQL database. Shown and printed without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(Zeroizing<String>);

impl PostgresUrl {
    /// Returns the URL as it was written.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Tells whether the URL holds a password, which others on the machine must not read.
    #[must_use]
    pub fn has_password(&self) -> bool {
        let (authority, rest) = self.parts();
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        let (_, query) = rest.split_once('?').unwrap_or((rest, ""));
        user.contains(':') || query.split('&').any(is_secret)
    }

    /// Returns what stands between `//` and the path, and what follows.
    fn parts(&self) -> (&str, &str) {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
    }
}

impl FromStr for PostgresUrl {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let url = Self(Zeroizing::new(text.to_owned()));
        let (authority, rest) = url.parts();
        // A password with a bare `@`, `/` or `#` would be cut in two, and one half be shown.
        let ambiguous = authority.matches('@').count() > 1 || rest.contains(['@', '#']);
        let scheme = text.starts_with("postgres://") || text.starts_with("postgresql://");
        if !scheme || ambiguous || text.contains(char::is_whitespace) {
            return Err(invalid(
                "not a PostgreSQL URL: give postgres://USER:PASSWORD@HOST:PORT/DATABASE, with \
                 special characters of the password as %XX",
            ));
        }
        Ok(url)
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authority, rest) = self.parts();
        f.write_str("postgres://")?;
        match authority.rsplit_once('@') {
            Some((user, host)) => {
                write!(f, "{}@{host}", user.split_once(':').map_or(user, |(user, _)| user))?;
            }
            None => f.write_str(authority)?,
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        f.write_str(path)?;
        let public = query.split('&').filter(|pair| !pair.is_empty() && !is_secret(pair));
        public
            .enumerate()
            .try_for_each(|(n, pair)| write!(f, "{}{pair}", if n == 0 { '?' } else { '&' }))
    }
}

/// A parameter whose name is written with escapes counts as one, whatever it is.
fn is_secret(pair: &str) -> bool {
    let name = pair.split_once('=').map_or(pair, |(name, _)| name);
    name.eq_ignore_ascii_case("password") || name.contains('%')
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_urls_survive_a_round_trip() {
        for text in [
            "memory:",
            "sqlite:///var/lib/mcpm-relay/relay.db",
            "sqlite://relay.db",
            "postgres://relay@db.example:5433/relay?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgres:///relay?host=/run/postgresql",
        ] {
            let database: Database = text.parse().unwrap();
            assert_eq!(database.to_string(), text);
        }
    }

    #[test]
    fn a_password_is_used_and_never_shown() {
        for text in [
            "postgres://relay:hunter2@db/relay",
            "postgresql://relay:hunter2@db",
            "postgres://db/relay?sslmode=require&password=hunter2",
            "postgres://db/relay?Password=hunter2",
            "postgres://db/relay?pass%77ord=hunter2",
        ] {
            let database: Database = text.parse().unwrap();
            assert!(!format!("{database} {database:?}").contains("hunter2"), "{database}");
            let Database::Postgres(url) = database else { unreachable!("{text}") };
            assert!(url.has_password());
            assert_eq!(url.expose(), text);
        }
        let url: PostgresUrl = "postgres://relay@db/relay?sslmode=require".parse().unwrap();
        assert!(!url.has_password());
    }

    #[test]
    fn a_refused_database_url_does_not_repeat_its_password() {
        for text in [
            "postgres:relay:hunter2@db",
            "postgres://relay:hunt@er2@db/relay",
            "postgres://relay:a/hunter2@db/relay",
            "postgres://relay:a#hunter2@db/relay",
            "mysql://relay:hunter2@db/relay",
        ] {
            let error = text.parse::<Database>().unwrap_err();
            assert!(!error.to_string().contains("hunt"), "{error}");
        }
    }
}
