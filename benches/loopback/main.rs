//! Measures the gateway's cost as a multiple of a bare reverse proxy: `cargo bench -p gateway --bench loopback --features
//! jemalloc`.
//!
//! ```text
//!                    ┌─► floor ─────────────┐
//! load (this process)┼─► gateway ───────────┼─► provider
//!                    └─► gateway with tools ┘
//! ```
//!
//! Each server is a separate process, started from here and called over loopback. The servers take turns, round by
//! round, so that other load on the machine meets all of them. The result is the CPU time per request that the kernel
//! booked on a process, and its ratio to that of the server measured next to it. Nothing here fails because it is slow.
//!
//! Arguments, behind `--`: the rows to run (`1k 64k 512k stream paced messages responses latency
//! memory`, all by default), `--rounds N`,
//! `--seconds S` for one turn, `--workers N` for the gateway's threads (1 by default, as the floor is one core; 0 for
//! its own choice), `--gateway PATH` for another build of it than the one that cargo made for this.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark's output is its purpose"
)]

mod floor;
mod load;
mod memory;
mod process;
mod provider;
mod report;
mod roles;
#[path = "../support/mod.rs"]
mod support;
mod variant;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use load::{Load, Work};
use process::{Process, Setup};
use provider::{LIMITED_KEY, WORKING_KEY};
use report::{Report, Spread};
use tokio::time::sleep;
use words::Api;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The gateway's allocator when deployed. The floor uses it as well, so that only its use differs.
#[cfg(all(feature = "jemalloc", not(target_env = "msvc")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const KIB: usize = 1024;
const TOOLS: usize = 40;
const WARM_UP: Duration = Duration::from_millis(300);
/// Lets the record writer finish before the CPU time is read.
const SETTLE: Duration = Duration::from_millis(20);

/// The options of the command line.
struct Options {
    rows: Vec<String>,
    rounds: usize,
    turn: Duration,
    workers: Option<u32>,
    gateway: Option<PathBuf>,
}

/// One server that takes turns with others.
struct Runner {
    process: Process,
    load: Load,
    /// CPU time per request, of each round.
    costs: Vec<Duration>,
}

/// What a server does with each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Forward,
    /// Only records.
    Record,
    Inject,
    FailOver,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, role)) if first == "--role" => roles::run(role),
        _ if !arguments.iter().any(|argument| argument == "--bench") => {
            println!("cargo bench runs this; as a test it does nothing");
            Ok(())
        }
        _ => Options::parse(&arguments).and_then(|options| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(&options))
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("loopback: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options) -> Result<(), Failure> {
    let setup = Setup::new(options.gateway.clone(), options.workers);
    let mut report = Report::default();
    let blocking = |kib: usize, connections| Work {
        api: Api::Chat,
        body: support::request(kib * KIB, false),
        connections,
        stream: None,
    };
    let stream = |pause| Work {
        api: Api::Chat,
        body: support::request(4 * KIB, true),
        connections: 16,
        stream: Some(pause),
    };
    let rows = [
        ("1k", "1 KiB, 64 connections", blocking(1, 64), 1.3, 1.6),
        ("64k", "64 KiB, 8 connections", blocking(64, 8), 1.5, 1.6),
        ("512k", "512 KiB, 8 connections", blocking(512, 8), 1.6, 1.7),
        ("stream", "stream of 100 chunks, 16 connections", stream(0), 1.3, 1.4),
        ("paced", "the same, 1 ms between chunks", stream(1000), 1.3, 1.4),
    ];
    for (name, title, work, goal, tools_goal) in rows {
        if options.wants(name) {
            let goals = [Some(goal), Some(tools_goal)];
            cpu(options, &setup, &mut report, (name, title), &work, goals).await?;
        }
    }
    // A request as an agent sends it each turn, and a chat request of the same length.
    let agent = |api: Api, kib: usize| Work {
        api,
        body: api.request(kib * KIB),
        connections: 8,
        stream: Some(0),
    };
    let rows = [
        ("messages", "Messages", Api::Messages, 120),
        ("messages", "chat", Api::Chat, 120),
        ("responses", "Responses", Api::Responses, 40),
        ("responses", "chat", Api::Chat, 40),
    ];
    for (name, title, api, kib) in rows {
        if options.wants(name) {
            let title = format!("{title}: {kib} KiB, stream of 100 chunks");
            cpu(
                options,
                &setup,
                &mut report,
                (name, &title),
                &agent(api, kib),
                [None, None],
            )
            .await?;
        }
    }
    if options.wants("latency") {
        latency(options, &setup, &mut report, &blocking(1, 1)).await?;
    }
    if options.wants("memory") {
        memory(&setup, &mut report, &blocking(512, provider::HELD)).await?;
    }
    report.print();
    Ok(())
}

