//! The ways to receive events: each shows every event, and shows it to the inspectors.

use std::future::poll_fn;
use std::pin::Pin;

use futures_core::Stream;

use super::*;

#[tokio::test]
async fn events_are_a_stream() {
    let (recorder, mut events) = Recorder::channel(1);
    drop(begin(&recorder));
    drop(recorder);
    let mut names = Vec::new();
    while let Some(event) = poll_fn(|cx| Pin::new(&mut events).poll_next(cx)).await {
        names.push(event.fact.name());
    }
    assert_eq!(names, ["started", "ended"]);
}

#[tokio::test]
async fn inspectors_see_what_is_received_whichever_way() {
    let (recorder, events) = Recorder::channel(2);
    let (sender, seen) = std::sync::mpsc::channel();
    let second = sender.clone();
    let mut events = events
        .inspect(move |event| sender.send(event.sequence).unwrap())
        .inspect(move |event| second.send(100 + event.sequence).unwrap());
    let mut interception = begin(&recorder);
    interception.emit(prompt());
    interception.emit(tokens(1));
    drop(interception);
    drop(recorder);
    assert_eq!(seen.try_iter().count(), 0, "nothing was received");
    let mut received = vec![events.recv().await.unwrap().sequence];
    received.push(events.try_recv().unwrap().sequence);
    received.push(poll_fn(|cx| events.poll_recv(cx)).await.unwrap().sequence);
    let last = std::thread::spawn(move || events.blocking_recv());
    received.push(last.join().unwrap().unwrap().sequence);
    let expected: Vec<u64> = received
        .iter()
        .flat_map(|sequence| [*sequence, 100 + sequence])
        .collect();
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), expected);
}
