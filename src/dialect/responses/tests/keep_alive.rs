//! Silence, errors and the end of a stream.

use super::*;
use crate::dialect::turn::ErrorWords;
use crate::error::{BridgeError, BridgeErrorKind};

const HELLO: &str = r#"{"model":"gpt-9","input":"hi"}"#;

fn shown(out: &BytesMut) -> String {
    String::from_utf8(out.to_vec()).unwrap()
}

/// The events of `stream` before the first that says `mark`.
fn before<'a>(stream: &'a str, mark: &str) -> &'a str {
    let at = stream.find(mark).unwrap();
    &stream[..stream[..at].rfind("event: ").unwrap()]
}

#[test]
fn the_beginning_waits_for_an_item_or_for_a_minute() {
    let stream = streamed("resp_1", &[message("msg_1", "x")], 3);
    let head = before(&stream, "output_item.added");
    let (mut relay, mut out) = (read(HELLO).relay(setup()), BytesMut::new());
    relay.begin_round(false);
    feed(&mut *relay, head.as_bytes(), 1000, &mut out).unwrap();
    assert!(out.is_empty());
    for _ in 0..5 {
        relay.keep_alive(&mut out);
        assert!(kinds(&shown(&out)).is_empty());
    }
    relay.keep_alive(&mut out);
    assert_eq!(kinds(&shown(&out)), ["response.created", "response.in_progress"]);
    feed(&mut *relay, &stream.as_bytes()[head.len()..], 1000, &mut out).unwrap();
    check(&shown(&out));
}

