//! The loop over a request's rounds: read a turn, run our calls, ask again. Whole replies and streams differ only in
//! how a turn is read.

use std::future::Future;

use super::additions;
use super::answer::Failure;
use super::facts;
use super::provider::Provider;
use super::stored::StoredAnswers;
use super::tools::Calls;
use crate::body::budget::Held;
use crate::dialect::Request;
use crate::dialect::turn::{Addition, ToolResult, Turn};
use crate::error::BridgeErrorKind;
use crate::extensions::Actor;
use crate::metrics::{self, Limit};
use crate::record::{Injection, Interception};
use crate::rope::Rope;
use crate::upstream::Upstream;

/// The result of a caller's call in a turn of which we run the other calls.
const PLACEHOLDER: &str = "Not run: call it again on its own.";

/// An admitted request, with everything that answering it needs.
pub(crate) struct Conversation<U> {
    pub(crate) provider: Provider<U>,
    pub(crate) interception: Interception,
    pub(crate) request: Box<dyn Request>,
    pub(crate) actor: Option<Actor>,
    pub(crate) stored: StoredAnswers,
    /// The request's bytes, those of whole replies, and those that rounds append.
    pub(crate) held: Held,
}

/// How one round's answer is read.
pub(crate) trait ReadTurn<U: Upstream>: Send {
    /// One round's answer, before it is known whether it is the last.
    type Answer: Send;

    /// Sends the round's request and reads the answer; records on the way.
    fn read(
        &mut self,
        conversation: &mut Conversation<U>,
    ) -> impl Future<Output = Result<(Turn, Self::Answer), Failure>> + Send;

    /// Whether the caller may have seen a part of an answer.
    fn has_shown(&self) -> bool;

    /// Waits for the tools of a turn.
    fn wait<F>(&mut self, tools: F) -> impl Future<Output = F::Output> + Send
    where
        F: Future<Output: Send> + Send;

    /// The turn as the next round's request repeats it.
    fn replay(&mut self, answer: Self::Answer) -> Replay;
}

/// A turn as the next round's request repeats it.
pub(crate) struct Replay {
    pub(crate) turn: Rope,
    /// How many bytes of its answer were counted as held when they were read.
    pub(crate) counted: usize,
}

/// The number of rounds that may run tools, and of those that did.
#[derive(Debug)]
struct Rounds {
    max: u32,
    done: u32,
}

/// The step that follows a turn.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The turn is the caller's.
    Finish,
    /// Run its tools and ask again; `last` if the model must answer then.
    Invoke { last: bool },
    /// The model was told to answer, but still asks for tools.
    Fail,
}

