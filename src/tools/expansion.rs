//! How much a JSON schema costs once its references are followed. Two kilobytes of nested references can expand to
//! gigabytes, so a schema is measured before anything follows its references.

use serde_json::Value;

/// Schema objects of an expanded schema.
const MAX_NODES: usize = 10_000;
/// Levels of nesting in an expanded schema. A validator follows references recursively.
const MAX_DEPTH: usize = 128;

/// The result of following the references of a schema, each of them once on every path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expansion {
    /// Schema objects, at most one more than the limit.
    pub(super) nodes: usize,
    /// Values that schema objects compare with: those of `enum`, names of `required`.
    pub(super) compared: usize,
    /// References to a schema that contains them.
    pub(super) recursive: usize,
    /// Whether the limits are exceeded. The counts are incomplete then.
    pub(super) is_too_large: bool,
    /// Whether it cannot be followed safely: a reference is neither `#` nor a pointer, the base of pointers changes
    /// half-way, or a schema refers to itself without a step into the value.
    pub(super) is_opaque: bool,
}

struct Walk<'a> {
    root: &'a Value,
    /// The targets of the references that were followed to the current schema, and the step count at each.
    path: Vec<(&'a Value, usize)>,
    /// Steps into the value, such as into a property, on the current path.
    steps: usize,
    found: Expansion,
}

/// Whether the tool may be offered: one whose schema expands beyond the limit may not.
#[cfg(feature = "mcp")]
pub(crate) fn is_within_expansion_limit(definition: &super::ToolDefinition) -> bool {
    definition
        .get_parameters()
        .is_none_or(|schema| !Expansion::of(schema).is_too_large)
}

// === impl Expansion ===

impl Expansion {
    /// Stops at the limits, so it costs no more than they allow, whatever the schema.
    pub(super) fn of(schema: &Value) -> Self {
        let mut walk = Walk {
            root: schema,
            path: vec![(schema, 0)],
            steps: 0,
            found: Self::default(),
        };
        walk.schema(schema, 0);
        walk.found
    }

    /// An upper bound of the schema objects that are evaluated for `value`.
    ///
    /// Each value is evaluated at most once for each schema object that leads to it. Without recursion, these are the
    /// nodes. Recursive references multiply them, once for each level of the value.
    pub(super) fn cost(&self, value: &Value) -> usize {
        let (values, depth) = measure(value);
        let unrolled = match self.recursive {
            0 => 1,
            1 => depth + 1,
            branches => branches.saturating_pow(u32::try_from(depth + 1).unwrap_or(u32::MAX)),
        };
        let evaluated = self.nodes.saturating_add(self.compared);
        evaluated.saturating_mul(unrolled).saturating_mul(values)
    }
}

/// Bytes of a string that cost as much as one evaluation: patterns and lengths pass all of it.
const STRING_STEP: usize = 32;

/// The number of values in `value`, long strings counted by their length, and its depth. Arguments were read by a parser that bounds their depth.
fn measure(value: &Value) -> (usize, usize) {
    let inner: Vec<(usize, usize)> = match value {
        Value::Array(items) => items.iter().map(measure).collect(),
        Value::Object(members) => members.values().map(measure).collect(),
        Value::String(text) => return (1 + text.len() / STRING_STEP, 0),
        _ => return (1, 0),
    };
    let values = inner.iter().map(|(values, _)| values).sum::<usize>();
    let depth = inner.iter().map(|(_, depth)| depth + 1).max().unwrap_or(0);
    (values + 1, depth)
}

// === impl Walk ===

