//! The command line, parsed by hand: a handful of options do not earn an argument parser among the dependencies.
//!
//! A message never repeats a value that may hold a secret, and [`Args`] has no `Debug` for the same reason.

use std::{ffi::OsString, path::PathBuf};

use tower_llm_bridge::{BaseUri, mcp::McpServer};

const HELP: &str = "\
A gateway for AI clients: key failover, injected tools, usage records.

usage: gateway [--listen ADDR] [--upstream URL] [--key SECRET]... [--mcp NAME=URL]... [--record FILE]

  --listen ADDR    address and port to listen on; port 0 takes any free one [default: 127.0.0.1:8080]
  --upstream URL   the provider's API base, as an OpenAI SDK takes it: https://api.openai.com/v1
                   (a bare https://host means https://host/v1) [default: an embedded demo provider]
  --key SECRET     a provider key; repeat for failover, the first is tried first. Other users of this machine
                   can read a command line, so prefer OPENAI_API_KEYS=KEY,KEY in the environment.
                   With neither, callers bring their own keys
  --mcp NAME=URL   an MCP server whose tools are injected, over streamable HTTP; repeatable
  --mcp 'NAME=stdio:COMMAND ARG...'
                   the same for one that is a child process; words are split at spaces, there is no shell
  --record FILE    append every usage record to FILE, one JSON object per line [default: log the end of each request]
  -h, --help       print this
  -V, --version    print the version

environment: OPENAI_API_KEYS (see --key), RUST_LOG (log filter for stderr) [default: info],
             MCP_<NAME>_AUTHORIZATION (header for the MCP server NAME, such as 'Bearer TOKEN'),
             TOKIO_WORKER_THREADS (threads that serve) [default: one per core]
signals:     SIGINT or SIGTERM drains requests for up to 30 s; a second one cuts them";

/// What the command line asks for.
pub enum Command {
    Serve(Args),
    Print(&'static str),
}

/// How to serve.
pub struct Args {
    pub listen: String,
    /// `None`: the embedded demo provider.
    pub upstream: Option<BaseUri>,
    /// In order of preference; empty: callers bring their own.
    pub keys: Vec<String>,
    pub mcp: Vec<McpServer>,
    pub record: Option<PathBuf>,
}

/// Parses everything after the program's name. `env_keys` is `OPENAI_API_KEYS`.
///
/// # Errors
///
/// One line for the user, without a secret in it.
pub fn parse(arguments: impl IntoIterator<Item = OsString>, env_keys: Option<OsString>) -> Result<Command, String> {
    let mut listen = None;
    let mut upstream = None;
    let mut record = None;
    let mut keys = Vec::new();
    let mut mcp = Vec::new();

    let mut arguments = arguments.into_iter().enumerate();
    while let Some((index, argument)) = arguments.next() {
        let argument = argument
            .into_string()
            .map_err(|_| format!("argument {} is not valid UTF-8", index + 1))?;
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (argument.as_str(), None),
        };
        match name {
            "-h" | "--help" => return Ok(Command::Print(HELP)),
            "-V" | "--version" => return Ok(Command::Print(concat!("gateway ", env!("CARGO_PKG_VERSION")))),
            "--listen" | "--upstream" | "--key" | "--mcp" | "--record" => {}
            // What is no option may be a key whose `--key` was forgotten.
            name if !name.starts_with("--") => {
                return Err(format!("argument {} is not an option, see --help", index + 1));
            }
            name => return Err(format!("unknown option {name}, see --help")),
        }
        let value = inline
            .or_else(|| arguments.next().map(|(_, value)| value))
            .filter(|value| !value.is_empty())
            .ok_or_else(|| format!("{name} needs a value"))?;
        if name == "--record" {
            once(&mut record, name, PathBuf::from(value))?;
            continue;
        }
        let value = value
            .into_string()
            .map_err(|_| format!("the value of {name} is not valid UTF-8"))?;
        match name {
            "--listen" => once(&mut listen, name, address(value)?)?,
            "--upstream" => {
                let base = BaseUri::parse(&value).map_err(|problem| format!("--upstream: {problem}"))?;
                once(&mut upstream, name, base)?;
            }
            "--key" => keys.push(value),
            _ => mcp.push(crate::mcp::parse(&value)?),
        }
    }

    if upstream.is_none() && !keys.is_empty() {
        return Err("--key needs an --upstream to send it to; the demo provider has its own keys".into());
    }
    if upstream.is_some() && keys.is_empty() {
        let env_keys = env_keys.unwrap_or_default().into_string();
        let env_keys = env_keys.map_err(|_| "OPENAI_API_KEYS is not valid UTF-8")?;
        keys = env_keys
            .split(',')
            .map(str::trim)
            .filter(|key| !key.is_empty())
            .map(String::from)
            .collect();
    }
    let listen = listen.unwrap_or_else(|| "127.0.0.1:8080".into());
    Ok(Command::Serve(Args {
        listen,
        upstream,
        keys,
        mcp,
        record,
    }))
}

fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    if slot.replace(value).is_some() {
        return Err(format!("{name} is given twice"));
    }
    Ok(())
}

/// A host name may stand for the address, so only the shape is checked here.
fn address(value: String) -> Result<String, String> {
    match value.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(value),
        _ => Err(format!(
            "--listen: {value:?} is not HOST:PORT, such as 127.0.0.1:8080 or [::1]:0"
        )),
    }
}
