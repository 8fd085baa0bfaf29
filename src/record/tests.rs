//! Recording is for billing: no order of events, and no point at which a caller leaves, loses or doubles a record.

mod admission;
mod receiving;

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
use crate::types::{Dialect, KeyHint};

pub(super) fn started() -> Fact {
    Fact::Started {
        provider: "openai".into(),
        dialect: Dialect::ChatCompletions,
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
        cost: None,
    }
}

/// Begins where a place is free: without a runtime, so without a timer.
fn begin(recorder: &Recorder) -> Interception {
    assert_ready!(task::spawn(recorder.begin(None, started)).poll()).unwrap()
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
    interception.note_round();
    interception.note_key_attempt(Some(&KeyHint::of("sk-0123456789abcdefghij")));
    interception.note_key_attempt(Some(&KeyHint::of("sk-zyxwvutsrqponmlkjihg")));
    interception.emit(prompt());
    interception.emit(tokens(7));
    interception.note_round();
    interception.note_key_attempt(Some(&KeyHint::of("sk-0123456789abcdefghij")));
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
            injection: Injection::None,
            usage,
            cost: None,
            duration_ms: 0,
            time_to_first_token_ms: None,
        }
    );
}

#[tokio::test(start_paused = true)]
async fn durations_are_measured_and_the_first_token_counts_once() {
    let (recorder, mut events) = Recorder::channel(1);
    let mut interception = recorder.begin(None, started).await.unwrap();
    tokio::time::advance(Duration::from_millis(250)).await;
    interception.note_first_token();
    tokio::time::advance(Duration::from_millis(750)).await;
    interception.note_first_token();
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
    interception.note_round();
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
        let mut interception = recorder.begin(None, started).await.unwrap();
        for round in 0..3 {
            interception.note_round();
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
        let mut interception = recorder.begin(None, started).await.unwrap();
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

#[test]
fn long_texts_are_cut_before_they_are_queued() {
    let (recorder, mut events) = Recorder::channel(1);
    let recorder = recorder.max_text(1_000).max_id(100);
    let mut interception = begin(&recorder);
    interception.emit(Fact::PromptUsage {
        msg_id: "i".repeat(101),
        prompt: "p".repeat(1_001),
    });
    let long = drain(&mut events).remove(1);
    let Fact::PromptUsage { msg_id, prompt } = long.fact else {
        panic!("not the prompt");
    };
    assert!(
        msg_id.len() <= 100 && msg_id.ends_with("[cut: 101 bytes in all]"),
        "{msg_id}"
    );
    assert!(
        prompt.len() <= 1_000 && prompt.ends_with("[cut: 1001 bytes in all]"),
        "{prompt}"
    );
}

#[test]
fn the_end_tells_the_price_of_all_rounds() {
    let (recorder, mut events) = Recorder::channel(1);
    let mut interception = begin(&recorder);
    let usd = |amount: &str| Some(Cost::new(amount.parse().unwrap(), "USD"));
    for price in ["0.1", "0.02"] {
        let mut fact = tokens(1);
        if let Fact::TokenUsage { cost, .. } = &mut fact {
            *cost = usd(price);
        }
        interception.emit(fact);
    }
    interception.set_injection(Injection::Refused);
    interception.finish(Outcome::Completed, None, None);
    match drain(&mut events).pop().unwrap().fact {
        Fact::Ended { cost, injection, .. } => assert_eq!((cost, injection), (usd("0.12"), Injection::Refused)),
        other => panic!("not the end: {other:?}"),
    }
}

#[test]
fn each_round_is_priced_once_and_a_hook_that_panics_prices_nothing() {
    let (recorder, mut events) = Recorder::channel(8);
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = std::sync::Arc::clone(&asked);
    let recorder = recorder.price(move |round: &price::Round<'_>| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert_eq!((round.provider, round.dialect), ("openai", Dialect::ChatCompletions));
        assert_ne!(round.usage.input, 13, "on purpose");
        let each: Amount = "0.5".parse().unwrap();
        (round.usage.input < 100).then(|| Cost::new(each.times(round.usage.input).unwrap(), "USD"))
    });
    let mut costs = |rounds: &[u64]| -> Vec<Option<String>> {
        let mut interception = begin(&recorder);
        for input in rounds {
            // What a later report replaces is not priced.
            interception.hold(tokens(1));
            interception.hold(tokens(*input));
            interception.release();
        }
        interception.finish(Outcome::Completed, None, None);
        let cost = |event: Event| match event.fact {
            Fact::TokenUsage { cost, .. } | Fact::Ended { cost, .. } => Some(cost.map(|cost| cost.to_string())),
            _ => None,
        };
        drain(&mut events).into_iter().filter_map(cost).collect()
    };
    let usd = |amount: &str| Some(format!("{amount} USD"));
    assert_eq!(costs(&[3, 4]), [usd("1.5"), usd("2"), usd("3.5")]);
    assert_eq!(costs(&[3, 100]), [usd("1.5"), None, None]);
    assert_eq!(costs(&[13, 2]), [None, usd("1"), None]);
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 6);
}

