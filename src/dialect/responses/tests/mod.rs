//! Drives the dialect as the bridge does, without a network, and checks every stream that the caller gets.

mod cuts;
mod keep_alive;
mod rounds;
mod rules;

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Responses;
use crate::dialect::sse::Decoder;
use crate::dialect::turn::{Earlier, Fault, Progress, ToolResult, Turn};
use crate::dialect::{Api, OfferSettings, Purpose, Relay, RelaySetup, Request};
use crate::json::Scanner;
use crate::rope::Rope;
use crate::tools::{ToolDefinition, Tools, tool_fn};

/// The injected names.
const CLOCK: &str = "bmcp_local_clock";
const WEATHER: &str = "bmcp_local_weather";

const SETTINGS: OfferSettings = OfferSettings {
    parallel: true,
    reported_usage: None,
};

/// The record of one conversation.
#[derive(Debug, Default)]
struct Talk {
    /// The caller's bytes.
    shown: String,
    /// The provider's requests.
    asked: Vec<String>,
    turns: Vec<Turn>,
    shown_id: Option<(String, String)>,
}

fn tools() -> Tools {
    static TOOLS: OnceLock<Tools> = OnceLock::new();
    let tool = |name: &str| {
        tool_fn(ToolDefinition::new(name), |_| async {
            Ok::<_, std::convert::Infallible>("")
        })
    };
    TOOLS
        .get_or_init(|| Tools::new([tool("clock"), tool("weather")]))
        .clone()
}

fn read(body: &str) -> Box<dyn Request> {
    let mut scanner = Scanner::new();
    scanner.scan(body.as_bytes()).unwrap();
    let body = Rope::from(body.to_owned());
    Responses
        .request(body, &scanner, Purpose::Answer)
        .unwrap_or_else(|invalid| panic!("{invalid:?}"))
}

fn offered(body: &str) -> Box<dyn Request> {
    let mut request = read(body);
    request.offer(tools(), SETTINGS);
    request
}

fn text(rope: &Rope) -> String {
    String::from_utf8(rope.clone().into_bytes().to_vec()).unwrap()
}

fn setup() -> RelaySetup {
    RelaySetup {
        id: Uuid::now_v7(),
        recorded: true,
        max_held: 1 << 20,
    }
}

// The provider's words.

fn message(id: &str, words: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"message","status":"completed","role":"assistant","content":[{{"type":"output_text","text":"{words}","annotations":[]}}]}}"#
    )
}

fn call(call_id: &str, name: &str) -> String {
    format!(
        r#"{{"id":"fc_{call_id}","type":"function_call","status":"completed","call_id":"{call_id}","name":"{name}","arguments":"{{\"city\":\"Oslo\"}}"}}"#
    )
}

fn reasoning(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"reasoning","summary":[{{"type":"summary_text","text":"hm {id}"}}],"encrypted_content":"gAAA{id}"}}"#
    )
}

/// The injected tools, as the provider echoes them.
fn echo() -> String {
    let tool = |name| json!({"type": "function", "name": name, "strict": false});
    Value::from([CLOCK, WEATHER].map(tool).to_vec()).to_string()
}

/// A response object; the echo is of a caller without tools of its own.
fn response(id: &str, status: &str, output: &[String], usage: u64) -> String {
    let usage = if usage == 0 {
        "null".to_owned()
    } else {
        format!(
            r#"{{"input_tokens":{usage},"input_tokens_details":{{"cached_tokens":1}},"output_tokens":2,"total_tokens":{}}}"#,
            usage + 2
        )
    };
    format!(
        r#"{{"id":"{id}","object":"response","status":"{status}","model":"gpt-9","output":[{}],"parallel_tool_calls":true,"tool_choice":"auto","tools":{},"usage":{usage}}}"#,
        output.join(","),
        echo(),
    )
}

fn event(sequence: &mut u64, kind: &str, members: &str) -> String {
    let number = *sequence;
    *sequence += 1;
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number},{members}}}\n\n")
}

