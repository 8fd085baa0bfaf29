//! Callers who leave, and callers who read slowly: nothing runs on, nothing runs ahead, and every end is recorded once.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::advance;

use crate::sse::{Answer, Bench, Reply, Step, ended, frame, of_kind};
use crate::wire::{ASK, DONE, arguments, call, calls, finish, role, say, text, tokens, usage};

fn data(text: impl Into<String>) -> Step {
    Step::Data(text.into().into())
}

/// Drops the answer, and returns the records once nothing is left of the conversation.
async fn leave(mut bench: Bench, response: Reply) -> Vec<Value> {
    drop(response);
    assert_eq!(bench.provider.gauge.bodies(), 0, "the provider's body is held");
    bench.settle().await;
    assert_eq!(bench.provider.gauge.tools(), 0, "a tool runs on");
    let (calls, pulled) = (bench.provider.seen().len(), bench.provider.gauge.pulled());
    advance(Duration::from_secs(3600)).await;
    bench.settle().await;
    assert_eq!(
        (bench.provider.seen().len(), bench.provider.gauge.pulled()),
        (calls, pulled)
    );
    bench.records()
}

fn usages(records: &[Value]) -> Vec<u64> {
    of_kind(records, "token_usage")
        .map(|record| record["input"].as_u64().unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn before_the_first_byte() {
    for answer in [
        Answer::stream("").delay(Duration::from_secs(9)),
        Answer::steps([Step::Hang]),
        Answer::steps([data(": comment\n\ndata: {\"choi"), Step::Hang]),
    ] {
        let mut bench = Bench::new([answer]);
        let left = tokio::time::timeout(Duration::from_secs(1), bench.call(ASK)).await;
        assert!(left.is_err(), "there is an answer");
        assert_eq!(bench.provider.gauge.bodies(), 0);
        let records = bench.records();
        assert_eq!(records.len(), 2, "{records:#?}");
        let ended = ended(&records);
        assert_eq!(
            (&ended["outcome"], &ended["status"]),
            (&json!("cancelled"), &Value::Null)
        );
        assert_eq!((&ended["key_attempts"], &ended["rounds"]), (&json!(1), &json!(1)));
        assert_eq!(ended["time_to_first_token_ms"], Value::Null);
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_delta() {
    let answer = Answer::steps([data(role()), data(&text("Hello")[..30]), Step::Hang]);
    let bench = Bench::new([answer]);
    let mut response = bench.call(ASK).await;
    assert!(frame(&mut response).await.unwrap().contains("role"));
    let waiting = tokio::time::timeout(Duration::from_secs(1), frame(&mut response)).await;
    assert!(waiting.is_err());
    let records = leave(bench, response).await;
    assert_eq!(ended(&records)["outcome"], "cancelled");
    assert_eq!(ended(&records)["time_to_first_token_ms"], 0);
}

#[tokio::test(start_paused = true)]
async fn in_a_hidden_call() {
    let hidden = [call(0, "call_1", "bmcp_local_clock"), arguments(0, "{")].concat();
    let bench = Bench::new([Answer::steps([data(role()), data(hidden), Step::Hang])]);
    let mut response = bench.call(ASK).await;
    frame(&mut response).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(1), frame(&mut response))
            .await
            .is_err()
    );
    assert_eq!(bench.provider.gauge.pulled(), 2);
    let records = leave(bench, response).await;
    assert_eq!(ended(&records)["outcome"], "cancelled");
    assert_eq!(of_kind(&records, "tool_usage").count(), 0, "the call was never whole");
}

#[tokio::test(start_paused = true)]
async fn in_a_tool() {
    let bench = Bench::new([Answer::stream(calls("bmcp_local_slow"))]);
    let mut response = bench.call(ASK).await;
    frame(&mut response).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(1), frame(&mut response))
            .await
            .is_err()
    );
    assert_eq!((bench.provider.gauge.tools(), bench.provider.gauge.bodies()), (1, 0));
    let records = leave(bench, response).await;
    assert_eq!(ended(&records)["outcome"], "cancelled");
    assert_eq!(usages(&records), [7], "once");
    let call = of_kind(&records, "tool_usage").next().unwrap();
    assert_eq!((&call["injected"], &call["duration_ms"]), (&json!(true), &json!(1000)));
    assert!(call["invocation_error"].as_str().unwrap().starts_with("cancelled"));
}

#[tokio::test(start_paused = true)]
async fn before_the_second_round_answers() {
    let answers = [Answer::stream(calls("bmcp_local_clock")), Answer::steps([Step::Hang])];
    let bench = Bench::new(answers);
    let mut response = bench.call(ASK).await;
    frame(&mut response).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(1), frame(&mut response))
            .await
            .is_err()
    );
    assert_eq!((bench.provider.seen().len(), bench.provider.gauge.bodies()), (2, 1));
    let records = leave(bench, response).await;
    assert_eq!(
        (usages(&records), ended(&records)["rounds"].as_u64()),
        (vec![7], Some(2))
    );
    assert_eq!(ended(&records)["outcome"], "cancelled");
}

