//! Answers to `mcpm usage`. Reading changes nothing in the file.

mod sql;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions as _, Connection as _, FromRow, Row as _, SqliteConnection};

use super::{UsageError, schema};
use crate::fs::Paths;

/// What a report is about.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The last so many days.
    pub days: u32,
    /// One server only.
    pub server: Option<String>,
    /// One profile only.
    pub profile: Option<String>,
}

/// What was used. All times are Unix seconds; all latencies milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// How many days it covers.
    pub days: u32,
    /// Sums.
    pub totals: Totals,
    /// Servers, most used first.
    pub servers: Vec<ServerUsage>,
    /// Profiles, most used first.
    pub profiles: Vec<ProfileUsage>,
    /// Tools, prompts and resources, most used first, at most 100.
    pub calls: Vec<CallUsage>,
    /// Days on which something happened, the latest first.
    pub per_day: Vec<DayUsage>,
    /// The latest sessions, at most 50.
    pub sessions: Vec<SessionUsage>,
    /// The latest failures, at most 20.
    pub errors: Vec<ErrorUsage>,
}

impl Report {
    /// Makes the report of a time in which nothing happened.
    #[must_use]
    pub fn empty(days: u32) -> Self {
        Self { days, ..Self::default() }
    }

    /// Tells whether nothing was used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.profiles.is_empty() && self.sessions.is_empty()
    }
}

/// Declares a row of a report, whose columns come in the order of its fields.
macro_rules! rows {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[non_exhaustive]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)+ }

        impl FromRow<'_, SqliteRow> for $name {
            fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
                Ok(Self { $($field: row.try_get(stringify!($field))?,)+ })
            }
        }
    )+};
}

rows! {
    /// Sums of a report.
    Totals {
        /// Servers that were used.
        servers: i64,
        /// Profiles that were used.
        profiles: i64,
        /// Sessions.
        sessions: i64,
        /// Calls of tools, prompts and resources.
        calls: i64,
        /// Calls that failed.
        errors: i64,
    }
    /// One server.
    ServerUsage {
        /// Its name.
        server: String,
        /// Sessions in which it was used.
        sessions: i64,
        /// Calls.
        calls: i64,
        /// Calls that failed.
        errors: i64,
        /// Half of the calls took no longer.
        p50_ms: Option<f64>,
        /// 19 of 20 calls took no longer.
        p95_ms: Option<f64>,
        /// The longest call.
        max_ms: Option<f64>,
        /// How long its own sessions lasted together; sessions of profiles do not count.
        runtime_ms: i64,
        /// How long all calls took together.
        #[serde(default)]
        busy_ms: Option<f64>,
        /// The size of all requests together.
        #[serde(default)]
        request_bytes: i64,
        /// The size of all answers together.
        #[serde(default)]
        response_bytes: i64,
        /// How its clients come most: `stdio` or `http`.
        transport: Option<String>,
        /// When it was first used in this time.
        first_used: Option<i64>,
        /// When it was last used.
        last_used: Option<i64>,
    }
    /// One profile.
    ProfileUsage {
        /// Its name.
        profile: String,
        /// Its sessions.
        sessions: i64,
        /// Calls in them.
        calls: i64,
        /// Calls that failed.
        errors: i64,
        /// How many servers were used through it.
        servers: i64,
        /// When it was first used in this time.
        first_used: Option<i64>,
        /// When it was last used.
        last_used: Option<i64>,
    }
    /// One tool, prompt or resource.
    CallUsage {
        /// Its server.
        server: Option<String>,
        /// `tool`, `prompt` or `resource`.
        kind: String,
        /// Its name or URI.
        name: String,
        /// How often it was called.
        calls: i64,
        /// How often it failed.
        errors: i64,
        /// Half of the calls took no longer.
        p50_ms: Option<f64>,
        /// 19 of 20 calls took no longer.
        p95_ms: Option<f64>,
        /// The longest call.
        max_ms: Option<f64>,
        /// When it was last called.
        last_used: Option<i64>,
    }
    /// One day, by this machine's clock.
    DayUsage {
        /// The date, such as `2026-11-21`.
        day: String,
        /// Sessions that began.
        sessions: i64,
        /// Calls.
        calls: i64,
        /// Calls that failed.
        errors: i64,
    }
    /// One session.
    SessionUsage {
        /// Its id.
        session: String,
        /// Its server; none for several.
        server: Option<String>,
        /// Its profile.
        profile: Option<String>,
        /// The command that served it, such as `run` or `share`.
        action: Option<String>,
        /// `stdio` or `http`.
        transport: Option<String>,
        /// `local` or `remote`.
        source: Option<String>,
        /// What the client called itself.
        client: Option<String>,
        /// When it began.
        began_at: Option<i64>,
        /// How long it lasted; none when it goes on or its end is not known.
        duration_ms: Option<i64>,
        /// Calls in it.
        calls: i64,
        /// Calls that failed.
        errors: i64,
        /// What ended it, if that was an error.
        error: Option<String>,
    }
    /// One failure.
    ErrorUsage {
        /// When.
        at: Option<i64>,
        /// The server.
        server: Option<String>,
        /// `tool`, `prompt` or `resource`.
        kind: String,
        /// What was called.
        name: String,
        /// What was said.
        error: Option<String>,
    }
}

