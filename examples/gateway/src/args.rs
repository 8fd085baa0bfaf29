//! The command line: its options, and messages for wrong ones.
//!
//! A message never repeats a value that may hold a secret, and [`Args`] has no `Debug` for the same reason.

use std::{ffi::OsString, time::Duration};

use lexopt::Arg;
use tower_llm_bridge::{BaseUri, mcp::McpServer};

use crate::{admin, mcp, recorder::Target};

const HELP: &str = "\
A gateway for AI clients: key failover, injected tools, usage records.

usage: gateway [--listen ADDR] [--upstream URL] [--key SECRET]... [--anthropic-upstream URL] [--anthropic-key SECRET]...
               [--mcp NAME=URL]... [--record TARGET] [--admin ADDR] [--drain SECONDS]

  --listen ADDR    address and port to listen on; port 0 takes any free one [default: 127.0.0.1:8080]
  --upstream URL   the provider's API base, as an OpenAI SDK takes it: https://api.openai.com/v1
                   (a bare https://host means https://host/v1). It serves chat completions, Responses and models
  --key SECRET     a provider key; repeat for failover, the first is tried first. Other users of this machine
                   can read a command line, so prefer OPENAI_API_KEYS=KEY,KEY in the environment.
                   With neither, callers bring their own keys
  --anthropic-upstream URL, --anthropic-key SECRET
                   the same for Anthropic's Messages: https://api.anthropic.com; ANTHROPIC_API_KEYS=KEY,KEY
                   Without any upstream an embedded demo provider speaks all APIs
  --mcp NAME=URL   an MCP server whose tools are injected, over streamable HTTP; repeatable
  --mcp 'NAME=stdio:COMMAND ARG...'
                   the same for one that is a child process; words are split at spaces, there is no shell
  --record FILE    append every usage record to FILE, one JSON object per line [default: log the end of each request]
  --record sqlite:FILE, --record postgres://USER:PASSWORD@HOST/DATABASE
                   write them to a database. What it has not taken yet waits in FILE.spool, for PostgreSQL in the
                   file that RECORD_SPOOL names
  --admin ADDR     the operator's listener: the page, /metrics, /healthz, /readyz [default: off; a free port of
                   127.0.0.1 with the demo provider]. Any address but a loopback one needs ADMIN_TOKEN
  --drain SECONDS  how long requests may go on after the first signal [default: 25]
  -h, --help       print this
  -V, --version    print the version

environment: OPENAI_API_KEYS, ANTHROPIC_API_KEYS (see --key), RUST_LOG (log filter for stderr) [default: info],
             RECORD_SPOOL (see --record), ADMIN_TOKEN (what operators must know to use the listener of --admin),
             ADMIN_HOSTS=NAME,NAME (names that lead to it, beside its address and localhost), MCP_<NAME>_AUTHORIZATION (header for the MCP server NAME, such as 'Bearer TOKEN'),
             TOKIO_WORKER_THREADS (threads that serve) [default: one per core]
signals:     SIGINT or SIGTERM drains requests; a second one cuts them. SIGHUP opens the record file anew";

const DRAIN: Duration = Duration::from_secs(25);
const DEMO_ADMIN: &str = "127.0.0.1:0";

/// The command that the arguments name.
pub enum Command {
    Serve(Box<Args>),
    Print(&'static str),
}

/// How to serve.
pub struct Args {
    pub listen: String,
    pub openai: Provider,
    pub anthropic: Provider,
    pub mcp: Vec<McpServer>,
    /// `None`: the log.
    pub record: Option<Target>,
    /// `None`: no operator's listener.
    pub admin: Option<admin::Settings>,
    pub drain: Duration,
}

/// One provider's address and keys.
#[derive(Default)]
pub struct Provider {
    /// `None`: its routes are not served; the embedded demo provider if there is no other upstream.
    pub base: Option<BaseUri>,
    /// In order of preference; empty: callers bring their own.
    pub keys: Vec<String>,
}

/// Parses everything after the program's name. `env` reads a variable of the environment.
///
/// # Errors
///
/// One line for the user, without a secret in it.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, String> {
    let mut listen = None;
    let (mut openai, mut anthropic) = (Provider::default(), Provider::default());
    let mut servers = Vec::new();
    let mut record = None;
    let mut admin = None;
    let mut drain = None;

    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next().map_err(|error| explain(&error))? {
        let name = match argument {
            Arg::Short('h') => "help".to_owned(),
            Arg::Short('V') => "version".to_owned(),
            Arg::Long(name) => name.to_owned(),
            Arg::Short(_) => return Err("unknown option, see --help".into()),
            // Not echoed: it may be a key whose `--key` was forgotten.
            Arg::Value(_) => return Err("there is an argument that is not an option, see --help".into()),
        };
        let mut value = || text(&name, parser.value().map_err(|_| format!("--{name} needs a value"))?);
        match name.as_str() {
            "help" => return Ok(Command::Print(HELP)),
            "version" => return Ok(Command::Print(concat!("gateway ", env!("CARGO_PKG_VERSION")))),
            "listen" => once(&mut listen, &name, address(&name, value()?)?)?,
            "admin" => once(&mut admin, &name, address(&name, value()?)?)?,
            "upstream" => once(&mut openai.base, &name, base(&name, &value()?)?)?,
            "key" => openai.keys.push(value()?),
            "anthropic-upstream" => once(&mut anthropic.base, &name, base(&name, &value()?)?)?,
            "anthropic-key" => anthropic.keys.push(value()?),
            "mcp" => servers.push(mcp::parse(&value()?, &env)?),
            "record" => {
                let target = parser.value().ok().filter(|target| !target.is_empty());
                let target = target.ok_or("--record needs a value")?;
                once(&mut record, &name, Target::parse(target)?)?;
            }
            "drain" => once(&mut drain, &name, seconds(&name, &value()?)?)?,
            // Planned options: to accept one without an effect would be worse.
            "redis" => return Err(not_yet(&name, "key state shared over Redis")),
            _ => return Err(format!("unknown option --{name}, see --help")),
        }
    }

