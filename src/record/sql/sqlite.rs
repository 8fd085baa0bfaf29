//! Records in a SQLite file: the database for one gateway on one machine.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params_from_iter, types::Value as Cell};
use serde_json::Value;

use super::private::private;
use super::{
    Settings, SqlError, Summary,
    row::Row,
    schema::{Flavor, Type, VERSION, VERSION_TABLE},
    setters,
    writer::{Connect, Store, StoreError},
};
use crate::record::Events;

/// How long another process may hold the file's lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Drains [`Events`] into a SQLite file.
///
/// The file is in WAL mode, so others can read it while it is written. See the [module docs](super) for the tables, for
/// what is guaranteed, and for an example.
#[derive(Clone, Debug)]
pub struct SqliteSink {
    path: PathBuf,
    settings: Settings,
}

pub(super) struct SqliteStore(Connection);

// === impl SqliteSink ===

impl SqliteSink {
    /// Opens the file, or creates it, and brings its tables up to date.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or written, is no SQLite file, or has tables of a newer version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SqlError> {
        let mut path = path.as_ref().to_owned();
        SqliteStore::open(&path)?;
        // The working directory may change later.
        if let Ok(absolute) = path.canonicalize() {
            path = absolute;
        }
        Ok(Self {
            path,
            settings: Settings::default(),
        })
    }

    setters!();

    /// Stores events until the last recorder is gone and every event was received: a drain. Needs a thread of its own.
    ///
    /// # Errors
    ///
    /// When the spool cannot be opened or read, when the tables are of a newer version, or when events are lost because
    /// the database was down to the end and there is no spool. The recorder is closed then.
    ///
    /// # Panics
    ///
    /// Within an asynchronous context.
    pub fn run(self, events: Events) -> Result<Summary, SqlError> {
        super::run(self.settings, self.path, events)
    }
}

impl Connect for PathBuf {
    type Store = SqliteStore;

    fn connect(&mut self) -> Result<SqliteStore, StoreError> {
        SqliteStore::open(self)
    }
}

// === impl SqliteStore ===

impl SqliteStore {
    fn open(path: &Path) -> Result<Self, StoreError> {
        // Made here, so that SQLite's files have its mode.
        let made = private().append(true).create(true).open(path);
        drop(made);
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(LOCK_WAIT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // Committed means on the disk: the spool forgets it then.
        connection.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut connection)?;
        Ok(Self(connection))
    }
}

impl Store for SqliteStore {
    fn store(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for row in rows {
            let places = vec!["?"; row.kind.columns().count()].join(", ");
            let mut insert = transaction.prepare_cached(&row.kind.insert(&format!("VALUES ({places})")))?;
            let cells = row
                .kind
                .columns()
                .map(|column| cell(column.kind, row.columns.get(column.name).unwrap_or(&Value::Null)));
            insert.execute(params_from_iter(cells))?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version INTEGER NOT NULL)"
    ))?;
    let version: Option<i64> = transaction
        .query_row(&format!("SELECT version FROM {VERSION_TABLE}"), [], |row| row.get(0))
        .optional()?;
    if let Some(version) = version.filter(|version| *version > VERSION) {
        return Err(StoreError::Version(version));
    }
    for from in version.unwrap_or(0)..VERSION {
        for statement in Flavor::Sqlite.migration(from) {
            transaction.execute_batch(&statement)?;
        }
    }
    if version != Some(VERSION) {
        transaction.execute_batch(&format!(
            "DELETE FROM {VERSION_TABLE}; INSERT INTO {VERSION_TABLE} VALUES ({VERSION})"
        ))?;
    }
    transaction.commit()?;
    Ok(())
}

fn cell(kind: Type, value: &Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        json if kind == Type::Json => Cell::Text(json.to_string()),
        Value::Bool(flag) => Cell::Integer((*flag).into()),
        Value::Number(number) => match number.as_i64() {
            Some(count) => Cell::Integer(count),
            None => Cell::Text(number.to_string()),
        },
        Value::String(text) => Cell::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => Cell::Text(value.to_string()),
    }
}

// === impl StoreError ===

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
                Self::Refused(error.into())
            }
            _ => Self::Down(error.into()),
        }
    }
}
