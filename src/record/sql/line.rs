//! An event as a line of the spool.

use crate::record::Event;

/// Appends the event's line. An event that cannot be written as JSON is named in the log and left out.
pub(super) fn push(lines: &mut Vec<u8>, event: &Event) {
    let start = lines.len();
    match serde_json::to_writer(&mut *lines, event) {
        Ok(()) => lines.push(b'\n'),
        Err(error) => {
            lines.truncate(start);
            tracing::error!(
                %error,
                interception_id = %event.interception_id,
                sequence = event.sequence,
                event = event.fact.name(),
                "a record cannot be written as JSON and is lost"
            );
        }
    }
}
