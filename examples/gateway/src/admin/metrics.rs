//! Collects the process's metrics, and prints them as Prometheus reads them.

use std::{convert::Infallible, time::Duration};

use axum::response::{IntoResponse, Response};
use http::header;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tower_llm_bridge::metrics::{METRICS, MetricKind, describe};

use super::readiness::Readiness;

/// The text format that every collector understands.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How often observed values are sorted into buckets. Until then each takes memory.
const SORTING: Duration = Duration::from_secs(5);

/// The metrics of the process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

// === impl Metrics ===

impl Metrics {
    /// Begins to collect. To be called first: levels that were set before are lost, such as that of a tool server.
    ///
    /// # Errors
    ///
    /// Says that something else collects already.
    pub fn install() -> Result<Self, String> {
        let cannot = |error| format!("cannot collect metrics: {error}");
        // `_total` and the unit at the end of a name.
        let mut builder = PrometheusBuilder::new().with_recommended_naming(true);
        for metric in METRICS.iter().filter(|metric| metric.kind == MetricKind::Histogram) {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(name, metric.buckets).map_err(cannot)?;
        }
        let handle = builder.install_recorder().map_err(cannot)?;
        describe();
        Ok(Self { handle })
    }

    /// Keeps the memory bounded while nobody asks for them.
    pub(super) async fn keep_sorted(self) -> Infallible {
        loop {
            tokio::time::sleep(SORTING).await;
            self.handle.run_upkeep();
        }
    }

    /// Everything, as text.
    pub(super) fn answer(&self, readiness: &Readiness) -> Response {
        readiness.publish_keys();
        ([(header::CONTENT_TYPE, FORMAT)], self.handle.render()).into_response()
    }
}
