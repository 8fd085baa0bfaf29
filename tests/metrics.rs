//! The metrics that operators see: names, labels and values, and that labels are bounded.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, header};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use metrics_util::{CompositeKey, MetricKind as Kind};
use serde_json::json;
use support::*;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_llm_bridge::Actor;
use tower_llm_bridge::mcp::{McpServer, McpServers};
use tower_llm_bridge::metrics::{METRICS, MetricKind, describe};
use tower_llm_bridge::pool::KeyPool;
use tower_llm_bridge::record::price::{OwnPrices, Rates};
use tower_llm_bridge::record::{Recorder, sql::SqliteSink};
use tower_llm_bridge::tools::{ToolCall, ToolDefinition, Tools, tool_fn};

/// One metric with one set of labels.
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    /// The sum of a counter, the level of a gauge, or all values of a histogram.
    values: Vec<f64>,
}

struct Measured(Vec<Series>);

// === impl Measured ===

impl Measured {
    /// Everything that was reported since the last call.
    fn take(snapshotter: &Snapshotter) -> Self {
        let series = |(key, _, _, value): (CompositeKey, _, _, DebugValue)| Series {
            name: key.key().name().to_owned(),
            labels: key
                .key()
                .labels()
                .map(|label| (label.key().to_owned(), label.value().to_owned()))
                .collect(),
            values: match value {
                DebugValue::Counter(count) => vec![count as f64],
                DebugValue::Gauge(level) => vec![*level],
                DebugValue::Histogram(values) => values.into_iter().map(|value| *value).collect(),
            },
        };
        Self(snapshotter.snapshot().into_vec().into_iter().map(series).collect())
    }

    /// The values of the one series with this name and these labels.
    fn of(&self, name: &str, labels: &[(&str, &str)]) -> &[f64] {
        let has =
            |series: &Series, (label, value): &(&str, &str)| series.labels.get(*label).is_some_and(|is| is == value);
        let mut found = self
            .0
            .iter()
            .filter(|series| series.name == name && labels.iter().all(|label| has(series, label)));
        let series = found.next().unwrap_or_else(|| panic!("no {name} with {labels:?}"));
        assert!(found.next().is_none(), "several {name} with {labels:?}");
        &series.values
    }

    /// The values of this label.
    fn label(&self, label: &str) -> BTreeSet<&str> {
        let values = self.0.iter().filter_map(|series| series.labels.get(label));
        values.map(String::as_str).collect()
    }
}

fn ask_model(model: &str) -> Request<MockBody> {
    let messages = json!([{"role": "user", "content": "hi"}]);
    chat(json!({ "model": model, "messages": messages }).to_string())
}

/// A layer with all parts, and the events that keep its recorder open.
fn layer() -> (BridgeLayer, tower_llm_bridge::record::Events) {
    let (recorder, events) = Recorder::channel(8);
    let rates = Rates::per_million("100000", "1000000", "EUR").expect("amounts");
    let recorder = recorder.price(OwnPrices::new().model("gpt-4o-2024-08-06", rates));
    let layer = BridgeLayer::new().pool(pool(2)).recorder(recorder);
    (layer.tools(Tools::new([echo()])), events)
}

