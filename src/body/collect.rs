//! Reading a whole body within a limit, looking at each frame as it comes.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

use crate::rope::Rope;

/// Why a body could not be read to its end.
#[derive(Debug)]
pub(crate) enum CollectError<E> {
    TooLarge,
    Broken(E),
}

/// Reads `body` into a rope of the frames as they came, without copying, and shows each to `look` while it is hot.
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
    let mut rope = Rope::default();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(CollectError::Broken)?.into_data() {
            if data.len() > limit - rope.len() {
                return Err(CollectError::TooLarge);
            }
            look(&data);
            rope.push(data);
        }
    }
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
