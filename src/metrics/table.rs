//! All metrics as data, for recorders that want to know them beforehand.

use metrics::{KeyName, SharedString, Unit};

use super::names::{self, label};

/// The type of a metric.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::metrics::{METRICS, MetricKind};
///
/// assert!(METRICS.iter().any(|metric| metric.kind == MetricKind::Gauge));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// A sum that only grows.
    Counter,
    /// A value that rises and falls.
    Gauge,
    /// A distribution.
    Histogram,
}

/// One metric; [`METRICS`] has them all.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::metrics::METRICS;
///
/// let usage = METRICS.iter().find(|metric| metric.name == "gen_ai.client.token.usage");
/// assert!(usage.is_some_and(|usage| usage.labels.contains(&"gen_ai.token.type")));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name in the facade. Exporters for Prometheus write `_` for each `.`.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// `count` or `seconds`.
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// Its meaning, in one sentence.
    pub help: &'static str,
    /// The upper bounds of a histogram's buckets, those that OpenTelemetry advises where it does; else none.
    pub buckets: &'static [f64],
}

const TOKENS: &[f64] = &[
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0,
    67108864.0,
];
const COST: &[f64] = &[
    0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0,
];
const OPERATION: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
];
const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
];
const SHORT: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 1.0, 5.0,
];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind: MetricKind::Counter,
        unit: "count",
        labels,
        help,
        buckets: &[],
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        kind: MetricKind::Gauge,
        ..counter(name, labels, help)
    }
}

const fn seconds(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    buckets: &'static [f64],
) -> Metric {
    Metric {
        kind: MetricKind::Histogram,
        unit: "seconds",
        buckets,
        ..counter(name, labels, help)
    }
}

/// Every metric of this crate, as the [module docs](super) list them.
pub const METRICS: &[Metric] = &[
    Metric {
        unit: "count",
        ..seconds(
            names::TOKEN_USAGE,
            &[label::OPERATION, label::PROVIDER, label::MODEL, label::TOKEN_TYPE],
            "Tokens of one round; the input includes what the provider's cache held.",
            TOKENS,
        )
    },
    seconds(
        names::OPERATION_DURATION,
        &[label::OPERATION, label::PROVIDER, label::MODEL, label::OUTCOME],
        "Time from the admission of a request to its end, all rounds included.",
        OPERATION,
    ),
    seconds(
        names::TIME_TO_FIRST_TOKEN,
        &[label::OPERATION, label::PROVIDER, label::MODEL],
        "Time from the admission of a streamed request to the first part of its answer.",
        FIRST_TOKEN,
    ),
    counter(
        names::CACHE_TOKENS,
        &[label::PROVIDER, label::MODEL, label::CLASS],
        "Input tokens that the provider read from its prompt cache, or wrote to it.",
    ),
    Metric {
        unit: "count",
        ..seconds(
            names::COST,
            &[label::PROVIDER, label::MODEL, label::CURRENCY],
            "Cost of one round, in units of the currency; rounds without a price are left out.",
            COST,
        )
    },
    seconds(
        names::OVERHEAD,
        &[label::PROVIDER, label::DIALECT],
        "Time from a whole request to its answer, or to the first part of a stream, less the time of the inner service \
         and of tools.",
        SHORT,
    ),
    gauge(names::IN_FLIGHT, &[], "Requests that were admitted and have not ended."),
    gauge(
        names::FREE_PLACES,
        &[],
        "Interceptions that the recorder would admit now.",
    ),
    gauge(
        names::KEYS,
        &[label::PROVIDER, label::STATE],
        "Keys by state, when they were last published.",
    ),
    counter(
        names::KEY_ATTEMPTS,
        &[label::HINT, label::OUTCOME],
        "Calls of the provider with a key of a pool, by what the answer said about the key.",
    ),
    counter(
        names::KEY_TRANSITIONS,
        &[label::HINT, label::SCOPE, label::STATE],
        "Changes of what rests: a model in a key's domain, the whole domain, or the key.",
    ),
    counter(
        names::KEY_EXHAUSTIONS,
        &[label::PROVIDER, label::REASON],
        "Requests for which no key was usable.",
    ),
    counter(
        names::TOOL_CALLS,
        &[label::TOOL_SERVER, label::TOOL, label::OUTCOME],
        "Calls of injected tools.",
    ),
    seconds(
        names::TOOL_CALL_DURATION,
        &[label::TOOL_SERVER],
        "Time of a call of an injected tool.",
        OPERATION,
    ),
    gauge(
        names::TOOL_SERVER_UP,
        &[label::TOOL_SERVER],
        "1 while a tool server can be called, else 0.",
    ),
    counter(names::SINK_WRITTEN, &[label::SINK], "Events that a sink has stored."),
    gauge(
        names::SINK_WAITING,
        &[label::SINK],
        "Events that a sink has received and not stored yet.",
    ),
    counter(
        names::SINK_FAILURES,
        &[label::SINK, label::REASON],
        "Attempts to store events that failed because the sink was unavailable, and events that it refused.",
    ),
    counter(
        names::REFUSALS,
        &[label::LIMIT],
        "What was refused or cut because it was over a limit.",
    ),
];

/// Tells the recorder the unit and the meaning of every metric; to be called once, after it is installed.
///
/// # Examples
///
/// ```
/// // Nothing happens where no recorder is installed.
/// tower_llm_bridge::metrics::describe();
/// ```
pub fn describe() {
    metrics::with_recorder(|recorder| {
        for metric in METRICS {
            let unit = match metric.unit {
                "seconds" => Unit::Seconds,
                _ => Unit::Count,
            };
            let name = KeyName::from_const_str(metric.name);
            let help = SharedString::const_str(metric.help);
            match metric.kind {
                MetricKind::Counter => recorder.describe_counter(name, Some(unit), help),
                MetricKind::Gauge => recorder.describe_gauge(name, Some(unit), help),
                MetricKind::Histogram => recorder.describe_histogram(name, Some(unit), help),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_list_the_same_metrics() {
        let docs: Vec<&str> = include_str!("mod.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `"))
            .collect();
        let code = METRICS.iter().map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = format!("{:?}", metric.kind).to_lowercase();
            let row = [kind.as_str(), metric.unit, &labels.join(", "), metric.help].join(" | ");
            format!("{}` | {row} |", metric.name).replace("|  |", "| |")
        });
        assert_eq!(docs, code.collect::<Vec<_>>());
    }

    #[test]
    fn a_histogram_has_buckets_and_nothing_else_does() {
        for metric in METRICS {
            assert_eq!(
                metric.kind == MetricKind::Histogram,
                !metric.buckets.is_empty(),
                "{}",
                metric.name
            );
            assert!(metric.buckets.is_sorted(), "{}", metric.name);
        }
    }
}
