//! The operator's listener as operators, probes and other people's web pages meet it.

use std::ffi::OsStr;

use axum::{Json, Router, response::IntoResponse};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::{Gateway, KEY, Provider, chat, command, completion, scratch, within};

const LOCAL: [&str; 2] = ["--admin", "127.0.0.1:0"];

#[tokio::test]
async fn health_and_readiness_are_told_to_whoever_asks_by_a_right_name() {
    let gateway = Gateway::start(&[]).await;
    let admin = gateway.admin.expect("the demo has one");
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let (head, answer) = gateway.ask_admin(Method::GET, path, &[]).await;
        assert_eq!((head.status, answer.as_str()), (StatusCode::OK, body));
        let policy = head.headers["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert_eq!(head.headers["cache-control"], "no-store");
        let rebound = [("host", "evil.example")];
        let (head, answer) = gateway.ask_admin(Method::GET, path, &rebound).await;
        assert_eq!(head.status, StatusCode::MISDIRECTED_REQUEST, "{answer}");
        assert!(head.headers.contains_key("content-security-policy"));
    }
    let local = format!("localhost:{}", admin.port());
    let (head, _) = gateway.ask_admin(Method::GET, "/readyz", &[("host", &local)]).await;
    assert_eq!(head.status, StatusCode::OK);
    let (head, _) = gateway.ask_admin(Method::GET, "/nothing", &[]).await;
    assert_eq!(head.status, StatusCode::NOT_FOUND);
    // None of it is on the callers' listener.
    let (status, _) = gateway.send(Method::GET, "/healthz", &[], chat("")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    gateway.signal().await;
    assert_eq!(gateway.end().await.0.code(), Some(0));
}

#[tokio::test]
async fn it_is_not_ready_while_it_drains_and_healthy_all_the_same() {
    let mut provider = Provider::start().await;
    let arguments = [&LOCAL[..], &["--upstream", &provider.url, "--key", KEY]].concat();
    let mut gateway = Gateway::start(&arguments).await;
    let (head, _) = gateway.ask_admin(Method::GET, "/readyz", &[]).await;
    assert_eq!(head.status, StatusCode::OK);
    let asked = gateway.ask_later("hello");
    let call = provider.arrival().await;
    gateway.signal().await;
    gateway.until_logged("draining").await;
    let (head, reason) = gateway.ask_admin(Method::GET, "/readyz", &[]).await;
    assert_eq!(
        (head.status, reason.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    );
    let (head, _) = gateway.ask_admin(Method::GET, "/healthz", &[]).await;
    assert_eq!(head.status, StatusCode::OK);
    call.answer.send(completion("done")).expect("it is waited for");
    assert_eq!(within(asked).await.expect("no panic").0, StatusCode::OK);
    let (status, log, records) = gateway.end().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(records.outcomes().values().sum::<usize>(), 1);
}

#[tokio::test]
async fn it_is_not_ready_without_a_usable_key() {
    let refusal = json!({ "error": { "message": "no", "type": "invalid_request_error", "param": null, "code": "invalid_api_key" } });
    let refuse = || async move { (StatusCode::UNAUTHORIZED, Json(refusal)).into_response() };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(axum::serve(listener, Router::new().fallback(refuse)).into_future());
    let arguments = [&LOCAL[..], &["--upstream", &upstream, "--key", KEY]].concat();
    let gateway = Gateway::start(&arguments).await;
    assert_eq!(gateway.ask("hello").await.0, StatusCode::BAD_GATEWAY);
    let (head, reason) = gateway.ask_admin(Method::GET, "/readyz", &[]).await;
    assert_eq!(
        (head.status, reason.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "no key is usable\n")
    );
    gateway.signal().await;
    assert_eq!(gateway.end().await.0.code(), Some(0));
}

#[tokio::test]
async fn another_address_than_loopback_needs_a_token() {
    let listen = ["--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"];
    let output = within(command(&listen).env_remove("ADMIN_TOKEN").output()).await;
    let output = output.expect("the gateway starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("set ADMIN_TOKEN"), "{stderr}");

    let records = scratch("jsonl");
    let mut command = command(&listen);
    command.env("ADMIN_TOKEN", "tok-0123456789abcdef");
    command.args([OsStr::new("--record"), records.as_os_str()]);
    let gateway = Gateway::spawn(command, records).await;
    let ask = async |method, path, headers: &[(&str, &str)]| gateway.ask_admin(method, path, headers).await.0.status;
    let (right, wrong) = ("Bearer tok-0123456789abcdef", "Bearer tok-0123456789abcdeX");
    assert_eq!(
        ask(Method::GET, "/readyz", &[]).await,
        StatusCode::OK,
        "a probe has no token"
    );
    assert_eq!(ask(Method::GET, "/metrics", &[]).await, StatusCode::UNAUTHORIZED);
    let wrong = [("authorization", wrong)];
    assert_eq!(ask(Method::GET, "/metrics", &wrong).await, StatusCode::UNAUTHORIZED);
    let right = [("authorization", right)];
    assert_eq!(ask(Method::GET, "/metrics", &right).await, StatusCode::OK);
    let cross_site = [("origin", "http://evil.example")];
    assert_eq!(ask(Method::POST, "/metrics", &cross_site).await, StatusCode::FORBIDDEN);
    assert_eq!(
        ask(Method::POST, "/metrics", &right).await,
        StatusCode::METHOD_NOT_ALLOWED
    );
    // With the token in a header, a change needs no Origin: this one lacks its JSON alone.
    assert_eq!(
        ask(Method::POST, "/api/restore", &right).await,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    // A browser logs in and opens the page, whose feed ends with the session.
    let page = format!("http://127.0.0.1:{}", gateway.admin.expect("an address").port());
    let own = ("origin", page.as_str());
    let form = "token=tok-0123456789abcdef";
    let login = gateway.open_admin(Method::POST, "/login", &[own], form).await;
    assert_eq!(login.status(), StatusCode::SEE_OTHER);
    let cookie = login.headers()["set-cookie"].to_str().expect("text");
    let cookie = ("cookie", cookie.split(';').next().expect("a cookie"));
    let feed = gateway.open_admin(Method::GET, "/api/events", &[cookie], "").await;
    assert_eq!(feed.status(), StatusCode::OK);
    let mut feed = feed.into_body();
    within(feed.frame()).await.expect("a snapshot").expect("no error");
    for headers in [&[cookie][..], &[cookie, ("origin", "http://evil.example")]] {
        assert_eq!(ask(Method::POST, "/logout", headers).await, StatusCode::FORBIDDEN);
    }
    assert_eq!(ask(Method::GET, "/metrics", &[cookie]).await, StatusCode::OK);
    assert_eq!(
        ask(Method::POST, "/logout", &[cookie, own]).await,
        StatusCode::SEE_OTHER
    );
    within(feed.collect()).await.expect("an end in order");
    assert_eq!(
        ask(Method::GET, "/api/events", &[cookie]).await,
        StatusCode::UNAUTHORIZED
    );
    gateway.signal().await;
    let (status, log, _) = gateway.end().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("0123456789abcdef"), "{log}");
}
