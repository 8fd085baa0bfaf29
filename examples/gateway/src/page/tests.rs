//! The page's router, asked by browsers and by other people's web pages.

mod past;

use std::{convert::Infallible, time::UNIX_EPOCH};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};
use tower_llm_bridge::{BridgeLayer, RequestBody, pool::KeyState};
use uuid::Uuid;

use super::*;

const KEY: &str = "sk-0123456789abcdefghij";
const HINT: &str = "sk-0...ghij";
const HOST: &str = "ops.example:9000";
const HOSTILE: &str = "</script><img src=x onerror=alert(1)>\r\n\r\ndata: {}\u{2028}'\"; DROP TABLE prompts";

/// An event; `at` is in milliseconds since 1970.
fn event(id: Uuid, sequence: u64, at: u64, fact: Value) -> Event {
    let at = humantime::format_rfc3339_micros(UNIX_EPOCH + std::time::Duration::from_millis(at)).to_string();
    let mut event = json!({ "interception_id": id, "sequence": sequence, "at": at });
    let (Some(event_members), Value::Object(fact)) = (event.as_object_mut(), fact) else {
        panic!("an object")
    };
    event_members.extend(fact);
    serde_json::from_value(event).expect("an event")
}

fn started(model: &str, actor: Option<&str>) -> Value {
    json!({ "event": "started", "provider": "openai", "dialect": "chat_completions", "model": model, "path": "/v1/chat/completions",
        "streaming": false, "initiator_id": actor, "client": "Codex", "credential_kind": "centralized" })
}

fn ended(input: u64, cost: Option<&str>) -> Value {
    let cost = cost.map(|amount| json!({ "amount": amount, "currency": "USD" }));
    json!({ "event": "ended", "outcome": "completed", "status": 200, "credential_hint": HINT, "key_attempts": 1, "rounds": 2,
        "injection": "none", "input": input, "output": 3, "cache_read_input_tokens": 5, "cost": cost, "duration_ms": 1500,
        "time_to_first_token_ms": 300 })
}

/// One whole request that began at `at`.
fn request(at: u64, model: &str, actor: Option<&str>, cost: Option<&str>) -> [Event; 4] {
    let id = Uuid::now_v7();
    let call = json!({ "event": "tool_usage", "msg_id": "m", "tool_call_id": "c", "tool": model, "server": "wiki", "args": {},
        "injected": true, "invocation_error": "broken", "duration_ms": 4 });
    [
        event(id, 0, at, started(model, actor)),
        event(
            id,
            1,
            at,
            json!({ "event": "prompt_usage", "msg_id": "m", "prompt": format!("my secret plan {HOSTILE}") }),
        ),
        event(id, 2, at, call),
        event(id, 3, at + 1500, ended(7, cost)),
    ]
}

fn now() -> u64 {
    ledger::millis(std::time::SystemTime::now())
}

async fn ask(router: &Router, method: Method, path: &str, headers: &[(&str, &str)], body: Value) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, HOST);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    router
        .clone()
        .oneshot(request.body(body).expect("a request"))
        .await
        .expect("an answer")
}

async fn get(router: &Router, path: &str) -> (StatusCode, HeaderMap, String) {
    let (head, body) = ask(router, Method::GET, path, &[], Value::Null).await.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    (
        head.status,
        head.headers,
        String::from_utf8(body.into()).expect("UTF-8"),
    )
}

async fn history(router: &Router, range: &str) -> Value {
    let (status, _, body) = get(router, &format!("/api/history/{range}")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The next message of the feed.
async fn message(feed: &mut Body) -> Value {
    let frame = feed.frame().await.expect("a message").expect("no error");
    let frame = frame.into_data().expect("data");
    let text = std::str::from_utf8(&frame).expect("UTF-8");
    let data = text
        .strip_prefix("retry: 1000\ndata: ")
        .and_then(|text| text.strip_suffix("\n\n"));
    let data = data.unwrap_or_else(|| panic!("not one event: {text}"));
    assert!(!data.contains(['\n', '\r']), "{data}");
    serde_json::from_str(data).expect("JSON")
}

/// A pool whose only key rests for `gpt-4o`.
async fn resting_pool() -> KeyPool {
    let pool = KeyPool::from_secrets([KEY]).expect("a key");
    let provider = service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
        let body = r#"{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
        let answer = Response::builder()
            .status(429)
            .header("retry-after", "600")
            .body(Full::from(body));
        Ok::<_, Infallible>(answer.expect("an answer"))
    });
    let service = BridgeLayer::new().pool(pool.clone()).layer(provider);
    let request = Request::post("/v1/chat/completions").body(Full::from(
        r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}"#,
    ));
    let answer = service.oneshot(request.expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(pool.snapshot()[0].rests.len(), 1);
    pool
}

