//! The MCP servers that the command line names.

use std::{
    convert::Infallible,
    ffi::OsString,
    io,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{runtime::Builder, sync::oneshot};
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
        let server = McpServer::command(name, command.next().unwrap_or_default(), command);
        // On Linux the command is the gateway itself, which becomes the program.
        return Ok(server.show_as(program));
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

/// `MCP_<NAME>_AUTHORIZATION`, in capitals, with `_` for characters that a variable's name cannot have.
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

/// The thread that speaks to the servers.
pub struct Speaker {
    /// Dropped to make it stop.
    stop: oneshot::Sender<Infallible>,
    thread: JoinHandle<()>,
}

/// Connects to all of them; `local` are our own tools. The connections are on a separate thread, so that a server that
/// sends without end, or a message of many mebibytes, delays no worker.
///
/// # Errors
///
/// One line for the user.
pub async fn start(servers: Vec<McpServer>, local: Vec<Tool>) -> Result<(McpServers, Option<Speaker>), String> {
    if servers.is_empty() {
        return Ok((connect(servers, local).await?, None));
    }
    let cannot = |error: io::Error| format!("cannot start the thread of the MCP servers: {error}");
    let runtime = Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let (connected, connection) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new().name("mcp".into()).spawn(move || {
        runtime.block_on(async {
            // Fails if the start was given up.
            let _ = connected.send(connect(servers, local).await);
            let _ = stopped.await;
        });
    });
    let thread = thread.map_err(cannot)?;
    let servers = connection
        .await
        .unwrap_or_else(|_| Err("the thread of the MCP servers panicked".into()))?;
    Ok((servers, Some(Speaker { stop, thread })))
}

// === impl Speaker ===

impl Speaker {
    /// Ends the connections, and the servers that are children. To be called when no call is under way.
    pub fn end(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            warn!("the thread of the MCP servers panicked");
        }
    }
}

async fn connect(servers: Vec<McpServer>, local: Vec<Tool>) -> Result<McpServers, String> {
    // The provider of `reqwest`, which speaks to the servers. Fails if the process has one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let servers = McpServers::connect(servers, local).map_err(|problem| format!("--mcp: {problem}"))?;
    if tokio::time::timeout(PATIENCE, servers.settled()).await.is_err() {
        warn!("not every MCP server has answered yet, going on without them");
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_shown_without_its_wrapper_and_arguments() {
        let server = parse("tracker=stdio:mcp-tracker --key=s3cret", |_| None).expect("it is well-formed");
        let shown = format!("{server:?}");
        assert!(shown.contains("address: \"mcp-tracker\""), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
