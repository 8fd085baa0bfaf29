//! Whatever a provider streams, the caller's bytes and the records do not depend on how it is cut into frames, and what is
//! relayed of chunks that are JSON is JSON. Through the public API: the relay is of use only with the loop around it.

#![no_main]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::{ToolDefinition, Tools, tool_fn};
use tower_llm_bridge::{BridgeLayer, Credential, Intercepted, RequestBody};

const ASK: &str = r#"{"model":"m","stream":true,"messages":[]}"#;
const ASK_USAGE: &str = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#;
/// Between the rounds' streams.
const NEXT: &[u8] = b"\n=====\n";

struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
    }
}

/// Status, body and records of one conversation, with the id written as `ID`.
async fn converse(rounds: &[&[u8]], len: usize, offer: bool, usage: bool) -> (u16, String, Vec<Value>) {
    let frames = |round: &&[u8]| Frames(round.chunks(len).map(Bytes::copy_from_slice).collect());
    let script: Arc<Mutex<VecDeque<Frames>>> = Arc::new(Mutex::new(rounds.iter().map(frames).collect()));
    let provider = service_fn(move |_: Request<RequestBody<Full<Bytes>>>| {
        let answer = script.lock().unwrap().pop_front().ok_or("the script is over");
        let stream = |frames| {
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(frames)
                .unwrap()
        };
        std::future::ready(answer.map(stream))
    });
    let (recorder, mut events) = Recorder::channel(1);
    let clock = tool_fn(ToolDefinition::new("clock"), |_| {
        std::future::ready(Ok::<_, Infallible>("12:00"))
    });
    let tools = if offer { Tools::new([clock]) } else { Tools::default() };
    let request = Request::post("/chat/completions")
        .extension(Credential::bearer("sk-of-the-caller").unwrap())
        .body(Full::from(if usage { ASK_USAGE } else { ASK }))
        .unwrap();
    let bridge = BridgeLayer::new().tools(tools).max_rounds(2).recorder(recorder);
    let response = bridge.layer(provider).oneshot(request).await.unwrap();
    let id = response.extensions().get::<Intercepted>().unwrap().id().to_string();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let mut records = Vec::new();
    while let Some(event) = events.try_recv() {
        records.push(serde_json::to_value(event.fact).unwrap());
    }
    (status, String::from_utf8_lossy(&body).replace(&id, "ID"), records)
}

/// The data of each event.
fn data(stream: &str) -> Vec<String> {
    let lines = stream
        .strip_prefix('\u{feff}')
        .unwrap_or(stream)
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let (mut events, mut data) = (Vec::new(), Vec::new());
    for line in lines.split('\n') {
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

// The first byte says what is asked for, the second how long frames are.
fuzz_target!(|input: &[u8]| {
    let [options, len, streams @ ..] = input else { return };
    let mut rounds = Vec::new();
    let mut rest = streams;
    while let Some(at) = rest
        .windows(NEXT.len())
        .position(|window| window == NEXT)
        .filter(|_| rounds.len() < 3)
    {
        rounds.push(&rest[..at]);
        rest = &rest[at + NEXT.len()..];
    }
    rounds.push(rest);
    let (offer, usage) = (options & 1 == 1, options & 2 == 2);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let run = |len| runtime.block_on(converse(&rounds, len, offer, usage));
    let whole = run(usize::MAX);
    assert_eq!(whole, run(1 + usize::from(*len)));
    assert_eq!(whole, run(1));
    let (status, body, records) = whole;
    assert_eq!(records.iter().filter(|record| record["event"] == "ended").count(), 1);
    assert_eq!(records.last().unwrap()["event"], "ended");
    if status == 200 {
        let events = data(&body);
        let is_done = |event: &String| event.trim_ascii() == "[DONE]";
        assert!(
            events
                .iter()
                .all(|event| is_done(event) || serde_json::from_str::<Value>(event).is_ok()),
            "{body}"
        );
        let done = events.iter().filter(|event| is_done(event)).count();
        let completed = records.last().unwrap()["outcome"] == "completed";
        assert_eq!(done, usize::from(completed), "{body}");
    }
});
