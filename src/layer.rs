//! The user's settings: [`BridgeLayer`] and its consuming setters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower::Layer;

use crate::bridge::{Base, Config, ForwardedHeader, HeaderPatternError, PathError, Pattern};
use crate::pool::{KeyPool, VerdictTable};
use crate::record::Recorder;
use crate::response_ids::ResponseIds;
use crate::service::Bridge;
use crate::tools::ToolSource;
use crate::types::{Dialect, ReportedUsage};

/// Puts a [`Bridge`] around an HTTP service.
///
/// See the [crate's documentation](crate) for what it does and where it belongs in a stack. Every setter takes and
/// returns the layer, and names its default.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use hyper::body::Bytes;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_llm_bridge::pool::KeyPool;
/// use tower_llm_bridge::record::Recorder;
/// use tower_llm_bridge::{BridgeLayer, RequestBody};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (recorder, _events) = Recorder::channel(1024);
/// let layer = BridgeLayer::new()
///     .base("/v1")?
///     .pool(KeyPool::from_secrets(["sk-preferred-key", "sk-spare-key"])?)
///     .recorder(recorder)
///     .provider("openai")
///     .attempt_timeout(Duration::from_secs(120))
///     .keyed_paths(["/models", "/models/*", "POST /embeddings"])?;
///
/// // The provider tells which key it was sent.
/// let provider = service_fn(|request: Request<RequestBody<Empty<Bytes>>>| async move {
///     let key = request.headers().get("authorization").cloned();
///     let mut response = Response::new(Empty::<Bytes>::new());
///     response.headers_mut().extend(key.map(|key| (http::HeaderName::from_static("x-key"), key)));
///     Ok::<_, std::convert::Infallible>(response)
/// });
/// let service = layer.layer(provider);
/// let below_the_base = service.clone().oneshot(Request::get("/v1/models").body(Empty::new())?).await?;
/// assert_eq!(below_the_base.status(), 200);
/// let untouched = service.oneshot(Request::get("/models").body(Empty::new())?).await?;
/// assert!(!untouched.headers().contains_key("x-key"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct BridgeLayer {
    config: Arc<Config>,
}

// === impl BridgeLayer ===

impl BridgeLayer {
    /// A layer without a pool, tools or recorder: callers bring their own key.
    pub fn new() -> Self {
        Self::default()
    }

    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// The operator's keys. Default: none, callers bring their own.
    pub fn pool(self, pool: KeyPool) -> Self {
        self.set(|config| config.pool = Some(pool))
    }

    /// Decides what a provider's refusal says about the key that was used. Default: [`VerdictTable::default`].
    pub fn verdicts(self, table: VerdictTable) -> Self {
        self.set(|config| config.verdicts = table)
    }

    /// The tools that every request gets, unless its extensions hold other [`Tools`](crate::tools::Tools). Default: none.
    ///
    /// They are a fixed set, or a live [`ToolSource`] that is asked when a request begins.
    pub fn tools(self, tools: impl Into<ToolSource>) -> Self {
        let tools = tools.into();
        self.set(|config| config.tools = tools)
    }

    /// Where records go. Default: nowhere.
    pub fn recorder(self, recorder: Recorder) -> Self {
        self.set(|config| config.recorder = Some(recorder))
    }

    /// The provider's name in records and spans (OpenTelemetry's `gen_ai.provider.name`). Default: `openai`, and for
    /// Messages `anthropic`.
    pub fn provider(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.set(|config| config.provider = Some(name))
    }

    /// The largest request body, in bytes; a larger one is answered with 413. Default: 32 MiB.
    pub fn max_request_body(self, bytes: usize) -> Self {
        self.set(|config| config.max_request_body = bytes)
    }

