//! Real cases in which one caller, or one harmless request, made the pool useless for all, and the headers that could
//! do so.

mod support;

use std::time::Duration;

use http::Request;
use serde_json::json;
use support::*;
use tokio::time::advance;
use tower_llm_bridge::Actor;
use tower_llm_bridge::pool::{ApiKey, KeyPool, KeyState};

fn layer(pool: &KeyPool) -> BridgeLayer {
    BridgeLayer::new().pool(pool.clone())
}

fn all_usable(pool: &KeyPool) -> bool {
    pool.snapshot()
        .iter()
        .all(|key| key.state == KeyState::Usable && key.rests.is_empty())
}

fn get(path: &str) -> Request<MockBody> {
    Request::get(path).body(MockBody::new()).expect("a request")
}

fn model(name: &str) -> Request<MockBody> {
    chat(json!({"model": name, "messages": [{"role": "user", "content": "hi"}]}).to_string())
}

fn by(actor: &str, mut request: Request<MockBody>) -> Request<MockBody> {
    request.extensions_mut().insert(Actor::new(actor));
    request
}

#[tokio::test(start_paused = true)]
async fn a1_a_key_that_may_not_list_models_still_answers() {
    let words = r#"{"error":{"message":"You have insufficient permissions for this operation. Missing scopes: api.model.read.","type":"invalid_request_error","code":null}}"#;
    for status in [401, 403] {
        let pool = pool(2);
        let provider = Provider::answering(move |seen| match seen.uri.path() {
            "/v1/models" => Reply::json(status, words),
            _ => Reply::ok(completion("hello")),
        });
        let stack = bridge(&layer(&pool), &provider);
        let answer = send(&stack, get("/v1/models")).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, words));
        assert_eq!(provider.keys(), [KEYS[0], KEYS[1]]);
        assert_eq!(send(&stack, ask("hi")).await.status, 200);
        assert!(all_usable(&pool));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_key_is_not_revoked_by_a_list_and_its_429_is_about_lists() {
    let pool = pool(2);
    let provider = Provider::answering(|seen| match (seen.uri.path(), seen.key()) {
        ("/v1/models", Some(key)) if key == KEYS[0] => Reply::rate_limited(Some("9")),
        ("/v1/models", _) => Reply::error(401, "invalid_api_key"),
        _ => Reply::ok(completion("hello")),
    });
    let stack = bridge(&layer(&pool), &provider);
    assert_eq!(send(&stack, get("/v1/models")).await.status, 429, "the first answer");
    assert_eq!(send(&stack, get("/v1/models")).await.status, 401, "the first key rests");
    assert_eq!(send(&stack, ask("hi")).await.status, 200);
    assert_eq!(provider.keys(), [KEYS[0], KEYS[1], KEYS[1], KEYS[0]]);
    assert!(all_usable(&pool));
}

#[tokio::test(start_paused = true)]
async fn a2_a_caller_s_organisation_stays_behind() {
    let pool = pool(2);
    let provider = Provider::answering(|seen| match seen.header("openai-organization") {
        Some(_) => Reply::error(401, "mismatched_organization"),
        None => Reply::ok(completion("hello")),
    });
    let stack = bridge(&layer(&pool), &provider);
    let mut request = ask("hi");
    let headers = request.headers_mut();
    headers.insert("openai-organization", "org-of-the-caller".parse().unwrap());
    headers.insert("x-http-method-override", "DELETE".parse().unwrap());
    headers.insert("x-stainless-lang", "python".parse().unwrap());
    headers.insert("x-team", "search".parse().unwrap());
    assert_eq!(send(&stack, request).await.status, 200);
    let seen = provider.last();
    assert_eq!(seen.header("x-stainless-lang"), Some("python"));
    assert_eq!(
        (seen.header("x-http-method-override"), seen.header("x-team")),
        (None, None)
    );

    let stack = bridge(&layer(&pool).forward_headers(["x-team"]).unwrap(), &provider);
    let mut request = ask("hi");
    request.headers_mut().insert("x-team", "search".parse().unwrap());
    send(&stack, request).await;
    assert_eq!(provider.last().header("x-team"), Some("search"));
}

#[tokio::test(start_paused = true)]
async fn a3_a_flagged_prompt_harms_no_key() {
    let words = r#"{"error":{"code":403,"message":"some/model requires moderation. Your input was flagged","metadata":{"reasons":["violence"]}}}"#;
    let pool = pool(2);
    let provider = Provider::answering(move |seen| match seen.text().contains("flagged") {
        true => Reply::json(403, words),
        false => Reply::ok(completion("hello")),
    });
    let stack = bridge(&layer(&pool), &provider);
    for actor in ["alice", "bob", "carol"] {
        let answer = send(&stack, by(actor, ask("flagged"))).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (403, words));
        assert_eq!(send(&stack, by(actor, ask("hi"))).await.status, 200);
    }
    assert!(all_usable(&pool));
}

