//! Neither the cuts of frames nor the line ends change anything; random turns keep all rules.

use proptest::prelude::*;

use super::*;

const HELLO: &str = r#"{"model":"gpt-9","input":"hi"}"#;

#[test]
fn a_stream_may_be_cut_at_every_byte() {
    let rounds = [
        streamed(
            "resp_1",
            &[
                reasoning("rs_1"),
                message("msg_1", "a"),
                reasoning("rs_2"),
                call("call_1", CLOCK),
            ],
            3,
        ),
        streamed("resp_2", &[reasoning("rs_3"), message("msg_2", "b")], 4),
    ];
    // Without the long echo of our tools: cuts inside it test nothing new.
    let rounds = rounds.map(|stream| stream.replace(&echo(), r#"[{"type":"web_search"}]"#));
    let expected = stream_talk(&mut *offered(HELLO), &rounds, usize::MAX);
    check(&expected.shown);
    for (ending, round) in [("\n", 0), ("\r\n", 0), ("\r", 0), ("\n", 1), ("\r\n", 1), ("\r", 1)] {
        let rounds = rounds.clone().map(|stream| stream.replace('\n', ending));
        let whole = stream_talk(&mut *offered(HELLO), &rounds, usize::MAX);
        assert_eq!(normal(&whole.shown), expected.shown);
        let expected = whole.shown;
        for cut in 0..rounds[round].len() {
            let mut request = offered(HELLO);
            let (mut relay, mut out) = (request.relay(setup()), BytesMut::new());
            for (number, stream) in rounds.iter().enumerate() {
                relay.begin_round(!out.is_empty());
                let mut decoder = Decoder::new(1 << 20);
                let cut = if number == round { cut } else { 0 };
                for piece in [&stream[..cut], &stream[cut..]] {
                    decoder.push(Bytes::copy_from_slice(piece.as_bytes()));
                    while let Some(event) = decoder.next().unwrap() {
                        if relay.event(&event, &mut out).unwrap() == Progress::Done {
                            break;
                        }
                    }
                }
                let turn = relay.turn();
                if turn.is_ours {
                    let replayed = relay.replay();
                    request.extend(replayed, &results(&turn));
                }
            }
            assert_eq!(
                std::str::from_utf8(&out).unwrap(),
                expected,
                "{ending:?}, round {round}, byte {cut}"
            );
        }
    }
}

#[test]
fn the_providers_last_error_is_whole_however_it_is_cut() {
    let error =
        r#"{"type":"response.failed","response":{"id":"resp_1","error":{"code":"server_error","message":"no"}}}"#;
    let begin = streamed("resp_1", &[message("msg_1", "a")], 3);
    let begin = &begin[..begin.rfind("event: ").unwrap()];
    for end in ["\n\n", "\n", ""] {
        let stream = format!("{begin}event: response.failed\ndata: {error}{end}").replace('\n', "\r\n");
        let shown = |frames: &[&str]| {
            let (mut relay, mut out, mut decoder) =
                (offered(HELLO).relay(setup()), BytesMut::new(), Decoder::new(1 << 20));
            relay.begin_round(false);
            let mut fault = None;
            for frame in frames {
                decoder.push(Bytes::copy_from_slice(frame.as_bytes()));
                while let (None, Ok(Some(event))) = (&fault, decoder.next()) {
                    fault = relay.event(&event, &mut out).err();
                }
            }
            if fault.is_none() {
                fault = relay.event(&decoder.finish().unwrap(), &mut out).err();
            }
            let Some(Fault::Refused(error)) = fault else {
                panic!("{fault:?}")
            };
            let words = crate::dialect::turn::ErrorWords::Provider {
                status: error.status,
                body: &error.body,
            };
            relay.fail(words, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        let whole = shown(&[&stream]);
        assert!(whole.ends_with("\n\r\n") || whole.ends_with("\n\n"), "{whole:?}");
        let last = stream.len() - 1;
        assert_eq!(shown(&[&stream[..last], &stream[last..]]), whole);
    }
}

/// The stream with LF as its line end.
fn normal(stream: &str) -> String {
    stream.replace("\r\n", "\n").replace('\r', "\n")
}

/// A stream that ends early at any byte never has a last event, until it is told to fail.
#[test]
fn a_stream_that_is_cut_off_never_looks_complete() {
    let stream = streamed(
        "resp_1",
        &[reasoning("rs_1"), message("msg_1", "a"), call("call_1", "shell")],
        3,
    );
    for end in 0..stream.len() - 1 {
        let (mut relay, mut out) = (offered(HELLO).relay(setup()), BytesMut::new());
        relay.begin_round(false);
        feed(&mut *relay, &stream.as_bytes()[..end], 1000, &mut out).unwrap();
        assert!(!relay.end(&mut out));
        let shown = String::from_utf8(out.to_vec()).unwrap();
        assert!(!kinds(&shown).iter().any(|kind| kind == "response.completed"));
        let error = crate::error::BridgeError::new(crate::error::BridgeErrorKind::UpstreamFailed, "cut");
        relay.fail(crate::dialect::turn::ErrorWords::Bridge(&error), &mut out);
        let events = events(std::str::from_utf8(&out).unwrap());
        let last = &events[events.len() - 1];
        assert_eq!(
            (last["type"].as_str(), last["response"]["status"].as_str()),
            (Some("response.failed"), Some("failed"))
        );
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
    }
}

fn item() -> impl Strategy<Value = (u8, u8)> {
    (0_u8..7, any::<u8>())
}

proptest! {
    #[test]
    fn random_turns_keep_every_promise(
        turns in prop::collection::vec(prop::collection::vec(item(), 0..7), 1..5),
        frame in 1_usize..2000,
        stored in any::<bool>(),
    ) {
        let body = format!(r#"{{"model":"gpt-9","input":[],"store":{stored}}}"#);
        let mut number = 0;
        let mut made: Vec<Vec<String>> = Vec::new();
        for turn in turns {
            let mut items = Vec::new();
            for (kind, _) in turn {
                number += 1;
                items.push(match kind {
                    0 => message(&format!("msg_{number}"), "x"),
                    1 => reasoning(&format!("rs_{number}")),
                    2 => call(&format!("call_{number}"), CLOCK),
                    3 => call(&format!("call_{number}"), "shell"),
                    4 => format!(r#"{{"id":"new_{number}","type":"never_seen","status":"completed"}}"#),
                    5 => format!(r#"{{"id":"ws_{number}","type":"web_search_call","status":"completed"}}"#),
                    _ => format!(r#"{{"id":"sh_{number}","type":"shell_call","status":"completed","call_id":"call_{number}"}}"#),
                });
            }
            made.push(items);
        }
        // A turn that is the caller's ends the conversation.
        let (mut rounds, mut wholes) = (Vec::new(), Vec::new());
        for (round, items) in made.iter().enumerate() {
            let id = format!("resp_{round}");
            rounds.push(streamed(&id, items, 10));
            wholes.push(response(&id, "completed", items, 10));
            let (_, turn) = offered(&body).read_reply(wholes[round].clone().into()).unwrap();
            if !turn.is_ours {
                break;
            }
            if round + 1 == made.len() {
                rounds.push(streamed("resp_last", &[message("msg_last", "x")], 10));
                wholes.push(response("resp_last", "completed", &[message("msg_last", "x")], 10));
            }
        }
        let stream = stream_talk(&mut *offered(&body), &rounds, frame);
        let last = check(&stream.shown);
        assert_no_trace_of_ours(&stream.shown);
        let whole = whole_talk(&mut *offered(&body), &wholes);
        let answer: Value = serde_json::from_str(&whole.shown).unwrap();
        prop_assert_eq!(&last["output"], &answer["output"]);
        prop_assert_eq!(&stream.asked, &whole.asked);
        // Every call in the last request has its output, and every item came back as it was.
        let asked: Value = serde_json::from_str(&stream.asked[stream.asked.len() - 1]).unwrap();
        let input = asked["input"].as_array().unwrap();
        for call in input.iter().filter(|item| item["type"] == "function_call") {
            prop_assert!(input.iter().any(|item| item["type"] == "function_call_output" && item["call_id"] == call["call_id"]));
        }
    }

    #[test]
    fn anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), frame in 1_usize..50) {
        let mut relay = offered(HELLO).relay(setup());
        relay.begin_round(false);
        let data: Vec<u8> = bytes.into_iter().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
        let _ = feed(&mut *relay, &[b"data: ", &data[..], b"\n\n"].concat(), frame, &mut BytesMut::new());
        let _ = offered(HELLO).read_reply(data.into());
    }

    #[test]
    fn any_event_never_panics(events in prop::collection::vec((0_usize..12, 0_u64..4, 0_usize..6), 0..20)) {
        const KINDS: [&str; 12] = [
            "response.created", "response.in_progress", "response.output_item.added", "response.output_item.done",
            "response.output_text.delta", "response.completed", "response.incomplete", "response.failed", "error",
            "keepalive", "response.metadata", "x",
        ];
        let mut relay = offered(HELLO).relay(setup());
        relay.begin_round(false);
        let mut out = BytesMut::new();
        for (kind, index, members) in events {
            let item = [message("msg_1", "x"), call("call_1", CLOCK), reasoning("rs_1"), "{}".to_owned(), "1".to_owned(), "null".to_owned()];
            let members = format!(r#""output_index":{index},"item":{},"response":{{"output":[{}]}}"#, item[members], item[members]);
            let mut sequence = 7;
            let event = event(&mut sequence, KINDS[kind], &members);
            let _ = feed(&mut *relay, event.as_bytes(), 1000, &mut out);
            relay.keep_alive(&mut out);
            let _ = relay.turn();
        }
        let _ = relay.replay();
    }
}
