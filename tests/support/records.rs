//! Records for comparison in tests: JSON lines without values that differ from run to run.

use std::collections::HashMap;

use serde_json::Value;
use tower_llm_bridge::record::{Event, Events};

/// Every queued event, after a check of the rules for all of them: each interception's sequence has no gap, it begins
/// with `started`, and nothing follows its `ended`.
pub(crate) fn drain(events: &mut Events) -> Vec<Value> {
    let drained: Vec<Event> = std::iter::from_fn(|| events.try_recv()).collect();
    let mut next: HashMap<_, u64> = HashMap::new();
    let mut over: HashMap<_, bool> = HashMap::new();
    let mut values = Vec::new();
    for event in drained {
        let id = event.interception_id;
        let place = next.entry(id).or_default();
        assert_eq!(event.sequence, *place, "a gap before {event:?}");
        *place += 1;
        let value = serde_json::to_value(&event).expect("an event is JSON");
        assert_eq!(value["event"] == "started", event.sequence == 0, "{value}");
        let ended = over.entry(id).or_default();
        assert!(!*ended, "{value} after the end");
        *ended = value["event"] == "ended";
        values.push(value);
    }
    values
}

/// [`drain`] as JSON lines, without `at`, and with the interception's number instead of its `interception_id`.
pub(crate) fn lines(events: &mut Events) -> Vec<String> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let normal = |mut event: Value| {
        let fields = event.as_object_mut().expect("an event is an object");
        fields.remove("at").expect("an event has a time");
        let id = fields["interception_id"].as_str().expect("an id is text").to_owned();
        let next = numbers.len() + 1;
        let number = *numbers.entry(id).or_insert(next);
        fields.insert("interception_id".to_owned(), number.into());
        event.to_string()
    };
    drain(events).into_iter().map(normal).collect()
}

/// The names of `events`; of an `ended`, its outcome as well.
pub(crate) fn kinds(events: &[Value]) -> Vec<String> {
    let kind = |event: &Value| match (event["event"].as_str(), event["outcome"].as_str()) {
        (Some(kind), Some(outcome)) => format!("{kind} {outcome}"),
        (Some(kind), None) => kind.to_owned(),
        (None, _) => panic!("{event} has no name"),
    };
    events.iter().map(kind).collect()
}

/// [`drain`] without values that differ from run to run, or only repeat the order.
pub(crate) fn bare(events: &mut Events) -> Vec<Value> {
    let bare = |mut event: Value| {
        let fields = event.as_object_mut().expect("an event is an object");
        for name in ["interception_id", "at", "sequence"] {
            assert!(fields.remove(name).is_some(), "an event without {name}");
        }
        event
    };
    drain(events).into_iter().map(bare).collect()
}

/// The events of one kind.
pub(crate) fn of_kind<'a>(records: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |record| record["event"] == kind)
}

/// The one `ended`, which is the last of `records`.
pub(crate) fn ended(records: &[Value]) -> &Value {
    assert_eq!(of_kind(records, "ended").count(), 1, "{records:#?}");
    let last = records.last().expect("there is an end");
    assert_eq!(last["event"], "ended");
    last
}