    /// The bytes that all requests together may hold: request bodies, whole answers until they are read, what streams
    /// hold for a next round, and appended rounds. An answer of a keyed path counts as 64 KiB until it is read. A request
    /// that needs more is answered with 503. Clones of a layer share the count. Default: 512 MiB.
    ///
    /// The last eighth is reserved for small requests, of at most 64 KiB (or a 64th of `bytes`, if that is less). Once half
    /// is taken, the larger requests of one [`Actor`](crate::Actor) get at most an eighth together. Requests without an
    /// actor count as one actor's, unless all are without.
    pub fn max_held_bodies(self, bytes: usize) -> Self {
        self.set(|config| config.hold_at_most(bytes))
    }

    /// The largest reply that is read whole, in bytes; a larger one is answered with 502. In a stream it bounds the
    /// bytes of one turn that are kept to run tools and to record calls; text that is only relayed has no limit.
    /// Default: 32 MiB.
    pub fn max_response_body(self, bytes: usize) -> Self {
        self.set(|config| config.max_response_body = bytes)
    }

    /// How many rounds may run tools; then one last request tells the model to answer. Default: 32.
    pub fn max_rounds(self, rounds: u32) -> Self {
        self.set(|config| config.max_rounds = rounds)
    }

    /// How long one attempt may take, to the end of a whole reply or to the first event of a stream. Default: 600 s.
    pub fn attempt_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.attempt_timeout = timeout)
    }

    /// How long a stream may be silent once it has begun. Default: 600 s.
    pub fn stream_idle_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.stream_idle_timeout = timeout)
    }

    /// How long one request may take with all of its rounds; then it is answered with 504, or the stream ends with an
    /// error event. Default: 1 h.
    pub fn request_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.request_timeout = timeout)
    }

    /// How long a caller may stop reading its answer, 20 s at least. The time counts only once another request needs
    /// its place in the recorder or the bytes that it holds: then the answer ends early, and a stream is recorded as
    /// cancelled. Default: 60 s.
    pub fn reader_patience(self, patience: Duration) -> Self {
        self.set(|config| config.reader_patience = patience)
    }

    /// How long one tool call may take before the model is told that it failed. Default: 60 s.
    pub fn tool_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.tool_timeout = timeout)
    }

    /// How much of a tool's result the model gets, in bytes; a longer one is cut, and the text says so. Default: 1 MiB.
    pub fn max_tool_result(self, bytes: usize) -> Self {
        self.set(|config| config.max_tool_result = bytes)
    }

    /// How many injected calls of one request run at once; the others wait. Default: 16.
    pub fn max_parallel_tools(self, calls: usize) -> Self {
        self.set(|config| config.max_parallel_tools = calls)
    }

    /// How many bytes the rounds of one request may append to it; beyond that the model is told to answer without
    /// tools. Default: 32 MiB.
    pub fn max_appended(self, bytes: usize) -> Self {
        self.set(|config| config.max_appended = bytes)
    }

    /// The longest name of a model, in bytes; a longer one is answered with 400. Default: 256.
    pub fn max_model_name(self, bytes: usize) -> Self {
        self.set(|config| config.max_model_name = bytes)
    }

    /// Whether a model that got injected tools may call several at once. Default: yes, if the caller allows it; `false`
    /// sets [`parallel_tool_calls`](https://platform.openai.com/docs/api-reference/chat/create), or the dialect's own
    /// switch, to forbid it.
    pub fn parallel_tool_calls(self, allow: bool) -> Self {
        self.set(|config| config.parallel_tool_calls = allow)
    }

    /// The usage that a caller is told after more than one round, in every dialect. Default: the dialect's own. Chat
    /// completions tell the sum, Messages the sum and every round in `iterations`, Responses the last round's.
    pub fn reported_usage(self, usage: ReportedUsage) -> Self {
        self.set(|config| config.reported_usage = Some(usage))
    }

    /// Whether the model's thoughts are recorded, as `model_thought` events. Default: no.
    pub fn record_thoughts(self, record: bool) -> Self {
        self.set(|config| config.record_thoughts = record)
    }

    /// The place of the model API in the callers' URL space, such as `/v1` or `/openai/v1`, or `/` under axum's `nest`.
    /// May be called several times. Default: none.
    ///
    /// Without a base the bridge handles only `POST …/chat/completions`. Below a base it also handles the other
    /// dialects and the [keyed paths](Self::keyed_paths). It never touches an application's own paths.
    ///
    /// # Errors
    ///
    /// When the path does not begin with `/`, or has other characters than letters, digits and `-._~:@` between single
    /// slashes.
    pub fn base(self, path: &str) -> Result<Self, PathError> {
        let base = Base::parse(path)?;
        Ok(self.set(|config| config.bases.push(base)))
    }

    /// Further headers of callers that may reach the provider together with a key of the pool: names, or prefixes of
    /// names followed by `*`. May be called several times.
    ///
    /// By default only a list of harmless headers passes, since any other could act on the operator's account. With the
    /// caller's own key all others pass too. Credentials, cookies and headers about the connection never pass.
    ///
    /// # Errors
    ///
    /// When a text is not the name of a header.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::BridgeLayer;
    ///
    /// let layer = BridgeLayer::new().forward_headers(["x-team", "x-acme-*"])?;
    /// assert!(BridgeLayer::new().forward_headers(["no header"]).is_err());
    /// # drop(layer);
    /// # Ok::<(), tower_llm_bridge::HeaderPatternError>(())
    /// ```
    pub fn forward_headers<I>(self, names: I) -> Result<Self, HeaderPatternError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let parsed = names.into_iter().map(|name| ForwardedHeader::parse(name.as_ref()));
        let names = parsed.collect::<Result<Vec<_>, _>>()?;
        Ok(self.set(|config| config.forward_headers.extend(names)))
    }

    /// The dialects that are intercepted. Default: all.
    pub fn dialects(self, dialects: impl IntoIterator<Item = Dialect>) -> Self {
        let dialects = dialects.into_iter().collect();
        self.set(|config| config.dialects = dialects)
    }

    /// The paths below a [base](Self::base) that get a key of the pool and no other treatment, replacing the default.
    /// Default: `/models`, `/models/*`, and `GET`, `DELETE` and `POST` of `/responses/*`, whose ids are bound to their
    /// [`Actor`](crate::Actor).
    ///
    /// A pattern is a path, with an optional method before it (`GET`, which covers `HEAD`, if there is none) and an
    /// optional last segment `*` for one or more segments. A request's path may consist of letters, digits and `-._~:@`
    /// between single slashes; in any other spelling it is left alone, as is every path that is not listed.
    ///
    /// # Errors
    ///
    /// When a pattern does not start with a path or holds a `*` elsewhere.
    pub fn keyed_paths<I>(self, patterns: I) -> Result<Self, PathError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let patterns = patterns
            .into_iter()
            .map(|text| Pattern::parse(text.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(self.set(|config| config.keyed_paths = patterns))
    }

    /// Where the ids of stored responses are kept. Default: in this process, 10,000 of them, each for an hour after its
    /// last use.
    ///
    /// A stream of several rounds shows one id, and the provider keeps the whole conversation under another. A response
    /// that was made with a key of the pool is only for the [`Actor`](crate::Actor) who made it: as long as its id is
    /// remembered, nobody else may read it or build on it. Once forgotten, it can no longer be read, but a request that
    /// names it as `previous_response_id` still reaches the provider, which knows no actors: use a store that forgets
    /// nothing where ids may leak.
    pub fn response_ids(self, ids: ResponseIds) -> Self {
        self.set(|config| config.response_ids = ids)
    }

    /// Whether callers without an [`Actor`](crate::Actor) may read, cancel and delete stored responses by their ids
    /// with a key of the pool. Default: yes. Ids cannot be guessed, but appear in logs and records.
    pub fn anonymous_responses(self, serve: bool) -> Self {
        self.set(|config| config.anonymous_responses = serve)
    }

    /// Whether the provider is told the [`Actor`](crate::Actor), as `X-AI-Bridge-Actor-ID` and
    /// `X-AI-Bridge-Actor-Metadata-<name>`. Default: no.
    pub fn actor_headers(self, send: bool) -> Self {
        self.set(|config| config.actor_headers = send)
    }

    /// Whether a request without an [`Actor`](crate::Actor) is answered with 401. Default: no.
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
