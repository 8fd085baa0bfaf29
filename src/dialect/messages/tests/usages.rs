//! Usage: counts, sums, and what each round adds.

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::usage::{self as counted, Total, overlaid};
use super::conversation::*;
use crate::types::ReportedUsage;

#[test]
fn counts_keep_cached_tokens_apart() {
    let usage = json!({"input_tokens": 3, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 20,
        "cache_creation": {"ephemeral_5m_input_tokens": 15, "ephemeral_1h_input_tokens": 5}, "output_tokens": 7,
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
        "output_tokens_details": {"thinking_tokens": 4}});
    let counts = counted::read(usage.to_string().as_bytes());
    assert_eq!((counts.usage.input, counts.usage.output), (3, 7));
    assert_eq!(counts.usage.cache_read_input_tokens, 1000);
    assert_eq!(counts.usage.cache_write_input_tokens, 20);
    let expected = [
        ("cache_ephemeral_1h_input", 5),
        ("cache_ephemeral_5m_input", 15),
        ("completion_reasoning", 4),
        ("web_fetch_requests", 1),
        ("web_search_requests", 2),
    ];
    assert_eq!(counts.extra.iter().collect::<Vec<_>>(), expected);
    for odd in [
        "[]",
        "{}",
        r#"{"input_tokens":null,"cache_creation":3,"server_tool_use":null}"#,
    ] {
        assert_eq!(
            counted::read(odd.as_bytes()).usage,
            crate::types::TokenUsage::default(),
            "{odd}"
        );
    }
}

#[test]
fn a_delta_replaces_what_it_says() {
    let start = Bytes::from_static(br#"{"input_tokens":10,"output_tokens":1,"cache_creation":{"a":1}}"#);
    let delta = Bytes::from_static(br#"{"input_tokens":null,"output_tokens":7}"#);
    let both = overlaid(Some(&start), Some(&delta)).unwrap();
    let both: Value = serde_json::from_slice(&both).unwrap();
    assert_eq!(
        both,
        json!({"input_tokens": 10, "output_tokens": 7, "cache_creation": {"a": 1}})
    );
    assert_eq!(overlaid(Some(&start), None), Some(start.clone()));
    assert_eq!(overlaid(None, Some(&delta)), Some(delta));
    assert_eq!(overlaid(None, None), None);
}

#[test]
fn a_sum_has_every_member_and_the_rounds() {
    let mut total = Total::default();
    assert!(total.is_empty());
    assert_eq!(total.clone().report(None, None, None), None);
    total.add(
        br#"{"input_tokens":1,"output_tokens":2,"cache_read_input_tokens":null,"server_tool_use":null,"x":1,
        "service_tier":"standard","cache_creation":{"ephemeral_5m_input_tokens":3}}"#,
    );
    let last =
        br#"{"input_tokens":10,"output_tokens":20,"cache_read_input_tokens":null,"x":2,"service_tier":"priority",
        "server_tool_use":{"web_search_requests":1},"iterations":[{"type":"message","input_tokens":10}]}"#;
    let report = |told: Option<&[u8]>, reported| -> Value {
        serde_json::from_str(&total.clone().report(Some(last), told, reported).unwrap()).unwrap()
    };
    let iterations = json!([
        {"type": "message", "input_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": 2, "cache_creation": {"ephemeral_5m_input_tokens": 3}},
        {"type": "message", "input_tokens": 10},
    ]);
    let expected = json!({"input_tokens": 11, "output_tokens": 22, "cache_read_input_tokens": null, "x": 3,
        "service_tier": "priority", "server_tool_use": {"web_search_requests": 1},
        "cache_creation": {"ephemeral_5m_input_tokens": 3}, "iterations": iterations});
    assert_eq!(report(None, None), expected);
    assert_eq!(report(None, Some(ReportedUsage::Sum)), expected);
    let told = json!({"input_tokens": 11, "output_tokens": 22, "cache_read_input_tokens": null, "x": 3,
        "iterations": iterations});
    assert_eq!(report(Some(br#"{"output_tokens":20,"x":2}"#), None), told);
    let alone: Value = serde_json::from_slice(last).unwrap();
    assert_eq!(report(None, Some(ReportedUsage::LastRound)), alone);
}

/// M12, M13: `message_start` stays as it is, the last delta has the sums and one entry for each round.
#[test]
fn m12_m13_the_last_delta_has_the_sum_and_the_iterations() {
    let round = |id: &str, content: Value| stream(&message(id, content, "tool_use", usage(10, 7)));
    let rounds = [
        round("a", json!([call("t", CLOCK, json!({}))])),
        round("b", json!([words("x")])).replace("\"tool_use\"", "\"end_turn\""),
    ];
    let told = streamed(offered(REQUEST, None), &rounds, Cut::Whole);
    let start = rounds[0].split("\n\n").next().unwrap();
    assert!(told.caller.starts_with(start), "{}", told.caller);
    let client = Client::of(&told.caller);
    let told = &client.message()["usage"];
    assert_eq!(
        (&told["input_tokens"], &told["cache_read_input_tokens"]),
        (&json!(20), &json!(10))
    );
    assert_eq!(told["output_tokens"], 14);
    let entry = json!({"type": "message", "input_tokens": 10, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 5, "output_tokens": 7});
    assert_eq!(told["iterations"], json!([entry, entry]));
    assert_eq!(told["service_tier"], "standard");

    let told = streamed(offered(REQUEST, Some(ReportedUsage::LastRound)), &rounds, Cut::Whole);
    let told = Client::of(&told.caller).message()["usage"].clone();
    assert_eq!((&told["input_tokens"], &told["output_tokens"]), (&json!(10), &json!(7)));
    assert!(told.get("iterations").is_none());
}

/// M13b, M14: one usage a round, the last that was reported, without the cached tokens.
#[test]
fn m13b_m14_a_rounds_usage_is_its_last() {
    let start = json!({"type": "message_start", "message": message("a", json!([]), "", json!({
        "input_tokens": 3, "cache_read_input_tokens": 1000, "output_tokens": 1}))});
    let mut events = event(&start);
    for output in 1..=5 {
        let delta =
            json!({"type": "message_delta", "delta": {"stop_reason": null}, "usage": {"output_tokens": output}});
        events += &event(&delta);
    }
    events += &event(&json!({"type": "message_stop"}));
    for request in [read(REQUEST, crate::dialect::Purpose::Answer), offered(REQUEST, None)] {
        let told = streamed(request, std::slice::from_ref(&events), Cut::Whole);
        let counts = told.turns[0].completion.usage.as_ref().unwrap().counts();
        assert_eq!((counts.usage.input, counts.usage.output), (3, 5));
        assert_eq!(counts.usage.cache_read_input_tokens, 1000);
        assert_eq!(told.caller, events);
    }
}
