//! The same conversations whole and streamed: the same turns, the same requests, the same answer.

use serde_json::{Value, json};

use super::conversation::*;
use crate::dialect::turn::Turn;
use crate::types::ReportedUsage;

/// A conversation of several rounds.
pub(super) fn conversations() -> Vec<(&'static str, Vec<Value>)> {
    let ours = |id: &str| call(id, CLOCK, json!({"zone": "UTC", "n": 1}));
    let mine = |id: &str| call(id, "mine", json!({"q": [1, "é\n"]}));
    let redacted = json!({"type": "redacted_thinking", "data": "AbC=="});
    let server = json!({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}});
    let cited = json!({"type": "text", "text": "so", "citations": [{"type": "char_location", "n": 1}, {"n": 2}]});
    let done = |id: &str, content: Value| message(id, content, "end_turn", usage(20, 8));
    let calls = |id: &str, content: Value| message(id, content, "tool_use", usage(10, 7));
    vec![
        (
            "an answer",
            vec![done("a", json!([thinking("hm", "s1"), words("hello")]))],
        ),
        ("nothing", vec![done("a", json!([]))]),
        (
            "a hidden round",
            vec![calls("a", json!([ours("t")])), done("b", json!([words("late")]))],
        ),
        (
            "a hidden round with words",
            vec![
                calls(
                    "a",
                    json!([thinking("hm", "s1"), words("first"), thinking("", "s2"), ours("t")]),
                ),
                done("b", json!([thinking("again", "s3"), redacted, words("last")])),
            ],
        ),
        (
            "two hidden rounds",
            vec![
                calls("a", json!([words("one"), ours("t1"), ours("t2")])),
                calls("b", json!([thinking("hm", "s"), ours("t3")])),
                done("c", json!([words("two"), cited, words("three")])),
            ],
        ),
        (
            "a mixed turn of ours",
            vec![
                calls("a", json!([ours("t1"), mine("t2"), words("")])),
                calls("b", json!([mine("t3")])),
            ],
        ),
        (
            "a mixed turn of the caller's",
            vec![calls("a", json!([redacted, mine("t1"), ours("t2"), mine("t3")]))],
        ),
        (
            "a later turn of the caller's",
            vec![
                calls("a", json!([ours("t")])),
                calls("b", json!([thinking("hm", "s"), words("so"), mine("t1"), ours("t2")])),
            ],
        ),
        (
            "a call that was cut off",
            vec![message("a", json!([words("so"), ours("t")]), "max_tokens", usage(1, 2))],
        ),
        (
            "a mixed turn that was cut off",
            vec![message(
                "a",
                json!([words("so"), ours("t1"), mine("t2")]),
                "pause_turn",
                usage(1, 2),
            )],
        ),
        (
            "the provider's own tools",
            vec![
                calls("a", json!([server, ours("t")])),
                done("b", json!([server, words("found")])),
            ],
        ),
        (
            "a made-up name",
            vec![
                calls("a", json!([call("t", "bmcp_local_nothing", json!({}))])),
                done("b", json!([words("sorry")])),
            ],
        ),
        (
            "our name from a program",
            vec![calls(
                "a",
                json!([
                    {"type": "tool_use", "id": "t", "name": CLOCK, "input": {}, "caller": {"type": "code_execution_20250825"}},
                ]),
            )],
        ),
        (
            "our name, said to be direct",
            vec![
                calls(
                    "a",
                    json!([{"type": "tool_use", "id": "t", "name": CLOCK, "input": {}, "caller": {"type": "direct"}}]),
                ),
                done("b", json!([words("ok")])),
            ],
        ),
    ]
}

fn described(turn: &Turn) -> String {
    let calls = turn.calls.iter();
    let calls: Vec<_> = calls
        .map(|call| format!("{} {} {} {}", call.id, call.name, call.arguments, call.is_callers()))
        .collect();
    let usage = turn.completion.usage.as_ref().map(crate::dialect::usage::Usage::counts);
    let completion = (
        &turn.completion.id,
        &turn.completion.model,
        &turn.completion.service_tier,
        usage,
    );
    format!("{} {calls:?} {:?} {completion:?}", turn.is_ours, turn.thoughts)
}

