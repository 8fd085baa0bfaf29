//! Limits of every dialect: long texts of a provider or a caller are cut, no input takes many times its size in memory,
//! and none is searched again and again.

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::sse::Decoder;
use super::turn::{Fault, MAX_CALLS, MAX_ERROR, MAX_PARTS, Turn};
use super::usage::MAX_USAGE;
use super::{OfferSettings, Purpose, Relay, RelaySetup, Request, api};
use crate::excerpt::MAX_NAME;
use crate::json::Scanner;
use crate::tools::{ToolDefinition, Tools, tool_fn};
use crate::types::Dialect;

const MIB: usize = 1 << 20;

/// A request with more members, which offers a tool of ours.
fn request(dialect: Dialect, members: &str) -> Box<dyn Request> {
    let content = match dialect {
        Dialect::Responses => r#""input":"hi""#,
        _ => r#""messages":[{"role":"user","content":"hi"}]"#,
    };
    let body = format!(r#"{{"model":"m",{content}{members}}}"#);
    let mut scanner = Scanner::new();
    scanner.scan(body.as_bytes()).unwrap();
    let body = Bytes::from(body).into();
    let mut request = api(dialect).request(body, &scanner, Purpose::Answer).unwrap();
    let clock = tool_fn(ToolDefinition::new("clock"), |_| async {
        Ok::<_, std::convert::Infallible>("")
    });
    let settings = OfferSettings {
        parallel: true,
        reported_usage: None,
    };
    request.offer(Tools::new([clock]), settings);
    request
}

fn call(dialect: Dialect, n: usize) -> String {
    match dialect {
        Dialect::ChatCompletions => {
            format!(r#"{{"index":{n},"id":"c{n}","type":"function","function":{{"name":"mine","arguments":"{{}}"}}}}"#)
        }
        Dialect::Messages => format!(r#"{{"type":"tool_use","id":"c{n}","name":"mine","input":{{}}}}"#),
        Dialect::Responses => format!(
            r#"{{"type":"function_call","id":"f{n}","call_id":"c{n}","name":"mine","arguments":"{{}}","status":"completed"}}"#
        ),
    }
}

/// A whole answer of this name, with this usage and these parts.
fn reply(dialect: Dialect, name: &str, usage: &str, parts: &str) -> String {
    let about = format!(r#""id":"{name}","model":"{name}","service_tier":"{name}""#);
    match dialect {
        Dialect::ChatCompletions => format!(
            r#"{{{about},"choices":[{{"index":0,"message":{{"role":"assistant","content":null,"tool_calls":[{parts}]}}}}],"usage":{usage}}}"#
        ),
        Dialect::Messages => format!(
            r#"{{"type":"message",{about},"role":"assistant","content":[{parts}],"stop_reason":"end_turn","usage":{usage}}}"#
        ),
        Dialect::Responses => {
            format!(r#"{{"object":"response",{about},"status":"completed","output":[{parts}],"usage":{usage}}}"#)
        }
    }
}

fn read(dialect: Dialect, reply: String) -> Result<Turn, Fault> {
    let read = request(dialect, "").read_reply(reply.into());
    read.map(|(_, turn)| turn)
}

/// The beginning of a stream: its description and its usage so far.
fn begin(dialect: Dialect, name: &str, usage: &str) -> String {
    match dialect {
        Dialect::ChatCompletions => format!(
            r#"data: {{"id":"{name}","model":"{name}","service_tier":"{name}","choices":[],"usage":{usage}}}"#
        ),
        Dialect::Messages => format!(
            r#"data: {{"type":"message_start","message":{{"id":"{name}","model":"{name}","usage":{usage}}}}}"#
        ),
        Dialect::Responses => format!(
            r#"data: {{"type":"response.created","response":{{"id":"{name}","model":"{name}","service_tier":"{name}","usage":{usage}}}}}"#
        ),
    }
    .replace('\n', "")
        + "\n\n"
}

/// The events of one call.
fn stream_call(dialect: Dialect, n: usize) -> String {
    let call = call(dialect, n);
    match dialect {
        Dialect::ChatCompletions => {
            format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{call}]}}}}]}}\n\n")
        }
        Dialect::Messages => format!(
            "data: {{\"type\":\"content_block_start\",\"index\":{n},\"content_block\":{call}}}\n\ndata: {{\"type\":\"content_block_stop\",\"index\":{n}}}\n\n"
        ),
        Dialect::Responses => format!(
            "data: {{\"type\":\"response.output_item.added\",\"output_index\":{n},\"item\":{call}}}\n\ndata: {{\"type\":\"response.output_item.done\",\"output_index\":{n},\"item\":{call}}}\n\n"
        ),
    }
}

fn relay(dialect: Dialect) -> Box<dyn Relay> {
    let setup = RelaySetup {
        id: Uuid::nil(),
        recorded: true,
        max_held: 32 * MIB,
    };
    let mut relay = request(dialect, "").relay(setup);
    relay.begin_round(false);
    relay
}

