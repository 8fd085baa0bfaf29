//! The rows of each event in a real SQLite file.

use rusqlite::{Connection, types::Value as Cell};

use super::*;

/// Runs a sink over what `emit_all` emits, and opens the file.
fn stored(folder: &Folder, emit_all: impl FnOnce(&Recorder)) -> (Summary, Connection) {
    let (recorder, events) = Recorder::channel(1024);
    emit_all(&recorder);
    drop(recorder);
    let sink = SqliteSink::open(folder.path("db")).unwrap().spool(folder.path("spool"));
    let summary = sink.run(events).unwrap();
    (summary, Connection::open(folder.path("db")).unwrap())
}

/// All rows of a table, in order, with the columns' names.
fn rows(connection: &Connection, table: &str) -> Vec<Value> {
    let mut statement = connection
        .prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2"))
        .unwrap();
    let names: Vec<_> = statement.column_names().map(str::to_owned).collect();
    let row = |row: &rusqlite::Row<'_>| {
        let cell = |(place, name): (usize, &String)| {
            let value = match row.get::<_, Cell>(place).unwrap() {
                Cell::Null => Value::Null,
                Cell::Integer(count) => count.into(),
                Cell::Text(text) => text.into(),
                other => panic!("{other:?} in {name}"),
            };
            (name.clone(), value)
        };
        Ok(names.iter().enumerate().map(cell).collect())
    };
    statement
        .query_map([], row)
        .unwrap()
        .map(|row| Value::Object(row.unwrap()))
        .collect()
}

#[test]
fn each_event_becomes_a_row_with_its_fields() {
    let folder = Folder::new();
    let mut id = String::new();
    let facts = [
        prompt("hello"),
        json!({
            "event": "token_usage", "msg_id": "m", "model": "gpt-4o-2024-08-06", "service_tier": "default",
            "input": 7, "output": 3, "cache_read_input_tokens": 2, "cache_write_input_tokens": 1,
            "extra": { "completion_reasoning": 5 }, "cost": { "amount": "0.00123", "currency": "USD" },
        }),
        json!({
            "event": "tool_usage", "msg_id": "m", "tool_call_id": "call_1", "tool": "search", "server": "wiki",
            "server_url": "https://mcp.example.com", "args": { "q": [1, null] }, "injected": true,
            "invocation_error": "no such page", "duration_ms": 12,
        }),
        json!({ "event": "model_thought", "msg_id": "m", "source": "thinking", "content": "Hm." }),
    ];
    let (summary, connection) = stored(&folder, |recorder| id = emit(recorder, "u1", facts));
    assert_eq!((summary.stored(), summary.mended(), summary.set_aside()), (6, 0, 0));

    let take_times = |mut row: Value| {
        for time in ["at", "duration_ms"] {
            if let Some(time) = row.get_mut(time) {
                assert!(!time.is_null());
                *time = Value::Null;
            }
        }
        row
    };
    let one = |table| {
        let mut rows = rows(&connection, table);
        assert_eq!(rows.len(), 1, "{table}");
        take_times(rows.remove(0))
    };
    assert_eq!(
        one("interceptions"),
        json!({
            "id": id, "at": null, "provider": "openai", "dialect": "chat_completions", "model": "gpt-4o",
            "path": "/v1/chat/completions", "streaming": 1, "initiator_id": "u1", "metadata": "{\"team\":\"search\"}",
            "client": "codex", "client_session_id": null, "user_agent": null, "correlating_tool_call_id": null,
            "credential_kind": "centralized", "credential_hint": null, "outcome": "completed", "status": 200,
            "error_type": null, "key_attempts": 0, "rounds": 0, "injection": "none", "input": 7, "output": 3,
            "cache_read_input_tokens": 2, "cache_write_input_tokens": 1, "cost": "0.00123", "cost_currency": "USD",
            "duration_ms": null, "time_to_first_token_ms": null,
        })
    );
    assert_eq!(
        one("prompts"),
        json!({ "interception_id": id, "sequence": 1, "at": null, "msg_id": "m", "prompt": "hello" })
    );
    assert_eq!(
        one("token_usage"),
        json!({
            "interception_id": id, "sequence": 2, "at": null, "msg_id": "m", "model": "gpt-4o-2024-08-06",
            "service_tier": "default", "input": 7, "output": 3, "cache_read_input_tokens": 2,
            "cache_write_input_tokens": 1, "extra": "{\"completion_reasoning\":5}", "cost": "0.00123",
            "cost_currency": "USD",
        })
    );
    assert_eq!(
        one("tool_usage"),
        json!({
            "interception_id": id, "sequence": 3, "at": null, "msg_id": "m", "tool_call_id": "call_1",
            "tool": "search", "server": "wiki", "server_url": "https://mcp.example.com",
            "args": "{\"q\":[1,null]}", "injected": 1, "invocation_error": "no such page", "duration_ms": null,
        })
    );
    assert_eq!(
        one("model_thoughts"),
        json!({
            "interception_id": id, "sequence": 4, "at": null, "msg_id": "m", "source": "thinking", "content": "Hm.",
        })
    );
}

