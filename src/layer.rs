//! What a user configures: [`BridgeLayer`] and its consuming setters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower::Layer;

use crate::bridge::{Config, InvalidPattern, Pattern};
use crate::pool::{KeyPool, VerdictTable};
use crate::record::Recorder;
use crate::service::Bridge;
use crate::tools::ToolSource;

/// Puts a [`Bridge`] around an HTTP service.
///
/// See the [crate's documentation](crate) for what it does and where it belongs in a stack. Every setter takes and
/// returns the layer; what is not set keeps the default that its setter names.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use tower_llm_bridge::BridgeLayer;
/// use tower_llm_bridge::pool::KeyPool;
/// use tower_llm_bridge::record::Recorder;
///
/// let (recorder, events) = Recorder::channel(1024);
/// let layer = BridgeLayer::new()
///     .pool(KeyPool::from_secrets(["sk-preferred-key", "sk-spare-key"])?)
///     .recorder(recorder)
///     .provider("openai")
///     .attempt_timeout(Duration::from_secs(120));
/// # drop((layer, events));
/// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
/// ```
#[derive(Clone, Default)]
pub struct BridgeLayer {
    config: Arc<Config>,
}

// === impl BridgeLayer ===

impl BridgeLayer {
    /// A layer without a pool, tools or recorder: callers bring their own key, and bytes go through.
    ///
    /// ```
    /// let layer = tower_llm_bridge::BridgeLayer::new();
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// The operator's keys. Default: none, callers bring their own.
    ///
    /// ```
    /// # use tower_llm_bridge::{BridgeLayer, pool::KeyPool};
    /// let layer = BridgeLayer::new().pool(KeyPool::from_secrets(["sk-key-one"])?);
    /// # drop(layer);
    /// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
    /// ```
    #[must_use]
    pub fn pool(self, pool: KeyPool) -> Self {
        self.set(|config| config.pool = Some(pool))
    }

