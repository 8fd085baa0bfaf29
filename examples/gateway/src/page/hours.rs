//! Sums by hour, for the pictures: requests, tokens and costs by model and by actor, and two distributions of times.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;
use tower_llm_bridge::record::{Amount, Cost, Outcome, TokenUsage};

use super::ledger::{OTHER, Request};

/// Hours that are kept.
pub(super) const HOURS: usize = 48;
/// Names of one kind in one hour.
const MAX_NAMES: usize = 64;
/// Currencies in one sum.
const MAX_CURRENCIES: usize = 4;
/// The upper bounds of the distributions, in milliseconds; one more bucket has the slower ones.
pub(super) const BOUNDS: [u64; 17] = [
    25, 50, 100, 200, 400, 700, 1_000, 2_000, 4_000, 7_000, 10_000, 20_000, 40_000, 70_000, 120_000, 300_000, 600_000,
];

/// The last [`HOURS`] hours in which a request began, in order.
#[derive(Debug, Default)]
pub(super) struct Hours(VecDeque<Hour>);

#[derive(Debug)]
pub(super) struct Hour {
    /// Since 1970.
    hour: u64,
    counts: Counts,
    models: HashMap<String, Sums>,
    actors: HashMap<String, Sums>,
}

/// Requests of one time, and how long they took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) duration: [u64; BOUNDS.len() + 1],
    pub(super) first_token: [u64; BOUNDS.len() + 1],
}

/// The tokens and costs of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sums {
    #[serde(flatten)]
    pub(super) usage: TokenUsage,
    /// Requests that used tokens and have no price.
    pub(super) unpriced: u64,
    pub(super) costs: Vec<Cost>,
}

// === impl Hours ===

impl Hours {
    pub(super) fn add(&mut self, request: &Request) {
        let hour = self.hour(request.hour());
        hour.counts.add(request);
        let is_empty = request.usage == TokenUsage::default();
        // Model names without an answer of a provider are not counted.
        if !is_empty {
            named(&mut hour.models, &request.model).add(request);
            named(&mut hour.actors, request.actor.as_deref().unwrap_or("nobody")).add(request);
        }
    }

    /// From the hour `first` on.
    pub(super) fn since(&self, first: u64) -> impl Iterator<Item = &Hour> {
        self.0.iter().filter(move |hour| hour.hour >= first)
    }

    fn hour(&mut self, hour: u64) -> &mut Hour {
        let index = match self.0.binary_search_by_key(&hour, |known| known.hour) {
            Ok(index) => index,
            Err(0) if self.0.len() == HOURS => 0, // Older than all that are kept: counted to the oldest.
            Err(mut index) => {
                if self.0.len() == HOURS {
                    self.0.pop_front();
                    index -= 1;
                }
                self.0.insert(index, Hour::new(hour));
                index
            }
        };
        &mut self.0[index]
    }
}

/// The sums of `name`, or of all others once there are too many.
fn named<'a>(sums: &'a mut HashMap<String, Sums>, name: &str) -> &'a mut Sums {
    let name = if sums.len() >= MAX_NAMES && !sums.contains_key(name) {
        OTHER
    } else {
        name
    };
    sums.entry(name.to_owned()).or_default()
}

// === impl Hour ===

impl Hour {
    fn new(hour: u64) -> Self {
        Self {
            hour,
            counts: Counts::default(),
            models: HashMap::new(),
            actors: HashMap::new(),
        }
    }

    /// In seconds since 1970.
    pub(super) fn at(&self) -> u64 {
        self.hour * 3600
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn models(&self) -> &HashMap<String, Sums> {
        &self.models
    }

    pub(super) fn actors(&self) -> &HashMap<String, Sums> {
        &self.actors
    }
}

// === impl Counts ===

impl Counts {
    fn add(&mut self, request: &Request) {
        self.requests += 1;
        match request.outcome {
            Some(Outcome::Completed) | None => {}
            Some(Outcome::Cancelled) => self.cancelled += 1,
            Some(_) => self.failed += 1,
        }
        if let Some(time) = request.duration_ms {
            self.duration[bucket(time)] += 1;
        }
        if let Some(time) = request.first_token_ms {
            self.first_token[bucket(time)] += 1;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        for (mine, theirs) in [
            (&mut self.duration, &other.duration),
            (&mut self.first_token, &other.first_token),
        ] {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                *mine += theirs;
            }
        }
    }
}

fn bucket(time: u64) -> usize {
    BOUNDS.partition_point(|bound| *bound < time)
}

// === impl Sums ===

impl Sums {
    fn add(&mut self, request: &Request) {
        self.usage += request.usage;
        match &request.cost {
            Some(cost) => self.pay(cost),
            None => self.unpriced += 1,
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.usage += other.usage;
        self.unpriced += other.unpriced;
        for cost in &other.costs {
            self.pay(cost);
        }
    }

    pub(super) fn tokens(&self) -> u64 {
        let usage = &self.usage;
        [
            usage.output,
            usage.cache_read_input_tokens,
            usage.cache_write_input_tokens,
        ]
        .into_iter()
        .fold(usage.input, u64::saturating_add)
    }

    /// A cost that finds no place counts as unpriced, so that no sum is wrong and nothing is left out.
    pub(super) fn pay(&mut self, cost: &Cost) {
        let Some(known) = self.costs.iter_mut().find(|known| known.currency == cost.currency) else {
            if self.costs.len() < MAX_CURRENCIES {
                self.costs.push(cost.clone());
            } else {
                self.unpriced += 1;
            }
            return;
        };
        match known.amount.plus(cost.amount) {
            Some(sum) => known.amount = sum,
            None => self.unpriced += 1,
        }
    }
}

/// Reads an amount that a database gives as text; `None` if it is none.
pub(super) fn cost(amount: &str, currency: String) -> Option<Cost> {
    Some(Cost::new(amount.parse::<Amount>().ok()?, currency))
}
