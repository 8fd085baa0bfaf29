//! Sets of tools made from other sets: iterated, filtered, merged, and ordered fairly among servers.

use std::{collections::HashMap, slice, sync::Arc};

use super::{Tool, Tools, registry::Registered};

/// The tools of a [`Tools`] set, in name order.
#[derive(Clone, Debug)]
pub struct Iter<'a>(slice::Iter<'a, Registered>);

/// The tools of a [`Tools`] set, in name order, by value.
#[derive(Clone, Debug)]
pub struct IntoIter {
    registered: Arc<[Registered]>,
    next: usize,
}

// === impl Tools ===

impl Tools {
    /// The tools, in the order of the names that the model sees.
    ///
    /// # Examples
    ///
    /// A layer around every tool of one server:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use tower::timeout::TimeoutLayer;
    /// use tower_llm_bridge::tools::{ToolDefinition, Tools, tool_fn};
    ///
    /// let tool = |name, server| {
    ///     let definition = ToolDefinition::new(name).server(server);
    ///     tool_fn(definition, |_call| async { Ok::<_, std::convert::Infallible>("done") })
    /// };
    /// let tools = Tools::new([tool("search", "wiki"), tool("clock", "local")]);
    ///
    /// let short = TimeoutLayer::new(Duration::from_secs(2));
    /// let tools: Tools = tools
    ///     .into_iter()
    ///     .map(|tool| match tool.definition().get_server() {
    ///         "wiki" => tool.layer(&short),
    ///         _ => tool,
    ///     })
    ///     .collect();
    /// assert!(tools.names().eq(["bmcp_local_clock", "bmcp_wiki_search"]));
    /// ```
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.registered().iter())
    }

    /// The set of those tools that `keep` returns true for.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::tools::{ToolDefinition, Tools, tool_fn};
    ///
    /// let tool = |name| tool_fn(ToolDefinition::new(name), |_call| async { Ok::<_, std::convert::Infallible>("done") });
    /// let company = Tools::new([tool("read_page"), tool("delete_page")]);
    /// let readers = company.filter(|tool| tool.definition().name().starts_with("read_"));
    /// assert!(readers.names().eq(["bmcp_local_read_page"]));
    /// ```
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(&Tool) -> bool) -> Self {
        self.iter().filter(|tool| keep(tool)).cloned().collect()
    }

    /// The tools of both sets. A tool of `others` replaces one of the same server and name.
    ///
    /// # Examples
    ///
    /// One user's tool in addition to the company's. In a request's extensions, the merged set replaces the layer's:
    ///
    /// ```
    /// use http::Request;
    /// use tower_llm_bridge::tools::{ToolDefinition, Tools, tool_fn};
    ///
    /// let tool = |name| tool_fn(ToolDefinition::new(name), |_call| async { Ok::<_, std::convert::Infallible>("done") });
    /// let company = Tools::new([tool("search")]);
    ///
    /// let mut request = Request::new(());
    /// request.extensions_mut().insert(company.merge([tool("my_calendar")]));
    /// # let tools = request.extensions().get::<Tools>();
    /// # assert!(tools.is_some_and(|tools| tools.names().eq(["bmcp_local_my_calendar", "bmcp_local_search"])));
    /// ```
    #[must_use]
    pub fn merge(&self, others: impl IntoIterator<Item = Tool>) -> Self {
        let mut merged: Vec<Tool> = self.iter().cloned().collect();
        let origin = |tool: &Tool| {
            let definition = tool.definition();
            (definition.get_server().to_owned(), definition.name().to_owned())
        };
        let mut places: HashMap<_, _> = merged.iter().map(origin).zip(0..).collect();
        for tool in others {
            let place = *places.entry(origin(&tool)).or_insert(merged.len());
            match merged.get_mut(place) {
                Some(replaced) => *replaced = tool,
                None => merged.push(tool),
            }
        }
        merged.into_iter().collect()
    }

    /// Every tool whose name `counts`, one of each server in turn, so that the first few come from several servers.
    ///
    /// For a provider that takes fewer tools than there are. Servers are in name order, and so are the tools of each.
    pub(crate) fn in_turns(&self, counts: impl Fn(&str) -> bool) -> Vec<&Registered> {
        let mut turns: HashMap<&str, usize> = HashMap::new();
        let mut ordered: Vec<(usize, &str, &Registered)> = Vec::with_capacity(self.len());
        for registered in self.registered().iter().filter(|tool| counts(tool.injected_name())) {
            let server = registered.definition().get_server();
            let turn = turns.entry(server).or_default();
            ordered.push((*turn, server, registered));
            *turn += 1;
        }
        ordered.sort_by_key(|&(turn, server, _)| (turn, server));
        ordered.into_iter().map(|(_, _, registered)| registered).collect()
    }

    /// Whether both are clones of one set.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.registered(), other.registered())
    }
}

impl Extend<Tool> for Tools {
    /// Adds tools as [`merge`](Self::merge) does. The definitions are encoded again, so add many at once.
    fn extend<I: IntoIterator<Item = Tool>>(&mut self, tools: I) {
        *self = self.merge(tools);
    }
}

impl<'a> IntoIterator for &'a Tools {
    type Item = &'a Tool;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl IntoIterator for Tools {
    type Item = Tool;
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter {
            registered: Arc::clone(self.registered()),
            next: 0,
        }
    }
}

// === impl Iter ===

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Tool;

    fn next(&mut self) -> Option<&'a Tool> {
        self.0.next().map(Registered::tool)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

// === impl IntoIter ===

impl Iterator for IntoIter {
    type Item = Tool;

    fn next(&mut self) -> Option<Tool> {
        let registered = self.registered.get(self.next)?;
        self.next += 1;
        Some(registered.tool().clone())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.registered.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for IntoIter {}

#[cfg(test)]
mod tests;
