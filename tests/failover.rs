//! The walk through the keys, end to end: the effect of each of the provider's answers on the key and on the request.

mod support;

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use support::*;
use tokio::time::{Instant, advance};
use tower_llm_bridge::pool::{ApiKey, KeyPool, KeySnapshot, KeyState, Verdict, VerdictTable};
use tower_llm_bridge::tools::Tools;

fn layer(pool: &KeyPool) -> BridgeLayer {
    BridgeLayer::new().pool(pool.clone())
}

/// The pool's state of its keys for the one model of these tests: state, and whole milliseconds left.
fn states(pool: &KeyPool) -> Vec<(KeyState, u128)> {
    let left = |left: Option<Duration>| left.map_or(0, |left| left.as_millis());
    let state = |key: KeySnapshot| match (key.state, key.rests.first()) {
        (KeyState::Usable, Some(rest)) => (KeyState::CoolingDown, rest.time_left.as_millis()),
        _ => (key.state, left(key.time_left)),
    };
    pool.snapshot().into_iter().map(state).collect()
}

const USABLE: (KeyState, u128) = (KeyState::Usable, 0);
const REVOKED: (KeyState, u128) = (KeyState::Revoked, 0);

fn cooling(millis: u128) -> (KeyState, u128) {
    (KeyState::CoolingDown, millis)
}

