//! The operator's settings, shared by all clones of one bridge.

use std::time::Duration;

use super::additions::RefusedAdditions;
use super::aside::Aside;
use super::headers::ForwardedHeader;
use super::paths::{Base, Pattern};
use crate::body::budget::Budget;
use crate::body::readers::Readers;
use crate::dialect;
use crate::metrics::{self, Limit, Meter};
use crate::pool::{KeyPool, VerdictTable};
use crate::record::Recorder;
use crate::response_ids::ResponseIds;
use crate::tools::ToolSource;
use crate::types::{Dialect, ReportedUsage};

/// Models, and the routes of stored responses by their ids.
const DEFAULT_KEYED_PATHS: [&str; 5] = [
    "/models",
    "/models/*",
    "/responses/*",
    "DELETE /responses/*",
    "POST /responses/*",
];

/// The settings of [`BridgeLayer`](crate::BridgeLayer), whose setters document them.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) bases: Vec<Base>,
    pub(crate) dialects: Vec<Dialect>,
    pub(crate) pool: Option<KeyPool>,
    pub(crate) verdicts: VerdictTable,
    pub(crate) tools: ToolSource,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) record_thoughts: bool,
    pub(crate) provider: Option<String>,
    pub(crate) max_request_body: usize,
    pub(crate) budget: Budget,
    pub(crate) readers: Readers,
    pub(crate) aside: Aside,
    /// Places for checks of arguments. Apart from `aside`: a check may take a hundred times as long as reading a body.
    pub(crate) checks: Aside,
    pub(crate) reader_patience: Duration,
    pub(crate) max_response_body: usize,
    pub(crate) max_appended: usize,
    pub(crate) max_model_name: usize,
    pub(crate) max_rounds: u32,
    pub(crate) max_parallel_tools: usize,
    pub(crate) attempt_timeout: Duration,
    pub(crate) stream_idle_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) tool_timeout: Duration,
    pub(crate) max_tool_result: usize,
    pub(crate) parallel_tool_calls: bool,
    pub(crate) reported_usage: Option<ReportedUsage>,
    pub(crate) keyed_paths: Vec<Pattern>,
    pub(crate) forward_headers: Vec<ForwardedHeader>,
    pub(crate) response_ids: ResponseIds,
    pub(crate) anonymous_responses: bool,
    pub(crate) actor_headers: bool,
    pub(crate) require_actor: bool,
    // State of the layer, not settings.
    pub(crate) refused_additions: RefusedAdditions,
    pub(crate) meter: Meter,
}

impl Config {
    /// Bounds the bytes that all requests together hold.
    pub(crate) fn hold_at_most(&mut self, bytes: usize) {
        self.budget = Budget::new(bytes);
    }

    /// Ends the answers whose callers stopped reading.
    pub(crate) fn end_stalled_readers(&self) {
        let ended = self.readers.end_stalled(self.reader_patience);
        if ended > 0 {
            tracing::warn!(
                ended,
                "answers that were not read were ended to make room for other requests"
            );
            metrics::refused(Limit::Reader);
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bases: Vec::new(),
            dialects: Dialect::ALL.to_vec(),
            pool: None,
            verdicts: VerdictTable::default(),
            tools: ToolSource::default(),
            recorder: None,
            record_thoughts: false,
            provider: None,
            max_request_body: 32 << 20,
            budget: Budget::new(512 << 20),
            readers: Readers::default(),
            aside: Aside::default(),
            checks: Aside::default(),
            reader_patience: Duration::from_secs(60),
            max_response_body: 32 << 20,
            max_appended: 32 << 20,
            max_model_name: 256,
            max_rounds: 32,
            max_parallel_tools: 16,
            attempt_timeout: Duration::from_secs(600),
            stream_idle_timeout: Duration::from_secs(600),
            request_timeout: Duration::from_secs(3600),
            tool_timeout: Duration::from_secs(60),
            max_tool_result: 1 << 20,
            parallel_tool_calls: true,
            reported_usage: None,
            keyed_paths: DEFAULT_KEYED_PATHS
                .iter()
                .filter_map(|text| Pattern::parse(text).ok())
                .collect(),
            forward_headers: Vec::new(),
            response_ids: ResponseIds::default(),
            anonymous_responses: true,
            actor_headers: false,
            require_actor: false,
            refused_additions: RefusedAdditions::default(),
            meter: Meter::default(),
        }
    }
}

impl Config {
    /// The provider's name in records and spans.
    pub(crate) fn provider(&self, dialect: Dialect) -> &str {
        self.provider.as_deref().unwrap_or(dialect::api(dialect).provider())
    }
}
