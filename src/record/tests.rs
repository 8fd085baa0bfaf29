//! Recording is for billing: what must hold holds in every order of events, and at every point where a caller can leave.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use http::StatusCode;
use proptest::prelude::*;
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, task};
use uuid::Uuid;

use super::*;
use crate::types::KeyHint;

pub(super) fn started() -> Fact {
    Fact::Started {
        provider: "openai".into(),
        model: "gpt-4o".into(),
        path: "/v1/chat/completions".into(),
        streaming: false,
        initiator_id: None,
        metadata: BTreeMap::new(),
        client: "unknown".into(),
        client_session_id: None,
        user_agent: None,
        correlating_tool_call_id: None,
        credential_kind: CredentialKind::Centralized,
        credential_hint: None,
    }
}

pub(super) fn prompt() -> Fact {
    Fact::PromptUsage {
        msg_id: "chatcmpl-1".into(),
        prompt: "hello".into(),
    }
}

fn tokens(input: u64) -> Fact {
    let usage = TokenUsage {
        input,
        output: 1,
        ..TokenUsage::default()
    };
    Fact::TokenUsage {
        msg_id: "chatcmpl-1".into(),
        model: "gpt-4o-2024-08-06".into(),
        service_tier: None,
        usage,
        extra: TokenDetails::default(),
    }
}

/// Begins where a credit is free: without a runtime, so without a timer.
fn begin(recorder: &Recorder) -> Interception {
    assert_ready!(task::spawn(recorder.begin(started)).poll()).unwrap()
}

fn drain(events: &mut Events) -> Vec<Event> {
    std::iter::from_fn(|| events.try_recv()).collect()
}

fn outcome(fact: &Fact) -> Outcome {
    match fact {
        Fact::Ended { outcome, .. } => *outcome,
        other => panic!("not the end: {other:?}"),
    }
}

/// One interception's events: in sequence, started first, ended last, each once.
fn assert_whole(events: &[Event]) {
    for (sequence, event) in events.iter().enumerate() {
        assert_eq!(event.sequence, sequence as u64);
        assert_eq!(event.interception_id, events[0].interception_id);
        assert_eq!(matches!(event.fact, Fact::Started { .. }), sequence == 0);
        assert_eq!(matches!(event.fact, Fact::Ended { .. }), sequence + 1 == events.len());
    }
    assert!(events.len() >= 2);
}

fn assert_send<T: Send>() {}

#[test]
fn an_interception_may_live_in_a_spawned_future_or_a_body() {
    assert_send::<Interception>();
    assert_send::<Events>();
}

#[test]
fn finish_tells_everything_that_was_counted() {
    let (recorder, mut events) = Recorder::channel(1);
    let mut interception = begin(&recorder);
    assert!(interception.is_recorded());
    assert_eq!(interception.id().get_version_num(), 7);
    interception.round();
    interception.key_attempt(Some(&KeyHint::of("sk-0123456789abcdefghij")));
    interception.key_attempt(Some(&KeyHint::of("sk-zyxwvutsrqponmlkjihg")));
    interception.emit(prompt());
    interception.emit(tokens(7));
    interception.round();
    interception.key_attempt(Some(&KeyHint::of("sk-0123456789abcdefghij")));
    interception.emit(tokens(5));
    assert_eq!(interception.key_attempts(), 3);
    assert_eq!((interception.usage().input, interception.usage().output), (12, 2));
    let id = interception.id();
    interception.finish(Outcome::UpstreamError, Some(StatusCode::BAD_GATEWAY), Some("api_error"));

    let events = drain(&mut events);
    assert_eq!(events.len(), 5);
    assert_eq!(events[0].interception_id, id);
    assert_whole(&events);
    let usage = TokenUsage {
        input: 12,
        output: 2,
        ..TokenUsage::default()
    };
    assert_eq!(
        events[4].fact,
        Fact::Ended {
            outcome: Outcome::UpstreamError,
            status: Some(502),
            error_type: Some("api_error".into()),
            credential_hint: Some(KeyHint::of("sk-0123456789abcdefghij")),
            key_attempts: 3,
            rounds: 2,
            usage,
            duration_ms: 0,
            time_to_first_token_ms: None,
        }
    );
}

#[tokio::test(start_paused = true)]
async fn durations_are_measured_and_the_first_token_counts_once() {
    let (recorder, mut events) = Recorder::channel(1);
    let mut interception = recorder.begin(started).await.unwrap();
    tokio::time::advance(Duration::from_millis(250)).await;
    interception.first_token();
    tokio::time::advance(Duration::from_millis(750)).await;
    interception.first_token();
    interception.finish(Outcome::Completed, Some(StatusCode::OK), None);
    match drain(&mut events).pop().unwrap().fact {
        Fact::Ended {
            duration_ms,
            time_to_first_token_ms,
            ..
        } => {
            assert_eq!((duration_ms, time_to_first_token_ms), (1000, Some(250)));
        }
        other => panic!("not the end: {other:?}"),
    }
}

