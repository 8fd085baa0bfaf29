//! The meters of a build without the feature: they measure nothing, and cost nothing.

use std::time::Duration;

use super::Limit;
use crate::types::{Dialect, KeyHint, TokenUsage};

/// Whether anything is measured.
pub(crate) const IS_ON: bool = false;

#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(());

#[derive(Debug, Default)]
pub(crate) struct Operation(());

#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch;

#[derive(Debug)]
pub(crate) struct KeyMeter;

// === impl Meter ===

impl Meter {
    pub(crate) fn operation(&self, _provider: &str, _dialect: Dialect, _model: &str, _since: Stopwatch) -> Operation {
        Operation(())
    }

    pub(crate) fn tool_call(&self, _server: &str, _tool: &str, _outcome: &'static str, _duration: Duration) {}

    pub(crate) fn exhausted(&self, _provider: &str, _reason: &'static str) {}
}

// === impl Operation ===

impl Operation {
    pub(crate) fn usage(&mut self, _usage: &TokenUsage, _cost: Option<(f64, &str)>) {}

    pub(crate) fn stopwatch(&self) -> Option<Stopwatch> {
        None
    }

    pub(crate) fn waited(&mut self, _begun: Option<Stopwatch>) {}

    pub(crate) fn first_token(&mut self, _after: Duration) {}

    pub(crate) fn end(&mut self, _outcome: &'static str, _is_complete: bool, _duration: Duration) {}
}

// === impl Stopwatch ===

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self
    }
}

// === impl KeyMeter ===

impl KeyMeter {
    pub(crate) fn new(_hint: &KeyHint) -> Self {
        Self
    }

    pub(crate) fn attempt(&self, _outcome: &'static str) {}

    pub(crate) fn transition(&self, _scope: &'static str, _state: &'static str) {}
}

pub(crate) fn free_places(_places: usize) {}

#[cfg(feature = "mcp")]
pub(crate) fn tool_server_up(_name: &str, _was_up: bool, _is_up: bool) {}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn sink_written(_sink: &'static str, _events: u64) {}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn sink_waiting(_sink: &'static str, _events: u64) {}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn sink_failed(_sink: &'static str, _reason: &'static str) {}

pub(crate) fn refused(_limit: Limit) {}
