//! The gateway as its users meet it: a process with a command line, sockets, signals and a record file.
//!
//! Nothing here waits for a time to pass: every step waits for what the step before causes, and [`within`] only keeps
//! a failure from hanging.
#![cfg(unix)]

mod admin;
mod dialects;
mod harness;
mod limits;
mod metrics;
mod records;
mod targets;

use std::{collections::BTreeMap, ffi::OsStr, fs};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{
    Body, CHAT, Gateway, KEY, Provider, Undeclared, assert_error_shape, bytes, chat, command, completion, content, run,
    scratch, within,
};

#[tokio::test]
async fn demo_fails_over_runs_its_tool_and_records() {
    let gateway = Gateway::start(&[]).await;

    let (status, answer) = gateway
        .send(Method::POST, CHAT, &[("x-user-id", "ann")], chat("hello"))
        .await;
    assert_eq!((status, content(&answer)), (StatusCode::OK, "You said: hello".into()));
    let (status, time) = gateway.ask("What time is it?").await;
    assert_eq!(status, StatusCode::OK);
    assert!(content(&time).starts_with("The clock says 2"), "{time}");
    // `{"model":"demo","messages":[{"role":"user","content":"packed"}]}`
    let packed = include_bytes!("packed.json.gz");
    let gzip = [("content-encoding", "X-GZip")];
    let (status, packed) = gateway
        .send(Method::POST, "/chat/completions", &gzip, bytes(&packed[..]))
        .await;
    assert_eq!((status, content(&packed)), (StatusCode::OK, "You said: packed".into()));
    let (status, models) = gateway.send(Method::GET, "/v1/models", &[], bytes("")).await;
    assert_eq!((status, &models["data"][0]["id"]), (StatusCode::OK, &json!("demo")));
    let (status, model) = gateway.send(Method::GET, "/models/demo", &[], bytes("")).await;
    assert_eq!((status, &model["id"]), (StatusCode::OK, &json!("demo")));

    gateway.signal().await;
    let (status, _, records) = gateway.end().await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(records.outcomes(), BTreeMap::from([("completed".into(), 3)]));
    let hello = records.of_prompt("hello");
    assert_eq!(hello[0]["interception_id"], answer["id"]);
    assert_eq!(hello[0]["initiator_id"], "ann");
    assert_eq!(
        hello[hello.len() - 1]["key_attempts"],
        2,
        "the first key is always over its limit"
    );
    let time = records.of_prompt("What time is it?");
    assert_eq!(time[time.len() - 1]["rounds"], 2);
    let call = time
        .iter()
        .find(|event| event["event"] == "tool_usage")
        .expect("the tool is recorded");
    assert_eq!(
        (&call["tool"], &call["injected"]),
        (&json!("current_time"), &json!(true))
    );
}

#[tokio::test]
async fn demo_streams() {
    let gateway = Gateway::start(&[]).await;
    let hello = json!({ "model": "demo", "stream": true, "messages": [{ "role": "user", "content": "hello" }] });
    let mut time = hello.clone();
    time["messages"][0]["content"] = json!("What time is it?");
    time["stream_options"] = json!({ "include_usage": true });

    let (hello, usage) = gateway.stream(&hello).await;
    assert_eq!((hello.as_str(), usage), ("You said: hello", None));
    let (time, usage) = gateway.stream(&time).await;
    assert!(time.starts_with("The clock says 2"), "{time}");
    assert_eq!(
        usage.expect("it was asked for")["prompt_tokens"],
        4 + 5,
        "the sum of both rounds"
    );

    gateway.signal().await;
    let (status, _, records) = gateway.end().await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(records.outcomes(), BTreeMap::from([("completed".into(), 2)]));
}

