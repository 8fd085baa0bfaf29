//! The parts that attacks share: their target, busy callers, unread answers, and a count of answers by status.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Failure;
use crate::caller::{Caller, unread};
use crate::priority::IDLE;

pub(crate) const ATTACKER: &str = "attacker";

/// Where an attack takes place.
#[derive(Clone)]
pub(crate) struct Arena {
    pub(crate) gateway: SocketAddr,
    pub(crate) record: PathBuf,
    pub(crate) time: Duration,
    /// Divides the load.
    pub(crate) scale: usize,
}

/// How often attackers were answered with which status.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<BTreeMap<String, usize>>>);

// === impl Arena ===

impl Arena {
    /// Attacks from a process of the idle class. Returns its count of answers, or its error.
    pub(crate) async fn attacked_by(self, name: &str) -> Result<String, Failure> {
        let mut attacker = Command::new(IDLE[0])
            .args(&IDLE[1..])
            .arg(env::current_exe()?)
            .args(["--role", "attack", name, &self.gateway.to_string()])
            .arg(&self.record)
            .args([self.time.as_secs_f64().to_string(), self.scale.to_string()])
            // It ends when its stdin does.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = attacker.stdin.take();
        let ended = attacker.wait_with_output().await?;
        drop(stdin);
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if ended.status.success() {
            return Ok(said(&ended.stdout));
        }
        Err(said(&ended.stderr).into())
    }
}

// === impl Answers ===

impl Answers {
    /// `None` is a connection that broke.
    fn count(&self, status: Option<StatusCode>) {
        let status = status.map_or("broken".to_owned(), |status| status.as_u16().to_string());
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(status).or_insert(0) += 1;
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts: Vec<String> = counts
            .iter()
            .map(|(status, count)| format!("{count} × {status}"))
            .collect();
        f.write_str(&counts.join(", "))
    }
}

/// Until the attack's time is over.
pub(crate) async fn rest(arena: &Arena, begun: Instant) -> Result<String, Failure> {
    sleep_until(begun + arena.time).await;
    Ok(String::new())
}

/// Sends `each` requests on each of `connections`, and reads no answer.
pub(crate) async fn unread_answers(
    arena: Arena,
    request: &Request<Full<Bytes>>,
    connections: usize,
    each: usize,
) -> Result<String, Failure> {
    let begun = Instant::now();
    let answers = Answers::default();
    let mut held = JoinSet::new();
    for _ in 0..(connections / arena.scale).max(1) {
        let sender = unread(arena.gateway).await?;
        for _ in 0..each {
            let (mut sender, request, answers) = (sender.clone(), request.clone(), answers.clone());
            held.spawn(async move {
                let response = match sender.ready().await {
                    Ok(()) => sender.send_request(request).await,
                    Err(error) => Err(error),
                };
                answers.count(response.as_ref().map(http::Response::status).ok());
                sleep(Duration::from_secs(600)).await;
                drop(response);
            });
        }
        sleep(arena.time / 50).await;
    }
    rest(&arena, begun).await?;
    Ok(answers.to_string())
}

/// Keeps so many callers busy with one request.
pub(crate) async fn busy(
    arena: Arena,
    callers: usize,
    make: impl Fn(&Arena) -> Result<Request<Full<Bytes>>, Failure>,
) -> Result<String, Failure> {
    let begun = Instant::now();
    let request = make(&arena)?;
    let answers = Answers::default();
    let mut asking = JoinSet::new();
    for _ in 0..callers {
        let (arena, request, answers) = (arena.clone(), request.clone(), answers.clone());
        asking.spawn(async move {
            while Instant::now() < begun + arena.time {
                let answer = match Caller::connect(arena.gateway, ATTACKER).await {
                    Ok(mut caller) => caller.send(request.clone()).await,
                    Err(error) => Err(error),
                };
                answers.count(answer.map(|answer| answer.status).ok());
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    rest(&arena, begun).await?;
    Ok(answers.to_string())
}