/// The rows of one kind of work: plain; with tools; for the smallest also with a first key that is refused; and for
/// APIs side by side also the floor against itself, which shows how exact the other rows are.
async fn cpu(
    options: &Options,
    setup: &Setup,
    report: &mut Report,
    (name, title): (&str, &str),
    work: &Work,
    [goal, tools_goal]: [Option<f64>; 2],
) -> Result<(), Failure> {
    let provider = Process::provider()?;
    let mut servers = vec![
        (Process::floor(&provider)?, Does::Forward),
        (Process::gateway(setup, &provider)?, Does::Record),
        (Process::variant(setup, &provider, TOOLS, &[WORKING_KEY])?, Does::Inject),
    ];
    let mut titles = vec![
        (title.to_owned(), goal),
        (format!("{title}, {TOOLS} tools"), tools_goal),
    ];
    if name == "1k" {
        let keys = [LIMITED_KEY, WORKING_KEY];
        servers.push((Process::variant(setup, &provider, 0, &keys)?, Does::FailOver));
        titles.push((format!("{title}, 429 on the first key"), Some(2.2)));
    }
    if matches!(name, "messages" | "responses") {
        servers.push((Process::floor(&provider)?, Does::Forward));
        titles.push((format!("{title}: the floor against itself"), None));
    }
    let mut runners = Vec::new();
    for (process, does) in servers {
        let mut runner = Runner::new(process, work).await?;
        runner.check(does, work).await?;
        runners.push(runner);
    }
    for _ in 0..options.rounds {
        for runner in &mut runners {
            runner.turn(options.turn).await?;
        }
    }
    if let [floor, gateways @ ..] = &runners[..] {
        for (gateway, (title, goal)) in gateways.iter().zip(titles) {
            report.cpu(title, &floor.costs, &gateway.costs, goal);
        }
    }
    Ok(())
}

async fn latency(options: &Options, setup: &Setup, report: &mut Report, work: &Work) -> Result<(), Failure> {
    let provider = Process::provider()?;
    let floor = Process::floor(&provider)?;
    let gateway = Process::gateway(setup, &provider)?;
    let mut loads = Vec::new();
    for process in [&provider, &floor, &gateway] {
        let mut load = Load::connect(process.address, work).await?;
        load.run(WARM_UP).await?;
        loads.push((load, Vec::new()));
    }
    for _ in 0..options.rounds {
        for (load, rounds) in &mut loads {
            let mut latencies = load.run(options.turn).await?;
            latencies.sort_unstable();
            rounds.push(latencies);
        }
        gateway.forget_records()?;
    }
    for percent in [50, 99] {
        // The percentile of each round, in µs.
        let of = |number: usize| -> Vec<f64> {
            let rounds = loads[number].1.iter();
            let percentile =
                |all: &Vec<Duration>| all.get(all.len() * percent / 100).map_or(0.0, Duration::as_secs_f64);
            rounds.map(|all| percentile(all) * 1e6).collect()
        };
        let (direct, floor, gateway) = (of(0), of(1), of(2));
        let added = |proxied: &[f64]| Spread::of(proxied.iter().zip(&direct).map(|(all, direct)| all - direct)).median;
        let ratios = direct.iter().zip(floor.iter().zip(&gateway));
        let spread = Spread::of(ratios.map(|(direct, (floor, gateway))| (gateway - direct) / (floor - direct)));
        report.row(
            format!("added latency, 1 connection, p{percent}"),
            format!("{:.1} µs", added(&floor)),
            format!("{:.1} µs", added(&gateway)),
            spread,
            Some(1.25),
        );
    }
    Ok(())
}

