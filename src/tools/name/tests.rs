//! Names are what the provider checks and what its cache remembers.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
};

use proptest::prelude::*;
use serde_json::json;
use tower::ServiceExt;

use crate::tools::{ToolDefinition, Tools, tests::tool, tool_fn};

fn names(tools: &[(&str, &str)]) -> Vec<String> {
    Tools::new(tools.iter().map(|(server, name)| tool(server, name)))
        .names()
        .map(str::to_owned)
        .collect()
}

#[test]
fn names_are_cleaned_and_cut() {
    for (server, name, expected) in [
        ("local", "get_weather", "bmcp_local_get_weather"),
        ("Local-1", "Get-Weather_2", "bmcp_Local-1_Get-Weather_2"),
        ("a.b", "c d/e", "bmcp_a_b_c_d_e"),
        ("", "", "bmcp__"),
        ("größe", "日本", "bmcp_gr__e___"),
        ("s", "🦀\u{0}\"", "bmcp_s____"),
        ("s", &"x".repeat(57), &format!("bmcp_s_{}", "x".repeat(57))),
        ("s", &"x".repeat(58), &format!("bmcp_s_{}", "x".repeat(57))),
        ("s", &"ß".repeat(100), &format!("bmcp_s_{}", "_".repeat(57))),
    ] {
        assert_eq!(names(&[(server, name)]), [expected]);
    }
}

#[test]
fn colliding_names_get_a_stable_suffix() {
    // The digits are FNV-1a of "a\0b c" and "a\0b.c", computed by another program.
    let expected = ["bmcp_a_b_c_f6c6418f", "bmcp_a_b_c_f6dfd975", "bmcp_a_x"];
    assert_eq!(names(&[("a", "b.c"), ("a", "x"), ("a", "b c")]), expected);
    assert_eq!(names(&[("a", "b c"), ("a", "b.c"), ("a", "x")]), expected);
}

#[test]
fn names_that_collide_when_cut_stay_within_the_limit() {
    let long = "x".repeat(80);
    let names = names(&[("s", &format!("{long}1")), ("s", &format!("{long}2"))]);
    assert_eq!(names.len(), 2);
    assert_ne!(names[0], names[1]);
    for name in names {
        assert_eq!(name.len(), 64);
        assert!(name.starts_with(&format!("bmcp_s_{}_", "x".repeat(48))));
    }
}

#[tokio::test]
async fn the_same_tool_twice_is_callable_twice() {
    let tools = Tools::new(["first", "second"].map(|answer| {
        tool_fn(ToolDefinition::new("t"), move |_call| async move {
            Ok::<_, Infallible>(answer)
        })
    }));
    let mut answers = BTreeSet::new();
    for name in tools.names() {
        let registered = tools.get(name).unwrap();
        let output = registered
            .service()
            .oneshot(registered.call("call_1", json!({})))
            .await
            .unwrap();
        answers.insert(output.content().to_owned());
    }
    assert_eq!(answers, BTreeSet::from(["first".to_owned(), "second".to_owned()]));
}

#[test]
fn a_suffix_yields_to_a_tool_that_is_named_like_it() {
    let suffixed = names(&[("a", "b.c"), ("a", "b c")]);
    let squatter = suffixed[0].strip_prefix("bmcp_a_").unwrap();
    let all = names(&[("a", "b.c"), ("a", "b c"), ("a", squatter)]);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 3);
    let tools = Tools::new([tool("a", "b.c"), tool("a", "b c"), tool("a", squatter)]);
    assert_eq!(tools.get(&suffixed[0]).unwrap().definition().name(), squatter);
}

#[test]
fn colliding_hashes_do_not_make_names_depend_on_order() {
    // FNV-1a gives both the same 32 bits; found by trying.
    let tools = ["/@[<", "]#|("].map(|name| ("a".to_owned(), name.to_owned()));
    let reversed = [tools[1].clone(), tools[0].clone()];
    assert_eq!(by_origin(&tools), by_origin(&reversed));
    let names: Vec<String> = by_origin(&tools).into_values().flatten().collect();
    assert_eq!(names, ["bmcp_a______0045debc", "bmcp_a______0045debd"]);
}

/// Server and name.
pub(in crate::tools) type Origin = (String, String);

/// The same tools in two orders.
pub(in crate::tools) fn tool_sets() -> impl Strategy<Value = (Vec<Origin>, Vec<Origin>)> {
    // Few characters and much length, so that much collides.
    let part = prop_oneof![4 => "[ab_. ]{0,2}", 1 => "[a.]{60,70}", 1 => ".{0,4}"];
    prop::collection::vec((part.clone(), part), 0..24)
        .prop_flat_map(|tools| (Just(tools.clone()), Just(tools).prop_shuffle()))
}

fn by_origin(tools: &[Origin]) -> BTreeMap<Origin, BTreeSet<String>> {
    let tools = Tools::new(tools.iter().map(|(server, name)| tool(server, name)));
    let mut origins: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for name in tools.names() {
        let definition = tools.get(name).unwrap().definition();
        let origin = (definition.get_server().to_owned(), definition.name().to_owned());
        assert!(
            origins.entry(origin).or_default().insert(name.to_owned()),
            "two tools are called {name}"
        );
    }
    origins
}

proptest! {
    #[test]
    fn names_differ_are_valid_and_do_not_depend_on_order((tools, shuffled) in tool_sets()) {
        let origins = by_origin(&tools);
        let all: Vec<&String> = origins.values().flatten().collect();
        prop_assert_eq!(all.len(), tools.len());
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), tools.len());
        for name in all {
            prop_assert!((1..=64).contains(&name.len()));
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)), "{}", name);
        }
        prop_assert_eq!(by_origin(&shuffled), origins);
    }
}
