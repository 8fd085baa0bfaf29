//! What goes into a tool and what comes out of it: plain data.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What the model is told about a tool, and where the tool belongs.
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
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    id: String,
    name: String,
    arguments: Value,
}

/// What the model is told about a call's end.
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
            server: "local".to_owned(),
            server_url: None,
            description: None,
            parameters: None,
        }
    }

    /// The name of the server that the tool belongs to: it keeps apart tools of the same name.
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.server = server.into();
        self
    }

    /// The address of that server, for the records: nothing connects to it, and it is no place for a secret.
    pub fn server_url(mut self, url: impl Into<String>) -> Self {
        self.server_url = Some(url.into());
        self
    }

    /// What the tool does and when to use it, for the model.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// The [JSON schema](https://json-schema.org/draft/2020-12) of the arguments, which are always one object. What is
    /// not an object itself counts as no schema.
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

    pub(crate) fn server_name(&self) -> &str {
        &self.server
    }

    pub(crate) fn url(&self) -> Option<&str> {
        self.server_url.as_deref()
    }

    pub(crate) fn text(&self) -> Option<&str> {
        self.description.as_deref()
    }

    pub(crate) fn schema(&self) -> Option<&Value> {
        self.parameters.as_ref()
    }
}

// === impl ToolCall ===

impl ToolCall {
    /// A call of the tool `name`, as the bridge makes it once the arguments are checked.
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: Value) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            arguments,
        }
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

    /// The arguments: an object, in every call that the bridge makes.
    #[must_use]
    pub fn arguments(&self) -> &Value {
        &self.arguments
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
    /// A result in words.
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

    /// A failure, in words that help the model to do better.
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

    /// The text for the model. At most `limit` bytes are kept; a short note behind them says if more was there.
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

/// Cuts `text` at the last character border within `limit` bytes, and says so in the text.
fn cut(text: &mut String, limit: usize) {
    let length = text.len();
    if length <= limit {
        return;
    }
    let kept = floor_char_border(text, limit);
    text.truncate(kept);
    text.push_str(&format!("\n[cut: the first {kept} of {length} bytes]"));
}

/// The last character border within the first `limit` bytes.
pub(super) fn floor_char_border(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len()))
        .rev()
        .find(|&index| text.is_char_boundary(index))
        .unwrap_or(0)
}
