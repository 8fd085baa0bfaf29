//! Rounds of every shape: what the caller sees, what the provider is asked, and that whole replies and streams agree.

use serde_json::{Value, json};

use super::*;
use crate::dialect::turn::CallKind;
use crate::dialect::usage::Usage;

const HELLO: &str = r#"{"model":"gpt-9","input":"hi","store":false}"#;

fn typed(kind: &str) -> String {
    format!(r#"{{"id":"x_1","type":"{kind}","status":"completed","call_id":"call_x","action":{{"type":"exec"}}}}"#)
}

fn custom(call_id: &str) -> String {
    format!(
        r#"{{"id":"ct_1","type":"custom_tool_call","status":"completed","call_id":"{call_id}","name":"patch","input":"a \"b\""}}"#
    )
}

/// The same conversation whole and streamed, the latter at several frame sizes; what the caller got.
fn both(body: &str, rounds: &[(&str, Vec<String>)]) -> (Value, Talk) {
    let wholes: Vec<String> = rounds
        .iter()
        .enumerate()
        .map(|(round, (status, items))| response(&format!("resp_{round}"), status, items, 100 + round as u64))
        .collect();
    let streams: Vec<String> = rounds
        .iter()
        .enumerate()
        .map(|(round, (status, items))| streamed_as(&format!("resp_{round}"), items, status, 100 + round as u64))
        .collect();
    let whole = whole_talk(&mut *offered(body), &wholes);
    let mut answer: Value = serde_json::from_str(&whole.shown).unwrap();
    for frame in [1, 7, 1000, usize::MAX] {
        let stream = stream_talk(&mut *offered(body), &streams, frame);
        let mut last = check(&stream.shown);
        assert_no_trace_of_ours(&stream.shown);
        assert_no_trace_of_ours(&whole.shown);
        assert_eq!(stream.asked, whole.asked);
        let told = |talk: &Talk| -> Vec<_> {
            talk.turns
                .iter()
                .map(|turn| {
                    let calls: Vec<_> = turn
                        .calls
                        .iter()
                        .map(|call| {
                            (
                                call.id.clone(),
                                call.name.clone(),
                                call.arguments.clone(),
                                call.is_callers(),
                            )
                        })
                        .collect();
                    let completion = &turn.completion;
                    let counts = completion.usage.as_ref().map(Usage::counts);
                    (
                        calls,
                        turn.thoughts.clone(),
                        turn.is_ours,
                        completion.id.clone(),
                        completion.model.clone(),
                        counts,
                    )
                })
                .collect()
        };
        assert_eq!(told(&stream), told(&whole));
        // A stream has one id, a whole reply that of the last round.
        last["id"] = Value::Null;
        answer["id"] = Value::Null;
        assert_eq!(last, answer);
    }
    (answer, whole)
}

fn ids(answer: &Value) -> Vec<&str> {
    let items = answer["output"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[test]
fn without_tools_a_reply_and_a_stream_are_the_providers_bytes() {
    let items = [reasoning("rs_1"), message("msg_1", "hi"), call("call_1", "shell")];
    let body = response("resp_1", "completed", &items, 5);
    let whole = whole_talk(&mut *read(HELLO), std::slice::from_ref(&body));
    assert_eq!(whole.shown, body);
    assert_eq!(whole.asked, [HELLO]);
    assert_eq!(whole.turns[0].calls[0].name, "shell");
    let stream = streamed("resp_1", &items, 5);
    for frame in 1..60 {
        let talk = stream_talk(&mut *read(HELLO), std::slice::from_ref(&stream), frame);
        assert_eq!(talk.shown, stream);
        assert_eq!(talk.turns[0].calls[0].id, "call_1");
        assert_eq!(talk.turns[0].thoughts[0].content, "hm rs_1");
    }
}

#[test]
fn one_round_with_tools_is_the_providers_bytes_but_for_the_echo() {
    let items = [reasoning("rs_1"), message("msg_1", "hi")];
    let talk = stream_talk(&mut *offered(HELLO), &[streamed("resp_1", &items, 5)], 1000);
    let ours = echo();
    assert_eq!(talk.shown, streamed("resp_1", &items, 5).replace(&ours, "[]"));
    let whole = whole_talk(&mut *offered(HELLO), &[response("resp_1", "completed", &items, 5)]);
    assert_eq!(
        whole.shown,
        response("resp_1", "completed", &items, 5).replace(&ours, "[]")
    );
}

#[test]
fn a_hidden_round_leaves_no_trace() {
    let (answer, talk) = both(
        HELLO,
        &[
            ("completed", vec![reasoning("rs_1"), call("call_1", WEATHER)]),
            ("completed", vec![reasoning("rs_2"), message("msg_2", "sunny")]),
        ],
    );
    assert_eq!(ids(&answer), ["rs_2", "msg_2"]);
    assert_eq!(answer["usage"]["total_tokens"], 103);
    assert_eq!(answer["tools"], json!([]));
    let asked: Value = serde_json::from_str(&talk.asked[1]).unwrap();
    let expected = format!(
        r#"[{{"role":"user","content":"hi"}},{},{},{{"type":"function_call_output","call_id":"call_1","output":"result of call_1"}}]"#,
        reasoning("rs_1"),
        call("call_1", WEATHER)
    );
    assert_eq!(asked["input"], serde_json::from_str::<Value>(&expected).unwrap());
    assert!(talk.asked[1].contains(&expected[1..]), "byte for byte");
}

#[test]
fn visible_items_of_all_rounds_are_shown_once() {
    let (answer, _) = both(
        HELLO,
        &[
            (
                "completed",
                vec![
                    reasoning("rs_1"),
                    message("msg_1", "let me see"),
                    reasoning("rs_1b"),
                    call("call_1", CLOCK),
                ],
            ),
            ("completed", vec![call("call_2", WEATHER), call("call_3", WEATHER)]),
            ("completed", vec![message("msg_3", "noon"), call("call_4", "shell")]),
        ],
    );
    assert_eq!(ids(&answer), ["rs_1", "msg_1", "msg_3", "fc_call_4"]);
}

/// R8: in the replay every call has an output.
#[test]
fn r8_in_a_mixed_turn_the_first_call_decides() {
    // Ours first: the caller's wait for the next round.
    let mixed = vec![
        call("call_1", CLOCK),
        reasoning("rs_1"),
        call("call_2", "shell"),
        custom("call_3"),
    ];
    let (answer, talk) = both(
        HELLO,
        &[("completed", mixed), ("completed", vec![message("msg_2", "ok")])],
    );
    assert_eq!(ids(&answer), ["msg_2"]);
    let asked: Value = serde_json::from_str(&talk.asked[1]).unwrap();
    let outputs: Vec<_> = asked["input"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["type"].as_str().is_some_and(|kind| kind.ends_with("_output")))
        .map(|item| {
            (
                item["type"].as_str().unwrap(),
                item["call_id"].as_str().unwrap(),
                item["output"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        outputs,
        [
            ("function_call_output", "call_1", "result of call_1"),
            ("function_call_output", "call_2", "Not run."),
            ("custom_tool_call_output", "call_3", "Not run."),
        ]
    );
    assert_eq!(talk.turns[0].calls[2].kind, CallKind::Custom);
    assert_eq!(talk.turns[0].calls[2].arguments, r#""a \"b\"""#);

    // The caller's first: ours is withheld with its reasoning.
    let mixed = vec![call("call_1", "shell"), reasoning("rs_1"), call("call_2", CLOCK)];
    let (answer, talk) = both(HELLO, &[("completed", mixed)]);
    assert_eq!(ids(&answer), ["fc_call_1"]);
    assert!(!talk.turns[0].is_ours);
    assert_eq!(talk.turns[0].calls.len(), 2);
}

#[test]
fn a_call_that_no_text_can_answer_makes_the_turn_the_callers() {
    for kind in ["shell_call", "apply_patch_call", "local_shell_call", "computer_call"] {
        let items = vec![
            call("call_1", CLOCK),
            call("call_2", "shell"),
            message("msg_1", "x"),
            typed(kind),
        ];
        let (answer, talk) = both(HELLO, &[("completed", items)]);
        assert_eq!(ids(&answer), ["msg_1", "fc_call_2", "x_1"], "{kind}");
        assert!(!talk.turns[0].is_ours);
        assert_eq!(talk.turns[0].calls[2].arguments, r#"{"type":"exec"}"#);
    }
    // A shell that the provider runs is neither our call nor the caller's.
    let hosted = typed("shell_call").replace(
        r#""action""#,
        r#""environment":{"type":"container_reference"},"action""#,
    );
    let (answer, _) = both(
        HELLO,
        &[
            ("completed", vec![hosted, call("call_1", CLOCK)]),
            ("completed", vec![message("msg_2", "ok")]),
        ],
    );
    assert_eq!(ids(&answer), ["x_1", "msg_2"]);
}

#[test]
fn an_incomplete_answer_runs_nothing() {
    let cut = call("call_1", CLOCK).replace(r#""status":"completed""#, r#""status":"incomplete""#);
    let items = vec![reasoning("rs_1"), cut.clone()];
    let (answer, talk) = both(HELLO, &[("incomplete", items)]);
    assert_eq!(answer["output"], json!([]));
    assert!(!talk.turns[0].is_ours);
    assert_eq!(talk.turns[0].calls.len(), 1);
    // Reasoning without an item after it goes to the caller in the caller's turn.
    let (answer, _) = both(HELLO, &[("incomplete", vec![message("msg_1", "x"), reasoning("rs_1")])]);
    assert_eq!(ids(&answer), ["msg_1", "rs_1"]);
    // A call that was cut off in an answer that calls itself whole.
    let (answer, talk) = both(HELLO, &[("completed", vec![cut])]);
    assert_eq!(answer["output"], json!([]));
    assert!(!talk.turns[0].is_ours);
}

#[test]
fn a_made_up_tool_is_hidden_and_answered() {
    let (answer, talk) = both(
        HELLO,
        &[
            ("completed", vec![call("call_1", "bmcp_local_moon")]),
            ("completed", vec![message("msg_2", "ok")]),
        ],
    );
    assert_eq!(ids(&answer), ["msg_2"]);
    assert!(talk.asked[1].contains("function_call_output"));
}

#[test]
fn tool_usage_is_summed_and_the_rest_is_the_first_rounds() {
    let with = |body: String, members: &str| format!("{{{members},{}", &body[1..]);
    let first = response("resp_1", "completed", &[call("call_1", CLOCK)], 10);
    let first = with(
        first,
        r#""tool_usage":{"web_search":{"num_requests":2}},"input_transformations":[1]"#,
    );
    let last = response("resp_2", "completed", &[message("msg_2", "ok")], 20);
    let last = with(
        last,
        r#""tool_usage":{"web_search":{"num_requests":3}},"input_transformations":[2],"prompt_cache_diagnostics":{}"#,
    );
    let whole = whole_talk(&mut *offered(HELLO), &[first, last]);
    let answer: Value = serde_json::from_str(&whole.shown).unwrap();
    assert_eq!(answer["tool_usage"]["web_search"]["num_requests"], 5);
    assert_eq!(answer["input_transformations"], json!([1]));
    assert_eq!(answer["prompt_cache_diagnostics"], Value::Null);
    assert_eq!(answer["usage"]["total_tokens"], 22);
}

#[test]
fn the_operator_may_report_the_sum() {
    use crate::types::ReportedUsage;
    let settings = OfferSettings {
        parallel: true,
        reported_usage: Some(ReportedUsage::Sum),
    };
    let mut request = read(HELLO);
    request.offer(tools(), settings);
    let rounds = [
        streamed("resp_1", &[call("call_1", CLOCK)], 10),
        streamed("resp_2", &[message("msg_2", "ok")], 20),
    ];
    let last = check(&stream_talk(&mut *request, &rounds, 1000).shown);
    assert_eq!(last["usage"]["total_tokens"], 34);
    assert_eq!(last["usage"]["input_tokens_details"]["cached_tokens"], 2);
}

#[test]
fn items_of_which_no_event_told_are_read_from_the_final_output() {
    let items = [call("call_1", CLOCK)];
    let object = response("resp_1", "completed", &items, 3);
    let bare =
        format!("event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{object}}}\n\n");
    let rounds = [bare, streamed("resp_2", &[message("msg_2", "ok")], 3)];
    let talk = stream_talk(&mut *offered(HELLO), &rounds, 1000);
    assert!(talk.turns[0].is_ours);
    assert_eq!(ids(&check(&talk.shown)), ["msg_2"]);
    assert!(talk.asked[1].contains(&items[0]));
}

/// A stream that announces some of the items of its final output.
fn half_told(id: &str, told: &[String], output: &[String]) -> String {
    let stream = streamed(id, told, 3);
    stream.replace(
        &response(id, "completed", told, 3),
        &response(id, "completed", output, 3),
    )
}

#[test]
fn items_beside_the_announced_ones_are_read_from_the_final_output() {
    let first = message("msg_1", "a");
    // A call of ours that only the final output has is run, and stays hidden.
    let items = [first.clone(), call("call_1", CLOCK)];
    let rounds = [
        half_told("resp_1", &items[..1], &items),
        streamed("resp_2", &[message("msg_2", "ok")], 3),
    ];
    let talk = stream_talk(&mut *offered(HELLO), &rounds, 1000);
    assert!(talk.turns[0].is_ours);
    assert_no_trace_of_ours(&talk.shown);
    assert_eq!(ids(&check(&talk.shown)), ["msg_1", "msg_2"]);
    assert!(talk.asked[1].contains(&items[1]));

    // The caller's stream announces the others, each under its own number.
    let items = [
        reasoning("rs_1"),
        first.clone(),
        reasoning("rs_2"),
        message("msg_2", "b"),
        call("call_1", "shell"),
    ];
    for told in 0..items.len() {
        let talk = stream_talk(
            &mut *offered(HELLO),
            &[half_told("resp_1", &items[..told], &items)],
            1000,
        );
        assert_eq!(
            ids(&check(&talk.shown)),
            ["rs_1", "msg_1", "rs_2", "msg_2", "fc_call_1"],
            "{told}"
        );
        assert_eq!(talk.turns[0].calls.len(), 1);
    }

    // Other ids, and numbers with gaps, are those of the announced ones.
    let renamed = [message("msg_9", "a"), call("call_1", "shell")];
    let told = [first, call("call_1", "shell")];
    let talk = stream_talk(&mut *offered(HELLO), &[half_told("resp_1", &told, &renamed)], 1000);
    assert_eq!(
        kinds(&talk.shown)
            .iter()
            .filter(|kind| *kind == "response.output_item.done")
            .count(),
        2
    );
    let gaps = half_told("resp_1", &told, &told).replace(r#""output_index":1"#, r#""output_index":7"#);
    check(&stream_talk(&mut *offered(HELLO), &[gaps], 1000).shown);

    // Records have the calls, tools of ours or not.
    let talk = stream_talk(&mut *read(HELLO), &[half_told("resp_1", &items[..2], &items)], 1000);
    assert_eq!(talk.turns[0].calls.len(), 1);
    assert_eq!(talk.shown, half_told("resp_1", &items[..2], &items));
}

#[test]
fn an_event_without_its_object_is_relayed_where_nothing_is_edited() {
    let whole = streamed("resp_1", &[message("msg_1", "a")], 3);
    let events: Vec<&str> = whole.split_inclusive("\n\n").collect();
    for (number, name) in [(2, "item"), (4, "item"), (5, "response")] {
        let mut events: Vec<String> = events.iter().map(|event| (*event).to_owned()).collect();
        let start = events[number].find(&format!(",\"{name}\":")).unwrap();
        events[number].replace_range(start.., "}\n\n");
        let stream = events.concat();
        let mut out = BytesMut::new();
        let mut relay = read(HELLO).relay(setup());
        relay.begin_round(false);
        assert_eq!(
            feed(&mut *relay, stream.as_bytes(), 1000, &mut out).unwrap(),
            Progress::Done
        );
        assert_eq!(out, stream);
        let mut relay = offered(HELLO).relay(setup());
        relay.begin_round(false);
        let fed = feed(&mut *relay, stream.as_bytes(), 1000, &mut BytesMut::new());
        assert!(matches!(fed, Err(Fault::Shape(_))), "{name}");
    }
}

#[test]
fn an_item_event_without_a_number_belongs_to_the_item_before() {
    let rounds = [
        streamed("resp_1", &[message("msg_1", "a"), call("call_1", CLOCK)], 3),
        streamed("resp_2", &[message("msg_2", "ok")], 3),
    ];
    let rounds = rounds.map(|stream| stream.replace(r#","output_index":1,"#, ",\"output_index\":null,"));
    let talk = stream_talk(&mut *offered(HELLO), &rounds, 1000);
    assert_no_trace_of_ours(&talk.shown);
    assert_eq!(ids(&check(&talk.shown)), ["msg_1", "msg_2"]);
}

#[test]
fn members_are_added_to_an_empty_object() {
    let mut edits = crate::rope::Edits::default();
    let object = super::super::object::Object::read(b"{}");
    object.set("output", None, "[]".into(), &mut edits);
    object.set("status", None, "1".into(), &mut edits);
    assert_eq!(text(&edits.apply(&Rope::from("{}"))), r#"{"output":[],"status":1}"#);
    let words = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n".to_owned();
    let rounds = [
        streamed("resp_1", &[message("msg_1", "a"), call("call_1", CLOCK)], 3),
        words,
    ];
    let talk = stream_talk(&mut *offered(HELLO), &rounds, 1000);
    assert_eq!(
        ids(events(&talk.shown).last().map(|last| &last["response"]).unwrap()),
        ["msg_1"]
    );
}

#[test]
fn a_turn_of_too_many_calls_or_bytes_is_no_answer() {
    let many: Vec<String> = (0..1001).map(|number| call(&format!("call_{number}"), CLOCK)).collect();
    let whole = offered(HELLO).read_reply(response("resp_1", "completed", &many, 1).into());
    assert!(matches!(whole.err(), Some(Fault::Shape(_))));
    let mut relay = offered(HELLO).relay(setup());
    relay.begin_round(false);
    let stream = streamed("resp_1", &many, 1);
    let fed = feed(&mut *relay, stream.as_bytes(), 1 << 20, &mut BytesMut::new());
    assert!(matches!(fed, Err(Fault::Shape(_))));

    let mut relay = offered(HELLO).relay(RelaySetup {
        max_held: 2_000,
        ..setup()
    });
    relay.begin_round(false);
    let stream = streamed("resp_1", &[message("msg_1", &"x".repeat(3_000))], 1);
    let fed = feed(&mut *relay, stream.as_bytes(), 1 << 20, &mut BytesMut::new());
    assert!(matches!(fed, Err(Fault::Shape(_))));
}

#[test]
fn odd_replies_are_errors_and_never_panic() {
    for body in [
        "",
        "[]",
        "{}",
        "null",
        r#"{"output":[]"#,
        "\u{feff}",
        r#"{"status":"completed"}"#,
    ] {
        let read = offered(HELLO).read_reply(body.to_owned().into());
        assert!(matches!(read.err(), Some(Fault::Shape(_))), "{body}");
    }
    for body in [
        r#"{"id":"r","output":null}"#,
        r#"{"id":"r","output":[1,null,"x",[],{}]}"#,
        r#"{"id":null,"output":[{"type":"function_call"}]}"#,
        r#"{"id":"r","output":[{"type":"reasoning"}],"usage":"x","tools":{},"include":1}"#,
        " \n{\"id\":\"r\",\"output\":[]}\n",
    ] {
        let (reply, turn) = offered(HELLO)
            .read_reply(body.to_owned().into())
            .unwrap_or_else(|fault| panic!("{body}: {fault:?}"));
        assert!(!turn.is_ours);
        assert_eq!(
            text(&reply.seal(Uuid::now_v7(), &Earlier::default())).trim(),
            body.trim()
        );
    }
    let refused = offered(HELLO).read_reply(r#"{"error":{"code":"server_error","message":"m"}}"#.to_owned().into());
    let Some(Fault::Refused(error)) = refused.err() else {
        panic!()
    };
    assert_eq!(error.status, 500);
}
