//! The known faults of other bridges, as rules R1 to R26. Those about keys, headers and HTTP are in `tests/responses`.

use serde_json::{Value, json};

use super::*;
use crate::dialect::turn::Addition;

/// The tools of a coding agent, with a namespace and a hosted tool among them.
const AGENT_TOOLS: &str = r#"[{"type":"function","name":"shell","strict":false,"parameters":{"type":"object"}}, {"type":"namespace","name":"web","description":"d","tools":[{"type":"function","name":"bmcp_local_clock"}]},{"type":"web_search","external_web_access":false}]"#;

fn asked(body: &str) -> Value {
    serde_json::from_str(&text(&offered(body).encode())).unwrap()
}

#[test]
fn r1_tools_of_every_type_stay_and_ours_follow() {
    let body = format!(
        r#"{{"model":"m","input":[],"store":false,"include":["reasoning.encrypted_content"],"tools":{AGENT_TOOLS}}}"#
    );
    let sent = text(&offered(&body).encode());
    let kept = AGENT_TOOLS.strip_suffix(']').unwrap();
    assert!(sent.contains(kept), "{sent}");
    let sent: Value = serde_json::from_str(&sent).unwrap();
    let names: Vec<_> = sent["tools"].as_array().unwrap().iter().skip(3).collect();
    for (tool, name) in names.iter().zip([CLOCK, WEATHER]) {
        let schema = json!({"type": "object", "properties": {}});
        assert_eq!(
            **tool,
            json!({"type": "function", "name": name, "parameters": schema, "strict": false})
        );
    }
    assert_eq!(names.len(), 2);
    // A tool of the caller's of that name wins.
    let sent = asked(&format!(
        r#"{{"model":"m","tools":[{{"type":"custom","name":"{CLOCK}"}}]}}"#
    ));
    assert_eq!(sent["tools"].as_array().unwrap().len(), 2);
}

