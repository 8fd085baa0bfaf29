//! The head of a stream, the request to the provider, and the comments that keep a waiting caller's connection alive.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tower_llm_bridge::Intercepted;

use crate::setup::{Setup, frame};
use crate::support::{MockBody, Reply, ended, since};
use crate::wire::{ASK, DONE, Message, calls, role, say};

#[tokio::test(start_paused = true)]
async fn the_head_is_the_providers_less_what_is_private() {
    let answer = Reply::new(200, say(&["a"]))
        .header("content-type", "Text/Event-Stream;charset=UTF-8")
        .header("x-request-id", "req_1")
        .header("cache-control", "no-cache")
        .header("content-length", "9999")
        .header("connection", "keep-alive, x-hop")
        .header("keep-alive", "timeout=5")
        .header("x-hop", "1")
        .header("transfer-encoding", "chunked")
        .header("set-cookie", "a=b")
        .header("openai-organization", "org")
        .header("x-echo", "key sk-first-0123456789abcdef");
    let refusal = Reply::json(429, "{}").header("x-request-id", "req_0");
    let mut setup = Setup::new([refusal, answer]);
    let response = setup.call(ASK).await;
    assert_eq!(response.status(), 200);
    let headers = response.headers();
    let mut names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["cache-control", "content-type", "x-request-id"]);
    assert_eq!(headers["content-type"], "Text/Event-Stream;charset=UTF-8");
    assert_eq!(headers["x-request-id"], "req_1");
    let intercepted = response.extensions().get::<Intercepted>().unwrap();
    assert_eq!(intercepted.key_attempts(), 2);
    let id = intercepted.id();
    let event = setup.events.recv().await.unwrap();
    assert_eq!(event.interception_id, id);
    let mut response = response;
    assert!(frame(&mut response).await.unwrap().contains(&id.to_string()));
}

#[tokio::test(start_paused = true)]
async fn the_provider_is_always_asked_for_usage_and_else_for_nothing_new() {
    let member = r#","stream_options":{"include_usage":true}"#;
    let table = [
        ("", member, false),
        (r#","stream_options":null"#, member, false),
        (r#","stream_options":{}"#, member, false),
        (r#","stream_options":{"include_usage":false}"#, member, false),
        (r#","stream_options":{"include_usage":true}"#, member, true),
        (r#","stream_options":{"include_usage":null}"#, member, false),
        (
            r#", "stream_options" : { "x" : 1.0e5 , "include_usage" : false , "y":"é" } "#,
            r#", "stream_options" : { "x" : 1.0e5 , "include_usage" : true , "y":"é" } "#,
            false,
        ),
        (
            r#","stream_options":{"x": 1.0e5}"#,
            r#","stream_options":{"include_usage":true,"x": 1.0e5}"#,
            false,
        ),
        (
            r#","stream_options":{"include_obfuscation": true, "include\u005fusage":true}"#,
            r#","stream_options":{"include_obfuscation": true, "include\u005fusage":true}"#,
            true,
        ),
    ];
    for (options, sent, asked) in table {
        let ask = |options| {
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"\u0068i"}}],"stream":true{options}}}"#)
        };
        let no_tools = |layer: tower_llm_bridge::BridgeLayer| layer.tools(tower_llm_bridge::tools::Tools::default());
        let outcome = Setup::with([Reply::events(say(&["a"]))], no_tools)
            .run(ask(options))
            .await;
        assert_eq!(outcome.requests, [ask(sent)]);
        let message = Message::read(&outcome.body);
        assert_eq!(message.usages.len(), usize::from(asked), "{options}");
        assert_eq!((message.dones, &*message.content), (1, "a"));
        // Nothing but the id differs from what the provider sent.
        if asked {
            assert_eq!(outcome.body, say(&["a"]).replace("chatcmpl-1", "$ID"));
        }
    }
    for options in [r#""x""#, "[]", "1"] {
        let ask = format!(r#"{{"model":"m","messages":[],"stream":true,"stream_options":{options}}}"#);
        assert_eq!(Setup::new([]).run(ask).await.status, 400);
    }
}

#[tokio::test(start_paused = true)]
async fn comments_keep_the_connection_alive_while_a_tool_runs() {
    let spoken = calls("bmcp_local_slow");
    let silent = spoken.replacen(&role(), "", 1);
    for (first, head) in [(spoken, 0), (silent, 10_000)] {
        let mut setup = Setup::new([
            Reply::events(first),
            Reply::events(say(&["done"])).after(Duration::from_secs(1)),
        ]);
        let start = Instant::now();
        let mut response = setup.call(ASK).await;
        assert_eq!(since(start), head, "the first comment commits the head");
        let mut frames = Vec::new();
        while let Some(frame) = frame(&mut response).await {
            frames.push((since(start), frame));
        }
        let comments: Vec<_> = frames
            .iter()
            .filter(|(_, frame)| frame == ": keep-alive\n\n")
            .map(|(at, _)| *at)
            .collect();
        assert_eq!(comments, [10_000, 20_000]);
        let (last, end) = frames.last().unwrap();
        assert_eq!(*last, 26_000);
        assert!(end.ends_with(DONE));
        let stream: String = frames.iter().map(|(_, frame)| &**frame).collect();
        let message = Message::read(&stream);
        assert_eq!((&*message.content, message.roles, message.comments), ("done", 1, 2));
        let records = setup.records();
        // A comment does not count as a token.
        assert_eq!(
            ended(&records)["time_to_first_token_ms"],
            if head == 0 { 0 } else { 26_000 }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_comment_of_the_provider_is_no_token() {
    let call = calls("bmcp_local_clock").replacen(&role(), ": wait\n\n", 1);
    let answers = [
        Reply::events(call),
        Reply::events(say(&["done"])).after(Duration::from_secs(2)),
    ];
    let outcome = Setup::new(answers).run(ASK).await;
    assert_eq!(Message::read(&outcome.body).comments, 1);
    assert_eq!(outcome.ended()["time_to_first_token_ms"], 2000);
}

#[tokio::test(start_paused = true)]
async fn an_error_after_a_comment_of_ours_is_an_event() {
    let silent = calls("bmcp_local_slow").replacen(&role(), "", 1);
    let outcome = Setup::new([
        Reply::events(silent),
        Reply::json(500, r#"{"error":{"message":"oops"}}"#),
    ])
    .run(ASK)
    .await;
    assert_eq!(outcome.status, 200);
    let message = Message::read(&outcome.body);
    assert_eq!((message.comments, message.errors.len(), message.dones), (2, 1, 0));
    assert_eq!(message.errors[0]["message"], "oops");
    assert_eq!(outcome.ended()["time_to_first_token_ms"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn the_first_event_that_is_shown_brings_the_head() {
    let body = MockBody::new()
        .data(": one\n\n")
        .sleep(Duration::from_secs(3))
        .data(role())
        .never();
    let setup = Setup::new([Reply::events(body)]);
    let start = Instant::now();
    let mut response = setup.call(ASK).await;
    assert_eq!(
        since(start),
        3000,
        "a comment of the provider alone could still become an error"
    );
    assert!(frame(&mut response).await.unwrap().starts_with(": one\n\ndata: {"));
}
