//! Which of the company's tools one request offers to the model, next to the caller's own.

use std::fmt;

use crate::rope::Rope;
use crate::tools::{Registered, Tools};

/// What all injected names start with.
const PREFIX: &str = "bmcp_";

/// The tools that were injected into one request.
#[derive(Clone)]
pub(crate) struct Offer {
    tools: Tools,
    /// Names like ours that the caller uses for tools of its own.
    taken: Vec<String>,
    /// The first name that the provider's limit left no room for.
    cut: Option<String>,
}

/// Whose a tool call is.
pub(crate) enum Owner<'a> {
    Caller,
    Ours(&'a Registered),
    /// It has the prefix of ours, but the model made it up.
    Nobody,
}

/// Whether a tool of this name can only be an injected one, unless the caller has one of that name itself.
pub(crate) fn is_injected(name: &str) -> bool {
    name.starts_with(PREFIX)
}

// === impl Offer ===

impl Offer {
    pub(crate) fn none() -> Self {
        Self {
            tools: Tools::default(),
            taken: Vec::new(),
            cut: None,
        }
    }

    /// All of `tools` but the `taken`, and at most `room`, in name order.
    pub(crate) fn new(tools: Tools, taken: Vec<String>, room: usize) -> Self {
        let mut offer = Self {
            tools,
            taken,
            cut: None,
        };
        let cut = offer.entries().nth(room).map(|(name, _)| name.to_owned());
        if cut.is_some() {
            let all = offer.entries().count();
            tracing::warn!(
                offered = room,
                left_out = all - room,
                "more tools than the provider takes"
            );
        }
        offer.cut = cut;
        offer
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    fn entries(&self) -> impl Iterator<Item = (&str, bytes::Bytes)> {
        self.tools.entries().filter(|(name, _)| self.offers(name))
    }

    fn offers(&self, name: &str) -> bool {
        !self.taken.iter().any(|taken| taken == name) && self.cut.as_deref().is_none_or(|cut| name < cut)
    }

    /// The definitions, comma-joined; `None` if no tool is left.
    pub(crate) fn encoded(&self) -> Option<Rope> {
        if self.taken.is_empty() && self.cut.is_none() {
            return Some(Rope::from(self.tools.encoded().clone())).filter(|rope| !rope.is_empty());
        }
        let mut rope = Rope::default();
        for (_, definition) in self.entries() {
            if !rope.is_empty() {
                rope.append(",".into());
            }
            rope.push(definition);
        }
        Some(rope).filter(|rope| !rope.is_empty())
    }

    /// Whose the tool of this name is, in this request.
    pub(crate) fn owner(&self, name: &str) -> Owner<'_> {
        if self.is_empty() || !is_injected(name) || self.taken.iter().any(|taken| taken == name) {
            return Owner::Caller;
        }
        self.tools
            .get(name)
            .filter(|_| self.offers(name))
            .map_or(Owner::Nobody, Owner::Ours)
    }

    pub(crate) fn is_callers(&self, name: &str) -> bool {
        matches!(self.owner(name), Owner::Caller)
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries().map(|(name, _)| name)).finish()
    }
}
