//! Starts the gateway and the other ends of its connections: a caller, and a provider that answers by hand.

use std::{
    ffi::OsStr,
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    process::{ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    response::IntoResponse,
    routing::post,
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header, response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr, Command},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::records::Records;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type HttpClient = Client<HttpConnector, Body>;

pub(crate) const KEY: &str = "sk-e2e-0123456789abcdefghijklmnop";
pub(crate) const CHAT: &str = "/v1/chat/completions";

/// A running gateway.
pub(crate) struct Gateway {
    process: Child,
    pub(crate) address: SocketAddr,
    /// Of the operator's listener, if there is one.
    pub(crate) admin: Option<SocketAddr>,
    log: Lines<BufReader<ChildStderr>>,
    /// The part of the log that was read so far.
    logged: String,
    pub(crate) records: PathBuf,
    client: HttpClient,
}

/// A provider whose answers the test gives by hand.
pub(crate) struct Provider {
    pub(crate) url: String,
    arrivals: mpsc::Receiver<Arrival>,
}

pub(crate) struct Arrival {
    /// The gateway's end of the connection.
    pub(crate) from: SocketAddr,
    pub(crate) headers: HeaderMap,
    /// Closed when the gateway has given this call up.
    pub(crate) answer: oneshot::Sender<Value>,
}

/// A body that does not tell its length, so it is sent in chunks.
pub(crate) struct Undeclared(pub(crate) Full<Bytes>);

// === impl Gateway ===

impl Gateway {
    /// Starts it on a free port, with a separate file of records.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let records = scratch("jsonl");
        let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        arguments.extend([OsStr::new("--record"), records.as_os_str()]);
        Self::start_recording(&arguments, records.clone()).await
    }

    pub(crate) async fn start_recording(arguments: &[&OsStr], records: PathBuf) -> Self {
        let mut command = command(&["--listen", "127.0.0.1:0"]);
        command.args(arguments);
        Self::spawn(command, records).await
    }

    /// Starts it with a limit of open files.
    pub(crate) async fn start_with_files(files: usize, arguments: &[&str]) -> Self {
        let records = scratch("jsonl");
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!(r#"ulimit -n {files}; exec "$0" "$@""#)])
            .arg(env!("CARGO_BIN_EXE_gateway"))
            .args(["--listen", "127.0.0.1:0", "--record"])
            .arg(&records)
            .args(arguments);
        prepare(&mut command);
        Self::spawn(command, records).await
    }

    pub(crate) async fn spawn(mut command: Command, records: PathBuf) -> Self {
        let mut process = command.spawn().expect("the gateway starts");
        let stdout = process.stdout.take().expect("stdout is piped");
        let log = process.stderr.take().expect("stderr is piped");
        let mut lines = BufReader::new(stdout).lines();
        let mut next = async |before: &str| {
            let line = within(lines.next_line()).await.expect("stdout is readable");
            let line = line.expect("the gateway says where it listens");
            line.strip_prefix(before).expect(&line).parse().expect("an address")
        };
        let address = next("listening on http://").await;
        let arguments: Vec<_> = command.as_std().get_args().collect();
        let has_admin = arguments.iter().any(|argument| *argument == "--admin")
            || !arguments
                .iter()
                .any(|argument| argument.to_string_lossy().ends_with("-upstream"));
        // The rest of stdout is dropped: a reader that leaves must not end the gateway.
        let admin = match has_admin {
            true => Some(next("operator's page on http://").await),
            false => None,
        };
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            process,
            address,
            admin,
            log: BufReader::new(log).lines(),
            logged: String::new(),
            records,
            client,
        }
    }

    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> legacy::ResponseFuture {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.client.request(request.body(body).expect("a request"))
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> (StatusCode, Value) {
        read(
            within(self.request(method, path, headers, body))
                .await
                .expect("an answer"),
        )
        .await
    }

    pub(crate) async fn ask(&self, prompt: &str) -> (StatusCode, Value) {
        self.send(Method::POST, CHAT, &[], chat(prompt)).await
    }

    /// Asks the operator's listener. Of equal names the last header counts.
    pub(crate) async fn ask_admin(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (response::Parts, String) {
        let (head, body) = self.open_admin(method, path, headers, "").await.into_parts();
        let body = within(body.collect()).await.expect("a whole body").to_bytes();
        (head, str::from_utf8(&body).expect("UTF-8").to_owned())
    }

    /// The same with a body, and an answer that is not read yet.
    pub(crate) async fn open_admin(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> Response<Incoming> {
        let admin = self.admin.expect("there is an operator's listener");
        let uri = format!("http://127.0.0.1:{}{path}", admin.port());
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.client.request(request.body(bytes(body)).expect("a request"));
        within(answer).await.expect("an answer")
    }

    /// The whole text and the usage of a streamed answer, which must end with `[DONE]`.
    pub(crate) async fn stream(&self, request: &Value) -> (String, Option<Value>) {
        let response = within(self.request(Method::POST, CHAT, &[], bytes(request.to_string())))
            .await
            .expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        let body = within(response.into_body().collect())
            .await
            .expect("a whole body")
            .to_bytes();
        let body = str::from_utf8(&body).expect("UTF-8");
        let events = body
            .strip_suffix("data: [DONE]\n\n")
            .unwrap_or_else(|| panic!("cut short: {body}"));
        let chunks = events.lines().filter_map(|line| line.strip_prefix("data: "));
        let chunks: Vec<Value> = chunks.map(|chunk| serde_json::from_str(chunk).expect(chunk)).collect();
        let text = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        (
            text,
            chunks
                .iter()
                .map(|chunk| chunk["usage"].clone())
                .find(|usage| !usage.is_null()),
        )
    }

    /// A request that goes on in the background.
    pub(crate) fn ask_later(&self, prompt: &str) -> JoinHandle<(StatusCode, Value)> {
        let response = self.request(Method::POST, CHAT, &[], chat(prompt));
        tokio::spawn(async { read(response.await.expect("an answer")).await })
    }

    /// Sends this on a separate connection, and reads until the gateway closes that.
    pub(crate) async fn send_raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("a request is written");
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer))
            .await
            .expect("an answer in UTF-8");
        answer
    }

    /// Asks it to drain.
    pub(crate) async fn signal(&self) {
        self.signal_by_name("TERM").await;
    }

    pub(crate) async fn signal_by_name(&self, name: &str) {
        let pid = self.process.id().expect("still running").to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .await
            .expect("kill runs");
        assert!(status.success());
    }

    /// Waits for a line of the log.
    pub(crate) async fn until_logged(&mut self, text: &str) {
        loop {
            let line = within(self.log.next_line()).await.expect("a readable log");
            let line = line.unwrap_or_else(|| panic!("{text:?} was not logged:\n{}", self.logged));
            self.logged.push_str(&line);
            self.logged.push('\n');
            if line.contains(text) {
                return;
            }
        }
    }

    /// Its exit status, whole log and records.
    pub(crate) async fn end(self) -> (ExitStatus, String, Records) {
        let (status, log, records) = self.end_unread().await;
        (status, log, Records::read(&records))
    }

    /// The same with the path of the records.
    pub(crate) async fn end_unread(mut self) -> (ExitStatus, String, PathBuf) {
        // An unread pipe fills up and blocks its writer.
        within(async {
            while let Some(line) = self.log.next_line().await.expect("a readable log") {
                self.logged.push_str(&line);
                self.logged.push('\n');
            }
        })
        .await;
        let status = within(self.process.wait()).await.expect("an exit status");
        (status, self.logged, self.records)
    }
}

