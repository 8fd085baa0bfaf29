//! The decoder loses no byte, however a stream is cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_llm_bridge::__fuzzing::{self as bridge, Piece};

/// Appends each late LF to the event that it belongs to.
fn whole<'a>(frames: impl IntoIterator<Item = &'a [u8]>, max: usize) -> Option<(Vec<Piece>, Option<Piece>)> {
    let (pieces, rest) = bridge::decode(frames, max)?;
    let mut events: Vec<Piece> = Vec::new();
    for piece in pieces {
        if piece.2 {
            assert_eq!((&piece.0[..], &piece.1), (&b"\n"[..], &None));
            events.last_mut().expect("a tail follows an event").0.push(b'\n');
        } else {
            events.push(piece);
        }
    }
    Some((events, rest))
}

// The first two bytes are the length of the frames and the longest event.
fuzz_target!(|input: &[u8]| {
    let [len, max, stream @ ..] = input else { return };
    let max = if *max == 0 { usize::MAX } else { usize::from(*max) };
    let decoded = whole([stream], max);
    assert_eq!(decoded, whole(stream.chunks(1 + usize::from(*len)), max));
    assert_eq!(decoded, whole(stream.chunks(1), max));
    let Some((events, rest)) = decoded else { return };
    assert!(events.iter().chain(&rest).flat_map(|(raw, ..)| raw).eq(stream));
    assert!(
        events
            .iter()
            .all(|(raw, ..)| raw.ends_with(b"\n") || raw.ends_with(b"\r"))
    );
});
