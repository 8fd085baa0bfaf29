//! Every emitted event is stored exactly once, through each failure of the writer and of the database.

mod process;
#[cfg(feature = "sqlite")]
mod rows;
mod spool;

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use http::StatusCode;
use serde_json::{Value, json};
use tokio_test::{assert_ready, task};

#[cfg(feature = "sqlite")]
use super::SqliteSink;
use super::{
    backlog::Backlog,
    error::{SqlErrorKind, StoreError},
    line,
    row::Row,
    run::run,
    settings::Settings,
    summary::Summary,
    writer::{Connect, Store, Writer},
};
use crate::record::{Fact, Interception, Outcome, Recorder};

/// A folder that is removed at the end of the test.
pub(super) struct Folder(PathBuf);

/// A database that answers by a script, then accepts everything. Clones share one state.
#[derive(Clone, Default)]
struct Scripted {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    stored: Arc<Mutex<Vec<Value>>>,
    /// A row that contains this is refused every time.
    poison: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    NoConnection,
    /// As `NoConnection`, with an error that would be a row's fault if rows had been sent.
    NoConnectionByRefusal,
    Down,
    /// It is stored, but the connection is lost before the answer.
    StoredAndDown,
}

// === impl Folder ===

impl Folder {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("records-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// === impl Scripted ===

impl Scripted {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            ..Self::default()
        }
    }

    /// Interceptions' places and sequences in the order of their first storing.
    fn stored(&self) -> Vec<(String, u64)> {
        let key = |event: &Value| {
            let id = event["interception_id"].as_str().unwrap().to_owned();
            (id, event["sequence"].as_u64().unwrap())
        };
        let mut keys: Vec<_> = Vec::new();
        for event in self.stored.lock().unwrap().iter() {
            if !keys.contains(&key(event)) {
                keys.push(key(event));
            }
        }
        keys
    }
}

impl Connect for Scripted {
    type Store = Self;

    const SINK: &str = "test";

    fn connect(&mut self) -> Result<Self, StoreError> {
        let mut answers = self.answers.lock().unwrap();
        let error = match answers.front() {
            Some(Answer::NoConnection) => StoreError::Down("no connection".into()),
            Some(Answer::NoConnectionByRefusal) => StoreError::Refused("a bad setting".into()),
            _ => return Ok(self.clone()),
        };
        answers.pop_front();
        Err(error)
    }
}

impl Store for Scripted {
    fn store(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        if rows
            .iter()
            .any(|row| self.poison.is_some_and(|poison| row.line.contains(poison)))
        {
            return Err(StoreError::Refused("poison".into()));
        }
        let answer = self.answers.lock().unwrap().pop_front();
        if !matches!(answer, Some(Answer::Down | Answer::NoConnection)) {
            let events = rows.iter().map(|row| serde_json::from_str::<Value>(&row.line).unwrap());
            self.stored.lock().unwrap().extend(events);
        }
        match answer {
            None => Ok(()),
            Some(_) => Err(StoreError::Down("the connection was lost".into())),
        }
    }
}

// === events ===

/// Emits one interception with these facts between its start and its end; returns its id.
pub(super) fn emit(recorder: &Recorder, actor: &str, facts: impl IntoIterator<Item = Value>) -> String {
    let mut interception = begin(recorder, actor);
    for fact in facts {
        interception.emit(serde_json::from_value(fact).unwrap());
    }
    let id = interception.id().to_string();
    interception.finish(Outcome::Completed, Some(StatusCode::OK), None);
    id
}

pub(super) fn begin(recorder: &Recorder, actor: &str) -> Interception {
    let started = json!({
        "event": "started", "provider": "openai", "dialect": "chat_completions", "model": "gpt-4o",
        "path": "/v1/chat/completions", "streaming": true, "initiator_id": actor, "metadata": { "team": "search" },
        "client": "codex", "credential_kind": "centralized",
    });
    let started = || serde_json::from_value::<Fact>(started).unwrap();
    assert_ready!(task::spawn(recorder.begin(None, started)).poll()).unwrap()
}

pub(super) fn prompt(text: &str) -> Value {
    json!({ "event": "prompt_usage", "msg_id": "m", "prompt": text })
}

pub(super) fn tokens(input: u64) -> Value {
    json!({ "event": "token_usage", "msg_id": "m", "model": "gpt-4o", "input": input, "output": 1 })
}

fn settings(spool: Option<&Path>) -> Settings {
    Settings {
        spool: spool.map(Path::to_owned),
        drain: Duration::from_millis(150),
        batch: 7,
        batch_wait: Duration::from_millis(5),
        ..Settings::default()
    }
}

// === failures ===

