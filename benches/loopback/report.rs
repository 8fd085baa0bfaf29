//! The table that is printed: ratios, their spread over the rounds, and whether the goal is met.

use std::time::Duration;

/// The rows of the table.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

struct Row {
    work: String,
    floor: String,
    gateway: String,
    spread: Spread,
    goal: Option<f64>,
}

/// A quantity's median, quartiles and extremes.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    quartiles: [f64; 2],
    ends: [f64; 2],
}

// === impl Report ===

impl Report {
    /// A row of CPU times per request, round by round.
    pub(crate) fn cpu(&mut self, work: String, floor: &[Duration], gateway: &[Duration], goal: Option<f64>) {
        let seconds = |all: &[Duration]| Spread::of(all.iter().map(Duration::as_secs_f64)).median;
        let ratios = floor.iter().zip(gateway);
        let spread = Spread::of(ratios.map(|(floor, gateway)| gateway.as_secs_f64() / floor.as_secs_f64()));
        let micros = |seconds: f64| format!("{:.1} µs", seconds * 1e6);
        self.row(work, micros(seconds(floor)), micros(seconds(gateway)), spread, goal);
    }

    pub(crate) fn row(&mut self, work: String, floor: String, gateway: String, spread: Spread, goal: Option<f64>) {
        let row = Row {
            work,
            floor,
            gateway,
            spread,
            goal,
        };
        eprintln!("{}", row.line());
        self.rows.push(row);
    }

    pub(crate) fn print(&self) {
        println!("\n| work | floor | gateway | ratio | half of the rounds | all rounds | goal | |");
        println!("|---|--:|--:|--:|--:|--:|--:|---|");
        for row in &self.rows {
            println!("{}", row.line());
        }
    }
}

// === impl Row ===

impl Row {
    fn line(&self) -> String {
        let Self {
            work,
            floor,
            gateway,
            spread:
                Spread {
                    median,
                    quartiles: [lower, upper],
                    ends: [low, high],
                },
            goal,
        } = self;
        let (goal, verdict) = match goal {
            Some(goal) => (format!("≤ {goal}"), if median <= goal { "pass" } else { "miss" }),
            None => (String::new(), ""),
        };
        format!(
            "| {work} | {floor} | {gateway} | **{median:.2}** | {lower:.2}–{upper:.2} | {low:.2}–{high:.2} | {goal} | {verdict} |"
        )
    }
}

// === impl Spread ===

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self {
            median: (at(sorted.len() / 2) + at(last / 2)) / 2.0,
            quartiles: [at(sorted.len() / 4), at((sorted.len() * 3 / 4).min(last))],
            ends: [at(0), at(last)],
        }
    }
}