#[tokio::test(start_paused = true)]
async fn one_conversation_is_measured_in_all_its_parts() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let slow = tool_fn(
        ToolDefinition::new("slow").server("here"),
        |call: ToolCall| async move {
            sleep(Duration::from_secs(7)).await;
            Ok::<_, std::convert::Infallible>(call.arguments().clone())
        },
    );
    let (layer, mut events) = layer();
    let layer = layer.tools(Tools::new([slow]));
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}});
    let replies = [
        Reply::rate_limited(Some("20")).after(Duration::from_secs(1)),
        Reply::ok(with_usage(&tool_call("bmcp_here_slow", "{}"), usage)).after(Duration::from_secs(2)),
        Reply::ok(completion("done")).after(Duration::from_secs(3)),
    ];
    let mut request = ask("hi");
    request.extensions_mut().insert(Actor::new("ann@example.org"));
    let (_, answer) = converse(&layer, request, replies).await;
    assert_eq!(answer.status, 200);

    let measured = Measured::take(&snapshotter);
    let model = ("gen_ai.request.model", "gpt-4o");
    let tokens = |kind| measured.of("gen_ai.client.token.usage", &[model, ("gen_ai.token.type", kind)]);
    assert_eq!(
        (tokens("input"), tokens("output")),
        (&[10.0, 10.0][..], &[2.0, 5.0][..])
    );
    assert_eq!(
        measured.of("llm_bridge.cache.tokens", &[model, ("class", "read")]),
        [4.0]
    );
    let euros = [model, ("currency", "EUR"), ("gen_ai.provider.name", "openai")];
    assert_eq!(measured.of("llm_bridge.cost", &euros), [3.0, 6.0], "of each round");
    let completed = [model, ("outcome", "completed"), ("gen_ai.provider.name", "openai")];
    assert_eq!(measured.of("gen_ai.client.operation.duration", &completed), [13.0]);
    let overhead = measured.of("llm_bridge.overhead", &[("llm_bridge.dialect", "chat_completions")]);
    assert_eq!(overhead, [0.0], "neither the provider's time nor the tool's is ours");
    let hint = ("credential_hint", "sk-f...cdef");
    assert_eq!(
        measured.of("llm_bridge.key.attempts", &[hint, ("outcome", "cooled_down")]),
        [1.0]
    );
    let transition = [hint, ("scope", "model"), ("state", "cooling_down")];
    assert_eq!(measured.of("llm_bridge.key.transitions", &transition), [1.0]);
    let other = ("credential_hint", "sk-s...cdef");
    assert_eq!(
        measured.of("llm_bridge.key.attempts", &[other, ("outcome", "accepted")]),
        [2.0]
    );
    let called = [
        ("tool_server", "here"),
        ("gen_ai.tool.name", "slow"),
        ("outcome", "succeeded"),
    ];
    assert_eq!(measured.of("llm_bridge.tool.calls", &called), [1.0]);
    assert_eq!(measured.of("llm_bridge.tool.call.duration", &called[..1]), [7.0]);
    assert_eq!(measured.of("llm_bridge.interceptions.in_flight", &[]), [0.0]);
    assert_eq!(
        measured.of("llm_bridge.recorder.free_places", &[]),
        [7.0],
        "its events were not received"
    );
    drain(&mut events);
    assert_eq!(
        Measured::take(&snapshotter).of("llm_bridge.recorder.free_places", &[]),
        [8.0]
    );
    let printed: Vec<&String> = measured.0.iter().flat_map(|series| series.labels.values()).collect();
    assert!(
        !printed
            .iter()
            .any(|value| value.contains("ann") || KEYS.contains(&value.as_str())),
        "{printed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn every_metric_is_in_the_table_with_its_labels_and_unit() {
    let recorder = Arc::new(DebuggingRecorder::new());
    let snapshotter = recorder.snapshotter();
    // Global as well, because a sink reports on its own threads.
    metrics::set_global_recorder(Arc::clone(&recorder)).expect("no other test sets one");
    let _installed = metrics::set_default_local_recorder(&recorder);
    describe();
    let (layer, events) = layer();
    let layer = layer.pool(pool(1)).max_model_name(10);
    let folder = std::env::temp_dir().join(format!("metrics-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let spool = folder.join("spool");
    std::fs::write(&spool, "not an event\n").expect("a file");
    let sink = SqliteSink::open(folder.join("records.db")).expect("a database");
    let sink = std::thread::spawn(move || sink.spool(spool).run(events));
    let wiki = McpServer::stream("wiki", || async { Ok(tokio::io::empty()) });
    let servers = McpServers::connect([wiki], []).expect("a set of servers");
    let usage = r#"{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}"#;
    let stream = format!("{CHUNK}data: {{\"id\":\"a\",\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n");
    let replies = [
        Reply::ok(tool_call(ECHO, "{}")),
        completion("done").into(),
        Reply::events(stream),
        Reply::rate_limited(None),
    ];
    let pooled = KeyPool::from_secrets(["sk-published-0123456789"]).expect("a pool");
    pooled.publish_metrics("openai");
    let stack = bridge(&layer, &Provider::queue(replies));
    assert_eq!(send(&stack, ask("hi")).await.status, 200);
    assert_eq!(send(&stack, ask_streamed("hi")).await.status, 200);
    assert_eq!(send(&stack, ask("hi")).await.status, 429);
    assert_eq!(send(&stack, ask_model("a-model-with-a-long-name")).await.status, 400);
    drop((layer, stack, servers));
    sink.join().expect("no panic").expect("everything is stored");
    std::fs::remove_dir_all(&folder).expect("the folder goes");

    let snapshot = snapshotter.snapshot().into_vec();
    let mut seen = BTreeSet::new();
    for (key, unit, help, _) in &snapshot {
        let name = key.key().name();
        let listed = METRICS.iter().find(|metric| metric.name == name);
        let listed = listed.unwrap_or_else(|| panic!("{name} is not in the table"));
        let labels: Vec<&str> = key.key().labels().map(metrics::Label::key).collect();
        assert_eq!(labels, listed.labels, "{name}");
        assert_eq!(unit.map(|unit| unit.as_str()), Some(listed.unit), "{name}");
        assert_eq!(help.as_deref(), Some(listed.help));
        let kind = match key.kind() {
            Kind::Counter => MetricKind::Counter,
            Kind::Gauge => MetricKind::Gauge,
            Kind::Histogram => MetricKind::Histogram,
        };
        assert_eq!(kind, listed.kind, "{name}");
        seen.insert(name);
    }
    let listed = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(seen, listed, "every metric of the table was reported");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_models_have_a_bounded_number_of_labels() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let layer = BridgeLayer::new().pool(pool(1));
    let provider = Provider::answering(|seen| match seen.text().contains("junk") {
        true => Reply::error(404, "model_not_found"),
        false => completion("hi").into(),
    });
    // Clones share the labels.
    let stacks = [
        bridge(&layer, &provider),
        bridge(&layer.clone().provider("openai"), &provider),
    ];
    for number in 0..10_000 {
        let (model, status) = match number < 5_000 {
            // Model names that no provider knows use up no labels.
            true => (format!("junk-{number}"), 404),
            false => (format!("model-{number}"), 200),
        };
        assert_eq!(send(&stacks[number % 2], ask_model(&model)).await.status, status);
    }
    let measured = Measured::take(&snapshotter);
    let models = measured.label("gen_ai.request.model");
    assert_eq!(models.len(), 64 + 1, "{models:?}");
    assert!(models.contains("other") && models.contains("model-5000") && models.contains("model-5063"));
    assert!(!models.iter().any(|model| model.contains("junk")), "{models:?}");
    let other = [("gen_ai.request.model", "other"), ("outcome", "completed")];
    assert_eq!(
        measured.of("gen_ai.client.operation.duration", &other).len(),
        5_000 - 64
    );
    let failed = [("gen_ai.request.model", "other"), ("outcome", "upstream_error")];
    assert_eq!(measured.of("gen_ai.client.operation.duration", &failed).len(), 5_000);
    assert!(measured.0.len() < 64 * 4 + 20, "{} series", measured.0.len());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_ends_too() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let gate = Gate::new();
    let provider = Provider::queue([Reply::ok(completion("late")).gate(&gate)]);
    let stack = bridge(&BridgeLayer::new().pool(pool(1)), &provider);
    let asked = tokio::time::timeout(Duration::from_secs(5), stack.oneshot(ask("hi")));
    assert!(asked.await.is_err());
    let measured = Measured::take(&snapshotter);
    assert_eq!(measured.of("llm_bridge.interceptions.in_flight", &[]), [0.0]);
    let cancelled = [("outcome", "cancelled"), ("gen_ai.request.model", "other")];
    assert_eq!(measured.of("gen_ai.client.operation.duration", &cancelled), [5.0]);
    assert_eq!(
        measured.of("llm_bridge.key.attempts", &[("outcome", "unanswered")]),
        [1.0]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_the_time_to_its_first_part() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let done =
        "data: {\"id\":\"a\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let reply = Reply::events(format!("{CHUNK}{done}")).after(Duration::from_secs(2));
    let (_, answer) = converse(&BridgeLayer::new().pool(pool(1)), ask_streamed("hi"), [reply]).await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/event-stream; charset=utf-8");
    let measured = Measured::take(&snapshotter);
    let model = [("gen_ai.request.model", "gpt-4o")];
    assert_eq!(measured.of("gen_ai.server.time_to_first_token", &model), [2.0]);
    assert_eq!(measured.of("llm_bridge.overhead", &[]), [0.0]);
}
