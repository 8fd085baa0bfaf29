//! Scripted conversations, driven as the bridge drives them, whole and streamed; and a client as strict as the
//! strictest official one.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::Messages;
use crate::dialect::sse::Decoder;
use crate::dialect::turn::{Earlier, ErrorWords, Fault, Owner, Progress, ToolResult, Turn};
use crate::dialect::{Api, OfferSettings, Purpose, Relay, RelaySetup, Request};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::json::Scanner;
use crate::rope::Rope;
use crate::tools::{ToolDefinition, Tools, tool_fn};
use crate::types::ReportedUsage;

pub(super) const CLOCK: &str = "bmcp_local_clock";
pub(super) const REQUEST: &str =
    r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
pub(super) const SETUP: RelaySetup = RelaySetup {
    id: Uuid::nil(),
    recorded: true,
    max_held: 1 << 20,
};

/// The result of a conversation.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) caller: String,
    /// The bodies that the provider got, the caller's first.
    pub(super) requests: Vec<String>,
    pub(super) turns: Vec<Turn>,
}

/// How a stream is cut into frames.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    Whole,
    EveryByte,
    At(usize),
}

pub(super) fn tools() -> Tools {
    static TOOLS: LazyLock<Tools> = LazyLock::new(|| {
        Tools::new(["clock", "weather"].map(|name| {
            tool_fn(ToolDefinition::new(name), |_| async {
                Ok::<_, std::convert::Infallible>("")
            })
        }))
    });
    TOOLS.clone()
}

pub(super) fn read(body: &str, purpose: Purpose) -> Box<dyn Request> {
    let mut scanner = Scanner::new();
    scanner.scan(body.as_bytes()).unwrap();
    let body = Rope::from(Bytes::copy_from_slice(body.as_bytes()));
    Messages.request(body, &scanner, purpose).unwrap()
}

pub(super) fn offered(body: &str, reported_usage: Option<ReportedUsage>) -> Box<dyn Request> {
    let mut request = read(body, Purpose::Answer);
    let settings = OfferSettings {
        parallel: true,
        reported_usage,
    };
    request.offer(tools(), settings);
    request
}

pub(super) fn text(rope: Rope) -> String {
    String::from_utf8(rope.into_bytes().to_vec()).unwrap()
}

/// Appends a round as the bridge does.
fn extend(request: &mut dyn Request, turn: &Turn, replay: Rope) {
    let results = turn.calls.iter().map(|call| {
        let is_ours = matches!(call.owner, Owner::Ours(_));
        ToolResult {
            call,
            text: if is_ours {
                format!("ran {}", call.arguments)
            } else {
                "Not run".to_owned()
            },
            is_error: !is_ours,
        }
    });
    request.extend(replay, &results.collect::<Vec<_>>());
}

/// The conversation of whole answers.
pub(super) fn whole(mut request: Box<dyn Request>, replies: &[String], reported: Option<ReportedUsage>) -> Told {
    let mut told = Told::default();
    let mut earlier = Earlier {
        reported_usage: reported,
        ..Earlier::default()
    };
    for reply in replies {
        told.requests.push(text(request.encode()));
        let body = Rope::from(Bytes::copy_from_slice(reply.as_bytes()));
        let (reply, turn) = request.read_reply(body).unwrap();
        if turn.is_ours {
            let replay = reply.replay(&mut earlier);
            extend(&mut *request, &turn, replay);
        } else {
            told.caller = text(reply.seal(Uuid::nil(), &earlier));
        }
        told.turns.push(turn);
    }
    told
}

/// The conversation of streams.
pub(super) fn streamed(mut request: Box<dyn Request>, streams: &[String], cut: Cut) -> Told {
    let (mut told, mut out) = (Told::default(), BytesMut::new());
    let mut relay = request.relay(SETUP);
    for stream in streams {
        told.requests.push(text(request.encode()));
        relay.begin_round(!out.is_empty());
        let last = feed(&mut *relay, stream, cut, &mut out);
        assert!(matches!(last, Ok(Progress::Done)), "{last:?}");
        let turn = relay.turn();
        if turn.is_ours {
            let replay = relay.replay();
            extend(&mut *request, &turn, replay);
        }
        told.turns.push(turn);
    }
    told.caller = String::from_utf8(out.to_vec()).unwrap();
    told
}