#[test]
fn unrecorded_counts_and_says_nothing() {
    let mut interception = Interception::unrecorded();
    assert!(!interception.is_recorded());
    interception.round();
    interception.emit(tokens(3));
    assert_eq!(interception.usage().input, 3);
    assert_ne!(interception.id(), Interception::unrecorded().id());
    interception.finish(Outcome::Completed, None, None);
}

#[test]
fn a_drop_is_a_cancellation() {
    let (recorder, mut events) = Recorder::channel(1);
    drop(begin(&recorder));
    let events = drain(&mut events);
    assert_whole(&events);
    assert_eq!(outcome(&events[1].fact), Outcome::Cancelled);
}

#[tokio::test]
async fn dropped_at_any_await_it_ends_once() {
    async fn pipeline(recorder: Recorder) {
        let mut interception = recorder.begin(started).await.unwrap();
        for round in 0..3 {
            interception.round();
            tokio::task::yield_now().await;
            interception.emit(tokens(round));
        }
        interception.finish(Outcome::Completed, Some(StatusCode::OK), None);
    }

    let (recorder, mut events) = Recorder::channel(1);
    for polls in 1..=4 {
        let mut pipeline = task::spawn(pipeline(recorder.clone()));
        for poll in 1..=polls {
            assert_eq!(pipeline.poll().is_ready(), poll == 4);
        }
        drop(pipeline);
        let events = drain(&mut events);
        assert_whole(&events);
        assert_eq!(events.len(), 1 + polls);
        let expected = if polls == 4 {
            Outcome::Completed
        } else {
            Outcome::Cancelled
        };
        assert_eq!(outcome(&events[polls].fact), expected);
    }
}

#[test]
fn a_panic_is_the_bridges_error() {
    let (recorder, mut events) = Recorder::channel(1);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let mut interception = begin(&recorder);
        interception.emit(prompt());
        panic!("on purpose");
    }));
    assert!(unwound.is_err());
    let events = drain(&mut events);
    assert_whole(&events);
    assert_eq!(outcome(&events[2].fact), Outcome::BridgeError);
}

#[tokio::test]
async fn a_panic_behind_an_await_is_the_bridges_error() {
    let (recorder, mut events) = Recorder::channel(1);
    let spawned = tokio::spawn(async move {
        let mut interception = recorder.begin(started).await.unwrap();
        let inner = async {
            tokio::task::yield_now().await;
            interception.emit(prompt());
            panic!("on purpose");
        };
        inner.await;
    });
    assert!(spawned.await.unwrap_err().is_panic());
    let events = drain(&mut events);
    assert_whole(&events);
    assert_eq!(outcome(&events[2].fact), Outcome::BridgeError);
}

