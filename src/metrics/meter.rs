//! The functions by which the rest of the crate reports measurements. `absent.rs` has the same names for builds without
//! the feature.
//!
//! Each set of labels is built once and kept; reporting a number is a look-up in the recorder.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use metrics::{Key, Label, Level, Metadata, SharedString};
use tokio::time::Instant;

#[cfg(feature = "mcp")]
pub(crate) use self::levels::tool_server_up;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use self::levels::{sink_failed, sink_waiting, sink_written};
pub(crate) use self::{
    keys::{KeyMeter, keys},
    levels::{free_places, refused},
};
use super::names::{self, label};
use crate::types::{Dialect, TokenUsage};

mod keys;
mod levels;

/// Whether anything is measured.
pub(crate) const IS_ON: bool = true;

/// How many models, tools or key hints have labels of their own.
pub(super) const MOST: usize = 64;
/// The label of all others.
pub(super) const OTHER: &str = "other";
/// The only one of the conventions' operations that passes through the bridge.
const CHAT: &str = "chat";
/// How many currencies of one model are reported.
const MOST_CURRENCIES: usize = 8;

static METADATA: Metadata<'static> = Metadata::new("llm_bridge", Level::INFO, None);
static IN_FLIGHT: Key = Key::from_static_name(names::IN_FLIGHT);

/// The labels of one layer and its clones.
#[derive(Clone, Default)]
pub(crate) struct Meter(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The models that have labels of their own, by name; each with its providers.
    models: RwLock<HashMap<Arc<str>, Vec<Arc<Series>>>>,
    /// The same for all others.
    other: RwLock<Vec<Arc<Series>>>,
    tools: RwLock<Vec<Arc<ToolSeries>>>,
}

/// One interception's measurements. When it is dropped, the interception has ended.
#[derive(Default)]
pub(crate) struct Operation(Option<Running>);

struct Running {
    subject: Subject,
    dialect: Dialect,
    /// The start, moved forward by all time in the inner service and in tools.
    since: Stopwatch,
    /// Whether the overhead is still to be reported.
    is_ahead: bool,
}

/// The labels of an interception.
enum Subject {
    Known(Arc<Series>),
    /// A model for which no provider has answered yet.
    New(Box<New>),
}

struct New {
    meter: Meter,
    provider: Box<str>,
    model: Box<str>,
}

/// A moment from which time is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

/// The labels of one model at one provider.
struct Series {
    provider: Arc<str>,
    model: SharedString,
    input: Key,
    output: Key,
    cache_read: Key,
    cache_write: Key,
    first_token: Key,
    completed: Key,
    overhead: [Key; Dialect::COUNT],
    /// By currency. A price hook of the user names them.
    costs: Mutex<Vec<(String, Key)>>,
}

struct ToolSeries {
    server: Arc<str>,
    tool: Arc<str>,
    duration: Key,
}

fn key<const N: usize>(name: &'static str, labels: [(&'static str, SharedString); N]) -> Key {
    let labels: Vec<Label> = labels
        .into_iter()
        .map(|(name, value)| Label::new(name, value))
        .collect();
    // Shared from the start, so that recorders keep it without a copy.
    Key::from_parts(name, labels).to_retained()
}

fn count(key: &Key, by: u64) {
    metrics::with_recorder(|recorder| recorder.register_counter(key, &METADATA).increment(by));
}

fn observe(key: &Key, value: f64) {
    metrics::with_recorder(|recorder| recorder.register_histogram(key, &METADATA).record(value));
}

fn change_gauge(key: &Key, by: f64) {
    metrics::with_recorder(|recorder| recorder.register_gauge(key, &METADATA).increment(by));
}

/// Exact up to 2^53.
fn tokens(count: u64) -> f64 {
    count as f64
}

// === impl Meter ===

impl Meter {
    /// Begins to measure an interception that is admitted now; its request was whole at `since`.
    pub(crate) fn operation(&self, provider: &str, dialect: Dialect, model: &str, since: Stopwatch) -> Operation {
        change_gauge(&IN_FLIGHT, 1.0);
        Operation(Some(Running {
            subject: match self.0.known(provider, model) {
                Some(series) => Subject::Known(series),
                None => Subject::New(Box::new(New {
                    meter: self.clone(),
                    provider: provider.into(),
                    model: model.into(),
                })),
            },
            dialect,
            since,
            is_ahead: true,
        }))
    }

    /// Counts a call of an injected tool that has ended.
    pub(crate) fn tool_call(&self, server: &str, tool: &str, outcome: &'static str, duration: Duration) {
        let series = self.0.tool(server, tool);
        count(&series.calls(outcome), 1);
        observe(&series.duration, duration.as_secs_f64());
    }

