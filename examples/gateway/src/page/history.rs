//! The data of the page's pictures of the past, and their content from memory.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    hours::{BOUNDS, Counts, HOURS, Sums},
    ledger::{Ledger, OTHER, millis},
};

/// The names in a picture; all others are added up as one more.
pub(super) const NAMES: usize = 11;
/// Days of the longest range.
const DAYS: u64 = 30;

/// The time that the pictures show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    Hours,
    Days,
}

/// The data of all pictures.
#[derive(Debug, Serialize)]
pub(super) struct Pictures {
    source: &'static str,
    /// The seconds for which the data may be reused.
    max_age: u64,
    /// Seconds since 1970; a multiple of `step`.
    pub(super) from: u64,
    /// Seconds.
    pub(super) step: u64,
    steps: u64,
    pub(super) times: Vec<Point<Requests>>,
    pub(super) models: Vec<Series>,
    pub(super) actors: Vec<Series>,
    /// Upper bounds of the distributions' buckets, in milliseconds; one more bucket has no bound.
    bounds: &'static [u64],
    pub(super) duration: [u64; BOUNDS.len() + 1],
    pub(super) first_token: [u64; BOUNDS.len() + 1],
}

#[derive(Debug, Serialize)]
pub(super) struct Point<T> {
    /// The number of the step.
    pub(super) step: u64,
    #[serde(flatten)]
    pub(super) value: T,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Requests {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Series {
    name: String,
    points: Vec<Point<Sums>>,
}

/// Sums by name and step.
#[derive(Default)]
pub(super) struct Table(HashMap<String, HashMap<u64, Sums>>);

// === impl Range ===

impl Range {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "hours" => Some(Self::Hours),
            "days" => Some(Self::Days),
            _ => None,
        }
    }

    fn step(self) -> u64 {
        match self {
            Self::Hours => 3600,
            Self::Days => 24 * 3600,
        }
    }

    fn steps(self) -> u64 {
        match self {
            Self::Hours => HOURS as u64,
            Self::Days => DAYS,
        }
    }

    /// The first second of the first step; the last step is the present one.
    fn from(self) -> u64 {
        let now = millis(SystemTime::now()) / 1000;
        (now / self.step() + 1).saturating_sub(self.steps()) * self.step()
    }

    pub(super) fn empty(self, source: &'static str) -> Pictures {
        Pictures {
            source,
            max_age: max_age(source == DATABASE).as_secs(),
            from: self.from(),
            step: self.step(),
            steps: self.steps(),
            times: Vec::new(),
            models: Vec::new(),
            actors: Vec::new(),
            bounds: &BOUNDS,
            duration: Default::default(),
            first_token: Default::default(),
        }
    }
}

const MEMORY: &str = "memory";
pub(super) const DATABASE: &str = "database";

/// How long the pictures' data is reused.
pub(super) fn max_age(is_database: bool) -> Duration {
    Duration::from_secs(if is_database { 20 } else { 4 })
}

/// The data that memory has; of days, the last two.
pub(super) fn from_memory(ledger: &Ledger, range: Range) -> Pictures {
    let mut pictures = range.empty(MEMORY);
    let (mut models, mut actors) = (Table::default(), Table::default());
    let mut all = Counts::default();
    let mut times: Vec<Point<Requests>> = Vec::new();
    for hour in ledger.hours.since(pictures.from / 3600) {
        let step = (hour.at() - pictures.from) / pictures.step;
        // The clock was set back.
        if step >= pictures.steps {
            continue;
        }
        let counts = hour.counts();
        all.merge(counts);
        match times.last_mut() {
            Some(last) if last.step == step => last.value.merge(counts),
            _ => {
                let mut value = Requests::default();
                value.merge(counts);
                times.push(Point { step, value });
            }
        }
        models.add(step, hour.models());
        actors.add(step, hour.actors());
    }
    pictures.times = times;
    pictures.models = models.largest();
    pictures.actors = actors.largest();
    pictures.duration = all.duration;
    pictures.first_token = all.first_token;
    pictures
}

// === impl Requests ===

impl Requests {
    fn merge(&mut self, counts: &Counts) {
        self.requests += counts.requests;
        self.failed += counts.failed;
        self.cancelled += counts.cancelled;
    }
}

// === impl Table ===

impl Table {
    fn add(&mut self, step: u64, sums: &HashMap<String, Sums>) {
        for (name, sums) in sums {
            self.at(name, step).merge(sums);
        }
    }

    pub(super) fn at(&mut self, name: &str, step: u64) -> &mut Sums {
        self.0.entry(name.to_owned()).or_default().entry(step).or_default()
    }

    /// The largest [`NAMES`], and the others as one, which comes last.
    pub(super) fn largest(self) -> Vec<Series> {
        let mut named: Vec<_> = self.0.into_iter().collect();
        let tokens = |steps: &HashMap<u64, Sums>| steps.values().map(Sums::tokens).fold(0, u64::saturating_add);
        named.sort_by_cached_key(|(name, steps)| (name == OTHER, std::cmp::Reverse(tokens(steps)), name.clone()));
        let mut others: HashMap<u64, Sums> = HashMap::new();
        let mut largest = Vec::new();
        for (name, steps) in named {
            if largest.len() < NAMES && name != OTHER {
                largest.push(Series::new(name, steps));
            } else {
                for (step, sums) in steps {
                    others.entry(step).or_default().merge(&sums);
                }
            }
        }
        if !others.is_empty() {
            largest.push(Series::new(OTHER.to_owned(), others));
        }
        largest
    }
}

// === impl Series ===

impl Series {
    fn new(name: String, steps: HashMap<u64, Sums>) -> Self {
        let mut points: Vec<_> = steps.into_iter().map(|(step, value)| Point { step, value }).collect();
        points.sort_unstable_by_key(|point| point.step);
        Self { name, points }
    }
}
