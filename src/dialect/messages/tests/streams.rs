//! How streams begin, stay alive, fail and end.

use bytes::BytesMut;
use proptest::prelude::*;
use serde_json::json;

use super::conversation::*;
use super::parity::conversations;
use crate::dialect::turn::{Fault, Progress};
use crate::dialect::{Purpose, RelaySetup};

const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

fn start() -> String {
    let round = stream(&message("a", json!([]), "end_turn", usage(1, 2)));
    format!("{}\n\n", round.split("\n\n").next().unwrap())
}

fn text_of(out: &BytesMut) -> String {
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn the_start_is_held_until_something_is_shown() {
    let round = stream(&message("a", json!([words("x")]), "end_turn", usage(1, 2)));
    let (mut relay, mut out) = (offered(REQUEST, None).relay(SETUP), BytesMut::new());
    relay.begin_round(false);
    let begin = format!(": hello\n\n{}{PING}", start());
    assert!(matches!(
        feed(&mut *relay, &begin, Cut::Whole, &mut out),
        Ok(Progress::Aside)
    ));
    assert!(out.is_empty());
    let rest = round
        .split_once("message_start")
        .unwrap()
        .1
        .split_once("\n\n")
        .unwrap()
        .1;
    feed(&mut *relay, rest, Cut::Whole, &mut out).unwrap();
    assert_eq!(text_of(&out), format!("{begin}{rest}"));
}

#[test]
fn a_failed_attempt_leaves_nothing() {
    let (mut relay, mut out) = (offered(REQUEST, None).relay(SETUP), BytesMut::new());
    relay.begin_round(false);
    feed(
        &mut *relay,
        &format!("{}{PING}", start().replace("\"a\"", "\"failed\"")),
        Cut::Whole,
        &mut out,
    )
    .unwrap();
    relay.begin_round(false);
    let round = stream(&message("b", json!([words("x")]), "end_turn", usage(1, 2)));
    feed(&mut *relay, &round, Cut::Whole, &mut out).unwrap();
    assert_eq!(text_of(&out), round);
    assert_eq!(relay.msg_id(), "b");
}

/// M20: silence is broken every 10 s, by comments as long as the answer may still fail over.
#[test]
fn m20_keep_alives_are_pings_once_the_start_is_out() {
    let (mut relay, mut out) = (offered(REQUEST, None).relay(SETUP), BytesMut::new());
    relay.begin_round(false);
    relay.keep_alive(&mut out);
    feed(&mut *relay, &start(), Cut::Whole, &mut out).unwrap();
    for _ in 0..5 {
        relay.keep_alive(&mut out);
    }
    assert_eq!(text_of(&out), ": keep-alive\n\n".repeat(6));
    out.clear();
    relay.keep_alive(&mut out);
    assert_eq!(text_of(&out), format!("{}{PING}", start()), "after 60 s");

    // The second attempt's start is not shown any more.
    out.clear();
    relay.begin_round(true);
    let round = stream(&message("b", json!([words("x")]), "end_turn", usage(1, 2)));
    feed(&mut *relay, &round, Cut::Whole, &mut out).unwrap();
    assert!(!text_of(&out).contains("message_start"));
    Client::of(&format!("{}{}", start(), text_of(&out))).message();
}

#[test]
fn while_tools_run_the_hidden_start_goes_out_with_a_ping() {
    let (mut relay, mut out) = (offered(REQUEST, None).relay(SETUP), BytesMut::new());
    relay.begin_round(false);
    let round = stream(&message(
        "a",
        json!([call("t", CLOCK, json!({}))]),
        "tool_use",
        usage(1, 2),
    ));
    feed(&mut *relay, &round, Cut::Whole, &mut out).unwrap();
    assert!(relay.turn().is_ours && out.is_empty());
    for _ in 0..6 {
        relay.keep_alive(&mut out);
    }
    let client = Client::of(&text_of(&out));
    assert_eq!((client.pings, client.message.unwrap()["id"].as_str()), (7, Some("a")));
}

#[test]
fn an_error_in_a_stream_is_the_providers_with_its_status() {
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let events = format!("{}{PING}event: error\ndata: {error}\n\n", start());
    for offers in [false, true] {
        let request = if offers {
            offered(REQUEST, None)
        } else {
            read(REQUEST, Purpose::Answer)
        };
        let (mut relay, mut out) = (request.relay(SETUP), BytesMut::new());
        relay.begin_round(false);
        let Err(Fault::Refused(refused)) = feed(&mut *relay, &events, Cut::Whole, &mut out) else {
            panic!("an error is an error");
        };
        assert_eq!((refused.status.as_u16(), &refused.body[..]), (529, error.as_bytes()));
        assert!(out.is_empty());
    }
}

#[test]
fn what_is_no_event_of_the_api_is_a_fault() {
    for data in ["[]", "1", "{", "{}x"] {
        let (mut relay, mut out) = (offered(REQUEST, None).relay(SETUP), BytesMut::new());
        relay.begin_round(false);
        let last = feed(&mut *relay, &format!("data: {data}\n\n"), Cut::Whole, &mut out);
        assert!(out.is_empty() && matches!(last, Err(Fault::Shape(_))), "{data}");
    }
    let (mut relay, mut out) = (offered(REQUEST, None).relay(SETUP), BytesMut::new());
    relay.begin_round(false);
    let last = feed(
        &mut *relay,
        "data: {\"type\":\"message_stop\"}\n\n",
        Cut::Whole,
        &mut out,
    );
    assert!(matches!(last, Err(Fault::Shape(_))), "nothing came before it");
}

#[test]
fn a_turn_of_too_many_calls_or_bytes_is_no_answer() {
    let block = |index: usize| {
        event(&json!({"type": "content_block_start", "index": index, "content_block": call("t", CLOCK, json!({}))}))
    };
    let (mut relay, mut out) = (offered(REQUEST, None).relay(SETUP), BytesMut::new());
    relay.begin_round(false);
    let calls: String = (0..1000).map(block).collect();
    assert!(feed(&mut *relay, &calls, Cut::Whole, &mut out).is_ok());
    assert!(matches!(
        feed(&mut *relay, &block(1000), Cut::Whole, &mut out),
        Err(Fault::Shape(_))
    ));
    let many = json!({"content": vec![call("t", "mine", json!({})); 1001]}).to_string();
    assert!(matches!(
        offered(REQUEST, None).read_reply(many.into()),
        Err(Fault::Shape(_))
    ));

    let setup = RelaySetup {
        max_held: 2000,
        ..SETUP
    };
    let long = words(&"x".repeat(2001));
    let events = stream(&message("a", json!([long]), "end_turn", usage(1, 2)));
    let (mut relay, mut out) = (offered(REQUEST, None).relay(setup), BytesMut::new());
    relay.begin_round(false);
    assert!(matches!(
        feed(&mut *relay, &events, Cut::Whole, &mut out),
        Err(Fault::Shape(_))
    ));

    // Where no round can follow, records alone are no reason to break an answer.
    let events = stream(&message("a", json!([call("t", "mine", long)]), "tool_use", usage(1, 2)));
    let (mut relay, mut out) = (read(REQUEST, Purpose::Answer).relay(setup), BytesMut::new());
    relay.begin_round(false);
    assert!(matches!(
        feed(&mut *relay, &events, Cut::Whole, &mut out),
        Ok(Progress::Done)
    ));
    assert_eq!(text_of(&out), events);
}

#[test]
fn a_delta_that_is_not_known_makes_the_turn_the_callers() {
    let unknown = event(&json!({"type": "content_block_delta", "index": 0, "delta": {"type": "new_delta", "x": 1}}));
    let round = |content: serde_json::Value| {
        let events = stream(&message("a", content, "tool_use", usage(1, 2)));
        let at = events.find("event: content_block_stop").unwrap();
        format!("{}{unknown}{}", &events[..at], &events[at..])
    };
    let ours = call("t1", CLOCK, json!({}));
    let mine = call("t2", "mine", json!({"a": 1}));

    let told = streamed(offered(REQUEST, None), &[round(json!([words("x"), ours]))], Cut::Whole);
    assert!(!told.turns[0].is_ours && told.turns[0].calls.len() == 1);
    let client = Client::of(&told.caller);
    assert_eq!(client.content(), &json!([words("x")]));
    assert_eq!(
        client.message()["stop_reason"],
        "end_turn",
        "there is nothing to answer"
    );

    for content in [json!([words("x"), ours, mine]), json!([ours, mine])] {
        let told = streamed(offered(REQUEST, None), &[round(content)], Cut::Whole);
        assert!(!told.turns[0].is_ours && told.turns[0].calls.len() == 2);
        let client = Client::of(&told.caller);
        assert_eq!(client.content().as_array().unwrap().last(), Some(&mine));
        assert_eq!(client.message()["stop_reason"], "tool_use");
    }
}

#[test]
fn a_stream_without_its_last_event_is_complete_if_the_model_has_stopped() {
    for (name, rounds) in conversations() {
        let streams: Vec<String> = rounds.iter().map(stream).collect();
        let expected = streamed(offered(REQUEST, None), &streams, Cut::Whole);
        let mut request = offered(REQUEST, None);
        let (mut relay, mut out) = (request.relay(SETUP), BytesMut::new());
        for stream in &streams {
            relay.begin_round(!out.is_empty());
            let unended = stream
                .strip_suffix("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
                .unwrap();
            assert!(feed_broken(&mut *relay, unended.as_bytes(), true, &mut out));
            if relay.turn().is_ours {
                let replay = relay.replay();
                request.extend(replay, &[]);
            }
        }
        assert_eq!(text_of(&out), expected.caller, "{name}");
    }
}

/// M19: a stream that is cut never looks like a clean end, and every event of it is whole.
#[test]
fn m19_a_cut_stream_ends_with_an_error() {
    for (place, (name, rounds)) in conversations().into_iter().enumerate() {
        let streams: Vec<String> = rounds.iter().map(stream).collect();
        let (last, earlier) = streams.split_last().unwrap();
        let stops = last.find("event: message_delta").unwrap();
        // All streams have the same parts: together they are cut at every byte of each.
        for at in (place % 5..last.len()).step_by(5) {
            for is_clean in [false, true] {
                let mut request = offered(REQUEST, None);
                let (mut relay, mut out) = (request.relay(SETUP), BytesMut::new());
                for stream in earlier {
                    relay.begin_round(!out.is_empty());
                    feed(&mut *relay, stream, Cut::Whole, &mut out).unwrap();
                    let replay = relay.replay();
                    request.extend(replay, &[]);
                }
                relay.begin_round(!out.is_empty());
                let is_complete = feed_broken(&mut *relay, &last.as_bytes()[..at], is_clean, &mut out);
                assert!(!is_complete || at > stops, "{name} cut at {at}");
                let client = Client::of(&text_of(&out));
                assert_eq!(client.is_stopped, is_complete, "{name} cut at {at}");
                assert_eq!(client.error.is_some(), !is_complete, "{name} cut at {at}");
            }
        }
    }
}

proptest! {
    /// Whatever a provider sends, nothing panics, and the caller's events are whole.
    #[test]
    fn events_in_any_order_do_not_break_the_callers_stream(
        picks in prop::collection::vec((0_usize..400, 0_usize..3), 0..40),
        is_clean in any::<bool>(),
    ) {
        let all: Vec<String> = conversations()
            .into_iter()
            .flat_map(|(_, rounds)| rounds)
            .flat_map(|round| stream(&round).split_inclusive("\n\n").map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let (mut relay, mut out) = (offered(REQUEST, None).relay(SETUP), BytesMut::new());
        relay.begin_round(false);
        let mut events = String::new();
        for (pick, ends) in picks {
            events += &all[pick % all.len()].replace('\n', ["\n", "\r\n", "\r"][ends]);
        }
        feed_broken(&mut *relay, events.as_bytes(), is_clean, &mut out);
        relay.turn();
        let replay = text(relay.replay());
        prop_assert!(serde_json::from_str::<serde_json::Value>(&replay).is_ok(), "{}", replay);
        let lines = text_of(&out).replace("\r\n", "\n").replace('\r', "\n");
        prop_assert!(lines.is_empty() || lines.ends_with("\n\n"));
        for block in lines.split("\n\n").filter(|block| !block.is_empty()) {
            let data = block.lines().find_map(|line| line.strip_prefix("data: "));
            prop_assert!(data.is_none_or(|data| serde_json::from_str::<serde_json::Value>(data).is_ok()), "{}", block);
        }
    }

    #[test]
    fn arbitrary_text_never_panics(stream in "(data: ?\\{\"(type|index|delta|usage)\": ?[\"a-z0-9{}:,]{0,40}\\}?(\n|\r){1,2}|[ -~\n\r]{0,20}){0,12}") {
        let (mut relay, mut out) = (offered(REQUEST, None).relay(SETUP), BytesMut::new());
        relay.begin_round(false);
        feed_broken(&mut *relay, stream.as_bytes(), true, &mut out);
        relay.turn();
        relay.replay();
    }
}