/// Runs the rounds until a turn is the caller's; returns that turn's answer.
pub(crate) async fn drive<U, R>(conversation: &mut Conversation<U>, reader: &mut R) -> Result<R::Answer, Failure>
where
    U: Upstream,
    R: ReadTurn<U>,
{
    let mut rounds = Rounds {
        max: conversation.provider.config.max_rounds,
        done: 0,
    };
    let mut appended = 0;
    loop {
        conversation.provider.begin_round(rounds.number());
        // Counted from its start, so that a round that fails is counted too.
        conversation.interception.note_round();
        let (turn, answer) = match reader.read(conversation).await {
            Ok(read) => read,
            Err(failure) if rounds.done == 0 && !reader.has_shown() => {
                read_without_additions(conversation, reader, failure).await?
            }
            Err(failure) => return Err(failure),
        };
        facts::record_thoughts(&conversation.provider.config, &mut conversation.interception, &turn);
        facts::record_calls(&mut conversation.interception, &turn);
        match rounds.advance(turn.is_ours) {
            Step::Finish => return Ok(answer),
            Step::Fail => {
                facts::record_unrun(
                    &mut conversation.interception,
                    &turn,
                    "not run: the model was told to answer",
                );
                return Err(Failure::bridge(
                    BridgeErrorKind::TooManyRounds,
                    "the model kept asking for tools after it was told to answer",
                ));
            }
            Step::Invoke { mut last } => {
                let config = &conversation.provider.config;
                // The guard comes before anything is awaited: a call that never starts is recorded as well.
                let extensions = conversation.provider.call_extensions(conversation.actor.as_ref());
                let room = config.max_appended.saturating_sub(appended);
                let mut calls = Calls::new(config, &mut conversation.interception, &turn, extensions, room);
                reader.wait(calls.run()).await;
                let results: Vec<ToolResult<'_>> = calls.into_results(PLACEHOLDER);
                let Replay { turn: replay, counted } = reader.replay(answer);
                let size = |result: &ToolResult<'_>| result.text.len() + result.call.id.len();
                let results_size = results.iter().map(size).sum::<usize>();
                let uncounted = replay.len().saturating_sub(counted);
                if !conversation.held.take_more(uncounted + results_size) {
                    return Err(Failure::over_budget());
                }
                appended += replay.len() + results_size;
                if appended > config.max_appended && !last {
                    tracing::warn!(
                        appended,
                        "the rounds of this request appended too many bytes: the model must answer"
                    );
                    metrics::refused(Limit::Appended);
                    last = true;
                    rounds.done = rounds.max;
                }
                conversation.request.extend(replay, &results);
                if last {
                    conversation.request.forbid_tools();
                }
            }
        }
    }
}

/// Sends the caller's own request with the same key if the provider refused the first round because of our additions.
async fn read_without_additions<U, R>(
    conversation: &mut Conversation<U>,
    reader: &mut R,
    failure: Failure,
) -> Result<(Turn, R::Answer), Failure>
where
    U: Upstream,
    R: ReadTurn<U>,
{
    let refused = match &failure {
        Failure::Provider(refusal) => refusal.names.as_ref().map_or_else(Vec::new, |names| {
            additions::refused(&*conversation.request, refusal.parts.status, names)
        }),
        Failure::Bridge(_) => Vec::new(),
    };
    if refused.is_empty() {
        return Err(failure);
    }
    let all = conversation.request.additions();
    conversation.request.withdraw(&all);
    conversation.provider.sends_again = true;
    if all.contains(&Addition::Tools) {
        conversation.interception.set_injection(Injection::Refused);
    }
    let read = reader.read(conversation).await?;
    let Provider { config, api, .. } = &conversation.provider;
    config
        .refused_additions
        .remember(api.dialect(), &*conversation.request, &refused);
    Ok(read)
}

// === impl Rounds ===

impl Rounds {
    fn number(&self) -> u32 {
        self.done + 1
    }

    fn advance(&mut self, has_ours: bool) -> Step {
        if !has_ours {
            return Step::Finish;
        }
        if self.done >= self.max {
            return Step::Fail;
        }
        self.done += 1;
        let last = self.done == self.max;
        if last {
            tracing::warn!(
                rounds = self.max,
                "this request has used all of its rounds: the model must answer"
            );
            metrics::refused(Limit::Rounds);
        }
        Step::Invoke { last }
    }
}

#[cfg(test)]
mod tests {
    use super::{Rounds, Step};

    #[test]
    fn the_last_round_is_announced_and_then_enforced() {
        let mut rounds = Rounds { max: 2, done: 0 };
        assert_eq!(
            (rounds.number(), rounds.advance(true)),
            (1, Step::Invoke { last: false })
        );
        assert_eq!(
            (rounds.number(), rounds.advance(true)),
            (2, Step::Invoke { last: true })
        );
        assert_eq!((rounds.number(), rounds.advance(true)), (3, Step::Fail));
        assert_eq!(rounds.advance(false), Step::Finish);
    }

    #[test]
    fn without_rounds_no_tool_runs() {
        assert_eq!(Rounds { max: 0, done: 0 }.advance(true), Step::Fail);
    }
}
