//! The records of an interception: which events, in which order, with which fields; and who is admitted to be recorded.

mod support;

use std::time::Duration;

use http::Request;
use serde_json::{Value, json};
use support::*;
use tokio::time::{Instant, advance, sleep};
use tower::ServiceExt;
use tower_llm_bridge::record::price::{OwnPrices, Rates};
use tower_llm_bridge::record::{Events, Recorder};
use tower_llm_bridge::tools::{ToolCall, ToolDefinition, Tools, tool_fn};
use tower_llm_bridge::{Actor, BridgeError, BridgeErrorKind, Credential};

fn recorded(places: usize) -> (BridgeLayer, Events) {
    let (recorder, events) = Recorder::channel(places);
    (BridgeLayer::new().pool(pool(2)).recorder(recorder), events)
}

/// Compares JSON lines; a failure shows all of them.
fn assert_golden(events: &mut Events, golden: &str) {
    let lines = lines(events);
    let parse = |line: &str| serde_json::from_str::<Value>(line).expect("an event is JSON");
    let actual: Vec<Value> = lines.iter().map(|line| parse(line)).collect();
    let golden: Vec<Value> = golden.lines().map(parse).collect();
    assert!(actual == golden, "this is recorded:\n{}", lines.join("\n"));
}

/// The `started` of one request.
async fn started(request: Request<MockBody>) -> Value {
    let (layer, mut events) = recorded(1);
    send(&bridge(&layer, &Provider::queue([completion("hello")])), request).await;
    drain(&mut events).swap_remove(0)
}

// === sequences ===

#[tokio::test(start_paused = true)]
async fn a_plain_success() {
    let (layer, mut events) = recorded(8);
    let usage = json!({
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 3, "accepted_prediction_tokens": 4, "rejected_prediction_tokens": 5},
    });
    let reply = Reply::from(with_usage(&completion("hello"), usage)).after(Duration::from_millis(250));
    let mut request = ask("hi");
    request
        .extensions_mut()
        .insert(Actor::new("u-17").metadata("team", "search"));
    send(&bridge(&layer.provider("acme"), &Provider::queue([reply])), request).await;
    assert_golden(&mut events, include_str!("fixtures/records/success.jsonl"));
}

