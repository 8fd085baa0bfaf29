//! A bridge with two keys, a recorder and some tools, before a scripted provider; and the outcome of one conversation
//! through it.

use std::convert::Infallible;
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_llm_bridge::record::{Events, Recorder};
use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, Tools, tool_fn};
use tower_llm_bridge::{Intercepted, ResponseBody};

use crate::support::{Alive, BridgeLayer, MockBody, Provider, Reply, bare, bridge, chat, ended, of_kind, pool};

pub(crate) type Streamed = Response<ResponseBody<MockBody>>;

pub(crate) struct Setup {
    pub(crate) provider: Provider,
    pub(crate) events: Events,
    layer: BridgeLayer,
    running: Alive,
}

/// The outcome of one conversation, with the interception's id written as `$ID`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) requests: Vec<String>,
    pub(crate) records: Vec<Value>,
}

// === impl Setup ===

impl Setup {
    /// `replies` are the provider's, in the order of its calls; a further call fails.
    pub(crate) fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::with(replies, |layer| layer)
    }

    pub(crate) fn with(
        replies: impl IntoIterator<Item = Reply>,
        configure: impl FnOnce(BridgeLayer) -> BridgeLayer,
    ) -> Self {
        let (recorder, events) = Recorder::channel(16);
        let running = Alive::default();
        let tools = Tools::new([
            tool("clock", Duration::ZERO, &running),
            tool("echo", Duration::ZERO, &running),
            tool("slow", Duration::from_secs(25), &running),
        ]);
        Self {
            provider: Provider::queue_and_fail(replies),
            events,
            layer: configure(BridgeLayer::new().pool(pool(2)).recorder(recorder).tools(tools)),
            running,
        }
    }

    pub(crate) async fn call(&self, body: impl Into<MockBody>) -> Streamed {
        let mut request = chat(body);
        let agent = "OpenAI/Python 2.0".parse().unwrap();
        request.headers_mut().insert("user-agent", agent);
        bridge(&self.layer, &self.provider).oneshot(request).await.unwrap()
    }

    /// A conversation that the caller reads to its end.
    pub(crate) async fn run(mut self, body: impl Into<MockBody>) -> Outcome {
        let response = self.call(body).await;
        self.finish(response).await
    }

    /// Reads the rest.
    pub(crate) async fn finish(&mut self, response: Streamed) -> Outcome {
        let id = response.extensions().get().map(|known: &Intercepted| known.id());
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.into()).unwrap();
        let requests = self.provider.seen();
        Outcome {
            status: parts.status.as_u16(),
            body: id.map_or(body.clone(), |id| body.replace(&id.to_string(), "$ID")),
            requests: requests.iter().map(|seen| seen.text().to_owned()).collect(),
            records: self.records(),
        }
    }

    /// The records of the conversation, without what differs from run to run.
    pub(crate) fn records(&mut self) -> Vec<Value> {
        bare(&mut self.events)
    }

    /// Tool calls that run.
    pub(crate) fn running(&self) -> usize {
        self.running.count()
    }

    /// Runs everything that is ready, as a server would between two events.
    pub(crate) async fn settle(&self) {
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// The records of one kind.
    pub(crate) fn records_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        of_kind(&self.records, kind)
    }

    /// The one end.
    pub(crate) fn ended(&self) -> &Value {
        ended(&self.records)
    }
}

/// The next frame of a body; `None` at its end.
pub(crate) async fn frame(response: &mut Streamed) -> Option<String> {
    let frame = response.body_mut().frame().await?;
    let data = frame.unwrap().into_data().ok().unwrap();
    Some(String::from_utf8(data.into()).unwrap())
}

/// A tool that takes `time`, and is counted while it runs.
fn tool(name: &str, time: Duration, running: &Alive) -> Tool {
    let running = running.clone();
    let definition = ToolDefinition::new(name).server_url("https://tools.example");
    tool_fn(definition, move |call: ToolCall| {
        let token = running.token();
        async move {
            sleep(time).await;
            drop(token);
            Ok::<_, Infallible>(format!("{} of {}", call.name(), call.arguments()))
        }
    })
}
