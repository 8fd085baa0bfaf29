//! How bytes reach the reader: in which pieces, when their memory is free, and how an answer ends that was cut.

use http_body_util::{BodyExt, Empty};

use super::{Arc, Body, Bytes, ResponseBody, Sink};
use crate::body::budget::Budget;
use crate::rope::Rope;

#[tokio::test]
async fn a_driver_never_runs_ahead_of_the_reader() {
    let sink = Sink::default();
    let (outlet, made) = (sink.outlet(), Arc::new(std::sync::atomic::AtomicU32::new(0)));
    let count = Arc::clone(&made);
    let driver = Box::pin(async move {
        for _ in 0..3 {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            sink.send(Bytes::from_static(b"x")).await;
        }
    });
    let readers = super::Readers::default();
    let mut body =
        ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, |_| Bytes::new(), super::Dialect::Messages);
    for expected in 1..=3 {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        assert_eq!(made.load(std::sync::atomic::Ordering::Relaxed), expected);
    }
    assert!(body.frame().await.is_none());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_is_held_until_it_is_read_or_needed_by_others() {
    let (readers, budget) = (super::Readers::default(), Budget::new(1 << 20));
    let answer = || {
        let mut held = budget.hold(None);
        assert!(held.take(300 << 10));
        let mut rope = Rope::from(vec![1; 100 << 10]);
        rope.append(vec![2; 200 << 10].into());
        ResponseBody::<Empty<Bytes>>::paced(rope, held, &readers, super::Dialect::Messages)
    };
    let rest = |budget: &Budget| budget.hold(None).take(896 << 10);

    let body = answer();
    assert_eq!(body.size_hint().exact(), Some(300 << 10));
    assert!(!rest(&budget));
    let whole = body.collect().await.unwrap().to_bytes();
    assert_eq!((whole.len(), whole[0], whole[whole.len() - 1]), (300 << 10, 1, 2));
    assert!(rest(&budget), "given back once it is read");

    let mut body = answer();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap().len(),
        16 << 10
    );
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert_eq!(readers.end_stalled(std::time::Duration::from_secs(60)), 1);
    assert!(rest(&budget), "given back because it is needed");
    // The connection notices that bytes are missing.
    assert_eq!(body.size_hint().exact(), Some(284 << 10));
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_a_piece_of_a_long_event_keeps_its_place() {
    let (sink, readers) = (Sink::default(), super::Readers::default());
    let outlet = sink.outlet();
    let event: Bytes = (0..40_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = event.clone();
    let driver = Box::pin(async move { sink.send(sent).await });
    let cut = |_| Bytes::new();
    let mut body = ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, cut, super::Dialect::Messages);
    let patience = std::time::Duration::from_secs(60);
    let (mut taken, mut pieces) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        taken.extend_from_slice(&frame.unwrap().into_data().unwrap());
        pieces += 1;
        tokio::time::advance(patience - std::time::Duration::from_secs(1)).await;
        assert_eq!(readers.end_stalled(patience), 0);
    }
    assert_eq!((pieces, taken == event), (3, true));
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_reader_stopped_ends_there_and_keeps_no_memory() {
    let (sink, readers) = (Sink::default(), super::Readers::default());
    let outlet = sink.outlet();
    let event = Bytes::from(vec![b'x'; 100 << 10]);
    let sent = event.clone();
    let driver = Box::pin(async move { sink.send(sent).await });
    let cut = |_| Bytes::from_static(b"cut");
    let mut body = ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, cut, super::Dialect::Messages);
    for _ in 0..2 {
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece.len(), super::PIECE);
    }
    let patience = std::time::Duration::from_secs(60);
    tokio::time::advance(patience).await;
    assert_eq!(readers.end_stalled(patience), 1);
    assert!(event.is_unique(), "its memory is free");
    assert_eq!(body.collect().await.unwrap().to_bytes(), "\n\ncut");
}

