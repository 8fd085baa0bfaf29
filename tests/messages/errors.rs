//! Errors: ours in the API's shape, the provider's unchanged, and the effect of each on a key.

use serde_json::json;
use tower_llm_bridge::Intercepted;

use crate::support::*;
use crate::words::*;

/// M15: an error of ours has the API's shape, with the interception's id in the body and in a header.
#[tokio::test(start_paused = true)]
async fn m15_our_errors_are_the_apis() {
    let layer = BridgeLayer::new().pool(pool(1));
    let check = |answer: &Answer, status: u16, kind: &str| {
        assert_eq!(answer.status, status, "{:?}", answer.body);
        let body = answer.json();
        assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(kind)));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        if let Some(known) = answer.extensions.get::<Intercepted>() {
            assert_eq!(body["request_id"], known.id().to_string());
            assert_eq!(answer.header("request-id"), body["request_id"].as_str());
        }
        body
    };
    let none: [Reply; 0] = [];
    let (_, answer) = converse(&layer, messages(&json!({"model": 1})), none).await;
    let body = check(&answer, 400, "invalid_request_error");
    assert!(body["error"]["message"].as_str().unwrap().contains("model"), "{body}");

    let mut request = messages(&question(false));
    request
        .headers_mut()
        .insert("content-encoding", "zstd".parse().unwrap());
    let none: [Reply; 0] = [];
    let (_, answer) = converse(&layer, request, none).await;
    let body = check(&answer, 415, "invalid_request_error");
    assert_eq!(
        body["error"]["details"]["error_code"],
        "request_body_encoding_unsupported"
    );

    let none: [Reply; 0] = [];
    let small = layer.clone().max_request_body(10);
    let (_, answer) = converse(&small, messages(&question(false)), none).await;
    check(&answer, 413, "request_too_large");

    let none: [Reply; 0] = [];
    let (_, answer) = converse(&BridgeLayer::new(), messages(&question(false)), none).await;
    check(&answer, 401, "authentication_error");

    let (_, answer) = converse(
        &layer,
        messages(&question(false)),
        [Reply::fails("refused by 10.1.2.3")],
    )
    .await;
    let body = check(&answer, 502, "api_error");
    assert!(!body.to_string().contains("10.1.2.3"));

    let layer = BridgeLayer::new().pool(pool(1));
    let limited = refusal(429, "rate_limit_error").header("retry-after", "7");
    let (_, answer) = converse(&layer, messages(&question(false)), [limited]).await;
    check(&answer, 429, "rate_limit_error");
    assert_eq!(answer.header("retry-after"), Some("7"));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_limited_or_dead_is_followed_by_the_next() {
    for (status, kind) in [
        (429, "rate_limit_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
    ] {
        let replies = [refusal(status, kind), Reply::from(words("x").to_string())];
        let (seen, answer) = converse(&BridgeLayer::new().pool(pool(2)), messages(&question(false)), replies).await;
        assert_eq!(
            (answer.status.as_u16(), keys(&seen)),
            (200, vec![KEYS[0], KEYS[1]]),
            "{kind}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_about_the_service_is_the_callers_at_once() {
    for (status, kind) in [
        (529, "overloaded_error"),
        (500, "api_error"),
        (400, "invalid_request_error"),
    ] {
        let reply = refusal(status, kind)
            .header("x-should-retry", "true")
            .header("request-id", "req_1");
        let (seen, answer) = converse(&BridgeLayer::new().pool(pool(2)), messages(&question(false)), [reply]).await;
        assert_eq!((answer.status.as_u16(), seen.len()), (status, 1));
        assert_eq!(answer.text(), error(kind));
        assert_eq!(answer.header("x-should-retry"), Some("true"));
        assert_eq!(answer.header("request-id"), Some("req_1"));
    }
}

/// M24: a firewall's page says nothing about a key, and reaches the caller unchanged.
#[tokio::test(start_paused = true)]
async fn m24_a_firewalls_page_is_not_about_the_key() {
    let page = || Reply::new(403, "<html>blocked</html>").header("content-type", "text/html");
    let keys = pool(1);
    let layer = BridgeLayer::new().pool(keys.clone());
    let provider = Provider::queue([page(), Reply::from(words("x").to_string())]);
    let stack = bridge(&layer, &provider);
    let answer = send(&stack, messages(&question(false))).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (403, "<html>blocked</html>"));
    assert_eq!(
        send(&stack, messages(&question(false))).await.status,
        200,
        "the key is as good as before"
    );
}

/// Until something is shown, an error inside a success is treated as the error response that it would have been.
#[tokio::test(start_paused = true)]
async fn an_error_before_the_first_event_shown_fails_over_or_has_its_status() {
    let start = events(&words("x"))[0].clone();
    let failed = |kind: &str| Reply::events(format!("{start}{PING}event: error\ndata: {}\n\n", error(kind)));
    let layer = || BridgeLayer::new().pool(pool(2));

    let replies = [failed("rate_limit_error"), stream(&words("x"))];
    let (seen, answer) = converse(&layer(), messages(&question(true)), replies).await;
    assert_eq!((seen.len(), answer.text()), (2, &*events(&words("x")).concat()));

    let (seen, answer) = converse(&layer(), messages(&question(true)), [failed("overloaded_error")]).await;
    assert_eq!((seen.len(), answer.status.as_u16()), (1, 529));
    assert_eq!(answer.text(), error("overloaded_error"));
}

#[tokio::test(start_paused = true)]
async fn an_error_after_the_first_event_shown_ends_the_stream() {
    let shown = events(&words("x"))[..3].concat();
    let failed = format!("event: error\ndata: {}\n\n", error("overloaded_error"));
    let reply = Reply::events(format!("{shown}{failed}"));
    let (_, answer) = converse(&BridgeLayer::new().pool(pool(2)), messages(&question(true)), [reply]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (200, &*format!("{shown}{failed}"))
    );

    // M19: so does a cut.
    let body = MockBody::new().data(shown.clone()).error("reset by 10.1.2.3");
    let (_, answer) = converse(
        &BridgeLayer::new().pool(pool(2)),
        messages(&question(true)),
        [Reply::events(body)],
    )
    .await;
    let told = answer.text().strip_prefix(&shown).unwrap();
    assert!(
        told.starts_with("event: error\ndata: {") && told.contains(r#""type":"api_error""#),
        "{told}"
    );
    assert!(!told.contains("message_stop") && !told.contains("10.1.2.3"));
}
