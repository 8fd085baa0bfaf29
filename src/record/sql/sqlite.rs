//! Records in a SQLite file: the database for one gateway on one machine.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{
    Connection, ErrorCode, OptionalExtension, TransactionBehavior, params_from_iter,
    types::{ToSql, ToSqlOutput, ValueRef},
};
use serde_json::Value;

use super::{
    error::{SqlError, StoreError},
    private::private,
    row::Row,
    run::run,
    schema::{Flavor, Kind, READ_VERSION, Type},
    settings::{Settings, setters},
    summary::Summary,
    writer::{Connect, Store},
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

pub(super) struct SqliteStore {
    connection: Connection,
    /// The statement for each kind of row.
    inserts: [String; Kind::ALL.len()],
}

/// A value and the type of its column.
struct Cell<'a>(Type, &'a Value);

// === impl SqliteSink ===

impl SqliteSink {
    /// Opens the file, or creates it, and brings its tables up to date.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or written, is not a SQLite file, or has tables of a newer version.
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
    /// the database was down to the end and there is no spool. The recorder is closed then; interceptions that run go on
    /// writing to the spool, for the next run.
    ///
    /// # Panics
    ///
    /// Within an asynchronous context.
    pub fn run(self, events: Events) -> Result<Summary, SqlError> {
        run(self.settings, self.path, events)
    }
}

impl Connect for PathBuf {
    type Store = SqliteStore;

    const SINK: &str = "sqlite";

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
        // A commit has to be on the disk: the spool forgets the rows then.
        connection.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut connection)?;
        Ok(Self {
            connection,
            inserts: Kind::ALL.map(insert),
        })
    }
}

impl Store for SqliteStore {
    fn store(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for row in rows {
            let mut insert = transaction.prepare_cached(&self.inserts[row.kind as usize])?;
            insert.execute(params_from_iter(
                row.cells().map(|(column, value)| Cell(column.kind, value)),
            ))?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn insert(kind: Kind) -> String {
    let places = vec!["?"; kind.columns().count()].join(", ");
    kind.insert(&format!("VALUES ({places})"))
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(&Flavor::Sqlite.create_version())?;
    let version = transaction.query_row(READ_VERSION, [], |row| row.get(0)).optional()?;
    for statement in Flavor::Sqlite.upgrade(version)? {
        transaction.execute_batch(&statement)?;
    }
    transaction.commit()?;
    Ok(())
}

// === impl Cell ===

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let Self(kind, value) = self;
        Ok(match value {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            json if *kind == Type::Json => json.to_string().into(),
            Value::Bool(flag) => (*flag).into(),
            Value::Number(number) => match number.as_i64() {
                Some(count) => count.into(),
                None => number.to_string().into(),
            },
            Value::String(text) => text.as_str().into(),
            Value::Array(_) | Value::Object(_) => value.to_string().into(),
        })
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
