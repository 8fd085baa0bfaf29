//! The PostgreSQL sink against a real server. Not part of a plain `cargo test`: `.ci/postgres` starts a server, and
//! gives this program its address and the command that kills and restarts it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic fails a test, and this program writes its own report"
)]

use std::convert::Infallible;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};
use tower::{Layer, ServiceExt, service_fn};
use tower_llm_bridge::pool::KeyPool;
use tower_llm_bridge::record::price::Round;
use tower_llm_bridge::record::sql::{PostgresSink, SqlError, SqlErrorKind, Summary};
use tower_llm_bridge::record::{Cost, Recorder};
use tower_llm_bridge::{BridgeLayer, RequestBody};

/// A separate database for each test, and the events that were sent to it.
struct Database {
    url: String,
    client: Client,
}

/// A bridge whose provider reports as many input tokens as the request has `max_tokens`.
#[derive(Clone)]
struct Gateway {
    layer: BridgeLayer,
    tokens: Arc<AtomicU64>,
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("the server's address");
    let crash: Vec<String> = arguments.collect();

    announce("an address that cannot be read, or asks for encryption, is refused without a word of it");
    addresses();
    announce("rows, sums and costs are those of the answers");
    rows(&Database::create(&url, "rows").await).await;
    announce("what PostgreSQL cannot hold is mended or set aside");
    hostile(&Database::create(&url, "hostile").await).await;
    announce("two sinks make the tables at once");
    two_sinks(&Database::create(&url, "two").await).await;
    announce("tables of a newer version end the run");
    newer(&Database::create(&url, "newer").await).await;
    announce("a server that is killed in the middle loses nothing and doubles nothing");
    killed(&url, &crash).await;
    announce("how fast");
    speed(&Database::create(&url, "speed").await).await;
    println!("ok");
}

fn announce(what: &str) {
    println!("- {what}");
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn run(sink: PostgresSink, events: tower_llm_bridge::record::Events) -> JoinHandle<Result<Summary, SqlError>> {
    thread::spawn(move || sink.run(events))
}

async fn join(running: JoinHandle<Result<Summary, SqlError>>) -> Result<Summary, SqlError> {
    tokio::task::spawn_blocking(|| running.join().unwrap()).await.unwrap()
}

// === impl Database ===

impl Database {
    async fn create(url: &str, name: &str) -> Self {
        connect(url)
            .await
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        let url = url.replace("dbname=postgres", &format!("dbname={name}"));
        let client = connect(&url).await;
        Self { url, client }
    }

    fn sink(&self) -> PostgresSink {
        PostgresSink::connect(&self.url).unwrap()
    }

    async fn count(&self, query: &str) -> i64 {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }

    async fn text(&self, query: &str) -> Option<String> {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }
}

// === impl Gateway ===

impl Gateway {
    fn new(recorder: Recorder) -> Self {
        let price = |round: &Round<'_>| {
            let each = "0.000001".parse::<tower_llm_bridge::record::Amount>().unwrap();
            Some(Cost::new(each.times(round.usage.input)?, "USD"))
        };
        let layer = BridgeLayer::new()
            .pool(KeyPool::from_secrets(["sk-0123456789abcdefghij"]).unwrap())
            .recorder(recorder.price(price));
        Self {
            layer,
            tokens: Arc::default(),
        }
    }

    async fn ask(&self, prompt: &str, tokens: u64) {
        let provider = service_fn(|request: Request<RequestBody<Full<Bytes>>>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let request: Value = serde_json::from_slice(&body).unwrap();
            let reply = json!({
                "id": "chatcmpl-1", "model": request["model"],
                "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": "Hi" } }],
                "usage": { "prompt_tokens": request["max_tokens"], "completion_tokens": 1, "total_tokens": 0 },
            });
            Ok::<_, Infallible>(Response::new(Full::from(reply.to_string())))
        });
        let body = json!({
            "model": "gpt-4o", "max_tokens": tokens, "messages": [{ "role": "user", "content": prompt }],
        });
        let request = Request::post("/v1/chat/completions")
            .body(Full::from(body.to_string()))
            .unwrap();
        let response = self.layer.layer(provider).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }
}

// === tests ===

