//! The data that passes between a model and a tool: the definition, the call, and its output.

use http::Extensions;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::vast;

/// The server of tools without a named one.
const LOCAL: &str = "local";

/// The description of a tool for the model, and the server that the tool belongs to.
///
/// The setters take and return the definition; the getters begin with `get_`, as those of [`std::process::Command`] do.
///
/// The model sees it as `bmcp_<server>_<name>`, with every other character than ASCII letters, digits, `_` and `-`
/// replaced by `_`, cut to 64 characters. Tools that would then have the same name get a stable suffix.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use tower_llm_bridge::tools::ToolDefinition;
///
/// let definition = ToolDefinition::new("get_weather")
///     .server("weather")
///     .server_url("https://mcp.example.com/weather")
///     .description("The weather of a city, now")
///     .parameters(json!({
///         "type": "object",
///         "properties": { "city": { "type": "string" } },
///         "required": ["city"],
///     }));
/// assert_eq!(definition.name(), "get_weather");
/// assert_eq!(definition.get_server(), "weather");
/// assert_eq!(definition.get_description(), Some("The weather of a city, now"));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a definition does nothing until it is made a `Tool`"]
pub struct ToolDefinition {
    name: String,
    server: String,
    server_url: Option<String>,
    description: Option<String>,
    parameters: Option<Value>,
}

/// One call that the model makes.
///
/// # Examples
///
/// A tool's own unit test needs no bridge:
///
/// ```
/// use serde_json::json;
/// use tower_llm_bridge::tools::ToolCall;
///
/// let call = ToolCall::new("call_1", "get_weather", json!({ "city": "Oslo" }));
/// assert_eq!(call.arguments()["city"], "Oslo");
/// ```
///
/// A test of a tool that depends on its caller:
///
/// ```
/// use serde_json::json;
/// use tower_llm_bridge::Actor;
/// use tower_llm_bridge::tools::ToolCall;
///
/// let mut call = ToolCall::new("call_1", "delete_page", json!({ "page": 7 })).with_server("wiki");
/// call.extensions_mut().insert(Actor::new("ada"));
///
/// assert_eq!(call.server(), "wiki");
/// assert_eq!(call.extensions().get::<Actor>().map(Actor::id), Some("ada"));
/// ```
#[derive(Clone, Debug)]
pub struct ToolCall {
    id: String,
    name: String,
    server: String,
    arguments: Value,
    extensions: Extensions,
}

/// The result of a call, for the model.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use tower_llm_bridge::tools::ToolOutput;
///
/// assert_eq!(ToolOutput::json(json!({ "celsius": 4 })).content(), r#"{"celsius":4}"#);
/// assert_eq!(ToolOutput::from("cold"), ToolOutput::text("cold"));
/// assert!(ToolOutput::error("no such city").is_error());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolOutput {
    content: String,
    is_error: bool,
}

// === impl ToolDefinition ===

impl ToolDefinition {
    /// A tool of the server `local`, without a description or parameters.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            server: LOCAL.to_owned(),
            server_url: None,
            description: None,
            parameters: None,
        }
    }

    /// Sets the name of the tool's server, which keeps apart tools of the same name.
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.server = server.into();
        self
    }

    /// Sets the address of the tool's server, for the records. Nothing connects to it. It must not hold a secret.
    pub fn server_url(mut self, url: impl Into<String>) -> Self {
        self.server_url = Some(url.into());
        self
    }

    /// Sets the description for the model: what the tool does, and when to use it.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Sets the [JSON schema](https://json-schema.org/draft/2020-12) of the arguments, which are always one object. A
    /// value that is not an object counts as no schema.
    ///
    /// A call that lacks one of the top-level `required` names never reaches the tool; with the feature `json-schema`,
    /// neither does one that breaks any other rule of the schema.
    pub fn parameters(mut self, schema: Value) -> Self {
        self.parameters = Some(schema);
        self
    }

    /// The tool's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the tool's server: `local` unless [`server`](Self::server) set another one.
    #[must_use]
    pub fn get_server(&self) -> &str {
        &self.server
    }

    /// The address of the tool's server, if it has one.
    #[must_use]
    pub fn get_server_url(&self) -> Option<&str> {
        self.server_url.as_deref()
    }

    /// The description for the model.
    #[must_use]
    pub fn get_description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The JSON schema of the arguments.
    #[must_use]
    pub fn get_parameters(&self) -> Option<&Value> {
        self.parameters.as_ref()
    }

    pub(crate) fn text(&self) -> Option<&str> {
        self.get_description()
    }

    pub(crate) fn schema(&self) -> Option<&Value> {
        self.get_parameters()
    }
}

