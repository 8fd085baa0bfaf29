//! The kinds of a stream's events that the relay tells apart.

use std::ops::Range;

use crate::json::{Kind, Member, Scanner, walk};

/// The kinds of events that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    /// `response.created`, `response.queued` or `response.in_progress`.
    Cycle,
    Added,
    Done,
    /// Another event of an item.
    Part,
    /// `response.completed`.
    Completed,
    Incomplete,
    Failed,
    Error,
    /// A keep-alive of the provider.
    KeepAlive,
    Other,
}

/// The place of a member that is an object.
pub(super) fn object(scanner: &Scanner, name: &str) -> Option<Range<usize>> {
    let member = scanner.get(name).filter(|member| member.kind() == Kind::Object);
    member.map(Member::value)
}

// === impl EventKind ===

impl EventKind {
    /// The kind of the event that `scanner` has read.
    pub(super) fn of(data: &[u8], scanner: &Scanner) -> Self {
        let kind = scanner.get("type").map(|member| walk::unescape(&data[member.value()]));
        match kind.flatten().as_deref() {
            Some("response.created" | "response.queued" | "response.in_progress") => Self::Cycle,
            Some("response.output_item.added") => Self::Added,
            Some("response.output_item.done") => Self::Done,
            Some("response.completed") => Self::Completed,
            Some("response.incomplete") => Self::Incomplete,
            Some("response.failed") => Self::Failed,
            Some("error") => Self::Error,
            Some("keepalive") => Self::KeepAlive,
            Some(_) if scanner.get("output_index").is_some() => Self::Part,
            // Some hosts leave the type out.
            None if object(scanner, "error").is_some() => Self::Error,
            _ => Self::Other,
        }
    }
}