#[test]
fn every_sixth_keep_alive_is_an_event_that_clients_count() {
    let stream = streamed("resp_1", &[message("msg_1", "x"), message("msg_2", "y")], 3);
    for tools in [false, true] {
        let mut request = read(HELLO);
        if tools {
            request.offer(super::tools(), SETTINGS);
        }
        let (mut relay, mut out) = (request.relay(setup()), BytesMut::new());
        relay.begin_round(false);
        let half = before(&stream, r#""output_index":1"#);
        feed(&mut *relay, half.as_bytes(), 1000, &mut out).unwrap();
        let so_far = kinds(&shown(&out)).len();
        (0..13).for_each(|_| relay.keep_alive(&mut out));
        let kinds = kinds(&shown(&out));
        assert_eq!(kinds[so_far..], ["response.in_progress", "response.in_progress"]);
        assert_eq!(shown(&out).matches(": keep-alive").count(), 13);
        feed(&mut *relay, &stream.as_bytes()[half.len()..], 1000, &mut out).unwrap();
        check(&shown(&out));
    }
}

#[test]
fn an_attempt_that_failed_leaves_nothing_behind() {
    let stream = streamed("resp_1", &[reasoning("rs_1"), message("msg_1", "x")], 3);
    let (mut relay, mut out) = (offered(HELLO).relay(setup()), BytesMut::new());
    relay.begin_round(false);
    let failed = stream.replace("resp_1", "resp_0");
    feed(&mut *relay, before(&failed, "msg_1").as_bytes(), 1000, &mut out).unwrap();
    assert!(out.is_empty());
    relay.begin_round(false);
    feed(&mut *relay, stream.as_bytes(), 1000, &mut out).unwrap();
    assert_eq!(check(&shown(&out))["id"], "resp_1");
}

#[test]
fn a_new_attempt_goes_on_under_the_id_that_was_shown() {
    let stream = streamed("resp_1", &[message("msg_1", "x")], 3);
    let (mut relay, mut out) = (offered(HELLO).relay(setup()), BytesMut::new());
    relay.begin_round(false);
    feed(&mut *relay, before(&stream, "msg_1").as_bytes(), 1000, &mut out).unwrap();
    (0..6).for_each(|_| relay.keep_alive(&mut out));
    relay.begin_round(true);
    feed(
        &mut *relay,
        stream.replace("resp_1", "resp_2").as_bytes(),
        1000,
        &mut out,
    )
    .unwrap();
    assert_eq!(check(&shown(&out))["id"], "resp_1");
    let id = relay.take_shown_id().unwrap();
    assert_eq!((&*id.shown, &*id.stored), ("resp_1", "resp_2"));
}

#[test]
fn an_error_before_anything_is_shown_is_an_http_error() {
    for (event, status) in [
        (
            r#"{"type":"error","code":"rate_limit_exceeded","message":"m","param":null,"sequence_number":2}"#,
            429,
        ),
        (
            r#"{"type":"response.failed","sequence_number":2,"response":{"id":"resp_1","status":"failed","error":{"code":"server_error","message":"m"},"usage":{"input_tokens":4}}}"#,
            500,
        ),
        (r#"{"error":{"code":"invalid_prompt","message":"m"}}"#, 400),
    ] {
        let head = streamed("resp_1", &[], 3);
        let stream = format!("{}data: {event}\n\n", before(&head, "response.completed"));
        let (mut relay, mut out) = (read(HELLO).relay(setup()), BytesMut::new());
        relay.begin_round(false);
        let Err(Fault::Refused(error)) = feed(&mut *relay, stream.as_bytes(), 1000, &mut out) else {
            panic!("{event}")
        };
        assert_eq!(error.status, status);
        assert!(out.is_empty());
        let body: Value = serde_json::from_slice(&error.body).unwrap();
        assert_eq!(body["error"]["message"], "m");
    }
}

/// A stream of two rounds that has shown a message, then fails with `event`; the caller's bytes.
fn failing(event: &str, words: impl FnOnce(&Bytes) -> Bytes) -> String {
    let mut request = offered(HELLO);
    let (mut relay, mut out) = (request.relay(setup()), BytesMut::new());
    relay.begin_round(false);
    let first = streamed("resp_1", &[message("msg_1", "x"), call("call_1", CLOCK)], 3);
    feed(&mut *relay, first.as_bytes(), 1000, &mut out).unwrap();
    let turn = relay.turn();
    let replayed = relay.replay();
    request.extend(replayed, &results(&turn));
    relay.begin_round(true);
    let second = streamed("resp_2", &[message("msg_2", "y"), message("msg_3", "z")], 3);
    let second = format!("{}data: {event}\n\n", before(&second, r#""output_index":1"#));
    let Err(Fault::Refused(error)) = feed(&mut *relay, second.as_bytes(), 1000, &mut out) else {
        panic!()
    };
    let body = words(&error.body);
    relay.fail(
        ErrorWords::Provider {
            status: error.status,
            body: &body,
        },
        &mut out,
    );
    shown(&out)
}

#[test]
fn an_error_of_the_provider_is_relayed_as_it_came() {
    let flat = r#"{"type":"error", "code":"server_error","message":"m","param":null,"sequence_number":9}"#;
    let stream = failing(flat, Bytes::clone);
    let events = stream.split("\n\n").collect::<Vec<_>>();
    let relayed = flat.replace(":9}", ":9}".replace('9', &(events.len() - 3).to_string()).as_str());
    assert_eq!(events[events.len() - 3], format!("data: {relayed}"));
    assert!(events[events.len() - 2].starts_with("event: response.failed\n"));

    let failed = r#"{"type":"response.failed","sequence_number":9,"response":{"id":"resp_2","status":"failed","output":[],"error":{"code":"server_error","message":"m"}}}"#;
    let stream = failing(failed, Bytes::clone);
    let last = stream.trim_end().rsplit("\n\n").next().unwrap();
    let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(last["response"]["id"], "resp_1");
    assert_eq!(last["response"]["output"].as_array().unwrap().len(), 2);
}

#[test]
fn redacted_words_replace_the_providers_event() {
    let flat = r#"{"type":"error","code":"server_error","message":"sk-secret","param":null,"sequence_number":9}"#;
    let stream = failing(flat, |body| {
        Bytes::from(String::from_utf8(body.to_vec()).unwrap().replace("sk-secret", "sk-..."))
    });
    assert!(!stream.contains("sk-secret"));
    let last = check(&stream);
    assert_eq!(
        (&last["status"], &last["error"]["message"]),
        (&json!("failed"), &json!("sk-..."))
    );
}

#[test]
fn an_error_of_ours_has_flat_and_nested_words_and_the_shown_response() {
    let stream = streamed("resp_1", &[message("msg_1", "x"), message("msg_2", "y")], 3);
    let (mut relay, mut out) = (offered(HELLO).relay(setup()), BytesMut::new());
    relay.begin_round(false);
    feed(
        &mut *relay,
        before(&stream, r#""output_index":1"#).as_bytes(),
        1000,
        &mut out,
    )
    .unwrap();
    let error = BridgeError::new(BridgeErrorKind::KeysCoolingDown, "no key").retry_after(3);
    relay.fail(ErrorWords::Bridge(&error), &mut out);
    let last = check(&shown(&out));
    assert_eq!(
        last["error"],
        json!({"code": "rate_limit_exceeded", "message": "no key. Please try again in 3s."})
    );
    assert_eq!(last["usage"], Value::Null);
    let events = events(&shown(&out));
    let error = &events[events.len() - 2];
    assert_eq!(error["type"], "error");
    for member in ["code", "message", "param"] {
        assert_eq!(error[member], error["error"][member]);
    }
    assert_eq!(error["error"]["type"], "rate_limit_error");
}

#[test]
fn a_stream_that_fails_before_the_provider_began_still_ends_with_a_response() {
    let (mut relay, mut out) = (offered(HELLO).relay(setup()), BytesMut::new());
    relay.begin_round(false);
    relay.keep_alive(&mut out);
    let error = BridgeError::new(BridgeErrorKind::UpstreamFailed, "gone");
    relay.fail(ErrorWords::Bridge(&error), &mut out);
    let events = events(&shown(&out));
    assert_eq!(events[0]["type"], "error");
    let response = &events[1]["response"];
    assert_eq!(
        (&response["model"], &response["status"]),
        (&json!("gpt-9"), &json!("failed"))
    );
    assert!(response["id"].as_str().unwrap().starts_with("resp_"));
    assert!(response["created_at"].as_u64().unwrap() > 1_700_000_000);
}

/// R13: every event that is not the provider's has all members that the official SDKs' types require.
#[test]
fn r13_events_of_ours_have_every_required_member() {
    const RESPONSE: [&str; 15] = [
        "id",
        "access_programs",
        "created_at",
        "error",
        "incomplete_details",
        "instructions",
        "metadata",
        "model",
        "object",
        "output",
        "parallel_tool_calls",
        "temperature",
        "tool_choice",
        "tools",
        "top_p",
    ];
    let (mut relay, mut out) = (offered(HELLO).relay(setup()), BytesMut::new());
    relay.begin_round(false);
    let error = BridgeError::new(BridgeErrorKind::UpstreamFailed, "gone");
    relay.fail(ErrorWords::Bridge(&error), &mut out);
    let events = events(&shown(&out));
    assert_eq!(kinds(&shown(&out)), ["error", "response.failed"]);
    for (event, members) in [
        (&events[0], &["type", "sequence_number", "code", "message", "param"][..]),
        (&events[1], &["type", "sequence_number", "response"]),
        (&events[1]["response"], &RESPONSE),
    ] {
        let missing: Vec<_> = members.iter().filter(|name| event.get(**name).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?} in {event}");
    }
    let response = &events[1]["response"];
    assert_eq!(
        (&response["object"], &response["output"]),
        (&json!("response"), &json!([]))
    );
}

#[test]
fn comments_and_odd_ends_are_no_events() {
    let stream = format!(
        ": hi\n\n{}data: [DONE]\n\n",
        streamed("resp_1", &[message("msg_1", "x")], 3)
    );
    let (mut relay, mut out) = (read(HELLO).relay(setup()), BytesMut::new());
    relay.begin_round(false);
    assert_eq!(
        feed(&mut *relay, stream.as_bytes(), 1000, &mut out).unwrap(),
        Progress::Done
    );
    assert!(shown(&out).starts_with(": hi\n\nevent: response.created"));
    let done = feed(&mut *read(HELLO).relay(setup()), b"data: [DONE]\n\n", 1000, &mut out);
    assert_eq!(done.unwrap(), Progress::Aside);
    for bad in ["data: x\n\n", "data: []\n\n", "data: {\n\n"] {
        let fed = feed(&mut *read(HELLO).relay(setup()), bad.as_bytes(), 1000, &mut out);
        assert!(matches!(fed, Err(Fault::Shape(_))), "{bad}");
    }
}