fn addresses() {
    for url in [
        "postgres://me:hunter2@[",
        "host=x sslmode=require password=hunter2",
        "hunter2",
    ] {
        let error = PostgresSink::connect(url).unwrap_err();
        assert_eq!(error.kind(), SqlErrorKind::Address);
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
    let sink = PostgresSink::connect("postgres://me:hunter2@localhost/records").unwrap();
    assert!(!format!("{sink:?}").contains("hunter2"));
}

async fn rows(database: &Database) {
    let (recorder, events) = Recorder::channel(64);
    let running = run(database.sink(), events);
    let gateway = Gateway::new(recorder);
    for tokens in 1..=100 {
        gateway.ask("hello", tokens).await;
    }
    drop(gateway);
    let summary = join(running).await.unwrap();
    assert_eq!((summary.stored(), summary.mended(), summary.set_aside()), (400, 0, 0));
    let ended = "SELECT count(*) FROM interceptions WHERE outcome = 'completed' AND at IS NOT NULL AND provider = 'openai' \
                 AND NOT streaming AND metadata = '{}' AND rounds = 1 AND status = 200";
    assert_eq!(database.count(ended).await, 100);
    assert_eq!(
        database.count("SELECT sum(input)::bigint FROM token_usage").await,
        5_050
    );
    assert_eq!(
        database.count("SELECT sum(input)::bigint FROM interceptions").await,
        5_050
    );
    let cost = "SELECT sum(cost)::text || ' ' || min(cost_currency) FROM ";
    for table in ["token_usage", "interceptions"] {
        assert_eq!(database.text(&format!("{cost}{table}")).await.unwrap(), "0.005050 USD");
    }
    assert_eq!(
        database
            .count("SELECT count(*) FROM prompts WHERE prompt = 'hello'")
            .await,
        100
    );
}

async fn hostile(database: &Database) {
    let folder = std::env::temp_dir().join(format!("records-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let (recorder, events) = Recorder::channel(64);
    let running = run(database.sink().spool(folder.join("spool")), events);
    let gateway = Gateway::new(recorder);
    gateway.ask("first", 1).await;
    while database
        .client
        .query_one("SELECT count(*) FROM prompts", &[])
        .await
        .is_err()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The user's own index, which long texts do not fit.
    let index = "CREATE INDEX prompts_prompt ON prompts (prompt)";
    database.client.batch_execute(index).await.unwrap();
    let long = incompressible(20_000);
    gateway.ask(&long, 2).await;
    gateway.ask("nul \0 nul", 4).await;
    gateway.ask("last", i64::MAX as u64 + 7).await;
    drop(gateway);
    let summary = join(running).await.unwrap();
    assert_eq!((summary.stored(), summary.set_aside()), (15, 1), "{summary:?}");
    // The prompt with a NUL, and the round and the end with too large a count.
    assert_eq!(summary.mended(), 3);
    assert_eq!(
        database
            .count("SELECT count(*) FROM interceptions WHERE outcome = 'completed'")
            .await,
        4
    );
    assert_eq!(database.count("SELECT max(input) FROM token_usage").await, i64::MAX);
    let rejected = std::fs::read_to_string(folder.join("spool.rejected")).unwrap();
    assert!(rejected.contains(&long), "{rejected}");
    let nul = "SELECT prompt FROM prompts WHERE prompt LIKE 'nul%'";
    assert_eq!(database.text(nul).await.unwrap(), "nul \u{FFFD} nul");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Text in which nothing repeats, by a linear congruential generator.
fn incompressible(length: usize) -> String {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(b'A' + u8::try_from((state >> 33) % 26).unwrap_or_default())
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

async fn two_sinks(database: &Database) {
    let mut running = Vec::new();
    for _ in 0..4 {
        let (recorder, events) = Recorder::channel(64);
        running.push(run(database.sink(), events));
        Gateway::new(recorder).ask("hello", 1).await;
    }
    for running in running {
        assert_eq!(join(running).await.unwrap().stored(), 4);
    }
    assert_eq!(database.count("SELECT count(*) FROM interceptions").await, 4);
    assert_eq!(database.count("SELECT count(*) FROM record_schema").await, 1);
}

async fn newer(database: &Database) {
    let table = "CREATE TABLE record_schema (version bigint NOT NULL); INSERT INTO record_schema VALUES (99)";
    database.client.batch_execute(table).await.unwrap();
    let (recorder, events) = Recorder::channel(64);
    let running = run(database.sink(), events);
    Gateway::new(recorder).ask("hello", 1).await;
    assert_eq!(join(running).await.unwrap_err().kind(), SqlErrorKind::Version);
}

async fn killed(url: &str, crash: &[String]) {
    let database = Database::create(url, "killed").await;
    let (recorder, events) = Recorder::channel(64);
    let folder = std::env::temp_dir().join(format!("records-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let sink = database
        .sink()
        .spool(folder.join("spool"))
        .batch(50, Duration::from_millis(20));
    let running = run(sink.drain_timeout(Duration::from_secs(60)), events);
    let gateway = Gateway::new(recorder);
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let gateway = gateway.clone();
            tokio::spawn(async move {
                for tokens in 1..=500 {
                    gateway.ask("hello", tokens).await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    for _ in 0..2 {
        let [program, arguments @ ..] = crash else {
            panic!("the command that kills the server");
        };
        let mut command = Command::new(program);
        command.args(arguments);
        let killed = tokio::task::spawn_blocking(move || command.status().unwrap())
            .await
            .unwrap();
        assert!(killed.success());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for asking in asking {
        asking.await.unwrap();
    }
    let told = gateway.tokens.load(Ordering::Relaxed);
    drop(gateway);
    let summary = join(running).await.unwrap();
    assert_eq!((summary.stored(), summary.set_aside()), (16_000, 0));
    // The old connection died with the server.
    let database = Database {
        client: connect(&database.url).await,
        url: database.url,
    };
    assert_eq!(
        database
            .count("SELECT count(*) FROM interceptions WHERE outcome = 'completed'")
            .await,
        4_000
    );
    assert_eq!(
        database.count("SELECT sum(input)::bigint FROM token_usage").await,
        told as i64
    );
    assert_eq!(
        database.count("SELECT sum(input)::bigint FROM interceptions").await,
        told as i64
    );
    std::fs::remove_dir_all(folder).unwrap();
}

async fn speed(database: &Database) {
    let (recorder, events) = Recorder::channel(5_000);
    let gateway = Gateway::new(recorder);
    for _ in 0..5_000 {
        gateway.ask("hello", 1).await;
    }
    drop(gateway);
    let start = Instant::now();
    let summary = join(run(database.sink(), events)).await.unwrap();
    let rate = summary.stored() as f64 / Instant::now().saturating_duration_since(start).as_secs_f64();
    println!("  {} events at {rate:.0} a second", summary.stored());
}
