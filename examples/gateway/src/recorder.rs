//! Where records go: a file of JSON lines, a database, or the log.
//!
//! Records are for billing, so none is dropped. While the file cannot be written, the writer keeps the records that it
//! has, tries again every second and receives no more: the bridge runs out of places and answers new requests with 503
//! instead of serving them unrecorded. When the disk has room again everything goes on, without a restart.
//!
//! A kill loses the last milliseconds of records in a file of JSON lines. With a database and a spool it loses no
//! record of an answer that reached its caller.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;
use tower_llm_bridge::record::{
    Event, Events, Fact,
    sql::{PostgresSink, SqlError, SqliteSink, Summary},
};
use tracing::{error, info};

use crate::page::History;

/// Bytes after which a batch is written even when more records wait.
const BATCH: usize = 256 * 1024;
/// How long a woken writer waits for more: under load many records share one wake-up and one write.
const GATHER: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_secs(1);
/// Failed writes per line in the log.
const REPORT_EVERY: u32 = 30;
/// Failed writes after which records are given up, once the gateway is ending.
const LAST_TRIES: u32 = 3;

/// The value of `--record`.
pub enum Target {
    /// JSON lines.
    File(PathBuf),
    /// A SQLite file.
    Sqlite(PathBuf),
    /// The address of a PostgreSQL database, which may hold a password.
    Postgres(String),
}

/// A [`Target`] that is open, or the log.
pub enum Sink {
    File(RecordFile),
    Sqlite(SqliteSink),
    Postgres(Box<PostgresSink>),
    /// The end of each request, as a line of the log.
    Log,
}

/// A file that records are appended to.
pub struct RecordFile {
    path: PathBuf,
    file: File,
}

/// Requests to the writer from other threads.
#[derive(Default)]
struct Orders {
    /// No new request will come.
    ending: AtomicBool,
    /// The file has to be opened again, for log rotation.
    reopen: AtomicBool,
}

/// The writer at work.
pub struct Records {
    has_file: bool,
    orders: Arc<Orders>,
    done: oneshot::Receiver<Result<(), String>>,
}

/// Starts the writer on its own thread: a file may block for any time.
pub fn start(sink: Sink, events: Events) -> io::Result<Records> {
    let orders = Arc::new(Orders::default());
    let has_file = matches!(sink, Sink::File(_));
    let (sender, done) = oneshot::channel();
    let seen = Arc::clone(&orders);
    thread::Builder::new().name("records".into()).spawn(move || {
        let result = match sink {
            Sink::File(file) => to_file(file, events, &seen),
            Sink::Sqlite(sink) => summarize(sink.run(events)),
            Sink::Postgres(sink) => summarize(sink.run(events)),
            Sink::Log => to_log(events),
        };
        // While requests are served, nobody waits for the result.
        if let Err(problem) = &result
            && !seen.ending.load(Ordering::Relaxed)
        {
            error!(problem, "the record writer ended; new requests get 503 until a restart");
        }
        // Fails only if a further signal has ended even this wait.
        let _ = sender.send(result);
    })?;
    Ok(Records { has_file, orders, done })
}

// === impl Target ===

impl Target {
    /// Reads the value of `--record`.
    ///
    /// # Errors
    ///
    /// One line for the user, without the value: a database's address may hold a password.
    pub fn parse(value: OsString) -> Result<Self, String> {
        let scheme = value.to_str().and_then(|value| value.split_once(':'));
        match scheme {
            Some(("sqlite", "")) => Err("--record sqlite: needs a file".into()),
            Some(("sqlite", file)) => Ok(Self::Sqlite(file.into())),
            Some(("postgres" | "postgresql", _)) => value
                .into_string()
                .map(Self::Postgres)
                .map_err(|_| "--record: the address is not valid UTF-8".into()),
            _ => Ok(Self::File(value.into())),
        }
    }

    /// The source of the operator's page for the past; `None` for a file.
    ///
    /// # Errors
    ///
    /// One line for the user.
    pub fn history(&self) -> Result<Option<History>, String> {
        Ok(match self {
            Self::File(_) => None,
            Self::Sqlite(path) => Some(History::sqlite(path)),
            Self::Postgres(url) => Some(History::postgres(url).map_err(|problem| format!("--record: {problem}"))?),
        })
    }

