//! Timing of streams, and their ends.

use std::task::Poll;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::{ToolCall, ToolDefinition, Tools, tool_fn};

use crate::support::*;
use crate::words::*;

const SLOW: &str = "bmcp_local_slow";

fn slow(seconds: u64) -> BridgeLayer {
    let tool = tool_fn(ToolDefinition::new("slow"), move |_: ToolCall| async move {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok::<_, MockError>("done")
    });
    BridgeLayer::new().pool(pool(2)).tools(Tools::new([tool]))
}

/// R11, R17: comments keep proxies from closing the connection; Codex counts events only, and gets one a minute.
#[tokio::test(start_paused = true)]
async fn r11_r17_silence_is_filled_with_comments_and_one_event_a_minute() {
    let rounds = [
        stream("resp_1", &[words("so"), call(SLOW)]),
        stream("resp_2", &[words("there")]),
    ];
    let (_, answer) = converse(&slow(65), responses(&question(true)), rounds).await;
    assert_eq!(answer.text().matches(": keep-alive\n\n").count(), 6);
    let events = read(&answer);
    let repeated = types(&events)
        .iter()
        .filter(|kind| **kind == "response.in_progress")
        .count();
    assert_eq!(repeated, 2);
    assert!(!answer.text().contains("keepalive"), "some decoders do not know it");
}

/// R12: the bridge's own events are numbered together with the provider's.
#[tokio::test(start_paused = true)]
async fn r12_every_event_has_the_next_number() {
    let cut = events("resp_2", &[words("there"), words("too")]);
    let rounds = [
        stream("resp_1", &[words("so"), call(SLOW)]),
        Reply::events(cut[..5].concat()),
    ];
    let (_, answer) = converse(&slow(65), responses(&question(true)), rounds).await;
    let events = read(&answer);
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.output_item.added",
        "error",
        "response.failed",
    ];
    assert_eq!(types(&events), expected);
}

/// Nothing is shown for more than a minute: the head comes after 10 s, the life cycle after 60 s.
#[tokio::test(start_paused = true)]
async fn a_hidden_round_that_lasts_opens_the_stream() {
    let rounds = [stream("resp_1", &[call(SLOW)]), stream("resp_2", &[words("there")])];
    let (_, answer) = converse(&slow(65), responses(&question(true)), rounds).await;
    let events = read(&answer);
    let last = &events[events.len() - 1]["response"];
    assert_eq!(
        (&last["id"], &last["output"]),
        (&json!("resp_1"), &json!([words("there")]))
    );
    assert_eq!(
        types(&events)
            .iter()
            .filter(|kind| **kind == "response.created")
            .count(),
        1
    );
}

/// R16: a stream that is cut never looks complete.
#[tokio::test(start_paused = true)]
async fn r16_a_cut_ends_with_both_forms_of_an_error() {
    let all = events("resp_1", &[words("so"), words("on")]);
    for broken in [false, true] {
        for cut in 3..all.len() - 1 {
            let body = MockBody::new().data(all[..cut].concat());
            let body = if broken { body.error("gone") } else { body };
            let (_, answer) = converse(&slow(1), responses(&question(true)), [Reply::events(body)]).await;
            let events = read(&answer);
            let types = types(&events);
            assert_eq!(types[types.len() - 2..], ["error", "response.failed"], "{cut}");
            let failed = &events[events.len() - 1]["response"];
            assert_eq!((&failed["id"], &failed["status"]), (&json!("resp_1"), &json!("failed")));
            assert_eq!(failed["error"]["code"], "server_error");
        }
    }
}

/// Another thread reads a vast event with the stream's relay. Out of time meanwhile, the stream still ends as itself.
#[tokio::test(start_paused = true)]
async fn a_stream_out_of_time_in_a_vast_event_ends_with_its_own_number_and_id() {
    let limit = Duration::from_secs(5);
    let all = events("resp_1", &[words("so"), words(&"x".repeat(8 << 20))]);
    let body = MockBody::new().data(all[..4].concat()).data(all[4].clone()).never();
    let stack = bridge(&slow(1).request_timeout(limit), &Provider::queue([Reply::events(body)]));
    let response = stack.oneshot(responses(&question(true))).await.unwrap();
    let (mut body, mut text, mut is_late) = (response.into_body(), String::new(), false);
    loop {
        let mut next = tokio_test::task::spawn(body.frame());
        let frame = match next.poll() {
            Poll::Pending if !is_late && text.contains("output_item.done") => {
                is_late = true;
                tokio::time::advance(limit).await;
                continue;
            }
            Poll::Pending => next.await,
            Poll::Ready(frame) => frame,
        };
        let Some(frame) = frame else { break };
        text.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
    }
    let events = read_text(&text);
    let types = types(&events);
    assert_eq!(types[types.len() - 2..], ["error", "response.failed"]);
    assert_eq!(events[events.len() - 1]["response"]["id"], "resp_1");
}

/// An error before anything was shown leads to the next key, or to an HTTP error.
#[tokio::test(start_paused = true)]
async fn an_error_before_the_first_item_fails_over() {
    let head = events("resp_1", &[])[..2].concat();
    let failed = |code: &str| {
        let mut response = reply("resp_1", "failed", &[]);
        response["error"] = json!({"code": code, "message": "Slow down. Please try again in 2s."});
        let data = json!({"type": "response.failed", "sequence_number": 2, "response": response});
        Reply::events(format!("{head}{}", event(&data)))
    };
    let rounds = [failed("rate_limit_exceeded"), stream("resp_2", &[words("there")])];
    let keys = pool(2);
    let layer = slow(1).pool(keys.clone());
    let (seen, answer) = converse(&layer, responses(&question(true)), rounds).await;
    assert_eq!(seen.len(), 2);
    let events = read(&answer);
    assert_eq!(events[0]["response"]["id"], "resp_2");
    // Only its message says how long.
    let rests = &keys.snapshot()[0].rests;
    assert_eq!(rests[0].time_left, Duration::from_secs(2), "{rests:?}");

    let (seen, answer) = converse(&slow(1), responses(&question(true)), [failed("server_error")]).await;
    assert_eq!((answer.status.as_u16(), seen.len()), (500, 1));
    assert_eq!(answer.json()["error"]["code"], "server_error");
}

/// The caller may leave at any event: the provider's call stops, and the records say so.
#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_cancels_the_conversation() {
    for taken in 0..5 {
        let (recorder, mut recorded) = Recorder::channel(4);
        let layer = slow(3).recorder(recorder);
        let body = |id: &str, items: &[Value]| {
            let events = events(id, items).into_iter();
            events.fold(MockBody::new(), |body, event| body.data(event).pending())
        };
        let provider = Provider::queue([
            Reply::events(body("resp_1", &[words("so"), call(SLOW)])),
            Reply::events(body("resp_2", &[words("there")])),
        ]);
        let response = bridge(&layer, &provider)
            .oneshot(responses(&question(true)))
            .await
            .unwrap();
        let mut body = response.into_body();
        for _ in 0..taken {
            if body.frame().await.is_none() {
                break;
            }
        }
        drop(body);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(provider.busy(), 0, "after {taken} frames");
        let events = drain(&mut recorded);
        assert_eq!(events.last().unwrap()["outcome"], "cancelled", "after {taken} frames");
    }
}
