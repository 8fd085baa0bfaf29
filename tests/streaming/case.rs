//! A conversation, its expected result, and its replay in all sorts of frames.

use serde_json::{Value, json};

use crate::setup::{Outcome, Setup};
use crate::support::{Cut, MockBody, Reply};
use crate::wire::{ASK, ASK_USAGE, DONE, Message, chunk, finish, tokens, usage};

pub(crate) const CLOCK: &str = "bmcp_local_clock";
pub(crate) const ECHO: &str = "bmcp_local_echo";

/// One conversation with its expected result.
pub(crate) struct Case {
    name: &'static str,
    ask: &'static str,
    rounds: Vec<String>,
    sees: Message,
    /// The tool calls as records show them: name, arguments, and whether they were injected.
    tools: Vec<(&'static str, Value, bool)>,
}

impl Case {
    pub(crate) fn new(name: &'static str, rounds: impl IntoIterator<Item = String>, content: &str) -> Self {
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

    pub(crate) fn ask(mut self, ask: &'static str) -> Self {
        self.ask = ask;
        self
    }

    pub(crate) fn usage(mut self, prompt: u64, completion: u64) -> Self {
        self.ask = ASK_USAGE;
        self.sees.usages.push(tokens(prompt, completion));
        self
    }

    pub(crate) fn sees(mut self, change: impl FnOnce(&mut Message)) -> Self {
        change(&mut self.sees);
        self
    }

    /// The caller gets a call to run.
    pub(crate) fn gets_call(self, id: &str, name: &str, arguments: &str) -> Self {
        self.sees(|message| {
            message
                .calls
                .push((id.to_owned(), name.to_owned(), arguments.to_owned()));
            message.finish_reasons = vec!["tool_calls".to_owned()];
        })
    }

    pub(crate) fn tool(mut self, name: &'static str, args: Value, injected: bool) -> Self {
        self.tools.push((name, args, injected));
        self
    }

    async fn run(&self, cut: Cut) -> Outcome {
        let cut = |round: &String| Reply::events(MockBody::new().cut(round.clone(), cut));
        let setup = Setup::with(self.rounds.iter().map(cut), |layer| layer.parallel_tool_calls(true));
        let mut setup = setup;
        let response = setup.call(self.ask).await;
        let outcome = setup.finish(response).await;
        assert_eq!(
            (setup.provider.busy(), setup.running()),
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

pub(crate) async fn check(step: usize, cases: impl IntoIterator<Item = Case>) {
    for case in cases {
        case.check(step).await;
    }
}

/// A whole call in one delta, with the members given.
pub(crate) fn one_delta(members: &str) -> String {
    chunk(&format!("{{{members}}}"), "null")
}

pub(crate) fn turn(parts: &[&str]) -> String {
    [parts, &[&finish("tool_calls"), &usage(7, 3), DONE]].concat().concat()
}
