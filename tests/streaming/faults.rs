//! Providers that fail: an HTTP error as long as the caller has seen nothing, an error event from then on, and never a
//! clean end.

use std::time::Duration;

use serde_json::{Value, json};

use crate::setup::{Outcome, Setup};
use crate::support::{KEYS, MockBody, Reply, since};
use crate::wire::{ASK, DONE, Message, arguments, call, calls, finish, role, say, text, usage};

const RATE: &str = r#"{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
const QUOTA: &str = r#"{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}"#;
const BAD: &str = r#"{"error":{"message":"no such thing","type":"invalid_request_error","code":null}}"#;
const BROKEN: &str = r#"{"error":{"message":"oops","type":"server_error","code":"server_error"}}"#;

fn event(text: &str) -> String {
    format!("data: {text}\n\n")
}

/// The keys that were used, by their numbers.
async fn keys(answers: Vec<Reply>) -> (Outcome, Vec<String>) {
    let mut setup = Setup::new(answers);
    let response = setup.call(ASK).await;
    let outcome = setup.finish(response).await;
    let used = setup.provider.keys().into_iter().map(|key| {
        let place = KEYS.iter().position(|known| *known == key);
        (place.expect("a key of the pool") + 1).to_string()
    });
    assert_eq!(setup.provider.busy(), 0);
    assert!(
        !outcome.body.contains("10.1.2.3") && !outcome.body.contains("sk-"),
        "{}",
        outcome.body
    );
    (outcome, used.collect())
}

/// An answer before anything was relayed: an HTTP error of this status, and the record of it.
async fn refused(answers: Vec<Reply>, status: u16) -> (Outcome, Vec<String>) {
    let (outcome, keys) = keys(answers).await;
    assert_eq!(outcome.status, status, "{}", outcome.body);
    assert_eq!(outcome.ended()["status"], status);
    assert_eq!(outcome.ended()["time_to_first_token_ms"], Value::Null);
    let error: Value = serde_json::from_str(&outcome.body).unwrap();
    assert!(error["error"]["message"].is_string());
    (outcome, keys)
}

