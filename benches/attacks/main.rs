//! What one caller, provider or tool server can cost the others: `cargo bench -p gateway --bench attacks`.
//!
//! ```text
//! attacker ────┐              ┌─► attackers' provider
//!              ├─► gateway ───┼─► tool servers
//! bystander ───┘              └─► bystander's provider
//! ```
//!
//! The gateway has its default settings. The bystander asks small questions, at rest and during each attack. An attack
//! passes if all of them are answered, and the 99th percentile of their latency stays within five times that at rest, or
//! within 2 ms; all attacks together pass if the gateway never takes more than a gigabyte.
//!
//! All but the gateway stand for other machines, but share the cores with it. So attackers, their provider and the tool servers
//! run when a core is idle: the busier the gateway is, the slower they are. The bystander and its provider interrupt all
//! others, if that is allowed (see [`priority`]). What is left of the scheduler's part are the gateway's own threads: a worker
//! waits up to 4 ms for a core on which a thread for vast work runs. `--raise-workers` removes that part, to show what the
//! workers do themselves.
//!
//! Arguments, behind `--`: attacks to run (all by default, by their names in the table), `--quick` for a second each and
//! smaller loads, `--seconds S` for one attack, `--gateway PATH` for another build of it than the one that cargo made for this,
//! such as `target/debug/gateway`, `--raise-workers` to give the gateway's workers real-time priority, `--strict` to exit with
//! an error if any row misses.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark's output is its purpose"
)]

mod arena;
mod attacks;
mod bystander;
mod caller;
mod priority;
#[allow(dead_code, reason = "the benchmark beside this one measures more of a process")]
#[path = "../loopback/process.rs"]
mod process;
mod provider;
mod roles;
mod tool_server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use arena::Arena;
use attacks::{ATTACKS, Attack};
use bystander::{Bystander, Latencies};
use caller::Caller;
use process::{Process, Setup};
use tokio::time::sleep;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the bystander's latency may grow to, in multiples of that at rest.
const FACTOR: f64 = 5.0;
/// Below this, a percentile is the scheduler's noise.
const NOISE: Duration = Duration::from_millis(2);
const MOST_MEMORY: u64 = 1_000_000_000;
/// Lets the gateway free what an attack left.
const SETTLE: Duration = Duration::from_millis(500);

struct Options {
    names: Vec<String>,
    time: Duration,
    is_quick: bool,
    is_strict: bool,
    raises_workers: bool,
    gateway: Option<PathBuf>,
}

