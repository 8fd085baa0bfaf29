//! Very large requests and answers: each is served or refused, and none holds up other requests.

mod support;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use hyper::body::SizeHint;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tower::ServiceExt;
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::{ToolDefinition, ToolOutput, Tools, tool_fn};

const MIB: usize = 1 << 20;

fn layer() -> BridgeLayer {
    BridgeLayer::new().pool(pool(2)).tools(Tools::new([echo()]))
}

/// One delta of this content, the end, and the terminator.
fn stream(content: &str) -> String {
    stream_with(content, "{}", "stop")
}

/// The same with a delta at its end.
fn stream_with(content: &str, last: &str, finish: &str) -> String {
    let chunk = |delta: &str, finish: &str| {
        format!("data: {{\"id\":\"p\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n")
    };
    let text = chunk(&format!(r#"{{"role":"assistant","content":"{content}"}}"#), "null");
    text + &chunk(last, &format!("{finish:?}")) + "data: [DONE]\n\n"
}

/// Counts how often its task is polled.
fn ticker() -> Arc<AtomicUsize> {
    let ticks = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ticks);
    tokio::spawn(async move {
        while Arc::strong_count(&count) > 1 {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    ticks
}

#[tokio::test]
async fn vast_requests_and_answers_come_through_while_others_have_their_turn() {
    let content = "x\\n".repeat(MIB);
    let (recorder, mut events) = Recorder::channel(8);
    let layer = layer().recorder(recorder);
    let ticks = ticker();

    let (seen, answer) = converse(&layer, ask(&"p".repeat(2 * MIB)), [completion(&"x".repeat(2 * MIB))]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json()["choices"][0]["message"]["content"].as_str().map(str::len),
        Some(2 * MIB)
    );
    assert_eq!(
        seen[0].json()["messages"][0]["content"].as_str().map(str::len),
        Some(2 * MIB)
    );
    let records = drain(&mut events);
    let prompt = of_kind(&records, "prompt_usage").next().expect("a prompt");
    assert!(
        text(&prompt["prompt"]).ends_with("[cut: 2097152 bytes in all]"),
        "the note tells its length"
    );
    assert_eq!(ended(&records)["outcome"], "completed");

    let before = ticks.load(Ordering::Relaxed);
    let body = stream(&content);
    let (_, answer) = converse(&layer, ask_streamed("hi"), [Reply::events(body.clone())]).await;
    let id = answer.text().split('"').nth(3).expect("an id").to_owned();
    assert_eq!(answer.text(), body.replace(r#""id":"p""#, &format!(r#""id":"{id}""#)));
    // The event came in one frame, and was read while other tasks ran. Each yield alone gives them up to 61 turns.
    assert!(
        ticks.load(Ordering::Relaxed) > before + 1_000,
        "{before}, then {ticks:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_there_yields() {
    let event = |length: usize| {
        format!(
            "data: {{\"id\":\"p\",\"choices\":[],\"x\":\"{}\"}}\n\n",
            "y".repeat(length)
        )
    };
    // 4 MiB: in frames of one event each, and in frames of many.
    for (frame, frames, yields) in [
        (event(64 << 10), 64, 64),
        (event(1 << 10), 4 << 10, 256),
        (event(1 << 10).repeat(512), 8, 256),
    ] {
        let body = (0..frames).fold(MockBody::new(), |body, _| body.data(frame.clone()));
        let stack = bridge(&layer(), &Provider::queue([Reply::events(body.data(stream("hi")))]));
        let mut answering = tokio_test::task::spawn(send(&stack, ask_streamed("hi")));
        let mut polls = 1;
        while answering.poll().is_pending() {
            polls += 1;
        }
        assert!(
            polls >= yields,
            "{polls} for {frames} frames: once for each 16 KiB of whole events"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_rounds_append_counts_for_the_budget_of_all() {
    let vast = tool_fn(ToolDefinition::new("vast"), |_| async {
        Ok::<_, std::convert::Infallible>(ToolOutput::text("r".repeat(512 << 10)))
    });
    let layer = BridgeLayer::new().pool(pool(1)).tools(Tools::new([vast]));
    let rounds = || [tool_call("bmcp_local_vast", "{}"), completion("done")];
    let (_, answer) = converse(&layer.clone().max_held_bodies(2 * MIB), ask("hi"), rounds()).await;
    assert_eq!(answer.status, 200);
    let (seen, answer) = converse(&layer.max_held_bodies(MIB / 2), ask("hi"), rounds()).await;
    assert_eq!((answer.status.as_u16(), seen.len()), (503, 1), "{}", answer.text());
}

#[tokio::test(start_paused = true)]
async fn the_reply_of_a_round_counts_once() {
    let mut vast: Value = serde_json::from_str(&tool_call(ECHO, "{}")).expect("a reply");
    vast["choices"][0]["message"]["content"] = "x".repeat(600 << 10).into();
    let rounds = || [vast.to_string(), completion("done")];
    let (seen, answer) = converse(&layer().max_held_bodies(MIB), ask("hi"), rounds()).await;
    assert_eq!((answer.status.as_u16(), seen.len()), (200, 2), "{}", answer.text());
    let (seen, answer) = converse(&layer().max_held_bodies(MIB / 2), ask("hi"), rounds()).await;
    assert_eq!((answer.status.as_u16(), seen.len()), (503, 1), "{}", answer.text());

    let call = json!({ "tool_calls": [{ "index": 0, "id": "c", "type": "function",
        "function": { "name": ECHO, "arguments": "{}" } }] });
    let vast = stream_with(&"x".repeat(600 << 10), &call.to_string(), "tool_calls");
    let rounds = [vast, stream("done")].map(Reply::events);
    let (seen, answer) = converse(&layer().max_held_bodies(MIB), ask_streamed("hi"), rounds).await;
    assert_eq!((answer.status.as_u16(), seen.len()), (200, 2));
    assert!(answer.text().contains("done"));
}

/// Whether a request of 500 KiB finds room in a mebibyte while a stream has given `body` and goes on.
async fn has_room_beside(layer: BridgeLayer, body: MockBody) -> bool {
    let provider = Provider::queue([Reply::events(body.gate(&Gate::new())), completion("hi").into()]);
    let stack = bridge(&layer.max_held_bodies(MIB), &provider);
    let stream = stack.clone().oneshot(ask_streamed("hi")).await.expect("an answer");
    let mut body = stream.into_body();
    // Until it waits for the gate: keep-alives come then.
    while !body
        .frame()
        .await
        .expect("a frame")
        .expect("no error")
        .into_data()
        .expect("data")
        .starts_with(b":")
    {}
    let status = send(&stack, ask(&"x".repeat(500 << 10))).await.status;
    drop(body);
    status == 200
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_keeps_counts_for_the_budget_of_all() {
    let delta = |content: &str| {
        format!("data: {{\"id\":\"p\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}]}}\n\n")
    };
    let text = || (0..75).fold(MockBody::new(), |body, _| body.data(delta(&"y".repeat(8 << 10))));
    assert!(!has_room_beside(layer(), text()).await, "the next round may need it");
    assert!(
        has_room_beside(layer().tools(Tools::default()), text()).await,
        "nothing is kept"
    );

    let part = |body: MockBody| (0..75).fold(body.data(delta("y")), |body, _| body.data("y".repeat(8 << 10)));
    let unfinished = part(MockBody::new());
    assert!(
        !has_room_beside(layer(), unfinished).await,
        "an event that is not whole yet"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_budget_has_no_room_for_ends_with_an_error() {
    let layer = layer().max_held_bodies(MIB / 2);
    let (_, answer) = converse(&layer, ask_streamed("hi"), [Reply::events(stream(&"x".repeat(MIB)))]).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let body = MockBody::new().data(CHUNK).data(stream(&"x".repeat(MIB)));
    let (_, answer) = converse(&layer, ask_streamed("hi"), [Reply::events(body)]).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.text().contains("too many requests are held"),
        "{}",
        answer.text()
    );
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_counts_for_the_budget_of_all() {
    let vast = || [completion(&"x".repeat(MIB))];
    let (_, answer) = converse(&layer().max_held_bodies(2 * MIB), ask("hi"), vast()).await;
    assert_eq!(answer.status, 200);
    let (_, answer) = converse(&layer().max_held_bodies(MIB), ask("hi"), vast()).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
}

/// A pipe that takes several slices at once, as a socket does: hyper then hands on the bytes of a body without a copy.
struct Socket(DuplexStream);

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_s_slow_reader_is_not_ended() {
    let mut answers = 0;
    let provider = Provider::answering(move |_| {
        answers += 1;
        completion(&"x".repeat(if answers == 1 { 600 << 10 } else { 1 })).into()
    });
    let stack = bridge(&layer().max_held_bodies(MIB), &provider);
    let (mut caller, server) = duplex(1 << 10);
    let service = {
        let stack = stack.clone();
        service_fn(move |_| stack.clone().oneshot(ask("hi")))
    };
    let serving = http1::Builder::new().serve_connection(TokioIo::new(Socket(server)), service);
    let serving = tokio::spawn(async move { serving.await.is_ok() });
    caller
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("sent");

    // Half a KiB a second: the server asks for more of the answer every few minutes.
    let (mut taken, mut buffer) = (0, [0; 1 << 10]);
    while taken < 200 << 10 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let read = caller.read(&mut buffer).await.expect("bytes");
        assert!(read > 0, "ended after {taken}");
        taken += read;
        assert_eq!(send(&stack, ask("another")).await.status, 200);
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(send(&stack, ask("another")).await.status, 200);
    let mut rest = Vec::new();
    let reading = caller.read_to_end(&mut rest);
    let _ = tokio::time::timeout(Duration::from_secs(60), reading)
        .await
        .expect("an end");
    assert!(taken + rest.len() < 600 << 10, "it is ended once it takes nothing");
    assert!(!serving.await.expect("no panic"), "and the connection tells so");
}

/// A request of a keyed path.
fn models() -> Request<MockBody> {
    Request::get("/v1/models").body(MockBody::new()).expect("a request")
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_a_keyed_path_that_nobody_reads_makes_room_for_others() {
    for has_length in [true, false] {
        let alive = Alive::default();
        let size = if has_length {
            SizeHint::with_exact(8)
        } else {
            SizeHint::default()
        };
        let script = {
            let alive = alive.clone();
            move |_: &Seen| {
                Reply::json(
                    200,
                    MockBody::new().data("half").data("half").claims(size).watched(&alive),
                )
            }
        };
        let stack = bridge(&layer().max_held_bodies(MIB), &Provider::answering(script));
        let ask = async || stack.clone().oneshot(models()).await.expect("an answer");
        let mut unread = Vec::new();
        while unread.len() < 64 {
            let response = ask().await;
            assert_eq!(response.status(), 200, "{}", unread.len());
            unread.push(response.into_body());
        }
        assert_eq!(ask().await.status(), 503, "they take all that there is");
        tokio::time::advance(Duration::from_secs(59)).await;
        let mut read = unread.pop().expect("one of them");
        assert_eq!(
            read.frame()
                .await
                .expect("a frame")
                .expect("no error")
                .into_data()
                .expect("data"),
            "half"
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        let response = ask().await;
        assert_eq!(
            (response.status().as_u16(), alive.count()),
            (200, 2),
            "the one that is read, and the new one"
        );
        assert_eq!(pieces(read).await.len(), 1);
        assert_eq!(pieces(response.into_body()).await.len(), 2);
        assert_eq!(alive.count(), 0);

        // It does not look like an answer that has come to its end.
        let cut = unread.pop().expect("one of them");
        assert!(!hyper::body::Body::is_end_stream(&cut));
        let rest = tokio::time::timeout(Duration::from_secs(60), pieces(cut)).await;
        assert_eq!(rest.ok(), has_length.then(Vec::new));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_for_the_provider_is_not_taken_for_one_that_does_not_read() {
    let gate = Gate::new();
    let body = MockBody::new().data("first").gate(&gate).data("rest");
    let provider = Provider::queue([Reply::json(200, body), Reply::json(200, "{}"), completion("hi").into()]);
    let stack = bridge(&layer().max_held_bodies(64 << 10), &provider);
    let mut body = stack.clone().oneshot(models()).await.expect("an answer").into_body();
    assert!(body.frame().await.is_some());
    let mut rest = std::pin::pin!(pieces(body));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), rest.as_mut())
            .await
            .is_err()
    );
    tokio::time::advance(Duration::from_secs(120)).await;
    let large = chat(MockBody::new().data("x".repeat(40 << 10)).gate(&Gate::new()));
    let mut large = std::pin::pin!(send(&stack, large));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), large.as_mut())
            .await
            .is_err(),
        "more than half is taken"
    );
    assert_eq!(send(&stack, models()).await.status, 200);
    gate.open();
    let rest = tokio::time::timeout(Duration::from_secs(1), rest).await;
    assert_eq!(Piece::join(&rest.expect("it goes on")), "rest");
}

#[tokio::test(start_paused = true)]
async fn arguments_of_mebibytes_never_reach_a_tool() {
    let arguments = json!({ "x": "y".repeat(MIB) }).to_string();
    let (seen, answer) = converse(
        &layer(),
        ask("hi"),
        [tool_call("bmcp_local_echo", &arguments), completion("done")],
    )
    .await;
    assert_eq!(answer.status, 200);
    assert!(
        seen[1].last_content().contains("longer than 1048576 bytes"),
        "{}",
        seen[1].last_content()
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_of_mebibytes_is_no_error_of_the_api() {
    let error = |length: usize| {
        let message = "m".repeat(length);
        Reply::json(
            500,
            json!({ "error": { "message": message, "type": "t", "code": "c" } }).to_string(),
        )
    };
    let (_, answer) = converse(&layer(), ask("hi"), [error(900 << 10)]).await;
    assert_eq!(answer.status, 500);
    let (_, answer) = converse(&layer(), ask("hi"), [error(MIB)]).await;
    assert_eq!(answer.status, 502);
    tokio::time::advance(Duration::from_secs(1)).await;
}