#[test]
fn r1_the_prompt_is_the_last_words_of_the_user() {
    for (input, prompt) in [
        (r#""hi \u00e9""#, Some("hi é")),
        (
            r#"[{"role":"user","content":"first"},{"role":"user","content":"last"}]"#,
            Some("last"),
        ),
        (
            r#"[{"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image"},{"type":"input_text","text":"b"}]}]"#,
            Some("a\nb"),
        ),
        (r#"[{"role":"assistant","content":"x"}]"#, None),
        (
            r#"[{"role":"user","content":"x"},{"type":"function_call_output","call_id":"call_1","output":"x"}]"#,
            None,
        ),
        (r#"[{"role":"user","content":[]}]"#, None),
        ("[]", None),
        ("null", None),
    ] {
        let request = read(&format!(r#"{{"model":"m","input":{input}}}"#));
        assert_eq!(request.prompt().as_deref(), prompt, "{input}");
    }
}

#[test]
fn r2_a_string_and_items_without_ids_are_input() {
    let words = r#""hi \u00e9 \"there\"""#;
    let mut request = offered(&format!(r#"{{"model":"m","store":false,"input":{words}}}"#));
    let rounds = [
        streamed("resp_1", &[call("call_1", CLOCK)], 3),
        streamed("resp_2", &[message("msg_2", "x")], 3),
    ];
    let talk = stream_talk(&mut *request, &rounds, 1000);
    assert!(talk.asked[1].contains(&format!(
        r#""input":[{{"role":"user","content":{words}}},{{"id":"fc_call_1""#
    )));
    for (input, expected) in [
        ("", 2),
        (r#","input":null"#, 2),
        (r#","input":[ ]"#, 2),
        (r#","input":[{"role":"assistant","content":"no id"}]"#, 3),
    ] {
        let mut request = offered(&format!(r#"{{"model":"m"{input}}}"#));
        let talk = stream_talk(&mut *request, &rounds, 1000);
        let sent: Value = serde_json::from_str(&talk.asked[1]).unwrap();
        assert_eq!(sent["input"].as_array().unwrap().len(), expected, "{input}");
    }
}

#[test]
fn r2_only_what_no_api_takes_is_refused() {
    let invalid = |body: &str| {
        let mut scanner = Scanner::new();
        scanner.scan(body.as_bytes()).unwrap();
        let request = Responses.request(Rope::from(body.to_owned()), &scanner, Purpose::Answer);
        request.err().map(|invalid| invalid.param.unwrap())
    };
    for (body, param) in [
        (r#"{}"#, Some("model")),
        (r#"{"model":null,"input":"x"}"#, Some("model")),
        (r#"{"model":1,"prompt":{"id":"p"}}"#, Some("model")),
        (r#"{"model":"m","input":{}}"#, Some("input")),
        (r#"{"model":"m","input":1}"#, Some("input")),
        (r#"{"model":"m","stream":1}"#, Some("stream")),
        (r#"{"prompt":{"id":"p"}}"#, None),
        (r#"{"model":"m"}"#, None),
        (
            r#"{"model":"m","input":[{"type":"never_seen"}],"tools":"odd","tool_choice":7}"#,
            None,
        ),
    ] {
        assert_eq!(invalid(body), param, "{body}");
    }
}

#[test]
fn r3_and_r4_there_is_one_life_cycle_and_one_id() {
    let rounds = [
        streamed("resp_1", &[message("msg_1", "a"), call("call_1", CLOCK)], 3),
        streamed("resp_2", &[message("msg_2", "b"), call("call_2", CLOCK)], 3),
        streamed("resp_3", &[message("msg_3", "c")], 3),
    ];
    let talk = stream_talk(&mut *offered(r#"{"model":"m"}"#), &rounds, 1000);
    assert_eq!(check(&talk.shown)["id"], "resp_1");
    for kind in ["response.created", "response.in_progress", "response.completed"] {
        assert_eq!(kinds(&talk.shown).iter().filter(|found| *found == kind).count(), 1);
    }
}

#[test]
fn r5_the_shown_id_stands_for_the_last_rounds() {
    let rounds = [
        streamed("resp_1", &[call("call_1", CLOCK)], 3),
        streamed("resp_2", &[message("msg_2", "b"), call("call_2", CLOCK)], 3),
        streamed("resp_3", &[message("msg_3", "c")], 3),
    ];
    let talk = stream_talk(&mut *offered(r#"{"model":"m"}"#), &rounds, 1000);
    // The first round was hidden as a whole: it has left no trace.
    assert_eq!(talk.shown_id, Some(("resp_2".to_owned(), "resp_3".to_owned())));
    let talk = stream_talk(&mut *offered(r#"{"model":"m","store":false}"#), &rounds, 1000);
    assert_eq!(talk.shown_id, None, "the provider keeps nothing");

    let mut request = offered(r#"{"model":"m", "previous_response_id" : "resp_\u0032"}"#);
    assert_eq!(request.previous().as_deref(), Some("resp_2"));
    request.resolve("resp_3".to_owned());
    assert!(text(&request.encode()).contains(r#""previous_response_id" : "resp_3""#));
    // The caller's own words come back.
    let echo = r#"{"id":"r","output":[],"previous_response_id":"resp_3"}"#;
    let (reply, _) = request.read_reply(echo.to_owned().into()).unwrap();
    assert_eq!(
        text(&reply.seal(Uuid::now_v7(), &Earlier::default())),
        r#"{"id":"r","output":[],"previous_response_id":"resp_\u0032"}"#
    );
}

#[test]
fn r7_reasoning_stays_with_its_item() {
    let rounds = [
        streamed("resp_1", &[reasoning("rs_1"), call("call_1", CLOCK)], 3),
        streamed("resp_2", &[reasoning("rs_2"), message("msg_2", "x")], 3),
    ];
    let talk = stream_talk(
        &mut *offered(r#"{"model":"m","store":false,"input":[]}"#),
        &rounds,
        1000,
    );
    let pair = format!("{},{}", reasoning("rs_1"), call("call_1", CLOCK));
    assert!(talk.asked[1].contains(&pair), "{}", talk.asked[1]);
    assert!(!talk.shown.contains("rs_1") && talk.shown.contains("rs_2"));
}

#[test]
fn r9_reasoning_without_its_content_is_left_out_where_nothing_is_stored() {
    let bare = r#"{"id":"rs_1","type":"reasoning","summary":[]}"#.to_owned();
    let items = [bare.clone(), call("call_1", CLOCK)];
    let rounds = [
        response("resp_1", "completed", &items, 3),
        response("resp_2", "completed", &[message("msg_2", "x")], 3),
    ];
    let stored = whole_talk(&mut *offered(r#"{"model":"m","input":[]}"#), &rounds);
    assert!(stored.asked[1].contains(&bare), "summary:[] survives");
    let unstored = whole_talk(&mut *offered(r#"{"model":"m","input":[],"store":false}"#), &rounds);
    assert!(!unstored.asked[1].contains("rs_1"));
    let without_id = call("call_1", CLOCK).replace(r#""id":"fc_call_1","#, "");
    assert!(unstored.asked[1].contains(&without_id), "{}", unstored.asked[1]);

    let include = |body: &str| asked(body)["include"].clone();
    let encrypted = json!(["reasoning.encrypted_content"]);
    assert_eq!(include(r#"{"model":"m","store":false}"#), encrypted);
    assert_eq!(include(r#"{"model":"m","store":false,"include":null}"#), encrypted);
    assert_eq!(include(r#"{"model":"m","store":false,"include":[]}"#), encrypted);
    assert_eq!(
        include(r#"{"model":"m","store":false,"include":["reasoning.encrypted_content"]}"#),
        encrypted
    );
    assert_eq!(
        include(r#"{"model":"m","store":false,"include":["x"]}"#),
        json!(["x", "reasoning.encrypted_content"])
    );
    assert_eq!(include(r#"{"model":"m"}"#), Value::Null);
}

#[test]
fn r10_a_phase_is_shown_and_replayed() {
    let commentary = message("msg_1", "first I look").replace(r#""role""#, r#""phase":"commentary","role""#);
    let rounds = [
        streamed("resp_1", &[commentary.clone(), call("call_1", CLOCK)], 3),
        streamed("resp_2", &[message("msg_2", "x")], 3),
    ];
    let talk = stream_talk(&mut *offered(r#"{"model":"m"}"#), &rounds, 1000);
    assert!(talk.shown.contains(&commentary) && talk.asked[1].contains(&commentary));
    let thought = &talk.turns[0].thoughts[0];
    assert_eq!((thought.source, &*thought.content), ("commentary", "first I look"));
}

#[test]
fn r11_a_keepalive_of_the_provider_is_numbered_and_never_first() {
    let keepalive = "event: keepalive\ndata: {\"type\":\"keepalive\",\"sequence_number\":2}\n\n";
    let plain = streamed("resp_1", &[message("msg_1", "x"), message("msg_2", "y")], 3);
    for mark in [
        r#""response.created""#,
        r#""output_index":0"#,
        r#""output_index":1"#,
        r#""response.completed""#,
    ] {
        let at = plain.find(mark).unwrap();
        let at = plain[..at].rfind("event: ").unwrap();
        let stream = format!("{}{keepalive}{}", &plain[..at], &plain[at..]);
        let talk = stream_talk(&mut *offered(r#"{"model":"m"}"#), &[stream], 1000);
        check(&talk.shown);
        assert_eq!(
            talk.shown.contains("keepalive"),
            mark.contains('1') || mark.contains("completed")
        );
    }
}

#[test]
fn r20_results_name_the_call_and_not_the_item() {
    let rounds = [
        response("resp_1", "completed", &[call("call_1", CLOCK)], 3),
        response("resp_2", "completed", &[message("msg_2", "x")], 3),
    ];
    let talk = whole_talk(&mut *offered(r#"{"model":"m","input":[]}"#), &rounds);
    assert!(talk.asked[1].contains(r#"{"type":"function_call_output","call_id":"call_1","#));
    assert_eq!(talk.turns[0].calls[0].id, "call_1");
    for (kind, answered) in [
        ("function_call_output", Some("call_9")),
        ("custom_tool_call_output", Some("call_9")),
        ("message", None),
    ] {
        let request = read(&format!(
            r#"{{"model":"m","input":[{{"id":"fco_1","type":"{kind}","call_id":"call_9"}}]}}"#
        ));
        assert_eq!(request.about().correlating_tool_call_id.as_deref(), answered);
    }
}

#[test]
fn r21_items_of_unknown_types_are_shown_and_replayed() {
    let unknown = r#"{"id":"new_1", "type":"never_seen","status":"completed","odd":[1.0,1e400,"\u00e9"]}"#.to_owned();
    let mut items = [reasoning("rs_1"), unknown.clone(), call("call_1", CLOCK)];
    let rounds = [
        response("resp_1", "completed", &items, 3),
        response("resp_2", "completed", &[message("msg_2", "x")], 3),
    ];
    let talk = whole_talk(&mut *offered(r#"{"model":"m","input":[]}"#), &rounds);
    assert!(talk.asked[1].contains(&unknown) && talk.shown.contains(&unknown));
    // Numbers beyond a double are not for the test's own reader of streams.
    items[1] = items[1].replace("1e400,", "");
    let rounds = rounds_of(&items);
    let talk = stream_talk(&mut *offered(r#"{"model":"m","input":[]}"#), &rounds, 1000);
    assert!(talk.asked[1].contains(&items[1]) && talk.shown.contains(&items[1]));
    check(&talk.shown);
}

fn rounds_of(items: &[String]) -> [String; 2] {
    [
        streamed("resp_1", items, 3),
        streamed("resp_2", &[message("msg_2", "x")], 3),
    ]
}

#[test]
fn r22_no_hidden_call_can_be_stranded_at_the_provider() {
    for body in [
        r#"{"model":"m","conversation":"conv_1"}"#,
        r#"{"model":"m","conversation":{"id":"conv_1"}}"#,
        r#"{"model":"m","background":true}"#,
        r#"{"model":"m","tool_choice":"none"}"#,
        r#"{"model":"m","tool_choice":"required","tools":[]}"#,
        r#"{"model":"m","tool_choice":{"type":"allowed_tools","mode":"auto","tools":[]}}"#,
        r#"{"model":"m","prompt":{"id":"p"}}"#,
        r#"{"model":"m","text":{"format":{"type":"json_schema","schema":{}}}}"#,
        r#"{"model":"m","text":{"format":{"type":"json_schema","schema":{}}},"tools":[]}"#,
        r#"{"model":"m","tools":{}}"#,
    ] {
        let mut request = read(body);
        assert!(!request.offer(tools(), SETTINGS), "{body}");
        assert_eq!(text(&request.encode()), body);
        assert!(request.additions().is_empty());
    }
    for body in [
        r#"{"model":"m","conversation":null,"background":false,"tool_choice":"auto","tools":null}"#,
        r#"{"model":"m","prompt":{"id":"p"},"tools":[{"type":"web_search"}]}"#,
        r#"{"model":"m","text":{"format":{"type":"text"}}}"#,
    ] {
        assert!(read(body).offer(tools(), SETTINGS), "{body}");
    }
    let parallel = |members: &str| asked(&format!(r#"{{"model":"m"{members}}}"#))["parallel_tool_calls"].clone();
    assert_eq!(parallel(""), json!(false));
    assert_eq!(parallel(r#","parallel_tool_calls":true,"store":true"#), json!(false));
    assert_eq!(parallel(r#","parallel_tool_calls":true,"store":false"#), json!(true));
    assert_eq!(parallel(r#","store":false"#), Value::Null);
    let mut request = read(r#"{"model":"m","store":false}"#);
    request.offer(
        tools(),
        OfferSettings {
            parallel: false,
            ..SETTINGS
        },
    );
    assert!(text(&request.encode()).contains(r#""parallel_tool_calls":false"#));
}

#[test]
fn r23_the_caller_gets_its_own_words_back() {
    let callers = r#"{"type":"function","name":"shell"}, {"type":"web_search"}"#;
    let body = format!(r#"{{"model":"m","store":false,"input":"hi","include":["x"],"tools":[{callers}]}}"#);
    let echo = |ours: &str, include: &str, choice: &str| {
        format!(
            r#"{{"id":"r","tools":[{callers}{ours}],"include":{include},"tool_choice":"{choice}","parallel_tool_calls":true,"output":[]}}"#
        )
    };
    let ours = format!(r#",{{"type":"function","name":"{CLOCK}"}},{{"name":"{WEATHER}","type":"function"}}"#);
    let provider = echo(&ours, r#"["x","reasoning.encrypted_content"]"#, "none");
    let expected = echo("", r#"["x"]"#, "auto").replace("}, {", "},{");
    let (reply, _) = offered(&body).read_reply(provider.clone().into()).unwrap();
    assert_eq!(text(&reply.seal(Uuid::now_v7(), &Earlier::default())), expected);

    let mut sequence = 0;
    let mut stream = event(&mut sequence, "response.created", &format!(r#""response":{provider}"#));
    stream.push_str(&event(
        &mut sequence,
        "response.completed",
        &format!(r#""response":{provider}"#),
    ));
    let talk = stream_talk(&mut *offered(&body), &[stream], 1000);
    assert_eq!(talk.shown.matches(&expected).count(), 2, "{}", talk.shown);
}

#[test]
fn r25_the_caller_sees_the_size_of_its_context() {
    let rounds = [
        streamed("resp_1", &[call("call_1", CLOCK)], 98),
        streamed("resp_2", &[message("msg_2", "x")], 148),
    ];
    let talk = stream_talk(&mut *offered(r#"{"model":"m"}"#), &rounds, 1000);
    assert_eq!(check(&talk.shown)["usage"]["total_tokens"], 150);
    let totals: Vec<u64> = talk
        .turns
        .iter()
        .map(|turn| {
            let counts = turn.completion.usage.as_ref().unwrap().counts();
            counts.extra.iter().find(|(name, _)| *name == "total_tokens").unwrap().1
        })
        .collect();
    assert_eq!(totals, [100, 150]);
}

#[test]
fn r26_a_name_in_a_namespace_is_not_ours() {
    for member in [
        r#""namespace":"web","#,
        r#""async":true,"#,
        r#""caller":{"type":"program","caller_id":"c"},"#,
    ] {
        let item = call("call_1", CLOCK).replace(r#""call_id""#, &format!(r#"{member}"call_id""#));
        let talk = stream_talk(
            &mut *offered(r#"{"model":"m"}"#),
            &[streamed("resp_1", &[item], 3)],
            1000,
        );
        assert!(!talk.turns[0].is_ours, "{member}");
        assert_eq!(check(&talk.shown)["output"][0]["call_id"], "call_1");
    }
    let item = call("call_1", CLOCK).replace(r#""call_id""#, r#""namespace":"web","call_id""#);
    let talk = whole_talk(
        &mut *offered(r#"{"model":"m"}"#),
        &[response("resp_1", "completed", &[item], 3)],
    );
    assert_eq!(talk.turns[0].calls[0].name, "web.bmcp_local_clock");
    // A direct call is ours, with the member or without.
    for member in [
        r#""caller":{"type":"direct"},"#,
        r#""caller":null,"namespace":null,"async":false,"#,
    ] {
        let item = call("call_1", CLOCK).replace(r#""call_id""#, &format!(r#"{member}"call_id""#));
        let (_, turn) = offered(r#"{"model":"m"}"#)
            .read_reply(response("r", "completed", &[item], 1).into())
            .unwrap();
        assert!(turn.is_ours, "{member}");
    }
}

#[test]
fn what_was_added_can_be_taken_back() {
    let body = r#"{"model":"m","store":false,"parallel_tool_calls":true}"#;
    let mut request = read(body);
    request.offer(
        tools(),
        OfferSettings {
            parallel: false,
            ..SETTINGS
        },
    );
    assert_eq!(
        request.additions(),
        [Addition::Tools, Addition::ParallelToolCalls, Addition::Include]
    );
    request.withdraw(&[Addition::Include]);
    assert!(!text(&request.encode()).contains("include"));
    request.withdraw(&[Addition::Tools]);
    assert_eq!(text(&request.encode()), body);
    let all = request.additions();
    assert!(all.is_empty());
}

#[test]
fn the_last_round_is_told_to_answer() {
    for body in [
        r#"{"model":"m"}"#,
        r#"{"model":"m","tool_choice":"auto"}"#,
        r#"{"model":"m","tool_choice":null}"#,
    ] {
        let mut request = offered(body);
        request.forbid_tools();
        let sent: Value = serde_json::from_str(&text(&request.encode())).unwrap();
        assert_eq!(sent["tool_choice"], "none");
        assert_eq!(sent["tools"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn what_a_request_says_of_itself() {
    let about = |body: &str| {
        let request = read(body);
        let about = request.about();
        (
            about.model.clone(),
            about.stream,
            about.session.clone(),
            about.cache_key.clone(),
            about.has_format,
        )
    };
    let body = r#"{"model":"m","stream":true,"prompt_cache_key":"k","client_metadata":{"session_id":"s"},"text":{"format":{"type":"json_object"}}}"#;
    assert_eq!(
        about(body),
        ("m".to_owned(), true, Some("s".to_owned()), Some("k".to_owned()), true)
    );
    assert_eq!(
        about(r#"{"prompt":{"id":"p"},"text":{}}"#),
        (String::new(), false, None, None, false)
    );
}