#[tokio::test(start_paused = true)]
async fn a4_a_prompt_that_is_too_large_harms_no_key() {
    let words = r#"{"error":{"message":"Request too large for gpt-4o in organization o on tokens per min (TPM): Limit 30000, Requested 61337.","type":"tokens","code":"rate_limit_exceeded"}}"#;
    let pool = pool(2);
    let provider = Provider::answering(move |_| Reply::json(429, words));
    let answer = send(&bridge(&layer(&pool), &provider), ask("long")).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (429, words));
    assert!(all_usable(&pool));
}

#[tokio::test(start_paused = true)]
async fn a5_a_limit_is_about_one_model() {
    let pool = pool(2);
    let provider = Provider::queue([
        Reply::rate_limited(Some("60")),
        Reply::ok(completion("hello")),
        Reply::ok(completion("hello")),
    ]);
    let stack = bridge(&layer(&pool), &provider);
    for name in ["big", "small"] {
        assert_eq!(send(&stack, model(name)).await.status, 200);
    }
    assert_eq!(provider.keys(), [KEYS[0], KEYS[1], KEYS[0]]);
}

#[tokio::test(start_paused = true)]
async fn keys_of_one_organisation_are_not_tried_one_after_the_other() {
    let pool = pool(3);
    let provider = Provider::answering(|seen| {
        let reply = match seen.key() {
            Some(key) if key == KEYS[2] => Reply::ok(completion("hello")),
            _ => Reply::rate_limited(Some("60")),
        };
        let organisation = if seen.key() == Some(KEYS[2]) { "org-2" } else { "org-1" };
        reply.header("openai-organization", organisation)
    });
    let stack = bridge(&layer(&pool), &provider);
    let answer = send(&stack, ask("hi")).await;
    assert_eq!(answer.header("openai-organization"), None);
    assert_eq!(provider.keys(), KEYS[..3], "nothing is known yet");
    assert_eq!(pool.snapshot()[1].domain.as_deref(), Some("org-1"));
    advance(Duration::from_secs(60)).await;
    send(&stack, ask("hi")).await;
    assert_eq!(provider.keys()[3..], [KEYS[0], KEYS[2]]);
}

/// The answer that uses up a limit shows it, whole or streamed.
#[tokio::test(start_paused = true)]
async fn a_success_that_takes_the_last_of_a_limit_sends_the_next_to_another_key() {
    for streamed in [false, true] {
        let pool = pool(2);
        let provider = Provider::answering(move |_| {
            let reply = match streamed {
                true => Reply::events(format!("{CHUNK}data: [DONE]\n\n")),
                false => Reply::ok(completion("hello")),
            };
            reply
                .header("openai-organization", "org-1")
                .header("x-ratelimit-remaining-requests", "0")
                .header("x-ratelimit-reset-requests", "30s")
        });
        let stack = bridge(&layer(&pool), &provider);
        let asked = || if streamed { ask_streamed("hi") } else { ask("hi") };
        send(&stack, asked()).await;
        assert_eq!(pool.snapshot()[0].domain.as_deref(), Some("org-1"));
        send(&stack, asked()).await;
        advance(Duration::from_secs(30)).await;
        send(&stack, asked()).await;
        assert_eq!(provider.keys(), [KEYS[0], KEYS[1], KEYS[0]], "{streamed}");
    }
}

/// Only an answer that a dead key cannot get restores the key.
#[tokio::test(start_paused = true)]
async fn a_provider_that_fails_restores_no_key() {
    let pool = pool(1);
    let statuses = [401, 500, 529, 400];
    let provider = Provider::queue(statuses.map(|status| match status {
        401 => Reply::error(401, "invalid_api_key"),
        status => Reply::error(status, "other"),
    }));
    let stack = bridge(&layer(&pool), &provider);
    for (status, told, state) in [
        (401, 502, KeyState::Revoked),
        (500, 500, KeyState::Revoked),
        (529, 529, KeyState::Revoked),
        (400, 400, KeyState::Usable),
    ] {
        assert_eq!(send(&stack, ask("hi")).await.status, told, "{status}");
        assert_eq!(pool.snapshot()[0].state, state, "{status}");
        advance(Duration::from_secs(61)).await;
    }
}

