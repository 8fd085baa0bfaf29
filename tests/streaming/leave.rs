//! Callers that leave, and callers that read slowly: nothing keeps running, nothing is read ahead, and every end is
//! recorded once.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::advance;

use crate::setup::{Setup, Streamed, frame};
use crate::support::{Cut, MockBody, Reply, ended, of_kind, since};
use crate::wire::{ASK, DONE, arguments, call, calls, finish, role, say, text, tokens, usage};

/// Drops the answer. Returns the records once nothing of the conversation is left.
async fn leave(mut setup: Setup, response: Streamed) -> Vec<Value> {
    drop(response);
    assert_eq!(setup.provider.busy(), 0, "the provider's body is held");
    setup.settle().await;
    assert_eq!(setup.running(), 0, "a tool runs on");
    let (calls, pulled) = (setup.provider.calls(), setup.provider.pulled().frames());
    advance(Duration::from_secs(3000)).await;
    setup.settle().await;
    assert_eq!(
        (setup.provider.calls(), setup.provider.pulled().frames()),
        (calls, pulled)
    );
    setup.records()
}

fn usages(records: &[Value]) -> Vec<u64> {
    of_kind(records, "token_usage")
        .map(|record| record["input"].as_u64().unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn before_the_first_byte() {
    for answer in [
        Reply::events("").after(Duration::from_secs(9)),
        Reply::events(MockBody::new().never()),
        Reply::events(MockBody::new().data(": comment\n\ndata: {\"choi").never()),
    ] {
        let mut setup = Setup::new([answer]);
        let left = tokio::time::timeout(Duration::from_secs(1), setup.call(ASK)).await;
        assert!(left.is_err(), "there is an answer");
        assert_eq!(setup.provider.busy(), 0);
        let records = setup.records();
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
    let answer = Reply::events(
        MockBody::new()
            .data(role())
            .data(text("Hello")[..30].to_owned())
            .never(),
    );
    let setup = Setup::new([answer]);
    let mut response = setup.call(ASK).await;
    assert!(frame(&mut response).await.unwrap().contains("role"));
    let waiting = tokio::time::timeout(Duration::from_secs(1), frame(&mut response)).await;
    assert!(waiting.is_err());
    let records = leave(setup, response).await;
    assert_eq!(ended(&records)["outcome"], "cancelled");
    assert_eq!(ended(&records)["time_to_first_token_ms"], 0);
}

#[tokio::test(start_paused = true)]
async fn in_a_hidden_call() {
    let hidden = [call(0, "call_1", "bmcp_local_clock"), arguments(0, "{")].concat();
    let setup = Setup::new([Reply::events(MockBody::new().data(role()).data(hidden).never())]);
    let mut response = setup.call(ASK).await;
    frame(&mut response).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(1), frame(&mut response))
            .await
            .is_err()
    );
    assert_eq!(setup.provider.pulled().frames(), 2);
    let records = leave(setup, response).await;
    assert_eq!(ended(&records)["outcome"], "cancelled");
    assert_eq!(of_kind(&records, "tool_usage").count(), 0, "the call was never whole");
}

#[tokio::test(start_paused = true)]
async fn in_a_tool() {
    let setup = Setup::new([Reply::events(calls("bmcp_local_slow"))]);
    let mut response = setup.call(ASK).await;
    frame(&mut response).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(1), frame(&mut response))
            .await
            .is_err()
    );
    assert_eq!((setup.running(), setup.provider.busy()), (1, 0));
    let records = leave(setup, response).await;
    assert_eq!(ended(&records)["outcome"], "cancelled");
    assert_eq!(usages(&records), [7], "once");
    let call = of_kind(&records, "tool_usage").next().unwrap();
    assert_eq!((&call["injected"], &call["duration_ms"]), (&json!(true), &json!(1000)));
    assert!(call["invocation_error"].as_str().unwrap().starts_with("cancelled"));
}

#[tokio::test(start_paused = true)]
async fn before_the_second_round_answers() {
    let answers = [
        Reply::events(calls("bmcp_local_clock")),
        Reply::events(MockBody::new().never()),
    ];
    let setup = Setup::new(answers);
    let mut response = setup.call(ASK).await;
    frame(&mut response).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(1), frame(&mut response))
            .await
            .is_err()
    );
    assert_eq!((setup.provider.calls(), setup.provider.busy()), (2, 1));
    let records = leave(setup, response).await;
    assert_eq!(
        (usages(&records), ended(&records)["rounds"].as_u64()),
        (vec![7], Some(2))
    );
    assert_eq!(ended(&records)["outcome"], "cancelled");
}