    /// What each answer of the provider says about the key that was used. Default: [`VerdictTable::default`].
    ///
    /// ```
    /// # use http::StatusCode;
    /// # use tower_llm_bridge::{BridgeLayer, pool::{Verdict, VerdictTable}};
    /// let table = VerdictTable::empty().rule(StatusCode::TOO_MANY_REQUESTS, Verdict::CoolDown);
    /// let layer = BridgeLayer::new().verdicts(table);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn verdicts(self, table: VerdictTable) -> Self {
        self.set(|config| config.verdicts = table)
    }

    /// The tools that every request gets, unless its extensions hold other [`Tools`](crate::tools::Tools). Default: none.
    ///
    /// They are a fixed set, or a live [`ToolSource`] that is asked when a request begins.
    ///
    /// ```
    /// # use tower_llm_bridge::{BridgeLayer, tools::Tools};
    /// let layer = BridgeLayer::new().tools(Tools::default());
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn tools(self, tools: impl Into<ToolSource>) -> Self {
        let tools = tools.into();
        self.set(|config| config.tools = tools)
    }

    /// Where records go. Default: nowhere.
    ///
    /// ```
    /// # use tower_llm_bridge::{BridgeLayer, record::Recorder};
    /// let (recorder, events) = Recorder::channel(64);
    /// let layer = BridgeLayer::new().recorder(recorder);
    /// # drop((layer, events));
    /// ```
    #[must_use]
    pub fn recorder(self, recorder: Recorder) -> Self {
        self.set(|config| config.recorder = Some(recorder))
    }

    /// The provider's name in records and spans (OpenTelemetry's `gen_ai.provider.name`). Default: `openai`.
    ///
    /// ```
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().provider("azure.ai.openai");
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn provider(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.set(|config| config.provider = name)
    }

    /// The largest request body, in bytes; a larger one is answered with 413. Default: 32 MiB.
    ///
    /// ```
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().max_request_body(4 << 20);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn max_request_body(self, bytes: usize) -> Self {
        self.set(|config| config.max_request_body = bytes)
    }

    /// The largest reply that is read whole, in bytes; a larger one is answered with 502. Of a stream, it bounds what is
    /// kept of one turn to run tools and to record calls; text that is only relayed has no limit. Default: 32 MiB.
    ///
    /// ```
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().max_response_body(4 << 20);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn max_response_body(self, bytes: usize) -> Self {
        self.set(|config| config.max_response_body = bytes)
    }

    /// How many rounds may run tools; then one last request tells the model to answer. Default: 32.
    ///
    /// ```
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().max_rounds(8);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn max_rounds(self, rounds: u32) -> Self {
        self.set(|config| config.max_rounds = rounds)
    }

    /// How long one attempt may take: to the end of a whole reply, to the first event of a stream, and from event to
    /// event after that. Default: 600 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().attempt_timeout(Duration::from_secs(60));
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn attempt_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.attempt_timeout = timeout)
    }

    /// How long one tool call may take before the model is told that it failed. Default: 60 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().tool_timeout(Duration::from_secs(5));
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn tool_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.tool_timeout = timeout)
    }

    /// How much of a tool's result the model gets, in bytes; what is over is cut, and the text says so. Default: 1 MiB.
    ///
    /// ```
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().max_tool_result(64 << 10);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn max_tool_result(self, bytes: usize) -> Self {
        self.set(|config| config.max_tool_result = bytes)
    }

    /// Whether a model that got injected tools may call several at once. Default: no,
    /// [`parallel_tool_calls`](https://platform.openai.com/docs/api-reference/chat/create) is set to `false`.
    ///
    /// ```
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().parallel_tool_calls(true);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn parallel_tool_calls(self, allow: bool) -> Self {
        self.set(|config| config.parallel_tool_calls = allow)
    }

    /// The paths that get a key of the pool without being read, replacing the default `/models` and `/models/*`.
    ///
    /// A pattern is a path below the API's base, with an optional method before it (`GET`, which covers `HEAD`, if
    /// there is none) and an optional last segment `*` for one or more segments. The base is everything up to the first
    /// segment that names a version, such as `/v1`: `/models` matches `/models`, `/v1/models` and `/openai/v1/models`,
    /// and neither `/v1/files/models` nor a path that climbs with `..`. Nothing that is not listed ever carries a key.
    ///
    /// # Errors
    ///
    /// When a pattern does not start with a path or holds a `*` elsewhere.
    ///
    /// ```
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().passthrough(["/models", "/models/*", "POST /embeddings"])?;
    /// # drop(layer);
    /// # Ok::<(), tower_llm_bridge::InvalidPattern>(())
    /// ```
    pub fn passthrough<I>(self, patterns: I) -> Result<Self, InvalidPattern>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let patterns = patterns
            .into_iter()
            .map(|text| Pattern::parse(text.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(self.set(|config| config.passthrough = patterns))
    }

    /// Whether the provider is told the [`Actor`](crate::Actor), as `X-AI-Bridge-Actor-ID` and
    /// `X-AI-Bridge-Actor-Metadata-<name>`. Default: no.
    ///
    /// ```
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().actor_headers(true);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn actor_headers(self, send: bool) -> Self {
        self.set(|config| config.actor_headers = send)
    }

    /// Whether a request without an [`Actor`](crate::Actor) is answered with 401. Default: no.
    ///
    /// ```
    /// # use tower_llm_bridge::BridgeLayer;
    /// let layer = BridgeLayer::new().require_actor(true);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn require_actor(self, require: bool) -> Self {
        self.set(|config| config.require_actor = require)
    }
}

impl<S> Layer<S> for BridgeLayer {
    type Service = Bridge<S>;

    fn layer(&self, inner: S) -> Bridge<S> {
        Bridge::new(inner, Arc::clone(&self.config))
    }
}

impl fmt::Debug for BridgeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeLayer").field("config", &self.config).finish()
    }
}
