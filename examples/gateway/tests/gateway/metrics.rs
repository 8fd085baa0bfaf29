//! `/metrics` as Prometheus reads it, and the dashboard that reads it from there.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tower_llm_bridge::metrics::{METRICS, Metric, MetricKind};

use crate::harness::{CHAT, Gateway, bytes, command, scratch, within};

const DASHBOARD: &str = include_str!("../../grafana-dashboard.json");

/// The names under which Prometheus keeps a metric.
fn names(metric: &Metric) -> Vec<String> {
    let unit = if metric.unit == "seconds" { "_seconds" } else { "" };
    let name = format!("{}{unit}", metric.name.replace('.', "_"));
    match metric.kind {
        MetricKind::Counter => vec![format!("{name}_total")],
        MetricKind::Histogram => ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")).into(),
        _ => vec![name],
    }
}

/// The names of metrics and labels in a text that begin as ours do.
fn ours(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let ours = words.filter(|word| word.starts_with("gen_ai_") || word.starts_with("llm_bridge_"));
    ours.map(str::to_owned).collect()
}

/// One line of the text format: name, text of the labels, value.
fn sample(line: &str) -> (&str, &str, f64) {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    (name, labels, value.parse().expect(line))
}

async fn collect(gateway: &Gateway) -> String {
    let (head, text) = gateway.ask_admin(Method::GET, "/metrics", &[]).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    text
}

#[tokio::test]
async fn what_the_gateway_does_is_collected_by_its_listed_names() {
    let gateway = Gateway::start(&[]).await;
    assert_eq!(gateway.ask("What time is it?").await.0, StatusCode::OK);
    let text = collect(&gateway).await;
    let known: BTreeSet<String> = METRICS.iter().flat_map(names).collect();
    let samples: Vec<_> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(sample)
        .collect();
    for (name, ..) in &samples {
        assert!(known.contains(*name), "{name} is not listed");
    }
    let value = |name: &str, label: &str| {
        let found = samples
            .iter()
            .filter(|(is, labels, _)| *is == name && labels.contains(label));
        let values: Vec<f64> = found.map(|(_, _, value)| *value).collect();
        assert_eq!(values.len(), 1, "{name} {label}\n{text}");
        values[0]
    };
    assert_eq!(
        value(
            "gen_ai_client_operation_duration_seconds_count",
            "gen_ai_request_model=\"demo\""
        ),
        1.0
    );
    assert_eq!(
        value("gen_ai_client_token_usage_count", "gen_ai_token_type=\"output\""),
        2.0,
        "one for each round"
    );
    assert_eq!(
        value("llm_bridge_tool_calls_total", "gen_ai_tool_name=\"current_time\""),
        1.0
    );
    let openais = "gen_ai_provider_name=\"openai\",state=\"usable\"";
    assert_eq!(value("llm_bridge_keys", openais), 2.0);
    assert_eq!(value("llm_bridge_interceptions_in_flight", ""), 0.0);
    // Records are written a moment later.
    let written = async {
        while !collect(&gateway)
            .await
            .contains("llm_bridge_sink_written_total{sink=\"file\"} 6\n")
        {}
    };
    within(written).await;
    let described = "# HELP llm_bridge_key_attempts_total Calls of the provider with a key of a pool";
    assert!(text.contains(described), "{text}");
    gateway.signal().await;
    assert_eq!(gateway.end().await.0.code(), Some(0));
}

/// An MCP server without tools.
const SERVER: &str = r#"
while read -r message; do
  case "$message" in
    *'"initialize"'*) echo '{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"wiki","version":"1"}}}' ;;
    *'"tools/list"'*) echo '{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}' ;;
  esac
done
"#;

#[tokio::test]
async fn a_tool_server_that_is_up_from_the_start_is_shown_as_up() {
    let script = scratch("sh");
    std::fs::write(&script, SERVER).expect("a file");
    let server = format!("wiki=stdio:sh {}", script.display());
    let gateway = Gateway::start(&["--mcp", &server]).await;
    let text = collect(&gateway).await;
    assert!(
        text.contains("llm_bridge_tool_server_up{tool_server=\"wiki\"} 1\n"),
        "{text}"
    );
    gateway.signal().await;
    assert_eq!(gateway.end().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_thousand_models_take_a_bounded_number_of_lines() {
    let records = scratch("jsonl");
    let mut command = command(&["--listen", "127.0.0.1:0", "--record"]);
    // Nobody reads the log, and a pipe that is full stops its writer.
    command.arg(&records).env("RUST_LOG", "error");
    let gateway = Gateway::spawn(command, records).await;
    let lines = async |from: usize, to: usize| {
        for number in from..to {
            let body = json!({ "model": format!("m{number}"), "messages": [{ "role": "user", "content": "hi" }] });
            gateway.send(Method::POST, CHAT, &[], bytes(body.to_string())).await;
        }
        collect(&gateway).await.lines().count()
    };
    let many = lines(0, 70).await;
    let most = lines(70, 1_000).await;
    assert!(most < many + 10, "{many} lines, then {most}");
    gateway.signal().await;
    assert_eq!(gateway.end().await.0.code(), Some(0));
}

#[test]
fn the_dashboard_reads_every_metric_and_no_other() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut read = BTreeSet::new();
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(target["expr"].as_str().expect("an expression"));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        expressions.extend(variable["definition"].as_str());
    }
    for expression in &expressions {
        let depth = |open, close| expression.matches(open).count() == expression.matches(close).count();
        assert!(depth('(', ')') && depth('{', '}') && depth('[', ']'), "{expression}");
        read.extend(ours(expression));
    }
    let labels = METRICS
        .iter()
        .flat_map(|metric| metric.labels)
        .map(|label| label.replace('.', "_"));
    let known: BTreeSet<String> = METRICS.iter().flat_map(names).chain(labels).collect();
    let unknown: Vec<_> = read.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    for metric in METRICS {
        assert!(
            names(metric).iter().any(|name| read.contains(name)),
            "no panel shows {}",
            metric.name
        );
    }
}