// === impl Provider ===

impl Provider {
    pub(crate) async fn start() -> Self {
        let (sender, arrivals) = mpsc::channel(8);
        let answer = async |State(sender): State<mpsc::Sender<Arrival>>,
                            ConnectInfo(from): ConnectInfo<SocketAddr>,
                            headers: HeaderMap,
                            _: Bytes| {
            let (answer, answered) = oneshot::channel();
            let arrival = Arrival { from, headers, answer };
            sender.send(arrival).await.expect("the test is listening");
            Json(answered.await.expect("the test answers")).into_response()
        };
        let app = Router::new().route(CHAT, post(answer)).with_state(sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(axum::serve(listener, app).into_future());
        Self { url, arrivals }
    }

    pub(crate) async fn arrival(&mut self) -> Arrival {
        within(self.arrivals.recv()).await.expect("a request arrives")
    }
}

// === impl Undeclared ===

impl hyper::body::Body for Undeclared {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_err(|never| match never {})
    }
}

// === helpers ===

/// Long enough for a loaded machine, and finite.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future)
        .await
        .expect("this should have happened by now")
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command.args(arguments);
    prepare(&mut command);
    command
}

/// The same surroundings on every machine.
fn prepare(command: &mut Command) {
    command
        .env_remove("OPENAI_API_KEYS")
        .env_remove("ADMIN_TOKEN")
        .env("RUST_LOG", "trace")
        // So that connections go to different workers.
        .env("TOKIO_WORKER_THREADS", "2")
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
}

pub(crate) async fn run(arguments: &[&str]) -> Output {
    within(command(arguments).output()).await.expect("the gateway starts")
}

/// A path that nothing uses yet.
pub(crate) fn scratch(extension: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = format!(
        "{}/gateway-{}-{count}.{extension}",
        env!("CARGO_TARGET_TMPDIR"),
        std::process::id()
    );
    let _ = fs::remove_file(&path);
    path.into()
}

pub(crate) async fn read(response: Response<Incoming>) -> (StatusCode, Value) {
    let status = response.status();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    assert!(response.headers().contains_key("x-request-id"));
    let body = within(response.into_body().collect())
        .await
        .expect("a whole body")
        .to_bytes();
    (status, serde_json::from_slice(&body).expect("a JSON body"))
}

pub(crate) fn bytes(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn chat(prompt: &str) -> Body {
    bytes(json!({ "model": "demo", "messages": [{ "role": "user", "content": prompt }] }).to_string())
}

pub(crate) fn completion(content: &str) -> Value {
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": content }, "finish_reason": "stop" });
    json!({ "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "demo", "choices": [choice],
        "usage": { "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 } })
}

pub(crate) fn string(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
        .to_owned()
}

pub(crate) fn content(answer: &Value) -> String {
    string(&answer["choices"][0]["message"]["content"])
}

/// `{"error":{"message","type","param","code"}}`, nothing else.
pub(crate) fn assert_error_shape(answer: &Value) {
    let error = answer["error"]
        .as_object()
        .unwrap_or_else(|| panic!("{answer} is no error"));
    let mut names: Vec<_> = error.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        (answer.as_object().map(serde_json::Map::len), names),
        (Some(1), vec!["code", "message", "param", "type"])
    );
    assert!(!string(&error["message"]).is_empty());
    assert!(!string(&error["type"]).is_empty());
}