/// Feeds the events until one is refused.
fn feed(relay: &mut dyn Relay, events: String) -> Result<(), Fault> {
    let (mut decoder, mut out) = (Decoder::new(64 * MIB), BytesMut::new());
    decoder.push(events.into());
    while let Some(event) = decoder.next().unwrap() {
        relay.event(&event, &mut out)?;
        out.clear();
    }
    Ok(())
}

#[test]
fn names_are_cut_where_they_enter() {
    let name = "n".repeat(2 * MIB);
    for dialect in Dialect::ALL {
        let mut relay = relay(dialect);
        feed(&mut *relay, begin(dialect, &name, "null")).unwrap();
        let whole = read(dialect, reply(dialect, &name, "null", "")).unwrap().completion;
        for completion in [relay.completion(), whole] {
            let tier = completion.service_tier.unwrap_or_default();
            for kept in [&completion.id, &completion.model, &tier] {
                assert!(kept.len() <= MAX_NAME, "{dialect:?}: {} bytes", kept.len());
            }
            assert!(completion.model.starts_with("nnn") && completion.model.ends_with("in all]"));
        }
        let member = match dialect {
            Dialect::Messages => format!(r#","metadata":{{"user_id":"{}_session_{name}"}}"#, "u"),
            Dialect::Responses => {
                format!(r#","client_metadata":{{"session_id":"{name}"}},"prompt_cache_key":"{name}""#)
            }
            Dialect::ChatCompletions => format!(r#","prompt_cache_key":"{name}""#),
        };
        let request = request(dialect, &member);
        let about = request.about();
        for kept in [&about.session, &about.cache_key].into_iter().flatten() {
            assert!(kept.len() <= MAX_NAME, "{dialect:?}: {} bytes", kept.len());
        }
    }
}

#[test]
fn the_call_that_a_message_answers_is_cut_too() {
    let id = "i".repeat(MIB);
    for (dialect, body) in [
        (
            Dialect::ChatCompletions,
            format!(r#"{{"model":"m","messages":[{{"role":"tool","tool_call_id":"{id}","content":""}}]}}"#),
        ),
        (
            Dialect::Messages,
            format!(
                r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"{id}"}}]}}]}}"#
            ),
        ),
        (
            Dialect::Responses,
            format!(r#"{{"model":"m","input":[{{"type":"function_call_output","call_id":"{id}","output":""}}]}}"#),
        ),
    ] {
        let mut scanner = Scanner::new();
        scanner.scan(body.as_bytes()).unwrap();
        let request = api(dialect).request(body.into(), &scanner, Purpose::Answer).unwrap();
        let answered = request.about().correlating_tool_call_id.as_ref().unwrap();
        assert!(answered.len() <= MAX_NAME && answered.starts_with("iii"), "{dialect:?}");
    }
}

