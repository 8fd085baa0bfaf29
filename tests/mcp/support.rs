//! An MCP server that the test controls, a provider that the test plays, and a log to search.

use std::{
    cell::RefCell,
    io,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use rmcp::{
    ErrorData, Peer, RoleServer, ServerHandler, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult, PaginatedRequestParams,
        ServerCapabilities, ServerConfig, Tool,
    },
    service::{NotificationContext, RequestContext, RunningServiceCancellationToken},
};
use serde_json::{Value, json};
use tokio::{
    io::DuplexStream,
    sync::{Semaphore, mpsc, oneshot},
    task::{JoinHandle, yield_now},
};
use tower::{Layer, ServiceExt as _};
use tower_llm_bridge::{
    BridgeLayer, RequestBody,
    mcp::{McpServer, McpServers},
    tools::Tools,
};

/// An MCP server. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<State>);

#[derive(Default)]
struct State {
    tools: Mutex<Vec<Value>>,
    page: Mutex<Option<usize>>,
    down: Mutex<bool>,
    refuses_listings: Mutex<bool>,
    connections: Mutex<Vec<Connection>>,
    pub(crate) pages_read: Mutex<usize>,
    peers: Mutex<Vec<Peer<RoleServer>>>,
    started: Events,
    cancelled: Events,
    closed: Events,
}

struct Connection(Option<RunningServiceCancellationToken>);

/// Counts what happened, and lets a test wait for it.
pub(crate) struct Events(Semaphore);

// === impl Events ===

impl Default for Events {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Events {
    fn happened(&self) {
        self.0.add_permits(1);
    }

    pub(crate) async fn next(&self) {
        self.0.acquire().await.unwrap().forget();
    }

    pub(crate) fn none(&self) -> bool {
        self.0.available_permits() == 0
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Fake ===

impl Fake {
    pub(crate) fn with(tools: &[&str]) -> Self {
        let fake = Self::default();
        fake.set_tools(tools);
        fake
    }

    pub(crate) fn set_tools(&self, tools: &[&str]) {
        let tool = |name: &&str| json!({ "name": name, "description": "d", "inputSchema": { "type": "object" } });
        *lock(&self.0.tools) = tools.iter().map(tool).collect();
    }

    pub(crate) fn paged(self, size: usize) -> Self {
        *lock(&self.0.page) = Some(size);
        self
    }

    pub(crate) fn pages_read(&self) -> usize {
        *lock(&self.0.pages_read)
    }

    /// From now on new connections are refused; existing ones stay.
    pub(crate) fn go_down(&self) {
        *lock(&self.0.down) = true;
    }

    pub(crate) fn come_up(&self) {
        *lock(&self.0.down) = false;
    }

    /// From now on listings are refused.
    pub(crate) fn refuse_listings(&self) {
        *lock(&self.0.refuses_listings) = true;
    }

    /// Offers tools with these definitions.
    pub(crate) fn set_definitions(&self, definitions: Vec<Value>) {
        *lock(&self.0.tools) = definitions;
    }

    /// The connections as the server sees them.
    pub(crate) fn peers(&self) -> Vec<Peer<RoleServer>> {
        lock(&self.0.peers).clone()
    }

    /// Ends every connection at once, in the middle of whatever it does.
    pub(crate) fn crash(&self) {
        for connection in lock(&self.0.connections).drain(..) {
            if let Some(token) = connection.0 {
                token.cancel();
            }
        }
        lock(&self.0.peers).clear();
    }

    pub(crate) async fn announce(&self) {
        let peers = lock(&self.0.peers).clone();
        for peer in peers {
            peer.notify_tool_list_changed().await.unwrap();
        }
    }

    pub(crate) fn started(&self) -> &Events {
        &self.0.started
    }

    pub(crate) fn cancelled(&self) -> &Events {
        &self.0.cancelled
    }

    pub(crate) fn closed(&self) -> &Events {
        &self.0.closed
    }

    pub(crate) fn server(&self, name: &str) -> McpServer {
        let fake = self.clone();
        McpServer::stream(name, move || {
            let fake = fake.clone();
            async move { fake.accept() }
        })
    }

    fn accept(self) -> io::Result<DuplexStream> {
        if *lock(&self.0.down) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move {
            let state = Arc::clone(&self.0);
            if let Ok(running) = self.serve(theirs).await {
                lock(&state.connections).push(Connection(Some(running.cancellation_token())));
                let _ = running.waiting().await;
            }
            state.closed.happened();
        });
        Ok(ours)
    }
}

impl ServerHandler for Fake {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(
            ServerCapabilities::builder()
                .enable_tools()
                .enable_tool_list_changed()
                .build(),
        )
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        lock(&self.0.peers).push(context.peer);
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        *lock(&self.0.pages_read) += 1;
        if *lock(&self.0.refuses_listings) {
            return Err(ErrorData::internal_error("no list today", None));
        }
        let tools = lock(&self.0.tools).clone();
        let start: usize = request
            .and_then(|params| params.cursor)
            .map_or(0, |cursor| cursor.parse().unwrap());
        let size = lock(&self.0.page).unwrap_or(usize::MAX);
        let end = start.saturating_add(size).min(tools.len());
        let page: Vec<Tool> = tools[start..end]
            .iter()
            .map(|tool| serde_json::from_value(tool.clone()).unwrap())
            .collect();
        let mut result = ListToolsResult::with_all_items(page);
        result.next_cursor = (end < tools.len()).then(|| end.to_string());
        Ok(result)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.0.started.happened();
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let result = match &*request.name {
            "slow" => {
                context.ct.cancelled().await;
                self.0.cancelled.happened();
                CallToolResult::success(vec![])
            }
            "crash" => {
                self.crash();
                std::future::pending().await
            }
            "fail" => CallToolResult::error(vec![ContentBlock::text("no such city")]),
            "refuse" => return Err(ErrorData::invalid_params("city is no string", None)),
            "picture" => CallToolResult::success(vec![
                ContentBlock::text("see:"),
                ContentBlock::image("aGk=", "image/png"),
                ContentBlock::embedded_text("file:///a.txt", "hello"),
            ]),
            "structured" => CallToolResult::structured(json!({ "celsius": 4 })),
            name => CallToolResult::success(vec![ContentBlock::text(format!("{name} {arguments}"))]),
        };
        Ok(result.into())
    }
}

// === the provider ===

/// The provider's side of one request.
pub(crate) struct Asked {
    pub(crate) body: Value,
    reply: oneshot::Sender<Value>,
}

pub(crate) struct Provider(mpsc::UnboundedReceiver<Asked>);

/// A conversation under way: the caller's answer in the end, and the provider's side of it.
pub(crate) struct Conversation {
    pub(crate) caller: JoinHandle<Value>,
    pub(crate) provider: Provider,
}

/// Sends one request through the layer; the test plays the provider.
pub(crate) fn converse(layer: &BridgeLayer, own: Option<Tools>) -> Conversation {
    let (sender, receiver) = mpsc::unbounded_channel();
    let provider = tower::service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
        let sender = sender.clone();
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap();
            let (reply, answer) = oneshot::channel();
            sender.send(Asked { body, reply }).ok().unwrap();
            let answer = answer.await.unwrap().to_string();
            Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(answer))))
        }
    });
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    let mut request = Request::post("/v1/chat/completions")
        .header("authorization", "Bearer sk-caller")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    if let Some(tools) = own {
        request.extensions_mut().insert(tools);
    }
    let answer = layer.layer(provider).oneshot(request);
    let caller = tokio::spawn(async move {
        let body = answer.await.unwrap().into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    });
    Conversation {
        caller,
        provider: Provider(receiver),
    }
}

