//! Known faults of other bridges (M1 to M26), each as a test. Those of usage are in `usages.rs`, of streams in
//! `streams.rs`, of errors in the dialect's `error.rs`, of headers in `tests/messages`.

use serde_json::{Value, json};

use super::conversation::*;
use crate::dialect::{OfferSettings, Purpose};

fn done(id: &str, content: Value) -> Value {
    message(id, content, "end_turn", usage(1, 2))
}

fn calls(id: &str, content: Value) -> Value {
    message(id, content, "tool_use", usage(1, 2))
}

/// The conversation whole, then streamed.
fn both(rounds: &[Value]) -> [Told; 2] {
    let replies: Vec<String> = rounds.iter().map(Value::to_string).collect();
    let streams: Vec<String> = rounds.iter().map(stream).collect();
    [
        whole(offered(REQUEST, None), &replies, None),
        streamed(offered(REQUEST, None), &streams, Cut::Whole),
    ]
}

fn messages(request: &str) -> Vec<Value> {
    let request: Value = serde_json::from_str(request).unwrap();
    request["messages"].as_array().unwrap().clone()
}

#[test]
fn m1_each_round_is_a_message_of_its_own() {
    let first = json!([thinking("a", "s1"), call("t1", CLOCK, json!({}))]);
    let second = json!([thinking("b", "s2"), call("t2", CLOCK, json!({}))]);
    for told in both(&[
        calls("a", first.clone()),
        calls("b", second.clone()),
        done("c", json!([words("x")])),
    ]) {
        let sent = &told.requests[2];
        for content in [&first, &second] {
            let expected = format!(r#"{{"role":"assistant","content":{content}}}"#);
            assert!(sent.contains(&expected), "{sent}");
        }
        let roles: Vec<Value> = messages(sent).iter().map(|message| message["role"].clone()).collect();
        assert_eq!(roles, ["user", "assistant", "user", "assistant", "user"]);
    }
}

#[test]
fn m2_no_block_is_dropped_inside_a_turn() {
    let content = json!([
        thinking("a", "s1"),
        words("b"),
        thinking("c", "s2"),
        call("t", CLOCK, json!({}))
    ]);
    for told in both(&[calls("a", content.clone()), done("b", json!([words("x")]))]) {
        assert_eq!(messages(&told.requests[1])[1]["content"], content);
    }
}

#[test]
fn m3_blocks_go_back_byte_for_byte() {
    let content = format!(
        r#"[ {{"type" : "thinking", "thinking":"\u00e9","signature":"s==", "new":1.50 }}, {{"id":"t","name":"{CLOCK}","type":"tool_use","input":{{"a" : 1.0}} }}]"#
    );
    let reply = format!(r#"{{"id":"a","content": {content},"stop_reason":"tool_use"}}"#);
    let last = done("b", json!([words("x")])).to_string();
    let told = whole(offered(REQUEST, None), &[reply, last], None);
    assert!(told.requests[1].contains(&format!(r#"{{"role":"assistant","content":{content}}}"#)));
    assert_eq!(told.turns[0].calls[0].arguments, r#"{"a" : 1.0}"#);

    let kept = r#"{"type" : "thinking", "thinking":"a", "signature":"", "new":1.50 }"#;
    let events = format!(
        "{}{}{}{}{}{}",
        event(&json!({"type": "message_start", "message": {"id": "a", "usage": {}}})),
        format_args!(
            "event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{kept}}}\n\n"
        ),
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"\\u00e9\\ud83d\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"\\ude00\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"s==\"}}\n\n",
        block_of_ours(1),
    );
    let told = streamed(
        offered(REQUEST, None),
        &[events, stream(&done("b", json!([words("x")])))],
        Cut::Whole,
    );
    let expected = r#"{"type" : "thinking","thinking":"a\u00e9\ud83d\ude00","signature":"s==","new":1.50}"#;
    let (sent, expected) = (told.requests[1].replace(' ', ""), expected.replace(' ', ""));
    assert!(sent.contains(&expected), "{sent}");
    assert_eq!(told.turns[0].thoughts[0].content, "aé😀");
}

/// The events of a call of ours, and of a turn's end.
fn block_of_ours(index: usize) -> String {
    let ours = stream(&calls("a", json!([call("t", CLOCK, json!({}))])));
    let rest = ours.find("event: content_block_start").unwrap();
    ours[rest..].replace("\"index\":0", &format!("\"index\":{index}"))
}

#[test]
fn m4_thinking_with_a_signature_alone_is_kept() {
    let content = json!([thinking("", "s=="), call("t", CLOCK, json!({}))]);
    for told in both(&[calls("a", content), done("b", json!([words("x")]))]) {
        assert!(told.requests[1].contains(r#"{"signature":"s==","thinking":"","type":"thinking"}"#));
        assert!(told.turns[0].thoughts.is_empty());
    }
}

#[test]
fn m5_a_system_message_stays_where_it_is() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"},{"role":"system","content":"env"}]}"#;
    let replies = [
        calls("a", json!([call("t", CLOCK, json!({}))])).to_string(),
        done("b", json!([words("x")])).to_string(),
    ];
    let told = whole(offered(body, None), &replies, None);
    let roles: Vec<Value> = messages(&told.requests[1])
        .iter()
        .map(|message| message["role"].clone())
        .collect();
    assert_eq!(roles, ["user", "system", "assistant", "user"]);
}

#[test]
fn m6_the_injected_list_is_the_same_in_every_round_and_request() {
    let rounds = [
        calls("a", json!([call("t", CLOCK, json!({}))])),
        done("b", json!([words("x")])),
    ];
    let list = |request: &str| request.split_once(r#""tools":["#).unwrap().1.to_owned();
    let [first, second] = both(&rounds);
    assert_eq!(list(&first.requests[0]), list(&first.requests[1]));
    assert_eq!(list(&first.requests[0]), list(&second.requests[0]));
}

#[test]
fn m7_thinking_of_later_rounds_is_withheld_and_recorded() {
    let rounds = [
        calls("a", json!([thinking("one", "s1"), call("t", CLOCK, json!({}))])),
        done("b", json!([thinking("two", "s2"), words("x")])),
    ];
    let [whole, streamed] = both(&rounds);
    let expected = json!([thinking("one", "s1"), words("x")]);
    assert_eq!(
        serde_json::from_str::<Value>(&whole.caller).unwrap()["content"],
        expected
    );
    assert_eq!(Client::of(&streamed.caller).content(), &expected);
    for told in [whole, streamed] {
        let thoughts = told.turns.iter().flat_map(|turn| &turn.thoughts);
        assert_eq!(
            thoughts.map(|thought| &thought.content[..]).collect::<Vec<_>>(),
            ["one", "two"]
        );
    }
}

#[test]
fn m8_m9_indexes_have_no_gap_and_there_is_one_start() {
    let rounds = [
        calls("a", json!([words("one"), call("t1", CLOCK, json!({}))])),
        calls("b", json!([call("t2", CLOCK, json!({}))])),
        done("c", json!([words("two")])),
    ];
    let [_, streamed] = both(&rounds);
    for (name, count) in [("message_start", 1), ("message_stop", 1), ("message_delta", 1)] {
        assert_eq!(
            streamed.caller.matches(&format!("event: {name}\n")).count(),
            count,
            "{name}"
        );
    }
    assert!(streamed.caller.contains("\"index\":1") && !streamed.caller.contains("\"index\":2"));
    assert_eq!(
        Client::of(&streamed.caller).content(),
        &json!([words("one"), words("two")])
    );
}

#[test]
fn m10_calls_of_ours_are_invisible() {
    for told in both(&[
        calls("a", json!([call("t", CLOCK, json!({}))])),
        done("b", json!([words("x")])),
    ]) {
        assert!(
            !told.caller.contains("tool_use") && !told.caller.contains("bmcp_"),
            "{}",
            told.caller
        );
    }
}

#[test]
fn m11_results_are_one_message_in_call_order() {
    let content = json!([call("t1", CLOCK, json!({"n": 1})), call("t2", CLOCK, json!({"n": 2}))]);
    for told in both(&[calls("a", content), done("b", json!([words("x")]))]) {
        let results = json!([
            {"type": "tool_result", "tool_use_id": "t1", "content": "ran {\"n\":1}"},
            {"type": "tool_result", "tool_use_id": "t2", "content": "ran {\"n\":2}"},
        ]);
        assert_eq!(
            messages(&told.requests[1])[2],
            json!({"role": "user", "content": results})
        );
    }
}

#[test]
fn m16_m17_cache_breakpoints_are_the_callers() {
    let mark = r#""cache_control":{"type":"ephemeral","ttl":"1h"}"#;
    let body = format!(
        r#"{{"model":"m","tools":[{{"name":"mine",{mark}}}],"system":[{{"type":"text","text":"s",{mark}}},{{"type":"text","text":"t",{mark}}}],"messages":[{{"role":"user","content":[{{"type":"text","text":"u",{mark}}}]}}]}}"#
    );
    let sent = text(offered(&body, None).encode());
    assert_eq!(sent.matches(mark).count(), 4);
    assert_eq!(sent.matches("cache_control").count(), 4);
    assert!(sent.contains(CLOCK));
}

#[test]
fn m18_a_call_that_was_cut_off_is_not_run() {
    let events = stream(&message(
        "a",
        json!([words("so"), call("t", CLOCK, json!({"zone": "UTC"}))]),
        "max_tokens",
        usage(1, 2),
    ));
    let half = events.rfind("event: content_block_delta").unwrap();
    let stop = events.rfind("event: content_block_stop").unwrap();
    let events = format!("{}{}", &events[..half], &events[stop..]);
    let told = streamed(offered(REQUEST, None), &[events], Cut::Whole);
    let turn = &told.turns[0];
    assert!(!turn.is_ours && turn.calls.len() == 1 && !turn.calls[0].is_callers());
    let client = Client::of(&told.caller);
    assert_eq!(client.content(), &json!([words("so")]));
    assert_eq!(client.message()["stop_reason"], "max_tokens");
}

#[test]
fn a_call_that_is_not_an_object_can_go_back() {
    let events = stream(&calls("a", json!([call("t", CLOCK, json!({"zone": "UTC"}))])));
    let half = events.rfind("event: content_block_delta").unwrap();
    let stop = events.rfind("event: content_block_stop").unwrap();
    let events = format!("{}{}", &events[..half], &events[stop..]);
    let told = streamed(
        offered(REQUEST, None),
        &[events, stream(&done("b", json!([])))],
        Cut::Whole,
    );
    assert!(told.turns[0].is_ours);
    assert_eq!(told.turns[0].calls[0].arguments, "{\"zone\"");
    assert_eq!(messages(&told.requests[1])[1]["content"][0]["input"], json!({}));

    for input in ["3", "null", r#"[{"a":1}]"#] {
        let reply = format!(r#"{{"content":[{{"type":"tool_use","id":"t","name":"{CLOCK}","input": {input} }}]}}"#);
        let told = whole(offered(REQUEST, None), &[reply, done("b", json!([])).to_string()], None);
        assert_eq!(messages(&told.requests[1])[1]["content"][0]["input"], json!({}));
        assert_eq!(
            told.turns[0].calls[0].arguments,
            if input == "null" { "{}" } else { input }
        );
    }
    let reply = format!(r#"{{"content":[{{"type":"tool_use","id":"t","name":"{CLOCK}"}}]}}"#);
    let told = whole(offered(REQUEST, None), &[reply, done("b", json!([])).to_string()], None);
    assert_eq!(messages(&told.requests[1])[1]["content"][0]["input"], json!({}));
}

#[test]
fn m21_a_delta_goes_out_as_it_comes() {
    let events = stream(&done("a", json!([words("hello")])));
    let until = events.find("event: content_block_stop").unwrap();
    let mut out = bytes::BytesMut::new();
    let mut relay = offered(REQUEST, None).relay(SETUP);
    relay.begin_round(false);
    let last = feed(&mut *relay, &events[..until], Cut::Whole, &mut out);
    assert!(matches!(last, Ok(crate::dialect::turn::Progress::Shown)));
    assert_eq!(&out[..], &events.as_bytes()[..until]);
}

#[test]
fn m25_unknown_types_are_relayed() {
    let block = json!({"type": "new_block", "x": [1]});
    let mut events = stream(&done("a", json!([block, words("x")])));
    let at = events.find("event: content_block_stop").unwrap();
    let unknown = event(&json!({"type": "content_block_delta", "index": 0, "delta": {"type": "new_delta"}}));
    let new = event(&json!({"type": "new_event", "n": 1.5}));
    events.insert_str(at, &format!("{unknown}{new}"));
    let told = streamed(offered(REQUEST, None), std::slice::from_ref(&events), Cut::Whole);
    assert_eq!(told.caller, events);
    let reply = done("a", json!([block, words("x")])).to_string();
    assert_eq!(
        whole(offered(REQUEST, None), std::slice::from_ref(&reply), None).caller,
        reply
    );
    // An unknown block without deltas goes back as it came.
    for told in both(&[
        calls("a", json!([block, call("t", CLOCK, json!({}))])),
        done("b", json!([])),
    ]) {
        assert_eq!(messages(&told.requests[1])[1]["content"][0], block);
    }
}

#[test]
fn m26_a_count_has_the_same_tools() {
    let sent = |body: &str, purpose| {
        let mut request = read(body, purpose);
        let settings = OfferSettings {
            parallel: true,
            reported_usage: None,
        };
        request.offer(tools(), settings);
        text(request.encode())
    };
    let piece = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"name":"mine"}]}"#;
    let prompted = piece.replacen(r#"{"model""#, r#"{"system":"s","model""#, 1);
    let continued = piece.replace(
        "}],\"tools",
        "},{\"role\":\"assistant\",\"content\":\"y\"},{\"role\":\"user\",\"content\":\"z\"}],\"tools",
    );
    for whole in [&prompted, &continued] {
        assert_eq!(sent(whole, Purpose::Count), sent(whole, Purpose::Answer));
        assert_ne!(sent(whole, Purpose::Count), *whole);
    }
    // Claude Code counts each part of its prompt and each of its tools separately, and shows their sizes.
    for piece in [
        piece,
        r#"{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[]}"#,
        REQUEST,
    ] {
        assert_eq!(sent(piece, Purpose::Count), piece);
    }
    assert!(!read(REQUEST, Purpose::Count).about().stream);
}

#[test]
fn odd_replies_are_relayed_or_refused() {
    let relayed = [
        r#"{"content":null}"#,
        r#"{"content":"text"}"#,
        r#"{"content":[1,null,{"type":"tool_use"}],"id":null,"usage":[]}"#,
        r#"{"content":[{"type":"text","text":"\ud800"}]}"#,
    ];
    for reply in relayed {
        assert_eq!(whole(offered(REQUEST, None), &[reply.to_owned()], None).caller, reply);
    }
    use crate::dialect::turn::Fault;
    let fault = |reply: &'static str| offered(REQUEST, None).read_reply(reply.into()).err().unwrap();
    for reply in ["", "[]", "{}", "{", "<html>", r#"{"error":null}"#] {
        assert!(matches!(fault(reply), Fault::Shape(_)), "{reply}");
    }
    let error = r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}"#;
    assert!(matches!(fault(error), Fault::Refused(refused) if refused.status == 429 && refused.body == error));
}
