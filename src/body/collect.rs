//! Reading a whole body within a limit, looking at each frame as it comes.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

use crate::rope::Rope;

/// From this many frames on, frames below this size are put together into segments of about that size: a body in pieces
/// of one byte must not take the memory of a segment for each.
const MANY_FRAMES: usize = 64;
const SMALL_FRAME: usize = 1 << 10;
const SEGMENT: usize = 16 << 10;

/// Why a body could not be read to its end.
#[derive(Debug)]
pub(crate) enum CollectError<E> {
    TooLarge,
    Broken(E),
}

/// Reads `body` into a rope of the frames as they came, and shows each to `look` while it is hot. Nothing is copied, but
/// for the small frames of a body that has a great many.
///
/// Trailers are dropped: no model API has any.
pub(crate) async fn collect<B>(
    mut body: Pin<&mut B>,
    limit: usize,
    mut look: impl FnMut(&Bytes),
) -> Result<Rope, CollectError<B::Error>>
where
    B: Body<Data = Bytes>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(CollectError::TooLarge);
    }
    let (mut rope, mut gathered, mut frames) = (Rope::default(), BytesMut::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(CollectError::Broken)?.into_data() {
            if data.len() > limit - rope.len() - gathered.len() {
                return Err(CollectError::TooLarge);
            }
            look(&data);
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
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            if length > bytes {
                break;
            }
            bytes -= length;
        }
    };
    // Whether it came to the end or not: the answer goes out now.
    let _ = tokio::time::timeout(time, reading).await;
}
