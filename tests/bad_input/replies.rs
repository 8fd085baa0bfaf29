//! Whole answers of providers that are too long, cut, or outside the API.

use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_success_that_is_no_completion_is_a_502() {
    let cases: &[(&str, &[u8])] = &[
        ("empty", b""),
        ("HTML", b"<html>502 Bad Gateway</html>"),
        ("a list", b"[]"),
        ("null", b"null"),
        ("no choices", b"{}"),
        ("choices null", br#"{"choices":null}"#),
        ("choices an object", br#"{"choices":{"0":{}}}"#),
        ("choices a string", br#"{"choices":"x"}"#),
        ("cut", br#"{"choices":[{"message":{"content":"hel"#),
        ("more behind it", br#"{"choices":[{"message":{}}]} x"#),
        ("no UTF-8", b"{\"choices\":[{\"message\":{\"content\":\"\xFF\"}}]}"),
    ];
    for (name, body) in cases {
        for body in [MockBody::full(body.to_vec()), MockBody::bytewise(body.to_vec())] {
            let (answer, _) = replied(name, with_echo(), ask("hi"), Reply::ok(body)).await;
            let error = assert_ours(name, &answer, BridgeErrorKind::UpstreamInvalid);
            assert_eq!(
                (&error["type"], &error["code"]),
                (&json!("api_error"), &json!("server_error")),
                "{name}"
            );
        }
    }
    let cases = [
        ("a stream", Reply::events(format!("data: {}\n\n", completion("hello")))),
        (
            "an encoding",
            Reply::ok(completion("hello")).header("content-encoding", "gzip"),
        ),
    ];
    for (name, reply) in cases {
        let (answer, _) = replied(name, limited(), ask("hi"), reply).await;
        assert_ours(name, &answer, BridgeErrorKind::UpstreamInvalid);
    }
}

#[tokio::test(start_paused = true)]
async fn replies_that_are_merely_odd_go_through() {
    let message = r#""choices":[{"message":{"role":"assistant","content":"hello"}}]"#;
    for odd in [
        r#""usage":"none""#,
        r#""usage":null"#,
        r#""usage":[]"#,
        r#""usage":{"prompt_tokens":"ten","completion_tokens":{}}"#,
        r#""usage":{"prompt_tokens":-5,"completion_tokens":1e300}"#,
        r#""usage":{"prompt_tokens":1,"prompt_tokens":2,"prompt_tokens_details":{"cached_tokens":9}}"#,
        r#""id":7,"model":null,"service_tier":{}"#,
        r#""id":{"a":[]},"error":null"#,
    ] {
        let (answer, _) = replied(odd, with_echo(), ask("hi"), format!("{{{odd},{message}}}").into()).await;
        assert_works(odd, &answer);
        // Its id is replaced by ours, whatever it was.
        assert_eq!(answer.json()["id"].as_str().map(str::len), Some(36), "{odd}");
    }
    for none in [
        r#"{"choices":[]}"#,
        r#"{"choices":[{"message":{"content":"x","tool_calls":null}}]}"#,
        r#"{"choices":[{"message":{"content":"x","tool_calls":[]}}]}"#,
    ] {
        let (answer, _) = replied(none, with_echo(), ask("hi"), none.into()).await;
        assert_eq!(answer.status, 200, "{none}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_over_the_limit_is_a_502_and_not_read_on() {
    let piece = Bytes::from(vec![b' '; 512]);
    let endless = || MockBody::new().data("{").endless(piece.clone());
    let mut long = SizeHint::new();
    long.set_lower(LIMIT as u64 + 1);
    let cases = [
        ("endless", Reply::ok(endless())),
        (
            "endless, and claims to be short",
            Reply::ok(endless().claims(SizeHint::with_exact(10))),
        ),
        ("claims to be long", Reply::ok(MockBody::new().claims(long))),
        ("one long frame", Reply::ok(completion(&"x".repeat(LIMIT)))),
        ("an error that is endless", Reply::new(500, endless())),
        ("a redirect that is endless", Reply::new(302, endless())),
    ];
    for (name, reply) in cases {
        let (answer, pulled) = replied(name, limited(), ask("hi"), reply).await;
        assert_ours(name, &answer, BridgeErrorKind::UpstreamInvalid);
        assert!(pulled <= 2 * LIMIT, "{name}: {pulled} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_key_is_judged_by_its_status_if_it_is_endless() {
    for status in [401, 403, 429] {
        let endless = MockBody::new().endless(vec![b' '; 4096]);
        let stalling = || MockBody::new().data("{").never();
        for (body, limit, waited) in [(endless, 9, 0), (stalling(), 9, 5), (stalling(), 2, 2)] {
            let mut replies = vec![Reply::ok(completion("hello")), Reply::new(status, body)];
            let provider = Provider::answering(move |_| replies.pop().expect("two attempts"));
            let layer = BridgeLayer::new().attempt_timeout(Duration::from_secs(limit));
            let stack = bridge(&layer.pool(pool(2)), &provider);
            let start = Instant::now();
            assert_works("the next key", &send(&stack, ask("hi")).await);
            assert_eq!(provider.keys(), KEYS[..2]);
            assert_eq!(since(start) / 1000, waited, "an attempt of {limit} s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_breaks_off_or_stalls_is_a_502_or_a_504() {
    let reply = completion("hello");
    let (half, _) = reply.split_at(reply.len() / 2);
    let half = half.to_owned();
    let cases = [
        (
            "cut",
            MockBody::new().data(half.clone()).error("secret-host:8080 reset"),
            BridgeErrorKind::UpstreamFailed,
        ),
        (
            "cut at once",
            MockBody::new().error("secret-host:8080 reset"),
            BridgeErrorKind::UpstreamFailed,
        ),
        (
            "stalled",
            MockBody::new().data(half).never(),
            BridgeErrorKind::UpstreamTimeout,
        ),
    ];
    for (name, body, kind) in cases {
        let (answer, _) = replied(name, limited(), ask("hi"), Reply::ok(body)).await;
        assert_ours(name, &answer, kind);
        assert!(!answer.text().contains("secret-host"), "{}", answer.text());
    }
}
