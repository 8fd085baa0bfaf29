//! Streams put together from the parts that real providers send, in any order and any number: events, deltas, indexes,
//! names, arguments and finish reasons, right ones and odd ones. The same rules hold as for any bytes, and no odd event
//! breaks one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_llm_bridge::Dialect;
use tower_llm_bridge_fuzz::{CLOCK, Setup};

const INDEXES: [&str; 8] = ["0", "0", "1", "2", "null", "7", "\"0\"", "-1"];
const STRINGS: [&str; 8] = [
    r#""a""#,
    r#""""#,
    "null",
    r#""\ud83d""#,
    r#""{\"q\":""#,
    r#""1}""#,
    r#"{"q":1}"#,
    "[1, {}]",
];
const REASONS: [&str; 8] = [
    "null",
    r#""stop""#,
    r#""tool_calls""#,
    r#""length""#,
    r#""""#,
    r#""tool_use""#,
    r#""max_tokens""#,
    "7",
];
const ENDS: [&str; 4] = ["\n\n", "\r\n\r\n", "\r\r", "\n"];
const NAMES: [&str; 4] = ["", CLOCK, "mine", "bmcp_gone"];

/// Takes choices from the input.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn next(&mut self) -> usize {
        self.0.next().copied().unwrap_or_default().into()
    }

    fn of<'b>(&mut self, table: &[&'b str]) -> &'b str {
        table[self.next() % table.len()]
    }

    fn event(&mut self, dialect: Dialect) -> String {
        let data = match dialect {
            Dialect::Messages => self.messages(),
            Dialect::Responses => self.responses(),
            _ => self.chat(),
        };
        let choice = self.next();
        let end = ENDS[choice % ENDS.len()];
        match choice / ENDS.len() % 8 {
            0 => format!(": comment{end}"),
            1 => format!("event: x{}data: {data}{end}", &end[..end.len() / 2]),
            2 => format!("data:{data}{end}: comment{end}"),
            _ => format!("data: {data}{end}"),
        }
    }

    fn chat(&mut self) -> String {
        let delta = match self.next() % 8 {
            0 => "{}".to_owned(),
            1 => format!(r#"{{"role":"assistant","content":{}}}"#, self.of(&STRINGS)),
            2 => format!(
                r#"{{"content":{},"reasoning_content":{}}}"#,
                self.of(&STRINGS),
                self.of(&STRINGS)
            ),
            3 => self.of(&STRINGS).to_owned(),
            4 => format!(r#"{{"tool_calls":{}}}"#, self.of(&STRINGS)),
            _ => {
                let calls: Vec<String> = (0..=self.next() % 2).map(|_| self.chat_call()).collect();
                format!(
                    r#"{{"tool_calls":[{}],"content":{}}}"#,
                    calls.join(","),
                    self.of(&STRINGS)
                )
            }
        };
        let reason = self.of(&REASONS);
        match self.next() % 12 {
            0 => "[DONE]".to_owned(),
            1 => r#"{"choices":[],"usage":{"prompt_tokens":1}}"#.to_owned(),
            2 => format!(r#"{{"id":"p","choices":[{{"delta":{delta}}}]}}"#),
            3 => format!(r#"{{"choices":[{{"finish_reason":{reason}}}],"id":null}}"#),
            4 => format!(r#"{{"choices":[{{"index":{},"delta":{delta}}}]}}"#, self.of(&INDEXES)),
            5 => r#"{"error":{"message":"no","code":"server_error"}}"#.to_owned(),
            _ => format!(
                r#"{{"id":"p","choices":[{{"index":0,"delta":{delta},"finish_reason":{reason}}}],"usage":null}}"#
            ),
        }
    }

    fn chat_call(&mut self) -> String {
        let (index, id, arguments) = (self.of(&INDEXES), self.of(&STRINGS), self.of(&STRINGS));
        let name = match self.of(&NAMES) {
            "" => String::new(),
            name => format!(r#""name":"{name}","#),
        };
        match self.next() % 4 {
            0 => format!(r#"{{"index":{index},"function":{{{name}"arguments":{arguments}}}}}"#),
            1 => format!(
                r#"{{"id":{id},"function":{{{name}"arguments":{arguments}}},"extra_content":{{"a":{arguments}}}}}"#
            ),
            2 => format!(r#"{{"index":{index},"id":{id},"type":"function","function":{arguments}}}"#),
            _ => format!(r#"{{"index":{index},"id":{id},"function":{{{name}"arguments":{arguments}}}}}"#),
        }
    }

    fn messages(&mut self) -> String {
        let index = self.of(&INDEXES);
        let text = self.of(&STRINGS);
        match self.next() % 12 {
            0 => r#"{"type":"message_start","message":{"id":"m","content":[],"usage":{"input_tokens":1}}}"#.to_owned(),
            1 => format!(
                r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"text","text":{text}}}}}"#
            ),
            2 => format!(
                r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"tool_use","id":"t","name":"{}","input":{text}}}}}"#,
                self.of(&NAMES)
            ),
            3 => format!(
                r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"thinking","thinking":{text}}}}}"#
            ),
            4 => format!(
                r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"text_delta","text":{text}}}}}"#
            ),
            5 => format!(
                r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"input_json_delta","partial_json":{text}}}}}"#
            ),
            6 => {
                format!(r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"new_delta","x":{text}}}}}"#)
            }
            7 => format!(r#"{{"type":"content_block_stop","index":{index}}}"#),
            8 | 9 => format!(
                r#"{{"type":"message_delta","delta":{{"stop_reason":{}}},"usage":{{"output_tokens":1}}}}"#,
                self.of(&REASONS)
            ),
            10 => r#"{"type":"message_stop"}"#.to_owned(),
            _ => self
                .of(&[
                    r#"{"type":"ping"}"#,
                    r#"{"type":"new"}"#,
                    "{}",
                    r#"{"type":"error","error":{"type":"api_error","message":"no"}}"#,
                ])
                .to_owned(),
        }
    }

    fn responses(&mut self) -> String {
        let (index, number) = (self.of(&INDEXES), self.of(&INDEXES));
        let place = format!(r#""sequence_number":{number},"output_index":{index}"#);
        match self.next() % 12 {
            0 | 1 => format!(
                r#"{{"type":"response.created","sequence_number":{number},"response":{{"id":"r","status":"in_progress","output":[],"tools":[{{"type":"function","name":"{CLOCK}"}}]}}}}"#
            ),
            2 | 3 => format!(
                r#"{{"type":"response.output_item.added",{place},"item":{}}}"#,
                self.item()
            ),
            4 | 5 => format!(
                r#"{{"type":"response.output_item.done","item":{},{place}}}"#,
                self.item()
            ),
            6 => format!(
                r#"{{"type":"response.output_text.delta",{place},"delta":{}}}"#,
                self.of(&STRINGS)
            ),
            7 => r#"{"type":"response.output_item.added"}"#.to_owned(),
            8 | 9 => {
                let items: Vec<String> = (0..self.next() % 4).map(|_| self.item()).collect();
                format!(
                    r#"{{"type":"response.{}","response":{{"id":"r","status":"completed","output":[{}],"usage":null}},"sequence_number":{number}}}"#,
                    self.of(&["completed", "completed", "incomplete", "failed"]),
                    items.join(", ")
                )
            }
            10 => self
                .of(&[
                    r#"{"type":"response.completed","response":{}}"#,
                    r#"{"type":"response.completed"}"#,
                ])
                .to_owned(),
            _ => self
                .of(&[
                    "[DONE]",
                    r#"{"type":"keepalive"}"#,
                    "{}",
                    r#"{"type":"error","code":"server_error","message":"no"}"#,
                ])
                .to_owned(),
        }
    }

    fn item(&mut self) -> String {
        let id = self.of(&[r#""a""#, r#""b""#, "null", r#""c""#]);
        let status = self.of(&["completed", "in_progress", "incomplete"]);
        match self.next() % 6 {
            0 => format!(r#"{{"id":{id},"type":"reasoning","summary":[],"status":"{status}"}}"#),
            1 => format!(r#"{{"id":{id},"type":"message","content":[],"status":"{status}"}}"#),
            2 => self.of(&STRINGS).to_owned(),
            3 => "{\n}".to_owned().replace('\n', " "),
            _ => format!(
                r#"{{"id":{id},"type":"function_call","call_id":{id},"name":"{}","arguments":{},"status":"{status}"}}"#,
                self.of(&NAMES),
                self.of(&STRINGS)
            ),
        }
    }
}

// The first byte is the options, the second the length of frames, the third the number of events in a round.
fuzz_target!(|input: &[u8]| {
    let [options, len, events, choices @ ..] = input else {
        return;
    };
    let setup = Setup::of(*options);
    let mut choices = Choices(choices.iter());
    let mut rounds = Vec::new();
    while rounds.len() < 3 && (rounds.is_empty() || choices.0.len() > 0) {
        let stream: String = (0..1 + events % 16).map(|_| choices.event(setup.dialect)).collect();
        rounds.push(stream.into_bytes());
    }
    let rounds: Vec<&[u8]> = rounds.iter().map(Vec::as_slice).collect();
    let whole = setup.run(&rounds, usize::MAX);
    assert_eq!(whole, setup.run(&rounds, 1 + usize::from(*len)));
    setup.check(&whole);
});
