//! The description of one MCP server: its transport, its secrets, its tools on offer, its limits.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc};

use regex::Regex;
use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(feature = "mcp-http")]
use super::http::HttpEndpoint;
use super::{
    error::{McpServerError, McpServerErrorKind},
    secret::Secrets,
};

/// Calls of one server at once.
const MAX_CALLS: usize = 64;

/// One MCP server, not connected yet.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::mcp::McpServer;
///
/// let server = McpServer::command("tracker", "mcp-tracker", ["--read-only"])
///     .env("TRACKER_TOKEN", "s3cret-token")?
///     .allow("^issue_")?
///     .deny("_delete$")?;
/// assert!(!format!("{server:?}").contains("s3cret"));
/// # Ok::<(), tower_llm_bridge::mcp::McpServerError>(())
/// ```
#[derive(Clone)]
#[must_use = "nothing connects to a server until it is given to `McpServers::connect`"]
pub struct McpServer {
    pub(super) name: String,
    pub(super) endpoint: Endpoint,
    pub(super) max_calls: usize,
    shown_address: Option<String>,
    allow: Vec<Regex>,
    deny: Vec<Regex>,
    pub(super) secrets: Secrets,
}

/// The transport of a server.
#[derive(Clone)]
pub(super) enum Endpoint {
    #[cfg(feature = "mcp-http")]
    Http(HttpEndpoint),
    Command(Command),
    Stream(Connect),
}

/// How a child process is started.
#[derive(Clone)]
pub(super) struct Command {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
}

/// A byte stream in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send {}

pub(super) type DuplexStream = Pin<Box<dyn Duplex>>;

pub(super) type Connect = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>> + Send + Sync>;

impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

// === impl McpServer ===

impl McpServer {
    /// A server that is a child process, spoken to over its standard input and output.
    ///
    /// It inherits the few environment variables that a program needs to run (`PATH`, `HOME` and the like) and no
    /// other, since the keys of the providers are often in our environment. Its standard error output is ours.
    pub fn command<I>(name: impl Into<String>, program: impl Into<String>, arguments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::new(
            name,
            Endpoint::Command(Command {
                program: program.into(),
                arguments: arguments.into_iter().map(Into::into).collect(),
                environment: Vec::new(),
            }),
        )
    }

    /// A server at the other end of any byte stream, with one JSON message per line, as on standard input and output: a
    /// Unix socket, or a server in this process. `connect` is called for each connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::mcp::McpServer;
    ///
    /// let server = McpServer::stream("local", || async {
    ///     let (ours, theirs) = tokio::io::duplex(4096);
    ///     # drop(theirs);
    ///     // Serve the protocol on `theirs`.
    ///     Ok(ours)
    /// });
    /// # drop(server);
    /// ```
    pub fn stream<Connect, Connecting, Stream>(name: impl Into<String>, connect: Connect) -> Self
    where
        Connect: Fn() -> Connecting + Send + Sync + 'static,
        Connecting: Future<Output = io::Result<Stream>> + Send + 'static,
        Stream: AsyncRead + AsyncWrite + Send + 'static,
    {
        let connect = move || -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>> {
            let connecting = connect();
            Box::pin(async move { Ok(Box::pin(connecting.await?) as DuplexStream) })
        };
        Self::new(name, Endpoint::Stream(Arc::new(connect)))
    }

    pub(super) fn new(name: impl Into<String>, endpoint: Endpoint) -> Self {
        Self {
            name: name.into(),
            endpoint,
            max_calls: MAX_CALLS,
            shown_address: None,
            allow: Vec::new(),
            deny: Vec::new(),
            secrets: Secrets::default(),
        }
    }

    /// Gives a child process one more environment variable. The value is never printed or logged.
    ///
    /// # Errors
    ///
    /// When the server is not a child process.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::mcp::McpServer;
    ///
    /// let server = McpServer::command("git", "mcp-server-git", ["--read-only"]).env("GIT_TOKEN", "s3cret")?;
    /// assert!(!format!("{server:?}").contains("s3cret"));
    /// # Ok::<(), tower_llm_bridge::mcp::McpServerError>(())
    /// ```
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self, McpServerError> {
        let Endpoint::Command(command) = &mut self.endpoint else {
            return Err(self.error(
                McpServerErrorKind::Transport,
                "only a child process takes environment variables",
            ));
        };
        let value = value.into();
        self.secrets.add(&value);
        command.environment.push((name.into(), value));
        Ok(self)
    }

    /// Runs at most `calls` calls of the server's tools at once, at least 1; the others wait in line. The default is 64.
    ///
    /// Once half of them are taken, one [`Actor`](crate::Actor) gets no more than a quarter, so that nobody keeps the
    /// server from the others with slow calls. Requests without an actor have no share of their own.
    pub fn max_calls(mut self, calls: usize) -> Self {
        self.max_calls = calls.max(1);
        self
    }

