//! The source of a layer's tools: one fixed set, or the set that is current when a request begins.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;

use super::Tools;

/// The argument of [`BridgeLayer::tools`](crate::BridgeLayer::tools): a fixed set of tools, or a live one.
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

/// A live source with a function that changes each of its sets.
struct Mapped<F> {
    source: ToolSource,
    change: F,
    /// The last set, before and after the change.
    last: ArcSwapOption<(Tools, Tools)>,
    /// Held while a set is changed, so that two requests do not change it twice.
    changing: Mutex<()>,
}

// === impl ToolSource ===

impl ToolSource {
    /// A live set: `current` runs once for each request, so it should neither block nor build anything.
    pub fn from_fn(current: impl Fn() -> Tools + Send + Sync + 'static) -> Self {
        Self(Source::Live(Arc::new(current)))
    }

    /// The sets of this source, changed by `change`: filtered, merged with others, or with layers around their tools.
    ///
    /// `change` runs once for each new set, not once for each request. After a change of the set, the layers that it
    /// puts around tools are new ones. So a limit that must outlast changes has to be in the layer, such as tower's
    /// `GlobalConcurrencyLimitLayer`, not into the service that the layer makes.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::tools::{ToolDefinition, ToolSource, Tools, tool_fn};
    ///
    /// let tool = |name| tool_fn(ToolDefinition::new(name), |_call| async { Ok::<_, std::convert::Infallible>("done") });
    /// // `ToolSource::from(&servers)` for the tools of MCP servers.
    /// let company = ToolSource::from(Tools::new([tool("read_page"), tool("delete_page")]));
    /// let readers = company.map(|tools| tools.filter(|tool| tool.definition().name() != "delete_page"));
    /// assert!(readers.current().names().eq(["bmcp_local_read_page"]));
    /// ```
    #[must_use]
    pub fn map(self, change: impl Fn(Tools) -> Tools + Send + Sync + 'static) -> Self {
        match &self.0 {
            Source::Fixed(tools) => change(tools.clone()).into(),
            Source::Live(_) => {
                let mapped = Mapped {
                    source: self,
                    change,
                    last: ArcSwapOption::empty(),
                    changing: Mutex::new(()),
                };
                Self::from_fn(move || mapped.current())
            }
        }
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

impl<F: Fn(Tools) -> Tools> Mapped<F> {
    fn current(&self) -> Tools {
        let tools = self.source.current();
        if let Some(changed) = self.known(&tools) {
            return changed;
        }
        // The lock guards no data that a panic of `change` could leave half done.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(changed) = self.known(&tools) {
            return changed;
        }
        let changed = (self.change)(tools.clone());
        self.last.store(Some(Arc::new((tools, changed.clone()))));
        changed
    }

    fn known(&self, tools: &Tools) -> Option<Tools> {
        let last = self.last.load();
        let (before, after) = &**last.as_ref()?;
        before.is_same(tools).then(|| after.clone())
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

#[cfg(test)]
mod tests;
