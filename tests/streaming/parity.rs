//! One table of conversations, two readers: whole and streamed, the same turns, calls, totals and records.

use serde_json::{Value, json};

use crate::setup::{Outcome, Setup};
use crate::support::Reply;
use crate::wire::{DONE, Message, event, tokens};

/// The model's turn in one round.
struct Turn {
    content: Option<&'static str>,
    /// Id, name and arguments.
    calls: Vec<(&'static str, &'static str, &'static str)>,
    tokens: (u64, u64),
}

struct Conversation {
    name: &'static str,
    /// The request without the members that ask for a stream.
    ask: &'static str,
    turns: Vec<Turn>,
    max_rounds: u32,
}

fn turn(
    content: Option<&'static str>,
    calls: &[(&'static str, &'static str, &'static str)],
    tokens: (u64, u64),
) -> Turn {
    Turn {
        content,
        calls: calls.to_vec(),
        tokens,
    }
}

fn table() -> Vec<Conversation> {
    let clock = ("call_1", "bmcp_local_clock", r#"{"zone": "UTC", "n": 1.0}"#);
    let echo = ("call_2", "bmcp_local_echo", r#"{"text":"a \"quoted\" \u00e9 line\n"}"#);
    let mine = ("call_3", "mine", "{}");
    let bad = ("call_4", "bmcp_local_echo", "not JSON");
    let unknown = ("call_5", "bmcp_no_such_tool", "{}");
    let done = || turn(Some("Done: é \"x\"\n."), &[], (20, 4));
    let ask = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]"#;
    let new = |name, turns| Conversation {
        name,
        ask,
        turns,
        max_rounds: 32,
    };
    vec![
        new("one turn", vec![done()]),
        new("the caller's call", vec![turn(None, &[mine], (9, 1))]),
        new("a call and an answer", vec![turn(None, &[clock], (9, 1)), done()]),
        new("with a preamble", vec![turn(Some("Wait.\t"), &[clock], (9, 1)), done()]),
        new("several calls", vec![turn(None, &[clock, echo], (9, 1)), done()]),
        new(
            "three rounds",
            vec![
                turn(None, &[clock], (9, 1)),
                turn(Some("Hm."), &[echo], (12, 3)),
                done(),
            ],
        ),
        new(
            "ours, then the caller's",
            vec![turn(None, &[clock, mine], (9, 1)), done()],
        ),
        new(
            "ours, then the caller's turn",
            vec![turn(None, &[clock], (9, 1)), turn(Some("Yours."), &[mine], (12, 3))],
        ),
        new("arguments that are not JSON", vec![turn(None, &[bad], (9, 1)), done()]),
        new(
            "a tool that does not exist",
            vec![turn(None, &[unknown, clock], (9, 1)), done()],
        ),
        Conversation {
            max_rounds: 1,
            ..new("the cap", vec![turn(None, &[clock], (9, 1)), done()])
        },
        Conversation {
            ask: r#"{"model":"m","messages":[],"tools":[{"type":"function","function":{"name":"mine"}}],"tool_choice":"auto""#,
            ..new("no messages", vec![turn(None, &[clock], (9, 1)), done()])
        },
        Conversation {
            ask: r#"{"model":"m","messages":[{"role":"tool","tool_call_id":"call_0","content":"x"}],"n":1"#,
            ..new("after a tool", vec![turn(None, &[clock], (9, 1)), done()])
        },
    ]
}

/// The ways to stream one turn.
#[derive(Clone, Copy, Debug)]
enum Style {
    /// Role first, then pieces of three characters.
    Pieces,
    /// As few deltas as there can be.
    Lump,
}

impl Turn {
    fn finish_reason(&self) -> &'static str {
        if self.calls.is_empty() { "stop" } else { "tool_calls" }
    }

    fn whole(&self) -> String {
        let calls: Vec<_> = self
            .calls
            .iter()
            .map(|(id, name, arguments)| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
            .collect();
        let mut message = json!({"role": "assistant", "content": self.content, "refusal": null, "annotations": []});
        if !calls.is_empty() {
            message["tool_calls"] = json!(calls);
        }
        json!({
            "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-x", "service_tier": "flex",
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason()}],
            "usage": tokens(self.tokens.0, self.tokens.1),
        })
        .to_string()
    }

    fn streamed(&self, style: Style) -> String {
        let chunk = |choices: Value| json!({"id": "chatcmpl-1", "object": "chunk", "model": "gpt-x", "service_tier": "flex", "choices": choices});
        let delta = |delta: Value| event(&chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}])));
        let mut stream = String::new();
        match style {
            Style::Pieces => {
                stream += &delta(json!({"role": "assistant", "content": "", "refusal": null}));
                for piece in pieces(self.content.unwrap_or_default()) {
                    stream += &delta(json!({ "content": piece }));
                }
                for (index, (id, name, arguments)) in self.calls.iter().enumerate() {
                    let first = json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}});
                    stream += &delta(json!({ "tool_calls": [first] }));
                    for piece in pieces(arguments) {
                        stream += &delta(json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}));
                    }
                }
            }
            Style::Lump => {
                let calls = self.calls.iter().enumerate().map(|(index, (id, name, arguments))| {
                    json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
                });
                let mut lump = json!({"role": "assistant", "content": self.content});
                if !self.calls.is_empty() {
                    lump["tool_calls"] = calls.collect();
                }
                stream += &delta(lump);
            }
        }
        stream += &event(&chunk(
            json!([{"index": 0, "delta": {}, "finish_reason": self.finish_reason()}]),
        ));
        let mut last = chunk(json!([]));
        last["usage"] = tokens(self.tokens.0, self.tokens.1);
        stream + &event(&last) + DONE
    }
}