impl<'a> Walk<'a> {
    fn schema(&mut self, schema: &'a Value, depth: usize) {
        let Some(members) = schema.as_object().filter(|_| !self.found.is_too_large) else {
            return;
        };
        self.found.nodes += 1;
        self.found.is_too_large |= self.found.nodes > MAX_NODES || depth > MAX_DEPTH;
        for (keyword, value) in members {
            match keyword.as_str() {
                "$ref" => self.reference(value, depth),
                "$dynamicRef" | "$recursiveRef" => self.found.is_opaque = true,
                // The base of the pointers below it. `id` is its name in old drafts.
                "$id" | "id" if depth > 0 && value.is_string() => self.found.is_opaque = true,
                "properties" | "patternProperties" => self.steps_into(value.as_object(), depth),
                "dependentSchemas" | "dependencies" => {
                    for schema in value.as_object().into_iter().flat_map(|schemas| schemas.values()) {
                        self.schema(schema, depth + 1);
                    }
                }
                "enum" | "const" | "required" | "dependentRequired" => self.found.compared += measure(value).0,
                // Reached by references alone, or no schemas.
                "$defs" | "definitions" | "default" | "examples" => {}
                "items"
                | "prefixItems"
                | "additionalItems"
                | "unevaluatedItems"
                | "contains"
                | "additionalProperties"
                | "unevaluatedProperties"
                | "propertyNames" => {
                    self.steps += 1;
                    self.schemas(value, depth);
                    self.steps -= 1;
                }
                _ => self.schemas(value, depth),
            }
        }
    }

    fn steps_into(&mut self, schemas: Option<&'a serde_json::Map<String, Value>>, depth: usize) {
        self.steps += 1;
        for schema in schemas.into_iter().flat_map(|schemas| schemas.values()) {
            self.schema(schema, depth + 1);
        }
        self.steps -= 1;
    }

    /// One schema, or an array of them.
    fn schemas(&mut self, value: &'a Value, depth: usize) {
        match value {
            Value::Array(schemas) => {
                for schema in schemas {
                    self.schema(schema, depth + 1);
                }
            }
            _ => self.schema(value, depth + 1),
        }
    }

