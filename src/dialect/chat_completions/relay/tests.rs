//! The relay alone, event by event; whole conversations are in `tests/streaming`.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::dialect::sse::Decoder;
use crate::tools::{ToolDefinition, Tools, tool_fn};

const HIDDEN: &str = r#"data: {"id":"c","choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"bmcp_local_clock"}}]}}]}"#;

fn relay(offers: bool) -> ChatRelay {
    let tool = tool_fn(ToolDefinition::new("clock"), |_| async {
        Ok::<_, std::convert::Infallible>("")
    });
    let offer = if offers {
        Offer::new(Tools::new([tool]), Vec::new(), 128)
    } else {
        Offer::default()
    };
    let setup = RelaySetup {
        id: Uuid::nil(),
        recorded: true,
        max_held: 1 << 20,
    };
    let mut relay = ChatRelay::new(setup, true, true, offer);
    relay.begin_round(false);
    relay
}

/// The caller's bytes for these frames, and the result of the last event.
fn feed(relay: &mut ChatRelay, frames: &[&str]) -> (String, Result<Progress, Fault>) {
    let (mut decoder, mut out, mut last) = (Decoder::new(usize::MAX), BytesMut::new(), Ok(Progress::Aside));
    for frame in frames {
        decoder.push(Bytes::copy_from_slice(frame.as_bytes()));
        while let Some(event) = decoder.next().unwrap() {
            last = relay.event(&event, &mut out);
        }
    }
    let out = String::from_utf8(out.into())
        .unwrap()
        .replace(&Uuid::nil().to_string(), "$ID");
    (out, last)
}

#[test]
fn the_late_line_end_of_a_hidden_event_is_hidden() {
    let hidden = format!("{HIDDEN}\r\n\r");
    let (out, last) = feed(&mut relay(true), &[&hidden, "\n: shown\r\n\r", "\n"]);
    assert_eq!(out, ": shown\r\n\r\n");
    assert!(matches!(last, Ok(Progress::Aside)));
}

