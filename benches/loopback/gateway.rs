//! The gateway example's own stack, with tools that are closures: its command line has none to offer that need no
//! server. What is not wired here is what the load does not meet: the demo, and the arguments.

use std::path::Path;

use tower_llm_bridge::BridgeLayer;
use tower_llm_bridge::pool::KeyPool;
use tower_llm_bridge::record::Recorder;
use tracing_subscriber::EnvFilter;

use crate::recorder::{self, Sink};
use crate::signals::Signals;
use crate::upstream::{BaseUrl, Upstream};
use crate::{Failure, provider, roles, routes, server, support};

const MAX_INTERCEPTIONS: usize = 4096;

pub(crate) async fn serve(upstream: &str, record: &Path, tools: usize) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let signals = Signals::install()?;
    let listener = server::bind("127.0.0.1:0").await?;
    let (recorder, events) = Recorder::channel(MAX_INTERCEPTIONS);
    let records = recorder::start(Sink::file(record)?, events)?;
    let layer = BridgeLayer::new()
        .provider("openai")
        .tools(support::tools(tools))
        .pool(KeyPool::from_secrets([provider::WORKING_KEY])?)
        .recorder(recorder);
    let app = routes::app(&layer, Upstream::new(BaseUrl::parse(upstream)?)?);
    roles::announce(&listener)?;
    server::serve(listener, app, signals).await;
    Ok(records.finish().await?)
}
