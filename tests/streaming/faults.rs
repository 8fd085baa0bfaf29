//! Providers that fail: an HTTP answer as long as the caller has seen nothing, an error event from then on, and never an
//! end that looks clean.

use std::time::Duration;

use serde_json::{Value, json};

use crate::sse::{Answer, Bench, FIRST_KEY, Outcome, SECOND_KEY, Step};
use crate::wire::{ASK, DONE, Message, arguments, call, calls, finish, role, say, text, usage};

const RATE: &str = r#"{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
const QUOTA: &str = r#"{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}"#;
const BAD: &str = r#"{"error":{"message":"no such thing","type":"invalid_request_error","code":null}}"#;
const BROKEN: &str = r#"{"error":{"message":"oops","type":"server_error","code":"server_error"}}"#;

fn data(text: impl Into<String>) -> Step {
    Step::Data(text.into().into())
}

fn event(text: &str) -> String {
    format!("data: {text}\n\n")
}

/// The keys that were used, by their first letters.
async fn keys(answers: Vec<Answer>) -> (Outcome, Vec<String>) {
    let mut bench = Bench::new(answers);
    let response = bench.call(ASK).await;
    let outcome = bench.finish(response).await;
    let used = bench.provider.seen().into_iter().map(|seen| {
        let value = seen.headers["authorization"].to_str().unwrap().to_owned();
        value
            .replace(FIRST_KEY, "1")
            .replace(SECOND_KEY, "2")
            .replace("Bearer ", "")
    });
    assert_eq!(bench.provider.gauge.bodies(), 0);
    assert!(
        !outcome.body.contains("10.1.2.3") && !outcome.body.contains("sk-"),
        "{}",
        outcome.body
    );
    (outcome, used.collect())
}

/// An answer before anything was relayed: an HTTP error of this status, and the record of it.
async fn refused(answers: Vec<Answer>, status: u16) -> (Outcome, Vec<String>) {
    let (outcome, keys) = keys(answers).await;
    assert_eq!(outcome.status, status, "{}", outcome.body);
    assert_eq!(outcome.ended()["status"], status);
    assert_eq!(outcome.ended()["time_to_first_token_ms"], Value::Null);
    let error: Value = serde_json::from_str(&outcome.body).unwrap();
    assert!(error["error"]["message"].is_string());
    (outcome, keys)
}

/// An end after something was relayed: one error event, no `[DONE]`, and the record of it.
async fn cut(answers: Vec<Answer>) -> (Outcome, Message) {
    let (outcome, _) = keys(answers).await;
    assert_eq!(outcome.status, 200);
    let message = Message::read(&outcome.body);
    assert_eq!((message.errors.len(), message.dones), (1, 0), "{}", outcome.body);
    assert!(outcome.body.ends_with("}\n\n"));
    assert_eq!(
        (&outcome.ended()["outcome"], &outcome.ended()["status"]),
        (&json!("upstream_error"), &json!(200))
    );
    (outcome, message)
}

#[tokio::test(start_paused = true)]
async fn what_is_no_stream_is_a_502() {
    let completion = r#"{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}"#;
    for answer in [
        Answer::stream(""),
        Answer::stream(": one\n\n: two\n\n"),
        Answer::stream("\n\n\n"),
        Answer::stream(DONE),
        Answer::stream("event: ping\nid: 3\n\n"),
        Answer::stream("data: <html>\n\n"),
        Answer::stream("data: [1]\n\n"),
        Answer::stream("data\n\n"),
        Answer::steps([Step::Reset]),
        Answer::steps([data(": one\n\n"), Step::Reset]),
        Answer::steps([data(&role()[..40]), Step::Reset]),
        Answer::stream(role()[..40].to_owned()),
        Answer::json(200, completion),
        Answer::json(200, "[]"),
        Answer::json(200, ""),
        Answer::stream(say(&["a"])).header("content-type", "text/html"),
        Answer::stream(say(&["a"])).header("content-encoding", "gzip"),
        Answer::stream(vec![b'x'; 9 << 20]),
        Answer::stream([b"data: \"".to_vec(), vec![b'x'; 9 << 20], b"\"\n\n".to_vec()].concat()),
    ] {
        let (outcome, keys) = refused(vec![answer], 502).await;
        assert_eq!(keys, ["1"]);
        assert_eq!(outcome.ended()["outcome"], "upstream_error");
        assert_eq!(outcome.ended()["error_type"], "api_error");
    }
    // The inner service itself fails.
    let (outcome, _) = refused(vec![], 502).await;
    assert_eq!(outcome.ended()["outcome"], "upstream_error");
}

