//! Calls and texts from their pieces, in whatever pieces they come.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tools::{ToolDefinition, Tools, tool_fn};

fn offer() -> Offer {
    let tool = tool_fn(ToolDefinition::new("clock"), |_| async {
        Ok::<_, std::convert::Infallible>("")
    });
    Offer::new(Tools::new([tool]), Vec::new(), 128)
}

fn fold(fold: &mut Fold, list: &Value) -> Option<String> {
    let shown = fold.push_calls(list.to_string().as_bytes(), &offer()).unwrap();
    shown.map(|shown| String::from_utf8(shown).unwrap())
}

fn member(fold: &mut Fold, name: &str, value: &str) {
    let object = format!("{{\"{name}\":{value}}}");
    let (name, value) = walk::members(object.as_bytes()).next().unwrap();
    fold.push_member(name, &object.as_bytes()[value]);
}

#[test]
fn a_piece_without_a_name_waits_and_is_shown_with_it() {
    let mut ours = Fold::default();
    assert_eq!(fold(&mut ours, &json!([{"index": 0, "id": "a"}])).as_deref(), Some(""));
    assert_eq!(
        fold(
            &mut ours,
            &json!([{"index": 0, "function": {"name": "bmcp_local_clock"}}])
        )
        .as_deref(),
        Some("")
    );
    assert!(ours.is_ours());

    let mut theirs = Fold::default();
    assert_eq!(
        fold(&mut theirs, &json!([{"index": 0, "id": "a"}])).as_deref(),
        Some("")
    );
    assert_eq!(
        fold(&mut theirs, &json!([{"index": 0, "function": {"name": "mine"}}])).unwrap(),
        r#"{"id":"a","index":0},{"function":{"name":"mine"},"index":0}"#
    );
    assert_eq!(
        fold(&mut theirs, &json!([{"index": 0, "function": {"arguments": "{}"}}])),
        None,
        "as it is"
    );
}

#[test]
fn the_caller_sees_no_gap_where_a_call_is_hidden() {
    let mut turn = Fold::default();
    assert_eq!(
        fold(
            &mut turn,
            &json!([{"index": 0, "id": "a", "function": {"name": "mine"}}])
        ),
        None
    );
    assert_eq!(
        fold(
            &mut turn,
            &json!([{"index": 1, "id": "b", "function": {"name": "bmcp_local_clock"}}])
        )
        .as_deref(),
        Some("")
    );
    assert_eq!(
        fold(
            &mut turn,
            &json!([{"index": 2, "id": "c", "function": {"name": "other"}}])
        )
        .unwrap(),
        r#"{"function":{"name":"other"},"id":"c","index":1}"#
    );
    assert!(!turn.turn().is_ours);
}

