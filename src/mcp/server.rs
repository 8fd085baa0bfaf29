//! What an operator says about one MCP server.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc};

use http::HeaderValue;
use regex::Regex;
use reqwest::Url;
use tokio::io::{AsyncRead, AsyncWrite};

use super::secret::Secrets;

/// One MCP server, not connected yet.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::mcp::McpServer;
///
/// let server = McpServer::http("tracker", "https://mcp.example.com/v1")?
///     .authorization("Bearer s3cret-token")?
///     .allow("^issue_")?
///     .deny("_delete$")?;
/// assert!(!format!("{server:?}").contains("s3cret"));
/// # Ok::<(), tower_llm_bridge::mcp::InvalidMcpServer>(())
/// ```
#[derive(Clone)]
#[must_use = "nothing connects to a server until it is given to `McpServers::connect`"]
pub struct McpServer {
    pub(super) name: String,
    pub(super) endpoint: Endpoint,
    pub(super) authorization: Option<HeaderValue>,
    allow: Vec<Regex>,
    deny: Vec<Regex>,
    pub(super) secrets: Secrets,
}

/// Where a server is.
#[derive(Clone)]
pub(super) enum Endpoint {
    Http(Url),
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

/// Why a server cannot be connected to as it is described. The text holds no secret.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::mcp::McpServer;
///
/// let error = McpServer::http("files", "file:///etc/passwd").unwrap_err();
/// assert_eq!(error.to_string(), "MCP server files: the URL must begin with http:// or https://");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMcpServer {
    server: String,
    problem: String,
}

impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

// === impl McpServer ===

impl McpServer {
    /// A server that speaks
    /// [streamable HTTP](https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#streamable-http).
    ///
    /// Redirects are followed on the same scheme, host and port only. User information in the URL is sent as basic
    /// authentication; neither that nor the query is ever logged or recorded.
    ///
    /// # Errors
    ///
    /// When `url` is not an absolute `http` or `https` URL.
    pub fn http(name: impl Into<String>, url: &str) -> Result<Self, InvalidMcpServer> {
        let name = name.into();
        let url = match Url::parse(url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
            Ok(_) => return Err(invalid(&name, "the URL must begin with http:// or https://")),
            Err(error) => return Err(invalid(&name, &format!("the URL is unusable: {error}"))),
        };
        let mut secrets = Secrets::default();
        secrets.add(url.password().unwrap_or_default());
        secrets.add(url.query().unwrap_or_default());
        for (_, value) in url.query_pairs() {
            secrets.add(&value);
        }
        let mut server = Self::new(name, Endpoint::Http(url));
        server.secrets = secrets;
        Ok(server)
    }

    /// A server that is a child process, spoken to over its standard input and output.
    ///
    /// It inherits the few environment variables that a program needs to run (`PATH`, `HOME` and the like) and no
    /// other: the keys of the providers are often in our environment. Its standard error output is ours.
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

    fn new(name: impl Into<String>, endpoint: Endpoint) -> Self {
        Self {
            name: name.into(),
            endpoint,
            authorization: None,
            allow: Vec::new(),
            deny: Vec::new(),
            secrets: Secrets::default(),
        }
    }

    /// The whole value of the `Authorization` header, such as `Bearer …`, sent with every request to an HTTP server. It is
    /// never printed or logged.
    ///
    /// # Errors
    ///
    /// When the value cannot be a header's, or the server is not spoken to over HTTP.
    pub fn authorization(mut self, value: &str) -> Result<Self, InvalidMcpServer> {
        let Endpoint::Http(url) = &mut self.endpoint else {
            return Err(self.invalid("only a server that is spoken to over HTTP takes an authorization"));
        };
        // User information would be sent as a second value. Both fail only for URLs without a host.
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        let header = HeaderValue::from_str(value);
        let (Ok(()), Ok(mut header)) = (cleared, header) else {
            return Err(self.invalid("the authorization has characters that no header may have"));
        };
        header.set_sensitive(true);
        self.authorization = Some(header);
        self.secrets.add(value);
        if let Some((_scheme, token)) = value.split_once(' ') {
            self.secrets.add(token.trim());
        }
        Ok(self)
    }

