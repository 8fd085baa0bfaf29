//! The gateway is killed under load, and its database with it. Started again, the database has each answer that reached
//! its caller, once, with the tokens that the provider reported.
//!
//! A plain `cargo test` records to SQLite. `.ci/postgres` starts a server, and gives this program its address and the
//! command that kills and restarts it.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic fails a test, and this program writes its own report"
)]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, response::IntoResponse, routing::post};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
    task::JoinSet,
};

/// How often the gateway is killed.
const KILLS: usize = 3;
const CALLERS: usize = 8;
/// Answers before each kill, and before and after that of the database.
const ANSWERS: usize = 150;

/// Where the gateway records, and how the database is killed.
struct Setup {
    target: String,
    spool: PathBuf,
    crash: Vec<String>,
}

/// The callers' answers: tokens by the id of the answer.
#[derive(Default)]
struct Answers {
    tokens: Mutex<HashMap<String, u64>>,
    /// The number of the next request, which is also its number of tokens.
    next: AtomicU64,
}

/// The content of the database.
struct Stored {
    /// The outcome and the tokens of each interception.
    interceptions: BTreeMap<String, (Option<String>, Option<u64>)>,
    /// The interception and the tokens of each round.
    rounds: Vec<(String, u64)>,
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = std::env::temp_dir().join(format!("killed-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let database = folder.join("records.db");
    let postgres = arguments.next().filter(|target| target.starts_with("postgres:"));
    let setup = Setup {
        target: postgres
            .clone()
            .unwrap_or_else(|| format!("sqlite:{}", database.display())),
        spool: folder.join("spool"),
        crash: if postgres.is_some() {
            arguments.collect()
        } else {
            Vec::new()
        },
    };
    let provider = provider().await;
    let answers = Arc::<Answers>::default();
    for _ in 0..KILLS {
        kill_under_load(&setup, &provider, &answers).await;
    }
    // The next start writes what the spool holds, and the end waits for it.
    let (mut gateway, _) = start(&setup, &provider).await;
    let pid = gateway.id().unwrap().to_string();
    assert!(Command::new("kill").arg(pid).status().await.unwrap().success());
    assert!(gateway.wait().await.unwrap().success());

    let stored = match &postgres {
        Some(url) => Stored::in_postgres(url).await,
        None => Stored::in_sqlite(&database),
    };
    check(&answers, &stored);
    std::fs::remove_dir_all(folder).unwrap();
}

/// Compares the callers' answers with the content of the database.
fn check(answers: &Answers, stored: &Stored) {
    let got = answers.tokens.lock().unwrap();
    assert!(got.len() >= KILLS * ANSWERS);
    let mut rounds: HashMap<&str, Vec<u64>> = HashMap::new();
    for (id, tokens) in &stored.rounds {
        rounds.entry(id).or_default().push(*tokens);
    }
    let mut endless = 0;
    for (id, tokens) in got.iter() {
        let round = rounds.get(id.as_str()).map(Vec::as_slice);
        assert_eq!(round, Some(&[*tokens][..]), "the answer {id} reached its caller");
        match &stored.interceptions[id] {
            (Some(outcome), sum) => assert_eq!((outcome.as_str(), *sum), ("completed", Some(*tokens))),
            // Killed after the last byte of the answer and before its end.
            (None, sum) => {
                assert_eq!(*sum, None);
                endless += 1;
            }
        }
    }
    assert!(endless <= KILLS * CALLERS, "{endless} answers have no end");
    // The provider reports each number once.
    let distinct: HashSet<u64> = stored.rounds.iter().map(|(_, tokens)| *tokens).collect();
    assert_eq!(distinct.len(), stored.rounds.len(), "a round is stored twice");
    assert!(
        stored
            .rounds
            .iter()
            .all(|(id, _)| stored.interceptions.contains_key(id))
    );
    let sum: u64 = got.values().sum();
    println!(
        "{} answers with {sum} tokens are stored, {endless} of them without an end; {} more rounds reached no caller",
        got.len(),
        stored.rounds.len() - got.len()
    );
}

async fn kill_under_load(setup: &Setup, provider: &str, answers: &Arc<Answers>) {
    let (mut gateway, url) = start(setup, provider).await;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(call_until_it_dies(url.clone(), Arc::clone(answers)));
    }
    answers.wait_for_more().await;
    if let [program, arguments @ ..] = &setup.crash[..] {
        assert!(Command::new(program).args(arguments).status().await.unwrap().success());
        answers.wait_for_more().await;
    }
    gateway.kill().await.unwrap();
    callers.join_all().await;
}

async fn call_until_it_dies(url: String, answers: Arc<Answers>) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    loop {
        let tokens = answers.next.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(id) = ask(&client, &url, tokens).await else {
            return;
        };
        answers.tokens.lock().unwrap().insert(id, tokens);
    }
}