#[tokio::test(start_paused = true)]
async fn every_refusal_of_a_key_has_its_verdict_and_sends_the_request_to_the_next() {
    let limited = |name, value| Reply::error(429, "rate_limit_exceeded").header(name, value);
    let hour = cooling(3_600_000);
    let minute = cooling(60_000);
    let table = [
        (Reply::error(401, "invalid_api_key"), REVOKED),
        (Reply::new(401, "<html>go away</html>"), USABLE),
        (Reply::error(403, "account_deactivated"), REVOKED),
        (Reply::error(403, "something_new"), USABLE),
        (Reply::new(403, MockBody::new()), USABLE),
        (Reply::error(403, "model_not_found"), USABLE),
        (Reply::error(403, "unsupported_country_region_territory"), USABLE),
        (Reply::error(403, "content_policy_violation"), USABLE),
        (Reply::rate_limited(None), minute),
        (limited("retry-after", "7"), cooling(7_000)),
        (limited("retry-after", "1.5"), cooling(1_500)),
        (limited("retry-after", "Fri, 31 Dec 2100 23:59:59 GMT"), hour),
        (limited("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), USABLE),
        (limited("retry-after", "86400"), hour),
        (limited("retry-after", "1e400"), hour),
        (limited("retry-after", "99999999999999999999999999"), hour),
        (limited("retry-after", "-5"), minute),
        (limited("retry-after", "soon"), minute),
        (limited("retry-after", "NaN"), minute),
        (limited("retry-after", ""), minute),
        (limited("retry-after-ms", "2500.4"), cooling(2_500)),
        (
            limited("retry-after-ms", "2500").header("retry-after", "9"),
            cooling(2_500),
        ),
        (
            limited("retry-after-ms", "x").header("retry-after", "9"),
            cooling(9_000),
        ),
        (Reply::error(429, "insufficient_quota").header("retry-after", "1"), hour),
    ];
    for (refusal, expected) in table {
        let (words, pool) = (format!("{refusal:?}"), pool(2));
        let provider = Provider::queue([refusal, completion("hello").into()]);
        let answer = send(&bridge(&layer(&pool), &provider), ask("hi")).await;
        assert_eq!(answer.status, 200, "{words}");
        assert_eq!(provider.keys(), [KEYS[0], KEYS[1]], "{words}");
        let states = states(&pool);
        assert_eq!((states[0].0, states[1]), (expected.0, USABLE), "{words}");
        // Deadlines are whole milliseconds, rounded up.
        assert!(
            (expected.1..=expected.1 + 1).contains(&states[0].1),
            "{words}: {states:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_about_the_key_goes_on_as_it_is_and_is_asked_for_once() {
    let bodies = [&b"{ \"error\" : {\"code\":null} }\n"[..], b"<html>", b"", b"\xff\xfe\0"];
    for status in [302, 400, 404, 408, 409, 413, 422, 500, 502, 503, 529] {
        for body in bodies {
            let pool = pool(2);
            let reply = Reply::new(status, MockBody::full(body))
                .header("content-type", "text/x")
                .header("retry-after", "3")
                .header("x-request-id", "req-1");
            let provider = Provider::queue([reply]);
            let answer = send(&bridge(&layer(&pool), &provider), ask("hi")).await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (status, body));
            assert_eq!(answer.header("content-type"), Some("text/x"));
            assert_eq!(answer.header("retry-after"), Some("3"));
            assert_eq!(answer.header("x-request-id"), Some("req-1"));
            assert_eq!(provider.calls(), 1);
            assert_eq!(states(&pool), [USABLE, USABLE]);
            assert_eq!(pool.snapshot()[0].counters.accepted, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_key_is_tried_once_in_order_of_preference_however_short_its_cool_down() {
    for millis in ["0", "0.001", "1"] {
        let pool = pool(4);
        let provider = Provider::answering(move |_| {
            Reply::error(429, "rate_limit_exceeded")
                .header("retry-after-ms", millis)
                .after(Duration::from_secs(1))
        });
        let answer = send(&bridge(&layer(&pool), &provider), ask("hi")).await;
        assert_eq!(provider.keys(), KEYS);
        assert_eq!(answer.status, 429);
    }
}

#[tokio::test(start_paused = true)]
async fn a_millisecond_on_the_only_key_ends_the_walk() {
    let pool = pool(1);
    let provider = Provider::queue([Reply::error(429, "rate_limit_exceeded").header("retry-after-ms", "1")]);
    let answer = send(&bridge(&layer(&pool), &provider), ask("hi")).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.error(),
        ("rate_limit_error".into(), Some("rate_limit_exceeded".into()))
    );
    assert_eq!(answer.json()["error"]["param"], json!(null));
    assert_eq!(provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_keys_cool_down_the_provider_is_not_called_and_the_caller_is_told_when() {
    let pool = pool(3);
    let stack = |provider: &Provider| bridge(&layer(&pool), provider);
    let provider = Provider::queue([
        Reply::error(401, "invalid_api_key"),
        Reply::rate_limited(Some("9")),
        Reply::rate_limited(Some("2.2")),
    ]);
    let answer = send(&stack(&provider), ask("hi")).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, Some("3")));

    let silent = Provider::queue::<Reply>([]);
    advance(Duration::from_secs(1)).await;
    let answer = send(&stack(&silent), ask("hi")).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, Some("2")));
    advance(Duration::from_secs(1)).await;
    let answer = send(&stack(&silent), ask("hi")).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, Some("1")));

    advance(Duration::from_millis(201)).await;
    let provider = Provider::queue([completion("hello")]);
    assert_eq!(send(&stack(&provider), ask("hi")).await.status, 200);
    assert_eq!(provider.keys(), [KEYS[2]]);
}

#[tokio::test(start_paused = true)]
async fn revoked_keys_are_the_operators_to_mend_and_nobody_is_called() {
    let pool = pool(2);
    let provider = Provider::queue([
        Reply::error(401, "invalid_api_key"),
        Reply::error(403, "account_deactivated"),
    ]);
    let stack = bridge(&layer(&pool), &provider);
    for _ in 0..3 {
        let answer = send(&stack, ask("hi")).await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.header("retry-after"), None);
        assert_eq!(answer.error(), ("api_error".into(), Some("server_error".into())));
        assert_eq!(provider.calls(), 2);
    }
    assert_eq!(pool.restore_all(), 2);
    let provider = Provider::queue([completion("hello")]);
    assert_eq!(send(&bridge(&layer(&pool), &provider), ask("hi")).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_minute_after_the_last_revocation_one_request_probes() {
    let pool = pool(2);
    let gate = Gate::new();
    let held = gate.clone();
    let mut outage = true;
    let provider = Provider::answering(move |seen| match seen.key() {
        _ if outage => {
            outage = seen.key() != Some(KEYS[1]);
            Reply::error(401, "invalid_api_key")
        }
        // The outage is over, but the first key stays dead.
        Some(key) if key == KEYS[0] => Reply::error(401, "invalid_api_key"),
        _ => Reply::from(completion("hello")).gate(&held),
    });
    let stack = bridge(&layer(&pool), &provider);
    assert_eq!(send(&stack, ask("hi")).await.status, 502);
    advance(Duration::from_millis(59_990)).await;
    assert_eq!(send(&stack, ask("hi")).await.status, 502);
    assert_eq!(provider.calls(), 2);

    advance(Duration::from_millis(20)).await;
    let crowd: Vec<_> = (0..32)
        .map(|_| {
            let stack = stack.clone();
            tokio::spawn(async move { send(&stack, ask("hi")).await.status })
        })
        .collect();
    gate.reached().await;
    assert_eq!(provider.keys()[2..], [KEYS[0], KEYS[1]], "one walk over both keys");
    gate.open();
    let mut statuses = Vec::new();
    for request in crowd {
        statuses.push(request.await.unwrap());
    }
    let served = statuses.iter().filter(|status| **status == StatusCode::OK).count();
    assert_eq!((served, provider.calls()), (1, 4));
    assert_eq!(states(&pool), [REVOKED, USABLE]);
    assert_eq!(send(&stack, ask("hi")).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_model_never_takes_the_pool_down() {
    let pool = pool(2);
    let first = r#"{"error":{"message":"not for you","code":"model_not_found"},  "by": "first"}"#;
    let second = r#"{"error":{"code":"model_not_found"},"by":"second"}"#;
    for _ in 0..100 {
        let provider = Provider::queue([
            Reply::new(403, first).header("x-request-id", "r1"),
            Reply::new(403, second),
        ]);
        let answer = send(&bridge(&layer(&pool), &provider), ask("hi")).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (403, first));
        assert_eq!(answer.header("x-request-id"), Some("r1"));
        assert_eq!(provider.keys(), [KEYS[0], KEYS[1]]);
    }
    assert_eq!(states(&pool), [USABLE, USABLE]);
    assert_eq!(pool.snapshot()[0].counters.next_key, 100);
}

#[tokio::test(start_paused = true)]
async fn a_403_about_the_request_goes_back_only_if_no_key_can_do_better() {
    let forbidden = || Reply::error(403, "model_not_found");
    let table: [(Vec<Reply>, u16); 5] = [
        (vec![forbidden(), completion("hello").into()], 200),
        (vec![forbidden(), Reply::new(500, "oops")], 500),
        (vec![forbidden(), Reply::rate_limited(None)], 403),
        (vec![Reply::rate_limited(None), forbidden()], 403),
        (vec![forbidden(), Reply::error(401, "invalid_api_key")], 403),
    ];
    for (replies, status) in table {
        let words = format!("{replies:?}");
        let provider = Provider::queue(replies);
        let answer = send(&bridge(&layer(&pool(2)), &provider), ask("hi")).await;
        assert_eq!((answer.status.as_u16(), provider.calls()), (status, 2), "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_inside_a_200_is_a_refusal() {
    let pool = pool(3);
    let provider = Provider::queue([
        Reply::ok(r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#).header("retry-after", "5"),
        Reply::ok(r#"{"error":{"message":"who?","code":"invalid_api_key"}}"#),
        completion("hello").into(),
    ]);
    assert_eq!(send(&bridge(&layer(&pool), &provider), ask("hi")).await.status, 200);
    assert_eq!(states(&pool), [cooling(5_000), REVOKED, USABLE]);
}

#[tokio::test(start_paused = true)]
async fn of_two_429s_at_once_one_is_a_transition_and_the_longer_counts() {
    for (first, second) in [("10", "5"), ("5", "10")] {
        let logs = Logs::capture();
        let pool = pool(1);
        let gates = [Gate::new(), Gate::new()];
        let replies = [first, second].map(|value| Reply::rate_limited(Some(value)));
        let provider = Provider::queue(replies.into_iter().zip(&gates).map(|(reply, gate)| reply.gate(gate)));
        let stack = bridge(&layer(&pool), &provider);
        let mut requests = Vec::new();
        for gate in &gates {
            let stack = stack.clone();
            requests.push(tokio::spawn(async move { send(&stack, ask("hi")).await.status }));
            gate.reached().await;
        }
        for (request, gate) in requests.into_iter().zip(&gates) {
            gate.open();
            assert_eq!(request.await.unwrap(), 429);
        }
        let key = &pool.snapshot()[0];
        assert_eq!(states(&pool), [cooling(10_000)]);
        assert_eq!((key.counters.attempts, key.counters.cooled_down), (2, 2));
        assert_eq!(logs.text().matches("model cools down").count(), 1, "{}", logs.text());
    }
}

#[tokio::test(start_paused = true)]
async fn keys_can_be_replaced_while_a_request_uses_one() {
    let key = |index: usize| ApiKey::new(KEYS[index]).unwrap();
    // If the key in use is removed, the walk goes on among the new keys. If it stays, it is not tried twice.
    for (next, keys, last) in [(vec![2], vec![0, 2], USABLE), (vec![2, 0], vec![0, 2], cooling(60_000))] {
        let (pool, gate) = (pool(2), Gate::new());
        let provider = Provider::queue([Reply::rate_limited(None).gate(&gate), completion("hello").into()]);
        let stack = bridge(&layer(&pool), &provider);
        let request = tokio::spawn(async move { send(&stack, ask("hi")).await.status });
        gate.reached().await;
        pool.replace(next.into_iter().map(key)).unwrap();
        gate.open();
        assert_eq!(request.await.unwrap(), 200);
        assert_eq!(
            provider.keys(),
            keys.into_iter().map(|index: usize| KEYS[index]).collect::<Vec<_>>()
        );
        assert_eq!(states(&pool).last(), Some(&last));
    }
    // The answer of a removed key still counts.
    let (pool, gate) = (pool(1), Gate::new());
    let provider = Provider::queue([Reply::from(completion("hello")).gate(&gate)]);
    let stack = bridge(&layer(&pool), &provider);
    let request = tokio::spawn(async move { send(&stack, ask("hi")).await.status });
    gate.reached().await;
    pool.replace([key(3)]).unwrap();
    gate.open();
    assert_eq!(request.await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_table_is_the_users() {
    let table = VerdictTable::empty()
        .rule(StatusCode::PAYMENT_REQUIRED, Verdict::Revoke)
        .rule(
            StatusCode::SERVICE_UNAVAILABLE,
            Verdict::CoolDownFor(Duration::from_secs(5)),
        );
    let pool = pool(3);
    let provider = Provider::queue([
        Reply::error(402, "no_money"),
        Reply::error(503, "overloaded").header("retry-after", "900"),
        Reply::error(401, "invalid_api_key"),
    ]);
    let answer = send(&bridge(&layer(&pool).verdicts(table), &provider), ask("hi")).await;
    assert_eq!(answer.status, 401);
    assert_eq!(states(&pool), [REVOKED, cooling(5_000), USABLE]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_too_long_to_read_is_judged_by_its_status() {
    let word = "x".repeat(64 << 10);
    let long = || MockBody::new().endless(word.clone());
    let slow = || MockBody::new().data(r#"{"error":"#).never();
    for (status, body, expected, seconds) in [
        (401, long(), USABLE, 0),
        (403, long(), USABLE, 0),
        (402, long(), cooling(3_600_000), 0),
        (429, long(), cooling(60_000), 0),
        (401, slow(), USABLE, 5),
        (429, slow(), cooling(60_000), 5),
        (401, MockBody::new().error("cut"), USABLE, 0),
    ] {
        let (pool, start) = (pool(2), Instant::now());
        let provider = Provider::queue([Reply::new(status, body), completion("hello").into()]);
        assert_eq!(send(&bridge(&layer(&pool), &provider), ask("hi")).await.status, 200);
        assert_eq!(states(&pool), [expected, USABLE]);
        let took = Instant::now().saturating_duration_since(start).as_secs();
        assert_eq!(took, seconds, "{status}");
        assert_eq!(provider.busy(), 0, "the refusal's body is gone");
    }
}

#[tokio::test(start_paused = true)]
async fn no_key_is_ever_told() {
    let logs = Logs::capture();
    let (recorder, mut events) = tower_llm_bridge::record::Recorder::channel(64);
    let pool = pool(4);
    let told = |key: &str| format!(r#"{{"error":{{"message":"bad key {key}","code":"{key}","type":"{key}"}}}}"#);
    let layer = layer(&pool).recorder(recorder).tools(Tools::new([echo()]));
    let mut shown = format!("{layer:?} {pool:?} {:?}", pool.snapshot());
    for status in [401, 403, 429, 400, 500, 200] {
        pool.restore_all();
        let provider = Provider::answering(move |seen| {
            let key = seen.key().unwrap_or_default();
            let bearer = format!("Bearer {key}");
            Reply::new(status, told(key))
                .header("x-debug", &bearer)
                .header("x-request-id", "r")
        });
        let stack = bridge(&layer, &provider);
        shown += &format!("{stack:?}");
        let answer = send(&stack, ask("hi")).await;
        assert!(!answer.headers.contains_key("x-debug"), "{answer:?}");
        shown += &format!("{answer:?}");
        let request = http::Request::get("/v1/models").body(MockBody::new()).unwrap();
        shown += &format!("{:?}", send(&stack, request).await.headers);
    }
    let own = tower_llm_bridge::Credential::bearer("sk-callers-0123456789abcdef").unwrap();
    let mut request = ask("hi");
    request.extensions_mut().insert(own);
    shown += &format!("{request:?}");
    let provider = Provider::queue([Reply::fails("cannot send Bearer sk-callers-0123456789abcdef")]);
    shown += &format!("{:?}", send(&bridge(&layer, &provider), request).await);
    shown += &lines(&mut events).join("\n");
    assert!(logs.text().contains("model cools down"), "the log is captured");
    assert!(shown.contains("sk-f...cdef"), "hints are shown");
    for key in KEYS.into_iter().chain(["sk-callers-0123456789abcdef"]) {
        assert!(!shown.contains(key), "{key} in {shown}");
        assert!(!logs.text().contains(key), "{key} in {}", logs.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_has_left_the_pool_is_not_told_either() {
    let pool = pool(1);
    let refused = |key: &str| Reply::error(400, key).header("x-debug", key);
    let replacing = pool.clone();
    let provider = Provider::answering(move |seen| {
        replacing
            .replace([ApiKey::new("sk-other-0123456789abcdef").unwrap()])
            .unwrap();
        refused(seen.key().unwrap_or_default())
    });
    let answer = send(&bridge(&layer(&pool), &provider), ask("hi")).await;
    assert_eq!(answer.status, 400);
    assert!(!format!("{answer:?}").contains(KEYS[0]), "{answer:?}");
    assert!(answer.text().contains("sk-f...cdef"), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_not_sent_is_not_told_either() {
    let (recorder, mut events) = tower_llm_bridge::record::Recorder::channel(64);
    let layer = layer(&pool(2)).recorder(recorder);
    let provider = Provider::queue([
        Reply::ok(completion("hello")).header("x-debug", KEYS[1]),
        Reply::error(400, KEYS[1]).header("x-debug", KEYS[1]),
        Reply::ok("[]").header("x-debug", KEYS[1]),
    ]);
    let stack = bridge(&layer, &provider);
    let models = http::Request::get("/v1/models").body(MockBody::new()).unwrap();
    for (request, status) in [(ask("hi"), 200), (ask("hi"), 400), (models, 200)] {
        let answer = send(&stack, request).await;
        assert_eq!(answer.status, status);
        assert!(!answer.headers.contains_key("x-debug"), "{answer:?}");
        assert!(!answer.text().contains(KEYS[1]), "{answer:?}");
    }
    assert_eq!(provider.keys(), [KEYS[0]; 3], "the second key was never sent");
    let records = lines(&mut events).join("\n");
    assert!(!records.contains(KEYS[1]), "{records}");
}