fn pieces(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(3).map(|piece| piece.iter().collect()).collect()
}

/// The request without the caller's stream members, and without a replayed message's empty members: a stream has no
/// delta for `"refusal":null` or `"annotations":[]`, so they cannot be replayed from it.
fn comparable(request: &str) -> Value {
    let mut request: Value = serde_json::from_str(request).unwrap();
    let members = request.as_object_mut().unwrap();
    members.remove("stream");
    members.remove("stream_options");
    for message in members["messages"].as_array_mut().unwrap() {
        if message["role"] == "assistant" {
            let members = message.as_object_mut().unwrap();
            assert!(members.contains_key("content"), "the API wants it beside calls");
            members.retain(|_, value| !value.is_null() && *value != json!([]) && *value != json!(""));
        }
    }
    request
}

fn comparable_records(outcome: &Outcome) -> Vec<Value> {
    let records = outcome.records.iter().cloned().map(|mut record| {
        let members = record.as_object_mut().unwrap();
        members.remove("streaming");
        members.remove("time_to_first_token_ms");
        record
    });
    records.collect()
}

#[tokio::test(start_paused = true)]
async fn whole_and_streamed_conversations_are_the_same() {
    for conversation in table() {
        let name = conversation.name;
        let configure = |layer: tower_llm_bridge::BridgeLayer| layer.max_rounds(conversation.max_rounds);
        let whole = conversation.turns.iter().map(|turn| Reply::json(200, turn.whole()));
        let whole = Setup::with(whole, configure)
            .run(format!("{}}}", conversation.ask))
            .await;
        assert_eq!(whole.status, 200, "{name}: {}", whole.body);
        let reply: Value = serde_json::from_str(&whole.body).unwrap();
        for style in [Style::Pieces, Style::Lump] {
            let streamed = conversation
                .turns
                .iter()
                .map(|turn| Reply::events(turn.streamed(style)));
            let ask = format!(
                r#"{},"stream":true,"stream_options":{{"include_usage":true}}}}"#,
                conversation.ask
            );
            let streamed = Setup::with(streamed, configure).run(ask).await;
            let requests =
                |outcome: &Outcome| -> Vec<Value> { outcome.requests.iter().map(|body| comparable(body)).collect() };
            assert_eq!(requests(&streamed), requests(&whole), "{name}, {style:?}");
            assert_eq!(
                comparable_records(&streamed),
                comparable_records(&whole),
                "{name}, {style:?}"
            );

            let message = Message::read(&streamed.body);
            let last = &reply["choices"][0];
            let said: String = conversation.turns.iter().filter_map(|turn| turn.content).collect();
            assert_eq!(message.content, said, "{name}");
            assert_eq!(
                last["message"]["content"].as_str().unwrap_or_default(),
                said,
                "{name}: the words of all rounds"
            );
            let calls: Vec<Value> = message
                .calls
                .iter()
                .map(|(id, name, arguments)| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
                .collect();
            assert_eq!(
                json!(calls),
                last["message"].get("tool_calls").cloned().unwrap_or(json!([])),
                "{name}"
            );
            assert_eq!(json!(message.finish_reasons), json!([last["finish_reason"]]));
            assert_eq!(message.usages, [reply["usage"].clone()], "{name}");
            assert_eq!((message.ids, &reply["id"]), (vec!["$ID".to_owned()], &json!("$ID")));
        }
    }
}