/// The events of a response, the last of which is `response.{status}`.
fn streamed_as(id: &str, items: &[String], status: &str, usage: u64) -> String {
    let mut sequence = 0;
    let mut stream = String::new();
    for kind in ["response.created", "response.in_progress"] {
        let object = response(id, "in_progress", &[], 0);
        stream.push_str(&event(&mut sequence, kind, &format!(r#""response":{object}"#)));
    }
    for (index, item) in items.iter().enumerate() {
        let value: Value = serde_json::from_str(item).unwrap();
        let item_id = &value["id"];
        let announced = item.replace(r#""status":"completed""#, r#""status":"in_progress""#);
        let members = format!(r#""output_index":{index},"item":{announced}"#);
        stream.push_str(&event(&mut sequence, "response.output_item.added", &members));
        let delta = match value["type"].as_str().unwrap() {
            "message" => "response.output_text.delta",
            "reasoning" => "response.reasoning_summary_text.delta",
            _ => "response.function_call_arguments.delta",
        };
        let members = format!(r#""item_id":{item_id},"output_index":{index},"content_index":0,"delta":"x""#);
        stream.push_str(&event(&mut sequence, delta, &members));
        let members = format!(r#""output_index":{index},"item":{item}"#);
        stream.push_str(&event(&mut sequence, "response.output_item.done", &members));
    }
    let object = response(id, status, items, usage);
    stream.push_str(&event(
        &mut sequence,
        &format!("response.{status}"),
        &format!(r#""response":{object}"#),
    ));
    stream
}

fn streamed(id: &str, items: &[String], usage: u64) -> String {
    streamed_as(id, items, "completed", usage)
}

// The bridge's part.

/// Feeds one round's bytes to a relay, in frames of `frame` bytes; how it ended.
fn feed(relay: &mut dyn Relay, stream: &[u8], frame: usize, out: &mut BytesMut) -> Result<Progress, Fault> {
    let mut decoder = Decoder::new(1 << 20);
    for piece in stream.chunks(frame) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(event) = decoder.next().unwrap() {
            let before = out.len();
            let progress = relay.event(&event, out)?;
            match progress {
                Progress::Done => return Ok(progress),
                Progress::Shown => assert!(out.len() > before),
                Progress::Held => assert_eq!(out.len(), before),
                Progress::Aside => {}
            }
        }
    }
    Ok(Progress::Aside)
}

/// Runs the tools of a turn: each of ours says its call's id, each of the caller's gets the placeholder.
fn results(turn: &Turn) -> Vec<ToolResult<'_>> {
    let result = |call| ToolResult {
        call,
        text: if call.is_callers() {
            "Not run.".to_owned()
        } else {
            format!("result of {}", call.id)
        },
        is_error: call.is_callers(),
    };
    turn.calls.iter().map(result).collect()
}

/// A streamed conversation, of which every round comes in frames of `frame` bytes.
fn stream_talk(request: &mut dyn Request, rounds: &[String], frame: usize) -> Talk {
    let (mut relay, mut out, mut talk) = (request.relay(setup()), BytesMut::new(), Talk::default());
    for stream in rounds {
        talk.asked.push(text(&request.encode()));
        relay.begin_round(!out.is_empty());
        let progress = feed(&mut *relay, stream.as_bytes(), frame, &mut out).unwrap();
        assert_eq!(progress, Progress::Done);
        let turn = relay.turn();
        if turn.is_ours {
            let replayed = relay.replay();
            request.extend(replayed, &results(&turn));
        }
        talk.turns.push(turn);
        talk.shown_id = relay.take_shown_id().map(|id| (id.shown, id.stored)).or(talk.shown_id);
    }
    assert_eq!(relay.take_shown_id(), None, "nothing is new");
    talk.shown = String::from_utf8(out.to_vec()).unwrap();
    talk
}

/// A conversation of whole replies.
fn whole_talk(request: &mut dyn Request, rounds: &[String]) -> Talk {
    let (mut earlier, mut talk) = (Earlier::default(), Talk::default());
    for body in rounds {
        talk.asked.push(text(&request.encode()));
        let (reply, turn) = request.read_reply(body.clone().into()).unwrap();
        talk.shown_id = reply.shown_id().map(|id| (id.shown, id.stored));
        if turn.is_ours {
            let replayed = reply.replay(&mut earlier);
            request.extend(replayed, &results(&turn));
        } else {
            talk.shown = text(&reply.seal(Uuid::now_v7(), &earlier));
        }
        talk.turns.push(turn);
    }
    talk
}

// The caller's part.

/// The events of a stream, read without the decoder.
fn events(stream: &str) -> Vec<Value> {
    let blocks = stream.split("\n\n").filter(|block| !block.trim().is_empty());
    let datas = blocks.filter_map(|block| {
        let data = block.lines().find_map(|line| line.strip_prefix("data: "))?;
        let kind = block.lines().find_map(|line| line.strip_prefix("event: ")).unwrap();
        let data: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
        assert_eq!(data["type"], kind);
        Some(data)
    });
    datas.collect()
}

fn kinds(stream: &str) -> Vec<String> {
    let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
    events(stream).iter().map(kind).collect()
}

/// Checks a stream as the strictest client does; the final response.
fn check(stream: &str) -> Value {
    let events = events(stream);
    let (mut announced, mut ids, mut last) = (Vec::<Value>::new(), Vec::new(), None);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{stream}");
        let kind = event["type"].as_str().unwrap();
        assert!(last.is_none(), "an event after the last: {stream}");
        assert_eq!(kind == "response.created", number == 0, "{stream}");
        if let Some(response) = event.get("response") {
            ids.push(response["id"].clone());
        }
        let index = event["output_index"].as_u64().map(|index| index as usize);
        match kind {
            "response.output_item.added" => {
                assert_eq!(index, Some(announced.len()), "{stream}");
                announced.push(event["item"].clone());
            }
            "response.output_item.done" => announced[index.unwrap()] = event["item"].clone(),
            "response.completed" | "response.incomplete" | "response.failed" => last = Some(event["response"].clone()),
            _ => assert!(index.is_none_or(|index| index < announced.len()), "{stream}"),
        }
    }
    let last = last.unwrap_or_else(|| panic!("no last event: {stream}"));
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(last["output"], Value::from(announced), "{stream}");
    last
}

fn assert_no_trace_of_ours(shown: &str) {
    assert!(!shown.contains("bmcp_"), "{shown}");
}