#[test]
fn several_answers_are_nobodys_round() {
    let chunk = r#"data: {"id" : "c", "choices":[{"index":1,"delta":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}"#;
    let stream = format!("{chunk}\n\n{chunk}\n\n");
    for offers in [false, true] {
        assert_eq!(
            feed(&mut relay(offers), &[&stream]).0,
            stream.replace(r#""c""#, r#""$ID""#)
        );
    }
}

#[test]
fn an_id_of_any_kind_is_replaced_and_a_missing_one_is_not_missed() {
    let stream = "data: {\"id\":null,\"choices\":[]}\n\ndata: {\"id\": {\"a\":[1]} }\n\ndata: {}\n\n";
    let shown = "data: {\"id\":\"$ID\",\"choices\":[]}\n\ndata: {\"id\": \"$ID\" }\n\ndata: {}\n\n";
    assert_eq!(feed(&mut relay(true), &[stream]).0, shown);
}

#[test]
fn an_event_that_is_not_a_chunk_is_a_fault() {
    for data in ["[]", "1", "{", "{}x", ""] {
        let (out, last) = feed(&mut relay(true), &[&format!("data: {data}\n\n")]);
        assert!(out.is_empty() && matches!(last, Err(Fault::Shape(_))), "{data}");
    }
    let (_, last) = feed(&mut relay(true), &["data: {\"error\":{\"code\":1}}\n\n"]);
    assert!(matches!(last, Err(Fault::Refused(error)) if error.body == r#"{"error":{"code":1}}"#));
    let (_, last) = feed(&mut relay(true), &["data: {\"error\":null}\n\n"]);
    assert!(matches!(last, Ok(Progress::Shown)));
    let (_, last) = feed(&mut relay(true), &["data: [DONE]\n\n"]);
    assert!(matches!(last, Err(Fault::Shape(_))), "nothing came before it");
}

#[test]
fn usage_adds_up_in_the_place_of_the_last() {
    let mut relay = relay(true);
    let usage = r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"x":{"y":1}} ,"z":1.0}"#;
    let first = format!("{HIDDEN}\n\n{usage}\n\ndata: [DONE]\n\n");
    assert_eq!(feed(&mut relay, &[&first]).0, "");
    assert!(relay.take_usage_changed() && !relay.take_usage_changed());
    drop(relay.replay());
    relay.begin_round(false);
    let (out, last) = feed(&mut relay, &[&format!("{usage}\n\ndata: [DONE]\n\n")]);
    assert_eq!(
        out,
        "data: {\"id\":\"$ID\",\"choices\":[],\"usage\":{\"prompt_tokens\":6,\"x\":{\"y\":2}} ,\"z\":1.0}\n\ndata: [DONE]\n\n"
    );
    assert!(matches!(last, Ok(Progress::Done)));
}

#[test]
fn usage_belongs_to_a_model_that_is_named_after_it() {
    let mut relay = relay(true);
    let usage = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":3}}\n\n";
    feed(&mut relay, &[usage]).1.unwrap();
    assert!(relay.take_usage_changed() && relay.completion().model.is_empty());
    let named = "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[]}\n\n";
    feed(&mut relay, &[named]).1.unwrap();
    assert!(relay.take_usage_changed() && relay.completion().model == "m");
    feed(&mut relay, &[named]).1.unwrap();
    assert!(!relay.take_usage_changed());
}

#[test]
fn a_character_that_is_cut_in_two_is_put_together_again() {
    let piece = |text: &str| format!(r#"data: {{"id":"$ID","choices":[{{"delta":{{"content":"{text}"}}}}]}}"#) + "\n\n";
    let stream = piece(r"\ud83d") + &piece(r"\ude00");
    let mut relay = relay(true);
    assert_eq!(feed(&mut relay, &[&stream]).0, stream);
    let arguments = |text: &str| {
        format!(
            r#"data: {{"choices":[{{"delta":{{"tool_calls":[{{"index":0,"function":{{"arguments":"{text}"}}}}]}}}}]}}"#
        ) + "\n\n"
    };
    let calls = format!("{HIDDEN}\n\n{}{}", arguments(r"\ud83d"), arguments(r"\ude00"));
    assert_eq!(feed(&mut relay, &[&calls]).0, "");
    assert_eq!(relay.turn().calls[0].arguments, "😀");
    let replayed = relay.replay();
    assert!(
        replayed
            .bytes(0..replayed.len())
            .windows(24)
            .any(|part| part == br#""content":"\ud83d\ude00""#.as_slice())
    );
}

#[test]
fn a_stream_that_has_finished_needs_no_done() {
    let piece = |finish: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"x\"}},\"finish_reason\":{finish}}}]}}\n\n")
    };
    for (offers, finish, complete) in [
        (false, "\"stop\"", true),
        (true, "\"stop\"", true),
        (true, "null", false),
    ] {
        let mut relay = relay(offers);
        feed(&mut relay, &[&piece(finish)]).1.unwrap();
        let mut out = BytesMut::new();
        assert_eq!(relay.end(&mut out), complete);
        assert_eq!(&out[..], if complete { &b"data: [DONE]\n\n"[..] } else { b"" });
    }
}

fn calls(pieces: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"$ID\",\"choices\":[{{\"delta\":{{\"tool_calls\":[{pieces}]}},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

const OURS: &str = r#"{"index":0,"id":"a","function":{"name":"bmcp_local_clock","arguments":"{\"x"}}"#;

#[test]
fn a_turn_that_was_cut_off_is_the_callers() {
    let end = |delta: &str| {
        let delta = if delta.is_empty() {
            String::new()
        } else {
            format!("\"delta\":{delta},")
        };
        format!("data: {{\"id\":\"$ID\",\"choices\":[{{{delta}\"finish_reason\":\"length\"}}]}}\n\n")
    };
    for delta in ["{}", "null", ""] {
        let mut relay = relay(true);
        let stream = format!("{}{}", calls(OURS, "null"), end(delta));
        assert_eq!(feed(&mut relay, &[&stream]).0, end(delta), "the end alone is shown");
        let turn = relay.turn();
        assert!(!turn.is_ours && turn.calls.len() == 1);

        // The caller's call that was withheld comes with the end.
        let theirs = r#"{"index":1,"id":"b","type":"function","function":{"name":"mine","arguments":""}}"#;
        let more = r#"{"index":1,"function":{"arguments":"{\"q"}}"#;
        let with_role = calls(OURS, "null").replace(r#"{"tool"#, r#"{"role":"assistant","tool"#);
        let mut relay = self::relay(true);
        let stream = format!(
            "{with_role}{}{}{}",
            calls(theirs, "null"),
            calls(more, "null"),
            end(delta)
        );
        let whole = r#"{"index":0,"id":"b","type":"function","function":{"name":"mine","arguments":"{\"q"}}"#;
        let (out, _) = feed(&mut relay, &[&stream]);
        assert_eq!(
            out,
            end(&format!("{{\"role\":\"assistant\",\"tool_calls\":[{whole}]}}")),
            "{delta}"
        );
        assert!(!relay.turn().is_ours);
    }
    // All in one chunk.
    let mut relay = relay(true);
    let (out, _) = feed(&mut relay, &[&calls(OURS, "\"content_filter\"")]);
    assert_eq!(
        out,
        "data: {\"id\":\"$ID\",\"choices\":[{\"delta\":{},\"finish_reason\":\"content_filter\"}]}\n\n"
    );
    assert!(!relay.turn().is_ours);
}

#[test]
fn a_turn_with_an_empty_finish_reason_goes_on() {
    let mut relay = relay(true);
    feed(&mut relay, &[&calls(OURS, "\"\"")]).1.unwrap();
    assert!(!relay.end(&mut BytesMut::new()), "the model has not finished");
    let (out, _) = feed(
        &mut relay,
        &[&calls(
            r#"{"index":0,"function":{"arguments":"\"}"}}"#,
            "\"tool_calls\"",
        )],
    );
    assert!(out.is_empty() && relay.turn().is_ours);
}

#[test]
fn a_call_whose_name_never_comes_is_the_callers() {
    let nameless = r#"{"index":0,"id":"a","function":{"arguments":"{}"}}"#;
    let end = "data: {\"id\":\"$ID\",\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n";
    let mut relay = relay(true);
    let (out, _) = feed(&mut relay, &[&calls(nameless, "null"), end]);
    assert_eq!(out, calls(nameless, "\"tool_calls\""));
    assert!(!relay.turn().is_ours);

    // It is decided when the next call begins, so a call of ours after it is not the first.
    let mut relay = self::relay(true);
    let ours = OURS.replace("\"index\":0", "\"index\":1").replace("\"a\"", "\"b\"");
    let (out, _) = feed(&mut relay, &[&calls(nameless, "null"), &calls(&ours, "null"), end]);
    assert_eq!(out, format!("{}{end}", calls(nameless, "null")));
    assert!(!relay.turn().is_ours);

    // The wait for a name is bounded.
    let mut relay = self::relay(true);
    let long = calls(
        &format!(r#"{{"index":0,"function":{{"arguments":"{}"}}}}"#, "x".repeat(70_000)),
        "null",
    );
    assert_eq!(feed(&mut relay, &[&long]).0, long);
}

/// Chunks of all kinds, which a provider may send in any order.
const CHUNKS: [&str; 18] = [
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"pad":"x"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"b\n"},"finish_reason":null}],"pad":"xyz"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}],"pad":"x"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":null},"finish_reason":null}],"pad":"x"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":1,"delta":{"content":"a"},"finish_reason":null}],"pad":"x"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"reasoning":"a"},"finish_reason":null}],"pad":"x"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"a","refusal":null},"finish_reason":null}],"pad":"x"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"a","refusal":"b"},"finish_reason":null}],"pad":"x"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}],"pad":"x"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":null}],"pad":"x"}"#,
    r#"{"id":"other","model":"m2","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"pad":"x"}"#,
    r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":""}],"pad":"x"}"#,
    r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}],"pad":"x"}"#,
    r#"{"id":"c","choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
    r#"{"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
    r#"{"id":"c","choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"bmcp_local_clock","arguments":"{"}}]}}]}"#,
    r#"{"id":"c","choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"theirs","arguments":"{"}}]}}]}"#,
    r#"{"id":"c","choices":[{"delta":{"role":"assistant","tool_calls":[{"index":2,"id":"d","function":{"name":"bmcp_local_clock"}}]}}]}"#,
];

