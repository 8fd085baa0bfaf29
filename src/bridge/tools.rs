//! Runs one turn's injected calls side by side, and tells the model and the record how each one went.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use http::Extensions;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;
use tracing::Instrument;

use super::aside::Aside;
use super::config::Config;
use super::facts;
use crate::dialect::turn::{Call, Owner, ToolResult, Turn};
use crate::metrics::{self, Limit};
use crate::record::Interception;
use crate::tools::{Registered, ToolOutput};

/// The calls of one turn. Those that are not over when it is dropped are recorded as cancelled, and stop.
pub(crate) struct Calls<'a> {
    config: &'a Config,
    interception: &'a mut Interception,
    turn: &'a Turn,
    /// Those of the caller's request.
    extensions: Extensions,
    /// How many bytes of results the request still has room for.
    room: usize,
    /// One per call: the text for the model, and whether it is an error. `None` until the call is over, and for the
    /// caller's calls.
    results: Vec<Option<(String, bool)>>,
    started: Instant,
    /// Whether all calls are over.
    done: bool,
}

/// One call of our tools, without the turn that it belongs to.
struct Invocation {
    tool: Registered,
    id: String,
    arguments: Arguments,
    extensions: Extensions,
    checks: Aside,
    limit: Duration,
}

/// A call's arguments, before or after they were checked.
enum Arguments {
    Raw(String),
    Checked(Value),
}

type Outcome = Result<ToolOutput, String>;

// === impl Calls ===

impl<'a> Calls<'a> {
    /// Prepares the turn's calls; nothing runs yet.
    pub(crate) fn new(
        config: &'a Config,
        interception: &'a mut Interception,
        turn: &'a Turn,
        extensions: Extensions,
        room: usize,
    ) -> Self {
        Self {
            config,
            interception,
            turn,
            extensions,
            room,
            results: turn.calls.iter().map(|_| None).collect(),
            started: Instant::now(),
            done: false,
        }
    }

    /// Runs our calls to their end, a bounded number at once.
    pub(crate) async fn run(&mut self) {
        self.started = Instant::now();
        let called = self.interception.stopwatch();
        let mut running = JoinSet::new();
        let mut places = HashMap::new();
        let turn = self.turn;
        let mut waiting = turn.calls.iter().enumerate().filter(|(_, call)| !call.is_callers());
        loop {
            while running.len() < self.config.max_parallel_tools.max(1) {
                let Some((place, call)) = waiting.next() else { break };
                let Owner::Ours(tool) = &call.owner else {
                    let message = format!("there is no tool named {}", call.name);
                    self.finished(place, Instant::now(), Err(message));
                    continue;
                };
                let arguments = match tool.check_quickly(&call.arguments) {
                    Some(Ok(arguments)) => Arguments::Checked(arguments),
                    Some(Err(message)) => {
                        self.finished(place, Instant::now(), Err(message));
                        // A turn may have a thousand calls with invalid arguments.
                        tokio::task::yield_now().await;
                        continue;
                    }
                    None => Arguments::Raw(call.arguments.clone()),
                };
                let span = tracing::debug_span!(
                    "tool_call",
                    "gen_ai.operation.name" = "execute_tool",
                    "gen_ai.tool.name" = tool.definition().name(),
                    "gen_ai.tool.call.id" = call.id,
                );
                let invocation = Invocation {
                    tool: tool.clone(),
                    id: call.id.clone(),
                    arguments,
                    extensions: self.extensions.clone(),
                    checks: self.config.checks.clone(),
                    limit: self.config.tool_timeout,
                };
                let task = running.spawn(invocation.run().instrument(span));
                places.insert(task.id(), (place, Instant::now()));
            }
            let Some(joined) = running.join_next_with_id().await else {
                break;
            };
            let (id, outcome) = match joined {
                Ok(done) => done,
                // A panic's message may hold anything, even a key.
                Err(error) => (error.id(), Err("the tool crashed".to_owned())),
            };
            if let Some((place, begun)) = places.remove(&id) {
                self.finished(place, begun, outcome);
            }
        }
        self.interception.waited(called);
        self.done = true;
    }