#[tokio::test(start_paused = true)]
async fn one_credit_carries_any_number_of_interceptions() {
    let (recorder, mut events) = Recorder::channel(1);
    for _ in 0..32 {
        let recorder = recorder.clone();
        tokio::spawn(async move {
            let mut interception = recorder.begin(started).await.unwrap();
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
    // With one credit they do not even interleave.
    assert_eq!(seen.len(), 32 * 10);
    seen.chunks(10).for_each(assert_whole);
}

#[tokio::test(start_paused = true)]
async fn a_credit_returns_when_the_end_is_received() {
    let (recorder, mut events) = Recorder::channel(1);
    let mut interception = recorder.begin(started).await.unwrap();
    let mut next = task::spawn(recorder.begin(started));
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
async fn a_consumer_that_is_behind_makes_busy_after_five_seconds() {
    // Running on unrecorded is for a consumer that is gone, not for one that is slow.
    for allow_unrecorded in [false, true] {
        let (recorder, _events) = Recorder::channel(1);
        let recorder = if allow_unrecorded {
            recorder.allow_unrecorded()
        } else {
            recorder
        };
        recorder
            .begin(started)
            .await
            .unwrap()
            .finish(Outcome::Completed, None, None);

        let start = Instant::now();
        assert_eq!(recorder.begin(started).await.unwrap_err(), Unavailable::Busy);
        let waited = Instant::now().saturating_duration_since(start);
        // Tokio's timers tick in milliseconds.
        assert!(
            (Duration::from_secs(5)..Duration::from_millis(5002)).contains(&waited),
            "{waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_credit_in_time_is_taken() {
    let (recorder, mut events) = Recorder::channel(1);
    drop(recorder.begin(started).await.unwrap());
    let (late, ()) = tokio::join!(recorder.begin(started), async {
        tokio::time::sleep(Duration::from_millis(4999)).await;
        drain(&mut events);
    });
    assert!(late.is_ok());
}

#[test]
fn closed_is_said_at_once() {
    let (recorder, events) = Recorder::channel(1);
    drop(events);
    assert_eq!(
        assert_ready!(task::spawn(recorder.begin(started)).poll()).unwrap_err(),
        Unavailable::Closed
    );
    let interception = begin(&recorder.allow_unrecorded());
    assert!(!interception.is_recorded());
}

#[tokio::test(start_paused = true)]
async fn closed_is_said_at_once_to_those_who_wait() {
    let (recorder, events) = Recorder::channel(1);
    let lenient = recorder.clone().allow_unrecorded();
    let mut running = recorder.begin(started).await.unwrap();
    let mut waiting = task::spawn(recorder.begin(started));
    let mut waiting_leniently = task::spawn(lenient.begin(started));
    assert_pending!(waiting.poll());
    assert_pending!(waiting_leniently.poll());
    drop(events);
    assert!(waiting.is_woken() && waiting_leniently.is_woken());
    assert_eq!(assert_ready!(waiting.poll()).unwrap_err(), Unavailable::Closed);
    assert!(!assert_ready!(waiting_leniently.poll()).unwrap().is_recorded());
    // Who runs, runs on.
    running.emit(prompt());
    running.finish(Outcome::Completed, None, None);
}

#[test]
fn a_drain_sees_everything_and_then_the_end() {
    let (recorder, mut events) = Recorder::channel(2);
    let first = begin(&recorder);
    let second = begin(&recorder);
    drop(recorder);
    drop(first);
    let mut rest = task::spawn(());
    for _ in 0..3 {
        assert!(assert_ready!(rest.enter(|cx, _| events.poll_recv(cx))).is_some());
    }
    assert_pending!(rest.enter(|cx, _| events.poll_recv(cx)));
    drop(second);
    assert!(rest.is_woken());
    assert!(assert_ready!(rest.enter(|cx, _| events.poll_recv(cx))).is_some());
    assert_eq!(assert_ready!(rest.enter(|cx, _| events.poll_recv(cx))), None);
    assert_eq!(events.blocking_recv(), None);
}

#[test]
fn no_credits_count_as_one_and_too_many_as_many() {
    let (recorder, _events) = Recorder::channel(0);
    begin(&recorder);
    let (recorder, _events) = Recorder::channel(usize::MAX);
    begin(&recorder);
}

#[test]
fn debug_output_is_short() {
    let (recorder, events) = Recorder::channel(2);
    let _running = begin(&recorder);
    assert_eq!(
        format!("{recorder:?}"),
        "Recorder { free_credits: 1, closed: false, allow_unrecorded: false }"
    );
    assert_eq!(format!("{events:?}"), "Events { queued: 1, .. }");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin,
    Emit(usize),
    Finish(usize),
    Drop(usize),
    Receive,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Begin),
        4 => any::<usize>().prop_map(Step::Emit),
        1 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Drop),
        3 => Just(Step::Receive),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn in_any_order_each_interception_is_whole(steps in steps(), credits in 1usize..4) {
        let (recorder, mut events) = Recorder::channel(credits);
        let mut running: Vec<(Interception, usize)> = Vec::new();
        let mut expected: BTreeMap<Uuid, (usize, Outcome)> = BTreeMap::new();
        let mut seen: BTreeMap<Uuid, Vec<Event>> = BTreeMap::new();
        // As the consumer knows it: begun, and not yet seen to end.
        let mut admitted = 0;
        for step in steps {
            match step {
                Step::Begin if admitted < credits => {
                    running.push((begin(&recorder), 2));
                    admitted += 1;
                }
                Step::Emit(index) if !running.is_empty() => {
                    let index = index % running.len();
                    running[index].0.emit(tokens(1));
                    running[index].1 += 1;
                }
                Step::Finish(index) if !running.is_empty() => {
                    let (interception, count) = running.swap_remove(index % running.len());
                    expected.insert(interception.id(), (count, Outcome::Completed));
                    interception.finish(Outcome::Completed, Some(StatusCode::OK), None);
                }
                Step::Drop(index) if !running.is_empty() => {
                    let (interception, count) = running.swap_remove(index % running.len());
                    expected.insert(interception.id(), (count, Outcome::Cancelled));
                }
                Step::Receive => {
                    if let Some(event) = events.try_recv() {
                        admitted -= usize::from(matches!(event.fact, Fact::Ended { .. }));
                        seen.entry(event.interception_id).or_default().push(event);
                    }
                }
                Step::Begin => {
                    // Reserved neither by us nor by an event that waits: full means full.
                    let shown = format!("{recorder:?}");
                    prop_assert!(shown.contains("free_credits: 0"));
                }
                Step::Emit(_) | Step::Finish(_) | Step::Drop(_) => {}
            }
        }
        drop(recorder);
        for (interception, count) in running {
            expected.insert(interception.id(), (count, Outcome::Cancelled));
        }
        while let Some(event) = events.blocking_recv() {
            seen.entry(event.interception_id).or_default().push(event);
        }
        prop_assert_eq!(seen.len(), expected.len());
        for (id, (count, ended)) in expected {
            let events = &seen[&id];
            assert_whole(events);
            prop_assert_eq!(events.len(), count);
            prop_assert_eq!(outcome(&events[count - 1].fact), ended);
        }
    }
}