#[test]
fn whole_and_streamed_answers_come_to_the_same() {
    for reported in [None, Some(ReportedUsage::Sum), Some(ReportedUsage::LastRound)] {
        for (name, rounds) in conversations() {
            let replies: Vec<String> = rounds.iter().map(Value::to_string).collect();
            let streams: Vec<String> = rounds.iter().map(stream).collect();
            let whole = whole(offered(REQUEST, reported), &replies, reported);
            let streamed = streamed(offered(REQUEST, reported), &streams, Cut::Whole);
            assert_eq!(whole.requests, streamed.requests, "{name}");
            for (a, b) in whole.turns.iter().zip(&streamed.turns) {
                assert_eq!(described(a), described(b), "{name}");
            }
            assert!(
                whole
                    .turns
                    .split_last()
                    .is_some_and(|(last, rest)| !last.is_ours && rest.iter().all(|t| t.is_ours))
            );
            let (whole, client): (Value, _) = (
                serde_json::from_str(&whole.caller).unwrap(),
                Client::of(&streamed.caller),
            );
            let told = client.message();
            for member in ["id", "model", "role", "content", "stop_reason", "stop_sequence"] {
                assert_eq!(whole[member], told[member], "{member} of {name}");
            }
            // With `LastRound`, the start event still has the first round's values where the last delta has none.
            for member in [
                "input_tokens",
                "cache_read_input_tokens",
                "output_tokens",
                "iterations",
                "service_tier",
            ] {
                assert_eq!(whole["usage"][member], told["usage"][member], "{member} of {name}");
            }
        }
    }
}

#[test]
fn without_tools_of_ours_every_answer_is_the_providers_bytes() {
    for (name, rounds) in conversations() {
        for round in rounds {
            let plain = || read(REQUEST, crate::dialect::Purpose::Answer);
            let (reply, events) = (format!("\u{feff} {round}\n"), format!("\u{feff}{}", stream(&round)));
            assert_eq!(
                whole(plain(), std::slice::from_ref(&reply), None).caller,
                reply,
                "{name}"
            );
            assert_eq!(
                streamed(plain(), std::slice::from_ref(&events), Cut::Whole).caller,
                events,
                "{name}"
            );
        }
    }
}

#[test]
fn one_round_with_tools_is_the_providers_bytes() {
    let round = message(
        "a",
        json!([thinking("hm", "s"), words("hello")]),
        "end_turn",
        usage(1, 2),
    );
    let events = stream(&round);
    assert_eq!(
        streamed(offered(REQUEST, None), std::slice::from_ref(&events), Cut::Whole).caller,
        events
    );
    let reply = format!(" {round} ");
    assert_eq!(
        whole(offered(REQUEST, None), std::slice::from_ref(&reply), None).caller,
        reply
    );
}

#[test]
fn where_a_stream_is_cut_into_frames_changes_nothing() {
    for (name, rounds) in conversations() {
        for line_end in ["\n", "\r\n", "\r"] {
            let streams: Vec<String> = rounds
                .iter()
                .map(|round| stream(round).replace('\n', line_end))
                .collect();
            let whole = streamed(offered(REQUEST, None), &streams, Cut::Whole);
            let bytes = streamed(offered(REQUEST, None), &streams, Cut::EveryByte);
            assert_eq!(whole.caller, bytes.caller, "{name} with {line_end:?}");
            assert_eq!(whole.requests, bytes.requests, "{name} with {line_end:?}");
        }
        let streams: Vec<String> = rounds.iter().map(stream).collect();
        let longest = streams.iter().map(String::len).max().unwrap();
        let uncut = streamed(offered(REQUEST, None), &streams, Cut::Whole);
        for at in (0..longest).step_by(7) {
            if streams.iter().all(|stream| at <= stream.len()) {
                let cut = streamed(offered(REQUEST, None), &streams, Cut::At(at));
                assert_eq!(
                    (uncut.caller.as_str(), &uncut.requests),
                    (cut.caller.as_str(), &cut.requests),
                    "{name} {at}"
                );
            }
        }
    }
}
