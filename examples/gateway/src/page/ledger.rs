//! The page's memory: running requests, the last ended ones, sums by hour, calls of tools. Built from the recorder's
//! events, and bounded whatever callers and models send. It holds no prompt, no argument and no error text.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tower_llm_bridge::record::{Cost, Event, Fact, Outcome, TokenUsage};
use uuid::Uuid;

use super::hours::Hours;
use super::view::ENDED;

/// The most running requests. A recorder usually has fewer places; of more, some are seen only when they end.
const MAX_RUNNING: usize = 8192;
/// The most tools that are counted separately.
const MAX_TOOLS: usize = 512;
/// Characters of a name that a caller or a tool server chose.
const MAX_NAME: usize = 120;
/// The name for everything beyond a bound.
pub(super) const OTHER: &str = "other";

/// Everything that the page knows of the past.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    running: HashMap<Uuid, Request>,
    /// The newest last.
    ended: VecDeque<Request>,
    pub(super) hours: Hours,
    tools: BTreeMap<(String, String), ToolCounts>,
    totals: Totals,
}

/// One interception, as the page shows it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Request {
    id: Uuid,
    /// Of its start, in milliseconds since 1970.
    at: u64,
    pub(super) provider: String,
    dialect: &'static str,
    pub(super) model: String,
    client: String,
    pub(super) actor: Option<String>,
    streaming: bool,
    key: Option<String>,
    rounds: u32,
    key_attempts: u32,
    tools: u32,
    #[serde(flatten)]
    pub(super) usage: TokenUsage,
    pub(super) cost: Option<Cost>,
    /// `None` while it runs.
    pub(super) outcome: Option<Outcome>,
    status: Option<u16>,
    error: Option<String>,
    pub(super) duration_ms: Option<u64>,
    pub(super) first_token_ms: Option<u64>,
}

/// Counted since the page's process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    pub(super) started: u64,
    pub(super) ended: u64,
    pub(super) running: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ToolCounts {
    calls: u64,
    failures: u64,
    /// All calls together.
    duration_ms: u64,
}

/// A tool with its counts.
#[derive(Debug, Serialize)]
pub(super) struct ToolLine<'a> {
    server: &'a str,
    tool: &'a str,
    #[serde(flatten)]
    counts: ToolCounts,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn fold(&mut self, event: &Event) {
        match &event.fact {
            Fact::Started { .. } => {
                self.totals.started += 1;
                if self.running.len() < MAX_RUNNING
                    && let Some(request) = Request::started(event)
                {
                    self.running.insert(event.interception_id, request);
                }
            }
            Fact::TokenUsage { usage, .. } => {
                if let Some(request) = self.running.get_mut(&event.interception_id) {
                    request.rounds += 1;
                    request.usage += *usage;
                }
            }
            Fact::ToolUsage {
                tool,
                server,
                injected,
                invocation_error,
                duration_ms,
                ..
            } => {
                if let Some(request) = self.running.get_mut(&event.interception_id) {
                    request.tools = request.tools.saturating_add(1);
                }
                // The caller's own tools run at the caller.
                if *injected {
                    let counts = self.tool(server.as_deref().unwrap_or_default(), tool);
                    counts.calls += 1;
                    counts.failures += u64::from(invocation_error.is_some());
                    counts.duration_ms = counts.duration_ms.saturating_add(duration_ms.unwrap_or(0));
                }
            }
            Fact::Ended { .. } => {
                self.totals.ended += 1;
                let request = self.running.remove(&event.interception_id);
                let mut request = request.unwrap_or_else(|| Request::unseen(event));
                request.end(event);
                self.hours.add(&request);
                if self.ended.len() == ENDED {
                    self.ended.pop_front();
                }
                self.ended.push_back(request);
            }
            // Content is not kept here.
            _ => {}
        }
    }

    fn tool(&mut self, server: &str, tool: &str) -> &mut ToolCounts {
        let mut key = (cut(server), cut(tool));
        if self.tools.len() >= MAX_TOOLS && !self.tools.contains_key(&key) {
            key = (OTHER.to_owned(), OTHER.to_owned());
        }
        self.tools.entry(key).or_default()
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            running: self.running.len() as u64,
            ..self.totals
        }
    }

    /// The newest `most` requests that run, the newest first.
    pub(super) fn running(&self, most: usize) -> Vec<&Request> {
        let mut requests: Vec<&Request> = self.running.values().collect();
        let newest = |request: &&Request| std::cmp::Reverse((request.at, request.id));
        if requests.len() > most {
            requests.select_nth_unstable_by_key(most, newest);
            requests.truncate(most);
        }
        requests.sort_unstable_by_key(newest);
        requests
    }

    /// The newest `most` of the requests that ended after the first `seen`, the newest last.
    pub(super) fn ended_since(&self, seen: u64, most: usize) -> impl Iterator<Item = &Request> {
        let new = usize::try_from(self.totals.ended - seen.min(self.totals.ended)).unwrap_or(usize::MAX);
        self.ended
            .iter()
            .skip(self.ended.len() - new.min(most).min(self.ended.len()))
    }

    pub(super) fn tools(&self) -> impl Iterator<Item = ToolLine<'_>> {
        self.tools.iter().map(|((server, tool), counts)| ToolLine {
            server,
            tool,
            counts: *counts,
        })
    }
}

// === impl Request ===

impl Request {
    /// `None` if `event` is not a start.
    fn started(event: &Event) -> Option<Self> {
        let Fact::Started {
            provider,
            dialect,
            model,
            streaming,
            initiator_id,
            client,
            credential_hint,
            ..
        } = &event.fact
        else {
            return None;
        };
        Some(Self {
            provider: cut(provider),
            dialect: dialect.as_str(),
            model: cut(model),
            client: cut(client),
            actor: initiator_id.as_deref().map(cut),
            streaming: *streaming,
            key: credential_hint.as_ref().map(ToString::to_string),
            ..Self::unseen(event)
        })
    }

    /// A request whose start was not seen, or not kept.
    fn unseen(event: &Event) -> Self {
        Self {
            id: event.interception_id,
            at: millis(event.at),
            provider: String::new(),
            dialect: "",
            model: OTHER.to_owned(),
            client: String::new(),
            actor: None,
            streaming: false,
            key: None,
            rounds: 0,
            key_attempts: 0,
            tools: 0,
            usage: TokenUsage::default(),
            cost: None,
            outcome: None,
            status: None,
            error: None,
            duration_ms: None,
            first_token_ms: None,
        }
    }

    fn end(&mut self, event: &Event) {
        if let Fact::Ended {
            outcome,
            status,
            error_type,
            credential_hint,
            key_attempts,
            rounds,
            usage,
            cost,
            duration_ms,
            time_to_first_token_ms,
            ..
        } = &event.fact
        {
            self.outcome = Some(*outcome);
            self.status = *status;
            self.error = error_type.as_deref().map(cut);
            if let Some(hint) = credential_hint {
                self.key = Some(hint.to_string());
            }
            self.key_attempts = *key_attempts;
            self.rounds = *rounds;
            self.usage = *usage;
            self.cost.clone_from(cost);
            self.duration_ms = Some(*duration_ms);
            self.first_token_ms = *time_to_first_token_ms;
        }
    }

    /// The hour of its start, counted from 1970.
    pub(super) fn hour(&self) -> u64 {
        self.at / 3_600_000
    }
}

/// The name, or its first [`MAX_NAME`] characters.
fn cut(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

pub(super) fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