    let providers = [
        (&mut openai, "--key", "--upstream", "OPENAI_API_KEYS"),
        (
            &mut anthropic,
            "--anthropic-key",
            "--anthropic-upstream",
            "ANTHROPIC_API_KEYS",
        ),
    ];
    for (provider, key, upstream, variable) in providers {
        if provider.base.is_none() && !provider.keys.is_empty() {
            return Err(format!(
                "{key} needs an {upstream} to send it to; the demo provider has its own keys"
            ));
        }
        if provider.base.is_some() && provider.keys.is_empty() {
            provider.keys = env_list(variable, &env)?;
        }
    }
    let is_demo = openai.base.is_none() && anthropic.base.is_none();
    let admin = match admin.or_else(|| is_demo.then(|| DEMO_ADMIN.into())) {
        Some(listen) => Some(admin::Settings {
            listen,
            token: env_text("ADMIN_TOKEN", &env)?.filter(|token| !token.is_empty()),
            names: env_list("ADMIN_HOSTS", &env)?,
        }),
        None => None,
    };
    Ok(Command::Serve(Box::new(Args {
        listen: listen.unwrap_or_else(|| "127.0.0.1:8080".into()),
        openai,
        anthropic,
        mcp: servers,
        record,
        admin,
        drain: drain.unwrap_or(DRAIN),
    })))
}

/// lexopt's own messages repeat values.
fn explain(error: &lexopt::Error) -> String {
    match error {
        lexopt::Error::UnexpectedValue { option, .. } => format!("{option} takes no value"),
        lexopt::Error::NonUnicodeValue(_) => "an argument is not valid UTF-8".into(),
        _ => "the command line cannot be understood, see --help".into(),
    }
}

fn not_yet(name: &str, what: &str) -> String {
    format!("--{name}: this version of the gateway has no support for {what} yet")
}

fn text(name: &str, value: OsString) -> Result<String, String> {
    let value = value
        .into_string()
        .map_err(|_| format!("the value of --{name} is not valid UTF-8"))?;
    if value.is_empty() {
        return Err(format!("--{name} needs a value"));
    }
    Ok(value)
}

fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    if slot.replace(value).is_some() {
        return Err(format!("--{name} is given twice"));
    }
    Ok(())
}

/// A host name may stand for the address, so only the shape is checked here.
fn address(name: &str, value: String) -> Result<String, String> {
    match value.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(value),
        _ => Err(format!("--{name} needs HOST:PORT, such as 127.0.0.1:8080 or [::1]:0")),
    }
}

fn base(name: &str, value: &str) -> Result<BaseUri, String> {
    BaseUri::parse(value).map_err(|problem| format!("--{name}: {problem}"))
}

fn seconds(name: &str, value: &str) -> Result<Duration, String> {
    // Nobody needs a fraction of a second, and more than an hour is a mistake for which a restart would wait.
    match value.parse() {
        Ok(seconds @ 0..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("--{name} needs whole seconds, at most 3600")),
    }
}

/// A variable of the environment.
fn env_text(name: &str, env: impl Fn(&str) -> Option<OsString>) -> Result<Option<String>, String> {
    let value = env(name).map(OsString::into_string).transpose();
    value.map_err(|_| format!("{name} is not valid UTF-8"))
}

