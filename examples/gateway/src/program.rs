//! The program: reads the command line, connects the parts of this library and runs them.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
};

use tokio::net::TcpListener;
use tower_llm_bridge::{
    BridgeLayer, Dialect,
    pool::KeyPool,
    record::{Recorder, price::ListPrices},
};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::{
    admin::{self, Admin, Metrics, Readiness},
    args::{self, Args, Command, Provider},
    demo::{self, Demo},
    descriptors, mcp,
    page::{self, Page},
    process,
    recorder::{self, Sink},
    routes::{self, Mount},
    signals::{self, Signals},
    workers::{self, Workers},
};

/// Interceptions under way at once; when the record file is this far behind, new requests wait and then get a 503.
const MAX_INTERCEPTIONS: usize = 4096;

/// Serves until a signal ends it; returns how the process ends.
pub fn main() -> ExitCode {
    if let Some(code) = process::run_child(env::args_os()) {
        return code;
    }
    let arguments = match args::parse(env::args_os().skip(1), |name| env::var_os(name)) {
        Ok(Command::Serve(arguments)) => arguments,
        Ok(Command::Print(text)) => {
            say(text);
            return ExitCode::SUCCESS;
        }
        Err(problem) => return fail(2, &problem),
    };
    let filter = match EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .try_from_env()
    {
        Ok(filter) => filter,
        // The MCP SDK logs at each attempt to connect what the bridge logs once.
        Err(_) if env::var_os("RUST_LOG").is_none() => EnvFilter::new("info,rmcp=off"),
        Err(error) => return fail(2, &format!("RUST_LOG: {error}")),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    process::forbid_dumps();
    let workers = match workers::count() {
        Ok(workers) => workers,
        Err(problem) => return fail(2, &problem),
    };
    // This thread is the first worker's.
    let ended = match workers::runtime() {
        Ok(runtime) => runtime.block_on(run(*arguments, workers)),
        Err(error) => Err(format!("cannot start a runtime: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(1, &problem),
    }
}

async fn run(arguments: Args, workers: usize) -> Result<(), String> {
    let signals = Signals::install().map_err(|error| format!("cannot listen for signals: {error}"))?;
    let history = match &arguments.record {
        Some(target) => target.history()?,
        None => None,
    };
    let sink = match arguments.record {
        Some(target) => target.open(env::var_os("RECORD_SPOOL"))?,
        None => Sink::Log,
    };
    let cannot = |error| format!("cannot listen on {}: {error}", arguments.listen);
    let listener = TcpListener::bind(&arguments.listen).await.map_err(cannot)?;
    let listener = listener.into_std().map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;

    let (mut openai, mut anthropic, mut tools) = (arguments.openai, arguments.anthropic, Vec::new());
    let demo = openai.base.is_none() && anthropic.base.is_none();
    if demo {
        let demo = Demo::start()
            .await
            .map_err(|error| format!("cannot start the demo provider: {error}"))?;
        tools = demo::tools();
        for provider in [&mut openai, &mut anthropic] {
            provider.base = Some(demo.base.clone());
            provider.keys.clone_from(&demo.keys);
        }
    }
    let metrics = arguments.admin.is_some().then(Metrics::install).transpose()?;
    let (tools, speaker) = mcp::start(arguments.mcp, tools).await?;
    let (recorder, events) = Recorder::channel(MAX_INTERCEPTIONS);
    let recorder = recorder.price(ListPrices::new());
    let page = Page::new().history(history).servers(tools.clone());
    let events = match arguments.admin {
        Some(_) => events.inspect(page.observer()),
        None => events,
    };
    let records = recorder::start(sink, events).map_err(|error| format!("cannot start the record writer: {error}"))?;
    signals::on_hangup(records.reopener()).map_err(|error| format!("cannot listen for SIGHUP: {error}"))?;
    // An SDK whose base URL lacks the `/v1` is served as well.
    let layer = BridgeLayer::new().base("/v1").and_then(|layer| layer.base("/"));
    let layer = layer
        .map_err(|error| error.to_string())?
        .tools(tools)
        .recorder(recorder.clone());
    let openai = mount(&layer, openai, "openai", [Dialect::ChatCompletions, Dialect::Responses])?;
    let anthropic = mount(&layer, anthropic, "anthropic", [Dialect::Messages])?;
    drop(layer);
    let providers = [&openai, &anthropic].into_iter().flatten().map(Mount::provider);
    let readiness = Arc::new(Readiness::new(recorder, providers.collect()));
    let admin = match arguments.admin.zip(metrics) {
        Some((settings, metrics)) => {
            let pools = [&openai, &anthropic].into_iter().flatten();
            let page = pools.fold(page, |page, mount| match &mount.pool {
                Some(pool) => page.pool(mount.name, pool.clone()),
                None => page,
            });
            let page = page.logout(settings.token.is_some());
            let parts = admin::Parts {
                readiness: Arc::clone(&readiness),
                metrics,
                page: page::router(page),
            };
            Some(Admin::start(settings, parts).await?)
        }
        None => None,
    };
    let workers = Workers::start(workers, arguments.drain, || {
        let connect = |mount: &Option<Mount>| mount.as_ref().map(Mount::connect).transpose();
        Ok(routes::app(connect(&openai)?, connect(&anthropic)?))
    })?;
    // No recorder may outlive the last request.
    drop((openai, anthropic));
    // A reader that closes the pipe after this line must not end the gateway.
    say(&format!("listening on http://{address}"));
    if let Some(admin) = &admin {
        say(&format!("operator's page on http://{}", admin.address()));
    }
    if demo {
        say(&demo::how_to_try(address));
    }

    let drains = || readiness.begin_drain();
    let (mut signals, served) = workers
        .serve(listener, descriptors::connections(), signals, drains)
        .await;
    // If no connection was ever accepted, nothing has called this yet.
    readiness.begin_drain();
    if let Some(speaker) = speaker {
        speaker.end();
    }
    // Ends by itself once everything is written.
    let written = tokio::select! {
        written = records.finish() => written,
        signal = signals.next() => Err(format!("{signal} before the last record was written")),
    };
    served.and(written)
}

/// The bridge in front of one provider; none if there is no such provider.
fn mount(
    layer: &BridgeLayer,
    provider: Provider,
    name: &'static str,
    dialects: impl IntoIterator<Item = Dialect>,
) -> Result<Option<Mount>, String> {
    let Some(base) = provider.base else { return Ok(None) };
    let keys = provider.keys;
    let how = if keys.is_empty() {
        "callers bring their own keys"
    } else {
        "keys are pooled"
    };
    info!(provider = name, upstream = %base, keys = keys.len(), "{how}");
    let mut layer = layer.clone().provider(name).dialects(dialects);
    let pool = (!keys.is_empty()).then(|| KeyPool::from_secrets(keys)).transpose();
    let pool = pool.map_err(|error| format!("bad key: {error}"))?;
    if let Some(pool) = &pool {
        layer = layer.pool(pool.clone());
    }
    Ok(Some(Mount {
        name,
        layer,
        base,
        pool,
    }))
}

/// Prints to stdout and flushes. A closed stdout is ignored.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints to stderr, even when the log is off.
fn fail(code: u8, problem: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "gateway: {problem}");
    ExitCode::from(code)
}
