//! Where the layer takes its tools from: one set for good, or whatever is current when a request begins.

use std::{fmt, sync::Arc};

use super::Tools;

/// What [`BridgeLayer::tools`](crate::BridgeLayer::tools) takes: a fixed set of tools, or a live one.
///
/// A request keeps the set that was current when it began, whatever replaces it meanwhile.
///
/// # Examples
///
/// A set that can be replaced while requests run:
///
/// ```
/// use std::sync::Arc;
///
/// use arc_swap::ArcSwap;
/// use tower_llm_bridge::BridgeLayer;
/// use tower_llm_bridge::tools::{ToolDefinition, ToolSource, Tools, tool_fn};
///
/// let current = Arc::new(ArcSwap::from_pointee(Tools::default()));
/// let source = ToolSource::from_fn({
///     let current = Arc::clone(&current);
///     move || Tools::clone(&current.load())
/// });
/// let layer = BridgeLayer::new().tools(source.clone());
///
/// let ping = tool_fn(ToolDefinition::new("ping"), |_call| async { Ok::<_, std::convert::Infallible>("pong") });
/// current.store(Arc::new(Tools::new([ping])));
/// assert!(source.current().names().eq(["bmcp_local_ping"]));
/// # drop(layer);
/// ```
#[derive(Clone)]
pub struct ToolSource(Source);

#[derive(Clone)]
enum Source {
    Fixed(Tools),
    Live(Arc<dyn Fn() -> Tools + Send + Sync>),
}

// === impl ToolSource ===

impl ToolSource {
    /// A live set: `current` is asked once for each request, so it should neither block nor build anything.
    pub fn from_fn(current: impl Fn() -> Tools + Send + Sync + 'static) -> Self {
        Self(Source::Live(Arc::new(current)))
    }

    /// The set that a request would get now.
    #[must_use]
    pub fn current(&self) -> Tools {
        match &self.0 {
            Source::Fixed(tools) => tools.clone(),
            Source::Live(current) => current(),
        }
    }
}

impl Default for ToolSource {
    fn default() -> Self {
        Tools::default().into()
    }
}

impl From<Tools> for ToolSource {
    fn from(tools: Tools) -> Self {
        Self(Source::Fixed(tools))
    }
}

impl fmt::Debug for ToolSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ToolSource").field(&self.current()).finish()
    }
}