/// A look into the file of events.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    connection: SqliteConnection,
}

impl Reader {
    /// Opens the file; none when nothing was ever recorded.
    ///
    /// # Errors
    /// When the file cannot be read or is no database.
    pub async fn open(paths: &Paths) -> Result<Option<Self>, UsageError> {
        let path = paths.monitor_db();
        match tokio::fs::metadata(&path).await {
            Ok(file) if file.len() == 0 => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(failed(&path)(error.into())),
        }
        let (connection, has_table) = connect(&path).await.map_err(failed(&path))?;
        Ok(has_table.then_some(Self { path, connection }))
    }

    /// Tells whether a server was ever used.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn knows_server(&mut self, server: &str) -> Result<bool, UsageError> {
        self.knows(sql::KNOWS_SERVER, server).await
    }

    /// Tells whether a profile was ever used.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn knows_profile(&mut self, profile: &str) -> Result<bool, UsageError> {
        self.knows(sql::KNOWS_PROFILE, profile).await
    }

    async fn knows(&mut self, query: &'static str, name: &str) -> Result<bool, UsageError> {
        let query = sqlx::query_scalar(query).bind(name);
        query.fetch_one(&mut self.connection).await.map_err(failed(&self.path))
    }

    /// Tells whether something was recorded before the last so many days. Only then does it mean
    /// anything that a report of these days does not tell of a server.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn goes_back(&mut self, days: u32) -> Result<bool, UsageError> {
        let query = sqlx::query_scalar(sql::GOES_BACK).bind(days);
        query.fetch_one(&mut self.connection).await.map_err(failed(&self.path))
    }

    /// Makes a report, once.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn report(mut self, filter: &Filter) -> Result<Report, UsageError> {
        report(&mut self.connection, filter).await.map_err(failed(&self.path))
    }
}

fn failed(path: &Path) -> impl FnOnce(sqlx::Error) -> UsageError {
    move |source| UsageError::Read { path: path.to_owned(), source }
}

async fn connect(path: &Path) -> Result<(SqliteConnection, bool), sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let options = options.disable_statement_logging();
    let mut connection = SqliteConnection::connect_with(&options).await?;
    // Versions before 2.1 had no sessions, so their events say little.
    let columns: i64 = sqlx::query_scalar(schema::HAS_SESSION).fetch_one(&mut connection).await?;
    Ok((connection, columns > 0))
}

async fn report(connection: &mut SqliteConnection, filter: &Filter) -> Result<Report, sqlx::Error> {
    for statement in sql::WORK_TABLES {
        sqlx::query(*statement).execute(&mut *connection).await?;
    }
    for statement in sql::FILL {
        let query = sqlx::query(*statement).bind(filter.days);
        let query = query.bind(filter.server.as_deref()).bind(filter.profile.as_deref());
        query.execute(&mut *connection).await?;
    }
    Ok(Report {
        days: filter.days,
        totals: sqlx::query_as(sql::TOTALS).fetch_one(&mut *connection).await?,
        servers: sqlx::query_as(sql::SERVERS).fetch_all(&mut *connection).await?,
        profiles: sqlx::query_as(sql::PROFILES).fetch_all(&mut *connection).await?,
        calls: sqlx::query_as(sql::CALLS).fetch_all(&mut *connection).await?,
        per_day: sqlx::query_as(sql::DAYS).fetch_all(&mut *connection).await?,
        sessions: sqlx::query_as(sql::SESSIONS).fetch_all(&mut *connection).await?,
        errors: sqlx::query_as(sql::ERRORS).fetch_all(&mut *connection).await?,
    })
}
