//! Takes back the members that we add to a request when the provider refuses them. Each refusal is remembered for a
//! while, so that later requests do not pay for it again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::dialect::Request;
use crate::dialect::turn::{Addition, ErrorNames};
use crate::tools::PREFIX;
use crate::types::Dialect;

const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);
/// Model names come from callers, so the number that is remembered is bounded. The oldest is forgotten first.
const MOST_REMEMBERED: usize = 256;

/// The additions that a provider refused lately.
#[derive(Debug, Default)]
pub(crate) struct RefusedAdditions(Mutex<HashMap<Refused, Instant>>);

/// An addition to requests for a model. Some models accept tools only if the request asks for no response format.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Refused {
    dialect: Dialect,
    model: String,
    addition: Addition,
    has_format: bool,
}

/// The additions to `request` that a refusal with this status and these words is about; empty if it is about something
/// else.
pub(super) fn refused(request: &dyn Request, status: StatusCode, names: &ErrorNames) -> Vec<Addition> {
    const ABOUT_A_MEMBER: [StatusCode; 3] = [
        StatusCode::BAD_REQUEST,
        StatusCode::NOT_FOUND,
        StatusCode::UNPROCESSABLE_ENTITY,
    ];
    if !ABOUT_A_MEMBER.contains(&status) {
        return Vec::new();
    }
    let mut additions = request.additions();
    if additions.is_empty() {
        return additions;
    }
    let words = [&names.param, &names.message, &names.code, &names.detail];
    let mut words: String = words
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ");
    words.make_ascii_lowercase();
    // Taken out before the search for `tool`: this name says nothing about tools as such.
    let parallel = words.contains("parallel_tool_calls");
    let words = words.replace("parallel_tool_calls", "");
    additions.retain(|addition| match addition {
        Addition::ParallelToolCalls => parallel,
        Addition::Tools => ["tool", "function call", PREFIX]
            .iter()
            .any(|name| words.contains(name)),
        Addition::StreamOptions => words.contains("stream_options") || words.contains("include_usage"),
        Addition::Include => words.contains("include"),
    });
    additions
}

// === impl RefusedAdditions ===

impl RefusedAdditions {
    /// Remembers that `additions` to `request` are refused.
    pub(super) fn remember(&self, dialect: Dialect, request: &dyn Request, additions: &[Addition]) {
        let now = Instant::now();
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, until| *until > now);
        for addition in additions {
            tracing::info!(model = %request.about().model, ?addition, "the provider refuses a member that the bridge added");
            if refused.len() >= MOST_REMEMBERED {
                let oldest = refused.iter().min_by_key(|(_, until)| **until);
                if let Some(oldest) = oldest.map(|(oldest, _)| oldest.clone()) {
                    refused.remove(&oldest);
                }
            }
            refused.insert(Refused::new(dialect, request, *addition), now + REMEMBERED_FOR);
        }
    }

    /// Takes back the additions to `request` that are known to be refused, and returns them.
    pub(super) fn withdraw_known(&self, dialect: Dialect, request: &mut dyn Request) -> Vec<Addition> {
        let known = {
            let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if refused.is_empty() {
                return Vec::new();
            }
            let now = Instant::now();
            let is_known = |addition: &Addition| {
                let key = Refused::new(dialect, request, *addition);
                refused.get(&key).is_some_and(|until| *until > now)
            };
            request.additions().into_iter().filter(is_known).collect::<Vec<_>>()
        };
        if !known.is_empty() {
            request.withdraw(&known);
        }
        known
    }
}

impl Clone for RefusedAdditions {
    /// Empty: a changed layer may lead to another provider.
    fn clone(&self) -> Self {
        Self::default()
    }
}

// === impl Refused ===

impl Refused {
    fn new(dialect: Dialect, request: &dyn Request, addition: Addition) -> Self {
        let about = request.about();
        Self {
            dialect,
            model: about.model.clone(),
            addition,
            has_format: about.has_format,
        }
    }
}