/// The same 100 tokens of a prompt as the three APIs report them: 60 read from the cache, 5 written to it.
#[tokio::test(start_paused = true)]
async fn each_token_is_in_one_count_and_paid_once_in_every_dialect() {
    let rates = Rates::per_million("10", "20", "USD").and_then(|rates| rates.cached("1", "30"));
    let prices = OwnPrices::new().model("m", rates.expect("amounts"));
    let (recorder, mut events) = Recorder::channel(8);
    let layer = BridgeLayer::new().pool(pool(1)).recorder(recorder.price(prices));
    let user = json!([{"role": "user", "content": "hi"}]);
    for (path, asked, reply) in [
        (
            "/v1/chat/completions",
            json!({"model": "m", "messages": user}),
            json!({"model": "m", "choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 7,
                    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 5}}}),
        ),
        (
            "/v1/messages",
            json!({"model": "m", "max_tokens": 9, "messages": user}),
            json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
                "content": [{"type": "text", "text": "x"}],
                "usage": {"input_tokens": 35, "output_tokens": 7, "cache_read_input_tokens": 60,
                    "cache_creation_input_tokens": 5}}),
        ),
        (
            "/v1/responses",
            json!({"model": "m", "input": "hi"}),
            json!({"id": "resp_1", "object": "response", "status": "completed", "model": "m",
                "output": [{"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
                    "content": [{"type": "output_text", "text": "x", "annotations": []}]}],
                "usage": {"input_tokens": 100, "output_tokens": 7,
                    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 5}}}),
        ),
    ] {
        let request = Request::post(path).body(MockBody::from(asked.to_string()));
        let (_, answer) = converse(&layer, request.expect("a request"), [reply.to_string()]).await;
        assert_eq!(answer.status, 200, "{path}");
        let records = drain(&mut events);
        for record in of_kind(&records, "token_usage").chain([ended(&records)]) {
            let counts = ["input", "output", "cache_read_input_tokens", "cache_write_input_tokens"];
            assert_eq!(counts.map(|count| &record[count]), [35, 7, 60, 5], "{path}");
            // 35 at 10, 7 at 20, 60 at 1, 5 at 30, each per million.
            assert_eq!(record["cost"], json!({"amount": "0.0007", "currency": "USD"}), "{path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failover() {
    let (layer, mut events) = recorded(8);
    let provider = Provider::queue([Reply::error(401, "invalid_api_key"), completion("hello").into()]);
    send(&bridge(&layer, &provider), ask("hi")).await;
    assert_golden(&mut events, include_str!("fixtures/records/failover.jsonl"));
}

#[tokio::test(start_paused = true)]
async fn a_round_of_tools() {
    let (layer, mut events) = recorded(8);
    let definition = ToolDefinition::new("Get Weather!")
        .server("weather")
        .server_url("https://mcp.example.com");
    let slow = tool_fn(definition, |call: ToolCall| async move {
        sleep(Duration::from_millis(40)).await;
        Ok::<_, std::convert::Infallible>(call.arguments().clone())
    });
    let calls = [
        ("call_1", "bmcp_weather_Get_Weather_", "{\"city\":\"Oslo\"}"),
        ("call_2", "bmcp_weather_made_up", "{}"),
        ("call_3", "bmcp_weather_Get_Weather_", "[1]"),
        ("call_4", "theirs", "{}"),
    ];
    let provider = Provider::queue([tool_calls(&calls), completion("mild")]);
    send(
        &bridge(&layer.tools(Tools::new([slow])), &provider),
        ask("the weather?"),
    )
    .await;
    assert_golden(&mut events, include_str!("fixtures/records/tool_round.jsonl"));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_the_callers_tool() {
    let (layer, mut events) = recorded(8);
    let calls = [("call_1", "theirs", "{\"a\":1.0}"), ("call_2", "theirs", "not json")];
    send(&bridge(&layer, &Provider::queue([tool_calls(&calls)])), ask("hi")).await;
    assert_golden(&mut events, include_str!("fixtures/records/callers_call.jsonl"));
}

#[tokio::test(start_paused = true)]
async fn no_key_left() {
    let (layer, mut events) = recorded(8);
    let provider = Provider::queue([Reply::error(401, "invalid_api_key"), Reply::rate_limited(None)]);
    let stack = bridge(&layer, &provider);
    send(&stack, ask("hi")).await;
    send(&stack, ask("again")).await;
    assert_golden(&mut events, include_str!("fixtures/records/keys_exhausted.jsonl"));
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_provider() {
    let (layer, mut events) = recorded(8);
    let own = r#"{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
    for reply in [
        Reply::new(400, own),
        Reply::new(503, "<html>"),
        Reply::fails("no route"),
        Reply::ok("[]"),
    ] {
        send(&bridge(&layer, &Provider::queue([reply])), ask("hi")).await;
    }
    let never = Reply::from(completion("late")).gate(&Gate::new());
    send(&bridge(&layer, &Provider::queue([never])), ask("hi")).await;
    assert_golden(&mut events, include_str!("fixtures/records/provider_errors.jsonl"));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_bridge_after_the_start() {
    let (layer, mut events) = recorded(8);
    let provider = Provider::answering(|_| tool_call("bmcp_local_echo", "{}").into());
    let layer = layer.max_rounds(1).tools(Tools::new([echo()]));
    send(&bridge(&layer, &provider), ask("hi")).await;
    assert_golden(&mut events, include_str!("fixtures/records/too_many_rounds.jsonl"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves() {
    let (layer, mut events) = recorded(8);
    let hangs = tool_fn(ToolDefinition::new("hangs"), |_| {
        std::future::pending::<Result<&str, std::convert::Infallible>>()
    });
    let calls = [
        ("call_1", "bmcp_local_echo", "{}"),
        ("call_2", "bmcp_local_hangs", "{}"),
    ];
    let stack = bridge(
        &layer.tools(Tools::new([echo(), hangs])),
        &Provider::queue([tool_calls(&calls)]),
    );
    let left = tokio::time::timeout(Duration::from_millis(300), send(&stack, ask("hi"))).await;
    assert!(left.is_err());
    assert_golden(&mut events, include_str!("fixtures/records/cancelled.jsonl"));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_before_the_start_leaves_no_record() {
    let (layer, mut events) = recorded(8);
    let layer = layer.max_request_body(64).require_actor(true);
    let stack = bridge(&layer, &Provider::queue::<Reply>([]));
    let mut statuses = Vec::new();
    for body in ["{}", "not json", &*"x".repeat(65)] {
        let mut request = chat(body.to_owned());
        request.extensions_mut().insert(Actor::new("u"));
        statuses.push(send(&stack, request).await.status.as_u16());
    }
    statuses.push(send(&stack, ask("hi")).await.status.as_u16());
    assert_eq!(statuses, [400, 400, 413, 401]);
    assert!(drain(&mut events).is_empty());
}

// === fields ===

#[tokio::test(start_paused = true)]
async fn the_prompt_is_the_users_last_word() {
    let parts = r#"[{"type":"text","text":"first"},{"type":"image_url","image_url":{"url":"x"}},{"type":"text","text":"last"},{"type":"image_url","image_url":{"url":"y"}}]"#;
    let user = |content: &str| format!(r#"{{"role":"user","content":{content}}}"#);
    let assistant = r#"{"role":"assistant","content":"no"}"#;
    for (messages, prompt) in [
        (user(r#""caf\u00e9 \ud83d\ude00""#), Some("café 😀")),
        (format!("{assistant},{}", user("\"yes\"")), Some("yes")),
        (user("\"\""), Some("")),
        (user(parts), Some("last")),
        (user(r#"[{"type":"image_url","image_url":{"url":"x"}}]"#), None),
        (user("[]"), None),
        (user("null"), None),
        (format!("{},{assistant}", user("\"x\"")), None),
        (r#"{"role":"tool","tool_call_id":"c","content":"x"}"#.to_owned(), None),
        (r#"{"role":"system","content":"x"}"#.to_owned(), None),
        (String::new(), None),
        ("7".to_owned(), None),
    ] {
        let (layer, mut events) = recorded(1);
        let request = chat(format!(r#"{{"model":"m","messages":[{messages}]}}"#));
        let answer = send(&bridge(&layer, &Provider::queue([completion("hi")])), request).await;
        assert_eq!(answer.status, 200, "{messages}");
        let events = drain(&mut events);
        let event = events.iter().find(|event| event["event"] == "prompt_usage");
        assert_eq!(
            event.map(|event| event["prompt"].as_str().unwrap()),
            prompt,
            "{messages}"
        );
        assert!(event.is_none_or(|event| event["msg_id"] == "chatcmpl-1"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_tools_result_names_the_call_that_it_answers() {
    let tool = r#"{"role":"tool","tool_call_id":"call_\u0037","content":"x"}"#;
    for (messages, id) in [
        (tool.to_owned(), json!("call_7")),
        (format!("{tool},{}", tool.replace("7", "8")), json!("call_8")),
        (format!(r#"{tool},{{"role":"user","content":"x"}}"#), Value::Null),
        (
            r#"{"role":"user","tool_call_id":"c","content":"x"}"#.to_owned(),
            Value::Null,
        ),
        (String::new(), Value::Null),
    ] {
        let started = started(chat(format!(r#"{{"model":"m","messages":[{messages}]}}"#))).await;
        assert_eq!(started["correlating_tool_call_id"], id, "{messages}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_is_known_by_its_headers() {
    for (pairs, client, session) in [
        (
            &[("user-agent", "claude-cli/2.0"), ("x-claude-code-session-id", "s1")][..],
            "Claude Code",
            json!("s1"),
        ),
        (
            &[("user-agent", "x"), ("originator", "roo-code")],
            "Roo Code",
            Value::Null,
        ),
        (&[("user-agent", "curl/8"), ("session_id", "s")], "unknown", Value::Null),
        (&[], "unknown", Value::Null),
    ] {
        let mut request = ask("hi");
        for (name, value) in pairs {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let agent = request
            .headers()
            .get("user-agent")
            .map(|value| value.to_str().unwrap().to_owned());
        let started = started(request).await;
        assert_eq!(
            (&started["client"], &started["client_session_id"]),
            (&json!(client), &session)
        );
        assert_eq!(started["user_agent"], json!(agent));
    }
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_key_shows_as_its_hint() {
    let mut request = ask("hi");
    request
        .extensions_mut()
        .insert(Credential::bearer("sk-callers-0123456789abcdef").unwrap());
    let (layer, mut events) = recorded(1);
    send(&bridge(&layer, &Provider::queue([Reply::error(429, "x")])), request).await;
    let events = drain(&mut events);
    assert_eq!(
        (&events[0]["credential_kind"], &events[0]["credential_hint"]),
        (&json!("byok"), &json!("sk-c...cdef"))
    );
    assert_eq!(
        (&events[1]["credential_hint"], &events[1]["key_attempts"]),
        (&json!("sk-c...cdef"), &json!(1))
    );
}

#[tokio::test(start_paused = true)]
async fn ids_are_in_order_of_time_and_that_of_the_answer() {
    let (layer, mut events) = recorded(8);
    let stack = bridge(&layer, &Provider::answering(|_| completion("hello").into()));
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(send(&stack, ask("hi")).await.json()["id"].clone());
    }
    let events = drain(&mut events);
    let ended = events.iter().filter(|event| event["event"] == "ended");
    let ids: Vec<Value> = ended.map(|event| event["interception_id"].clone()).collect();
    assert_eq!(ids, answers);
    assert!(ids.is_sorted_by_key(|id| id.as_str().unwrap().to_owned()));
    assert!(
        ids.iter().all(|id| id.as_str().unwrap().as_bytes()[14] == b'7'),
        "version 7"
    );
}

// === admission ===

#[tokio::test(start_paused = true)]
async fn when_places_are_out_a_request_waits_five_seconds_and_no_longer() {
    let (layer, mut events) = recorded(1);
    let provider = Provider::answering(|_| completion("hello").into());
    let stack = bridge(&layer, &provider);
    assert_eq!(send(&stack, ask("hi")).await.status, 200);

    let start = Instant::now();
    let answer = send(&stack, ask("hi")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.error(), ("api_error".into(), Some("server_error".into())));
    assert_eq!(
        answer.extensions.get().map(BridgeError::kind),
        Some(BridgeErrorKind::RecorderUnavailable)
    );
    let took = Instant::now().saturating_duration_since(start);
    assert!(
        took >= Duration::from_secs(5) && took <= Duration::from_millis(5_001),
        "{took:?}"
    );
    assert_eq!(provider.calls(), 1);

    // The second request is admitted when the first one's end is received, and not before.
    let waiting = tokio::spawn(async move { send(&stack, ask("hi")).await.status });
    advance(Duration::from_secs(4)).await;
    assert_eq!(kinds(&drain(&mut events)).last().unwrap(), "ended completed");
    assert_eq!(waiting.await.unwrap(), 200);
    assert_eq!(kinds(&drain(&mut events)).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn when_nobody_records_any_more_requests_fail_at_once() {
    let (layer, events) = recorded(1);
    let provider = Provider::answering(|_| completion("hello").into());
    let stack = bridge(&layer, &provider);
    assert_eq!(send(&stack, ask("hi")).await.status, 200);
    let start = Instant::now();
    let waits = stack.clone();
    let waiting = tokio::spawn(async move { send(&waits, ask("hi")).await.status });
    sleep(Duration::from_secs(1)).await;
    drop(events);
    assert_eq!(waiting.await.unwrap(), 503, "also one that waits already");
    assert_eq!(send(&stack, ask("hi")).await.status, 503);
    assert_eq!(Instant::now().saturating_duration_since(start).as_secs(), 1);
    assert_eq!(provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_user_may_choose_to_run_on_unrecorded() {
    let (recorder, events) = Recorder::channel(1);
    let layer = BridgeLayer::new()
        .pool(pool(1))
        .recorder(recorder.allow_unrecorded())
        .tools(Tools::new([echo()]));
    let provider = Provider::queue([tool_call("bmcp_local_echo", "{}"), completion("hello")]);
    drop(events);
    assert_eq!(send(&bridge(&layer, &provider), ask("hi")).await.status, 200);
    assert_eq!(provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_recorder_drains_when_the_last_request_is_over() {
    let (layer, mut events) = recorded(8);
    let gate = Gate::new();
    let stack = bridge(&layer, &Provider::queue([Reply::from(completion("hello")).gate(&gate)]));
    drop(layer);
    let running = tokio::spawn(stack.oneshot(ask("hi")));
    gate.reached().await;
    let consumer = tokio::spawn(async move {
        let mut count = 0;
        while events.recv().await.is_some() {
            count += 1;
        }
        count
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!consumer.is_finished());
    gate.open();
    assert_eq!(running.await.unwrap().unwrap().status(), 200);
    assert_eq!(consumer.await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_tool_s_error_is_recorded_whole_however_little_the_model_is_told() {
    let full = tool_fn(ToolDefinition::new("full"), |_| async {
        Err::<&str, tower::BoxError>("the disk is full".into())
    });
    let (layer, mut events) = recorded(8);
    let layer = layer.tools(Tools::new([full]));
    let replies = [tool_call("bmcp_local_full", "{}"), completion("hi")];
    let (seen, _) = converse(&layer.max_tool_result(3), ask("hi"), replies).await;
    assert!(!seen[1].last_content().contains("disk"), "{}", seen[1].last_content());
    let errors: Vec<_> = drain(&mut events)
        .iter()
        .filter_map(|event| event["invocation_error"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(errors, ["the disk is full"]);
}