    /// Counts a request for which no key of the provider was usable.
    pub(crate) fn exhausted(&self, provider: &str, reason: &'static str) {
        let labels = [
            (label::PROVIDER, provider.to_owned().into()),
            (label::REASON, SharedString::const_str(reason)),
        ];
        count(&key(names::KEY_EXHAUSTIONS, labels), 1);
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    /// The labels of a model that has some of its own.
    fn known(&self, provider: &str, model: &str) -> Option<Arc<Series>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        of_provider(models.get(model)?, provider)
    }

    /// The labels of a model for which a provider has answered: its own while fewer than [`MOST`] models have some.
    fn answered(&self, provider: &str, model: &str) -> Arc<Series> {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if !models.contains_key(model) && models.len() >= MOST {
            drop(models);
            return self.other(provider);
        }
        let of_model = models.entry(model.into()).or_default();
        of_provider(of_model, provider).unwrap_or_else(|| Series::add(of_model, provider, model))
    }

    fn other(&self, provider: &str) -> Arc<Series> {
        let mut other = self.other.write().unwrap_or_else(PoisonError::into_inner);
        of_provider(&other, provider).unwrap_or_else(|| Series::add(&mut other, provider, OTHER))
    }

    fn tool(&self, server: &str, tool: &str) -> Arc<ToolSeries> {
        let find = |tools: &[Arc<ToolSeries>], server: &str, tool: &str| {
            let mut tools = tools.iter();
            tools
                .find(|series| *series.server == *server && *series.tool == *tool)
                .map(Arc::clone)
        };
        let known = find(&self.tools.read().unwrap_or_else(PoisonError::into_inner), server, tool);
        known.unwrap_or_else(|| {
            let mut tools = self.tools.write().unwrap_or_else(PoisonError::into_inner);
            let (server, tool) = if tools.len() < MOST {
                (server, tool)
            } else {
                (OTHER, OTHER)
            };
            find(&tools, server, tool).unwrap_or_else(|| {
                let series = Arc::new(ToolSeries::new(server, tool));
                tools.push(Arc::clone(&series));
                series
            })
        })
    }
}

fn of_provider(series: &[Arc<Series>], provider: &str) -> Option<Arc<Series>> {
    series
        .iter()
        .find(|series| *series.provider == *provider)
        .map(Arc::clone)
}

// === impl Operation ===

impl Operation {
    /// Reports one round's tokens, and its cost if it has one: an amount and its currency.
    pub(crate) fn usage(&mut self, usage: &TokenUsage, cost: Option<(f64, &str)>) {
        let Some(running) = &mut self.0 else { return };
        let series = running.answered();
        let (read, written) = (usage.cache_read_input_tokens, usage.cache_write_input_tokens);
        // The conventions count cached tokens as input.
        let input = usage.input.saturating_add(read).saturating_add(written);
        observe(&series.input, tokens(input));
        observe(&series.output, tokens(usage.output));
        for (key, tokens) in [(&series.cache_read, read), (&series.cache_write, written)] {
            if tokens > 0 {
                count(key, tokens);
            }
        }
        if let Some((amount, currency)) = cost {
            series.cost(amount, currency);
        }
    }

    /// A stopwatch for time spent outside the bridge; `None` once the overhead is reported.
    pub(crate) fn stopwatch(&self) -> Option<Stopwatch> {
        let is_ahead = self.0.as_ref().is_some_and(|running| running.is_ahead);
        is_ahead.then(Stopwatch::start)
    }

    /// Excludes the time since `begun` from the overhead.
    pub(crate) fn waited(&mut self, begun: Option<Stopwatch>) {
        if let (Some(running), Some(begun)) = (&mut self.0, begun) {
            running.since.skip(begun.read());
        }
    }

    /// Reports the first part of a stream, `after` the admission.
    pub(crate) fn first_token(&mut self, after: Duration) {
        let Some(running) = &mut self.0 else { return };
        let series = running.answered();
        observe(&series.first_token, after.as_secs_f64());
        running.report_overhead(&series);
    }

    /// Reports the end, and the overhead of an answer that `is_complete`.
    pub(crate) fn end(&mut self, outcome: &'static str, is_complete: bool, duration: Duration) {
        let Some(mut running) = self.0.take() else { return };
        if is_complete {
            let series = running.answered();
            observe(&series.completed, duration.as_secs_f64());
            running.report_overhead(&series);
        } else {
            observe(&running.asked().duration(outcome), duration.as_secs_f64());
        }
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").finish_non_exhaustive()
    }
}