#[test]
fn nothing_is_lost_or_reordered_while_the_database_fails() {
    use Answer::{Down, NoConnection, StoredAndDown};
    let folder = Folder::new();
    for spool in [None, Some(folder.path("spool"))] {
        let database = Scripted::answering([Down, NoConnection, StoredAndDown, Down]);
        let (recorder, events) = Recorder::channel(1024);
        let ids: Vec<_> = (0..20).map(|n| emit(&recorder, "u", [tokens(n)])).collect();
        drop(recorder);
        let patient = Settings {
            drain: Duration::from_secs(60),
            ..settings(spool.as_deref())
        };
        let summary = run(patient, database.clone(), events).unwrap();
        let expected: Vec<_> = ids.iter().flat_map(|id| (0..3).map(|n| (id.clone(), n))).collect();
        assert_eq!(database.stored(), expected);
        assert_eq!(
            (summary.stored(), summary.set_aside(), summary.left_in_spool()),
            (60, 0, 0)
        );
    }
    assert_eq!(std::fs::metadata(folder.path("spool")).unwrap().len(), 0);
}

#[test]
fn a_refused_connection_refuses_no_row() {
    let folder = Folder::new();
    let database = Scripted::answering([Answer::NoConnectionByRefusal; 3]);
    let (recorder, events) = Recorder::channel(1024);
    emit(&recorder, "u", [tokens(1)]);
    drop(recorder);
    let patient = Settings {
        drain: Duration::from_secs(60),
        ..settings(Some(&folder.path("spool")))
    };
    let summary = run(patient, database, events).unwrap();
    assert_eq!((summary.stored(), summary.set_aside(), summary.lost()), (3, 0, 0));
}

#[test]
fn a_refused_row_is_set_aside_and_holds_back_no_other() {
    let folder = Folder::new();
    let database = Scripted {
        poison: Some("poison"),
        ..Scripted::default()
    };
    let (recorder, events) = Recorder::channel(1024);
    for n in 0..30 {
        emit(&recorder, "u", [prompt(if n % 10 == 3 { "poison" } else { "fine" })]);
    }
    drop(recorder);
    let summary = run(settings(Some(&folder.path("spool"))), database.clone(), events).unwrap();
    assert_eq!((summary.stored(), summary.set_aside()), (87, 3));
    assert_eq!(database.stored().len(), 87);
    let rejected = std::fs::read_to_string(folder.path("spool.rejected")).unwrap();
    let rejected: Vec<Value> = rejected
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rejected.len(), 3);
    assert!(rejected.iter().all(|event| event["prompt"] == "poison"));
}

/// Runs a writer on this thread over `emit_all`'s events; returns its summary and what it logged.
fn written(settings: Settings, database: Scripted, emit_all: impl FnOnce(&Recorder)) -> (Summary, String) {
    let logs = crate::logs::Logs::capture();
    let backlog = Arc::new(Backlog::open(&settings).unwrap());
    let (recorder, mut events) = Recorder::channel(1024);
    emit_all(&recorder);
    while let Some(event) = events.try_recv() {
        let mut line = Vec::new();
        line::push(&mut line, &event);
        assert!(backlog.append(&line));
    }
    backlog.close();
    let summary = Writer::new(settings, backlog, database).run().unwrap();
    (summary, logs.text())
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_tell_what_is_written_what_waits_and_what_fails() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let folder = Folder::new();
    let measured = |settings: Settings, database: Scripted| -> Vec<(String, u64)> {
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || {
            written(settings, database, |recorder| {
                emit(recorder, "u", [prompt("fine"), prompt("poison")]);
            });
        });
        let snapshot = recorder.snapshotter().snapshot().into_vec();
        let mut values: Vec<_> = snapshot
            .into_iter()
            .filter(|(key, ..)| key.key().name().starts_with("llm_bridge.sink."))
            .map(|(key, .., value)| {
                let labels: Vec<_> = key.key().labels().map(metrics::Label::value).collect();
                let value = match value {
                    DebugValue::Counter(count) => count,
                    DebugValue::Gauge(level) => *level as u64,
                    DebugValue::Histogram(_) => panic!("a sink has no histogram"),
                };
                (format!("{} {}", key.key().name(), labels.join(" ")), value)
            })
            .collect();
        values.sort();
        values
    };
    let expect = |values: &[(&str, u64)]| -> Vec<(String, u64)> {
        let values = values.iter();
        values
            .map(|(name, value)| (format!("llm_bridge.sink.{name}"), *value))
            .collect()
    };
    let patient = Settings {
        drain: Duration::from_secs(60),
        ..settings(Some(&folder.path("stored")))
    };
    let database = Scripted {
        poison: Some("poison"),
        ..Scripted::answering([Answer::NoConnection, Answer::NoConnection])
    };
    let stored = expect(&[
        ("failures test refused", 1),
        ("failures test unavailable", 2),
        ("waiting test", 0),
        ("written test", 3),
    ]);
    assert_eq!(measured(patient, database), stored);

    let impatient = Settings {
        drain: Duration::ZERO,
        ..settings(Some(&folder.path("left")))
    };
    let database = Scripted::answering([Answer::NoConnection]);
    let left = expect(&[("failures test unavailable", 1), ("waiting test", 4)]);
    assert_eq!(measured(impatient, database), left);
}

