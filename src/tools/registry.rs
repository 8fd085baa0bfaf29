//! The tools of a request: found by the name that the model uses, encoded once for all requests.

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tower::{BoxError, Service, util::BoxCloneSyncService};

use super::{ToolCall, ToolDefinition, ToolOutput, name, schema::Schema};

/// A tool: what the model is told about it, and what runs its calls.
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
    encoded: Bytes,
}

/// A tool under the name that the model sees.
#[derive(Clone)]
pub(crate) struct Registered {
    injected_name: String,
    tool: Tool,
    /// Part of [`Tools::encoded`].
    encoded: Bytes,
}

/// What a tool needs besides its service; costly enough to make it once and share it among snapshots.
struct About {
    definition: ToolDefinition,
    schema: Schema,
    /// The encoded definition from behind its name.
    tail: String,
}

pub(crate) type ToolService = BoxCloneSyncService<ToolCall, ToolOutput, BoxError>;

/// Makes a tool from a closure.
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
    /// A tool that `service` runs. The bridge clones it for each call and waits until the clone is ready.
    pub fn new<S>(definition: ToolDefinition, service: S) -> Self
    where
        S: Service<ToolCall, Response = ToolOutput> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        let about = About {
            schema: Schema::new(&definition),
            tail: tail(&definition),
            definition,
        };
        Self {
            about: Arc::new(about),
            service: BoxCloneSyncService::new(tower::util::MapErr::new(service, Into::into)),
        }
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
    /// Names the tools and encodes their definitions.
    #[must_use]
    pub fn new(tools: impl IntoIterator<Item = Tool>) -> Self {
        let tools: Vec<Tool> = tools.into_iter().collect();
        let definitions: Vec<&ToolDefinition> = tools.iter().map(|tool| &tool.about.definition).collect();
        let names = name::assign(&definitions);
        let mut named: Vec<(String, Tool)> = names.into_iter().zip(tools).collect();
        named.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));

        let mut text = String::new();
        let parts: Vec<Range<usize>> = named
            .iter()
            .map(|(name, tool)| push(&mut text, name, &tool.about.tail))
            .collect();
        let encoded = Bytes::from(text);
        let registered = named
            .into_iter()
            .zip(parts)
            .map(|((injected_name, tool), part)| Registered {
                injected_name,
                tool,
                encoded: encoded.slice(part),
            });
        Self {
            registered: registered.collect(),
            encoded: encoded.clone(),
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

    pub(crate) fn get(&self, injected_name: &str) -> Option<&Registered> {
        let index = self
            .registered
            .binary_search_by(|registered| registered.injected_name().cmp(injected_name));
        self.registered.get(index.ok()?)
    }

    /// All definitions as elements of a JSON array, with commas between and without brackets.
    pub(crate) fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// Each definition alone, for a request that cannot take them all.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (&str, Bytes)> {
        self.registered
            .iter()
            .map(|registered| (registered.injected_name(), registered.encoded.clone()))
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

    pub(crate) fn definition(&self) -> &ToolDefinition {
        &self.tool.about.definition
    }

    /// Reads and checks the arguments of a call.
    ///
    /// # Errors
    ///
    /// What the model is to be told.
    pub(crate) fn check(&self, raw_arguments: &str) -> Result<Value, String> {
        self.tool.about.schema.check(raw_arguments)
    }

    /// The call to give to [`service`](Self::service).
    pub(crate) fn call(&self, id: impl Into<String>, arguments: Value) -> ToolCall {
        ToolCall::new(id, self.definition().name(), arguments)
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

// === encoding ===

/// Appends one definition, after a comma if it is not the first.
fn push(text: &mut String, name: &str, tail: &str) -> Range<usize> {
    if !text.is_empty() {
        text.push(',');
    }
    let start = text.len();
    // A cleaned name has nothing to escape.
    text.extend([r#"{"type":"function","function":{"name":""#, name, tail]);
    start..text.len()
}

fn tail(definition: &ToolDefinition) -> String {
    let mut tail = String::from("\"");
    if let Some(description) = definition.text() {
        tail.extend([r#","description":"#, &Value::from(description).to_string()]);
    }
    tail.extend([
        r#","parameters":"#,
        &parameters(definition.schema()),
        r#","strict":false}}"#,
    ]);
    tail
}

/// The whole schema. OpenAI refuses a request with an object schema that lacks `properties`, which JSON schema and MCP
/// allow: there it gets empty ones, which say the same.
fn parameters(schema: Option<&Value>) -> String {
    match schema.and_then(Value::as_object) {
        None => json!({ "type": "object", "properties": {} }).to_string(),
        Some(schema) if schema.is_empty() => parameters(None),
        Some(schema) if is_bare_object(schema) => {
            let mut schema = schema.clone();
            schema.insert("properties".to_owned(), Value::Object(Map::new()));
            Value::Object(schema).to_string()
        }
        Some(_) => schema.map(Value::to_string).unwrap_or_default(),
    }
}

fn is_bare_object(schema: &Map<String, Value>) -> bool {
    schema.get("type").is_some_and(|kind| kind == "object") && !schema.contains_key("properties")
}