    /// Gives a child process one more environment variable. On other servers it has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::mcp::McpServer;
    ///
    /// let server = McpServer::command("git", "mcp-server-git", ["--read-only"]).env("GIT_TOKEN", "s3cret");
    /// assert!(!format!("{server:?}").contains("s3cret"));
    /// ```
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Endpoint::Command(command) = &mut self.endpoint {
            let value = value.into();
            self.secrets.add(&value);
            command.environment.push((name.into(), value));
        }
        self
    }

    /// Offers only tools whose own name matches `pattern` somewhere; with several patterns, any of them. Without one, all
    /// are allowed.
    ///
    /// # Errors
    ///
    /// When `pattern` is not a [regular expression](https://docs.rs/regex/latest/regex/#syntax).
    pub fn allow(mut self, pattern: &str) -> Result<Self, InvalidMcpServer> {
        let pattern = self.pattern(pattern)?;
        self.allow.push(pattern);
        Ok(self)
    }

    /// Never offers a tool whose own name matches `pattern` somewhere, even if it is allowed.
    ///
    /// # Errors
    ///
    /// When `pattern` is not a [regular expression](https://docs.rs/regex/latest/regex/#syntax).
    pub fn deny(mut self, pattern: &str) -> Result<Self, InvalidMcpServer> {
        let pattern = self.pattern(pattern)?;
        self.deny.push(pattern);
        Ok(self)
    }

    fn pattern(&self, pattern: &str) -> Result<Regex, InvalidMcpServer> {
        Regex::new(pattern).map_err(|_| self.invalid(&format!("{pattern:?} is not a regular expression")))
    }

    pub(super) fn offers(&self, tool: &str) -> bool {
        let allowed = self.allow.is_empty() || self.allow.iter().any(|pattern| pattern.is_match(tool));
        allowed && !self.deny.iter().any(|pattern| pattern.is_match(tool))
    }

    /// Where the server is, without anything that may be a secret: arguments of a program often are.
    pub(super) fn address(&self) -> String {
        match &self.endpoint {
            Endpoint::Http(_) => self.url().unwrap_or_default(),
            Endpoint::Command(command) => command.program.clone(),
            Endpoint::Stream(_) => "stream".to_owned(),
        }
    }

    /// The URL that records show: scheme, host, port and path.
    pub(super) fn url(&self) -> Option<String> {
        let Endpoint::Http(url) = &self.endpoint else {
            return None;
        };
        let mut address = url.origin().ascii_serialization();
        address.push_str(url.path());
        Some(address)
    }

    pub(super) fn invalid(&self, problem: &str) -> InvalidMcpServer {
        invalid(&self.name, problem)
    }
}

impl fmt::Debug for McpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpServer")
            .field("name", &self.name)
            .field("address", &self.address())
            .field("authorization", &self.authorization)
            .field("allow", &self.allow)
            .field("deny", &self.deny)
            .finish_non_exhaustive()
    }
}

// === impl InvalidMcpServer ===

fn invalid(server: &str, problem: &str) -> InvalidMcpServer {
    InvalidMcpServer {
        server: server.to_owned(),
        problem: problem.to_owned(),
    }
}

impl fmt::Display for InvalidMcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MCP server {}: {}", self.server, self.problem)
    }
}

impl std::error::Error for InvalidMcpServer {}

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
    fn an_address_shows_no_secret() {
        let server = McpServer::http("s", "https://user:pass-word@host.example:8443/mcp?key=k-123456#f").unwrap();
        assert_eq!(server.address(), "https://host.example:8443/mcp");
        let masked = server
            .secrets
            .mask("GET https://host.example:8443/mcp?key=k-123456 with pass-word");
        assert_eq!(masked, "GET https://host.example:8443/mcp?... with ...");
        let server = server.authorization("Bearer token-17").unwrap();
        let debug = format!("{server:?}");
        for secret in ["user", "pass-word", "k-123456", "token-17"] {
            assert!(!debug.contains(secret), "{debug}");
        }
        assert!(matches!(&server.endpoint, Endpoint::Http(url) if url.username().is_empty()));
        let command = McpServer::command("c", "npx", ["--token=abcdef"]);
        assert_eq!(command.address(), "npx");
        assert!(!format!("{command:?}").contains("abcdef"));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for url in ["", "mcp.example.com", "ftp://host/", "unix:/run/x", "http://"] {
            assert!(McpServer::http("s", url).is_err(), "{url}");
        }
        let server = McpServer::http("s", "http://host/").unwrap();
        let error = server.authorization("Bearer to\nken").unwrap_err();
        assert!(!error.to_string().contains("ken"), "{error}");
        assert!(McpServer::command("s", "p", [""; 0]).authorization("Bearer x").is_err());
    }
}
