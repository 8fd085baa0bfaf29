//! The parts that the targets of whole conversations share: a scripted provider, a bridge with one tool, and a caller's
//! parser.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame};
use serde::de::IgnoredAny;
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::{ToolDefinition, Tools, tool_fn};
use tower_llm_bridge::{BridgeLayer, Credential, Dialect, Intercepted, RequestBody};

/// The name of the one tool as the model sees it.
pub const CLOCK: &str = "bmcp_local_clock";

/// The separator between the rounds' streams.
pub const NEXT: &[u8] = b"\n=====\n";

/// How a conversation is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub dialect: Dialect,
    pub offers: bool,
    /// Whether a caller of chat completions asks for usage.
    pub usage: bool,
    /// Whether the last round's connection breaks after its last byte.
    pub breaks: bool,
}

/// The caller's answer, and the records.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub status: u16,
    pub body: String,
    pub records: Vec<Value>,
}

struct Frames(VecDeque<Bytes>, bool);

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(match self.0.pop_front() {
            Some(data) => Some(Ok(Frame::data(data))),
            None if self.1 => Some(Err("the connection was cut")),
            None => None,
        })
    }
}

impl Setup {
    /// Reads a setup from the bits of a byte.
    pub fn of(options: u8) -> Self {
        Self {
            dialect: match options >> 4 & 3 {
                0 | 3 => Dialect::ChatCompletions,
                1 => Dialect::Messages,
                _ => Dialect::Responses,
            },
            offers: options & 1 == 1,
            usage: options & 2 == 2,
            breaks: options & 4 == 4,
        }
    }

    fn request(self) -> &'static str {
        match (self.dialect, self.usage) {
            (Dialect::Messages, _) => {
                r#"{"model":"m","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#
            }
            (Dialect::Responses, true) => r#"{"model":"m","stream":true,"store":false,"input":"hi"}"#,
            (Dialect::Responses, false) => r#"{"model":"m","stream":true,"input":"hi"}"#,
            (_, true) => r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#,
            (_, false) => r#"{"model":"m","stream":true,"messages":[]}"#,
        }
    }

    /// Runs a conversation whose rounds come in frames of `len` bytes, with the id written as `ID`.
    pub fn run(self, rounds: &[&[u8]], len: usize) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(self.converse(rounds, len))
    }

    async fn converse(self, rounds: &[&[u8]], len: usize) -> Outcome {
        let last = rounds.len() - 1;
        let frames = |(place, round): (usize, &&[u8])| {
            Frames(
                round.chunks(len).map(Bytes::copy_from_slice).collect(),
                self.breaks && place == last,
            )
        };
        let script: Arc<Mutex<VecDeque<Frames>>> =
            Arc::new(Mutex::new(rounds.iter().enumerate().map(frames).collect()));
        let provider = service_fn(move |_: Request<RequestBody<Full<Bytes>>>| {
            let answer = script.lock().unwrap().pop_front().ok_or("the script is over");
            std::future::ready(answer.map(Response::new))
        });
        let (recorder, mut events) = Recorder::channel(1);
        let clock = tool_fn(ToolDefinition::new("clock"), |_| {
            std::future::ready(Ok::<_, Infallible>("12:00"))
        });
        let tools = if self.offers {
            Tools::new([clock])
        } else {
            Tools::default()
        };
        let request = Request::post("/answers")
            .extension(self.dialect)
            .extension(Credential::bearer("sk-of-the-caller").unwrap())
            .body(Full::from(self.request()))
            .unwrap();
        let bridge = BridgeLayer::new().tools(tools).max_rounds(2).recorder(recorder);
        let response = bridge.layer(provider).oneshot(request).await.unwrap();
        let id = response.extensions().get::<Intercepted>().unwrap().id().to_string();
        let made = id.replace('-', "");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let mut records = Vec::new();
        while let Some(event) = events.try_recv() {
            let mut record = serde_json::to_value(event.fact).unwrap();
            // A call without an id gets another one each time.
            if let Some(id) = record.get_mut("tool_call_id").filter(|id| is_given(id)) {
                *id = "GIVEN".into();
            }
            records.push(record);
        }
        let body = String::from_utf8_lossy(&body).replace(&id, "ID").replace(&made, "ID");
        Outcome {
            status,
            body: without_times(body),
            records,
        }
    }

    /// Checks the rules for every conversation, and for its caller's stream.
    pub fn check(self, outcome: &Outcome) {
        let Outcome { status, body, records } = outcome;
        assert_eq!(records.iter().filter(|record| record["event"] == "ended").count(), 1);
        let ended = records.last().unwrap();
        assert_eq!(ended["event"], "ended");
        // An answer in place of a stream.
        if *status != 200 || serde_json::from_str::<IgnoredAny>(body.trim_start_matches('\u{feff}')).is_ok() {
            return;
        }
        let is_done = |event: &&String| event.trim_ascii() == "[DONE]";
        let events = data(body);
        for event in &events {
            let is_blank = event.trim_ascii().is_empty();
            let is_chats_end = self.dialect == Dialect::ChatCompletions && is_done(&event);
            assert!(
                is_blank || is_chats_end || serde_json::from_str::<IgnoredAny>(event).is_ok(),
                "a broken event {event:?} in {body:?}"
            );
        }
        // Not parsed as a `Value`, which refuses half a surrogate pair.
        let kind = |event: &String| {
            let members = tower_llm_bridge::__fuzzing::walk(event.trim_ascii_start().as_bytes());
            let kind = members.into_iter().rfind(|(name, _)| name.as_deref() == Some("type"));
            let kind = kind.map(|(_, range)| &event.trim_ascii_start()[range]);
            kind.and_then(|kind| serde_json::from_str::<String>(kind).ok()).unwrap_or_default()
        };
        let ends = events.iter().filter(|event| match self.dialect {
            Dialect::Messages => kind(event) == "message_stop",
            Dialect::Responses => matches!(&*kind(event), "response.completed" | "response.incomplete"),
            _ => is_done(event),
        });
        let completed = ended["outcome"] == "completed";
        assert_eq!(ends.count(), usize::from(completed), "{body:?}");
    }
}

