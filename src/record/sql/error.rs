//! The errors of a sink: those that end it, and those of one transaction.

use std::{fmt, io};

/// A sink that cannot start, or cannot go on.
pub struct SqlError {
    kind: SqlErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of [`SqlError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SqlErrorKind {
    /// The address of the database cannot be read.
    Address,
    /// The database cannot be opened, or its tables cannot be made.
    Database,
    /// The tables are of a newer version of this crate.
    Version,
    /// The spool cannot be opened or written, or another process has it.
    Spool,
    /// The events ended while the database was down, and there was no spool to keep the rest.
    Lost,
}

pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A transaction that did not happen.
#[derive(Debug)]
pub(super) enum StoreError {
    /// The database is not usable now; the same rows may well be stored later.
    Down(Cause),
    /// The database refuses one of the rows, and will again.
    Refused(Cause),
    /// The tables are of a version that is not known here.
    Version(i64),
}

// === impl SqlError ===

impl SqlError {
    pub(super) fn new(kind: SqlErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    pub(super) fn spool(message: &str, error: io::Error) -> Self {
        Self::new(SqlErrorKind::Spool, message).with(error)
    }

    pub(super) fn with(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind of error.
    #[must_use]
    pub fn kind(&self) -> SqlErrorKind {
        self.kind
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlError")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for SqlError {}

// === impl StoreError ===

impl StoreError {
    /// The error of an operation that sends no rows: the database is down, since it can refuse none.
    pub(super) fn or_down(self) -> Self {
        match self {
            Self::Refused(cause) => Self::Down(cause),
            other => other,
        }
    }
}

impl From<StoreError> for SqlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Down(error) | StoreError::Refused(error) => {
                Self::new(SqlErrorKind::Database, "the record database cannot be opened").with(error)
            }
            StoreError::Version(version) => Self::new(
                SqlErrorKind::Version,
                format!("the tables are of version {version}, newer than this program's"),
            ),
        }
    }
}