    /// One result per call, in call order; `placeholder` for the caller's calls.
    pub(crate) fn into_results(mut self, placeholder: &str) -> Vec<ToolResult<'a>> {
        let results = mem::take(&mut self.results);
        let result = |(call, result): (&'a Call, Option<(String, bool)>)| {
            let (text, is_error) = result.unwrap_or_else(|| (placeholder.to_owned(), true));
            ToolResult { call, text, is_error }
        };
        self.turn.calls.iter().zip(results).map(result).collect()
    }

    fn finished(&mut self, place: usize, begun: Instant, outcome: Outcome) {
        let call = &self.turn.calls[place];
        let output = outcome.unwrap_or_else(ToolOutput::error);
        let is_error = output.is_error();
        // Whole: the record has its own limit, which the request's room for results does not lower.
        let error = is_error.then(|| output.content().to_owned());
        if is_error {
            // The log does not say why: an error may quote arguments, or a secret of the tool.
            tracing::debug!(tool = call.name, id = call.id, "a tool call failed");
        }
        let duration = Instant::now().saturating_duration_since(begun);
        count(
            self.config,
            call,
            if is_error { "failed" } else { "succeeded" },
            duration,
        );
        facts::record_call(self.interception, &self.turn.completion.id, call, error, Some(duration));
        let text = output.into_text(self.config.max_tool_result.min(self.room));
        self.room = self.room.saturating_sub(text.len());
        self.results[place] = Some((text, is_error));
    }
}

impl Drop for Calls<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let duration = Instant::now().saturating_duration_since(self.started);
        for (call, result) in self.turn.calls.iter().zip(&self.results) {
            if result.is_none() && !call.is_callers() {
                let why = "cancelled".to_owned();
                let msg_id = &self.turn.completion.id;
                count(self.config, call, "cancelled", duration);
                facts::record_call(self.interception, msg_id, call, Some(why), Some(duration));
            }
        }
    }
}

/// Counts a call of our own tools only: other names come from callers and models, so their number has no bound.
fn count(config: &Config, call: &Call, outcome: &'static str, duration: Duration) {
    if let Owner::Ours(tool) = &call.owner {
        let tool = tool.definition();
        config
            .meter
            .tool_call(tool.get_server(), tool.name(), outcome, duration);
    }
}

// === impl Invocation ===

impl Invocation {
    /// Checks the arguments, and runs the call if they fit.
    async fn run(self) -> Outcome {
        let Self {
            tool,
            id,
            arguments,
            extensions,
            checks,
            limit,
        } = self;
        // The wait for a place to check them counts as well: others' checks may be long.
        let answering = async {
            let arguments = match arguments {
                Arguments::Checked(arguments) => arguments,
                Arguments::Raw(raw) => {
                    let tool = tool.clone();
                    checks.run(move || tool.check(&raw)).await?
                }
            };
            let call = tool.call(id, arguments).with_extensions(extensions);
            let answered = tool.service().oneshot(call).await;
            answered.map_err(|error| error.to_string())
        };
        match timeout(limit, answering).await {
            Ok(outcome) => outcome,
            Err(_) => {
                metrics::refused(Limit::ToolTime);
                Err(format!(
                    "the tool did not answer within {} seconds",
                    limit.as_secs_f64()
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use serde_json::json;

    use super::*;
    use crate::dialect::turn::CallKind;
    use crate::tools::{ToolDefinition, Tools, tool_fn};

    #[tokio::test(start_paused = true)]
    async fn a_long_check_waits_for_a_place() {
        let tools: Tools = [tool_fn(ToolDefinition::new("t"), |_| async {
            Ok::<_, Infallible>("done")
        })]
        .into_iter()
        .collect();
        let call = |length: usize| Call {
            id: "c".to_owned(),
            name: "bmcp_local_t".to_owned(),
            arguments: json!({ "x": "y".repeat(length) }).to_string(),
            owner: Owner::Ours(tools.get("bmcp_local_t").unwrap().clone()),
            kind: CallKind::Function,
        };
        let config = Config {
            checks: Aside::new(1),
            ..Config::default()
        };
        let run = async |length: usize| {
            let turn = Turn {
                calls: vec![call(length)],
                ..Turn::default()
            };
            let mut interception = Interception::unrecorded();
            let mut calls = Calls::new(&config, &mut interception, &turn, Extensions::new(), 1 << 20);
            calls.run().await;
            calls
                .into_results("")
                .pop()
                .map(|result| (result.text, result.is_error))
        };
        let done = Some(("done".to_owned(), false));

        let place = config.checks.place().await;
        assert_eq!(run(100).await, done, "a short one is made at once");
        let mut waits = std::pin::pin!(run(100 << 10));
        assert!(timeout(Duration::from_secs(30), waits.as_mut()).await.is_err());
        drop(place);
        assert_eq!(waits.await, done);

        let _place = config.checks.place().await;
        let late = run(100 << 10).await.unwrap();
        assert!(late.1 && late.0.contains("did not answer within"), "{late:?}");
    }
}
