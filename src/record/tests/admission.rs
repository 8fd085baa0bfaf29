//! Admission: a place ends with the last event, and neither a slow consumer nor a greedy actor takes the places of others.

use super::*;

#[tokio::test(start_paused = true)]
async fn one_place_carries_any_number_of_interceptions() {
    let (recorder, mut events) = Recorder::channel(1);
    for _ in 0..32 {
        let recorder = recorder.clone();
        tokio::spawn(async move {
            let mut interception = recorder.begin(None, started).await.unwrap();
            for round in 0..8 {
                tokio::task::yield_now().await;
                interception.emit(tokens(round));
            }
            interception.finish(Outcome::Completed, Some(StatusCode::OK), None);
        });
    }
    drop(recorder);
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(event);
    }
    // With one place they do not even interleave.
    assert_eq!(seen.len(), 32 * 10);
    seen.chunks(10).for_each(assert_whole);
}

#[tokio::test(start_paused = true)]
async fn a_place_returns_when_the_end_is_received() {
    let (recorder, mut events) = Recorder::channel(1);
    let mut interception = recorder.begin(None, started).await.unwrap();
    let mut next = task::spawn(recorder.begin(None, started));
    assert_pending!(next.poll());
    interception.emit(prompt());
    interception.finish(Outcome::Completed, None, None);
    for _ in 0..2 {
        assert!(events.recv().await.is_some());
        assert!(!next.is_woken());
        assert_pending!(next.poll());
    }
    let kept = events.recv().await.unwrap();
    assert!(next.is_woken());
    assert!(assert_ready!(next.poll()).is_ok());
    assert_eq!(outcome(&kept.fact), Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_behind_makes_busy_after_five_seconds_or_as_long_as_is_set() {
    // Running on unrecorded is for a consumer that is gone, not for one that is slow.
    for allow_unrecorded in [false, true] {
        let (recorder, _events) = Recorder::channel(1);
        let recorder = if allow_unrecorded {
            recorder.allow_unrecorded()
        } else {
            recorder
        };
        recorder
            .begin(None, started)
            .await
            .unwrap()
            .finish(Outcome::Completed, None, None);

        let start = Instant::now();
        assert_eq!(recorder.begin(None, started).await.unwrap_err(), Unavailable::Busy);
        let waited = Instant::now().saturating_duration_since(start);
        // Tokio's timers tick in milliseconds.
        assert!(
            (Duration::from_secs(5)..Duration::from_millis(5002)).contains(&waited),
            "{waited:?}"
        );
        let start = Instant::now();
        let impatient = recorder.wait(Duration::from_millis(20));
        assert_eq!(impatient.begin(None, started).await.unwrap_err(), Unavailable::Busy);
        assert!(Instant::now().saturating_duration_since(start) < Duration::from_millis(22));
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_in_time_is_taken() {
    let (recorder, mut events) = Recorder::channel(1);
    drop(recorder.begin(None, started).await.unwrap());
    let (late, ()) = tokio::join!(recorder.begin(None, started), async {
        tokio::time::sleep(Duration::from_millis(4999)).await;
        drain(&mut events);
    });
    assert!(late.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_actor_holds_an_eighth_once_half_of_all_places_are_taken() {
    let (recorder, mut events) = Recorder::channel(16);
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(recorder.begin(Some("greedy"), started).await.unwrap());
    }
    let mut greedy = task::spawn(recorder.begin(Some("greedy"), started));
    assert_pending!(greedy.poll());
    // Nobody else waits behind it.
    for actor in [Some("a"), Some("a"), Some("b"), None, None, None] {
        held.push(assert_ready!(task::spawn(recorder.begin(actor, started)).poll()).unwrap());
    }
    let mut third = task::spawn(recorder.begin(Some("a"), started));
    assert_pending!(third.poll());
    // As long as half are taken, one that ends gives the greedy actor no place.
    for _ in 0..6 {
        drop(held.remove(0));
    }
    drain(&mut events);
    assert!(!greedy.is_woken());
    drop(held.remove(0));
    drain(&mut events);
    assert!(greedy.is_woken());
    assert!(assert_ready!(greedy.poll()).is_ok());
    drop(third);
    drop(held);
    drain(&mut events);
    assert!(format!("{recorder:?}").contains("free_places: 16"), "{recorder:?}");
}

#[tokio::test(start_paused = true)]
async fn the_share_of_an_actor_can_be_set_and_waits_no_longer_than_for_a_place() {
    let (recorder, _events) = Recorder::channel(4);
    let recorder = recorder.max_places_per_actor(3);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(recorder.begin(Some("a"), started).await.unwrap());
    }
    let refused = recorder.begin(Some("a"), started).await;
    assert_eq!(refused.unwrap_err(), Unavailable::Busy);
    held.push(recorder.begin(Some("b"), started).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn events_that_nobody_receives_hold_back_the_new_and_not_those_who_run() {
    let (recorder, mut events) = Recorder::channel(64);
    let recorder = recorder.max_queued_bytes(100_000);
    let mut running = recorder.begin(None, started).await.unwrap();
    let text = Fact::PromptUsage {
        msg_id: String::new(),
        prompt: "x".repeat(1_000),
    };
    for _ in 0..200 {
        running.emit(text.clone());
    }
    assert_eq!(recorder.begin(None, started).await.unwrap_err(), Unavailable::Busy);
    let mut waiting = task::spawn(recorder.begin(None, started));
    assert_pending!(waiting.poll());
    running.finish(Outcome::Completed, None, None);
    let mut received = Vec::new();
    while !waiting.is_woken() {
        received.push(events.try_recv().unwrap());
    }
    assert!((100..200).contains(&received.len()), "{}", received.len());
    assert!(assert_ready!(waiting.poll()).is_ok());
    let id = received[0].interception_id;
    received.extend(
        drain(&mut events)
            .into_iter()
            .filter(|event| event.interception_id == id),
    );
    assert_whole(&received);
    assert_eq!(received.len(), 202);
    assert!(format!("{recorder:?}").contains("queued_bytes: 0"), "{recorder:?}");
}
