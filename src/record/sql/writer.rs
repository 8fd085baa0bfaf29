//! Writes the backlog to the database: in batches, again after a failure, and in ever smaller parts around a refused
//! row.

use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tokio::time::Instant;

use super::{
    backlog::{AtEnd, Backlog, Next},
    error::{Cause, SqlError, SqlErrorKind, StoreError},
    private::private,
    row::Row,
    settings::Settings,
    summary::Summary,
};
use crate::metrics;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The largest file of refused rows, in bytes.
const MAX_REJECTED: u64 = 64 << 20;

/// Opens a database, again after each failure.
pub(super) trait Connect: Send + 'static {
    type Store: Store;

    /// The sink's name in metrics.
    const SINK: &str;

    /// Opens the database and brings its tables up to date.
    fn connect(&mut self) -> Result<Self::Store, StoreError>;
}

/// An open database.
pub(super) trait Store {
    /// Writes all rows in one transaction, or none.
    fn store(&mut self, rows: &[Row]) -> Result<(), StoreError>;
}

/// An event's name in the log.
#[derive(Default, Deserialize)]
#[serde(default)]
struct EventId {
    interception_id: Option<String>,
    sequence: Option<u64>,
}

pub(super) struct Writer<C: Connect> {
    settings: Settings,
    backlog: Arc<Backlog>,
    connect: C,
    store: Option<C::Store>,
    summary: Summary,
    /// When the last event had come and the database was down.
    draining_since: Option<Instant>,
}

// === impl Writer ===

impl<C: Connect> Writer<C> {
    pub(super) fn new(settings: Settings, backlog: Arc<Backlog>, connect: C) -> Self {
        Self {
            settings,
            backlog,
            connect,
            store: None,
            summary: Summary::default(),
            draining_since: None,
        }
    }

    pub(super) fn run(mut self) -> Result<Summary, SqlError> {
        let backlog = Arc::clone(&self.backlog);
        let _abandon = AtEnd(&backlog, Backlog::abandon);
        self.write_all()
    }

    fn write_all(&mut self) -> Result<Summary, SqlError> {
        let unreadable = |error| SqlError::spool("the spool cannot be read", error);
        self.report_waiting();
        loop {
            let next = self.backlog.next(self.settings.batch_wait).map_err(unreadable)?;
            let Next::Lines(lines) = next else {
                return Ok(self.summary);
            };
            let rows = self.rows(&lines);
            if !self.write(&rows)? {
                return self.give_up();
            }
            self.backlog.forget(&lines).map_err(unreadable)?;
            self.report_waiting();
        }
    }

    fn rows(&mut self, lines: &[u8]) -> Vec<Row> {
        let text = String::from_utf8_lossy(lines);
        let mut rows = Vec::new();
        for line in text.lines() {
            match Row::read(line) {
                Some(row) => rows.push(row),
                None => self.set_aside(line, &"not an event that this version knows"),
            }
        }
        rows
    }