#[test]
fn closed_is_said_at_once() {
    let (recorder, events) = Recorder::channel(1);
    drop(events);
    assert_eq!(
        assert_ready!(task::spawn(recorder.begin(None, started)).poll()).unwrap_err(),
        Unavailable::Closed
    );
    assert!(recorder.is_closed());
    let interception = begin(&recorder.allow_unrecorded());
    assert!(!interception.is_recorded());
}

#[tokio::test(start_paused = true)]
async fn closed_is_said_at_once_to_those_who_wait() {
    let (recorder, events) = Recorder::channel(1);
    let lenient = recorder.clone().allow_unrecorded();
    let mut running = recorder.begin(None, started).await.unwrap();
    let mut waiting = task::spawn(recorder.begin(None, started));
    let mut waiting_leniently = task::spawn(lenient.begin(None, started));
    assert_pending!(waiting.poll());
    assert_pending!(waiting_leniently.poll());
    drop(events);
    assert!(waiting.is_woken() && waiting_leniently.is_woken());
    assert_eq!(assert_ready!(waiting.poll()).unwrap_err(), Unavailable::Closed);
    assert!(!assert_ready!(waiting_leniently.poll()).unwrap().is_recorded());
    // A running interception goes on.
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
fn no_places_count_as_one_and_too_many_as_many() {
    let (recorder, _events) = Recorder::channel(0);
    begin(&recorder);
    let (recorder, _events) = Recorder::channel(usize::MAX);
    begin(&recorder);
}

#[test]
fn debug_output_is_short() {
    let (recorder, events) = Recorder::channel(2);
    let _running = begin(&recorder);
    let shown = format!("{recorder:?}");
    assert!(
        shown.starts_with("Recorder { free_places: 1, queued_bytes: "),
        "{shown}"
    );
    assert!(
        shown.ends_with(", is_closed: false, allow_unrecorded: false, .. }"),
        "{shown}"
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
    fn in_any_order_each_interception_is_whole(steps in steps(), places in 1usize..4) {
        let (recorder, mut events) = Recorder::channel(places);
        let mut running: Vec<(Interception, usize)> = Vec::new();
        let mut expected: BTreeMap<Uuid, (usize, Outcome)> = BTreeMap::new();
        let mut seen: BTreeMap<Uuid, Vec<Event>> = BTreeMap::new();
        // Interceptions that have begun, and whose end the consumer has not received.
        let mut admitted = 0;
        for step in steps {
            match step {
                Step::Begin if admitted < places => {
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
                    // All places are taken, and the recorder counts none of them as free.
                    let shown = format!("{recorder:?}");
                    prop_assert!(shown.contains("free_places: 0"));
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
