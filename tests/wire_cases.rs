//! Answers and streams of real providers that every SDK reads, so they are relayed; each row stands for a kind.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::*;
use tokio::time::{Instant, advance};
use tower::ServiceExt;
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::Tools;

fn layer() -> BridgeLayer {
    BridgeLayer::new().pool(pool(2)).tools(Tools::new([echo()]))
}

/// A whole reply whose first choice has `message`.
fn reply(message: &str) -> String {
    format!(
        r#"{{"id":"p","object":"chat.completion","choices":[{{"index":0,"message":{message},"finish_reason":"stop"}}]}}"#
    )
}

fn without_id(body: &str) -> String {
    let mut value: Value = serde_json::from_str(body).expect("JSON");
    value["id"] = Value::Null;
    value.to_string()
}

fn chunk(delta: &str, finish: &str) -> String {
    format!("data: {{\"id\":\"p\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n")
}

const DONE: &str = "data: [DONE]\n\n";

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_only_relayed_is_not_judged() {
    for message in [
        r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":{"city":"Oslo"}}}]}"#,
        r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":null}}]}"#,
        r#"{"role":"assistant","content":null,"tool_calls":[{"id":null,"type":"function","function":{"name":"f","arguments":"{}"}}]}"#,
        r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":null}]}"#,
        r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":null,"arguments":"{}"}}]}"#,
        r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"custom","custom":null}]}"#,
        r#"{"role":"assistant","content":null,"tool_calls":null}"#,
        r#"{"role":"assistant","content":"\ud83d"}"#,
        r#"null"#,
    ] {
        let (recorder, mut events) = Recorder::channel(8);
        let body = reply(message);
        let (_, answer) = converse(&layer().recorder(recorder), ask("hi"), [body.clone()]).await;
        assert_eq!(answer.status, 200, "{message}");
        let got: Value = serde_json::from_str(answer.text()).unwrap_or_default();
        if got.is_object() {
            assert_eq!(without_id(answer.text()), without_id(&body), "{message}");
        }
        assert_eq!(ended(&drain(&mut events))["outcome"], "completed", "{message}");
    }
    // Of a repeated name the last counts.
    let twice = completion("hello").replacen('{', r#"{"model":"first","#, 1);
    let (_, answer) = converse(&layer(), ask("hi"), [twice]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (_, answer) = converse(&layer(), ask("hi"), [format!("\u{feff}{}", completion("hello"))]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "hello");
}

#[tokio::test(start_paused = true)]
async fn an_object_is_the_arguments_of_a_call_of_ours() {
    let call = r#"{"role":"assistant","content":null,"tool_calls":[{"id":null,"type":"function","function":{"name":"bmcp_local_echo","arguments":{"city":"Oslo"}}}]}"#;
    let (seen, answer) = converse(&layer(), ask("hi"), [reply(call), completion("done")]).await;
    assert_eq!(answer.status, 200);
    let messages = seen[1].messages();
    let [turn, result] = &messages[messages.len() - 2..] else {
        panic!("{messages:?}")
    };
    assert_eq!(turn["tool_calls"][0]["function"]["arguments"], json!({"city": "Oslo"}));
    assert_eq!(result["content"], r#"{"city":"Oslo"}"#);
    assert!(!text(&result["tool_call_id"]).is_empty());
    assert_eq!(turn["tool_calls"][0]["id"], result["tool_call_id"]);
}

#[tokio::test(start_paused = true)]
async fn a_mixed_turn_belongs_to_its_first_call() {
    let call = |id: &str, name: &str| {
        format!(r#"{{"id":"{id}","type":"function","function":{{"name":"{name}","arguments":"{{}}"}}}}"#)
    };
    let (ours, callers) = (call("a", "bmcp_local_echo"), call("b", "theirs"));
    let turn = |calls: [&str; 2]| {
        format!(
            r#"{{"role":"assistant","content":null,"tool_calls":[{},{}]}}"#,
            calls[0], calls[1]
        )
    };
    let streamed = |calls: [&str; 2]| {
        let piece = |index: usize| {
            let call = calls[index].replacen('{', &format!("{{\"index\":{index},"), 1);
            chunk(&format!(r#"{{"tool_calls":[{call}]}}"#), "null")
        };
        Reply::events([piece(0), piece(1), chunk("{}", "\"tool_calls\""), DONE.into()].concat())
    };

    // Ours first: both go back, the caller's with a placeholder.
    let first = [&*ours, &*callers];
    let (whole, answer) = converse(&layer(), ask("hi"), [reply(&turn(first)), completion("done")]).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "done");
    let end = [chunk(r#"{"content":"done"}"#, "\"stop\""), DONE.into()].concat();
    let (stream, answer) = converse(&layer(), ask_streamed("hi"), [streamed(first), Reply::events(end)]).await;
    assert!(
        answer.text().contains("done") && !answer.text().contains("theirs"),
        "{}",
        answer.text()
    );
    for seen in [whole, stream] {
        let messages = seen[1].messages();
        let [turn, first, second] = &messages[messages.len() - 3..] else {
            panic!("{messages:?}")
        };
        assert_eq!(turn["tool_calls"].as_array().map(Vec::len), Some(2));
        assert_eq!((&first["tool_call_id"], &first["content"]), (&json!("a"), &json!("{}")));
        assert_eq!(second["tool_call_id"], "b");
        assert!(text(&second["content"]).contains("Not run: call it again on its own."));
    }

    // The caller's first: the turn is the caller's, without ours, which is recorded as not run.
    let first = [&*callers, &*ours];
    for (request, answer) in [
        (ask("hi"), Reply::ok(reply(&turn(first)))),
        (ask_streamed("hi"), streamed(first)),
    ] {
        let (recorder, mut events) = Recorder::channel(8);
        let (seen, answer) = converse(&layer().recorder(recorder), request, [answer]).await;
        assert_eq!(seen.len(), 1);
        assert!(
            answer.text().contains("theirs") && !answer.text().contains("bmcp_"),
            "{}",
            answer.text()
        );
        let records = drain(&mut events);
        let tools: Vec<_> = of_kind(&records, "tool_usage").collect();
        assert_eq!(tools.len(), 2);
        assert_eq!(
            (&tools[0]["injected"], &tools[0]["invocation_error"]),
            (&json!(false), &Value::Null)
        );
        assert!(tools[1]["injected"] == true && text(&tools[1]["invocation_error"]).starts_with("not run"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_told_by_its_bytes_and_ends_with_its_model() {
    let finished = chunk(r#"{"content":"x"}"#, "\"stop\"");
    for content_type in [
        "",
        "text/plain",
        "application/octet-stream",
        "application/json, text/event-stream",
    ] {
        let mut answer = Reply::new(200, format!("{finished}{DONE}"));
        if !content_type.is_empty() {
            answer = answer.header("content-type", content_type);
        }
        let (_, answer) = converse(&layer(), ask_streamed("hi"), [answer]).await;
        assert_eq!(answer.status, 200, "{content_type}");
        assert!(answer.text().ends_with(DONE), "{content_type}");
    }
    let (recorder, mut events) = Recorder::channel(8);
    let layer = layer().recorder(recorder);
    let (_, answer) = converse(&layer, ask_streamed("hi"), [Reply::events(finished)]).await;
    assert!(
        answer.text().ends_with(DONE) && !answer.text().contains("error"),
        "{}",
        answer.text()
    );
    assert_eq!(ended(&drain(&mut events))["outcome"], "completed");

    let cut = Reply::events(chunk(r#"{"content":"x"}"#, "null"));
    let (_, answer) = converse(&layer, ask_streamed("hi"), [cut]).await;
    assert!(
        answer.text().contains("error") && !answer.text().contains("[DONE]"),
        "{}",
        answer.text()
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_may_be_as_large_as_a_reply() {
    let image = chunk(&format!(r#"{{"images":["{}"]}}"#, "A".repeat(9 << 20)), "\"stop\"");
    let (_, answer) = converse(&layer(), ask_streamed("hi"), [Reply::events(format!("{image}{DONE}"))]).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.len() > 9 << 20 && answer.body.ends_with(DONE.as_bytes()));
}

#[tokio::test(start_paused = true)]
async fn a_streamed_call_is_replayed_with_members_that_the_api_does_not_name() {
    let signed = r#"{"role":"assistant","tool_calls":[{"index":0,"id":"a","type":"function","extra_content":{"google":{"thought_signature":"c2ln"}},"function":{"name":"bmcp_local_echo","arguments":"{}"}}]}"#;
    let call = Reply::events([chunk(signed, "\"tool_calls\""), DONE.into()].concat());
    let end = Reply::events([chunk(r#"{"content":"x"}"#, "\"stop\""), DONE.into()].concat());
    let (seen, _) = converse(&layer(), ask_streamed("hi"), [call, end]).await;
    let messages = seen[1].messages();
    let signature = &messages[messages.len() - 2]["tool_calls"][0]["extra_content"];
    assert_eq!(*signature, json!({"google": {"thought_signature": "c2ln"}}));
}

#[tokio::test(start_paused = true)]
async fn after_ten_seconds_of_nothing_the_head_goes_out_and_failover_still_works() {
    let begun = Instant::now();
    let limited = Reply::error(429, "rate_limit_exceeded").after(Duration::from_secs(13));
    let answer = Reply::events([chunk(r#"{"content":"x"}"#, "\"stop\""), DONE.into()].concat());
    let provider = Provider::queue([limited, answer]);
    let response = bridge(&layer(), &provider)
        .oneshot(ask_streamed("hi"))
        .await
        .expect("an answer");
    assert_eq!(since(begun), 10_000, "the head and a comment");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let answer = support::answer(response).await;
    assert!(answer.text().starts_with(": keep-alive\n\n"), "{}", answer.text());
    assert!(answer.text().ends_with(DONE));
    assert_eq!(provider.keys(), [KEYS[0], KEYS[1]]);

    // An error after the head is an event.
    let provider = Provider::queue([Reply::error(500, "server_error").after(Duration::from_secs(13))]);
    let response = bridge(&layer(), &provider)
        .oneshot(ask_streamed("hi"))
        .await
        .expect("an answer");
    let answer = support::answer(response).await;
    assert!(
        answer.status == 200 && answer.text().contains("server_error"),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains("[DONE]"));
}

#[tokio::test(start_paused = true)]
async fn comments_of_the_provider_are_no_answer() {
    let mut body = MockBody::new();
    for _ in 0..26 {
        body = body.data(": PROCESSING\n\n").sleep(Duration::from_millis(500));
    }
    let body = body.data(chunk(r#"{"content":"x"}"#, "\"stop\"")).data(DONE);
    let begun = Instant::now();
    let provider = Provider::queue([Reply::events(body)]);
    let response = bridge(&layer(), &provider)
        .oneshot(ask_streamed("hi"))
        .await
        .expect("an answer");
    assert_eq!(since(begun), 10_000);
    let answer = answer(response).await;
    assert!(answer.text().ends_with(DONE));
}

#[tokio::test(start_paused = true)]
async fn a_time_out_layer_below_is_a_504() {
    for words in ["request timed out", "deadline has elapsed"] {
        let (_, answer) = converse(&layer(), ask("hi"), [Reply::fails(words)]).await;
        assert_eq!(answer.status, 504, "{words}");
    }
    advance(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_all_requests_hold_is_bounded() {
    let layer = BridgeLayer::new().pool(pool(1)).max_held_bodies(64 << 10);
    let provider = Provider::queue([completion("hello"), completion("hello")]);
    let stack = bridge(&layer, &provider);
    let gate = Gate::new();
    let slow = chat(MockBody::full(vec![b' '; 50 << 10]).gate(&gate).data(asked("hi")));
    let mut waiting = tokio_test::task::spawn(stack.clone().oneshot(slow));
    tokio_test::assert_pending!(waiting.poll());
    let refused = send(&stack, chat(MockBody::full(vec![b' '; 10 << 10]))).await;
    assert_eq!(refused.status, 503);
    assert_eq!(send(&stack, ask("hi")).await.status, 200, "a small one fits");
    gate.open();
    let served = answer(waiting.await.expect("an answer")).await;
    assert_eq!(served.status, 200, "whoever holds keeps");
}

#[tokio::test(start_paused = true)]
async fn a_402_on_a_keyed_path_rests_no_key() {
    let models_of = |path: &str| http::Request::get(path).body(MockBody::new()).expect("a request");
    let keys = pool(2);
    let broke = || {
        Reply::json(
            402,
            r#"{"error":{"message":"no credit","type":"billing_error","code":null}}"#,
        )
    };
    let models = || Reply::ok(r#"{"object":"list","data":[]}"#);
    let provider = Provider::queue([broke(), broke(), models()]);
    let stack = bridge(&BridgeLayer::new().pool(keys), &provider);
    assert_eq!(send(&stack, models_of("/v1/models/x")).await.status, 402);
    assert_eq!(send(&stack, models_of("/v1/models")).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_cut_off_does_not_run() {
    let call = r#"[{"index":0,"id":"a","type":"function","function":{"name":"bmcp_local_echo","arguments":"{\"ci"}}]"#;
    for finish in ["length", "content_filter"] {
        let whole = reply(&format!(
            r#"{{"role":"assistant","content":"Wait.","tool_calls":{call}}}"#
        ))
        .replace("\"stop\"", &format!("\"{finish}\""));
        let streamed = [
            chunk(r#"{"role":"assistant","content":"Wait."}"#, "null"),
            chunk(&format!(r#"{{"tool_calls":{call}}}"#), "null"),
            chunk("{}", &format!("\"{finish}\"")),
            DONE.into(),
        ];
        for (request, answer) in [
            (ask("hi"), Reply::ok(whole)),
            (ask_streamed("hi"), Reply::events(streamed.concat())),
        ] {
            let (recorder, mut events) = Recorder::channel(8);
            let (seen, answer) = converse(&layer().recorder(recorder), request, [answer]).await;
            assert_eq!((answer.status.as_u16(), seen.len()), (200, 1));
            let text = answer.text();
            assert!(
                text.contains("Wait.") && text.contains(finish) && !text.contains("tool_calls"),
                "{text}"
            );
            let records = drain(&mut events);
            let tool = of_kind(&records, "tool_usage").next().expect("the call is recorded");
            assert!(tool["injected"] == true && support::text(&tool["invocation_error"]).starts_with("not run"));
            assert_eq!(ended(&records)["outcome"], "completed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_json_reply_is_one_whatever_it_is_labelled_as() {
    for content_type in ["text/event-stream", "text/plain", "application/json"] {
        for request in [ask("hi"), ask_streamed("hi")] {
            let (recorder, mut events) = Recorder::channel(8);
            let body = completion("hello");
            let answer = Reply::new(200, body.clone()).header("content-type", content_type);
            let (_, answer) = converse(&layer().recorder(recorder), request, [answer]).await;
            assert_eq!(answer.status, 200, "{content_type}: {}", answer.text());
            assert_eq!(without_id(answer.text()), without_id(&body), "{content_type}");
            assert_eq!(answer.headers["content-type"], content_type);
            let records = drain(&mut events);
            assert_eq!(of_kind(&records, "prompt_usage").count(), 1);
            assert_eq!(of_kind(&records, "token_usage").count(), 1);
            assert_eq!(ended(&records)["outcome"], "completed");
        }
    }
    // A round of ours in that form is a round of ours.
    let call = r#"{"role":"assistant","content":"Wait. ","tool_calls":[{"id":"a","type":"function","function":{"name":"bmcp_local_echo","arguments":"{}"}}]}"#;
    let answers = [Reply::ok(reply(call)), Reply::ok(completion("done"))];
    let (seen, answer) = converse(&layer(), ask_streamed("hi"), answers).await;
    assert_eq!((answer.status.as_u16(), seen.len()), (200, 2));
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "Wait. done");
    let stream = [chunk(r#"{"content":"done"}"#, "\"stop\""), DONE.into()].concat();
    let answers = [Reply::ok(reply(call)), Reply::events(stream)];
    let (_, answer) = converse(&layer(), ask_streamed("hi"), answers).await;
    assert!(
        answer.text().contains("done") && answer.text().ends_with(DONE),
        "{}",
        answer.text()
    );
}