    /// Stores `rows`, however often it has to try. Returns false if the database was down for too long after the end.
    fn write(&mut self, rows: &[Row]) -> Result<bool, SqlError> {
        if rows.is_empty() {
            return Ok(true);
        }
        match self.try_until_answered(rows)? {
            Some(Ok(())) => self.count(rows),
            Some(Err(_)) if rows.len() > 1 => {
                // One of them is refused. Each half is tried alone, so that the other rows are stored.
                let (first, second) = rows.split_at(rows.len() / 2);
                return Ok(self.write(first)? && self.write(second)?);
            }
            Some(Err(error)) => {
                if let [row] = rows {
                    self.set_aside(&row.line, &error);
                }
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    /// The database's answer: stored, or refused. `None` if it was down for too long after the end.
    fn try_until_answered(&mut self, rows: &[Row]) -> Result<Option<Result<(), Cause>>, SqlError> {
        let (mut pause, mut failures, mut reported) = (FIRST_PAUSE, 0_u32, None::<Instant>);
        loop {
            let error = match self.try_once(rows) {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(failures, "records are stored again, none is lost");
                    }
                    self.draining_since = None;
                    return Ok(Some(Ok(())));
                }
                Err(StoreError::Refused(error)) => return Ok(Some(Err(error))),
                Err(error @ StoreError::Version(_)) => return Err(error.into()),
                Err(StoreError::Down(error)) => error,
            };
            self.store = None;
            metrics::sink_failed(C::SINK, "unavailable");
            self.report_waiting();
            if reported
                .is_none_or(|reported| Instant::now().saturating_duration_since(reported) > Duration::from_secs(60))
            {
                tracing::error!(%error, "the record database is down; records are kept and tried again");
                reported = Some(Instant::now());
            }
            failures = failures.saturating_add(1);
            if self.backlog.is_closed() {
                let since = *self.draining_since.get_or_insert_with(Instant::now);
                if Instant::now().saturating_duration_since(since) >= self.settings.drain {
                    return Ok(None);
                }
            }
            self.backlog.pause(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn try_once(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        let store = match &mut self.store {
            Some(store) => store,
            // A connection sends no rows, so none can be refused.
            none => none.insert(self.connect.connect().map_err(StoreError::or_down)?),
        };
        store.store(rows)
    }

    fn count(&mut self, rows: &[Row]) {
        let mended = rows.iter().filter(|row| row.is_mended).count() as u64;
        if mended > 0 {
            tracing::warn!(
                mended,
                "records with a NUL or a count over 63 bits, which the database cannot hold, were changed"
            );
        }
        self.summary.mended += mended;
        self.summary.stored += rows.len() as u64;
        metrics::sink_written(C::SINK, rows.len() as u64);
    }

    /// Keeps the line in the file of refused rows, or else names the loss.
    fn set_aside(&mut self, line: &str, why: &dyn fmt::Display) {
        metrics::sink_failed(C::SINK, "refused");
        let EventId {
            interception_id,
            sequence,
        } = serde_json::from_str(line).unwrap_or_default();
        let kept = match self.rejected_path() {
            None => Err(io::Error::other("there is no spool beside which to keep it")),
            Some(path) => keep(&path, line),
        };
        // Without its content: prompts are private.
        match kept {
            Ok(()) => {
                self.summary.set_aside += 1;
                tracing::error!(
                    %why, interception_id, sequence, "the database refuses a record: it is set aside"
                );
            }
            Err(error) => {
                self.summary.lost += 1;
                tracing::error!(
                    %why, %error, interception_id, sequence, "the database refuses a record: it is lost"
                );
            }
        }
    }

    fn report_waiting(&self) {
        metrics::sink_waiting(C::SINK, self.backlog.waiting());
    }

    /// `<spool>.rejected`.
    fn rejected_path(&self) -> Option<PathBuf> {
        let mut path = self.settings.spool.clone()?.into_os_string();
        path.push(".rejected");
        Some(path.into())
    }

    fn give_up(&mut self) -> Result<Summary, SqlError> {
        let left = self.backlog.waiting();
        if self.settings.spool.is_some() {
            tracing::error!(
                left,
                "the record database is down; the spool keeps the rest for the next start"
            );
            self.summary.left_in_spool = left;
            return Ok(self.summary);
        }
        let message = format!("{left} records are lost: the database is down, and there is no spool");
        Err(SqlError::new(SqlErrorKind::Lost, message))
    }
}

/// Appends the line to the file of refused rows, whole or not at all.
fn keep(path: &Path, line: &str) -> io::Result<()> {
    let mut file = private().create(true).append(true).open(path)?;
    let length = file.metadata()?.len();
    if length + line.len() as u64 >= MAX_REJECTED {
        return Err(io::Error::new(
            io::ErrorKind::QuotaExceeded,
            "the file of refused records is full",
        ));
    }
    let written = file.write_all(format!("{line}\n").as_bytes());
    if written.is_err() {
        let _ = file.set_len(length);
    }
    written
}
