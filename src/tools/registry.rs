//! The tools of a request: found by the name that the model uses, encoded once per dialect for all requests.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde_json::Value;
use tower::{BoxError, Service, util::BoxCloneSyncService};

use super::{ToolCall, ToolDefinition, ToolOutput, name, schema::Schema};
use crate::types::Dialect;

/// A tool: its definition for the model, and the service that runs its calls.
///
/// A tool is a [`Service`] itself, whose requests are calls. So [`layer`](Self::layer) puts any tower layer around it,
/// whether a closure runs it, a service, or an MCP server.
///
/// # Examples
///
/// Any service of the right shape is a tool, whatever layers are on it:
///
/// ```
/// use std::time::Duration;
///
/// use tower::ServiceBuilder;
/// use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, ToolOutput};
///
/// let service = ServiceBuilder::new()
///     .timeout(Duration::from_secs(5))
///     .service_fn(|call: ToolCall| async move { Ok::<_, tower::BoxError>(ToolOutput::text(call.id())) });
/// let tool = Tool::new(ToolDefinition::new("echo"), service);
/// # drop(tool);
/// ```
#[derive(Clone)]
#[must_use = "a tool does nothing until it is among the `Tools` of a bridge"]
pub struct Tool {
    about: Arc<About>,
    service: ToolService,
}

/// A set of tools. It never changes; a clone shares it.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::tools::{ToolDefinition, Tools, tool_fn};
///
/// let ping = tool_fn(ToolDefinition::new("ping"), |_call| async { Ok::<_, std::convert::Infallible>("pong") });
/// let tools: Tools = [ping].into_iter().collect();
/// assert_eq!(tools.len(), 1);
/// assert_eq!(format!("{tools:?}"), r#"Tools {"bmcp_local_ping"}"#);
/// assert!(Tools::default().is_empty());
/// ```
#[derive(Clone, Default)]
pub struct Tools {
    /// By injected name.
    registered: Arc<[Registered]>,
    /// By dialect; filled by the first request of each.
    encodings: Arc<[OnceLock<Encoding>; Dialect::COUNT]>,
}

/// The definitions of a set in one dialect.
pub(crate) struct Encoding {
    /// Elements of a JSON array, with commas between and without brackets.
    all: Bytes,
    parts: Vec<Range<usize>>,
}

/// A tool under the name that the model sees.
#[derive(Clone)]
pub(crate) struct Registered {
    injected_name: String,
    tool: Tool,
}

/// The parts of a tool besides its service. They are costly to make, so they are made once and shared among snapshots.
struct About {
    definition: ToolDefinition,
    schema: Schema,
}

pub(crate) type ToolService = BoxCloneSyncService<ToolCall, ToolOutput, BoxError>;

/// Makes a tool from a closure.
///
/// An error's text is told to the model **and recorded**: keep passwords, addresses and other people's data out of it.
/// Details that a tool must not tell belong in its log.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use tower_llm_bridge::tools::{ToolCall, ToolDefinition, tool_fn};
///
/// let definition = ToolDefinition::new("add").parameters(json!({
///     "type": "object",
///     "properties": { "a": { "type": "number" }, "b": { "type": "number" } },
///     "required": ["a", "b"],
/// }));
/// let add = tool_fn(definition, |call: ToolCall| async move {
///     #[derive(serde::Deserialize)]
///     struct Arguments {
///         a: f64,
///         b: f64,
///     }
///     let Arguments { a, b } = call.parse()?;
///     Ok::<_, serde_json::Error>(json!(a + b))
/// });
/// # drop(add);
/// ```
pub fn tool_fn<Function, Future, Output, Error>(definition: ToolDefinition, function: Function) -> Tool
where
    Function: Fn(ToolCall) -> Future + Clone + Send + Sync + 'static,
    Future: std::future::Future<Output = Result<Output, Error>> + Send + 'static,
    Output: Into<ToolOutput>,
    Error: Into<BoxError>,
{
    let service = tower::service_fn(move |call| {
        let output = function(call);
        async move { output.await.map(Into::into) }
    });
    Tool::new(definition, service)
}

// === impl Tool ===

impl Tool {
    /// A tool whose calls `service` runs. The bridge clones the service for each call and waits until the clone is ready.
    pub fn new<S>(definition: ToolDefinition, service: S) -> Self
    where
        S: Service<ToolCall, Response = ToolOutput> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        let about = About {
            schema: Schema::new(&definition),
            definition,
        };
        Self {
            about: Arc::new(about),
            service: BoxCloneSyncService::new(tower::util::MapErr::new(service, Into::into)),
        }
    }

    /// The tool's definition for the model.
    pub fn definition(&self) -> &ToolDefinition {
        &self.about.definition
    }

    /// The same definition, run by another service.
    pub(super) fn with_service<S>(&self, service: S) -> Self
    where
        S: Service<ToolCall, Response = ToolOutput> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        Self {
            about: Arc::clone(&self.about),
            service: BoxCloneSyncService::new(tower::util::MapErr::new(service, Into::into)),
        }
    }

    pub(super) fn service_mut(&mut self) -> &mut ToolService {
        &mut self.service
    }
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool")
            .field("definition", &self.about.definition)
            .finish_non_exhaustive()
    }
}

