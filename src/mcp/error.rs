//! The error for a server whose description is unusable.

use std::fmt;

/// Why the description of a server is unusable. Its text holds no secret.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::mcp::{McpServer, McpServerErrorKind};
///
/// let error = McpServer::command("files", "mcp-files", [""; 0]).allow("(").unwrap_err();
/// assert_eq!(error.kind(), McpServerErrorKind::Pattern);
/// assert_eq!(error.to_string(), r#"MCP server files: "(" is not a regular expression"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpServerError {
    server: String,
    kind: McpServerErrorKind,
    problem: String,
}

/// The part of a server's description that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum McpServerErrorKind {
    /// The name is empty, or another server has it.
    Name,
    /// The URL is not an absolute `http` or `https` URL.
    Url,
    /// The authorization cannot be a header's value.
    Authorization,
    /// A pattern is not a regular expression.
    Pattern,
    /// The setting is for servers of another transport.
    Transport,
    /// The HTTP client cannot be built.
    Client,
}

// === impl McpServerError ===

impl McpServerError {
    pub(super) fn new(server: &str, kind: McpServerErrorKind, problem: impl Into<String>) -> Self {
        Self {
            server: server.to_owned(),
            kind,
            problem: problem.into(),
        }
    }

    /// The part of the description that is wrong.
    #[must_use]
    pub fn kind(&self) -> McpServerErrorKind {
        self.kind
    }

    /// The name of the server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }
}

impl fmt::Display for McpServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MCP server {}: {}", self.server, self.problem)
    }
}

impl std::error::Error for McpServerError {}
