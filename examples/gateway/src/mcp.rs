//! The MCP servers that the command line names.

use std::{ffi::OsString, time::Duration};

use tower_llm_bridge::{
    mcp::{McpServer, McpServers},
    tools::Tool,
};
use tracing::warn;

use crate::process;

/// How long the first requests wait for the servers; a slow one joins later.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads `NAME=URL` or `NAME=stdio:COMMAND ARG…`. `env` reads a variable of the environment.
///
/// # Errors
///
/// One line for the user, without a secret in it.
pub fn parse(value: &str, env: impl Fn(&str) -> Option<OsString>) -> Result<McpServer, String> {
    let Some((name, target)) = value
        .split_once('=')
        .filter(|(name, target)| !name.is_empty() && !target.is_empty())
    else {
        return Err("--mcp needs NAME=URL or NAME=stdio:COMMAND ARG...".into());
    };
    let server = if let Some(command) = target.strip_prefix("stdio:") {
        let mut words = command.split_whitespace();
        let program = words
            .next()
            .ok_or_else(|| format!("--mcp {name}: stdio: needs a command"))?;
        let mut command = process::ends_with_us(program, words).into_iter();
        return Ok(McpServer::command(name, command.next().unwrap_or_default(), command));
    } else {
        McpServer::http(name, target).map_err(|problem| format!("--mcp: {problem}"))?
    };
    // Not on the command line: other users of the machine can read that.
    let Some(authorization) = env(&variable(name)) else {
        return Ok(server);
    };
    let authorization = authorization
        .into_string()
        .map_err(|_| format!("{} is not valid UTF-8", variable(name)))?;
    server
        .authorization(&authorization)
        .map_err(|problem| format!("{}: {problem}", variable(name)))
}

/// `MCP_<NAME>_AUTHORIZATION`, in capitals, with `_` for what no variable's name may have.
fn variable(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|char| {
            if char.is_ascii_alphanumeric() {
                char.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    format!("MCP_{name}_AUTHORIZATION")
}

/// Connects to all of them; `local` are our own tools.
///
/// # Errors
///
/// One line for the user.
pub async fn connect(servers: Vec<McpServer>, local: Vec<Tool>) -> Result<McpServers, String> {
    // The provider of `reqwest`, which speaks to the servers. Fails if the process has one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let servers = McpServers::connect(servers, local).map_err(|problem| format!("--mcp: {problem}"))?;
    if tokio::time::timeout(PATIENCE, servers.settled()).await.is_err() {
        warn!("not every MCP server has answered yet, going on without");
    }
    Ok(servers)
}