/// The error's body may differ in length from the one that the success announced.
#[tokio::test(start_paused = true)]
async fn an_error_inside_a_success_keeps_no_length_of_it() {
    let words = r#"{"error":{"message":"m","code":"model_not_found"}}"#;
    let provider = Provider::answering(move |_| Reply::json(200, words).header("content-length", "999"));
    let answer = send(&bridge(&layer(&pool(1)), &provider), ask("hi")).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (403, words));
    assert_ne!(answer.header("content-length"), Some("999"));
}

/// Servers that need no real key get a dummy, which any text may contain.
#[tokio::test(start_paused = true)]
async fn a_dummy_key_is_not_looked_for_in_answers() {
    let pool = KeyPool::new([ApiKey::new("x").unwrap(), ApiKey::new("none").unwrap()]).unwrap();
    let words = r#"{"error":{"message":"none of max_tokens, n"}}"#;
    let provider = Provider::answering(move |_| Reply::json(400, words).header("x-powered-by", "express"));
    let answer = send(&bridge(&layer(&pool), &provider), ask("hi")).await;
    assert_eq!((answer.text(), answer.header("x-powered-by")), (words, Some("express")));
}

#[tokio::test(start_paused = true)]
async fn a_suspected_key_is_left_alone_once_two_actors_agree() {
    let pool = pool(2);
    let provider = Provider::answering(|seen| match seen.key() {
        Some(key) if key == KEYS[0] => Reply::error(403, "something_new"),
        _ => Reply::ok(completion("hello")),
    });
    let stack = bridge(&layer(&pool), &provider);
    for actor in ["alice", "alice", "alice", "bob", "carol"] {
        assert_eq!(send(&stack, by(actor, ask("hi"))).await.status, 200);
    }
    assert_eq!(pool.snapshot()[0].state, KeyState::Suspected);
    assert_eq!(provider.calls(), 4 * 2 + 1);
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_refused_before_their_first_event_go_on_to_the_next_key() {
    let event = |code: &str| format!("data: {{\"error\":{{\"message\":\"m\",\"code\":\"{code}\"}}}}\n\n");
    let chunks = format!("{CHUNK}data: [DONE]\n\n");
    let refusals = [
        (Reply::rate_limited(Some("60")), false),
        (Reply::error(401, "invalid_api_key"), true),
        (Reply::new(403, "<html>firewall</html>"), false),
        (Reply::error(403, "model_not_found"), false),
        (Reply::events(event("rate_limit_exceeded")), false),
        (Reply::events(event("insufficient_quota")), false),
        (Reply::events(event("invalid_api_key")), true),
        (
            Reply::events(format!(": comment\n\n{}", event("rate_limit_exceeded"))),
            false,
        ),
        (
            Reply::ok(r#"{"error":{"message":"m","code":"rate_limit_exceeded"}}"#),
            false,
        ),
    ];
    for (refusal, is_revoked) in refusals {
        let (words, pool) = (format!("{refusal:?}"), pool(2));
        let provider = Provider::queue([refusal, Reply::events(chunks.clone())]);
        let answer = send(&bridge(&layer(&pool), &provider), ask_streamed("hi")).await;
        assert_eq!(answer.status, 200, "{words}");
        assert!(
            answer.text().contains("\"x\"") && !answer.text().contains("error"),
            "{words}"
        );
        assert_eq!(provider.keys(), [KEYS[0], KEYS[1]], "{words}");
        assert_eq!(pool.snapshot()[0].state == KeyState::Revoked, is_revoked, "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn conversations_spread_over_equal_keys_and_keep_theirs() {
    let keys = KEYS.map(|key| ApiKey::new(key).unwrap().rank(0));
    let pool = KeyPool::new(keys).unwrap();
    let provider = Provider::answering(|_| Reply::ok(completion("hello")));
    let stack = bridge(&layer(&pool), &provider);
    let mut used = std::collections::HashSet::new();
    for session in 0..20 {
        for _ in 0..2 {
            let body = json!({
                "model": "gpt-4o",
                "prompt_cache_key": format!("session-{session}"),
                "messages": [{"role": "user", "content": "hi"}],
            });
            send(&stack, chat(body.to_string())).await;
        }
        let keys = provider.keys();
        assert_eq!(keys[keys.len() - 1], keys[keys.len() - 2]);
        used.insert(keys.last().unwrap().clone());
    }
    assert!(used.len() > 2, "{used:?}");
}

#[tokio::test(start_paused = true)]
async fn a_get_goes_out_without_content_and_answers_keep_their_connection_to_themselves() {
    let pool = pool(1);
    let provider = Provider::answering(|_| {
        Reply::ok("{}")
            .header("alt-svc", "h3=\":443\"")
            .header("anthropic-organization-id", "org")
            .header("x-request-id", "r")
    });
    let stack = bridge(&layer(&pool), &provider);
    let hidden = "DELETE /v1/files/f HTTP/1.1\r\n\r\n";
    let request = Request::get("/v1/models").body(MockBody::full(hidden)).unwrap();
    let answer = send(&stack, request).await;
    assert_eq!(
        (&*provider.last().body, provider.last().header("content-length")),
        (&b""[..], None)
    );
    assert_eq!(answer.header("x-request-id"), Some("r"));
    assert_eq!(
        (answer.header("alt-svc"), answer.header("anthropic-organization-id")),
        (None, None)
    );
}

// === Anthropic's Messages ===

const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"hello"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":10,"output_tokens":5}}"#;

fn messages(path: &str) -> Request<MockBody> {
    let body = json!({"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    Request::post(path)
        .header("content-type", "application/json")
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-workspace-id", "of-the-caller")
        .body(body.to_string().into())
        .expect("a request")
}

/// An error in Anthropic's shape.
fn anthropic(status: u16, kind: &str, message: &str, code: Option<&str>) -> Reply {
    let mut error = json!({"type": kind, "message": message});
    if let Some(code) = code {
        error["details"] = json!({"error_code": code});
    }
    Reply::json(
        status,
        json!({"type": "error", "error": error, "request_id": "req_1"}).to_string(),
    )
}

#[tokio::test(start_paused = true)]
async fn anthropic_s_refusals_have_their_verdicts() {
    let hour = Some(Duration::from_secs(3_600));
    let (usable, revoked, resting) = (KeyState::Usable, KeyState::Revoked, KeyState::CoolingDown);
    let table = [
        (
            anthropic(401, "authentication_error", "invalid x-api-key", None),
            revoked,
            None,
            None,
        ),
        (
            anthropic(401, "authentication_error", "CORS requests must set a header", None),
            usable,
            None,
            None,
        ),
        (anthropic(402, "billing_error", "no credit", None), resting, hour, None),
        (
            anthropic(403, "permission_error", "on hold", Some("organization_on_hold")),
            revoked,
            None,
            None,
        ),
        (
            anthropic(403, "permission_error", "not for this model", None),
            usable,
            None,
            None,
        ),
        (Reply::new(403, "<html>firewall</html>"), usable, None, None),
        (
            anthropic(429, "rate_limit_error", "spent", Some("enforced_spend_limit_reached")),
            resting,
            hour,
            None,
        ),
        (
            anthropic(429, "rate_limit_error", "slow", None).header("retry-after", "7"),
            usable,
            None,
            Some(7),
        ),
        (anthropic(429, "rate_limit_error", "slow", None), usable, None, Some(60)),
    ];
    for (refusal, state, left, rests) in table {
        let (words, pool) = (format!("{refusal:?}"), pool(2));
        let provider = Provider::queue([refusal, Reply::ok(MESSAGE)]);
        let answer = send(&bridge(&layer(&pool), &provider), messages("/v1/messages")).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, MESSAGE), "{words}");
        let seen = provider.last();
        assert_eq!(
            (seen.header("x-api-key"), seen.header("authorization")),
            (Some(KEYS[1]), None)
        );
        assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
        assert_eq!(seen.header("anthropic-workspace-id"), None);
        let key = &pool.snapshot()[0];
        assert_eq!((key.state, key.time_left), (state, left), "{words}");
        let rest = key.rests.first().map(|rest| rest.time_left.as_secs());
        assert_eq!(rest, rests, "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn counting_tokens_speaks_against_no_key() {
    let pool = pool(2);
    let provider = Provider::answering(|seen| match (seen.uri.path(), seen.header("x-api-key")) {
        ("/v1/messages", _) => Reply::ok(MESSAGE),
        (_, Some(key)) if key == KEYS[0] => anthropic(429, "rate_limit_error", "slow", None),
        _ => anthropic(401, "authentication_error", "invalid x-api-key", None),
    });
    let stack = bridge(&layer(&pool), &provider);
    for status in [429, 401] {
        let answer = send(&stack, messages("/v1/messages/count_tokens")).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "the first answer of the keys that do not rest"
        );
    }
    assert_eq!(send(&stack, messages("/v1/messages")).await.status, 200);
    assert_eq!(provider.last().header("x-api-key"), Some(KEYS[0]));
    assert!(all_usable(&pool));
}