#[tokio::test(start_paused = true)]
async fn after_the_usage() {
    let late = text("!").replace(r#","choices""#, &format!(r#","usage":{},"choices""#, tokens(11, 2)));
    let setup = Setup::new([Reply::events(MockBody::new().data(role()).data(late).never())]);
    let mut response = setup.call(ASK).await;
    frame(&mut response).await.unwrap();
    frame(&mut response).await.unwrap();
    let records = leave(setup, response).await;
    assert_eq!(usages(&records), [11]);
    assert_eq!(ended(&records)["outcome"], "cancelled");
    assert_eq!(ended(&records)["input"], 11);
}

#[tokio::test(start_paused = true)]
async fn after_the_end_without_reading_it() {
    // The provider keeps its connection open, so nothing tells that the body is over.
    for body in [
        MockBody::new().data(say(&["a"])),
        MockBody::new()
            .data(role())
            .data([finish("stop"), usage(10, 5)].concat())
            .data(DONE),
    ] {
        let setup = Setup::new([Reply::events(body.never())]);
        let mut response = setup.call(ASK).await;
        while !frame(&mut response).await.unwrap().contains("[DONE]") {}
        let records = leave(setup, response).await;
        assert_eq!(ended(&records)["outcome"], "completed");
        assert_eq!(usages(&records), [10]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_stays_after_its_end_is_let_go() {
    let answer = || MockBody::new().data(say(&["a"]));
    for body in [answer().flood("\n"), answer().endless("\n"), answer().never()] {
        let mut setup = Setup::new([Reply::events(body)]);
        let start = tokio::time::Instant::now();
        let response = setup.call(ASK).await;
        let outcome = setup.finish(response).await;
        assert!(outcome.body.ends_with(DONE));
        assert_eq!(setup.provider.busy(), 0);
        assert!(since(start) <= 250);
        assert_eq!(outcome.ended()["duration_ms"], 0, "the caller had its answer before");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_never_polled_again_releases_the_provider_when_it_is_dropped() {
    let setup = Setup::new([Reply::events(MockBody::new().data(role()).never())]);
    let response = setup.call(ASK).await;
    assert_eq!(setup.provider.busy(), 1);
    let records = leave(setup, response).await;
    assert_eq!(ended(&records)["outcome"], "cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_holds_the_provider_back() {
    let body = MockBody::new().data(role()).flood(text("more"));
    let setup = Setup::new([Reply::events(body)]);
    let mut response = setup.call(ASK).await;
    for read in 1..100 {
        frame(&mut response).await.unwrap();
        assert!(
            setup.provider.pulled().frames() <= read + 1,
            "{} frames are held",
            setup.provider.pulled().frames() - read
        );
    }
    let pulled = setup.provider.pulled().frames();
    advance(Duration::from_secs(3000)).await;
    setup.settle().await;
    assert_eq!(setup.provider.pulled().frames(), pulled);
    // An hour without a read does not count as the provider's silence.
    assert!(frame(&mut response).await.unwrap().contains("more"));
    let records = leave(setup, response).await;
    assert_eq!(ended(&records)["outcome"], "cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_late_for_the_first_event_does_not_time_the_provider_out() {
    let body = MockBody::new().cut(say(&["a"]), Cut::At(role().len()));
    let setup = Setup::with([Reply::events(body)], |layer| {
        layer.stream_idle_timeout(Duration::from_secs(60))
    });
    let mut setup = setup;
    let mut response = setup.call(ASK).await;
    frame(&mut response).await.unwrap();
    advance(Duration::from_secs(3000)).await;
    let outcome = setup.finish(response).await;
    assert!(outcome.body.ends_with(DONE), "{}", outcome.body);
    assert_eq!(outcome.ended()["outcome"], "completed");
}

#[tokio::test(start_paused = true)]
async fn events_go_out_as_they_come() {
    let events = [role(), text("a"), text("b")].into_iter();
    let slowly = events.fold(MockBody::new(), |body, event| {
        body.data(event).sleep(Duration::from_secs(5))
    });
    let answer = Reply::events(slowly.data(finish("stop") + DONE));
    let mut setup = Setup::new([answer]);
    let start = tokio::time::Instant::now();
    let mut response = setup.call(ASK).await;
    assert_eq!(since(start), 0);
    for (part, time) in [("role", 0), (r#""a""#, 5000), (r#""b""#, 10000), ("stop", 15000)] {
        assert!(frame(&mut response).await.unwrap().contains(part));
        assert_eq!(since(start), time);
    }
    assert!(frame(&mut response).await.is_none());
    assert_eq!(ended(&setup.records())["duration_ms"], 15000);
}
