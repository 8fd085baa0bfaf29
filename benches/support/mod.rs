//! Bodies for both benchmarks and the allocation guard, such as coding agents and providers send.

use bytes::Bytes;
use serde_json::json;
use tower_llm_bridge::tools::{ToolCall, ToolDefinition, ToolOutput, Tools, tool_fn};

const KIB: usize = 1024;

/// A text of `length` bytes as written in a JSON string: source code, with an escape about every 40 bytes.
fn code(length: usize) -> String {
    const LINES: [&str; 6] = [
        r"    let entry = entries.get(index)?;\n",
        r#"    tracing::debug!(name, \"entry found\");\n"#,
        r"    if entry.is_stale(now) { continue; }\n",
        r#"    map.insert(\"key\", entry.value());\n"#,
        r"    // the rest is left to the caller\n",
        r"    total += entry.length as usize;\n\t",
    ];
    let mut text = String::with_capacity(length + 48);
    for line in LINES.iter().cycle() {
        if text.len() + line.len() > length {
            break;
        }
        text.push_str(line);
    }
    while text.len() < length {
        text.push('.');
    }
    text
}

/// A chat completion request of exactly `length` bytes, one KiB at least: an agent's conversation with long tool
/// results, and a short message of the user at its end.
pub(crate) fn request(length: usize, stream: bool) -> Bytes {
    let stream = if stream {
        r#""stream":true,"stream_options":{"include_usage":true},"#
    } else {
        ""
    };
    let head = format!(
        r#"{{"model":"gpt-4o","temperature":0.2,{stream}"messages":[{{"role":"system","content":"You are a careful \"engineer\".\n"}}"#
    );
    let last = r#",{"role":"user","content":"And now run the tests, please."}],"max_completion_tokens":1024}"#;
    fill(&head, last, length, |turn, text| {
        format!(
            r#",{{"role":"assistant","content":null,"tool_calls":[{{"id":"call_{turn:04}","type":"function","function":{{"name":"read_file","arguments":"{{\"path\":\"src/lib.rs\"}}"}}}}]}},{{"role":"tool","tool_call_id":"call_{turn:04}","content":"{text}"}}"#
        )
    })
}

/// `head`, turns of the agent's calls and their results, and `tail`: `length` bytes in all, if the two are shorter.
/// `turn` gets its number and the text of the result.
pub(crate) fn fill(head: &str, tail: &str, length: usize, turn: impl Fn(usize, &str) -> String) -> Bytes {
    let (mut body, mut number) = (head.to_owned(), 0);
    while body.len() + 8 * KIB + tail.len() < length {
        body.push_str(&turn(number, &code(4 * KIB)));
        number += 1;
    }
    let padding = length.saturating_sub(body.len() + turn(number, "").len() + tail.len());
    body.push_str(&turn(number, &code(padding)));
    body.push_str(tail);
    Bytes::from(body)
}

/// A whole reply.
pub(crate) fn reply() -> Bytes {
    Bytes::from_static(
        br#"{"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion","created":1741570283,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"All 214 tests pass.\nThe slowest is `pool::walk`, with 1.2 s; nothing was \"skipped\".","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1117,"completion_tokens":46,"total_tokens":1163,"prompt_tokens_details":{"cached_tokens":1024,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_fc9f1d7035"}"#,
    )
}

/// A streamed reply, event by event: `count` chunks of content between the role and the finish, usage, `[DONE]`.
pub(crate) fn events(count: usize) -> Vec<Bytes> {
    let chunk = |choices: &str, usage: &str| {
        Bytes::from(format!(
            "{}\n\n",
            format_args!(
                r#"data: {{"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_fc9f1d7035","choices":[{choices}],"usage":{usage}}}"#
            )
        ))
    };
    let delta = |delta: &str, finish: &str| {
        chunk(
            &format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}"#),
            "null",
        )
    };
    let mut events = vec![delta(r#"{"role":"assistant","content":"","refusal":null}"#, "null")];
    events.extend((0..count).map(|number| delta(&format!(r#"{{"content":" word{number}"}}"#), "null")));
    events.push(delta("{}", r#""stop""#));
    events.push(chunk(
        "",
        r#"{"prompt_tokens":1117,"completion_tokens":100,"total_tokens":1217,"prompt_tokens_details":{"cached_tokens":1024}}"#,
    ));
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    events
}

/// `count` tools such as MCP servers offer, with about 500 bytes of definition each.
pub(crate) fn tools(count: usize) -> Tools {
    Tools::new((0..count).map(|number| {
        let definition = ToolDefinition::new(format!("search_documents_{number:02}"))
            .server("wiki")
            .description("Searches the company's documents for a phrase and returns the best passages, newest first.")
            .parameters(json!({
                "type": "object",
                "properties": {
                    "query": { "type": "string", "description": "What to look for, in plain words" },
                    "limit": { "type": "integer", "minimum": 1, "maximum": 50, "description": "How many passages" },
                    "since": { "type": "string", "format": "date-time", "description": "Only what changed since then" },
                },
                "required": ["query"],
                "additionalProperties": false,
            }));
        tool_fn(definition, |_: ToolCall| async {
            Ok::<_, std::convert::Infallible>(ToolOutput::text("nothing found"))
        })
    }))
}