#[test]
fn an_interception_that_has_not_ended_has_no_outcome() {
    let folder = Folder::new();
    let (recorder, events) = Recorder::channel(1024);
    let running = begin(&recorder, "u1");
    let sink = SqliteSink::open(folder.path("db")).unwrap();
    let sink = sink.batch(1, Duration::ZERO);
    let writing = thread::spawn(move || sink.run(events));
    let connection = Connection::open(folder.path("db")).unwrap();
    while rows(&connection, "interceptions").is_empty() {
        thread::yield_now();
    }
    let row = rows(&connection, "interceptions").remove(0);
    assert_eq!((&row["initiator_id"], &row["outcome"]), (&json!("u1"), &Value::Null));
    running.finish(Outcome::Cancelled, None, None);
    drop(recorder);
    assert_eq!(writing.join().unwrap().unwrap().stored(), 2);
    let row = rows(&connection, "interceptions").remove(0);
    assert_eq!(
        (&row["initiator_id"], &row["outcome"]),
        (&json!("u1"), &json!("cancelled"))
    );
}

#[test]
fn what_a_database_cannot_hold_is_mended() {
    let folder = Folder::new();
    let facts = [
        prompt("a\0b"),
        tokens(u64::MAX),
        json!({
            "event": "tool_usage", "msg_id": "m", "tool_call_id": "c", "tool": "t",
            "args": { "a\0": ["\0", { "b": "\0" }] }, "injected": false,
        }),
    ];
    let (summary, connection) = stored(&folder, |recorder| drop(emit(recorder, "u\0", facts)));
    // The start, the three above, and the end, whose sum is as large.
    assert_eq!((summary.stored(), summary.mended()), (5, 5));
    assert_eq!(rows(&connection, "prompts")[0]["prompt"], "a\u{FFFD}b");
    assert_eq!(rows(&connection, "token_usage")[0]["input"], i64::MAX);
    assert_eq!(
        rows(&connection, "tool_usage")[0]["args"],
        "{\"a\u{FFFD}\":[\"\u{FFFD}\",{\"b\":\"\u{FFFD}\"}]}"
    );
    let interception = &rows(&connection, "interceptions")[0];
    assert_eq!(interception["initiator_id"], "u\u{FFFD}");
    assert_eq!(interception["input"], i64::MAX);
}

#[test]
fn the_same_events_again_change_nothing() {
    let folder = Folder::new();
    let spool = folder.path("spool");
    let (recorder, events) = Recorder::channel(1024);
    emit(&recorder, "u1", [prompt("hello"), tokens(7)]);
    drop(recorder);
    let lost = Scripted::answering([Answer::NoConnection; 1_000]);
    run(settings(Some(&spool)), lost, events).unwrap();
    let lines = std::fs::read(&spool).unwrap();

    let mut before = None;
    for _ in 0..3 {
        std::fs::write(&spool, &lines).unwrap();
        let (summary, connection) = stored(&folder, |_| {});
        assert_eq!(summary.stored(), 4);
        let now = ["interceptions", "prompts", "token_usage"].map(|table| rows(&connection, table));
        assert!(now.iter().all(|rows| rows.len() == 1));
        assert_eq!(before.get_or_insert_with(|| now.clone()), &now);
    }
}

#[test]
fn a_row_that_sqlite_refuses_is_set_aside() {
    let folder = Folder::new();
    SqliteSink::open(folder.path("db")).unwrap();
    let connection = Connection::open(folder.path("db")).unwrap();
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON prompts WHEN NEW.prompt = 'poison' \
                   BEGIN SELECT RAISE(ABORT, 'no poison'); END";
    connection.execute_batch(trigger).unwrap();
    let (summary, connection) = stored(&folder, |recorder| {
        emit(recorder, "u1", [prompt("poison"), tokens(1)]);
        emit(recorder, "u2", [prompt("fine"), tokens(1)]);
    });
    assert_eq!((summary.stored(), summary.set_aside()), (7, 1));
    assert_eq!(rows(&connection, "prompts").len(), 1);
    assert!(
        rows(&connection, "interceptions")
            .iter()
            .all(|row| row["outcome"] == "completed")
    );
}

#[test]
fn a_file_that_is_no_database_or_a_newer_one_is_said() {
    let folder = Folder::new();
    std::fs::write(folder.path("text"), "no database ".repeat(100)).unwrap();
    assert_eq!(
        SqliteSink::open(folder.path("text")).unwrap_err().kind(),
        SqlErrorKind::Database
    );
    let nowhere = folder.path("no folder").join("db");
    assert_eq!(SqliteSink::open(nowhere).unwrap_err().kind(), SqlErrorKind::Database);
    SqliteSink::open(folder.path("db")).unwrap();
    let connection = Connection::open(folder.path("db")).unwrap();
    connection
        .execute_batch("UPDATE record_schema SET version = 99")
        .unwrap();
    let error = SqliteSink::open(folder.path("db")).unwrap_err();
    assert_eq!(error.kind(), SqlErrorKind::Version);
    assert!(error.to_string().contains("99"), "{error}");
}