async fn memory(setup: &Setup, report: &mut Report, work: &Work) -> Result<(), Failure> {
    let provider = Process::provider()?;
    let bodies = |bytes: f64| bytes / work.body.len() as f64;
    let floor = bodies(memory::peak_per_connection(&Process::floor(&provider)?, work).await?);
    let gateways = [
        ("", Process::gateway(setup, &provider)?),
        (", 40 tools", Process::variant(setup, &provider, TOOLS, &[WORKING_KEY])?),
    ];
    for (title, gateway) in gateways {
        let peak = bodies(memory::peak_per_connection(&gateway, work).await?);
        report.row(
            format!(
                "peak memory, {} × 512 KiB{title}, in bodies per connection",
                work.connections
            ),
            format!("{floor:.2}"),
            format!("{peak:.2}"),
            Spread::of([peak]),
            Some(2.0),
        );
    }
    Ok(())
}

// === impl Options ===

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self {
            rows: Vec::new(),
            rounds: 9,
            turn: Duration::from_secs(1),
            workers: Some(1),
            gateway: None,
        };
        let mut arguments = arguments.iter().filter(|argument| *argument != "--bench");
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.turn = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--workers" => options.workers = Some(value()?.parse()?).filter(|workers| *workers > 0),
                "--gateway" => options.gateway = Some(value()?.into()),
                row
                @ ("1k" | "64k" | "512k" | "stream" | "paced" | "messages" | "responses" | "latency" | "memory") => {
                    options.rows.push(row.to_owned());
                }
                other => return Err(format!("there is no row or option {other:?}").into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|wanted| wanted == row)
    }
}

// === impl Runner ===

impl Runner {
    async fn new(process: Process, work: &Work) -> Result<Self, Failure> {
        let load = Load::connect(process.address, work).await?;
        Ok(Self {
            process,
            load,
            costs: Vec::new(),
        })
    }

    /// Warms up, and checks that the server does what its row says.
    async fn check(&mut self, does: Does, work: &Work) -> Result<(), Failure> {
        let refused = |runner: &Self| runner.load.heads().map(|heads| heads.refused).max().unwrap_or(0);
        self.load.run(Duration::ZERO).await?;
        let before = refused(self);
        let requests = self.load.run(WARM_UP).await?.len() as u64;
        let refused = refused(self) - before;
        let length = work.body.len() as u64;
        let (received, refusals) = match does {
            Does::Forward | Does::Record => (length..=length, 0),
            Does::Inject => (length + 1..=u64::MAX, 0),
            Does::FailOver => (length..=length, requests),
        };
        if refused != refusals || !self.load.heads().all(|heads| received.contains(&heads.received)) {
            return Err(format!("a server does not {does:?}: {refused} of {requests} refused").into());
        }
        sleep(SETTLE).await;
        if does != Does::Forward && self.process.recorded()? as u64 != requests + work.connections as u64 {
            return Err(format!("a server that has to {does:?} does not record").into());
        }
        Ok(())
    }

    async fn turn(&mut self, time: Duration) -> Result<(), Failure> {
        let before = self.process.cpu()?;
        let requests = self.load.run(time).await?.len();
        sleep(SETTLE).await;
        let spent = self.process.cpu()?.saturating_sub(before);
        self.costs.push(spent / u32::try_from(requests)?);
        // Otherwise the records would fill the disk.
        Ok(self.process.forget_records()?)
    }
}
