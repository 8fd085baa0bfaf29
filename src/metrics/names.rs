//! The names of metrics and labels, each in one place.

pub(super) const TOKEN_USAGE: &str = "gen_ai.client.token.usage";
pub(super) const OPERATION_DURATION: &str = "gen_ai.client.operation.duration";
pub(super) const TIME_TO_FIRST_TOKEN: &str = "gen_ai.server.time_to_first_token";
pub(super) const CACHE_TOKENS: &str = "llm_bridge.cache.tokens";
pub(super) const COST: &str = "llm_bridge.cost";
pub(super) const OVERHEAD: &str = "llm_bridge.overhead";
pub(super) const IN_FLIGHT: &str = "llm_bridge.interceptions.in_flight";
pub(super) const FREE_PLACES: &str = "llm_bridge.recorder.free_places";
pub(super) const KEYS: &str = "llm_bridge.keys";
pub(super) const KEY_ATTEMPTS: &str = "llm_bridge.key.attempts";
pub(super) const KEY_TRANSITIONS: &str = "llm_bridge.key.transitions";
pub(super) const KEY_EXHAUSTIONS: &str = "llm_bridge.key.exhaustions";
pub(super) const TOOL_CALLS: &str = "llm_bridge.tool.calls";
pub(super) const TOOL_CALL_DURATION: &str = "llm_bridge.tool.call.duration";
pub(super) const TOOL_SERVER_UP: &str = "llm_bridge.tool_server.up";
pub(super) const SINK_WRITTEN: &str = "llm_bridge.sink.written";
pub(super) const SINK_WAITING: &str = "llm_bridge.sink.waiting";
pub(super) const SINK_FAILURES: &str = "llm_bridge.sink.failures";
pub(super) const REFUSALS: &str = "llm_bridge.refusals";

pub(super) mod label {
    pub(in super::super) const OPERATION: &str = "gen_ai.operation.name";
    pub(in super::super) const PROVIDER: &str = "gen_ai.provider.name";
    pub(in super::super) const MODEL: &str = "gen_ai.request.model";
    pub(in super::super) const TOKEN_TYPE: &str = "gen_ai.token.type";
    pub(in super::super) const TOOL: &str = "gen_ai.tool.name";
    pub(in super::super) const DIALECT: &str = "llm_bridge.dialect";
    pub(in super::super) const CLASS: &str = "class";
    pub(in super::super) const CURRENCY: &str = "currency";
    pub(in super::super) const HINT: &str = "credential_hint";
    pub(in super::super) const LIMIT: &str = "limit";
    pub(in super::super) const OUTCOME: &str = "outcome";
    pub(in super::super) const REASON: &str = "reason";
    pub(in super::super) const SCOPE: &str = "scope";
    pub(in super::super) const SINK: &str = "sink";
    pub(in super::super) const STATE: &str = "state";
    pub(in super::super) const TOOL_SERVER: &str = "tool_server";
}