    /// Shows operators this as the server's [address](super::McpServerSnapshot::address), for example in place of a wrapper
    /// that starts the program.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::mcp::McpServer;
    ///
    /// let server = McpServer::command("git", "nice", ["mcp-server-git"]).show_as("mcp-server-git");
    /// assert!(format!("{server:?}").contains("mcp-server-git"));
    /// ```
    pub fn show_as(mut self, address: impl Into<String>) -> Self {
        self.shown_address = Some(address.into());
        self
    }

    /// Offers only tools whose own name matches `pattern` somewhere; with several patterns, any of them. Without one, all
    /// are allowed.
    ///
    /// # Errors
    ///
    /// When `pattern` is not a [regular expression](https://docs.rs/regex/latest/regex/#syntax).
    pub fn allow(mut self, pattern: &str) -> Result<Self, McpServerError> {
        let pattern = self.pattern(pattern)?;
        self.allow.push(pattern);
        Ok(self)
    }

    /// Never offers a tool whose own name matches `pattern` somewhere, even if it is allowed.
    ///
    /// # Errors
    ///
    /// When `pattern` is not a [regular expression](https://docs.rs/regex/latest/regex/#syntax).
    pub fn deny(mut self, pattern: &str) -> Result<Self, McpServerError> {
        let pattern = self.pattern(pattern)?;
        self.deny.push(pattern);
        Ok(self)
    }

    fn pattern(&self, pattern: &str) -> Result<Regex, McpServerError> {
        Regex::new(pattern).map_err(|_| {
            let problem = format!("{pattern:?} is not a regular expression");
            self.error(McpServerErrorKind::Pattern, problem)
        })
    }

    pub(super) fn offers(&self, tool: &str) -> bool {
        let allowed = self.allow.is_empty() || self.allow.iter().any(|pattern| pattern.is_match(tool));
        allowed && !self.deny.iter().any(|pattern| pattern.is_match(tool))
    }

    /// The address without anything that may be a secret. Arguments of a program often are.
    pub(super) fn address(&self) -> String {
        if let Some(shown) = &self.shown_address {
            return shown.clone();
        }
        match &self.endpoint {
            #[cfg(feature = "mcp-http")]
            Endpoint::Http(endpoint) => endpoint.address(),
            Endpoint::Command(command) => command.program.clone(),
            Endpoint::Stream(_) => "stream".to_owned(),
        }
    }

    /// The URL that records show: scheme, host, port and path.
    pub(super) fn url(&self) -> Option<String> {
        match &self.endpoint {
            #[cfg(feature = "mcp-http")]
            Endpoint::Http(endpoint) => Some(endpoint.address()),
            Endpoint::Command(_) | Endpoint::Stream(_) => None,
        }
    }

    pub(super) fn error(&self, kind: McpServerErrorKind, problem: impl Into<String>) -> McpServerError {
        McpServerError::new(&self.name, kind, problem)
    }
}

impl fmt::Debug for McpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpServer")
            .field("name", &self.name)
            .field("address", &self.address())
            .field("allow", &self.allow)
            .field("deny", &self.deny)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_wins_and_several_allows_add_up() {
        let server = McpServer::command("s", "p", [""; 0]);
        assert!(server.offers("anything"));
        let server = server
            .allow("^read_")
            .unwrap()
            .allow("^list$")
            .unwrap()
            .deny("secret")
            .unwrap();
        for (tool, offered) in [
            ("read_file", true),
            ("list", true),
            ("list_all", false),
            ("read_secret_file", false),
            ("write", false),
        ] {
            assert_eq!(server.offers(tool), offered, "{tool}");
        }
        assert_eq!(
            server.allow("(").unwrap_err().to_string(),
            r#"MCP server s: "(" is not a regular expression"#
        );
    }

    #[test]
    fn a_command_shows_no_argument() {
        let command = McpServer::command("c", "npx", ["--token=abcdef"])
            .env("KEY", "k-123456")
            .unwrap();
        assert_eq!(command.address(), "npx");
        let debug = format!("{command:?}");
        assert!(!debug.contains("abcdef") && !debug.contains("k-123456"), "{debug}");
    }

    #[test]
    fn a_setting_of_another_transport_is_an_error() {
        let stream = McpServer::stream("s", || async { Ok(tokio::io::empty()) });
        let error = stream.env("KEY", "k-123456").unwrap_err();
        assert_eq!(error.kind(), McpServerErrorKind::Transport);
        assert_eq!(
            error.to_string(),
            "MCP server s: only a child process takes environment variables"
        );
    }
}