#[tokio::test(start_paused = true)]
async fn an_encoding_that_changes_nothing_is_none() {
    let (outcome, _) = keys(vec![Answer::stream(say(&["a"])).header("content-encoding", "Identity")]).await;
    assert_eq!(Message::read(&outcome.body).content, "a");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_comes_first_fails_over_where_the_table_says_so() {
    for error in [
        Answer::stream(event(RATE)),
        Answer::stream(format!(": wait\n\nevent: error\n{}", event(RATE))),
        Answer::stream(event(QUOTA)),
        Answer::stream(event(r#"{"error":{"code":429}}"#)),
        Answer::stream(event(r#"{"error":{"code":"invalid_api_key"}}"#)),
        Answer::json(200, RATE),
        Answer::json(429, RATE),
        Answer::json(401, "{}"),
    ] {
        let (outcome, keys) = keys(vec![error, Answer::stream(say(&["a"]))]).await;
        assert_eq!(keys, ["1", "2"]);
        assert_eq!(outcome.status, 200);
        let message = Message::read(&outcome.body);
        assert_eq!((&*message.content, message.comments, message.dones), ("a", 0, 1));
        assert_eq!(
            (&outcome.ended()["outcome"], &outcome.ended()["key_attempts"]),
            (&json!("completed"), &json!(2))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_comes_first_and_is_not_about_the_key_is_the_answer() {
    for (answer, status, body) in [
        (Answer::stream(event(BAD)), 400, BAD),
        (Answer::stream(event(BROKEN)), 502, BROKEN),
        (Answer::json(200, BAD), 400, BAD),
        (Answer::json(400, BAD), 400, BAD),
        (Answer::json(500, BROKEN), 500, BROKEN),
        (Answer::json(503, BROKEN), 503, BROKEN),
    ] {
        let mut bench = Bench::new([answer]);
        let response = bench.call(ASK).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        let outcome = bench.finish(response).await;
        assert_eq!((outcome.status, &*outcome.body), (status, body));
        assert_eq!(outcome.ended()["outcome"], "upstream_error");
        assert_eq!(bench.provider.seen().len(), 1);
    }
    // All keys are rate limited.
    let (outcome, keys) = refused(vec![Answer::stream(event(RATE)), Answer::json(429, RATE)], 429).await;
    assert_eq!(keys, ["1", "2"]);
    assert_eq!(outcome.ended()["outcome"], "keys_exhausted");
}

#[tokio::test(start_paused = true)]
async fn an_error_after_something_was_relayed_is_an_event() {
    let begun = || data([role(), text("Hel")].concat());
    for (steps, words) in [
        (vec![begun(), data(event(BROKEN))], "oops"),
        (vec![begun(), data(event(RATE))], "slow down"),
        (vec![begun()], "cut"),
        (vec![begun(), Step::Reset], "cut"),
        (vec![begun(), data(&text("lo")[..50]), Step::Reset], "cut"),
        (vec![begun(), data(&text("lo")[..50])], "cut"),
        (vec![begun(), data(finish("stop"))], "cut"),
        (vec![begun(), data("data: <html>\n\n")], "promises"),
        (vec![begun(), data("x".repeat(9 << 20))], "promises"),
        (vec![begun(), data(text("lo").repeat(3)), Step::Hang], "in time"),
    ] {
        let (outcome, message) = cut(vec![Answer::steps(steps)]).await;
        assert!(message.content.starts_with("Hel"), "{}", message.content);
        assert!(
            message.errors[0]["message"].as_str().unwrap().contains(words),
            "{}",
            message.errors[0]
        );
        assert_eq!(outcome.ended()["time_to_first_token_ms"], 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_caller_gets_what_came_before_the_fault_in_the_same_frame() {
    let (_, message) = cut(vec![Answer::stream([role(), text("Hel"), event(BROKEN)].concat())]).await;
    assert_eq!(
        (&*message.content, &message.errors[0]["message"]),
        ("Hel", &json!("oops"))
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_between_events_does_no_harm() {
    let stream = [
        role(),
        "garbage\nmore: garbage\n\n\n: note\n\n".to_owned(),
        text("a"),
        finish("stop") + DONE,
    ]
    .concat();
    let (outcome, _) = keys(vec![Answer::stream(stream)]).await;
    let message = Message::read(&outcome.body);
    assert_eq!((&*message.content, message.dones, message.comments), ("a", 1, 1));
    assert_eq!(outcome.ended()["outcome"], "completed");
}

#[tokio::test(start_paused = true)]
async fn usage_that_was_learnt_before_a_cut_is_recorded_once() {
    let begun = [role(), usage(9, 4)].concat();
    for steps in [
        vec![data(begun.clone())],
        vec![data(begun.clone()), Step::Reset],
        vec![data(begun + &event(BROKEN))],
    ] {
        let (outcome, _) = cut(vec![Answer::steps(steps)]).await;
        let usages: Vec<_> = outcome
            .records_of("token_usage")
            .map(|record| record["input"].clone())
            .collect();
        assert_eq!(usages, [9]);
        assert_eq!(outcome.ended()["usage"]["output"], 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_round_walks_the_keys_again() {
    let first = [
        role(),
        text("Wait. "),
        call(0, "call_1", "bmcp_local_clock"),
        arguments(0, "{}"),
        finish("tool_calls"),
        usage(7, 3),
    ];
    let first = first.concat() + DONE;
    for refusal in [
        Answer::json(429, RATE),
        Answer::stream(event(RATE)),
        Answer::json(401, ""),
    ] {
        let (outcome, keys) = keys(vec![
            Answer::stream(first.clone()),
            refusal,
            Answer::stream(say(&["a"])),
        ])
        .await;
        assert_eq!(keys, ["1", "1", "2"]);
        let message = Message::read(&outcome.body);
        assert_eq!(
            (&*message.content, message.roles, message.dones, message.errors.len()),
            ("Wait. a", 1, 1, 0)
        );
        assert_eq!(outcome.records_of("tool_usage").count(), 1, "no tool runs twice");
        assert_eq!(outcome.requests[1], outcome.requests[2]);
        assert_eq!(
            (&outcome.ended()["key_attempts"], &outcome.ended()["rounds"]),
            (&json!(3), &json!(2))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_in_a_second_round_is_an_answer_if_the_first_showed_nothing() {
    let silent = calls("bmcp_local_clock").replacen(&role(), "", 1);
    let spoken = calls("bmcp_local_clock");
    for (second, status, words) in [
        (Answer::json(500, BROKEN), 500, "oops"),
        (Answer::stream(event(BAD)), 400, "no such thing"),
        (Answer::steps([Step::Reset]), 502, "cut"),
        (Answer::stream(""), 502, "promises"),
        (Answer::json(200, "{}"), 502, "promises"),
        (Answer::json(503, "<html>"), 503, ""),
    ] {
        let (outcome, _) = keys(vec![Answer::stream(silent.clone()), second.clone()]).await;
        assert_eq!(outcome.status, status);
        assert!(outcome.body.contains(words), "{}", outcome.body);
        assert_eq!(outcome.ended()["status"], status);
        assert_eq!(outcome.records_of("token_usage").count(), 1);

        let (outcome, message) = cut(vec![Answer::stream(spoken.clone()), second]).await;
        assert!(message.errors[0]["message"].as_str().unwrap().contains(words));
        assert_eq!(outcome.ended()["rounds"], 2);
        assert_eq!(outcome.records_of("token_usage").count(), 1, "one round reported");
        assert_eq!(outcome.ended()["usage"]["input"], 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_never_stops_calling_is_stopped() {
    let answers = || std::iter::repeat_with(|| Answer::stream(calls("bmcp_local_clock"))).take(9);
    let bench = Bench::with(answers(), |layer| layer.max_rounds(2));
    let outcome = bench.run(ASK).await;
    assert_eq!(outcome.requests.len(), 3);
    let choices: Vec<bool> = outcome
        .requests
        .iter()
        .map(|body| body.contains(r#""tool_choice":"none""#))
        .collect();
    assert_eq!(choices, [false, false, true]);
    let message = Message::read(&outcome.body);
    assert_eq!((message.errors.len(), message.dones), (1, 0), "{}", outcome.body);
    assert_eq!(outcome.ended()["outcome"], "bridge_error");
    assert_eq!(outcome.records_of("token_usage").count(), 3, "each round once");
    assert_eq!(outcome.ended()["usage"]["input"], 21);

    let answers = answers().take(2).chain([Answer::stream(say(&["done"]))]);
    let outcome = Bench::with(answers, |layer| layer.max_rounds(2)).run(ASK).await;
    assert_eq!(Message::read(&outcome.body).content, "done");
    assert!(outcome.requests[2].contains(r#""tool_choice":"none""#));
}

#[tokio::test(start_paused = true)]
async fn a_stream_in_answer_to_a_blocking_request_is_a_502() {
    let ask = r#"{"model":"m","messages":[]}"#;
    let outcome = Bench::new([Answer::stream(say(&["a"]))]).run(ask).await;
    assert_eq!(
        (outcome.status, &outcome.ended()["outcome"]),
        (502, &json!("upstream_error"))
    );
    assert!(outcome.body.contains("promises"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_provider_times_out() {
    let minute = Duration::from_secs(60);
    // Before the first event, whatever the comments say.
    for steps in [
        vec![Step::Hang],
        vec![data(": one\n\n"), Step::Wait(minute / 2), data(": two\n\n"), Step::Hang],
    ] {
        let bench = Bench::with([Answer::steps(steps)], |layer| layer.attempt_timeout(minute));
        let start = tokio::time::Instant::now();
        let outcome = bench.run(ASK).await;
        assert_eq!((outcome.status, crate::sse::since(start)), (504, 60_000));
        assert_eq!(outcome.ended()["outcome"], "upstream_error");
    }
    let slow_head = Answer::stream(say(&["a"])).delay(minute * 2);
    let outcome = Bench::with([slow_head], |layer| layer.attempt_timeout(minute))
        .run(ASK)
        .await;
    assert_eq!(outcome.status, 504);
    // After it, when nothing comes for as long; slow events are fine.
    let mut steps = vec![data(role())];
    for _ in 0..10 {
        steps.extend([Step::Wait(minute * 9 / 10), data(text("x"))]);
    }
    steps.push(Step::Hang);
    let bench = Bench::with([Answer::steps(steps)], |layer| layer.attempt_timeout(minute));
    let start = tokio::time::Instant::now();
    let outcome = bench.run(ASK).await;
    let message = Message::read(&outcome.body);
    assert_eq!(
        (&*message.content, message.errors.len(), message.dones),
        ("xxxxxxxxxx", 1, 0)
    );
    let silence = crate::sse::since(start) - 540_000;
    assert!((60_000..=120_000).contains(&silence), "{silence}");
}