#[tokio::test(start_paused = true)]
async fn after_the_usage() {
    let late = text("!").replace(r#","choices""#, &format!(r#","usage":{},"choices""#, tokens(11, 2)));
    let bench = Bench::new([Answer::steps([data(role()), data(late), Step::Hang])]);
    let mut response = bench.call(ASK).await;
    frame(&mut response).await.unwrap();
    frame(&mut response).await.unwrap();
    let records = leave(bench, response).await;
    assert_eq!(usages(&records), [11]);
    assert_eq!(ended(&records)["outcome"], "cancelled");
    assert_eq!(ended(&records)["usage"]["input"], 11);
}

#[tokio::test(start_paused = true)]
async fn after_the_end_without_reading_it() {
    // The provider keeps its connection open, so nobody says that the body is over.
    for steps in [
        vec![data(say(&["a"])), Step::Hang],
        vec![
            data(role()),
            data([finish("stop"), usage(10, 5)].concat()),
            data(DONE),
            Step::Hang,
        ],
    ] {
        let bench = Bench::new([Answer::steps(steps)]);
        let mut response = bench.call(ASK).await;
        while !frame(&mut response).await.unwrap().contains("[DONE]") {}
        let records = leave(bench, response).await;
        assert_eq!(ended(&records)["outcome"], "completed");
        assert_eq!(usages(&records), [10]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_stays_after_its_end_is_let_go() {
    let answer = || Answer::steps([data(say(&["a"])), Step::Endless("\n".into())]);
    let hangs = Answer::steps([data(say(&["a"])), Step::Hang]);
    for answer in [answer(), hangs] {
        let mut bench = Bench::new([answer]);
        let start = tokio::time::Instant::now();
        let response = bench.call(ASK).await;
        let outcome = bench.finish(response).await;
        assert!(outcome.body.ends_with(DONE));
        assert_eq!(bench.provider.gauge.bodies(), 0);
        assert!(crate::sse::since(start) <= 250);
        assert_eq!(outcome.ended()["duration_ms"], 0, "the caller had its answer before");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_never_polled_again_releases_the_provider_when_it_is_dropped() {
    let bench = Bench::new([Answer::steps([data(role()), Step::Hang])]);
    let response = bench.call(ASK).await;
    assert_eq!(bench.provider.gauge.bodies(), 1);
    let records = leave(bench, response).await;
    assert_eq!(ended(&records)["outcome"], "cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_holds_the_provider_back() {
    let endless = Answer::steps([data(role()), Step::Endless(text("more").into())]);
    let bench = Bench::new([endless]);
    let mut response = bench.call(ASK).await;
    for read in 1..100 {
        frame(&mut response).await.unwrap();
        assert!(
            bench.provider.gauge.pulled() <= read + 1,
            "{} frames are held",
            bench.provider.gauge.pulled() - read
        );
    }
    let pulled = bench.provider.gauge.pulled();
    advance(Duration::from_secs(3600)).await;
    bench.settle().await;
    assert_eq!(bench.provider.gauge.pulled(), pulled);
    // An hour without a reader is not the provider's silence.
    assert!(frame(&mut response).await.unwrap().contains("more"));
    let records = leave(bench, response).await;
    assert_eq!(ended(&records)["outcome"], "cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_late_for_the_first_event_does_not_time_the_provider_out() {
    let answer = Answer::steps([data(role()), Step::Yield, data(&say(&["a"])[role().len()..])]);
    let bench = Bench::with([answer], |layer| layer.attempt_timeout(Duration::from_secs(60)));
    let mut bench = bench;
    let mut response = bench.call(ASK).await;
    frame(&mut response).await.unwrap();
    advance(Duration::from_secs(3600)).await;
    let outcome = bench.finish(response).await;
    assert!(outcome.body.ends_with(DONE), "{}", outcome.body);
    assert_eq!(outcome.ended()["outcome"], "completed");
}

#[tokio::test(start_paused = true)]
async fn events_go_out_as_they_come() {
    let slowly = [role(), text("a"), text("b")].map(|event| [data(event), Step::Wait(Duration::from_secs(5))]);
    let answer = Answer::steps(slowly.concat().into_iter().chain([data(finish("stop") + DONE)]));
    let mut bench = Bench::new([answer]);
    let start = tokio::time::Instant::now();
    let mut response = bench.call(ASK).await;
    assert_eq!(crate::sse::since(start), 0);
    for (part, time) in [("role", 0), (r#""a""#, 5000), (r#""b""#, 10000), ("stop", 15000)] {
        assert!(frame(&mut response).await.unwrap().contains(part));
        assert_eq!(crate::sse::since(start), time);
    }
    assert!(frame(&mut response).await.is_none());
    assert_eq!(ended(&bench.records())["duration_ms"], 15000);
}
