//! The contents and the order of sets made from other sets.

use std::convert::Infallible;

use proptest::prelude::*;
use serde_json::json;
use tower::ServiceExt;

use super::super::{Tool, ToolCall, ToolDefinition, Tools, name::tests::tool_sets, tests::tool, tool_fn};

fn says(server: &str, name: &str, words: &'static str) -> Tool {
    let definition = ToolDefinition::new(name).server(server);
    tool_fn(definition, move |_call| async move { Ok::<_, Infallible>(words) })
}

fn origins(tools: &Tools) -> Vec<(&str, &str)> {
    let by_value: Vec<ToolDefinition> = tools
        .clone()
        .into_iter()
        .map(|tool| tool.definition().clone())
        .collect();
    assert!(tools.iter().map(Tool::definition).eq(&by_value));
    tools
        .into_iter()
        .map(|tool| (tool.definition().get_server(), tool.definition().name()))
        .collect()
}

#[test]
fn both_iterators_go_in_name_order_and_know_their_length() {
    let tools = Tools::new([tool("b", "x"), tool("a", "y"), tool("a", "x")]);
    assert_eq!(origins(&tools), [("a", "x"), ("a", "y"), ("b", "x")]);
    let mut by_value = tools.clone().into_iter();
    by_value.next();
    assert_eq!((by_value.len(), tools.iter().len()), (2, 3));
}

#[test]
fn a_filtered_set_holds_what_is_kept() {
    let tools = Tools::new([tool("a", "read"), tool("a", "write"), tool("b", "read")]);
    let read = tools.filter(|tool| tool.definition().name() == "read");
    assert_eq!(origins(&read), [("a", "read"), ("b", "read")]);
    assert!(tools.filter(|_| false).is_empty());
}

#[tokio::test]
async fn a_merged_tool_replaces_the_one_of_its_server_and_name() {
    let mut tools = Tools::new([says("a", "x", "old"), says("b", "x", "other")]);
    tools.extend([says("a", "x", "new"), says("c", "x", "more"), says("c", "x", "last")]);
    let mut said = Vec::new();
    for tool in tools {
        let server = tool.definition().get_server().to_owned();
        let output = tool.oneshot(ToolCall::new("1", "x", json!({}))).await.unwrap();
        said.push((server, output.content().to_owned()));
    }
    let expected = [("a", "new"), ("b", "other"), ("c", "last")];
    assert_eq!(
        said,
        expected.map(|(server, words)| (server.to_owned(), words.to_owned()))
    );
}

#[test]
fn the_first_tools_are_of_all_servers() {
    let many = (0..5).map(|n| tool("many", &format!("t{n}")));
    let tools: Tools = many
        .chain([tool("few", "a"), tool("few", "b"), tool("one", "a")])
        .collect();
    let order: Vec<String> = tools
        .in_turns(|_| true)
        .iter()
        .map(|registered| registered.injected_name().replace("bmcp_", ""))
        .collect();
    assert_eq!(
        order,
        [
            "few_a", "many_t0", "one_a", "few_b", "many_t1", "many_t2", "many_t3", "many_t4"
        ]
    );
}

proptest! {
    #[test]
    fn no_server_is_a_turn_ahead_of_one_that_has_tools_left((tools, _) in tool_sets(), room in 0usize..20) {
        let tools: Tools = tools.iter().map(|(server, name)| tool(server, name)).collect();
        let order = tools.in_turns(|_| true);
        prop_assert_eq!(order.len(), tools.len());
        let count = |registered: &[&super::Registered], server: &str| {
            registered.iter().filter(|registered| registered.definition().get_server() == server).count()
        };
        let taken = &order[..room.min(order.len())];
        for registered in &order {
            let server = registered.definition().get_server();
            if count(taken, server) < count(&order, server) {
                for other in taken {
                    prop_assert!(count(taken, other.definition().get_server()) <= count(taken, server) + 1);
                }
            }
        }
    }
}
