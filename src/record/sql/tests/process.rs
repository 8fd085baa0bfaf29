//! A process that is killed in the middle: its records go on where they stopped, without gaps or duplicates.

#[cfg(feature = "sqlite")]
use std::{
    io::Write,
    process::{Command, Stdio},
};

#[cfg(feature = "sqlite")]
use super::*;

/// Set for the process that is killed; its value is the folder.
#[cfg(feature = "sqlite")]
const FOLDER: &str = "RECORD_SQL_TEST_FOLDER";

/// Not a test: runs in the process that is killed, and records without an end.
#[test]
#[cfg(feature = "sqlite")]
fn recording_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = PathBuf::from(folder);
    let run = uuid::Uuid::now_v7();
    let (recorder, events) = Recorder::channel(8);
    let sink = SqliteSink::open(folder.join("db")).unwrap().spool(folder.join("spool"));
    let sink = sink.batch(20, Duration::from_millis(1));
    let writing = thread::spawn(move || sink.run(events));
    // From its receipt on, events are in the spool when their emission returns.
    emit(&recorder, "first", []);
    while recorder.free_places() < 8 {
        thread::yield_now();
    }
    for number in 0.. {
        if writing.is_finished() {
            panic!("{:?}", writing.join());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let started = json!({
            "event": "started", "provider": "openai", "dialect": "chat_completions", "model": "gpt-4o", "path": "/",
            "streaming": true, "initiator_id": run, "metadata": { "number": number.to_string() },
            "client": "codex", "credential_kind": "centralized",
        });
        let begin = recorder.begin(None, || serde_json::from_value(started).unwrap());
        let mut interception = runtime.block_on(begin).unwrap();
        interception.emit(serde_json::from_value(tokens(number)).unwrap());
        interception.finish(Outcome::Completed, None, None);
        let mut out = io::stdout().lock();
        writeln!(out, "\nended {run} {number}").unwrap();
        if number == 50 {
            std::fs::write(folder.join(format!("run-{run}")), "").unwrap();
        }
    }
}

#[test]
#[cfg(feature = "sqlite")]
fn a_killed_process_leaves_no_gap_and_no_double() {
    let folder = Folder::new();
    let mut ended = Vec::new();
    for _ in 0..4 {
        let begun = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("run-");
        let runs = || {
            let names = std::fs::read_dir(&folder.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            names.filter(|name| begun(name)).count()
        };
        let before = runs();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "record::sql::tests::process::recording_process",
                "--nocapture",
            ])
            .env(FOLDER, &folder.0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let reading = thread::spawn(move || io::read_to_string(stdout).unwrap());
        // It is killed somewhere after its first records.
        while runs() == before {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let said = reading.join().unwrap();
        let lines = said.lines().filter_map(|line| line.strip_prefix("ended "));
        // The last one may be cut.
        ended.extend(lines.filter_map(|line| {
            let (run, number) = line.split_once(' ')?;
            Some((run.to_owned(), number.parse::<i64>().ok()?))
        }));
    }
    // The next process begins with what the spool holds.
    let (recorder, events) = Recorder::channel(1);
    drop(recorder);
    let sink = SqliteSink::open(folder.path("db")).unwrap().spool(folder.path("spool"));
    sink.run(events).unwrap();

    let connection = rusqlite::Connection::open(folder.path("db")).unwrap();
    let query = "SELECT i.initiator_id, CAST(json_extract(i.metadata, '$.number') AS INTEGER), i.outcome, i.input, t.input \
                 FROM interceptions i LEFT JOIN token_usage t ON t.interception_id = i.id \
                 WHERE i.initiator_id <> 'first' ORDER BY 1, 2";
    let mut statement = connection.prepare(query).unwrap();
    type Stored = (String, i64, Option<String>, Option<i64>, Option<i64>);
    let rows: Vec<Stored> = statement
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut runs: std::collections::BTreeMap<&str, Vec<&Stored>> = std::collections::BTreeMap::new();
    for row in &rows {
        runs.entry(&row.0).or_default().push(row);
    }
    assert_eq!(runs.len(), 4);
    assert!(ended.len() > 4 * 50, "{}", ended.len());
    for (run, number) in &ended {
        let (.., outcome, sum, tokens) = runs[run.as_str()][usize::try_from(*number).unwrap()];
        assert_eq!(
            (outcome.as_deref(), *sum, *tokens),
            (Some("completed"), Some(*number), Some(*number)),
            "lost although its end was recorded"
        );
    }
    for run in runs.values() {
        // Events were received in order, so all but the last interception are whole.
        for (place, (_, number, outcome, sum, tokens)) in run.iter().enumerate() {
            assert_eq!(*number, place as i64, "a gap or a double");
            if place + 1 < run.len() {
                assert_eq!(
                    (outcome.as_deref(), *sum, *tokens),
                    (Some("completed"), Some(*number), Some(*number))
                );
            }
        }
    }
}