/// An end after something was relayed: one error event, no `[DONE]`, and the record of it.
async fn cut(answers: Vec<Reply>) -> (Outcome, Message) {
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
    for answer in [
        Reply::events(""),
        Reply::events(": one\n\n: two\n\n"),
        Reply::events("\n\n\n"),
        Reply::events(DONE),
        Reply::events("event: ping\nid: 3\n\n"),
        Reply::events("data: <html>\n\n"),
        Reply::events("data: [1]\n\n"),
        Reply::events("data\n\n"),
        Reply::events(MockBody::new().reset()),
        Reply::events(MockBody::new().data(": one\n\n").reset()),
        Reply::events(MockBody::new().data(role()[..40].to_owned()).reset()),
        Reply::events(role()[..40].to_owned()),
        Reply::json(200, "{}"),
        Reply::json(200, "[]"),
        Reply::json(200, ""),
        Reply::events(say(&["a"])).header("content-encoding", "gzip"),
        Reply::events("x".repeat(9 << 20)),
        Reply::events(format!("data: \"{}\"\n\n", "x".repeat(9 << 20))),
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
    let (outcome, _) = keys(vec![Reply::events(say(&["a"])).header("content-encoding", "Identity")]).await;
    assert_eq!(Message::read(&outcome.body).content, "a");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_comes_first_fails_over_where_the_table_says_so() {
    for error in [
        Reply::events(event(RATE)),
        Reply::events(format!(": wait\n\nevent: error\n{}", event(RATE))),
        Reply::events(event(QUOTA)),
        Reply::events(event(r#"{"error":{"code":429}}"#)),
        Reply::events(event(r#"{"error":{"code":"invalid_api_key"}}"#)),
        Reply::json(200, RATE),
        Reply::json(429, RATE),
        Reply::json(401, "{}"),
    ] {
        let (outcome, keys) = keys(vec![error, Reply::events(say(&["a"]))]).await;
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
        (Reply::events(event(BAD)), 400, BAD),
        (Reply::events(event(BROKEN)), 502, BROKEN),
        (Reply::json(200, BAD), 400, BAD),
        (Reply::json(400, BAD), 400, BAD),
        (Reply::json(500, BROKEN), 500, BROKEN),
        (Reply::json(503, BROKEN), 503, BROKEN),
    ] {
        let mut setup = Setup::new([answer]);
        let response = setup.call(ASK).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        let outcome = setup.finish(response).await;
        assert_eq!((outcome.status, &*outcome.body), (status, body));
        assert_eq!(outcome.ended()["outcome"], "upstream_error");
        assert_eq!(setup.provider.calls(), 1);
    }
    // All keys are rate limited.
    let (outcome, keys) = refused(vec![Reply::events(event(RATE)), Reply::json(429, RATE)], 429).await;
    assert_eq!(keys, ["1", "2"]);
    assert_eq!(outcome.ended()["outcome"], "keys_exhausted");
}

#[tokio::test(start_paused = true)]
async fn an_error_after_something_was_relayed_is_an_event() {
    let begun = || MockBody::new().data([role(), text("Hel")].concat());
    let half = || text("lo")[..50].to_owned();
    for (body, words) in [
        (begun().data(event(BROKEN)), "oops"),
        (begun().data(event(RATE)), "slow down"),
        (begun(), "cut"),
        (begun().reset(), "cut"),
        (begun().data(half()).reset(), "cut"),
        (begun().data(half()), "cut"),
        (begun().data("data: <html>\n\n"), "promises"),
        (begun().data("x".repeat(9 << 20)), "cut"),
        (begun().data(text("lo").repeat(3)).never(), "in time"),
    ] {
        let (outcome, message) = cut(vec![Reply::events(body)]).await;
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
    let (_, message) = cut(vec![Reply::events([role(), text("Hel"), event(BROKEN)].concat())]).await;
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
    let (outcome, _) = keys(vec![Reply::events(stream)]).await;
    let message = Message::read(&outcome.body);
    assert_eq!((&*message.content, message.dones, message.comments), ("a", 1, 1));
    assert_eq!(outcome.ended()["outcome"], "completed");
}

#[tokio::test(start_paused = true)]
async fn usage_that_was_learnt_before_a_cut_is_recorded_once() {
    let begun = [role(), usage(9, 4)].concat();
    for body in [
        MockBody::new().data(begun.clone()),
        MockBody::new().data(begun.clone()).reset(),
        MockBody::new().data(begun + &event(BROKEN)),
    ] {
        let (outcome, _) = cut(vec![Reply::events(body)]).await;
        let usages: Vec<_> = outcome
            .records_of("token_usage")
            .map(|record| record["input"].clone())
            .collect();
        assert_eq!(usages, [9]);
        assert_eq!(outcome.ended()["output"], 4);
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
    for refusal in [Reply::json(429, RATE), Reply::events(event(RATE)), Reply::json(401, "")] {
        let (outcome, keys) = keys(vec![Reply::events(first.clone()), refusal, Reply::events(say(&["a"]))]).await;
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
    let refusals = || {
        [
            (Reply::json(500, BROKEN), 500, "oops"),
            (Reply::events(event(BAD)), 400, "no such thing"),
            (Reply::events(MockBody::new().reset()), 502, "cut"),
            (Reply::events(""), 502, "promises"),
            (Reply::json(200, "{}"), 502, "promises"),
            (Reply::json(503, "<html>"), 503, ""),
        ]
    };
    for (second, status, words) in refusals() {
        let (outcome, _) = keys(vec![Reply::events(silent.clone()), second]).await;
        assert_eq!(outcome.status, status);
        assert!(outcome.body.contains(words), "{}", outcome.body);
        assert_eq!(outcome.ended()["status"], status);
        assert_eq!(outcome.records_of("token_usage").count(), 1);
    }
    for (second, _, words) in refusals() {
        let (outcome, message) = cut(vec![Reply::events(spoken.clone()), second]).await;
        assert!(message.errors[0]["message"].as_str().unwrap().contains(words));
        assert_eq!(outcome.ended()["rounds"], 2);
        assert_eq!(outcome.records_of("token_usage").count(), 1, "one round reported");
        assert_eq!(outcome.ended()["input"], 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_never_stops_calling_is_stopped() {
    let answers = || std::iter::repeat_with(|| Reply::events(calls("bmcp_local_clock"))).take(9);
    let setup = Setup::with(answers(), |layer| layer.max_rounds(2));
    let outcome = setup.run(ASK).await;
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
    assert_eq!(outcome.ended()["input"], 21);

    let answers = answers().take(2).chain([Reply::events(say(&["done"]))]);
    let outcome = Setup::with(answers, |layer| layer.max_rounds(2)).run(ASK).await;
    assert_eq!(Message::read(&outcome.body).content, "done");
    assert!(outcome.requests[2].contains(r#""tool_choice":"none""#));
}

#[tokio::test(start_paused = true)]
async fn a_stream_in_answer_to_a_blocking_request_is_a_502() {
    let ask = r#"{"model":"m","messages":[]}"#;
    let outcome = Setup::new([Reply::events(say(&["a"]))]).run(ask).await;
    assert_eq!(
        (outcome.status, &outcome.ended()["outcome"]),
        (502, &json!("upstream_error"))
    );
    assert!(outcome.body.contains("promises"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_provider_times_out() {
    let minute = Duration::from_secs(60);
    // Before the first event, with or without comments.
    for body in [
        MockBody::new(),
        MockBody::new().data(": one\n\n").sleep(minute / 2).data(": two\n\n"),
    ] {
        let setup = Setup::with([Reply::events(body.never())], |layer| layer.attempt_timeout(minute));
        let start = tokio::time::Instant::now();
        let outcome = setup.run(ASK).await;
        // The head went out after 10 s.
        assert_eq!((outcome.status, since(start)), (200, 60_000));
        assert!(outcome.body.contains("in time"), "{}", outcome.body);
        assert_eq!(outcome.ended()["outcome"], "upstream_error");
    }
    let slow_head = Reply::events(say(&["a"])).after(minute * 2);
    let outcome = Setup::with([slow_head], |layer| layer.attempt_timeout(minute))
        .run(ASK)
        .await;
    assert!(outcome.body.contains("in time"), "{}", outcome.body);
    // After it, when nothing comes for that long; slow events are allowed.
    let slowly = |body: MockBody, _| body.sleep(minute * 9 / 10).data(text("x"));
    let body = (0..10).fold(MockBody::new().data(role()), slowly);
    let setup = Setup::with([Reply::events(body.never())], |layer| layer.stream_idle_timeout(minute));
    let start = tokio::time::Instant::now();
    let outcome = setup.run(ASK).await;
    let message = Message::read(&outcome.body);
    assert_eq!(
        (&*message.content, message.errors.len(), message.dones),
        ("xxxxxxxxxx", 1, 0)
    );
    let silence = since(start) - 540_000;
    assert_eq!(silence, 60_000);
}