// === impl Tools ===

impl Tools {
    /// Gives each tool the name that the model sees.
    #[must_use]
    pub fn new(tools: impl IntoIterator<Item = Tool>) -> Self {
        let tools: Vec<Tool> = tools.into_iter().collect();
        let definitions: Vec<&ToolDefinition> = tools.iter().map(|tool| &tool.about.definition).collect();
        let names = name::assign(&definitions);
        let mut named: Vec<(String, Tool)> = names.into_iter().zip(tools).collect();
        named.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));

        let registered = named
            .into_iter()
            .map(|(injected_name, tool)| Registered { injected_name, tool });
        Self {
            registered: registered.collect(),
            encodings: Arc::default(),
        }
    }

    /// How many tools there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.registered.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.registered.is_empty()
    }

    /// The names that the model sees, in the order that it sees them in.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.registered.iter().map(Registered::injected_name)
    }

    /// The tools in name order.
    pub(super) fn registered(&self) -> &Arc<[Registered]> {
        &self.registered
    }

    pub(crate) fn get(&self, injected_name: &str) -> Option<&Registered> {
        let index = self
            .registered
            .binary_search_by(|registered| registered.injected_name().cmp(injected_name));
        self.registered.get(index.ok()?)
    }

    /// The definitions in `dialect`, whose `define` writes one of them. They are written once per set and dialect.
    pub(crate) fn encoding(&self, dialect: Dialect, define: fn(&str, &ToolDefinition, &mut String)) -> &Encoding {
        self.encodings[dialect as usize].get_or_init(|| {
            let (mut text, mut parts) = (String::new(), Vec::with_capacity(self.len()));
            for registered in &*self.registered {
                if !text.is_empty() {
                    text.push(',');
                }
                let start = text.len();
                define(registered.injected_name(), registered.definition(), &mut text);
                parts.push(start..text.len());
            }
            Encoding {
                all: text.into(),
                parts,
            }
        })
    }
}

// === impl Encoding ===

impl Encoding {
    pub(crate) fn all(&self) -> Bytes {
        self.all.clone()
    }

    /// Each definition alone, in name order.
    pub(crate) fn parts(&self) -> impl ExactSizeIterator<Item = Bytes> {
        self.parts.iter().map(|part| self.all.slice(part.clone()))
    }
}

impl FromIterator<Tool> for Tools {
    fn from_iter<I: IntoIterator<Item = Tool>>(tools: I) -> Self {
        Self::new(tools)
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tools ")?;
        f.debug_set().entries(self.names()).finish()
    }
}

// === impl Registered ===

impl Registered {
    pub(crate) fn injected_name(&self) -> &str {
        &self.injected_name
    }

    pub(super) fn tool(&self) -> &Tool {
        &self.tool
    }

    pub(crate) fn definition(&self) -> &ToolDefinition {
        self.tool.definition()
    }

    /// Reads and checks the arguments of a call.
    ///
    /// # Errors
    ///
    /// The message for the model.
    pub(crate) fn check(&self, raw_arguments: &str) -> Result<Value, String> {
        let schema = &self.tool.about.schema;
        let arguments = schema.read(raw_arguments)?;
        schema.check(&arguments)?;
        Ok(arguments)
    }

    /// Like [`check`](Self::check), if that is quick; `None` for a check that belongs on another thread: neither a model nor
    /// a tool server's schema may hold up the other requests of this thread.
    ///
    /// # Errors
    ///
    /// As of [`check`](Self::check).
    pub(crate) fn check_quickly(&self, raw_arguments: &str) -> Option<Result<Value, String>> {
        let schema = &self.tool.about.schema;
        if !Schema::reads_quickly(raw_arguments.len()) {
            return None;
        }
        let arguments = match schema.read(raw_arguments) {
            Ok(arguments) => arguments,
            Err(message) => return Some(Err(message)),
        };
        schema
            .checks_quickly(&arguments)
            .then(|| schema.check(&arguments).map(|()| arguments))
    }

    /// The call to give to [`service`](Self::service).
    pub(crate) fn call(&self, id: impl Into<String>, arguments: Value) -> ToolCall {
        let definition = self.definition();
        ToolCall::new(id, definition.name(), arguments).with_server(definition.get_server())
    }

    /// A clone of the tool's service, not ready yet.
    pub(crate) fn service(&self) -> ToolService {
        self.tool.service.clone()
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("injected_name", &self.injected_name)
            .finish_non_exhaustive()
    }
}