/// Feeds one stream up to its end. Returns the result of its last event.
pub(super) fn feed(relay: &mut dyn Relay, stream: &str, cut: Cut, out: &mut BytesMut) -> Result<Progress, Fault> {
    let bytes = Bytes::copy_from_slice(stream.as_bytes());
    let frames: Vec<Bytes> = match cut {
        Cut::Whole => vec![bytes],
        Cut::EveryByte => (0..bytes.len()).map(|at| bytes.slice(at..=at)).collect(),
        Cut::At(at) => vec![bytes.slice(..at), bytes.slice(at..)],
    };
    let (mut decoder, mut last) = (Decoder::new(usize::MAX), Ok(Progress::Aside));
    for frame in frames {
        decoder.push(frame);
        while let Some(event) = decoder.next().unwrap() {
            last = relay.event(&event, out);
            if !matches!(last, Ok(Progress::Aside | Progress::Held | Progress::Shown)) {
                return last;
            }
        }
    }
    last
}

/// Feeds a stream that ends here, cleanly or not, and lets the relay end it as the bridge does.
pub(super) fn feed_broken(relay: &mut dyn Relay, stream: &[u8], is_clean: bool, out: &mut BytesMut) -> bool {
    let mut decoder = Decoder::new(usize::MAX);
    decoder.push(Bytes::copy_from_slice(stream));
    while let Some(event) = decoder.next().unwrap() {
        match relay.event(&event, out) {
            Ok(Progress::Done) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    if is_clean {
        if let Some(rest) = decoder.finish() {
            let whole = out.len();
            if let Ok(Progress::Done) = relay.event(&rest, out) {
                if out.len() > whole {
                    out.extend_from_slice(crate::dialect::sse::missing_end(rest.raw()));
                }
                return true;
            }
            out.truncate(whole);
        }
        if relay.end(out) {
            return true;
        }
    }
    let error = BridgeError::new(BridgeErrorKind::UpstreamFailed, "cut");
    relay.fail(ErrorWords::Bridge(&error), out);
    false
}

/// An answer as a whole reply.
#[expect(clippy::needless_pass_by_value, reason = "json! values read better without a borrow")]
pub(super) fn message(id: &str, content: Value, stop_reason: &str, usage: Value) -> Value {
    json!({"id": id, "type": "message", "role": "assistant", "model": "m-1", "content": content,
        "stop_reason": stop_reason, "stop_sequence": null, "usage": usage})
}

pub(super) fn usage(input: u64, output: u64) -> Value {
    json!({"input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 5,
        "output_tokens": output, "service_tier": "standard"})
}

#[expect(clippy::needless_pass_by_value, reason = "json! values read better without a borrow")]
pub(super) fn call(id: &str, name: &str, input: Value) -> Value {
    json!({"type": "tool_use", "id": id, "name": name, "input": input})
}

pub(super) fn words(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

pub(super) fn thinking(text: &str, signature: &str) -> Value {
    json!({"type": "thinking", "thinking": text, "signature": signature})
}

pub(super) fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
}

/// The same answer as a stream.
pub(super) fn stream(message: &Value) -> String {
    let mut start = message.clone();
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    start["usage"]["output_tokens"] = 1.into();
    let mut events = event(&json!({"type": "message_start", "message": start}));
    events += &event(&json!({"type": "ping"}));
    for (index, block) in message["content"].as_array().unwrap().iter().enumerate() {
        events += &block_events(index, block);
    }
    let usage = &message["usage"];
    let delta = json!({"stop_reason": message["stop_reason"], "stop_sequence": null});
    let usage = json!({"output_tokens": usage["output_tokens"], "input_tokens": null});
    events += &event(&json!({"type": "message_delta", "delta": delta, "usage": usage}));
    events + &event(&json!({"type": "message_stop"}))
}

fn block_events(index: usize, block: &Value) -> String {
    let (mut start, mut deltas) = (block.clone(), Vec::new());
    let mut pieces = |kind: &str, member: &str, text: &str| {
        let half = text.len() / 2;
        let half = (half..).find(|at| text.is_char_boundary(*at)).unwrap();
        for piece in [&text[..half], &text[half..]] {
            deltas.push(json!({"type": kind, member: piece}));
        }
    };
    match block["type"].as_str().unwrap() {
        "text" => {
            pieces("text_delta", "text", block["text"].as_str().unwrap());
            start["text"] = "".into();
            if let Some(citations) = block.get("citations").and_then(Value::as_array) {
                start["citations"] = json!([]);
                let cited = citations.iter();
                deltas.extend(cited.map(|citation| json!({"type": "citations_delta", "citation": citation})));
            }
        }
        "thinking" => {
            pieces("thinking_delta", "thinking", block["thinking"].as_str().unwrap());
            deltas.push(json!({"type": "signature_delta", "signature": block["signature"]}));
            (start["thinking"], start["signature"]) = ("".into(), "".into());
        }
        "tool_use" => {
            pieces("input_json_delta", "partial_json", &block["input"].to_string());
            start["input"] = json!({});
        }
        _ => {}
    }
    let mut events = event(&json!({"type": "content_block_start", "index": index, "content_block": start}));
    for delta in deltas {
        events += &event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }
    events + &event(&json!({"type": "content_block_stop", "index": index}))
}

/// A client's reading of a stream. It panics where any official client fails.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) message: Option<Value>,
    pub(super) open: Option<u64>,
    inputs: Vec<String>,
    pub(super) is_stopped: bool,
    pub(super) error: Option<Value>,
    pub(super) pings: usize,
    pub(super) comments: usize,
    pub(super) unknown: Vec<Value>,
}

impl Client {
    pub(super) fn of(stream: &str) -> Self {
        let mut client = Self::default();
        let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
        let lines = stream.replace("\r\n", "\n").replace('\r', "\n");
        assert!(
            lines.is_empty() || lines.ends_with("\n\n"),
            "the last event has no end: {lines:?}"
        );
        for block in lines.split("\n\n").filter(|block| !block.trim().is_empty()) {
            client.take(block);
        }
        client
    }

    fn take(&mut self, block: &str) {
        assert!(!self.is_stopped && self.error.is_none(), "{block} comes after the end");
        let mut data = Vec::new();
        let mut name = None;
        for line in block.lines() {
            match line.split_once(':') {
                Some(("event", value)) => name = Some(value.trim_start()),
                Some(("data", value)) => data.push(value.strip_prefix(' ').unwrap_or(value)),
                Some(("", _)) => self.comments += 1,
                _ => {}
            }
        }
        if data.is_empty() {
            return;
        }
        let data: Value = serde_json::from_str(&data.join("\n")).unwrap();
        assert_eq!(data["type"], name.unwrap(), "the event's name");
        match name.unwrap() {
            "ping" => self.pings += 1,
            "error" => self.error = Some(data),
            "message_start" => {
                assert!(self.message.is_none(), "a second start");
                self.message = Some(data["message"].clone());
            }
            "content_block_start" | "content_block_delta" | "content_block_stop" => self.block(name.unwrap(), &data),
            "message_delta" => {
                assert_eq!(self.open, None);
                let message = self.message.as_mut().unwrap();
                message["stop_reason"] = data["delta"]["stop_reason"].clone();
                for (name, value) in data["usage"].as_object().unwrap() {
                    if !value.is_null() {
                        message["usage"][name] = value.clone();
                    }
                }
            }
            "message_stop" => {
                assert!(self.message.is_some() && self.open.is_none());
                self.is_stopped = true;
            }
            _ => self.unknown.push(data),
        }
    }

    fn block(&mut self, name: &str, data: &Value) {
        let index = data["index"].as_u64().unwrap();
        let content = self.message.as_mut().unwrap()["content"].as_array_mut().unwrap();
        if name == "content_block_start" {
            assert_eq!(
                (self.open, index as usize),
                (None, content.len()),
                "indexes have no gap"
            );
            content.push(data["content_block"].clone());
            self.inputs.push(String::new());
            self.open = Some(index);
            return;
        }
        assert_eq!(self.open, Some(index));
        let block = &mut content[index as usize];
        let input = &mut self.inputs[index as usize];
        if name == "content_block_stop" {
            self.open = None;
            if !input.is_empty() {
                block["input"] = serde_json::from_str(input).unwrap_or(Value::Null);
            }
            return;
        }
        let delta = &data["delta"];
        let add = |block: &mut Value, member: &str| {
            let text = format!("{}{}", block[member].as_str().unwrap(), delta[member].as_str().unwrap());
            block[member] = text.into();
        };
        match delta["type"].as_str().unwrap() {
            "text_delta" => add(block, "text"),
            "thinking_delta" => add(block, "thinking"),
            "signature_delta" => block["signature"] = delta["signature"].clone(),
            "input_json_delta" => input.push_str(delta["partial_json"].as_str().unwrap()),
            "citations_delta" => block["citations"]
                .as_array_mut()
                .unwrap()
                .push(delta["citation"].clone()),
            _ => self.unknown.push(delta.clone()),
        }
    }

    pub(super) fn message(&self) -> &Value {
        assert!(self.is_stopped && self.error.is_none(), "{self:?}");
        self.message.as_ref().unwrap()
    }

    pub(super) fn content(&self) -> &Value {
        &self.message()["content"]
    }
}
