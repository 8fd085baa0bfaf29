//! Reads a whole body within a limit and shows each part to the scanner as it arrives. `http_body_util`'s `Limited` and
//! `collect` would copy the body into one piece, which the scanner would have to read once more.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

use super::budget::Held;
use crate::rope::Rope;

/// From this many frames on, frames below this size are put together into segments of about that size: a body in frames
/// of one byte must not cost a segment for each.
const MANY_FRAMES: usize = 64;
const SMALL_FRAME: usize = 1 << 10;
const SEGMENT: usize = 16 << 10;

/// How many bytes are scanned between two yields, so that no body holds up the other requests of a thread.
const YIELD: usize = 16 << 10;

/// Why a body could not be read to its end.
#[derive(Debug)]
pub(crate) enum CollectError<E> {
    TooLarge,
    /// All requests together hold as much as they may.
    OverBudget,
    Broken(E),
}

/// Reads `body` into a rope of the frames as they came. Copies nothing but the small frames of a body that has very
/// many.
pub(crate) async fn collect<B>(body: Pin<&mut B>, limit: usize) -> Result<Rope, CollectError<B::Error>>
where
    B: Body<Data = Bytes>,
{
    read(Rope::default(), body, limit, None, |_| ()).await
}

/// Like [`collect`], but counts the bytes in `held`, and shows them to `look` while they are in the CPU's cache.
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

/// Like [`collect`] with a budget, for a body whose `first` bytes have been read already.
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
        // A separate statement: the error must not live across the yield below.
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
    if let Some(held) = held {
        held.trim();
    }
    Ok(rope)
}

/// Reads and discards a bounded rest of a body, so that a client that is still sending can read its answer, and the
/// connection can be reused. A server that closes a connection with unread bytes resets it instead.
pub(crate) async fn discard<B>(mut body: Pin<&mut B>, mut bytes: usize, time: Duration)
where
    B: Body<Data = Bytes>,
{
    let reading = async {
        let mut unyielded = 0;
        loop {
            // A separate statement: the frame must not live across the yield below.
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
                // A fast sender, or a body that decompresses to many times its size, must not hold the thread either.
                tokio::task::yield_now().await;
            }
        }
    };
    // The answer is sent now, whether the rest was read or not.
    let _ = tokio::time::timeout(time, reading).await;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;
    use proptest::prelude::*;
    use tokio_test::task;

    use super::*;
    use crate::body::budget::Budget;

    /// A body whose frames come one at each second poll.
    struct Slow {
        frames: Vec<usize>,
        is_ready: bool,
    }

    impl Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.is_ready = !self.is_ready;
            if self.is_ready {
                let frame = self
                    .frames
                    .pop()
                    .map(|length| Ok(Frame::data(vec![b' '; length].into())));
                return Poll::Ready(frame);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_that_is_there_is_read_with_yields() {
        let body = || Slow {
            frames: vec![1 << 20],
            is_ready: false,
        };
        let polls = |future: Pin<Box<dyn Future<Output = ()> + '_>>| {
            let mut task = task::spawn(future);
            (1..).find(|_| task.poll().is_ready())
        };
        let mut held = Budget::new(64 << 20).hold(None);
        let mut longest = 0;
        let reading = polls(Box::pin(async {
            let look = |part: &[u8]| longest = longest.max(part.len());
            let read = collect_held(pin!(body()), 4 << 20, &mut held, look).await;
            assert_eq!(read.map(|rope| rope.len()).ok(), Some(1 << 20));
        }));
        assert_eq!(longest, YIELD);
        // One more for the frame's own wait.
        assert_eq!(reading, Some((1 << 20) / YIELD + 2));
        let frames = vec![64 << 10; 16];
        let discarding = polls(Box::pin(async {
            let body = Slow {
                frames,
                is_ready: false,
            };
            discard(pin!(body), 4 << 20, Duration::from_secs(60)).await;
        }));
        assert_eq!(discarding, Some(2 * 16 + 1), "a wait and a yield for each frame");
    }

    proptest! {
        /// Whatever the order in which callers send: each frame is counted when it comes, a refused upload gives all back,
        /// one that was read holds exactly its bytes, and every read ends.
        #[test]
        fn uploads_hold_what_came_of_them(
            uploads in prop::collection::vec((prop::collection::vec(0_usize..3_000, 0..6), 0_usize..3), 1..8),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..100),
        ) {
            const MAX: usize = 8 << 10;
            // The expected budget counts each upload by hand, frame by frame.
            let (budget, expected) = (Budget::new(MAX), Budget::new(MAX));
            let mut reading: Vec<_> = uploads
                .into_iter()
                .map(|(frames, actor)| {
                    let actor = [None, Some("a"), Some("b")][actor];
                    let (whole, mut held) = (frames.iter().sum::<usize>(), budget.hold(actor));
                    let (coming, counted) = (frames.clone(), expected.hold(actor));
                    let read = async move {
                        let body = pin!(Slow { frames, is_ready: false });
                        let read = collect_held(body, 1 << 20, &mut held, |_| ()).await;
                        // A request that was read keeps its bytes; a refused one gives them back.
                        read.map(|rope| (rope.len() == whole, held)).map_err(|error| matches!(error, CollectError::OverBudget))
                    };
                    Some((task::spawn(Box::pin(read)), coming, counted))
                })
                .collect();
            let mut served = Vec::new();
            let rest = (0..16).flat_map(|_| 0..reading.len());
            let order: Vec<_> = order.iter().map(|index| index.index(reading.len())).chain(rest).collect();
            for index in order {
                let Some((read, coming, counted)) = &mut reading[index] else { continue };
                let ended = match read.poll() {
                    Poll::Pending => None,
                    Poll::Ready(ended) => Some(ended),
                };
                // Each poll reads one frame.
                let next = coming.pop();
                let has_room = next.is_none_or(|length| counted.take(length));
                match ended {
                    None => prop_assert!(next.is_some() && has_room),
                    Some(Err(is_over_budget)) => {
                        prop_assert!(is_over_budget && !has_room);
                        reading[index] = None;
                    }
                    Some(Ok((is_whole, held))) => {
                        prop_assert!(is_whole && next.is_none());
                        if let Some((_, _, mut counted)) = reading[index].take() {
                            counted.trim();
                            served.push((held, counted));
                        }
                    }
                }
                prop_assert_eq!(budget.used(), expected.used());
                prop_assert!(budget.used() <= MAX);
            }
            prop_assert!(reading.iter().all(Option::is_none), "somebody waits for ever");
            drop(served);
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
