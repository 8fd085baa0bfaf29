//! Tool servers by script, on standard input and output: a calm one, and those that misbehave.

use std::io::{self, BufRead, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::Failure;

/// How long the calm server's slow tool takes.
const SLOW: Duration = Duration::from_secs(30);

pub(crate) fn serve(kind: &str) -> Result<(), Failure> {
    let (out, lines) = mpsc::sync_channel::<String>(64);
    let writer = thread::spawn(move || {
        let mut output = io::stdout().lock();
        for line in lines {
            if writeln!(output, "{line}").and_then(|()| output.flush()).is_err() {
                // The gateway is gone.
                std::process::exit(0);
            }
        }
    });
    for line in io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        let Some(id) = message.get("id").cloned() else {
            // `notifications/initialized`: from now on the server may send requests.
            misbehave(kind, &out);
            continue;
        };
        let result = match message["method"].as_str().unwrap_or_default() {
            "initialize" => json!({
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": { "tools": { "listChanged": true } },
                "serverInfo": { "name": kind, "version": "1" },
            }),
            "tools/list" => json!({ "tools": tools(kind) }),
            "tools/call" if message["params"]["name"] == "slow" => {
                let out = out.clone();
                thread::spawn(move || {
                    thread::park_timeout(SLOW);
                    let _ = out.send(answer(&id, &text("late")));
                });
                continue;
            }
            "tools/call" if message["params"]["name"] == "vast" => text(&"x".repeat(12 << 20)),
            "tools/call" => text("quick"),
            _ => json!({}),
        };
        out.send(answer(&id, &result))?;
    }
    drop(out);
    let _ = writer.join();
    Ok(())
}

fn answer(id: &Value, result: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()
}

fn text(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

fn tools(kind: &str) -> Vec<Value> {
    let tool = |name: &str, description: &str, schema: Value| json!({ "name": name, "description": description, "inputSchema": schema });
    let plain = || json!({ "type": "object" });
    match kind {
        "deep" => {
            let mut definitions = Map::new();
            for level in 0..24 {
                let next = json!({ "$ref": format!("#/$defs/d{}", level + 1) });
                definitions.insert(format!("d{level}"), json!({ "anyOf": [next, next] }));
            }
            definitions.insert("d24".to_owned(), json!({ "type": "integer" }));
            let nested =
                json!({ "type": "object", "properties": { "n": { "$ref": "#/$defs/d0" } }, "$defs": definitions });
            let options: Vec<usize> = (0..5_000).collect();
            let listed = json!({ "type": "object", "properties": { "n": { "items": { "enum": options } } } });
            vec![
                tool("nested", "Two references a level", nested),
                tool("listed", "Many options", listed),
                tool("wordy", &"d".repeat(8 << 20), plain()),
            ]
        }
        _ => ["quick", "slow", "vast"]
            .map(|name| tool(name, "A tool", plain()))
            .into(),
    }
}

/// Sends without end, as fast as the gateway reads.
fn misbehave(kind: &str, out: &mpsc::SyncSender<String>) {
    let line = match kind {
        "flood" => r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
        "print" => "a line of a log that went to the wrong place",
        "answers" => r#"{"jsonrpc":"2.0","id":987654321,"result":{}}"#,
        _ => return,
    };
    let (out, line) = (out.clone(), line.to_owned());
    thread::spawn(move || while out.send(line.clone()).is_ok() {});
}
