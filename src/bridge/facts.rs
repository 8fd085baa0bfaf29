//! Builds the facts of an interception for records and spans.

use std::time::Duration;

use http::{StatusCode, request};
use serde_json::Value;

use super::admit::Admitted;
use super::client::Client;
use super::config::Config;
use crate::dialect::turn::{About, Call, Completion, Owner, Turn};
use crate::dialect::usage::Counts;
use crate::extensions::{Actor, Intercepted};
use crate::metrics;
use crate::record::{Fact, Interception, Outcome};
use crate::types::Dialect;

pub(super) fn started(
    config: &Config,
    dialect: Dialect,
    head: &request::Parts,
    admitted: &Admitted,
    about: &About,
) -> Fact {
    let client = Client::recognise(&head.headers);
    let (initiator_id, metadata) = admitted.actor.clone().map(Actor::into_parts).unzip();
    Fact::Started {
        provider: config.provider(dialect).to_owned(),
        dialect,
        model: about.model.clone(),
        path: head.uri.path().to_owned(),
        streaming: about.stream,
        initiator_id,
        metadata: metadata.unwrap_or_default(),
        client: client.name.to_owned(),
        client_session_id: client.session_id.or_else(|| about.session.clone()),
        user_agent: client.user_agent,
        correlating_tool_call_id: about.correlating_tool_call_id.clone(),
        credential_kind: admitted.credentials.kind(),
        credential_hint: admitted.credentials.hint(),
    }
}

/// The interception, for the response's extensions.
pub(super) fn intercepted(interception: &Interception) -> Intercepted {
    Intercepted {
        id: interception.id(),
        key_attempts: interception.key_attempts(),
    }
}

/// Keeps a round's usage as known so far: the last report counts, and it is recorded even if the stream is cut.
pub(super) fn hold_usage(interception: &mut Interception, completion: &Completion) {
    if let Some(fact) = usage(interception, completion) {
        interception.hold(fact);
    }
}

/// Records one round's usage, once it is final.
pub(super) fn record_usage(interception: &mut Interception, completion: &Completion) {
    if let Some(fact) = usage(interception, completion) {
        interception.emit(fact);
    }
}

/// A round's usage, if records, metrics or the span take it.
fn usage(interception: &mut Interception, completion: &Completion) -> Option<Fact> {
    let span = tracing::Span::current();
    if !metrics::IS_ON && !interception.is_recorded() && span.is_disabled() {
        return None;
    }
    // A span keeps every value that a field is given, and streams report usage often.
    if interception.note_report() {
        span.record("gen_ai.response.model", &*completion.model);
    }
    let Counts { usage, extra } = completion.usage.as_ref()?.counts();
    Some(Fact::TokenUsage {
        msg_id: completion.id.clone(),
        model: completion.model.clone(),
        service_tier: completion.service_tier.clone(),
        usage,
        extra,
        cost: None,
    })
}

/// Records the user's prompt, once, with the first answer's id.
pub(super) fn record_prompt(interception: &mut Interception, msg_id: &str, prompt: impl FnOnce() -> Option<String>) {
    if !interception.is_recorded() {
        return;
    }
    if let Some(prompt) = interception.take_prompt().unwrap_or_else(prompt) {
        interception.emit(Fact::PromptUsage {
            msg_id: msg_id.to_owned(),
            prompt,
        });
    }
}

/// Records the model's thoughts, if the operator asked for them.
pub(super) fn record_thoughts(config: &Config, interception: &mut Interception, turn: &Turn) {
    if config.record_thoughts && interception.is_recorded() {
        for thought in &turn.thoughts {
            interception.emit(Fact::ModelThought {
                msg_id: turn.completion.id.clone(),
                source: thought.source.to_owned(),
                content: thought.content.clone(),
            });
        }
    }
}

/// Records the calls that are not run here: the caller's, and ours in a turn that is the caller's.
pub(super) fn record_calls(interception: &mut Interception, turn: &Turn) {
    for call in &turn.calls {
        let why = match (call.is_callers(), turn.is_ours) {
            (true, false) => None,
            (true, true) => Some("not run: the model called one of the operator's tools first"),
            (false, false) => Some("not run: the turn is the caller's"),
            // It runs, and is recorded at its end.
            (false, true) => continue,
        };
        record_call(interception, &turn.completion.id, call, why.map(str::to_owned), None);
    }
}

/// Records calls of ours that nobody runs.
pub(super) fn record_unrun(interception: &mut Interception, turn: &Turn, why: &str) {
    for call in turn.calls.iter().filter(|call| !call.is_callers()) {
        record_call(interception, &turn.completion.id, call, Some(why.to_owned()), None);
    }
}

/// Records one call.
pub(super) fn record_call(
    interception: &mut Interception,
    msg_id: &str,
    call: &Call,
    invocation_error: Option<String>,
    duration: Option<Duration>,
) {
    if !interception.is_recorded() {
        return;
    }
    let definition = match &call.owner {
        Owner::Ours(tool) => Some(tool.definition()),
        Owner::Caller | Owner::Nobody => None,
    };
    interception.emit(Fact::ToolUsage {
        msg_id: msg_id.to_owned(),
        tool_call_id: call.id.clone(),
        tool: definition.map_or(&*call.name, |tool| tool.name()).to_owned(),
        server: definition.map(|tool| tool.get_server().to_owned()),
        server_url: definition.and_then(|tool| tool.get_server_url()).map(str::to_owned),
        args: recorded_arguments(&call.arguments, interception.max_text()),
        injected: !call.is_callers(),
        invocation_error,
        duration_ms: duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
    });
}

/// Arguments as records show them: a string if they are not JSON, or if the record will cut them. As a parsed tree they
/// would take many times their length.
fn recorded_arguments(text: &str, limit: usize) -> Value {
    if text.len() > limit {
        return Value::from(text);
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// Ends the interception and completes its span.
pub(super) fn finish(mut interception: Interception, outcome: Outcome, status: StatusCode, error_type: Option<&str>) {
    interception.release();
    let (span, usage) = (tracing::Span::current(), interception.usage());
    span.record(
        "gen_ai.usage.input_tokens",
        usage.input.saturating_add(usage.cache_read_input_tokens),
    );
    span.record("gen_ai.usage.output_tokens", usage.output);
    interception.finish(outcome, Some(status), error_type);
}