    /// Opens it. Until PostgreSQL has them, records wait in `spool`, or without one in memory; those for SQLite in a
    /// file next to the database's.
    ///
    /// # Errors
    ///
    /// One line for the user.
    pub fn open(&self, spool: Option<OsString>) -> Result<Sink, String> {
        match self {
            Self::File(path) => {
                Sink::file(path).map_err(|error| format!("cannot record to {}: {error}", path.display()))
            }
            Self::Sqlite(path) => {
                let sink = SqliteSink::open(path);
                let sink = sink.map_err(|error| format!("cannot record to {}: {error}", path.display()))?;
                let mut spool = path.clone().into_os_string();
                spool.push(".spool");
                Ok(Sink::Sqlite(sink.spool(spool)))
            }
            Self::Postgres(url) => {
                let sink = PostgresSink::connect(url);
                let mut sink = sink.map_err(|error| format!("cannot record to PostgreSQL: {error}"))?;
                if let Some(spool) = spool {
                    sink = sink.spool(spool);
                }
                Ok(Sink::Postgres(Box::new(sink)))
            }
        }
    }
}

// === impl Sink ===

impl Sink {
    /// Opens `path` for appending.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File(RecordFile {
            path: path.to_owned(),
            file: open(path)?,
        }))
    }
}

// === impl RecordFile ===

impl RecordFile {
    /// Opens the path again on request, or when the file was deleted: lines written to a deleted file are lost.
    fn renew(&mut self, orders: &Orders) -> io::Result<()> {
        let asked = orders.reopen.load(Ordering::Relaxed);
        if !asked && !is_deleted(&self.file) {
            return Ok(());
        }
        if !asked {
            error!(path = %self.path.display(), "the record file was deleted, opening a new one; rotate with SIGHUP");
        }
        self.file = open(&self.path)?;
        orders.reopen.store(false, Ordering::Relaxed);
        info!(path = %self.path.display(), "the record file is opened anew");
        Ok(())
    }
}

/// Opens `path` for appending. Prompts are private, so a new file is its owner's only.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    if cut_short(path, &file)? {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn is_deleted(file: &File) -> bool {
    #[cfg(unix)]
    return file
        .metadata()
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::nlink(&metadata) == 0);
    #[cfg(not(unix))]
    false
}

