//! Collects the process's metrics, and prints them as Prometheus reads them.

use std::{convert::Infallible, time::Duration};

use axum::response::{IntoResponse, Response};
use http::header;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// The text format that every collector understands.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How often observed values are sorted into buckets. Until then each takes memory of its own.
const SORTING: Duration = Duration::from_secs(5);

/// The metrics of the process.
#[derive(Clone)]
pub(super) struct Metrics(PrometheusHandle);

// === impl Metrics ===

impl Metrics {
    /// Begins to collect.
    ///
    /// # Errors
    ///
    /// Says that something else collects already.
    pub(super) fn install() -> Result<Self, String> {
        let handle = PrometheusBuilder::new().install_recorder();
        handle
            .map(Self)
            .map_err(|error| format!("cannot collect metrics: {error}"))
    }

    /// Keeps the memory bounded while nobody asks for them.
    pub(super) async fn keep_sorted(self) -> Infallible {
        loop {
            tokio::time::sleep(SORTING).await;
            self.0.run_upkeep();
        }
    }

    /// Everything, as text.
    pub(super) fn answer(&self) -> Response {
        ([(header::CONTENT_TYPE, FORMAT)], self.0.render()).into_response()
    }
}