#[test]
fn arguments_that_are_an_object_become_its_text() {
    let mut turn = Fold::default();
    fold(
        &mut turn,
        &json!([{"index": 0, "id": "a", "function": {"name": "mine", "arguments": {"q": "\"é\""}}}]),
    );
    assert_eq!(turn.turn().calls[0].arguments, r#"{"q":"\"é\""}"#);
}

#[test]
fn a_call_in_any_shape_is_relayed_and_not_judged() {
    let mut turn = Fold::default();
    for list in [
        r#"[{"index":"0"}]"#,
        r#"[{"function":"x"}]"#,
        r#"[{"index":3,"id":null,"function":null}]"#,
    ] {
        assert!(
            turn.push_calls(list.as_bytes(), &Offer::default()).unwrap().is_none(),
            "{list}"
        );
    }
}

#[test]
fn calls_with_the_same_index_and_no_ids_are_told_apart_by_their_names() {
    let mut turn = Fold::default();
    let call = |city: &str| {
        json!([{"index": 0, "id": "", "type": "function",
            "function": {"name": "bmcp_local_clock", "arguments": format!(r#"{{"city":"{city}"}}"#)}}])
    };
    fold(&mut turn, &call("Oslo"));
    fold(&mut turn, &call("Rome"));
    let folded = turn.turn();
    let arguments: Vec<&str> = folded.calls.iter().map(|call| &*call.arguments).collect();
    assert_eq!(arguments, [r#"{"city":"Oslo"}"#, r#"{"city":"Rome"}"#]);
    assert!(!folded.calls[0].id.is_empty() && folded.calls[0].id != folded.calls[1].id);
    let message: Value = serde_json::from_slice(&turn.replay()).unwrap();
    assert_eq!(message["tool_calls"][1]["id"], *folded.calls[1].id);
}

#[test]
fn a_call_is_replayed_with_every_member_that_its_pieces_had() {
    let mut turn = Fold::default();
    let signature = json!({"google": {"thought_signature": "c2ln"}});
    fold(
        &mut turn,
        &json!([{"index": 0, "id": "a", "type": "function", "extra_content": signature,
            "function": {"name": "bmcp_local_clock", "arguments": "{"}}]),
    );
    fold(&mut turn, &json!([{"index": 0, "function": {"arguments": "}"}}]));
    let message: Value = serde_json::from_slice(&turn.replay()).unwrap();
    let expected = json!({"id": "a", "type": "function", "extra_content": signature,
        "function": {"name": "bmcp_local_clock", "arguments": "{}"}});
    assert_eq!(message["tool_calls"], json!([expected]));
}

#[test]
fn a_thousand_calls_are_a_turn_and_one_more_is_not() {
    let mut turn = Fold::default();
    let call = |index: usize| format!(r#"[{{"index":{index},"id":"c{index}","function":{{"name":"mine"}}}}]"#);
    for index in 0..MAX_CALLS {
        turn.push_calls(call(index).as_bytes(), &offer()).unwrap();
    }
    assert!(turn.push_calls(call(MAX_CALLS).as_bytes(), &offer()).is_err());
}

#[test]
fn a_message_to_replay_has_every_text_and_every_call() {
    let mut turn = Fold::default();
    for (name, value) in [
        ("content", "null"),
        ("content", "\"\""),
        ("content", r#""a\"""#),
        ("reasoning", r#""\u00e9""#),
        ("content", r#""\nb""#),
        ("parts", "[1]"),
        ("parts", "[]"),
        ("parts", r#"[{"x":2}]"#),
        ("parts", r#""other""#),
    ] {
        member(&mut turn, name, value);
    }
    let calls =
        ["a", "b", "c"].map(|id| json!({"index": 7, "id": id, "function": {"name": "mine", "arguments": "{}"}}));
    fold(&mut turn, &json!(calls));
    let message: Value = serde_json::from_slice(&turn.replay()).unwrap();
    let call = |id| json!({"id": id, "type": "function", "function": {"name": "mine", "arguments": "{}"}});
    let expected = json!({
        "role": "assistant", "content": "a\"\nb", "reasoning": "é", "parts": [1, {"x": 2}],
        "tool_calls": [call("a"), call("b"), call("c")],
    });
    assert_eq!(message, expected);
}

proptest! {
    #[test]
    fn pieces_make_the_whole(
        calls in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<String>(), 0..5)), 1..5),
        contents in prop::collection::vec(any::<String>(), 0..5),
        order in any::<u64>(),
        first_index in 0_u64..9,
    ) {
        let mut turn = Fold::default();
        let name = |ours: bool| if ours { "bmcp_local_clock" } else { "mine" };
        let mut queues: Vec<Vec<Value>> = Vec::new();
        for (place, (ours, pieces)) in calls.iter().enumerate() {
            let index = first_index + 2 * place as u64;
            let id = format!("call_{place}");
            fold(&mut turn, &json!([{"index": index, "id": id, "function": {"name": name(*ours), "arguments": ""}}]));
            queues.push(pieces.iter().rev().map(|piece| json!({"index": index, "function": {"arguments": piece}})).collect());
        }
        // Interleaved in an order that depends on the seed alone.
        let mut seed = order;
        while queues.iter().any(|queue| !queue.is_empty()) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let place = (seed >> 33) as usize % queues.len();
            if let Some(piece) = queues[place].pop() {
                fold(&mut turn, &json!([piece]));
            }
        }
        for content in &contents {
            member(&mut turn, "content", &Value::from(content.as_str()).to_string());
        }
        let folded = turn.turn();
        for (place, (call, (ours, pieces))) in folded.calls.iter().zip(&calls).enumerate() {
            prop_assert_eq!(&call.id, &format!("call_{place}"));
            prop_assert_eq!(&*call.name, name(*ours));
            prop_assert_eq!(&call.arguments, &pieces.concat());
        }
        prop_assert_eq!(folded.is_ours, calls[0].0);
        let message: Value = serde_json::from_slice(&turn.replay()).unwrap();
        let content = contents.concat();
        let expected = if content.is_empty() { message["content"].clone() } else { json!(content) };
        prop_assert_eq!(&message["content"], &expected);
        prop_assert_eq!(message["tool_calls"].as_array().unwrap().len(), calls.len());
    }
}