struct Row {
    name: &'static str,
    about: &'static str,
    /// What the attackers were answered.
    answers: String,
    latencies: Latencies,
    allowed: Duration,
    peak: u64,
    problem: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, role)) if first == "--role" => roles::run(role),
        _ if !arguments.iter().any(|argument| argument == "--bench") => {
            println!("cargo bench runs this; as a test it does nothing");
            Ok(true)
        }
        _ => Options::parse(&arguments).and_then(|options| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(&options))
        }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("attacks: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all passed, as far as that was asked for.
async fn run(options: &Options) -> Result<bool, Failure> {
    let mut rows = Vec::new();
    // A tool server that floods does so all the time, so it has a gateway of its own, with a rest before it comes.
    for (kind, servers) in [
        ("", &["calm", "deep"][..]),
        ("flood", &["flood"]),
        ("print", &["print"]),
        ("answers", &["answers"]),
    ] {
        let attacks = ATTACKS.iter().filter(|attack| attack.server == kind);
        let attacks: Vec<&Attack> = attacks.filter(|attack| options.wants(attack.name)).collect();
        if !attacks.is_empty() {
            on_one_gateway(options, servers, &attacks, &mut rows).await?;
        }
    }
    let peak = rows.iter().map(|row| row.peak).max().unwrap_or(0);
    println!("\n| attack | | attackers were answered | asked | p50 | p99 | longest | allowed | peak memory so far | |");
    println!("|---|---|---|--:|--:|--:|--:|--:|--:|---|");
    for row in &rows {
        println!("{}", row.line());
    }
    println!(
        "\nPeak memory of the gateway, all together: {} MB (goal: below 1,000 MB)",
        peak / 1_000_000
    );
    let passed = peak < MOST_MEMORY && rows.iter().all(|row| row.problem.is_none());
    Ok(passed || !options.is_strict)
}

async fn on_one_gateway(
    options: &Options,
    servers: &[&str],
    attacks: &[&Attack],
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let (provider, bystanders) = (
        Process::provider_by(&priority::IDLE)?,
        Process::provider_by(priority::realtime())?,
    );
    let own = std::env::current_exe()?;
    let own = own.to_str().ok_or("the path of this program is not UTF-8")?;
    let setup = Setup::new(options.gateway.clone(), None);
    let start = |servers: &[&str]| {
        let tools: Vec<String> = servers
            .iter()
            .flat_map(|server| {
                [
                    "--mcp".to_owned(),
                    format!(
                        "{server}=stdio:{} {own} --role tools {server}",
                        priority::IDLE.join(" ")
                    ),
                ]
            })
            .collect();
        let gateway = Process::gateway_with(&setup, &provider, &bystanders, &tools)?;
        if options.raises_workers {
            priority::raise_workers(gateway.id())?;
        }
        Ok::<_, Failure>(gateway)
    };
    // What the bystander sees when nobody attacks, of the same build with no tool server.
    let calm = start(&[])?;
    let rest = Bystander::start(calm.address).during(sleep(options.time)).await?.1;
    drop(calm);
    let gateway = start(servers)?;
    let allowed = rest.percentile(99).mul_f64(FACTOR).max(NOISE);
    eprintln!("at rest: {rest}; allowed during an attack: p99 {allowed:.1?}");
    for attack in attacks {
        let arena = Arena {
            gateway: gateway.address,
            record: gateway.record().ok_or("the gateway records to no file")?.to_owned(),
            time: options.time,
            scale: if options.is_quick { 8 } else { 1 },
        };
        let bystander = Bystander::start(gateway.address);
        let (ended, latencies) = bystander.during(arena.attacked_by(attack.name)).await?;
        let harm = Caller::connect(provider.address, "harm").await?.harm().await?;
        let problem = match &ended {
            Err(problem) => Some(problem.to_string()),
            Ok(_) if harm > 0 => Some(format!("{harm} requests reached the provider that must not")),
            Ok(_) if latencies.refused > 0 => Some(format!("{} bystanders refused", latencies.refused)),
            Ok(_) if latencies.percentile(99) > allowed => Some("slow".to_owned()),
            Ok(_) => None,
        };
        let row = Row {
            name: attack.name,
            about: attack.about,
            answers: ended.unwrap_or_default(),
            latencies,
            allowed,
            peak: gateway.peak()?,
            problem,
        };
        eprintln!("{}", row.line());
        rows.push(row);
        sleep(SETTLE).await;
    }
    Ok(())
}

// === impl Options ===

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self {
            names: Vec::new(),
            time: Duration::from_secs(5),
            is_quick: false,
            is_strict: false,
            raises_workers: false,
            gateway: None,
        };
        let mut arguments = arguments.iter().filter(|argument| *argument != "--bench");
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => (options.is_quick, options.time) = (true, Duration::from_secs(1)),
                "--strict" => options.is_strict = true,
                "--raise-workers" => options.raises_workers = true,
                "--seconds" => options.time = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--gateway" => options.gateway = Some(value()?.into()),
                name if ATTACKS.iter().any(|attack| attack.name == name) => options.names.push(name.to_owned()),
                other => return Err(format!("there is no attack or option {other:?}").into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

// === impl Row ===

impl Row {
    fn line(&self) -> String {
        let Self {
            name,
            about,
            answers,
            latencies,
            allowed,
            peak,
            problem,
        } = self;
        let verdict = problem
            .as_ref()
            .map_or("pass".to_owned(), |problem| format!("miss: {problem}"));
        let [p50, p99, longest] = [50, 99, 100].map(|percent| latencies.percentile(percent));
        format!(
            "| {name} | {about} | {answers} | {} | {p50:.1?} | {p99:.1?} | {longest:.1?} | {allowed:.1?} | {} MB | {verdict} |",
            latencies.count(),
            peak / 1_000_000
        )
    }
}