    fn reference(&mut self, reference: &Value, depth: usize) {
        let target = reference
            .as_str()
            .and_then(|reference| reference.strip_prefix('#'))
            .filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))
            // Percent signs would have to be decoded first; names that need them are not supported.
            .filter(|pointer| !pointer.contains('%'))
            .and_then(|pointer| self.root.pointer(pointer));
        let Some(target) = target else {
            self.found.is_opaque = true;
            return;
        };
        let entered = self.path.iter().find(|(entered, _)| std::ptr::eq(*entered, target));
        if let Some(&(_, steps)) = entered {
            self.found.recursive += 1;
            self.found.is_opaque |= steps == self.steps;
            return;
        }
        self.path.push((target, self.steps));
        self.schema(target, depth + 1);
        self.path.pop();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// `levels` definitions, each with `branches` references to the next.
    pub(in super::super) fn nested(levels: usize, branches: usize, keyword: &str) -> Value {
        let mut definitions = serde_json::Map::new();
        for level in 0..levels {
            let next = json!({ "$ref": format!("#/$defs/d{}", level + 1) });
            definitions.insert(format!("d{level}"), json!({ keyword: vec![next; branches] }));
        }
        definitions.insert(format!("d{levels}"), json!({ "type": "integer" }));
        json!({ "type": "object", "properties": { "n": { "$ref": "#/$defs/d0" } }, "$defs": definitions })
    }

    #[test]
    fn nodes_are_counted_as_often_as_they_are_referred_to() {
        let expansion = |schema| Expansion::of(&schema);
        assert_eq!(expansion(json!(true)).nodes, 0);
        assert_eq!(expansion(json!({ "type": "object" })).nodes, 1);
        // The root, the property, and 1 + 2 × (1 + 2 × (1 + 1)) behind it, where each reference is a node of its own.
        assert_eq!(expansion(nested(1, 2, "anyOf")).nodes, 7);
        assert_eq!(expansion(nested(2, 2, "anyOf")).nodes, 15);
        assert_eq!(
            expansion(json!({ "enum": [{}, {}], "$defs": { "unused": {} } })).nodes,
            1
        );
    }

    #[test]
    fn options_and_long_strings_cost() {
        let options: Vec<usize> = (0..5_000).collect();
        let schema = json!({ "properties": { "list": { "items": { "enum": options } } }, "required": ["list"] });
        let expansion = Expansion::of(&schema);
        assert!(expansion.compared > 5_000);
        let list: Vec<usize> = vec![4_999; 5_000];
        assert!(expansion.cost(&json!({ "list": list })) > 25_000_000);
        let text = "x".repeat(1 << 20);
        let pattern = json!({ "properties": { "text": { "pattern": "x$" } } });
        assert!(Expansion::of(&pattern).cost(&json!({ "text": text })) > 1 << 15);
    }

    #[test]
    fn an_exponential_schema_is_found_out_at_once() {
        for keyword in ["anyOf", "allOf", "oneOf", "items", "unknown"] {
            let schema = nested(24, 2, keyword);
            assert!(schema.to_string().len() < 2_500);
            let expansion = Expansion::of(&schema);
            assert!(expansion.is_too_large, "{keyword}");
            assert!(expansion.nodes <= MAX_NODES + 1);
        }
        assert!(Expansion::of(&nested(MAX_DEPTH, 1, "allOf")).is_too_large);
        assert!(!Expansion::of(&nested(40, 1, "allOf")).is_too_large);
        let flat: serde_json::Map<_, _> = (0..=MAX_NODES).map(|n| (n.to_string(), json!({}))).collect();
        assert!(Expansion::of(&json!({ "properties": flat })).is_too_large);
    }

    #[test]
    fn recursion_is_counted_and_ends() {
        let tree = json!({ "properties": { "children": { "items": { "$ref": "#" } } } });
        let expansion = Expansion::of(&tree);
        assert_eq!((expansion.recursive, expansion.is_opaque), (1, false));
        let filter = json!({ "$ref": "#/$defs/filter", "$defs": { "filter": { "properties": {
            "and": { "items": { "$ref": "#/$defs/filter" } },
            "or": { "items": { "$ref": "#/$defs/filter" } },
            "not": { "$ref": "#/$defs/filter" },
        } } } });
        let expansion = Expansion::of(&filter);
        assert_eq!((expansion.recursive, expansion.is_opaque), (3, false));
        let shallow = json!({ "and": [{ "not": {} }, {}] });
        assert!(expansion.cost(&shallow) < 10_000, "{}", expansion.cost(&shallow));
        let mut deep = json!({});
        for _ in 0..60 {
            deep = json!({ "not": deep });
        }
        assert!(expansion.cost(&deep) > 1 << 40);
    }

    #[test]
    fn what_cannot_be_followed_is_opaque() {
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "$ref": "#/$defs/a", "$defs": { "a": { "allOf": [{ "$ref": "#/$defs/a" }] } } }),
            // A definition named `items` is not a step into an array.
            json!({ "dependentSchemas": { "items": { "$ref": "#" } } }),
            json!({ "$ref": "https://example.com/schema.json" }),
            json!({ "$ref": "#name", "$defs": { "a": { "$anchor": "name" } } }),
            json!({ "$ref": "#/$defs/missing" }),
            json!({ "properties": { "a": { "$id": "other", "$ref": "#/$defs/b" } }, "$defs": { "b": {} } }),
            json!({ "$dynamicRef": "#a" }),
            json!({ "$ref": 7 }),
        ] {
            assert!(Expansion::of(&schema).is_opaque, "{schema}");
        }
        let plain = json!({ "$id": "https://example.com/a", "properties": { "id": { "type": "string" }, "$ref": {} } });
        assert_eq!(
            Expansion::of(&plain),
            Expansion {
                nodes: 3,
                ..Expansion::default()
            }
        );
    }

    proptest! {
        #[test]
        fn no_schema_costs_more_than_the_limit(targets in prop::collection::vec((0_usize..8, 0_usize..8, 0_u8..4), 1..8)) {
            let mut definitions = serde_json::Map::new();
            for (name, (first, second, kind)) in targets.into_iter().enumerate() {
                let (first, second) = (format!("#/$defs/{first}"), format!("#/$defs/{second}"));
                let keyword = ["anyOf", "properties", "items", "allOf"][usize::from(kind)];
                let both = json!([{ "$ref": first }, { "$ref": second }]);
                let both = if kind == 1 { json!({ "a": both[0], "b": both[1] }) } else { both };
                definitions.insert(name.to_string(), json!({ keyword: both }));
            }
            let expansion = Expansion::of(&json!({ "$ref": "#/$defs/0", "$defs": definitions }));
            prop_assert!(expansion.nodes <= MAX_NODES + 1);
        }
    }
}