#[tokio::test]
async fn refusals_have_the_providers_shape_and_harm_nobody_else() {
    let gateway = Gateway::start(&[]).await;
    let refused = |method: Method, path, headers: &'static [(&str, &str)], body: Body| {
        let sent = gateway.send(method, path, headers, body);
        async {
            let (status, answer) = sent.await;
            assert_error_shape(&answer);
            status
        }
    };

    assert_eq!(
        refused(Method::POST, "/v1/embeddings", &[], bytes("{}")).await,
        StatusCode::NOT_FOUND
    );
    assert_eq!(refused(Method::GET, "/", &[], bytes("")).await, StatusCode::NOT_FOUND);
    assert_eq!(
        refused(Method::GET, CHAT, &[], bytes("")).await,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        refused(Method::POST, "/v1/models", &[], bytes("")).await,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        refused(Method::GET, "/v1/models/none", &[], bytes("")).await,
        StatusCode::NOT_FOUND
    );
    for body in [
        "",
        "[]",
        "{",
        r#"{"model":"demo"}"#,
        r#"{"model":"a","model":"b","messages":[]}"#,
    ] {
        assert_eq!(
            refused(Method::POST, CHAT, &[], bytes(body)).await,
            StatusCode::BAD_REQUEST,
            "{body}"
        );
    }
    let unknown = &[("content-encoding", "x-rot13")];
    assert_eq!(
        refused(Method::POST, CHAT, unknown, chat("hi")).await,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    let gzip = &[("content-encoding", "gzip")];
    assert_eq!(
        refused(Method::POST, CHAT, gzip, bytes("not gzip")).await,
        StatusCode::BAD_REQUEST
    );

    // Over the bridge's limit (32 MiB), told by the head or found out while reading; then over the backstop (64 MiB).
    let huge = Bytes::from(vec![b' '; 32 * 1024 * 1024 + 1]);
    let undeclared = Undeclared(Full::new(huge.clone())).boxed_unsync();
    assert_eq!(
        refused(Method::POST, CHAT, &[], undeclared).await,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(
        refused(Method::POST, CHAT, &[], bytes(huge)).await,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 70000000\r\n\r\n");
    let answer = gateway.send_raw(&head).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    assert!(head.starts_with("HTTP/1.1 413"), "{answer}");
    assert_error_shape(&serde_json::from_str(body).expect(body));

    assert_eq!(gateway.ask("still there?").await.0, StatusCode::OK);
    gateway.signal().await;
    assert_eq!(gateway.end().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_request_killed_in_the_middle_is_recorded_and_one_under_way_is_drained() {
    let mut provider = Provider::start().await;
    let mut gateway = Gateway::start(&["--upstream", &provider.url, "--key", KEY]).await;

    let killed = gateway.ask_later("killed");
    let mut call = provider.arrival().await;
    assert_eq!(call.headers[header::AUTHORIZATION], format!("Bearer {KEY}"));
    killed.abort();
    within(call.answer.closed()).await;

    // One connection each, so that every worker has some.
    let mut drained = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..4 {
        drained.push(gateway.ask_later("drained"));
        calls.push(provider.arrival().await);
    }
    gateway.signal().await;
    gateway.until_logged("draining").await;
    assert!(
        TcpStream::connect(gateway.address).await.is_err(),
        "a draining gateway takes no connection"
    );
    for (call, drained) in calls.into_iter().zip(drained) {
        call.answer
            .send(completion("late, but there"))
            .expect("the call is still waited for");
        let (status, answer) = within(drained).await.expect("no panic");
        assert_eq!((status, content(&answer)), (StatusCode::OK, "late, but there".into()));
    }

    let recorded = gateway.records.clone();
    let (status, log, records) = gateway.end().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(
        records.outcomes(),
        BTreeMap::from([("cancelled".into(), 1), ("completed".into(), 4)])
    );
    assert!(!log.contains(KEY), "{log}");
    assert!(!fs::read_to_string(recorded).expect("a record file").contains(KEY));
}

#[tokio::test]
async fn every_worker_gets_its_share_of_the_connections() {
    let mut provider = Provider::start().await;
    let gateway = Gateway::start(&["--upstream", &provider.url, "--key", KEY]).await;
    let body = json!({ "model": "demo", "messages": [] }).to_string();
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );

    // A worker keeps its connection to the provider, so that this tells one worker from another.
    let mut from = Vec::new();
    for _ in 0..4 {
        let (answer, ()) = tokio::join!(gateway.send_raw(&request), async {
            let call = provider.arrival().await;
            from.push(call.from);
            call.answer.send(completion("done")).expect("the call is waited for");
        });
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_ne!(from[0], from[1]);
    assert_eq!(from[..2], from[2..]);

    gateway.signal().await;
    assert_eq!(gateway.end().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_cuts_what_is_left_and_still_records_it() {
    let mut provider = Provider::start().await;
    let mut gateway = Gateway::start(&["--upstream", &provider.url, "--key", KEY]).await;
    let mut cut = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..4 {
        cut.push(gateway.ask_later("cut"));
        calls.push(provider.arrival().await);
    }

    gateway.signal().await;
    gateway.until_logged("draining").await;
    gateway.signal().await;
    for (mut call, cut) in calls.into_iter().zip(cut) {
        within(call.answer.closed()).await;
        assert!(within(cut).await.is_err(), "there is no answer");
    }
    let (status, log, records) = gateway.end().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(records.outcomes(), BTreeMap::from([("cancelled".into(), 4)]));
    assert!(
        !log.contains("still busy"),
        "no worker waited for its time to be over: {log}"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_told_and_lost_records_are_counted() {
    let arguments = ["--record", "/dev/full"].map(OsStr::new);
    let mut gateway = Gateway::start_recording(&arguments, scratch("none")).await;
    assert_eq!(gateway.ask("hello").await.0, StatusCode::OK);
    gateway.until_logged("cannot write records").await;
    let (_, metrics) = gateway.ask_admin(Method::GET, "/metrics", &[]).await;
    let failures = r#"llm_bridge_sink_failures_total{sink="file",reason="unavailable"} "#;
    assert!(metrics.contains(failures), "{metrics}");
    let waiting = metrics
        .lines()
        .find_map(|line| line.strip_prefix(r#"llm_bridge_sink_waiting{sink="file"} "#));
    assert!(waiting.is_some_and(|events| events != "0"), "{metrics}");
    gateway.signal().await;
    let (status, log, _) = gateway.end().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("records are lost"), "{log}");
}

#[tokio::test]
async fn mistakes_on_the_command_line_are_explained() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let taken = taken.local_addr().expect("an address").to_string();
    let upstream = "http://127.0.0.1:1";
    // The parser's own errors have their tests; here are the exit codes, and the errors that only a start can find.
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--help"], 0, ""),
        (&[KEY], 2, "not an option"),
        (&["--key", KEY], 2, "--key needs an --upstream"),
        (
            &[
                "--listen",
                "127.0.0.1:0",
                "--upstream",
                upstream,
                "--key",
                KEY,
                "--key",
                KEY,
            ],
            1,
            "bad key",
        ),
        (
            &["--listen", "127.0.0.1:0", "--upstream", upstream, "--key", "sk-\n"],
            1,
            "bad key",
        ),
        (&["--listen", &taken], 1, "cannot listen on"),
        (
            &["--listen", "127.0.0.1:0", "--record", "/nowhere/at/all"],
            1,
            "cannot record to /nowhere/at/all",
        ),
        (
            &["--listen", "127.0.0.1:0", "--record", "sqlite:/nowhere/at/all"],
            1,
            "cannot record to /nowhere/at/all",
        ),
    ];
    for (arguments, code, message) in cases {
        let output = run(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
        assert!(!stderr.contains(KEY), "{stderr}");
    }
    for workers in ["0", "1000", "many"] {
        let output = command(&[]).env("TOKIO_WORKER_THREADS", workers).output();
        let output = within(output).await.expect("the gateway starts");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("TOKIO_WORKER_THREADS: "));
    }
}