// === impl ToolCall ===

impl ToolCall {
    /// A call of the tool `name` of the server `local`, without extensions. The bridge makes calls once their arguments
    /// are checked.
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: Value) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            server: LOCAL.to_owned(),
            arguments,
            extensions: Extensions::new(),
        }
    }

    /// The same call, of a tool of this server.
    #[must_use]
    pub fn with_server(mut self, server: impl Into<String>) -> Self {
        self.server = server.into();
        self
    }

    /// The same call on behalf of the request that had these extensions.
    #[must_use]
    pub(crate) fn with_extensions(mut self, extensions: Extensions) -> Self {
        self.extensions = extensions;
        self
    }

    /// The provider's id of the call.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The tool's own name, as in its [`ToolDefinition`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the server that the tool belongs to, as in its [`ToolDefinition`].
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The arguments: an object, in every call that the bridge makes.
    #[must_use]
    pub fn arguments(&self) -> &Value {
        &self.arguments
    }

    /// Moves the arguments out.
    #[cfg(feature = "mcp")]
    pub(crate) fn take_arguments(&mut self) -> Value {
        self.arguments.take()
    }

    /// The extensions of the caller's request, with its [`Actor`](crate::Actor) if it has one.
    ///
    /// The caller's [`Credential`](crate::Credential) is never among them.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The extensions, for a layer that passes something on to the tool under it.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// The arguments as a type of yours.
    ///
    /// # Errors
    ///
    /// When they do not fit `T`. Returned from the tool, this error is what the model is told.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_llm_bridge::tools::ToolCall;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Arguments {
    ///     city: String,
    /// }
    ///
    /// let call = ToolCall::new("call_1", "get_weather", json!({ "city": "Oslo" }));
    /// let arguments: Arguments = call.parse()?;
    /// assert_eq!(arguments.city, "Oslo");
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.arguments)
    }
}

// === impl ToolOutput ===

impl ToolOutput {
    /// A result as text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            content: text.into(),
            is_error: false,
        }
    }

    /// A result as JSON.
    #[must_use]
    pub fn json(value: impl Into<Value>) -> Self {
        Self::text(value.into().to_string())
    }

    /// A failure, with a message that helps the model to do better.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            content: message.into(),
            is_error: true,
        }
    }

    /// Whether it is a failure.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// The text, the JSON, or the failure's message.
    #[must_use]
    pub fn content(&self) -> &str {
        &self.content
    }

    /// The text for the model. At most `limit` bytes are kept; if more was there, a short note after them says so.
    pub(crate) fn into_text(mut self, limit: usize) -> String {
        cut(&mut self.content, limit);
        self.content
    }
}

impl From<String> for ToolOutput {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<&str> for ToolOutput {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<Value> for ToolOutput {
    fn from(value: Value) -> Self {
        Self::json(value)
    }
}

/// Room for the note that says how much is missing.
const NOTE: usize = 64;

/// Cuts `text` at the last character border within `limit` bytes, and says so in the text.
fn cut(text: &mut String, limit: usize) {
    let length = text.len();
    if length <= limit {
        return;
    }
    let kept = floor_char_border(text, limit);
    vast::truncate(text, kept, NOTE);
    text.push_str(&format!("\n[cut: the first {kept} of {length} bytes]"));
}

/// The last character border within the first `limit` bytes.
pub(super) fn floor_char_border(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len()))
        .rev()
        .find(|&index| text.is_char_boundary(index))
        .unwrap_or(0)
}