#[tokio::test]
async fn a_piece_in_a_writer_s_buffer_keeps_nothing_else() {
    let answer = Bytes::from(vec![1; 100 << 10]);
    let (readers, budget) = (super::Readers::default(), Budget::new(1 << 20));
    let whole = answer.clone().into();
    let mut body = ResponseBody::<Empty<Bytes>>::paced(whole, budget.hold(None), &readers, super::Dialect::Messages);
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        buffer.push(frame.unwrap().into_data().unwrap());
    }
    assert_eq!(buffer.iter().map(Bytes::len).sum::<usize>(), 100 << 10);
    assert!(answer.is_unique());
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_after_an_event_that_ran_out_of_time_stands_alone() {
    let (sink, readers) = (Sink::default(), super::Readers::default());
    let outlet = sink.outlet();
    let limit = std::time::Duration::from_secs(10);
    for (size, pieces, end) in [(3, 2, "\n\n"), (2, 2, "")] {
        let (sink, event) = (sink.clone(), Bytes::from(vec![b'x'; size * super::PIECE]));
        let driver = Box::pin(async move {
            let _ = tokio::time::timeout(limit, sink.send(event)).await;
            sink.send(Bytes::from_static(b"error")).await;
        });
        let outlet = super::Outlet(outlet.0.clone());
        let cut = |_| Bytes::new();
        let mut body = ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, cut, super::Dialect::Messages);
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        tokio::time::advance(limit).await;
        let rest = body.collect().await.unwrap().to_bytes();
        let expected = format!("{}{end}error", "x".repeat(pieces * super::PIECE));
        assert!([&first[..], &rest[..]].concat() == expected.as_bytes(), "{size}");
    }
}

/// Bytes that tell on which thread they are freed.
struct Told(Vec<u8>, std::sync::mpsc::Sender<std::thread::ThreadId>);

impl AsRef<[u8]> for Told {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.1.send(std::thread::current().id());
    }
}

#[tokio::test]
async fn a_vast_answer_is_freed_on_another_thread_whether_it_was_read_or_not() {
    let here = std::thread::current().id();
    let (readers, budget) = (super::Readers::default(), Budget::new(1 << 30));
    for (size, is_read) in [(2 << 20, true), (2 << 20, false), (200 << 10, true), (200 << 10, false)] {
        let (tell, told) = std::sync::mpsc::channel();
        let answer = Rope::from(Bytes::from_owner(Told(vec![1; size], tell)));
        let held = budget.hold(None);
        let mut body = ResponseBody::<Empty<Bytes>>::paced(answer, held, &readers, super::Dialect::Messages);
        while let Some(frame) = body.frame().await {
            drop(frame);
            if !is_read {
                break;
            }
        }
        drop(body);
        let freed_here = tokio::task::spawn_blocking(move || told.recv().unwrap() == here)
            .await
            .unwrap();
        assert_eq!(freed_here, size < 1 << 20, "{size} {is_read}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stopped_loses_its_place_when_it_is_needed() {
    let readers = super::Readers::default();
    let (sink, alive) = (Sink::default(), Arc::new(()));
    let (outlet, held) = (sink.outlet(), Arc::clone(&alive));
    let driver = Box::pin(async move {
        let _held = held;
        loop {
            sink.send(Bytes::from_static(b"x")).await;
        }
    });
    let cut = |_| Bytes::from_static(b"cut");
    let mut body = ResponseBody::<Empty<Bytes>>::driven(driver, outlet, &readers, cut, super::Dialect::Messages);
    let patience = std::time::Duration::from_secs(60);
    for _ in 0..3 {
        tokio::time::advance(patience / 2).await;
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        assert_eq!(readers.end_stalled(patience), 0, "it reads");
    }
    tokio::time::advance(patience).await;
    assert_eq!(readers.end_stalled(patience), 1);
    assert_eq!(Arc::strong_count(&alive), 1, "all of its conversation is gone");
    assert_eq!(readers.end_stalled(patience), 0);
    assert!(!Body::is_end_stream(&body));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "cut");
    assert!(body.frame().await.is_none());
}
