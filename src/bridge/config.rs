//! What one bridge was told by its operator; shared by all its clones.

use std::time::Duration;

use super::route::Pattern;
use crate::pool::{KeyPool, VerdictTable};
use crate::record::Recorder;
use crate::tools::ToolSource;

/// The settings of [`BridgeLayer`](crate::BridgeLayer), whose setters document them.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) pool: Option<KeyPool>,
    pub(crate) verdicts: VerdictTable,
    pub(crate) tools: ToolSource,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) provider: String,
    pub(crate) max_request_body: usize,
    pub(crate) max_response_body: usize,
    pub(crate) max_rounds: u32,
    pub(crate) attempt_timeout: Duration,
    pub(crate) tool_timeout: Duration,
    pub(crate) max_tool_result: usize,
    pub(crate) parallel_tool_calls: bool,
    pub(crate) passthrough: Vec<Pattern>,
    pub(crate) actor_headers: bool,
    pub(crate) require_actor: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool: None,
            verdicts: VerdictTable::default(),
            tools: ToolSource::default(),
            recorder: None,
            provider: "openai".to_owned(),
            max_request_body: 32 << 20,
            max_response_body: 32 << 20,
            max_rounds: 32,
            attempt_timeout: Duration::from_secs(600),
            tool_timeout: Duration::from_secs(60),
            max_tool_result: 1 << 20,
            parallel_tool_calls: false,
            passthrough: ["/models", "/models/*"]
                .iter()
                .filter_map(|text| Pattern::parse(text).ok())
                .collect(),
            actor_headers: false,
            require_actor: false,
        }
    }
}
