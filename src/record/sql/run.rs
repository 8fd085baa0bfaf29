//! Runs a sink: events go from the recorder to the backlog, and from there to the database.

use std::{io, sync::Arc, thread};

use tokio::runtime;

use super::{
    backlog::{AtEnd, Backlog},
    error::{SqlError, SqlErrorKind},
    line,
    settings::Settings,
    summary::Summary,
    writer::{Connect, Writer},
};
use crate::record::{
    Event, Events,
    events::{Journal, Receipt},
};

/// How much is received before it is appended to the backlog.
const CHUNK: usize = 256 << 10;

/// Receives all of `events` on this thread, while a second one writes them.
pub(super) fn run(settings: Settings, connect: impl Connect, events: Events) -> Result<Summary, SqlError> {
    let backlog = Arc::new(Backlog::open(&settings)?);
    let no_thread =
        |error: io::Error| SqlError::new(SqlErrorKind::Database, "the record writer cannot start").with(error);
    let runtime = runtime::Builder::new_current_thread().build().map_err(no_thread)?;
    let writing = thread::Builder::new()
        .name("record-writer".to_owned())
        .spawn({
            let backlog = Arc::clone(&backlog);
            move || Writer::new(settings, backlog, connect).run()
        })
        .map_err(no_thread)?;
    if backlog.is_in_files() {
        events.set_journal(Arc::clone(&backlog) as Arc<dyn Journal>);
    }
    runtime.block_on(receive(events, &backlog));
    writing
        .join()
        .unwrap_or_else(|_| Err(SqlError::new(SqlErrorKind::Database, "the record writer panicked")))
}

/// Events that were received and wait to be appended.
#[derive(Default)]
struct Chunk {
    lines: Vec<u8>,
    receipts: Vec<Receipt>,
}

/// Moves to the backlog the events that it does not have, until the last one came or the writer gave up. Blocks its thread
/// while the backlog is full.
async fn receive(mut events: Events, backlog: &Backlog) {
    let _close = AtEnd(backlog, Backlog::close);
    let mut chunk = Chunk::default();
    loop {
        let received = tokio::select! {
            biased;
            () = backlog.abandoned() => break,
            received = events.recv_with_receipt() => received,
        };
        let Some((event, receipt)) = received else { break };
        chunk.take(&event, receipt);
        while chunk.lines.len() < CHUNK
            && let Some((event, receipt)) = events.try_recv_with_receipt()
        {
            chunk.take(&event, receipt);
        }
        if !chunk.append_to(backlog) {
            break;
        }
    }
    // After the writer gave up, the queued events go to the spool, for the next run.
    while let Some((event, receipt)) = events.try_recv_with_receipt() {
        chunk.take(&event, receipt);
    }
    chunk.append_to(backlog);
}

// === impl Chunk ===

impl Chunk {
    fn take(&mut self, event: &Event, receipt: Receipt) {
        if !receipt.is_written {
            line::push(&mut self.lines, event);
            self.receipts.push(receipt);
        }
    }

    /// Returns false if nobody will read the backlog.
    fn append_to(&mut self, backlog: &Backlog) -> bool {
        let is_read = self.lines.is_empty() || backlog.append(&self.lines);
        // Only now may other interceptions have their places.
        self.receipts.clear();
        self.lines.clear();
        self.lines.shrink_to(2 * CHUNK);
        is_read
    }
}
