//! Tool calls in all the ways that providers write them: ours are hidden and run, the caller's are relayed at once.

use serde_json::json;

use crate::case::{CLOCK, Case, ECHO, check, one_delta, turn};
use crate::wire::{DONE, arguments, call, calls, chunk, finish, role, say, text};

#[tokio::test(start_paused = true)]
async fn injected_calls() {
    let end = || say(&["done"]);
    let begin = |index| call(index, "call_1", CLOCK);
    let whole = r#""tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"bmcp_local_clock","arguments":"{}"}}]"#;
    let second =
        r#"{"index":1,"id":"call_2","type":"function","function":{"name":"bmcp_local_echo","arguments":"{}"}}"#;
    let no_index = |text: &str| text.replace(r#","index":0"#, "");
    let pieces: String = r#"{"a":1}"#.chars().map(|piece| arguments(0, &piece.to_string())).collect();
    let no_role_twice = end().replace(r#""role":"assistant","#, "");
    check(
        13,
        [
            Case::new("without preamble", [calls(CLOCK), end()], "done").tool("clock", json!({"a": 1}), true),
            Case::new(
                "with preamble",
                [turn(&[&role(), &text("Wait. "), &begin(0), &arguments(0, "{}")]), end()],
                "Wait. done",
            )
            .tool("clock", json!({}), true),
            Case::new(
                "text behind the call",
                [turn(&[&role(), &begin(0), &arguments(0, "{}"), &text("Wait. ")]), end()],
                "Wait. done",
            )
            .tool("clock", json!({}), true),
            Case::new(
                "content beside the call",
                [
                    turn(&[&one_delta(&format!(r#""role":"assistant","content":"Wait. ",{whole}"#))]),
                    end(),
                ],
                "Wait. done",
            )
            .tool("clock", json!({}), true),
            Case::new(
                "role beside the call",
                [
                    turn(&[&one_delta(&format!(r#""role":"assistant","content":null,{whole}"#))]),
                    end(),
                ],
                "done",
            )
            .tool("clock", json!({}), true),
            Case::new(
                "second role is never sent",
                [turn(&[&role(), &one_delta(whole)]), no_role_twice],
                "done",
            )
            .tool("clock", json!({}), true),
            Case::new(
                "several",
                [
                    turn(&[
                        &role(),
                        &begin(0),
                        &call(1, "call_2", ECHO),
                        &arguments(1, r#"{"b""#),
                        &arguments(0, "{}"),
                        &arguments(1, ":2}"),
                    ]),
                    end(),
                ],
                "done",
            )
            .tool("clock", json!({}), true)
            .tool("echo", json!({"b": 2}), true),
            Case::new(
                "several in one delta",
                [
                    turn(&[&role(), &one_delta(&whole.replace("}]", &format!("}},{second}]")))]),
                    end(),
                ],
                "done",
            )
            .tool("clock", json!({}), true)
            .tool("echo", json!({}), true),
            Case::new(
                "any index",
                [turn(&[&role(), &begin(5), &arguments(5, "{}")]), end()],
                "done",
            )
            .tool("clock", json!({}), true),
            Case::new(
                "gaps",
                [
                    turn(&[
                        &role(),
                        &begin(1),
                        &call(4, "call_2", ECHO),
                        &arguments(4, "{}"),
                        &arguments(1, "{}"),
                    ]),
                    end(),
                ],
                "done",
            )
            .tool("clock", json!({}), true)
            .tool("echo", json!({}), true),
            Case::new(
                "no index",
                [
                    no_index(&turn(&[
                        &role(),
                        &begin(0),
                        &arguments(0, r#"{"a""#),
                        &arguments(0, ":1}"),
                        &call(0, "call_2", ECHO),
                        &arguments(0, "{}"),
                    ])),
                    end(),
                ],
                "done",
            )
            .tool("clock", json!({"a": 1}), true)
            .tool("echo", json!({}), true),
            Case::new(
                "the same index",
                [
                    turn(&[
                        &role(),
                        &begin(0),
                        &arguments(0, r#"{"a""#),
                        &arguments(0, ":1}"),
                        &call(0, "call_2", ECHO),
                        &arguments(0, "{}"),
                    ]),
                    end(),
                ],
                "done",
            )
            .tool("clock", json!({"a": 1}), true)
            .tool("echo", json!({}), true),
            Case::new(
                "ids that change",
                [
                    turn(&[
                        &role(),
                        &begin(0),
                        &arguments(0, r#"{"a""#).replace(r#","index":0"#, r#","index":0,"id":"call_x""#),
                        &arguments(0, ":1}"),
                    ]),
                    end(),
                ],
                "done",
            )
            .tool("clock", json!({"a": 1}), true),
            Case::new("byte by byte", [turn(&[&role(), &begin(0), &pieces]), end()], "done").tool(
                "clock",
                json!({"a": 1}),
                true,
            ),
            Case::new(
                "CRLF",
                [calls(CLOCK).replace('\n', "\r\n"), end().replace('\n', "\r\n")],
                "done",
            )
            .tool("clock", json!({"a": 1}), true),
            Case::new(
                "with preamble, several lines",
                [
                    turn(&[
                        &role(),
                        &one_delta(&format!(
                            "\"content\":\"Wait. \",\"other\":[1,\ndata: 2],\ndata: {whole}"
                        )),
                    ]),
                    end(),
                ],
                "Wait. done",
            )
            .tool("clock", json!({}), true),
            Case::new(
                "byte order marks",
                [format!("\u{feff}{}", calls(CLOCK)), format!("\u{feff}{}", end())],
                "done",
            )
            .tool("clock", json!({"a": 1}), true),
            Case::new(
                "byte order mark after something shown",
                [
                    format!(
                        "\u{feff}{}",
                        turn(&[&role(), &text("Wait. "), &begin(0), &arguments(0, "{}")])
                    ),
                    format!("\u{feff}{}", text("done") + &finish("stop") + DONE),
                ],
                "Wait. done",
            )
            .tool("clock", json!({}), true),
            Case::new(
                "byte order mark after a comment beside a hidden call",
                [
                    "\u{feff}: hello\n\n".to_owned()
                        + &[call(0, "call_1", CLOCK), arguments(0, "{}"), finish("tool_calls")].concat()
                        + DONE,
                    "\u{feff}data: {\"id\"\ndata: :\"c\",\"choices\":[]}\n\n".to_owned() + &end(),
                ],
                "done",
            )
            .sees(|message| message.comments = 1)
            .tool("clock", json!({}), true),
            Case::new(
                "the second answer is one chunk",
                [
                    turn(&[&role(), &text("Wait. "), &begin(0), &arguments(0, "{}")]),
                    chunk(r#"{"role":"assistant","content":""}"#, "\"stop\"") + DONE,
                ],
                "Wait. ",
            )
            .tool("clock", json!({}), true),
            Case::new(
                "no final newline",
                [calls(CLOCK).trim_end().to_owned(), end().trim_end().to_owned()],
                "done",
            )
            .tool("clock", json!({"a": 1}), true),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_of_the_callers_own_tools() {
    let mine = |index| call(index, "call_9", "mine");
    let late_name = [
        chunk(
            r#"{"role":"assistant","tool_calls":[{"index":0,"id":"call_9","type":"function"}]}"#,
            "null",
        ),
        chunk(r#"{"tool_calls":[{"index":0,"function":{"name":"mine"}}]}"#, "null"),
    ]
    .concat();
    let late_ours = late_name.replace("mine", CLOCK).replace("call_9", "call_1");
    let null_fields = r#"{"tool_calls":[{"index":0,"id":null,"type":null,"function":{"name":null,"arguments":"{}"}}]}"#;
    check(
        13,
        [
            Case::new(
                "live",
                [turn(&[
                    &role(),
                    &mine(0),
                    &arguments(0, r#"{"q""#),
                    &arguments(0, ":2}"),
                ])],
                "",
            )
            .gets_call("call_9", "mine", r#"{"q":2}"#)
            .tool("mine", json!({"q": 2}), false),
            Case::new(
                "with text",
                [turn(&[&role(), &text("Look: "), &mine(0), &arguments(0, "{}")])],
                "Look: ",
            )
            .gets_call("call_9", "mine", "{}")
            .tool("mine", json!({}), false),
            Case::new(
                "names that are null after the first",
                [turn(&[&role(), &mine(0), &chunk(null_fields, "null")])],
                "",
            )
            .gets_call("call_9", "mine", "{}")
            .tool("mine", json!({}), false),
            Case::new("a name that comes late", [turn(&[&late_name, &arguments(0, "{}")])], "")
                .gets_call("call_9", "mine", "{}")
                .tool("mine", json!({}), false),
            Case::new(
                "a name of ours that comes late",
                [turn(&[&late_ours, &arguments(0, "{}")]), say(&["done"])],
                "done",
            )
            .tool("clock", json!({}), true),
            Case::new(
                "theirs, then ours",
                [turn(&[
                    &role(),
                    &mine(0),
                    &arguments(0, "{}"),
                    &call(1, "call_1", CLOCK),
                    &arguments(1, "{}"),
                ])],
                "",
            )
            .gets_call("call_9", "mine", "{}")
            .tool("mine", json!({}), false)
            .tool("clock", json!({}), true),
            Case::new(
                "theirs, ours, theirs",
                [turn(&[
                    &role(),
                    &mine(0),
                    &arguments(0, "{}"),
                    &call(1, "call_1", CLOCK),
                    &arguments(1, "{}"),
                    &call(2, "call_8", "other"),
                    &arguments(2, "{}"),
                ])],
                "",
            )
            .gets_call("call_9", "mine", "{}")
            .gets_call("call_8", "other", "{}")
            .tool("mine", json!({}), false)
            .tool("clock", json!({}), true)
            .tool("other", json!({}), false),
            Case::new(
                "ours, then theirs",
                [
                    turn(&[
                        &role(),
                        &call(0, "call_1", CLOCK),
                        &arguments(0, "{}"),
                        &mine(1),
                        &arguments(1, "{}"),
                    ]),
                    say(&["done"]),
                ],
                "done",
            )
            .tool("mine", json!({}), false)
            .tool("clock", json!({}), true),
            Case::new(
                "after a round of ours",
                [calls(CLOCK), turn(&[&role(), &mine(0), &arguments(0, "{}")])],
                "",
            )
            .gets_call("call_9", "mine", "{}")
            .usage(14, 6)
            .tool("clock", json!({"a": 1}), true)
            .tool("mine", json!({}), false),
            Case::new("without an offer", [turn(&[&late_name, &arguments(0, "{}")])], "")
                .ask(r#"{"model":"m","stream":true,"tool_choice":"required","messages":[]}"#)
                .gets_call("call_9", "mine", "{}")
                .tool("mine", json!({}), false),
        ],
    )
    .await;
}
