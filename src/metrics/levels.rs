//! Reports what belongs neither to a model nor to a key: places, tool servers, sinks and refusals.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use metrics::{Key, SharedString};

use super::{METADATA, MOST, count, key};
use crate::metrics::{
    Limit,
    names::{self, label},
};

static FREE_PLACES: Key = Key::from_static_name(names::FREE_PLACES);

/// The values of a label that are reported, [`MOST`] at most.
pub(super) struct Names(Mutex<Option<HashSet<String>>>);

// === impl Names ===

impl Names {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether `name` is one of them, or becomes one.
    pub(super) fn has_or_takes(&self, name: &str) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let names = names.get_or_insert_default();
        names.contains(name) || (names.len() < MOST && names.insert(name.to_owned()))
    }
}

// === reports ===

/// Reports how many interceptions the recorder would admit.
pub(crate) fn free_places(places: usize) {
    set(&FREE_PLACES, places as u64);
}

/// Counts something that was refused or cut.
#[cold]
pub(crate) fn refused(limit: Limit) {
    let labels = [(label::LIMIT, SharedString::const_str(limit.as_str()))];
    count(&key(names::REFUSALS, labels), 1);
}

/// Reports that a connection to a tool server came up, went down or neither. The server is up while any is: an application
/// that reloads its servers has two for a while.
#[cfg(feature = "mcp")]
pub(crate) fn tool_server_up(name: &str, was_up: bool, is_up: bool) {
    static CONNECTIONS: Mutex<Option<std::collections::HashMap<String, usize>>> = Mutex::new(None);
    let mut servers = CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let servers = servers.get_or_insert_default();
    if servers.len() >= MOST && !servers.contains_key(name) {
        return;
    }
    let up = servers.entry(name.to_owned()).or_default();
    *up = (*up + usize::from(is_up)).saturating_sub(usize::from(was_up));
    let labels = [(label::TOOL_SERVER, name.to_owned().into())];
    set(&key(names::TOOL_SERVER_UP, labels), u64::from(*up > 0));
}

/// Counts events that a sink stored.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn sink_written(sink: &'static str, events: u64) {
    count(
        &key(names::SINK_WRITTEN, [(label::SINK, SharedString::const_str(sink))]),
        events,
    );
}

/// Reports how many events a sink has still to store.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn sink_waiting(sink: &'static str, events: u64) {
    set(
        &key(names::SINK_WAITING, [(label::SINK, SharedString::const_str(sink))]),
        events,
    );
}

/// Counts a failure of a sink.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn sink_failed(sink: &'static str, reason: &'static str) {
    let labels = [
        (label::SINK, SharedString::const_str(sink)),
        (label::REASON, SharedString::const_str(reason)),
    ];
    count(&key(names::SINK_FAILURES, labels), 1);
}

pub(super) fn set(gauge: &Key, level: u64) {
    // Exact up to 2^53.
    metrics::with_recorder(|recorder| recorder.register_gauge(gauge, &METADATA).set(level as f64));
}

#[cfg(all(test, feature = "mcp"))]
mod tests {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;

    #[test]
    fn a_tool_server_is_up_while_any_connection_to_it_is() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        ::metrics::with_local_recorder(&recorder, || {
            for (was_up, is_up, level) in [
                (false, false, 0.0),
                (false, true, 1.0),
                (false, false, 1.0),
                (false, true, 1.0),
                (true, false, 1.0),
                (true, false, 0.0),
            ] {
                tool_server_up("reloaded", was_up, is_up);
                let values: Vec<DebugValue> = snapshotter.snapshot().into_vec().into_iter().map(|row| row.3).collect();
                assert_eq!(values, [DebugValue::Gauge(level.into())]);
            }
        });
    }
}
