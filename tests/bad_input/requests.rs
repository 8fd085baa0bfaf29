//! Requests of callers that are invalid, too long, or odd and yet valid.

use super::*;

#[tokio::test(start_paused = true)]
async fn bodies_that_are_no_request_are_told_what_is_wrong_with_them() {
    let deep = request_of(200);
    let cases: &[(&str, &[u8], Option<&str>)] = &[
        ("empty", b"", None),
        ("blank", b" \r\n\t", None),
        ("no JSON", b"hello", None),
        ("a form", b"model=m&messages=", None),
        ("a list", b"[]", None),
        ("a string", br#""x""#, None),
        ("null", b"null", None),
        ("a number", b"1", None),
        ("cut", br#"{"model":"m","messages":["#, None),
        ("cut in a string", br#"{"model":"m"#, None),
        ("more behind it", br#"{"model":"m","messages":[]}{"#, None),
        ("a NUL behind it", b"{\"model\":\"m\",\"messages\":[]}\0", None),
        (
            "a byte order mark",
            b"\xEF\xBB\xBF{\"model\":\"m\",\"messages\":[]}",
            None,
        ),
        ("a comment", br#"{"model":"m",/**/"messages":[]}"#, None),
        ("a trailing comma", br#"{"model":"m","messages":[],}"#, None),
        ("single quotes", br"{'model':'m','messages':[]}", None),
        ("no number", br#"{"model":"m","messages":[],"n":01}"#, None),
        ("NaN", br#"{"model":"m","messages":[],"n":NaN}"#, None),
        ("a raw line break", b"{\"model\":\"m\n\",\"messages\":[]}", None),
        ("an unknown escape", br#"{"model":"\x41","messages":[]}"#, None),
        ("too deep", deep.as_bytes(), None),
        ("no UTF-8", b"{\"model\":\"\xFF\",\"messages\":[]}", None),
        ("overlong UTF-8", b"{\"model\":\"\xC0\xAF\",\"messages\":[]}", None),
        (
            "a surrogate in UTF-8",
            b"{\"model\":\"\xED\xA0\x80\",\"messages\":[]}",
            None,
        ),
        ("UTF-16", b"{\0\"\0m\0\"\0:\x001\0}\0", None),
        ("a lone high surrogate", br#"{"model":"\ud800","messages":[]}"#, None),
        ("a lone low surrogate", br#"{"model":"m","messages":["\udc00x"]}"#, None),
        (
            "surrogates the wrong way",
            br#"{"model":"m","messages":["\udc00\ud800"]}"#,
            None,
        ),
        ("model twice", br#"{"model":"m","messages":[],"model":"n"}"#, None),
        (
            "model twice, escaped",
            br#"{"model":"m","messages":[],"mod\u0065l":"n"}"#,
            None,
        ),
        (
            "model twice, escaped otherwise",
            br#"{"\u006Dodel":"m","messages":[],"\u006dodel":"n"}"#,
            None,
        ),
        ("messages twice", br#"{"model":"m","messages":[],"messages":[]}"#, None),
        (
            "tools twice",
            br#"{"model":"m","messages":[],"tools":[],"tools":null}"#,
            None,
        ),
        (
            "any name twice",
            br#"{"model":"m","messages":[],"a/b":1,"a\/b":1}"#,
            None,
        ),
        (
            "the empty name twice",
            br#"{"model":"m","messages":[],"":1,"":2}"#,
            None,
        ),
        ("no model", br#"{"messages":[]}"#, Some("model")),
        ("an empty object", br"{}", Some("model")),
        ("model null", br#"{"model":null,"messages":[]}"#, Some("model")),
        ("model a number", br#"{"model":4,"messages":[]}"#, Some("model")),
        ("model a list", br#"{"model":["m"],"messages":[]}"#, Some("model")),
        ("no messages", br#"{"model":"m"}"#, Some("messages")),
        ("messages null", br#"{"model":"m","messages":null}"#, Some("messages")),
        (
            "messages a string",
            br#"{"model":"m","messages":"hi"}"#,
            Some("messages"),
        ),
        (
            "messages an object",
            br#"{"model":"m","messages":{"0":1}}"#,
            Some("messages"),
        ),
        (
            "stream a string",
            br#"{"model":"m","messages":[],"stream":"true"}"#,
            Some("stream"),
        ),
        (
            "stream a number",
            br#"{"model":"m","messages":[],"stream":1}"#,
            Some("stream"),
        ),
        (
            "stream options a list",
            br#"{"model":"m","messages":[],"stream":true,"stream_options":[]}"#,
            Some("stream_options"),
        ),
    ];
    let provider = hello();
    let stack = bridge(&with_echo(), &provider);
    for (name, body, param) in cases {
        for body in [MockBody::full(body.to_vec()), MockBody::bytewise(body.to_vec())] {
            let answer = send(&stack, chat(body)).await;
            let error = assert_ours(name, &answer, BridgeErrorKind::RequestInvalid);
            assert_eq!(error["type"], "invalid_request_error", "{name}");
            assert_eq!(error["param"].as_str(), *param, "{name}");
        }
        assert_eq!(provider.calls(), 0, "{name}");
    }
    assert_works("the next request", &send(&stack, ask("hi")).await);
}

#[tokio::test(start_paused = true)]
async fn what_only_looks_bad_is_the_providers_to_judge() {
    let deep = request_of(100);
    let cases: &[(&str, &[u8])] = &[
        (
            "a name twice further down",
            br#"{"model":"m","messages":[{"a":1,"a":2}]}"#,
        ),
        ("a surrogate pair", br#"{"model":"\ud83d\ude00","messages":[]}"#),
        ("a huge number", br#"{"model":"m","messages":[],"seed":1e400}"#),
        ("an empty model", br#"{"model":"","messages":[]}"#),
        (
            "messages of no shape",
            br#"{"model":"m","messages":[1,null,"x",{"role":7}]}"#,
        ),
        ("tools of no shape", br#"{"model":"m","messages":[],"tools":"x"}"#),
        (
            "tools in a list of no shape",
            br#"{"model":"m","messages":[],"tools":[1,{"function":7}]}"#,
        ),
        ("n of no shape", br#"{"model":"m","messages":[],"n":[]}"#),
        (
            "stream null",
            br#"{"model":"m","messages":[],"stream":null,"stream_options":7}"#,
        ),
        ("deep, but not too deep", deep.as_bytes()),
        ("a NUL, escaped", br#"{"model":"\u0000","messages":[]}"#),
    ];
    let provider = hello();
    let stack = bridge(&with_echo(), &provider);
    for (place, (name, body)) in cases.iter().enumerate() {
        assert_works(name, &send(&stack, chat(MockBody::bytewise(body.to_vec()))).await);
        assert_eq!(provider.calls(), place + 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_json_by_its_headers_is_refused_with_advice() {
    let refused = [
        ("content-type", "text/plain"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-type", "multipart/form-data; boundary=x"),
        ("content-type", "application/jsonp"),
        ("content-type", "text/json"),
        ("content-type", "json"),
        ("content-encoding", "gzip"),
        ("content-encoding", "BR"),
        ("content-encoding", "zstd"),
        ("content-encoding", "identity, gzip"),
        ("content-encoding", "unheard-of"),
    ];
    let provider = hello();
    let stack = bridge(&limited(), &provider);
    let with = |name: &'static str, value: &'static str| {
        let mut request = ask("hi");
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        request
    };
    for (name, value) in refused {
        let answer = send(&stack, with(name, value)).await;
        let error = assert_ours(value, &answer, BridgeErrorKind::RequestUnsupported);
        let advice = error["message"].as_str().unwrap_or_default();
        let expected = if name == "content-type" {
            "application/json"
        } else {
            "RequestDecompressionLayer"
        };
        assert!(advice.contains(expected), "{value}: {advice}");
    }
    assert_eq!(provider.calls(), 0);
    let taken = [
        ("content-type", "application/json; charset=utf-8"),
        ("content-type", "APPLICATION/JSON"),
        ("content-type", "application/vnd.api+json"),
        ("content-encoding", "identity"),
        ("content-encoding", ""),
    ];
    for (name, value) in taken {
        assert_works(value, &send(&stack, with(name, value)).await);
    }
    let mut request = ask("hi");
    request.headers_mut().remove(header::CONTENT_TYPE);
    assert_works("no content type", &send(&stack, request).await);
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_refused_before_more_of_it_is_read() {
    let piece = Bytes::from(vec![b' '; 512]);
    let many = |count: usize| (0..count).fold(MockBody::new(), |body, _| body.data(piece.clone()));
    let claim = |body: MockBody, lower: u64| {
        let mut size = SizeHint::new();
        size.set_lower(lower);
        body.claims(size)
    };
    // The most bytes that may be read: the limit, the piece that exceeds it, and the bytes that are discarded so that
    // the caller can read the answer.
    let most = 2 * LIMIT + 2 * piece.len();
    let cases = [
        ("one frame", MockBody::full(vec![b' '; LIMIT + 1])),
        ("one frame of much more", MockBody::new().data(vec![b' '; LIMIT + 1])),
        ("many frames", many(9)),
        ("endless", MockBody::new().endless(piece.clone())),
        (
            "endless, and claims to be short",
            MockBody::new().endless(piece.clone()).claims(SizeHint::with_exact(10)),
        ),
        (
            "endless, and claims to be long",
            claim(MockBody::new().endless(piece.clone()), u64::MAX),
        ),
        ("claims to be long, and is not", claim(many(1), LIMIT as u64 + 1)),
        (
            "claims to be long, and stalls",
            claim(MockBody::new().never(), LIMIT as u64 + 1),
        ),
        ("goes on after it was refused, and stalls", many(9).never()),
    ];
    let provider = hello();
    let stack = bridge(&limited(), &provider);
    for (name, body) in cases {
        let pulled = Pulled::default();
        let request = chat(body.counted(&pulled));
        let response = stack.clone().oneshot(request).await.unwrap();
        let error = assert_ours(name, &answer(response).await, BridgeErrorKind::RequestTooLarge);
        assert_eq!(error["type"], "invalid_request_error");
        assert!(pulled.bytes() <= most, "{name}: {pulled:?}");
    }
    assert_eq!(provider.calls(), 0);
    // The limit itself is allowed.
    let body = format!("{:width$}", asked("hi"), width = LIMIT);
    assert_works("at the limit", &send(&stack, chat(body)).await);
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_that_is_sending_gets_to_read_why() {
    const PIECES: usize = 9;
    const PIECE: usize = LIMIT / 4;
    let stack = bridge(&limited(), &hello());
    for (name, expects, is_json, claims, least) in [
        ("too long", false, true, false, LIMIT + 2 * PIECE),
        ("no JSON", false, false, false, LIMIT),
        // It got its `100 Continue` when its body was read.
        ("too long, told to go on", true, true, false, LIMIT + 2 * PIECE),
        ("claims to be too long, waits", true, true, true, 0),
        ("no JSON, waits", true, false, false, 0),
    ] {
        let mut body = MockBody::new();
        for _ in 0..PIECES {
            body = body.data(vec![b' '; PIECE]);
        }
        if claims {
            body = body.claims(SizeHint::with_exact((PIECES * PIECE) as u64));
        }
        let sent = Pulled::default();
        let mut request = chat(body.counted(&sent));
        if expects {
            let value = HeaderValue::from_static("100-continue");
            request.headers_mut().insert(header::EXPECT, value);
        }
        if !is_json {
            let value = HeaderValue::from_static("text/plain");
            request.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        let response = stack.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), if is_json { 413 } else { 415 }, "{name}");
        let sent = sent.bytes();
        assert!(least <= sent, "{name}: {sent}");
        assert!(least > 0 || sent == 0, "{name}: {sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_told_so() {
    let provider = hello();
    let stack = bridge(&limited(), &provider);
    for body in [
        MockBody::new().error("reset"),
        MockBody::new().data(r#"{"model":"#).error("reset"),
        MockBody::new().data(asked("hi")).error("reset after the last byte"),
        MockBody::new().data(asked("hi")).pending().error("reset"),
    ] {
        let answer = send(&stack, chat(body)).await;
        let error = assert_ours("broken", &answer, BridgeErrorKind::RequestUnreadable);
        assert!(
            !error["message"].as_str().unwrap_or_default().contains("reset"),
            "{error}"
        );
    }
    assert_eq!(provider.calls(), 0);
    assert_works("the next request", &send(&stack, ask("hi")).await);
}

#[tokio::test(start_paused = true)]
async fn a_body_in_thousands_of_tiny_pieces_is_read_like_any_other() {
    let provider = hello();
    let stack = bridge(&limited().max_request_body(1 << 20), &provider);
    let body = asked(&"x".repeat(100_000));
    assert_works(
        "tiny pieces",
        &send(&stack, chat(MockBody::bytewise(body.clone()))).await,
    );
    assert_eq!(provider.last().text(), body);
    assert!(
        provider.last().pieces.len() < 2_000,
        "{} pieces",
        provider.last().pieces.len()
    );
}