/// Whether an earlier run ended in the middle of a line, which must not be joined with the next record.
fn cut_short(path: &Path, file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    let mut reader = File::open(path)?;
    reader.seek(SeekFrom::End(-1))?;
    reader.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

// === impl Records ===

impl Records {
    /// A function that asks the writer to open its file again, before the next record.
    pub fn reopener(&self) -> impl Fn() + Send + 'static {
        let (has_file, orders) = (self.has_file, Arc::clone(&self.orders));
        move || {
            if !has_file {
                return info!("SIGHUP opens a record file anew, and there is none");
            }
            info!("the record file will be opened anew before the next record");
            orders.reopen.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until the last record is written; to be called when every recorder is gone or about to be dropped.
    ///
    /// # Errors
    ///
    /// Says how many records were lost.
    pub async fn finish(self) -> Result<(), String> {
        self.orders.ending.store(true, Ordering::Relaxed);
        self.done
            .await
            .unwrap_or_else(|_| Err("the record writer panicked".into()))
    }
}

fn to_file(mut file: RecordFile, mut events: Events, orders: &Orders) -> Result<(), String> {
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(event) = events.blocking_recv() {
        push(&mut batch, &event);
        thread::park_timeout(GATHER);
        while batch.len() < BATCH
            && let Some(event) = events.try_recv()
        {
            push(&mut batch, &event);
        }
        if let Err((problem, lost)) = write(&mut file, &batch, orders, || events.queued()) {
            let lost = lost + std::iter::from_fn(|| events.blocking_recv()).count();
            return Err(format!("{lost} records are lost: {problem}"));
        }
        batch.clear();
        // Frees the memory of one huge prompt.
        batch.shrink_to(2 * BATCH);
    }
    Ok(())
}

fn push(batch: &mut Vec<u8>, event: &Event) {
    let start = batch.len();
    match serde_json::to_writer(&mut *batch, event) {
        Ok(()) => batch.push(b'\n'),
        Err(error) => {
            batch.truncate(start);
            report_unwritable(event, &error);
        }
    }
}

/// Names the record without its content: prompts are private.
fn report_unwritable(event: &Event, error: &serde_json::Error) {
    error!(
        %error,
        interception_id = %event.interception_id,
        sequence = event.sequence,
        event = event.fact.name(),
        "a record cannot be written as JSON and is lost"
    );
}

/// Writes all of `batch`, however often it has to try; gives up only when the gateway is `ending`, and then returns how
/// many lines are not in the file. `queued` more events wait.
fn write(
    file: &mut RecordFile,
    batch: &[u8],
    orders: &Orders,
    queued: impl Fn() -> usize,
) -> Result<(), (io::Error, usize)> {
    let mut rest = batch;
    let mut failures = 0;
    let mut last_tries = 0;
    while !rest.is_empty() {
        // Only between two lines.
        let renewed = if rest.len() == batch.len() {
            file.renew(orders)
        } else {
            Ok(())
        };
        let error = match renewed.and_then(|()| file.file.write(rest)) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(written) => {
                // A half-written line is continued where it stopped.
                rest = &rest[written..];
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        metrics::counter!("llm_bridge.sink.failures", "sink" => "file", "reason" => "unavailable").increment(1);
        report_waiting(lines(rest) + queued());
        if failures % REPORT_EVERY == 0 {
            error!(%error, "cannot write records; they are kept, but new requests will get 503 when no place is left");
        }
        failures += 1;
        if orders.ending.load(Ordering::Relaxed) {
            last_tries += 1;
            if last_tries == LAST_TRIES {
                return Err((error, lines(rest)));
            }
        }
        thread::park_timeout(RETRY);
    }
    if failures > 0 {
        info!(failures, "records are written again, none is lost");
    }
    metrics::counter!("llm_bridge.sink.written", "sink" => "file").increment(lines(batch) as u64);
    report_waiting(queued());
    Ok(())
}

fn report_waiting(events: usize) {
    metrics::gauge!("llm_bridge.sink.waiting", "sink" => "file").set(events as f64);
}

fn lines(batch: &[u8]) -> usize {
    batch.iter().filter(|byte| **byte == b'\n').count()
}

/// The result of a database's sink, as a line of the log or as an error.
fn summarize(ended: Result<Summary, SqlError>) -> Result<(), String> {
    let summary = ended.map_err(|error| format!("records: {error}"))?;
    info!(?summary, "all records are written");
    if summary.lost() > 0 {
        return Err(format!(
            "{} records are lost: the database refuses them",
            summary.lost()
        ));
    }
    if summary.left_in_spool() > 0 {
        return Err(format!(
            "{} records are left in the spool, the next start writes them",
            summary.left_in_spool()
        ));
    }
    Ok(())
}

fn to_log(mut events: Events) -> Result<(), String> {
    while let Some(event) = events.blocking_recv() {
        if !matches!(event.fact, Fact::Ended { .. }) {
            continue;
        }
        match serde_json::to_string(&event) {
            Ok(record) => info!(%record, "ended"),
            Err(error) => report_unwritable(&event, &error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, PoisonError},
        time::{Duration, UNIX_EPOCH},
    };

    use super::*;

    /// Collects log lines.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_that_is_no_json_is_named_in_the_log_without_its_prompt() {
        let mut event: Event = serde_json::from_value(serde_json::json!({
            "interception_id": "01980000-0000-7000-8000-000000000001", "sequence": 7,
            "at": "2026-01-02T03:04:05.123456Z", "event": "prompt_usage", "msg_id": "m", "prompt": "my secret plan",
        }))
        .expect("an event");
        // After the year 9999, which RFC 3339 cannot write.
        event.at = UNIX_EPOCH + Duration::from_secs(400_000_000_000);
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let mut batch = b"before\n".to_vec();
        tracing::subscriber::with_default(subscriber, || push(&mut batch, &event));
        assert_eq!(batch, b"before\n");
        let log = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let log = String::from_utf8(log).expect("UTF-8");
        for named in ["01980000-0000-7000-8000-000000000001", "sequence=7", "prompt_usage"] {
            assert!(log.contains(named), "{log}");
        }
        assert!(!log.contains("secret"), "{log}");
    }
}
