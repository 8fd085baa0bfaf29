//! Streams of providers that never end, are cut, or hold events outside of the API.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_begin_is_a_502() {
    let comments = || MockBody::new().endless(format!(": {}\n\n", "x".repeat(1 << 20)));
    let cases = [
        ("empty", Reply::events("")),
        ("comments alone", Reply::events(": hello\n\n: again\n\n")),
        ("[DONE] alone", Reply::events("data: [DONE]\n\n")),
        ("no JSON", Reply::events("data: hello\n\n")),
        ("a list", Reply::events("data: []\n\n")),
        ("cut in the first event", Reply::events("data: {\"id\":")),
        (
            "no UTF-8",
            Reply::events(MockBody::full(&b"data: {\"id\":\"\xFF\"}\n\n"[..])),
        ),
        ("no answer", Reply::ok("{}")),
        ("HTML", Reply::new(200, "<html>").header("content-type", "text/html")),
        ("an encoding", Reply::events(CHUNK).header("content-encoding", "gzip")),
        (
            "one endless line",
            Reply::events(MockBody::new().data("data: ").endless(vec![b'x'; 1 << 20])),
        ),
        ("endless comments", Reply::events(comments())),
    ];
    for (name, reply) in cases {
        let (answer, pulled) = replied(name, with_echo(), ask_streamed("hi"), reply).await;
        assert_ours(name, &answer, BridgeErrorKind::UpstreamInvalid);
        assert!(pulled < 32 << 20, "{name}: {pulled} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_bad_ends_with_an_error_event_and_without_done() {
    // Nothing of an injected call reaches the caller, so backpressure does not bound an endless one.
    let ours = "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":\
                {\"name\":\"bmcp_local_echo\",\"arguments\":\"\"}}]}}]}\n\n";
    let more = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":0,\"function\":{{\"arguments\":\
         \"{}\"}}}}]}}}}]}}\n\n",
        "x".repeat(1000)
    );
    let then = |bad: &'static str| MockBody::new().data(CHUNK).data(bad);
    let cases = [
        ("no JSON", then("data: hello\n\n")),
        ("a list", then("data: []\n\n")),
        (
            "a call that is a number",
            then("data: {\"choices\":[{\"delta\":{\"tool_calls\":[1]}}]}\n\n"),
        ),
        ("cut", then("data: {\"id\":")),
        ("ended without [DONE]", MockBody::new().data(CHUNK)),
        ("reset", MockBody::new().data(CHUNK).error("secret-host:8080 reset")),
        ("stalled", MockBody::new().data(CHUNK).never()),
        (
            "one endless line",
            MockBody::new().data(CHUNK).data("data: ").endless(vec![b'x'; 1 << 20]),
        ),
        (
            "endless arguments of ours",
            MockBody::new().data(CHUNK).data(ours).endless(more),
        ),
    ];
    for (name, body) in cases {
        let (answer, pulled) = replied(name, with_echo(), ask_streamed("hi"), Reply::events(body)).await;
        assert_eq!(answer.status, 200, "{name}");
        let text = answer.text();
        let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let error: Value = serde_json::from_str(last.strip_prefix("data: ").expect(last)).expect(name);
        assert_eq!(names(&error["error"]), ["code", "message", "param", "type"], "{name}");
        assert_eq!(error["error"]["type"], "api_error", "{name}");
        assert!(text.contains("\"content\":\"x\""), "{name}: {text}");
        assert!(
            !text.contains("[DONE]") && !text.contains("secret-host"),
            "{name}: {text}"
        );
        assert!(pulled < 32 << 20, "{name}: {pulled} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_that_are_merely_odd_go_through() {
    for odd in [
        r#"{"choices":[]}"#,
        r#"{"choices":null}"#,
        r#"{"choices":"x"}"#,
        r#"{"choices":[1]}"#,
        r#"{"choices":[{"delta":null}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":null}}]}"#,
        r#"{"usage":"x"}"#,
        r#"{"id":5,"model":7}"#,
        r#"{"error":null}"#,
        "{}",
    ] {
        let body = format!(
            "data: {odd}\n\n{CHUNK}data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":\"x\"}}}}\n\ndata: [DONE]\n\n"
        );
        let (answer, _) = replied(odd, with_echo(), ask_streamed("hi"), Reply::events(body)).await;
        assert_eq!(answer.status, 200, "{odd}: {:?}", answer.body);
        assert!(answer.text().contains("\"content\":\"x\""), "{odd}");
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{odd}: {}", answer.text());
    }
}