/// The id of the whole answer; `None` if the gateway died before its last byte.
async fn ask(client: &Client<HttpConnector, Full<Bytes>>, url: &str, tokens: u64) -> Option<String> {
    let stream = tokens.is_multiple_of(2);
    let body = json!({
        "model": "m", "max_tokens": tokens, "stream": stream, "messages": [{ "role": "user", "content": "hello" }],
    });
    let request = Request::post(format!("{url}/v1/chat/completions"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))
        .unwrap();
    let response = client.request(request).await.ok()?;
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.ok()?.to_bytes();
    let body = std::str::from_utf8(&body).unwrap();
    let answer = if stream {
        // Without a length, a stream that was cut ends like a whole one.
        let events = body.strip_suffix("data: [DONE]\n\n")?;
        events.lines().find_map(|line| line.strip_prefix("data: ")).unwrap()
    } else {
        body
    };
    let answer: Value = serde_json::from_str(answer).unwrap();
    Some(answer["id"].as_str().unwrap().to_owned())
}

async fn start(setup: &Setup, provider: &str) -> (Child, String) {
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["--listen", "127.0.0.1:0", "--key", "sk-0123456789abcdefghij"])
        .args(["--upstream", provider, "--record", &setup.target])
        .env("RECORD_SPOOL", &setup.spool)
        .env("RUST_LOG", "off")
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = gateway.stdout.take().unwrap();
    let line = BufReader::new(stdout).lines().next_line().await.unwrap().unwrap();
    let url = line.strip_prefix("listening on ").expect(&line).to_owned();
    (gateway, url)
}

/// Reports as many tokens of input as the request has `max_tokens`.
async fn provider() -> String {
    let answer = async |State(()): State<()>, Json(request): Json<Value>| {
        let usage = json!({ "prompt_tokens": request["max_tokens"], "completion_tokens": 1, "total_tokens": 0 });
        let of = |choice: Value, usage: &Value| json!({ "id": "c", "model": "m", "choices": [choice], "usage": usage });
        if request["stream"] != true {
            let message = json!({ "role": "assistant", "content": "Hi" });
            let choice = json!({ "index": 0, "finish_reason": "stop", "message": message });
            return Json(of(choice, &usage)).into_response();
        }
        let delta = json!({ "index": 0, "delta": { "role": "assistant", "content": "Hi" } });
        let stop = json!({ "index": 0, "delta": {}, "finish_reason": "stop" });
        let body = format!(
            "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n",
            of(delta, &Value::Null),
            of(stop, &usage)
        );
        ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
    };
    let app = Router::new().route("/v1/chat/completions", post(answer)).with_state(());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, app).into_future());
    url
}

// === impl Answers ===

impl Answers {
    async fn wait_for_more(&self) {
        let count = || self.tokens.lock().unwrap().len();
        let enough = count() + ANSWERS;
        let more = async {
            while count() < enough {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), more)
            .await
            .expect("the load goes on");
    }
}

// === impl Stored ===

impl Stored {
    fn in_sqlite(path: &Path) -> Self {
        let database = rusqlite::Connection::open(path).unwrap();
        let mut interceptions = database
            .prepare("SELECT id, outcome, input FROM interceptions")
            .unwrap();
        let interceptions = interceptions
            .query_map([], |row| {
                Ok((row.get(0)?, (row.get(1)?, row.get::<_, Option<i64>>(2)?)))
            })
            .unwrap();
        let mut rounds = database
            .prepare("SELECT interception_id, input FROM token_usage")
            .unwrap();
        let rounds = rounds
            .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))
            .unwrap();
        Self {
            interceptions: interceptions.map(|row| sum(row.unwrap())).collect(),
            rounds: rounds
                .map(Result::unwrap)
                .map(|(id, input)| (id, input as u64))
                .collect(),
        }
    }

    async fn in_postgres(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let interceptions = "SELECT id::text, outcome, input FROM interceptions";
        let interceptions = client.query(interceptions, &[]).await.unwrap();
        let rounds = "SELECT interception_id::text, input FROM token_usage";
        let rounds = client.query(rounds, &[]).await.unwrap();
        Self {
            interceptions: interceptions
                .iter()
                .map(|row| sum((row.get(0), (row.get(1), row.get(2)))))
                .collect(),
            rounds: rounds
                .iter()
                .map(|row| (row.get(0), row.get::<_, i64>(1) as u64))
                .collect(),
        }
    }
}

type Interception<N> = (String, (Option<String>, Option<N>));

fn sum((id, (outcome, input)): Interception<i64>) -> Interception<u64> {
    (id, (outcome, input.map(|input| input as u64)))
}
