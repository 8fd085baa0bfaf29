//! Timing of streams, and their records.

use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::{ToolCall, ToolDefinition, Tools, tool_fn};

use crate::support::*;
use crate::words::*;

fn slow(seconds: u64) -> Tools {
    Tools::new([tool_fn(ToolDefinition::new("slow"), move |_: ToolCall| async move {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok::<_, MockError>("done")
    })])
}

/// M20: a client that gets no bytes sends another request, and runs tools again.
#[tokio::test(start_paused = true)]
async fn m20_pings_keep_the_caller_while_a_tool_runs() {
    let layer = BridgeLayer::new().pool(pool(1)).tools(slow(65));
    let first = reply(
        &json!([{"type": "text", "text": "let me see"},
            {"type": "tool_use", "id": "toolu_1", "name": "bmcp_local_slow", "input": {}}]),
        "tool_use",
    );
    let (_, answer) = converse(
        &layer,
        messages(&question(true)),
        [stream(&first), stream(&words("there"))],
    )
    .await;
    assert_eq!(answer.text().matches(PING).count(), 6);
    assert!(answer.text().ends_with(&event(&json!({"type": "message_stop"}))));

    // Without text before the call the stream begins with comments, or with the start itself.
    let replies = [stream(&call("bmcp_local_slow")), stream(&words("there"))];
    let (_, answer) = converse(&layer, messages(&question(true)), replies).await;
    assert_eq!(answer.text().matches(PING).count(), 6);
    assert_eq!(answer.text().matches("event: message_start\n").count(), 1);
    assert!(!answer.text().contains("tool_use") && !answer.text().contains("bmcp_"));
}

/// Every report of usage would lengthen each later line of the log, and a stream may have thousands.
#[tokio::test(start_paused = true)]
async fn the_span_names_the_model_once() {
    let logs = Logs::capture();
    let mut events = events(&words("hello"));
    let delta = events.len() - 2;
    let reported = vec![events[delta].clone(); 5];
    events.splice(delta..delta, reported);
    let replies = [stream(&call(ECHO)), Reply::events(events.concat())];
    let layer = BridgeLayer::new().pool(pool(1)).tools(Tools::new([echo()]));
    let (_, answer) = converse(&layer, messages(&question(true)), replies).await;
    assert!(answer.text().contains("hello"));
    let text = logs.text();
    let named = text.lines().map(|line| line.matches("gen_ai.response.model=").count());
    assert_eq!(named.max(), Some(1), "{text}");
}

/// M21: each delta reaches the caller before the next event arrives.
#[tokio::test(start_paused = true)]
async fn m21_a_delta_does_not_wait_for_the_next() {
    let gate = Gate::new();
    let all = events(&words("hello"));
    let body = MockBody::new()
        .data(all[..3].concat())
        .gate(&gate)
        .data(all[3..].concat());
    let provider = Provider::queue([Reply::events(body)]);
    let layer = BridgeLayer::new().pool(pool(1)).tools(slow(1));
    let response = bridge(&layer, &provider)
        .oneshot(messages(&question(true)))
        .await
        .unwrap();
    let mut body = response.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(frame, all[..3].concat());
    gate.open();
    assert_eq!(body.collect().await.unwrap().to_bytes(), all[3..].concat());
}

/// M14: the records have every round, and cached tokens are not counted as input.
#[tokio::test(start_paused = true)]
async fn m14_every_round_is_recorded_with_its_own_usage() {
    for streams in [false, true] {
        let (recorder, mut recorded) = Recorder::channel(4);
        let layer = BridgeLayer::new()
            .pool(pool(1))
            .tools(Tools::new([echo()]))
            .recorder(recorder);
        let rounds = [call(ECHO), words("there")];
        let replies = rounds.map(|round| {
            if streams {
                stream(&round)
            } else {
                Reply::from(round.to_string())
            }
        });
        let (_, answer) = converse(&layer, messages(&question(streams)), replies).await;
        assert_eq!(answer.status, 200);
        let events = drain(&mut recorded);
        let expected = [
            "started",
            "prompt_usage",
            "token_usage",
            "tool_usage",
            "token_usage",
            "ended completed",
        ];
        assert_eq!(kinds(&events), expected, "streams: {streams}");
        assert_eq!(
            (&events[0]["provider"], &events[0]["dialect"]),
            (&json!("anthropic"), &json!("messages"))
        );
        for usage in [&events[2], &events[4]] {
            assert_eq!(
                (&usage["input"], &usage["cache_read_input_tokens"]),
                (&json!(3), &json!(1000))
            );
            assert_eq!(
                (&usage["cache_write_input_tokens"], &usage["msg_id"]),
                (&json!(20), &json!("msg_1"))
            );
        }
        assert_eq!(events[3]["tool_call_id"], "toolu_1");
    }
}

/// A caller that leaves, after any number of frames, is recorded as cancelled.
#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_cancels_the_conversation() {
    for taken in 0..6 {
        let (recorder, mut recorded) = Recorder::channel(4);
        let layer = BridgeLayer::new().pool(pool(1)).tools(slow(3)).recorder(recorder);
        let body = |reply: &serde_json::Value| {
            let events = events(reply).into_iter();
            events.fold(MockBody::new(), |body, event| body.data(event).pending())
        };
        let first = reply(
            &json!([{"type": "text", "text": "so"}, {"type": "tool_use", "id": "t", "name": "bmcp_local_slow", "input": {}}]),
            "tool_use",
        );
        let provider = Provider::queue([Reply::events(body(&first)), Reply::events(body(&words("x")))]);
        let response = bridge(&layer, &provider)
            .oneshot(messages(&question(true)))
            .await
            .unwrap();
        let mut body = response.into_body();
        for _ in 0..taken {
            body.frame().await.unwrap().unwrap();
        }
        drop(body);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(provider.busy(), 0, "after {taken} frames");
        let events = drain(&mut recorded);
        assert_eq!(events.last().unwrap()["outcome"], "cancelled", "after {taken} frames");
    }
}
