//! Reads a record file back, and checks what holds for every one.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::harness::string;

/// The events of each interception, in the file's order.
pub(crate) struct Records(BTreeMap<String, Vec<Value>>);

impl Records {
    /// Reads the file. Every interception must have one start, which is first, and one end, which is last.
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is whole");
        let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).expect(line);
            all.entry(string(&event["interception_id"])).or_default().push(event);
        }
        for events in all.values() {
            let count = |name| events.iter().filter(|event| event["event"] == name).count();
            assert_eq!((count("started"), count("ended")), (1, 1), "{events:#?}");
            assert_eq!(events[0]["event"], "started", "{events:#?}");
            assert_eq!(events[events.len() - 1]["event"], "ended", "{events:#?}");
            assert!(
                events.is_sorted_by(|a, b| a["sequence"].as_u64() < b["sequence"].as_u64()),
                "{events:#?}"
            );
        }
        Self(all)
    }

    /// The events of the one interception whose prompt this was.
    pub(crate) fn of_prompt(&self, prompt: &str) -> &[Value] {
        let mut found = self
            .0
            .values()
            .filter(|events| events.iter().any(|event| event["prompt"] == prompt));
        let events = found
            .next()
            .unwrap_or_else(|| panic!("no record of {prompt:?} in {:#?}", self.0));
        assert!(found.next().is_none());
        events
    }

    /// The start of each interception, in the order of time.
    pub(crate) fn started(&self) -> impl Iterator<Item = &Value> {
        self.0.values().map(|events| &events[0])
    }

    /// How often each outcome occurs.
    pub(crate) fn outcomes(&self) -> BTreeMap<String, usize> {
        let mut outcomes = BTreeMap::new();
        for events in self.0.values() {
            *outcomes
                .entry(string(&events[events.len() - 1]["outcome"]))
                .or_default() += 1;
        }
        outcomes
    }
}
