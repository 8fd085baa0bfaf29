//! However a stream is cut into frames, the caller gets the same bytes and the recorder the same events.

use serde_json::{Value, json};

use crate::sse::{Answer, Bench, Cut, Outcome};
use crate::wire::{
    ASK, ASK_USAGE, DONE, Message, arguments, call, calls, chunk, finish, role, say, text, tokens, usage,
};

const CLOCK: &str = "bmcp_local_clock";
const ECHO: &str = "bmcp_local_echo";

/// One conversation with what has to come of it.
struct Case {
    name: &'static str,
    ask: &'static str,
    rounds: Vec<String>,
    sees: Message,
    /// The tool calls as records show them: name, arguments, and whether they were injected.
    tools: Vec<(&'static str, Value, bool)>,
}

impl Case {
    fn new(name: &'static str, rounds: impl IntoIterator<Item = String>, content: &str) -> Self {
        Self {
            name,
            ask: ASK,
            rounds: rounds.into_iter().collect(),
            sees: Message {
                ids: vec!["$ID".to_owned()],
                roles: 1,
                content: content.to_owned(),
                finish_reasons: vec!["stop".to_owned()],
                dones: 1,
                ..Message::default()
            },
            tools: Vec::new(),
        }
    }

    fn ask(mut self, ask: &'static str) -> Self {
        self.ask = ask;
        self
    }

    fn usage(mut self, prompt: u64, completion: u64) -> Self {
        self.ask = ASK_USAGE;
        self.sees.usages.push(tokens(prompt, completion));
        self
    }

    fn sees(mut self, change: impl FnOnce(&mut Message)) -> Self {
        change(&mut self.sees);
        self
    }

    /// The caller gets a call to run.
    fn gets_call(self, id: &str, name: &str, arguments: &str) -> Self {
        self.sees(|message| {
            message
                .calls
                .push((id.to_owned(), name.to_owned(), arguments.to_owned()));
            message.finish_reasons = vec!["tool_calls".to_owned()];
        })
    }

    fn tool(mut self, name: &'static str, args: Value, injected: bool) -> Self {
        self.tools.push((name, args, injected));
        self
    }

    async fn run(&self, cut: Cut) -> Outcome {
        let answers = self.rounds.iter().map(|round| Answer::stream(round.clone()).cut(cut));
        let bench = Bench::with(answers, |layer| layer.parallel_tool_calls(true));
        let gauge = std::sync::Arc::clone(&bench.provider.gauge);
        let outcome = bench.run(self.ask).await;
        assert_eq!(
            (gauge.bodies(), gauge.tools()),
            (0, 0),
            "{}: something is left",
            self.name
        );
        outcome
    }

    /// `step` is that between places where the streams are cut in two.
    async fn check(&self, step: usize) {
        let whole = self.run(Cut::Whole).await;
        let name = self.name;
        assert_eq!(whole.status, 200, "{name}: {}", whole.body);
        assert_eq!(Message::read(&whole.body), self.sees, "{name}: {}", whole.body);
        assert_eq!(whole.requests.len(), self.rounds.len(), "{name}");
        let tools: Vec<_> = whole
            .records_of("tool_usage")
            .map(|record| {
                (
                    record["tool"].clone(),
                    record["args"].clone(),
                    record["injected"].clone(),
                )
            })
            .collect();
        let expected: Vec<_> = self
            .tools
            .iter()
            .map(|(name, args, injected)| (json!(name), args.clone(), json!(injected)))
            .collect();
        assert_eq!(tools, expected, "{name}");
        let ended = whole.ended();
        assert_eq!(ended["outcome"], "completed", "{name}");
        assert_eq!(ended["rounds"], self.rounds.len(), "{name}");
        assert_eq!(ended["time_to_first_token_ms"], 0, "{name}");
        for cut in Cut::all(&self.rounds, step) {
            let outcome = self.run(cut).await;
            assert_eq!(outcome.body, whole.body, "{name}, {cut:?}");
            assert_eq!(outcome, whole, "{name}, {cut:?}");
        }
    }
}

async fn check(step: usize, cases: impl IntoIterator<Item = Case>) {
    for case in cases {
        case.check(step).await;
    }
}

/// A whole call in one delta, with the members given.
fn one_delta(members: &str) -> String {
    chunk(&format!("{{{members}}}"), "null")
}

fn turn(parts: &[&str]) -> String {
    [parts, &[&finish("tool_calls"), &usage(7, 3), DONE]].concat().concat()
}

#[tokio::test(start_paused = true)]
async fn plain_streams() {
    let plain = say(&["Hel", "lo"]);
    let decorated = plain.replacen("data:", ": comment\nevent: message\nid: 7\nretry: 10\ndata:", 3);
    let no_space = plain.replace("data: ", "data:");
    let no_newline = plain.strip_suffix("\n\n").unwrap().to_owned();
    let one_newline = plain.strip_suffix('\n').unwrap().to_owned();
    let lines = plain
        .replace(r#","object""#, "\ndata: ,\"object\"")
        .replace(r#","delta""#, "\ndata:,\"delta\"");
    check(
        1,
        [
            Case::new("plain", [plain.clone()], "Hello"),
            Case::new("decorated", [decorated], "Hello").sees(|message| message.comments = 3),
            Case::new("heartbeats", [format!(": one\n\n\n: two\n\n{plain}")], "Hello")
                .sees(|message| message.comments = 2),
            Case::new("no space", [no_space], "Hello"),
            Case::new("CRLF", [plain.replace('\n', "\r\n")], "Hello"),
            Case::new("CR", [plain.replace('\n', "\r")], "Hello"),
            Case::new("several lines", [lines.clone()], "Hello"),
            Case::new("several lines, CRLF", [lines.replace('\n', "\r\n")], "Hello"),
            Case::new("byte order mark", [format!("\u{feff}{plain}")], "Hello"),
            Case::new("no final newline", [no_newline], "Hello"),
            Case::new("one final newline", [one_newline], "Hello"),
            Case::new("more after the end", [format!("{plain}: bye\n\n")], "Hello"),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn usage_that_is_asked_for_and_not() {
    let every = |words: &[(&str, u64)]| {
        let chunks: String = words
            .iter()
            .map(|(word, count)| {
                text(word).replace(
                    r#","choices""#,
                    &format!(r#","usage":{},"choices""#, tokens(10, *count)),
                )
            })
            .collect();
        [&role(), &chunks, &finish("stop"), &usage(10, 9), DONE].concat()
    };
    check(
        13,
        [
            Case::new("asked", [say(&["a"])], "a").usage(10, 5),
            Case::new("not asked", [say(&["a"])], "a"),
            Case::new("null", [say(&["a"])], "a")
                .ask(r#"{"model":"m","stream":true,"stream_options":null,"messages":[]}"#),
            Case::new("on every chunk", [every(&[("a", 1), ("b", 2)])], "ab").usage(10, 9),
            Case::new("on every chunk, in two rounds", [calls(CLOCK), every(&[("a", 1)])], "a")
                .usage(17, 12)
                .tool("clock", json!({"a": 1}), true),
            Case::new("one round of two", [calls(CLOCK), say(&["a"])], "a")
                .usage(17, 8)
                .tool("clock", json!({"a": 1}), true),
            Case::new("not asked in two rounds", [calls(CLOCK), say(&["a"])], "a").tool("clock", json!({"a": 1}), true),
            Case::new("three rounds", [calls(CLOCK), calls(ECHO), say(&["a"])], "a")
                .usage(24, 11)
                .tool("clock", json!({"a": 1}), true)
                .tool("echo", json!({"a": 1}), true),
        ],
    )
    .await;
}

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