// === impl Running ===

impl Running {
    /// The labels of its model, once a provider has answered for it.
    fn answered(&mut self) -> Arc<Series> {
        if let Subject::New(new) = &self.subject {
            self.subject = Subject::Known(new.meter.0.answered(&new.provider, &new.model));
        }
        self.asked()
    }

    /// The labels of its model, or those of all others.
    fn asked(&self) -> Arc<Series> {
        match &self.subject {
            Subject::Known(series) => Arc::clone(series),
            Subject::New(new) => new.meter.0.other(&new.provider),
        }
    }

    fn report_overhead(&mut self, series: &Series) {
        if std::mem::take(&mut self.is_ahead) {
            observe(&series.overhead[self.dialect as usize], self.since.read().as_secs_f64());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        change_gauge(&IN_FLIGHT, -1.0);
    }
}

// === impl Stopwatch ===

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Leaves this time out.
    fn skip(&mut self, time: Duration) {
        self.0 = self.0.checked_add(time).unwrap_or(self.0);
    }

    fn read(self) -> Duration {
        Instant::now().saturating_duration_since(self.0)
    }
}

// === impl Series ===

impl Series {
    fn add(series: &mut Vec<Arc<Self>>, provider: &str, model: &str) -> Arc<Self> {
        let added = Arc::new(Self::new(provider, model));
        series.push(Arc::clone(&added));
        added
    }

    fn new(provider: &str, model: &str) -> Self {
        let name: Arc<str> = provider.into();
        let model = SharedString::from_shared(model.into());
        let operation = || (label::OPERATION, SharedString::const_str(CHAT));
        let provider = || (label::PROVIDER, SharedString::from_shared(Arc::clone(&name)));
        let labelled = || (label::MODEL, model.clone());
        let tokens = |kind| {
            let kind = (label::TOKEN_TYPE, SharedString::const_str(kind));
            key(names::TOKEN_USAGE, [operation(), provider(), labelled(), kind])
        };
        let cache = |class| {
            let class = (label::CLASS, SharedString::const_str(class));
            key(names::CACHE_TOKENS, [provider(), labelled(), class])
        };
        Self {
            input: tokens("input"),
            output: tokens("output"),
            cache_read: cache("read"),
            cache_write: cache("write"),
            first_token: key(names::TIME_TO_FIRST_TOKEN, [operation(), provider(), labelled()]),
            completed: duration(&name, &model, "completed"),
            overhead: Dialect::ALL.map(|dialect| {
                let dialect = (label::DIALECT, SharedString::const_str(dialect.as_str()));
                key(names::OVERHEAD, [provider(), dialect])
            }),
            costs: Mutex::default(),
            provider: name,
            model,
        }
    }

    fn cost(&self, amount: f64, currency: &str) {
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        if !costs.iter().any(|(known, _)| known == currency) && costs.len() < MOST_CURRENCIES {
            let labels = [
                (label::PROVIDER, SharedString::from_shared(Arc::clone(&self.provider))),
                (label::MODEL, self.model.clone()),
                (label::CURRENCY, currency.to_owned().into()),
            ];
            costs.push((currency.to_owned(), key(names::COST, labels)));
        }
        if let Some((_, key)) = costs.iter().find(|(known, _)| known == currency) {
            observe(key, amount);
        }
    }

    fn duration(&self, outcome: &'static str) -> Key {
        duration(&self.provider, &self.model, outcome)
    }
}

fn duration(provider: &Arc<str>, model: &SharedString, outcome: &'static str) -> Key {
    let labels = [
        (label::OPERATION, SharedString::const_str(CHAT)),
        (label::PROVIDER, SharedString::from_shared(Arc::clone(provider))),
        (label::MODEL, model.clone()),
        (label::OUTCOME, SharedString::const_str(outcome)),
    ];
    key(names::OPERATION_DURATION, labels)
}

// === impl ToolSeries ===

impl ToolSeries {
    fn new(server: &str, tool: &str) -> Self {
        let server: Arc<str> = server.into();
        let labels = [(label::TOOL_SERVER, SharedString::from_shared(Arc::clone(&server)))];
        Self {
            duration: key(names::TOOL_CALL_DURATION, labels),
            tool: tool.into(),
            server,
        }
    }

    fn calls(&self, outcome: &'static str) -> Key {
        let labels = [
            (label::TOOL_SERVER, SharedString::from_shared(Arc::clone(&self.server))),
            (label::TOOL, SharedString::from_shared(Arc::clone(&self.tool))),
            (label::OUTCOME, SharedString::const_str(outcome)),
        ];
        key(names::TOOL_CALLS, labels)
    }
}