impl Provider {
    pub(crate) async fn next(&mut self) -> Asked {
        self.0.recv().await.expect("the bridge asks again")
    }
}

impl Asked {
    /// The names of the tools on offer.
    pub(crate) fn tools(&self) -> Vec<&str> {
        let tools = self.body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        tools
            .iter()
            .map(|tool| tool["function"]["name"].as_str().unwrap())
            .collect()
    }

    /// The last message for the model.
    pub(crate) fn told(&self) -> &str {
        let message = self.body["messages"].as_array().unwrap().last().unwrap();
        assert_eq!(message["role"], "tool", "{}", self.body);
        message["content"].as_str().unwrap()
    }

    pub(crate) fn call(self, tool: &str) {
        self.call_with(tool, &json!({}));
    }

    pub(crate) fn call_with(self, tool: &str, arguments: &Value) {
        let call = json!({
            "id": "call_1", "type": "function", "function": { "name": tool, "arguments": arguments.to_string() },
        });
        self.answer(
            &json!({ "role": "assistant", "content": null, "tool_calls": [call] }),
            "tool_calls",
        );
    }

    pub(crate) fn finish(self) {
        self.answer(&json!({ "role": "assistant", "content": "done" }), "stop");
    }

    fn answer(self, message: &Value, reason: &str) {
        let choice = json!({ "index": 0, "message": message, "finish_reason": reason });
        self.reply.send(json!({ "id": "c-1", "choices": [choice] })).unwrap();
    }
}

/// One call of one tool. Returns the result that the model is told.
pub(crate) async fn call_once(layer: &BridgeLayer, tool: &str, arguments: &Value) -> String {
    let mut conversation = converse(layer, None);
    conversation.provider.next().await.call_with(tool, arguments);
    let asked = conversation.provider.next().await;
    let told = asked.told().to_owned();
    asked.finish();
    conversation.caller.await.unwrap();
    told
}

/// Runs all tasks until `done`; on the paused clock no time passes meanwhile.
pub(crate) async fn until(done: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        yield_now().await;
    }
    panic!("it does not happen");
}

pub(crate) fn names(servers: &McpServers) -> Vec<String> {
    servers.tools().names().map(str::to_owned).collect()
}

// === the log ===

/// Every line that is logged on this thread while the value lives; each test has its own thread and runtime.
pub(crate) struct Log(());

thread_local! {
    static LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Writes to the log of the current thread.
struct Here;

impl Log {
    pub(crate) fn start() -> Self {
        // One subscriber for all threads: one for each would race for the cached interest of every callsite.
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_ansi(false)
                .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
                .with_writer(|| Here)
                .init();
        });
        LINES.set(Some(Vec::new()));
        Self(())
    }

    pub(crate) fn text(&self) -> String {
        LINES.with_borrow(|lines| String::from_utf8_lossy(lines.as_deref().unwrap_or_default()).into_owned())
    }

    /// The bridge's own lines that hold all of `words`.
    pub(crate) fn count(&self, words: &[&str]) -> usize {
        let ours = |line: &&str| line.contains("tower_llm_bridge") && words.iter().all(|word| line.contains(word));
        self.text().lines().filter(ours).count()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        LINES.set(None);
    }
}

impl io::Write for Here {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                lines.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
