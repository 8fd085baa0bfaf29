//! Reads a whole body within a limit and shows each part to the scanner as it comes: `http_body_util`'s `Limited` and
//! `collect` would copy the body into one piece, and scan it cold.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

use super::budget::Held;
use crate::rope::Rope;

/// From this many frames on, frames below this size are put together into segments of about that size: a body in pieces
/// of one byte must not take the memory of a segment for each.
const MANY_FRAMES: usize = 64;
const SMALL_FRAME: usize = 1 << 10;
const SEGMENT: usize = 16 << 10;

/// How many bytes are scanned between two yields, so that no body holds up the other requests of a thread.
const YIELD: usize = 64 << 10;

/// Why a body could not be read to its end.
#[derive(Debug)]
pub(crate) enum CollectError<E> {
    TooLarge,
    /// All requests together hold as much as they may.
    OverBudget,
    Broken(E),
}

/// Reads `body` into a rope of the frames as they came. Nothing is copied, but for the small frames of a body that has a
/// great many.
pub(crate) async fn collect<B>(body: Pin<&mut B>, limit: usize) -> Result<Rope, CollectError<B::Error>>
where
    B: Body<Data = Bytes>,
{
    read(Rope::default(), body, limit, None, |_| ()).await
}

/// The same for a body that a budget has to have room for, and whose bytes are shown to `look` while they are hot.
pub(crate) async fn collect_held<B>(
    body: Pin<&mut B>,
    limit: usize,
    held: &mut Held,
    look: impl FnMut(&[u8]),
) -> Result<Rope, CollectError<B::Error>>
where
    B: Body<Data = Bytes>,
{
    read(Rope::default(), body, limit, Some(held), look).await
}

/// The same for a body of which the `first` bytes have been read.
pub(crate) async fn collect_after<B>(
    first: Bytes,
    body: Pin<&mut B>,
    limit: usize,
    held: &mut Held,
) -> Result<Rope, CollectError<B::Error>>
where
    B: Body<Data = Bytes>,
{
    if first.len() > limit {
        return Err(CollectError::TooLarge);
    }
    if !held.take(first.len()) {
        return Err(CollectError::OverBudget);
    }
    read(first.into(), body, limit, Some(held), |_| ()).await
}

async fn read<B>(
    mut rope: Rope,
    mut body: Pin<&mut B>,
    limit: usize,
    mut held: Option<&mut Held>,
    mut look: impl FnMut(&[u8]),
) -> Result<Rope, CollectError<B::Error>>
where
    B: Body<Data = Bytes>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(CollectError::TooLarge);
    }
    let (mut gathered, mut frames, mut unyielded) = (BytesMut::new(), 0_usize, 0);
    loop {
        // A statement of its own: the error must not live across the yield below.
        let data = match body.frame().await {
            None => break,
            Some(Err(cause)) => return Err(CollectError::Broken(cause)),
            Some(Ok(frame)) => frame.into_data(),
        };
        // Trailers are dropped: no model API has any.
        let Ok(data) = data else { continue };
        if data.len() > limit - rope.len() - gathered.len() {
            return Err(CollectError::TooLarge);
        }
        if held.as_mut().is_some_and(|held| !held.take(data.len())) {
            return Err(CollectError::OverBudget);
        }
        for part in data.chunks(YIELD) {
            look(part);
            unyielded += part.len();
            if unyielded >= YIELD {
                unyielded = 0;
                tokio::task::yield_now().await;
            }
        }
        frames = frames.saturating_add(1);
        if frames > MANY_FRAMES && data.len() < SMALL_FRAME {
            gathered.extend_from_slice(&data);
            if gathered.len() >= SEGMENT {
                rope.push(gathered.split().freeze());
            }
        } else {
            rope.push(gathered.split().freeze());
            rope.push(data);
        }
    }
    rope.push(gathered.freeze());
    Ok(rope)
}

/// Reads on and throws away, within bounds, so that a client that is still sending gets to read its answer and the
/// connection can be used again: a server that closes on unread bytes resets the connection instead.
pub(crate) async fn discard<B>(mut body: Pin<&mut B>, mut bytes: usize, time: Duration)
where
    B: Body<Data = Bytes>,
{
    let reading = async {
        let mut unyielded = 0;
        loop {
            // A statement of its own: the frame must not live across the yield below.
            let length = match body.frame().await {
                Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => break,
            };
            if length > bytes {
                break;
            }
            bytes -= length;
            unyielded += length;
            if unyielded >= YIELD {
                unyielded = 0;
                // Whoever sends fast enough, or lets much be decompressed, is not read from in one go either.
                tokio::task::yield_now().await;
            }
        }
    };
    // Whether it came to the end or not: the answer goes out now.
    let _ = tokio::time::timeout(time, reading).await;
}
