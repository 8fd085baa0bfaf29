//! The one loop: read a turn, look at its calls, run ours, ask again. Whole replies and streams differ only in how a
//! turn is read.

use std::future::Future;

use super::answer::Failure;
use super::exchange::Exchange;
use super::invoke::{self, OurCall};
use crate::dialect::chat_completions::{Call, ChatRequest, Turn};
use crate::dialect::offer::{Offer, Owner};
use crate::error::BridgeErrorKind;
use crate::record::Fact;
use crate::rope::Rope;
use crate::upstream::Upstream;

/// A request that was read and admitted, with all that answering it takes.
pub(crate) struct Conversation<U> {
    pub(crate) exchange: Exchange<U>,
    pub(crate) request: ChatRequest,
    pub(crate) offer: Offer,
}

/// How one round's answer is read.
pub(crate) trait ReadTurn<U: Upstream>: Send {
    /// Sends `body` and reads the answer. What it learns on the way it records.
    fn read(
        &mut self,
        exchange: &mut Exchange<U>,
        request: &ChatRequest,
        body: Rope,
    ) -> impl Future<Output = Result<Turn, Failure>> + Send;

    /// Called between a turn and the tools that it asked for.
    fn pause(&mut self) -> impl Future<Output = ()> + Send;

    /// Waits for the tools.
    fn wait<F>(&mut self, tools: F) -> impl Future<Output = F::Output> + Send
    where
        F: Future<Output: Send> + Send;

    /// The last turn's message, with only the calls that `keep` keeps.
    fn replay(&mut self, keep: impl Fn(usize) -> bool + Send) -> Rope;
}

/// How many rounds there may be, and which one this is.
#[derive(Debug)]
struct Rounds {
    max: u32,
    done: u32,
}

/// What follows a turn.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is the caller's.
    Finish,
    /// Run its tools and ask again; `last` if the model must answer then.
    Invoke { last: bool },
    /// The model was told to answer, and asks for tools all the same.
    Fail,
}

/// Runs the rounds until a turn is the caller's; that one stays with the reader.
pub(crate) async fn drive<U, R>(conversation: &mut Conversation<U>, reader: &mut R) -> Result<(), Failure>
where
    U: Upstream,
    R: ReadTurn<U>,
{
    let Conversation {
        exchange,
        request,
        offer,
    } = conversation;
    let mut rounds = Rounds {
        max: exchange.config.max_rounds,
        done: 0,
    };
    loop {
        exchange.begin_round(rounds.number());
        let turn = reader.read(exchange, request, request.encode()).await?;
        let ours = sort_calls(exchange, &turn, offer);
        match rounds.advance(!ours.is_empty()) {
            Step::Finish => return Ok(()),
            Step::Fail => {
                return Err(Failure::bridge(
                    BridgeErrorKind::TooManyRounds,
                    "the model kept asking for tools after it was told to answer",
                ));
            }
            Step::Invoke { last } => {
                // The guard comes before anything is awaited: a call that never starts is recorded as well.
                let places: Vec<usize> = ours.iter().map(|call| call.place).collect();
                let mut calls = invoke::prepare(exchange, &turn.completion.id, ours);
                reader.pause().await;
                reader.wait(calls.run()).await;
                let results = calls.into_results();
                let message = reader.replay(|place| places.contains(&place));
                let ids = places.iter().map(|place| turn.calls[*place].id.as_str());
                request.extend(message, ids.zip(results.iter().map(String::as_str)));
                if last {
                    request.forbid_tools();
                }
            }
        }
    }
}

/// Records the calls that are the caller's to run, and returns ours; none in a turn that is the caller's already.
fn sort_calls<'a, U>(exchange: &mut Exchange<U>, turn: &'a Turn, offer: &Offer) -> Vec<OurCall<'a>> {
    let mut ours = Vec::new();
    for (place, call) in turn.calls.iter().enumerate() {
        match offer.owner(&call.name) {
            Owner::Caller => record_callers(exchange, turn, call),
            owner if turn.callers_turn => {
                let tool = if let Owner::Ours(tool) = owner {
                    Some(tool)
                } else {
                    None
                };
                invoke::record_unrun(exchange, &turn.completion.id, call, tool);
            }
            Owner::Ours(tool) => ours.push(OurCall {
                place,
                call,
                tool: Some(tool.clone()),
            }),
            Owner::Nobody => ours.push(OurCall {
                place,
                call,
                tool: None,
            }),
        }
    }
    ours
}

fn record_callers<U>(exchange: &mut Exchange<U>, turn: &Turn, call: &Call) {
    if exchange.is_recorded() {
        exchange.emit(Fact::ToolUsage {
            msg_id: turn.completion.id.clone(),
            tool_call_id: call.id.clone(),
            tool: call.name.clone(),
            server: None,
            server_url: None,
            args: invoke::recorded_arguments(&call.arguments),
            injected: false,
            invocation_error: None,
            duration_ms: None,
        });
    }
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
        if self.done == self.max {
            return Step::Fail;
        }
        self.done += 1;
        let last = self.done == self.max;
        if last {
            tracing::warn!(rounds = self.max, "the model may call no more tools for this request");
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