#[tokio::test]
async fn files_are_whole_and_nothing_in_them_is_inline_or_from_elsewhere() {
    let router = router(Page::new());
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let (status, headers, body) = get(&router, path).await;
        assert_eq!(
            (status, headers["content-type"].as_bytes()),
            (StatusCode::OK, kind.as_bytes())
        );
        assert!(
            headers["content-security-policy"]
                .as_bytes()
                .starts_with(b"default-src 'none'; script-src 'self';")
        );
        assert_eq!(
            (&headers["x-content-type-options"], &headers["cache-control"]),
            (
                &"nosniff".parse().expect("a value"),
                &"no-store".parse().expect("a value")
            )
        );
        let foreign = body.replace("http://www.w3.org/2000/svg", "");
        for forbidden in [
            "http://",
            "https://",
            "//cdn",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!foreign.contains(forbidden), "{path} has {forbidden}");
        }
    }
    let (_, _, html) = get(&router, "/").await;
    for forbidden in [" style=", "<style", " onclick", " onload", "javascript:"] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    assert_eq!(
        html.matches("<script").count(),
        html.matches("<script src=\"page.js\"").count()
    );
    assert_eq!(get(&router, "/nothing").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn it_can_be_mounted_under_a_path_that_ends_with_a_slash() {
    let app = Router::new().nest("/operator/", router(Page::new()));
    for path in ["/operator/", "/operator/page.js", "/operator/api/history/hours"] {
        assert_eq!(get(&app, path).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_gets_everything_once_and_then_what_changes() {
    let page = Page::new().pool("openai", KeyPool::from_secrets([KEY]).expect("a key"));
    let mut observe = page.observer();
    let router = router(page);
    request(now(), "gpt-4o", Some("ada"), Some("0.5"))
        .iter()
        .for_each(&mut observe);
    let answer = ask(&router, Method::GET, "/api/events", &[], Value::Null).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut feed = answer.into_body();
    let all = message(&mut feed).await;
    assert_eq!(all["totals"], json!({ "started": 1, "ended": 1, "running": 0 }));
    assert_eq!(
        (all["running"].clone(), all["has_prompts"].clone()),
        (json!([]), json!(false))
    );
    let row = &all["ended"][0];
    assert_eq!(
        (&row["model"], &row["actor"], &row["key"], &row["tools"]),
        (&json!("gpt-4o"), &json!("ada"), &json!(HINT), &json!(1))
    );
    assert_eq!(
        (&row["input"], &row["cost"], &row["first_token_ms"]),
        (&json!(7), &json!({ "amount": "0.5", "currency": "USD" }), &json!(300))
    );
    assert_eq!(all["pools"][0]["keys"][0]["state"], json!("usable"));
    assert_eq!(
        all["tools"],
        json!([{ "server": "wiki", "tool": "gpt-4o", "calls": 1, "failures": 1, "duration_ms": 4 }])
    );

    let [start, _, _, end] = request(now(), "gpt-4.1", None, None);
    observe(&start);
    let change = message(&mut feed).await;
    assert_eq!(
        (change["running"].as_array().map(Vec::len), &change["ended"]),
        (Some(1), &json!([]))
    );
    assert!(
        change["pools"].is_null() && change["tools"].is_null(),
        "they are as they were"
    );
    observe(&end);
    let change = message(&mut feed).await;
    assert_eq!(
        (&change["running"], &change["ended"][0]["model"]),
        (&json!([]), &json!("gpt-4.1"))
    );
    assert_eq!(change["boot"], all["boot"]);

    // Without a change a comment shows now and then that the connection works.
    let silent_since = tokio::time::Instant::now();
    let frame = feed
        .frame()
        .await
        .expect("a sign")
        .expect("no error")
        .into_data()
        .expect("data");
    assert_eq!(frame, ":\n\n");
    assert_eq!(
        tokio::time::Instant::now()
            .saturating_duration_since(silent_since)
            .as_secs(),
        10
    );
}

#[tokio::test(start_paused = true)]
async fn open_pages_are_bounded_and_a_closed_one_makes_room() {
    let page = Page::new();
    let mut observe = page.observer();
    let router = router(page);
    let mut pages = Vec::new();
    for _ in 0..feed::MAX_PAGES {
        pages.push(ask(&router, Method::GET, "/api/events", &[], Value::Null).await);
    }
    assert_eq!(get(&router, "/api/events").await.0, StatusCode::SERVICE_UNAVAILABLE);
    pages.pop();
    let mut feed = ask(&router, Method::GET, "/api/events", &[], Value::Null)
        .await
        .into_body();
    message(&mut feed).await;
    // Nobody reads from the other pages, so they are disconnected.
    for _ in 0..20 {
        request(now(), "gpt-4o", None, None).iter().for_each(&mut observe);
        message(&mut feed).await;
    }
    let mut abandoned = pages.pop().expect("a page").into_body();
    let mut read = 0;
    while let Some(frame) = abandoned.frame().await {
        frame.expect("no error");
        read += 1;
    }
    assert_eq!(read, 8);
    assert_eq!(
        ask(&router, Method::GET, "/api/events", &[], Value::Null)
            .await
            .status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn what_others_write_is_data_and_prompts_are_not_there_at_all() {
    let page = Page::new();
    let mut observe = page.observer();
    let router = router(page);
    request(now(), HOSTILE, Some(HOSTILE), None)
        .iter()
        .for_each(&mut observe);
    let mut feed = ask(&router, Method::GET, "/api/events", &[], Value::Null)
        .await
        .into_body();
    let all = message(&mut feed).await;
    assert_eq!(
        (&all["ended"][0]["model"], &all["tools"][0]["tool"]),
        (&json!(HOSTILE), &json!(HOSTILE))
    );
    let pictures = history(&router, "hours").await;
    assert_eq!(
        (&pictures["models"][0]["name"], &pictures["source"]),
        (&json!(HOSTILE), &json!("memory"))
    );
    for json in [all, pictures] {
        assert!(!json.to_string().contains("secret plan"), "{json}");
    }
    // An error that is not JSON must not be shown by a browser as a page.
    let (_, headers, _) = get(&router, "/api/history/hours").await;
    assert_eq!(
        (
            headers["content-type"].as_bytes(),
            headers["x-content-type-options"].as_bytes()
        ),
        (&b"application/json"[..], &b"nosniff"[..])
    );
    for path in [
        "/api/prompt/1",
        "/api/prompt/01980000-0000-7000-8000-000000000001",
        "/api/history/years",
    ] {
        assert_eq!(get(&router, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_key_is_restored_by_the_page_itself_and_by_nobody_else() {
    let pool = resting_pool().await;
    let router = router(
        Page::new()
            .pool("openai", pool.clone())
            .pool("other", KeyPool::from_secrets([KEY]).expect("a key")),
    );
    let wish = json!({ "provider": "openai", "hint": HINT });
    let own = format!("http://{HOST}");
    let json_type = ("content-type", "application/json");
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
        let status = ask(
            &router,
            method.clone(),
            "/api/restore",
            &[json_type, ("origin", &own)],
            wish.clone(),
        )
        .await
        .status();
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
    for path in [
        "/",
        "/page.js",
        "/api/events",
        "/api/history/hours",
        "/api/history/days",
        "/api/restore?provider=openai&hint=sk-0...ghij",
    ] {
        ask(&router, Method::GET, path, &[], Value::Null).await;
    }
    for foreign in [
        &[json_type][..],
        &[json_type, ("origin", "null")],
        &[json_type, ("origin", "http://evil.example")],
        &[json_type, ("origin", "http://ops.example:9001")],
        &[json_type, ("origin", "http://evil.example"), ("host", "evil.example")],
        &[json_type, ("origin", &own), ("sec-fetch-site", "cross-site")],
    ] {
        let status = ask(&router, Method::POST, "/api/restore", foreign, wish.clone())
            .await
            .status();
        assert_eq!(status, StatusCode::FORBIDDEN, "{foreign:?}");
    }
    let post = async |headers: &[(&str, &str)], wish: Value| {
        let headers = [&[("origin", own.as_str())], headers].concat();
        ask(&router, Method::POST, "/api/restore", &headers, wish)
            .await
            .status()
    };
    // A form of another site cannot send JSON.
    assert_eq!(
        post(&[("content-type", "text/plain")], wish.clone()).await,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    for wrong in [
        json!({ "provider": "openai", "hint": "sk-9...ghij" }),
        json!({ "provider": HOSTILE, "hint": HINT }),
    ] {
        assert_eq!(post(&[json_type], wrong).await, StatusCode::NOT_FOUND);
    }
    assert!(post(&[json_type], json!({ "hint": HINT })).await.is_client_error());
    assert_eq!(
        post(&[json_type], json!({ "provider": "x".repeat(9000), "hint": HINT })).await,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(pool.snapshot()[0].rests.len(), 1, "nothing of all that restored it");

    let mut feed = ask(&router, Method::GET, "/api/events", &[], Value::Null)
        .await
        .into_body();
    let key = message(&mut feed).await["pools"][0]["keys"][0].clone();
    assert_eq!(
        (&key["hint"], &key["rests"][0]["model"]),
        (&json!(HINT), &json!("gpt-4o"))
    );
    let left = key["rests"][0]["until"].as_u64().expect("a time") - now();
    assert!((590_000..=601_000).contains(&left), "{left}");
    assert_eq!(post(&[json_type], wish).await, StatusCode::OK);
    let key = &pool.snapshot()[0];
    assert_eq!((key.state, key.rests.len()), (KeyState::Usable, 0));
    let change = message(&mut feed).await;
    assert_eq!(change["pools"][0]["keys"][0]["rests"], json!([]));
}