fn is_given(id: &Value) -> bool {
    let uuid = id.as_str().and_then(|id| id.strip_prefix("call_01"));
    uuid.is_some_and(|rest| rest.len() == 30)
}

/// Removes the time of a response object of ours, which is that of the interception.
fn without_times(body: String) -> String {
    let Some((before, rest)) = body.split_once(r#""created_at":1"#).filter(|(_, rest)| rest.len() > 9) else {
        return body;
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if digits < 9 {
        return body;
    }
    format!("{before}\"created_at\":0{}", &rest[digits..])
}

/// The data of each event that a parser dispatches: one that ends with its blank line.
pub fn data(stream: &str) -> Vec<String> {
    let lines = stream
        .strip_prefix('\u{feff}')
        .unwrap_or(stream)
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let (mut events, mut data) = (Vec::new(), Vec::new());
    for line in lines.split_inclusive('\n') {
        let Some(line) = line.strip_suffix('\n') else { break };
        if line.is_empty() && !data.is_empty() {
            events.push(std::mem::take(&mut data).join("\n"));
        } else if let Some(value) = line.strip_prefix("data:") {
            data.push(value.strip_prefix(' ').unwrap_or(value).to_owned());
        } else if line == "data" {
            data.push(String::new());
        }
    }
    events
}

/// The rounds of an input, three at most.
pub fn rounds(input: &[u8]) -> Vec<&[u8]> {
    let (mut rounds, mut rest) = (Vec::new(), input);
    while let Some(at) = rest
        .windows(NEXT.len())
        .position(|window| window == NEXT)
        .filter(|_| rounds.len() < 3)
    {
        rounds.push(&rest[..at]);
        rest = &rest[at + NEXT.len()..];
    }
    rounds.push(rest);
    rounds
}