proptest! {
    /// A chunk that is recognised has the effect of one that is parsed.
    #[test]
    fn a_chunk_like_the_last_one_need_not_be_parsed(
        // The first two are like each other, so they come most often; all others come several times in a row.
        kinds in prop::collection::vec((prop_oneof![1 => 0..2_usize, 2 => 0..CHUNKS.len()], 1..4_usize), 0..12),
        offers: bool,
        rounds in 1..3_usize,
    ) {
        let (mut relayed, mut parsed) = (relay(offers), relay(offers));
        for _ in 0..rounds {
            for kind in kinds.iter().flat_map(|(kind, times)| std::iter::repeat_n(kind, *times)) {
                let event = format!("data: {}\n\n", CHUNKS[*kind]);
                parsed.template.forget();
                let (left, right) = (feed(&mut relayed, &[&event]), feed(&mut parsed, &[&event]));
                prop_assert_eq!((left.0, left.1.ok()), (right.0, right.1.ok()));
            }
            let shown = |relay: &mut ChatRelay| {
                let calls: Vec<_> = relay.turn().calls.into_iter().map(|call| (call.name, call.arguments)).collect();
                (calls, format!("{:?}", relay.completion()), relay.replay().into_bytes())
            };
            prop_assert_eq!(shown(&mut relayed), shown(&mut parsed));
            relayed.begin_round(true);
            parsed.begin_round(true);
        }
    }
}

#[test]
fn a_chunk_with_other_text_is_recognised() {
    let mut relay = relay(true);
    assert!(feed(&mut relay, &[&format!("data: {}\n\n", CHUNKS[0])]).1.is_ok());
    assert!(relay.template.read(CHUNKS[1].as_bytes()).is_some());
    assert!(feed(&mut relay, &[&format!("data: {}\n\n", CHUNKS[12])]).1.is_ok());
    assert!(relay.template.read(CHUNKS[1].as_bytes()).is_none());
}
