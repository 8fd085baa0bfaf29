//! Random streams: everything in valid chunks except the `id` and hidden parts is relayed byte for byte; and nothing
//! depends on how a stream, valid or not, is cut into frames.

use proptest::prelude::*;

use crate::setup::Setup;
use crate::support::{Cut, MockBody, Reply, block_on};
use crate::wire::{self, DONE, Message};

/// Any JSON text that a provider may write, with its white space, escapes and number forms.
fn json_text() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,3})?",
        string_text(),
    ];
    scalar.prop_recursive(3, 16, 4, |inner| {
        let member =
            (string_text(), space(), inner.clone()).prop_map(|(name, space, value)| format!("{name}{space}:{value}"));
        prop_oneof![
            (prop::collection::vec(inner, 0..4), space())
                .prop_map(|(items, space)| format!("[{space}{}]", items.join(","))),
            (prop::collection::vec(member, 0..3), space())
                .prop_map(|(members, space)| format!("{{{}{space}}}", members.join(","))),
        ]
    })
}

fn string_text() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        "[ !#-\\[\\]-~]",
        Just("é".to_owned()),
        Just("😀".to_owned()),
        Just("\\\"".to_owned()),
        Just("\\\\".to_owned()),
        Just("\\n".to_owned()),
        Just("\\u0041".to_owned()),
        Just("\\uD83D\\uDE00".to_owned()),
        Just("data: [DONE]".to_owned()),
    ];
    prop::collection::vec(character, 0..6).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just(""), Just(" "), Just("\t "), Just("\ndata: "), Just("\ndata:")]
}

/// A chunk with random order and white space; `@` stands for the id.
fn chunk() -> impl Strategy<Value = String> {
    let delta =
        (prop::collection::vec(("[a-z]{3}_x", json_text()), 0..3), json_text()).prop_map(|(others, content)| {
            let mut members: Vec<String> = others
                .iter()
                .map(|(name, value)| format!("\"{name}\":{value}"))
                .collect();
            members.push(format!("\"content\": {content}"));
            members.join(" ,")
        });
    let unknown = prop::collection::vec(("[a-z]{4}_x", json_text()), 0..3);
    (
        delta,
        unknown,
        space(),
        space(),
        any::<prop::sample::Index>(),
        string_text(),
    )
        .prop_map(|(delta, unknown, before, after, place, id)| {
            let mut members = vec![
                format!("\"id\"{before}:{after}@{id}@"),
                format!("\"choices\":{before}[{{\"delta\":{{{delta}{after}}},\"index\":0}}]"),
            ];
            for (name, value) in &unknown {
                if !members.iter().any(|member| member.starts_with(&format!("\"{name}\""))) {
                    members.push(format!("\"{name}\":{value}"));
                }
            }
            let places = members.len();
            members.rotate_left(place.index(places));
            format!(
                "data: {{{before}{}{after}}}",
                members.join(&format!("{before},{after}"))
            )
        })
}

/// Splits a chunk at its id's marks; the marks do not occur elsewhere because `@` ends no other member.
fn with_id(chunk: &str, id: Option<&str>) -> String {
    let start = chunk.find("@\"").unwrap();
    let end = start + 1 + chunk[start + 1..].find("\"@").unwrap() + 1;
    let own = &chunk[start + 1..end];
    format!("{}{}{}", &chunk[..start], id.unwrap_or(own), &chunk[end + 1..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn only_the_id_changes(
        chunks in prop::collection::vec(chunk().prop_filter("marks", |chunk| chunk.matches('@').count() == 2), 1..5),
        line_end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        tools in any::<bool>(),
        place in any::<prop::sample::Index>(),
    ) {
        let stream = |id: Option<&str>| {
            let chunks = chunks.iter().map(|chunk| format!("{}\n\n", with_id(chunk, id)));
            (chunks.collect::<String>() + DONE).replace('\n', line_end)
        };
        let (sent, expected) = (stream(None), stream(Some("\"$ID\"")));
        for cut in [Cut::Whole, Cut::EveryByte, Cut::At(place.index(sent.len()).max(1))] {
            let answer = Reply::events(MockBody::new().cut(sent.clone(), cut));
            let setup = Setup::with([answer], |layer| if tools { layer } else { layer.tools(tower_llm_bridge::tools::Tools::default()) });
            let outcome = block_on(setup.run(wire::ASK_USAGE));
            prop_assert_eq!(&outcome.body, &expected, "{:?} of {}", cut, sent);
            prop_assert_eq!(&outcome.ended()["outcome"], "completed");
        }
    }
}

/// The parts of streams, and parts that break them.
fn fragment() -> impl Strategy<Value = String> {
    let call = |name: &str| wire::call(0, "call_1", name) + &wire::arguments(0, "{}");
    prop_oneof![
        4 => Just(wire::role()),
        4 => Just(wire::text("a")),
        3 => Just(call("bmcp_local_clock")),
        2 => Just(call("mine")),
        3 => Just(wire::finish("stop")),
        2 => Just(wire::usage(3, 1)),
        5 => Just(DONE.to_owned()),
        1 => Just("data: [DONE]\n\r\n".to_owned()),
        1 => Just("data: {\"error\":{\"code\":\"x\"}}\n\n".to_owned()),
        1 => Just(": comment\n\n".to_owned()),
        1 => Just("data: {\"id\"\ndata: :\"c\",\"choices\":[]}\r\n\r\n".to_owned()),
        2 => "[\\r\\n]{1,3}",
        1 => Just("data: nonsense\n\n".to_owned()),
        1 => "[a-z:\\{\"]{1,9}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_stream_depends_on_its_framing(
        rounds in prop::collection::vec(prop::collection::vec(fragment(), 0..9), 1..4),
        line_end in prop_oneof![4 => Just("\n"), 2 => Just("\r\n"), 1 => Just("\r")],
        usage in any::<bool>(),
        byte_order_mark in any::<bool>(),
        place in any::<prop::sample::Index>(),
    ) {
        let start = if byte_order_mark { "\u{feff}" } else { "" };
        let rounds: Vec<String> = rounds.iter().map(|parts| start.to_owned() + &parts.concat().replace('\n', line_end)).collect();
        let run = |cut: Cut| {
            let setup = Setup::new(rounds.iter().map(|round| Reply::events(MockBody::new().cut(round.clone(), cut))));
            block_on(setup.run(if usage { wire::ASK_USAGE } else { wire::ASK }))
        };
        let whole = run(Cut::Whole);
        let longest = rounds.iter().map(String::len).max().unwrap_or_default();
        for cut in [Cut::EveryByte, Cut::At(place.index(longest + 1).max(1))] {
            prop_assert_eq!(&run(cut), &whole, "{:?} of {:?}", cut, rounds);
        }
        let message = Message::read(&whole.body);
        let completed = whole.status == 200 && whole.ended()["outcome"] == "completed";
        prop_assert_eq!(message.dones, usize::from(completed), "{}", whole.body);
    }
}
