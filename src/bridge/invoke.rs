//! Runs one turn's injected calls side by side, and tells the model and the record how each one went.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;
use tracing::Instrument;

use super::exchange::Exchange;
use crate::dialect::chat_completions::Call;
use crate::record::Fact;
use crate::tools::{Registered, ToolCall, ToolOutput};

/// A call that the bridge has to run.
pub(crate) struct OurCall<'a> {
    /// Its place among all calls of the turn.
    pub(crate) place: usize,
    pub(crate) call: &'a Call,
    /// None if the model made the tool up.
    pub(crate) tool: Option<Registered>,
}

/// The calls of one turn. Those that are not over when it is dropped are recorded as cancelled, and stop.
pub(crate) struct Calls<'a, U> {
    exchange: &'a mut Exchange<U>,
    msg_id: &'a str,
    calls: Vec<OurCall<'a>>,
    /// The text for the model; none until the call is over.
    results: Vec<Option<String>>,
    started: Instant,
}

type Outcome = Result<ToolOutput, String>;

/// Takes charge of `calls`; nothing runs yet.
pub(crate) fn prepare<'a, U>(exchange: &'a mut Exchange<U>, msg_id: &'a str, calls: Vec<OurCall<'a>>) -> Calls<'a, U> {
    let results = calls.iter().map(|_| None).collect();
    Calls {
        exchange,
        msg_id,
        calls,
        results,
        started: Instant::now(),
    }
}

/// A call of ours in a turn that is the caller's: the model will ask again.
pub(crate) fn record_unrun<U>(exchange: &mut Exchange<U>, msg_id: &str, call: &Call, tool: Option<&Registered>) {
    let why = "not run: the model called one of the caller's tools first";
    record(exchange, msg_id, call, tool, Some(why.to_owned()), None);
}

/// Arguments as records show them: a string where they are not JSON.
pub(crate) fn recorded_arguments(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

fn record<U>(
    exchange: &mut Exchange<U>,
    msg_id: &str,
    call: &Call,
    tool: Option<&Registered>,
    invocation_error: Option<String>,
    duration: Option<Duration>,
) {
    if exchange.is_recorded() {
        exchange.emit(Fact::ToolUsage {
            msg_id: msg_id.to_owned(),
            tool_call_id: call.id.clone(),
            tool: tool.map_or(&*call.name, |tool| tool.definition().name()).to_owned(),
            server: tool.map(|tool| tool.definition().server_name().to_owned()),
            server_url: tool.and_then(|tool| tool.definition().url()).map(str::to_owned),
            args: recorded_arguments(&call.arguments),
            injected: true,
            invocation_error,
            duration_ms: duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        });
    }
}

// === impl Calls ===

impl<U> Calls<'_, U> {
    /// Runs them all to their end.
    pub(crate) async fn run(&mut self) {
        self.started = Instant::now();
        let mut running = JoinSet::new();
        let mut places = HashMap::new();
        for place in 0..self.calls.len() {
            match self.checked(place) {
                Err(message) => self.finished(place, Err(message)),
                Ok((tool, call)) => {
                    let span = tracing::debug_span!(
                        "tool_call",
                        "gen_ai.operation.name" = "execute_tool",
                        "gen_ai.tool.name" = call.name(),
                        "gen_ai.tool.call.id" = call.id(),
                    );
                    let limit = self.exchange.config.tool_timeout;
                    let task = running.spawn(invoke(tool, call, limit).instrument(span));
                    places.insert(task.id(), place);
                }
            }
        }
        while let Some(joined) = running.join_next_with_id().await {
            let (id, outcome) = match joined {
                Ok(done) => done,
                // The panic's own words may hold anything, a key too.
                Err(error) => (error.id(), Err("the tool crashed".to_owned())),
            };
            if let Some(place) = places.get(&id) {
                self.finished(*place, outcome);
            }
        }
    }

    /// The texts for the model in call order, whatever order the calls ended in.
    pub(crate) fn into_results(mut self) -> Vec<String> {
        self.calls.clear();
        mem::take(&mut self.results)
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect()
    }

    fn checked(&self, place: usize) -> Result<(Registered, ToolCall), String> {
        let OurCall { call, tool, .. } = &self.calls[place];
        let tool = tool
            .as_ref()
            .ok_or_else(|| format!("there is no tool named {}", call.name))?;
        let arguments = tool.check(&call.arguments)?;
        Ok((tool.clone(), tool.call(&*call.id, arguments)))
    }

    fn finished(&mut self, place: usize, outcome: Outcome) {
        let OurCall { call, tool, .. } = &self.calls[place];
        let output = outcome.unwrap_or_else(ToolOutput::error);
        let error = output.is_error().then(|| output.content().to_owned());
        if error.is_some() {
            // Why is for the model and the record: an error may quote arguments, or a secret of the tool's.
            tracing::debug!(tool = call.name, id = call.id, "a tool call failed");
        }
        let duration = Instant::now().saturating_duration_since(self.started);
        record(self.exchange, self.msg_id, call, tool.as_ref(), error, Some(duration));
        self.results[place] = Some(output.into_message(self.exchange.config.max_tool_result));
    }
}

impl<U> Drop for Calls<'_, U> {
    fn drop(&mut self) {
        let duration = Instant::now().saturating_duration_since(self.started);
        for (OurCall { call, tool, .. }, result) in self.calls.iter().zip(&self.results) {
            if result.is_none() {
                let why = "cancelled: the caller left".to_owned();
                record(
                    self.exchange,
                    self.msg_id,
                    call,
                    tool.as_ref(),
                    Some(why),
                    Some(duration),
                );
            }
        }
    }
}

async fn invoke(tool: Registered, call: ToolCall, limit: Duration) -> Outcome {
    match timeout(limit, tool.service().oneshot(call)).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "the tool did not answer within {} seconds",
            limit.as_secs_f64()
        )),
    }
}
