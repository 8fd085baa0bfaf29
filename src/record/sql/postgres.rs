//! Records in PostgreSQL: the database that several gateways share.

use std::{collections::HashMap, error::Error as _, fmt, time::Duration};

use serde::{Serialize, Serializer};
use tokio::runtime::{self, Runtime};
use tokio_postgres::{Client, Config, NoTls, Statement, config::SslMode, error::SqlState};

use super::{
    error::{SqlError, SqlErrorKind, StoreError},
    row::Row,
    run::run,
    schema::{Flavor, Kind, READ_VERSION},
    settings::{Settings, setters},
    summary::Summary,
    writer::{Connect, Store},
};
use crate::record::Events;

/// The longest wait for one answer of the database.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The lock that one of several gateways holds while it makes the tables: `bridge` in ASCII.
const MIGRATION_LOCK: i64 = 0x6272_6964_6765;

/// Drains [`Events`] into PostgreSQL 12 or newer.
///
/// The tables are made in the first schema of the connection's `search_path`. The connection is not encrypted: use a
/// local socket, a private network or a proxy. See the [module docs](super) for the tables and for what is guaranteed.
pub struct PostgresSink {
    config: Config,
    settings: Settings,
}

/// The driver of one connection, on the writer's thread.
struct Connector {
    config: Config,
}

struct PostgresStore {
    runtime: Runtime,
    client: Client,
    statements: HashMap<Kind, Statement>,
}

/// The rows of one kind, as a JSON array.
struct Records<'a>(&'a [Row], Kind);

/// A row as a JSON object.
struct Record<'a>(&'a Row);

// === impl PostgresSink ===

impl PostgresSink {
    /// Takes the database's address, for example `postgres://user:password@localhost/records`. It connects when it runs,
    /// and again whenever the connection is lost.
    ///
    /// # Errors
    ///
    /// When the address cannot be read, or asks for encryption.
    pub fn connect(url: &str) -> Result<Self, SqlError> {
        // The driver's own error could quote a part of the address, and with it the password.
        let mut config: Config = url.parse().map_err(|_| {
            SqlError::new(
                SqlErrorKind::Address,
                "the address of the PostgreSQL database cannot be read",
            )
        })?;
        if config.get_ssl_mode() == SslMode::Require {
            let message = "an encrypted connection to PostgreSQL is not supported";
            return Err(SqlError::new(SqlErrorKind::Address, message));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("tower-llm-bridge");
        }
        Ok(Self {
            config,
            settings: Settings::default(),
        })
    }

    setters!();

    /// Stores events until the last recorder is gone and every event was received: a drain. Needs a thread of its own.
    ///
    /// # Errors
    ///
    /// When the spool cannot be opened or read, when the tables are of a newer version, or when events are lost because
    /// the database was down to the end and there is no spool. The recorder is closed then; interceptions that run go on
    /// writing to the spool, for the next run.
    ///
    /// # Panics
    ///
    /// Within an asynchronous context.
    pub fn run(self, events: Events) -> Result<Summary, SqlError> {
        run(self.settings, Connector { config: self.config }, events)
    }
}

/// Shows no part of the address.
impl fmt::Debug for PostgresSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSink")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

// === impl Connector ===

impl Connect for Connector {
    type Store = PostgresStore;

    const SINK: &str = "postgres";

    fn connect(&mut self) -> Result<PostgresStore, StoreError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| StoreError::Down(error.into()))?;
        let client = runtime.block_on(in_time(async {
            let (mut client, connection) = self.config.connect(NoTls).await?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "the connection to PostgreSQL ended");
                }
            });
            migrate(&mut client).await?;
            Ok(client)
        }))?;
        Ok(PostgresStore {
            runtime,
            client,
            statements: HashMap::new(),
        })
    }
}

async fn migrate(client: &mut Client) -> Result<(), StoreError> {
    let transaction = client.transaction().await?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK])
        .await?;
    transaction.batch_execute(&Flavor::Postgres.create_version()).await?;
    let version = transaction
        .query_opt(READ_VERSION, &[])
        .await?
        .map(|row| row.try_get(0))
        .transpose()?;
    for statement in Flavor::Postgres.upgrade(version)? {
        transaction.batch_execute(&statement).await?;
    }
    transaction.commit().await?;
    Ok(())
}

// === impl PostgresStore ===

impl Store for PostgresStore {
    fn store(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        let Self {
            runtime,
            client,
            statements,
        } = self;
        runtime.block_on(in_time(write(client, statements, rows)))
    }
}

/// One statement for all rows of a kind, which travel as one JSON array.
async fn write(client: &mut Client, statements: &mut HashMap<Kind, Statement>, rows: &[Row]) -> Result<(), StoreError> {
    let transaction = client.transaction().await?;
    for kind in Kind::ALL {
        if !rows.iter().any(|row| row.kind == kind) {
            continue;
        }
        let records = serde_json::to_string(&Records(rows, kind)).map_err(|error| StoreError::Refused(error.into()))?;
        let statement = match statements.get(&kind) {
            Some(statement) => statement.clone(),
            None => {
                let statement = transaction.prepare(&insert(kind)).await?;
                statements.entry(kind).or_insert(statement).clone()
            }
        };
        transaction.execute(&statement, &[&records]).await?;
    }
    transaction.commit().await?;
    Ok(())
}

fn insert(kind: Kind) -> String {
    let (names, table) = (kind.column_names(), kind.table().name);
    kind.insert(&format!(
        "SELECT {names} FROM jsonb_populate_recordset(NULL::{table}, $1::text::jsonb)"
    ))
}

async fn in_time<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| Err(StoreError::Down("no answer for 30 seconds".into())))
}

// === impl Records ===

impl Serialize for Records<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(rows, kind) = self;
        serializer.collect_seq(rows.iter().filter(|row| row.kind == *kind).map(Record))
    }
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.cells().map(|(column, value)| (column.name, value)))
    }
}

// === impl StoreError ===

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        // A row twice in one statement, data that is invalid, breaks a constraint, or is larger than an index allows.
        let is_about_rows =
            |state: &SqlState| ["21", "22", "23", "54"].contains(&state.code().get(..2).unwrap_or_default());
        match (error.code(), error.as_db_error(), error.source()) {
            // The server's message may quote the row.
            (Some(state), ..) if is_about_rows(state) => Self::Refused(format!("SQLSTATE {}", state.code()).into()),
            (Some(state), Some(words), _) => {
                Self::Down(format!("{} (SQLSTATE {})", words.message(), state.code()).into())
            }
            (.., Some(cause)) => Self::Down(format!("{error}: {cause}").into()),
            _ => Self::Down(error.into()),
        }
    }
}
