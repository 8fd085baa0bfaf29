//! The gateway's own stack, for settings that its command line does not have: tools that are closures and need no
//! server, and a first key that is refused in every request. The demo and the arguments are left out, since the load
//! does not use them.

use std::path::Path;
use std::time::Duration;

use gateway::recorder::{self, Sink};
use gateway::routes::{self, Mount};
use gateway::signals::Signals;
use gateway::workers::{self, Workers};
use http::StatusCode;
use tokio::net::TcpListener;
use tower_llm_bridge::pool::{KeyPool, Verdict, VerdictTable};
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::{BaseUri, BridgeLayer, Dialect};
use tracing_subscriber::EnvFilter;

use crate::{Failure, roles, support};

const MAX_INTERCEPTIONS: usize = 4096;
const DRAIN: Duration = Duration::from_secs(1);

pub(crate) async fn serve(base: &str, record: &Path, tools: usize, keys: &[&str]) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let signals = Signals::install()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (recorder, events) = Recorder::channel(MAX_INTERCEPTIONS);
    let records = recorder::start(Sink::file(record)?, events)?;
    let layer = BridgeLayer::new()
        .base("/v1")?
        .tools(support::tools(tools))
        .pool(KeyPool::from_secrets(keys.iter().copied())?)
        // A key that cools down would be skipped from the second request on. Everything else is as for any 429.
        .verdicts(VerdictTable::empty().rule(StatusCode::TOO_MANY_REQUESTS, Verdict::NextKey))
        .recorder(recorder);
    let base = BaseUri::parse(base)?;
    let mount = |name, dialects: &[Dialect]| Mount {
        name,
        layer: layer.clone().provider(name).dialects(dialects.iter().copied()),
        base: base.clone(),
        pool: None,
    };
    let openai = mount("openai", &[Dialect::ChatCompletions, Dialect::Responses]);
    let anthropic = mount("anthropic", &[Dialect::Messages]);
    drop(layer);
    let workers = Workers::start(workers::count()?, DRAIN, || {
        Ok(routes::app(Some(openai.connect()?), Some(anthropic.connect()?)))
    })?;
    drop((openai, anthropic));
    roles::announce(&listener)?;
    let (_, served) = workers.serve(listener.into_std()?, usize::MAX, signals, || ()).await;
    records.finish().await?;
    Ok(served?)
}
