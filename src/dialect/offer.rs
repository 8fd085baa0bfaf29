//! Which of the company's tools one request offers to the model, together with the caller's own.

use std::fmt;

use serde_json::{Map, Value, json};

use super::turn::Owner;
use crate::metrics::{Limit, refused};
use crate::rope::Rope;
use crate::tools::{PREFIX, Registered, ToolDefinition, Tools};
use crate::types::Dialect;

/// The longest name that is looked up among ours, in bytes: the longest that any API accepts, and twice the longest of
/// ours.
const MAX_NAME: usize = 128;

/// Appends the JSON of one injected tool: its name, then its definition.
pub(crate) type Define = fn(&str, &ToolDefinition, &mut String);

/// The tools that were injected into one request.
#[derive(Clone, Default)]
pub(crate) struct Offer {
    tools: Tools,
    /// The sorted names with our prefix that the caller uses for its own tools.
    taken: Vec<String>,
    /// The sorted names for which the provider's limit left no room.
    left_out: Vec<String>,
    /// Whether any tool is left.
    offers_any: bool,
}

/// Whether a tool of this name can only be an injected one, unless the caller has one of that name itself.
pub(crate) fn is_injected(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// A tool's whole schema, which describes an object. OpenAI refuses an object schema without `properties`, which JSON
/// schema and MCP allow: there it gets empty ones, which mean the same.
pub(crate) fn object_schema(schema: Option<&Value>) -> String {
    match schema.and_then(Value::as_object) {
        None => json!({ "type": "object", "properties": {} }).to_string(),
        Some(schema) if schema.is_empty() => object_schema(None),
        Some(schema) if is_bare_object(schema) => {
            let mut schema = schema.clone();
            schema.insert("properties".to_owned(), Value::Object(Map::new()));
            Value::Object(schema).to_string()
        }
        Some(_) => schema.map(Value::to_string).unwrap_or_default(),
    }
}

fn is_bare_object(schema: &Map<String, Value>) -> bool {
    schema.get("type").is_some_and(|kind| kind == "object") && !schema.contains_key("properties")
}

fn is_in(sorted: &[String], name: &str) -> bool {
    sorted.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
}

// === impl Offer ===

impl Offer {
    /// All of `tools` except those in `taken`. If there is not `room` for all, the servers take turns, so that a large
    /// one leaves room for the others.
    pub(crate) fn new(tools: Tools, mut taken: Vec<String>, room: usize) -> Self {
        taken.retain(|name| name.len() <= MAX_NAME);
        taken.sort_unstable();
        taken.dedup();
        let mut offer = Self {
            tools,
            taken,
            left_out: Vec::new(),
            offers_any: false,
        };
        let all = offer.names().count();
        if all > room {
            tracing::warn!(
                offered = room,
                left_out = all - room,
                "more tools than the provider takes"
            );
            refused(Limit::OfferedTools);
            let in_turns = offer.tools.in_turns(|name| offer.offers(name)).into_iter();
            let names = in_turns.map(Registered::injected_name);
            let mut left_out: Vec<String> = names.skip(room).map(str::to_owned).collect();
            left_out.sort_unstable();
            offer.left_out = left_out;
        }
        offer.offers_any = all.min(room) > 0;
        offer
    }

    /// Whether no tool is offered.
    pub(crate) fn is_empty(&self) -> bool {
        !self.offers_any
    }

    /// The injected names, in name order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tools.names().filter(|name| self.offers(name))
    }

    fn offers(&self, name: &str) -> bool {
        !is_in(&self.taken, name) && !is_in(&self.left_out, name)
    }

    /// The definitions in one dialect, with commas between them; `None` if no tool is offered.
    pub(crate) fn encoded(&self, dialect: Dialect, define: Define) -> Option<Rope> {
        if self.is_empty() {
            return None;
        }
        let encoding = self.tools.encoding(dialect, define);
        let rope = if self.taken.is_empty() && self.left_out.is_empty() {
            Rope::from(encoding.all())
        } else {
            let mut rope = Rope::default();
            for (name, definition) in self.tools.names().zip(encoding.parts()) {
                if self.offers(name) {
                    if !rope.is_empty() {
                        rope.append(",".into());
                    }
                    rope.push(definition);
                }
            }
            rope
        };
        Some(rope)
    }

    /// The owner of the tool with this name, in this request.
    pub(crate) fn owner(&self, name: &str) -> Owner {
        if self.is_empty() || !is_injected(name) || name.len() > MAX_NAME || is_in(&self.taken, name) {
            return Owner::Caller;
        }
        match self.tools.get(name).filter(|_| self.offers(name)) {
            Some(tool) => Owner::Ours(tool.clone()),
            None => Owner::Nobody,
        }
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Offer, object_schema};
    use crate::tools::{Tool, ToolDefinition, Tools, tool_fn};

    fn tool(server: &str, name: String) -> Tool {
        let definition = ToolDefinition::new(name).server(server);
        tool_fn(definition, |_call| async { Ok::<_, std::convert::Infallible>("") })
    }

    #[test]
    fn a_large_server_leaves_room_for_the_others() {
        let large = (0..9).map(|n| tool("a", format!("t{n}")));
        let tools: Tools = large.chain((0..3).map(|n| tool("b", format!("t{n}")))).collect();
        let names = |taken: &[&str], room| -> Vec<String> {
            let taken = taken.iter().map(|name| (*name).to_owned()).collect();
            let offer = Offer::new(tools.clone(), taken, room);
            assert_eq!(offer.is_empty(), offer.names().next().is_none());
            offer.names().map(|name| name.replace("bmcp_", "")).collect()
        };
        assert_eq!(names(&[], 4), ["a_t0", "a_t1", "b_t0", "b_t1"]);
        assert_eq!(names(&["bmcp_b_t0"], 4), ["a_t0", "a_t1", "b_t1", "b_t2"]);
        assert_eq!(names(&[], 7), ["a_t0", "a_t1", "a_t2", "a_t3", "b_t0", "b_t1", "b_t2"]);
        assert_eq!(names(&[], 12).len(), 12);
        assert_eq!(names(&[], 0), [""; 0]);
    }

    #[test]
    fn an_object_schema_always_has_properties() {
        let empty = r#"{"properties":{},"type":"object"}"#;
        for schema in [
            None,
            Some(json!({})),
            Some(json!({"type": "object"})),
            Some(json!(true)),
        ] {
            assert_eq!(object_schema(schema.as_ref()), empty, "{schema:?}");
        }
        let whole = json!({"type": "object", "properties": {"a": {"type": "string"}}, "$defs": {"x": {}}});
        assert_eq!(object_schema(Some(&whole)), whole.to_string());
    }
}