#[test]
fn a_refused_row_that_no_file_can_keep_is_named_in_the_log_without_its_content() {
    let folder = Folder::new();
    let full = folder.path("full");
    std::fs::File::create(folder.path("full.rejected"))
        .and_then(|file| file.set_len(64 << 20))
        .unwrap();
    for spool in [None, Some(full)] {
        let database = Scripted {
            poison: Some("poison"),
            ..Scripted::default()
        };
        let mut id = String::new();
        let (summary, log) = written(settings(spool.as_deref()), database, |recorder| {
            id = emit(recorder, "u", [prompt("poison")]);
        });
        assert_eq!((summary.stored(), summary.set_aside(), summary.lost()), (2, 0, 1));
        assert!(
            log.contains(&id) && log.contains("sequence=1") && log.contains("it is lost"),
            "{log}"
        );
        assert_eq!(log.matches("poison").count(), 1, "the database's word alone: {log}");
    }
    assert_eq!(std::fs::metadata(folder.path("full.rejected")).unwrap().len(), 64 << 20);
}

#[test]
fn a_writer_that_panics_closes_the_recorder_and_leaves_nobody_waiting() {
    struct Panics;
    impl Connect for Panics {
        type Store = Scripted;

        const SINK: &str = "test";

        fn connect(&mut self) -> Result<Scripted, StoreError> {
            panic!("a bug")
        }
    }
    let folder = Folder::new();
    let (recorder, events) = Recorder::channel(1024);
    for _ in 0..100 {
        emit(&recorder, "u", [tokens(1)]);
    }
    // No room for all events: the receiving thread waits for the writer.
    let small = Settings {
        max_backlog: 1,
        ..settings(Some(&folder.path("spool")))
    };
    let error = run(small, Panics, events).unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
    assert!(recorder.is_closed());
}

#[test]
fn a_database_that_stays_down_leaves_the_rest_in_the_spool_for_the_next_run() {
    let folder = Folder::new();
    let spool = folder.path("spool");
    let (recorder, events) = Recorder::channel(1024);
    let first = emit(&recorder, "u", [tokens(1)]);
    drop(recorder);
    let down = Scripted::answering([Answer::NoConnection; 1_000]);
    let summary = run(settings(Some(&spool)), down, events).unwrap();
    assert_eq!((summary.stored(), summary.left_in_spool()), (0, 3));

    let (recorder, events) = Recorder::channel(1024);
    let second = emit(&recorder, "u", [tokens(1)]);
    drop(recorder);
    let up = Scripted::default();
    let summary = run(settings(Some(&spool)), up.clone(), events).unwrap();
    assert_eq!((summary.stored(), summary.left_in_spool()), (6, 0));
    let stored = up.stored();
    let ids: Vec<_> = stored.iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [&first, &first, &first, &second, &second, &second]);
}

#[test]
fn a_database_that_stays_down_without_a_spool_is_an_error_that_counts_the_loss() {
    let (recorder, events) = Recorder::channel(1024);
    emit(&recorder, "u", [tokens(1)]);
    drop(recorder);
    let down = Scripted::answering([Answer::NoConnection; 1_000]);
    let error = run(settings(None), down, events).unwrap_err();
    assert_eq!(error.kind(), SqlErrorKind::Lost);
    assert!(error.to_string().starts_with("3 records are lost"), "{error}");
}

#[test]
fn a_full_backlog_stops_the_receiving_and_goes_on_afterwards() {
    let folder = Folder::new();
    for spool in [None, Some(folder.path("spool"))] {
        let (recorder, events) = Recorder::channel(4096);
        let ids: Vec<_> = (0..500).map(|n| emit(&recorder, "u", [tokens(n)])).collect();
        let database = Scripted::answering([Answer::Down, Answer::Down]);
        let small = Settings {
            max_backlog: 1,
            drain: Duration::from_secs(60),
            ..settings(spool.as_deref())
        };
        let stored = database.clone();
        let running = thread::spawn(move || run(small, database, events));
        drop(recorder);
        assert_eq!(running.join().unwrap().unwrap().stored(), 1_500);
        assert_eq!(stored.stored().len(), 3 * ids.len());
    }
}

#[test]
fn tables_of_a_newer_version_end_the_run() {
    struct Newer;
    impl Connect for Newer {
        type Store = Scripted;

        const SINK: &str = "test";

        fn connect(&mut self) -> Result<Scripted, StoreError> {
            Err(StoreError::Version(99))
        }
    }
    let (recorder, events) = Recorder::channel(1024);
    emit(&recorder, "u", [tokens(1)]);
    let error = run(settings(None), Newer, events).unwrap_err();
    assert_eq!(error.kind(), SqlErrorKind::Version);
    // The recorder is open until then, and closed afterwards.
    let started = || serde_json::from_value(prompt("")).unwrap();
    assert!(assert_ready!(task::spawn(recorder.begin(None, started)).poll()).is_err());
}