/// The list in a variable of the environment, separated by commas.
fn env_list(name: &str, env: impl Fn(&str) -> Option<OsString>) -> Result<Vec<String>, String> {
    let value = env_text(name, env)?.unwrap_or_default();
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    Ok(items.map(String::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "sk-hidden-0123456789";

    fn parsed(arguments: &[&str], keys: Option<&str>) -> Result<Command, String> {
        let env = |name: &str| (name == "OPENAI_API_KEYS").then(|| keys.map(OsString::from)).flatten();
        parse(arguments.iter().map(OsString::from), env)
    }

    fn args(arguments: &[&str], keys: Option<&str>) -> Args {
        match parsed(arguments, keys) {
            Ok(Command::Serve(args)) => *args,
            Ok(Command::Print(text)) => panic!("it only prints {text}"),
            Err(problem) => panic!("{arguments:?}: {problem}"),
        }
    }

    #[test]
    fn without_arguments_it_is_a_demo_on_a_fixed_port() {
        let args = args(&[], Some("ignored"));
        assert_eq!((args.listen.as_str(), args.drain), ("127.0.0.1:8080", DRAIN));
        assert!(args.openai.base.is_none() && args.openai.keys.is_empty());
        assert!(args.record.is_none() && args.mcp.is_empty());
    }

    #[test]
    fn every_option_is_read_in_both_forms() {
        let long = [
            "--listen",
            "[::1]:0",
            "--upstream=https://host",
            "--key",
            "a",
            "--key=b",
        ];
        let read = args(
            &[&long[..], &["--drain=3", "--record", "x=y.jsonl"]].concat(),
            Some("c"),
        );
        assert_eq!((read.listen.as_str(), read.drain), ("[::1]:0", Duration::from_secs(3)));
        assert_eq!(
            read.openai.base.map(|base| base.to_string()).as_deref(),
            Some("https://host/v1")
        );
        assert_eq!(
            read.openai.keys,
            ["a", "b"],
            "the command line comes before the environment"
        );
        assert!(read.record.is_some());
        let read = args(&["--upstream", "http://host/api"], Some(" c,,d ,"));
        assert_eq!(read.openai.keys, ["c", "d"]);
    }

    #[test]
    fn the_operators_listener_is_on_in_the_demo_and_where_it_is_asked_for() {
        let listens = |arguments: &[&str]| args(arguments, None).admin.map(|admin| admin.listen);
        let upstream = ["--upstream", "http://host"];
        assert_eq!(listens(&[]).as_deref(), Some("127.0.0.1:0"));
        assert_eq!(listens(&["--admin", "[::1]:9"]).as_deref(), Some("[::1]:9"));
        assert_eq!(listens(&upstream), None);
        assert_eq!(
            listens(&[&upstream[..], &["--admin=127.0.0.1:9"]].concat()).as_deref(),
            Some("127.0.0.1:9")
        );
        let env = |name: &str| match name {
            "ADMIN_TOKEN" => Some(SECRET.into()),
            "ADMIN_HOSTS" => Some("a.example, b.example".into()),
            _ => None,
        };
        let Ok(Command::Serve(read)) = parse([], env) else {
            panic!("it serves");
        };
        let admin = read.admin.expect("the demo has one");
        assert_eq!(admin.token.as_deref(), Some(SECRET));
        assert_eq!(admin.names, ["a.example", "b.example"]);
    }

    #[test]
    fn mistakes_are_explained_without_showing_a_value() {
        let with_password = format!("http://user:{SECRET}@127.0.0.1:1");
        let help_value = format!("--help={SECRET}");
        let cases: &[(&[&str], &str)] = &[
            (&["--nonsense"], "unknown option --nonsense"),
            (&["-x"], "unknown option"),
            (&[SECRET], "not an option"),
            (&["--listen"], "--listen needs a value"),
            (&["--listen="], "--listen needs a value"),
            (&["--listen", "8080"], "HOST:PORT"),
            (&["--listen", SECRET], "HOST:PORT"),
            (&["--listen", "a:1", "--listen=b:2"], "given twice"),
            (&["--key", SECRET], "--key needs an --upstream"),
            (&["--upstream", SECRET], "needs http:// or https://"),
            (&["--upstream", "ftp://127.0.0.1"], "needs http:// or https://"),
            (&["--upstream", &with_password], "user or password"),
            (
                &["--upstream", "http://127.0.0.1/v1/chat/completions"],
                "leave the endpoint",
            ),
            (&["--mcp", SECRET], "NAME=URL"),
            (&["--record", "sqlite:"], "needs a file"),
            (&["--record="], "--record needs a value"),
            (&["--drain", "soon"], "whole seconds"),
            (&["--drain", "-1"], "whole seconds"),
            (
                &["--anthropic-key", SECRET],
                "--anthropic-key needs an --anthropic-upstream",
            ),
            (&["--anthropic-upstream", SECRET], "needs http:// or https://"),
            (&["--admin", SECRET], "--admin needs HOST:PORT"),
            (&["--redis", SECRET], "no support for key state"),
        ];
        for (arguments, message) in cases {
            let problem = parsed(arguments, None).err().unwrap_or_default();
            assert!(problem.contains(message), "{arguments:?}: {problem}");
            assert!(!problem.contains(SECRET), "{problem}");
        }
        // Any form of `--help` prints the help, and never shows a value.
        assert!(matches!(parsed(&[&help_value], None), Ok(Command::Print(_))));
    }
}