/// A session is looked for in JSON inside of a string: as a tree it would take many times its size.
#[test]
fn a_user_id_of_mebibytes_is_not_parsed() {
    let user = "[],".repeat(MIB);
    let body =
        format!(r#"{{"model":"m","messages":[],"metadata":{{"user_id":"{{\"session_id\":\"s\",\"x\":[{user}0]}}"}}}}"#);
    let mut scanner = Scanner::new();
    scanner.scan(body.as_bytes()).unwrap();
    let body = Bytes::from(body);
    let size = body.len() as u64;
    let allocated = measure(|| {
        let request = api(Dialect::Messages)
            .request(body.into(), &scanner, Purpose::Answer)
            .unwrap();
        assert_eq!(request.about().session, None);
    });
    assert!(allocated.bytes_total < size, "{allocated:?}");
}

#[test]
fn usage_of_mebibytes_is_not_read() {
    let usage = |length: usize| format!(r#"{{"x":"{}","prompt_tokens":1}}"#, "y".repeat(length));
    for dialect in Dialect::ALL {
        for (length, is_read) in [(100, true), (MAX_USAGE, false)] {
            let whole = read(dialect, reply(dialect, "n", &usage(length), "")).unwrap();
            assert_eq!(whole.completion.usage.is_some(), is_read, "{dialect:?}, {length}");
            let mut relay = relay(dialect);
            feed(&mut *relay, begin(dialect, "n", &usage(length))).unwrap();
            assert_eq!(
                relay.completion().usage.is_some(),
                is_read,
                "{dialect:?}, {length}, streamed"
            );
        }
    }
}

#[test]
fn an_error_of_mebibytes_is_not_parsed() {
    for dialect in Dialect::ALL {
        let error = |length: usize| {
            let message = "m".repeat(length);
            format!(r#"{{"type":"error","error":{{"type":"t","code":"c","message":"{message}"}}}}"#)
        };
        assert!(
            api(dialect).read_error(error(1_000).as_bytes()).is_some(),
            "{dialect:?}"
        );
        assert!(
            api(dialect).read_error(error(MAX_ERROR).as_bytes()).is_none(),
            "{dialect:?}"
        );
    }
}

#[test]
fn a_turn_has_so_many_calls_and_parts() {
    let zeros = |count: usize| vec!["0"; count].join(",");
    for dialect in Dialect::ALL {
        let calls = |count: usize| (0..count).map(|n| call(dialect, n)).collect::<Vec<_>>().join(",");
        let whole = |parts: String| read(dialect, reply(dialect, "n", "null", &parts));
        assert_eq!(whole(calls(MAX_CALLS)).unwrap().calls.len(), MAX_CALLS);
        assert!(
            matches!(whole(calls(MAX_CALLS + 1)), Err(Fault::Shape(_))),
            "{dialect:?}"
        );
        let streamed = |count: usize| {
            let events = (0..count).map(|n| stream_call(dialect, n));
            feed(
                &mut *relay(dialect),
                begin(dialect, "n", "null") + &events.collect::<String>(),
            )
        };
        assert!(streamed(MAX_CALLS).is_ok(), "{dialect:?}");
        assert!(matches!(streamed(MAX_CALLS + 1), Err(Fault::Shape(_))), "{dialect:?}");
        // Calls of chat completions are parts as well.
        if dialect != Dialect::ChatCompletions {
            assert!(whole(zeros(MAX_PARTS)).is_ok(), "{dialect:?}");
            assert!(
                matches!(whole(zeros(MAX_PARTS + 1)), Err(Fault::Shape(_))),
                "{dialect:?}"
            );
        }
    }
}

/// Blocks that nobody keeps take memory, too: a stream of them that never ends is cut.
#[test]
fn blocks_without_end_are_no_answer() {
    let block = |n: usize| {
        let block = r#"{"type":"text","text":""}"#;
        format!("data: {{\"type\":\"content_block_start\",\"index\":{n},\"content_block\":{block}}}\n\n")
    };
    let mut relay = relay(Dialect::Messages);
    feed(
        &mut *relay,
        begin(Dialect::Messages, "n", "null") + &stream_call(Dialect::Messages, 0),
    )
    .unwrap();
    let blocks = |range: std::ops::Range<usize>| range.map(block).collect::<String>();
    feed(&mut *relay, blocks(1..MAX_PARTS)).unwrap();
    assert!(matches!(
        feed(&mut *relay, blocks(MAX_PARTS..MAX_PARTS + 1)),
        Err(Fault::Shape(_))
    ));
}

/// The memory of a member beyond its bytes counts for the limit as well.
#[test]
fn members_of_a_byte_fill_a_turn_before_the_memory() {
    let mut relay = relay(Dialect::ChatCompletions);
    let delta = |from: usize| {
        let members: Vec<_> = (from..from + 10_000).map(|n| format!(r#""{n}":0"#)).collect();
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{{}}}}}]}}\n\n",
            members.join(",")
        )
    };
    let (mut refused, mut fed) = (false, 0);
    let allocated = measure(|| {
        while !refused && fed < 100 {
            refused = feed(&mut *relay, delta(10_000 * fed)).is_err();
            fed += 1;
        }
    });
    assert!(refused, "after {fed} deltas");
    assert!(allocated.bytes_current < 80 * MIB as i64, "{allocated:?}");
}

/// Twice the calls are twice the work: counted in allocations, and in the bytes of them.
#[test]
fn calls_and_names_are_found_without_looking_at_the_others() {
    let work = |run: &mut dyn FnMut()| {
        let allocated = measure(&mut *run);
        (allocated.count_total, allocated.bytes_total)
    };
    let assert_linear = |what: &str, run: &dyn Fn(usize)| {
        let once = work(&mut || run(450));
        let twice = work(&mut || run(900));
        for (once, twice) in [(once.0, twice.0), (once.1, twice.1)] {
            // Vectors and maps grow in steps.
            assert!(twice <= 2 * once + once / 2 + 4_096, "{what}: {once}, then {twice}");
        }
    };
    for dialect in Dialect::ALL {
        assert_linear(&format!("{dialect:?}, whole"), &|count| {
            let calls: Vec<_> = (0..count).map(|n| call(dialect, n)).collect();
            read(dialect, reply(dialect, "n", "null", &calls.join(","))).unwrap();
        });
        assert_linear(&format!("{dialect:?}, streamed"), &|count| {
            let mut relay = relay(dialect);
            let calls: String = (0..count).map(|n| stream_call(dialect, n)).collect();
            feed(&mut *relay, begin(dialect, "n", "null") + &calls).unwrap();
            assert_eq!(relay.turn().calls.len(), count);
        });
        assert_linear(&format!("{dialect:?}, the caller's tools"), &|count| {
            // More than any API takes are not looked at.
            let tools: Vec<_> = (0..count)
                .map(|n| format!(r#"{{"type":"function","name":"bmcp_{n}","function":{{"name":"bmcp_{n}"}}}}"#))
                .collect();
            request(dialect, &format!(r#","tools":[{}]"#, tools.join(",")));
        });
    }
    assert_linear("names of a delta", &|count| {
        let members: Vec<_> = (0..count).map(|n| format!(r#""member{n}":0"#)).collect();
        let delta = format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{{}}}}}]}}\n\n",
            members.join(",")
        );
        feed(&mut *relay(Dialect::ChatCompletions), delta.clone() + &delta).unwrap();
    });
}
