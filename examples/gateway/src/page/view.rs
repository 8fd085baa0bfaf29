//! The messages to a page: the parts of the snapshot, as JSON.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::value::RawValue;
use tower_llm_bridge::{
    mcp::{McpServerSnapshot, McpServerState, McpServers},
    pool::{KeyCounters, KeyPool, KeySnapshot, KeyState},
};
use uuid::Uuid;

use super::{
    ledger::{Ledger, Totals, millis},
    lock,
};

/// The most running requests on a page.
const RUNNING: usize = 50;
/// The most ended requests on a page, and in one message.
pub(super) const ENDED: usize = 100;
/// Resting models of one key.
const RESTS: usize = 20;

/// Reads everything that pages show.
pub(super) struct Viewer {
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) pools: Vec<(String, KeyPool)>,
    pub(super) servers: Option<McpServers>,
    /// A new one after a restart, when requests and counts begin again.
    pub(super) boot: Uuid,
    pub(super) has_prompts: bool,
    pub(super) has_logout: bool,
}

/// The state that pages were last sent.
#[derive(Default)]
pub(super) struct Told {
    ended: u64,
    totals: Totals,
    running: Option<Box<RawValue>>,
    keys: Option<Box<RawValue>>,
    servers: Option<Box<RawValue>>,
    tools: Option<Box<RawValue>>,
}

/// One message. A missing part is unchanged.
#[derive(Serialize)]
struct Message<'a> {
    boot: Uuid,
    /// Milliseconds since 1970, by the clock of all times in the message.
    now: u64,
    has_prompts: bool,
    has_logout: bool,
    totals: Totals,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<&'a RawValue>,
    /// Those that ended since the last message, the newest last.
    ended: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    pools: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct PoolView<'a> {
    provider: &'a str,
    keys: Vec<KeyView>,
}

#[derive(Serialize)]
struct KeyView {
    hint: String,
    domain: Option<String>,
    state: KeyState,
    /// Of that state, in milliseconds since 1970.
    until: Option<u64>,
    rests: Vec<RestView>,
    /// Resting models that are not listed.
    more_rests: usize,
    counters: KeyCounters,
}

#[derive(Serialize)]
struct RestView {
    model: String,
    last_resort: bool,
    until: u64,
}

#[derive(Serialize)]
struct ServerView {
    name: String,
    address: String,
    state: McpServerState,
    since: u64,
    failed_attempts: u32,
    tools: Vec<String>,
    last_error: Option<String>,
}

// === impl Viewer ===

impl Viewer {
    /// A message with every part that differs from `told`, which is updated. A page that was told nothing gets
    /// everything. `None` if nothing changed.
    pub(super) fn changes(&self, told: &mut Told) -> Option<String> {
        let now = millis(SystemTime::now());
        // Written under the lock rather than copied: it is about as fast, and the lock is held for some 0.1 ms.
        let (totals, running, ended, tools) = {
            let ledger = lock(&self.ledger);
            (
                ledger.totals(),
                raw(&ledger.running(RUNNING)),
                raw(&ledger.ended_since(told.ended, ENDED).collect::<Vec<_>>()),
                raw(&ledger.tools().collect::<Vec<_>>()),
            )
        };
        let keys = raw(&self.pools(now));
        let servers = raw(&self.servers(now));
        let ended = ended?;
        let is_same = totals == told.totals && told.running.is_some();
        told.totals = totals;
        told.ended = totals.ended;
        let running = new(&mut told.running, running);
        let pools = new(&mut told.keys, keys);
        let servers = new(&mut told.servers, servers);
        let tools = new(&mut told.tools, tools);
        if is_same && [running, pools, servers, tools].iter().all(Option::is_none) {
            return None;
        }
        let message = Message {
            boot: self.boot,
            now,
            has_prompts: self.has_prompts,
            has_logout: self.has_logout,
            totals,
            running,
            ended: &ended,
            pools,
            servers,
            tools,
        };
        serde_json::to_string(&message).ok()
    }

    fn pools(&self, now: u64) -> Vec<PoolView<'_>> {
        let pools = self.pools.iter().map(|(provider, pool)| PoolView {
            provider,
            keys: pool.snapshot().into_iter().map(|key| KeyView::new(key, now)).collect(),
        });
        pools.collect()
    }

    fn servers(&self, now: u64) -> Vec<ServerView> {
        let servers = self.servers.iter().flat_map(McpServers::snapshot);
        servers.map(|server| ServerView::new(server, now)).collect()
    }
}

/// The part, if it differs from what was told. A part that cannot be written is left out.
fn new(told: &mut Option<Box<RawValue>>, part: Option<Box<RawValue>>) -> Option<&RawValue> {
    let part = part?;
    if told.as_ref().is_some_and(|told| told.get() == part.get()) {
        return None;
    }
    Some(told.insert(part))
}

fn raw(part: &impl Serialize) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(part).ok()
}

/// In whole seconds, so that a part does not change each time it is read.
fn until(now: u64, left: Duration) -> u64 {
    let at = now + u64::try_from(left.as_millis()).unwrap_or(u64::MAX / 2);
    at.div_ceil(1000) * 1000
}

// === impl KeyView ===

impl KeyView {
    fn new(key: KeySnapshot, now: u64) -> Self {
        let more_rests = key.rests.len().saturating_sub(RESTS);
        let rests = key.rests.into_iter().take(RESTS).map(|rest| RestView {
            model: rest.model,
            last_resort: rest.last_resort,
            until: until(now, rest.time_left),
        });
        Self {
            hint: key.hint.to_string(),
            domain: key.domain,
            state: key.state,
            until: key.time_left.map(|left| until(now, left)),
            rests: rests.collect(),
            more_rests,
            counters: key.counters,
        }
    }
}

// === impl ServerView ===

impl ServerView {
    fn new(server: McpServerSnapshot, now: u64) -> Self {
        let in_state = u64::try_from(server.in_state.as_millis()).unwrap_or(now);
        Self {
            name: server.name,
            address: server.address,
            state: server.state,
            since: now.saturating_sub(in_state) / 1000 * 1000,
            failed_attempts: server.failed_attempts,
            tools: server.tools,
            last_error: server.last_error,
        }
    }
}
