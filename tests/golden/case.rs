//! One case: the files in its folder, and the conversation that they describe.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use tower_llm_bridge::record::Recorder;
use tower_llm_bridge::tools::{Tool, ToolCall, ToolDefinition, ToolOutput, Tools, tool_fn};
use tower_llm_bridge::{BridgeError, Intercepted};
/// The program's own files, by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// `case.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case shows, in a sentence.
    #[serde(rename = "about")]
    _about: String,
    /// The path and query of the caller's `POST`.
    path: String,
    /// The caller's headers, besides `content-type: application/json`.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The names of the [`tool`]s that the layer injects.
    #[serde(default)]
    tools: Vec<String>,
    /// How many keys the pool has; without any, callers bring their own.
    #[serde(default = "two")]
    keys: usize,
    #[serde(default)]
    layer: Settings,
    /// One entry for each answer of the provider. May be left out where all are plain.
    provider: Option<Vec<Scripted>>,
}

/// Settings of the layer that differ from its defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    max_rounds: Option<u32>,
    max_response_body: Option<usize>,
    max_tool_result: Option<usize>,
    parallel_tool_calls: Option<bool>,
    provider: Option<String>,
}

/// One answer of the provider; its body is `provider-<place>.json` or `.sse`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scripted {
    /// 200 if it is left out.
    status: Option<u16>,
    /// Besides a `content-type` that follows from the file's name.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// There is no answer, and no file: the connection fails with this message.
    fails: Option<String>,
    /// How the body ends; properly if it is left out.
    end: Option<End>,
    /// How long the answer takes, in milliseconds.
    #[serde(default)]
    delay_ms: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    /// The connection breaks after the last byte of the file.
    Reset,
    /// Nothing follows the last byte of the file, and the connection stays open.
    Hang,
}

/// A case's folder, with what was written by hand.
pub(crate) struct Folder {
    path: PathBuf,
    case: Case,
    request: Bytes,
    /// The bodies of the provider's answers, and whether they are event streams.
    bodies: Vec<(Bytes, bool)>,
}

fn two() -> usize {
    2
}

/// A tool that cases can ask for.
fn tool(name: &str) -> Tool {
    let definition = ToolDefinition::new(name).server_url("https://tools.example");
    match name {
        "clock" => tool_fn(definition.description("Tells the time."), |_| async {
            Ok::<_, MockError>("12:00")
        }),
        // Its result is its arguments.
        "echo" => tool_fn(definition, |call: ToolCall| async move {
            Ok::<_, MockError>(call.arguments().clone())
        }),
        "weather" => {
            let schema = json!({
                "type": "object",
                "properties": {"city": {"type": "string", "description": "As \"Oslo\" or 東京"}, "days": {"type": "integer", "minimum": 1}},
                "required": ["city"],
            });
            tool_fn(
                definition.parameters(schema).server("met"),
                |call: ToolCall| async move {
                    sleep(Duration::from_millis(40)).await;
                    Ok::<_, MockError>(json!({"city": call.arguments()["city"], "mild": true}))
                },
            )
        }
        "broken" => tool_fn(definition, |_| async { Err::<&str, _>(MockError("the disk is full")) }),
        "refuses" => tool_fn(definition, |_| async {
            Ok::<_, MockError>(ToolOutput::error("not on Sundays"))
        }),
        "slow" => tool_fn(definition, |_| async {
            sleep(Duration::from_secs(25)).await;
            Ok::<_, MockError>("at last")
        }),
        "wordy" => tool_fn(definition, |_| async { Ok::<_, MockError>("word ".repeat(20)) }),
        _ => panic!("there is no tool {name}"),
    }
}

// === impl Folder ===

impl Folder {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let open = |file: &str| fs::read(path.join(file)).map_err(|error| format!("{file}: {error}"));
        let case = serde_json::from_slice(&open("case.json")?).map_err(|error| format!("case.json: {error}"))?;
        let mut folder = Self {
            path: path.to_owned(),
            request: open("request.json")?.into(),
            bodies: Vec::new(),
            case,
        };
        let body = |place: usize| {
            let stem = path.join(format!("provider-{place}"));
            let read = |extension: &str| fs::read(stem.with_extension(extension)).ok();
            match (read("json"), read("sse")) {
                (Some(body), None) => Some((body.into(), false)),
                (None, Some(body)) => Some((body.into(), true)),
                _ => None,
            }
        };
        match &folder.case.provider {
            None => folder.bodies.extend((1..).map_while(body)),
            Some(provider) => {
                for (place, scripted) in (1..).zip(provider) {
                    let body = match scripted.fails {
                        Some(_) => Some((Bytes::new(), false)),
                        None => body(place),
                    };
                    let body = body.ok_or_else(|| format!("there is not one file provider-{place}"))?;
                    folder.bodies.push(body);
                }
            }
        }
        match body(folder.bodies.len() + 1) {
            Some(_) => Err("there are more files than answers of the provider".to_owned()),
            None => Ok(folder),
        }
    }

    pub(crate) fn waits_for_a_timeout(&self) -> bool {
        let mut provider = self.case.provider.iter().flatten();
        provider.any(|scripted| matches!(scripted.end, Some(End::Hang)))
    }

    /// The files that the program wrote earlier.
    pub(crate) fn written(&self) -> Files {
        let entries = fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap());
        let files = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
        let by_hand = |name: &str| ["case.json", "request.json"].contains(&name) || name.starts_with("provider-");
        let written = files.filter(|(name, _)| !by_hand(name));
        written.map(|(name, path)| (name, fs::read(path).unwrap())).collect()
    }

    /// Runs the conversation. Returns the files that it results in.
    pub(crate) async fn play(&self, cut: Cut) -> Result<Files, String> {
        let (recorder, mut events) = Recorder::channel(1);
        let provider = Provider::queue(self.replies(cut));
        let start = Instant::now();
        let response = bridge(&self.layer().recorder(recorder), &provider)
            .oneshot(self.request())
            .await;
        let (parts, body) = response
            .map_err(|error| format!("no answer, but {error}"))?
            .into_parts();
        let pieces = pieces(body).await;
        if let Some(Piece::Error(error)) = pieces.last() {
            return Err(format!("the body of the answer ends in the error {error}"));
        }
        let body = Piece::join(&pieces);
        let known = parts.extensions.get::<Intercepted>();
        let error = parts.extensions.get::<BridgeError>();

        let mut files = Files::new();
        let mut heads = vec![json!({
            "status": parts.status.as_u16(),
            "headers": headers(&parts.headers),
            "key_attempts": known.map(Intercepted::key_attempts),
            "error": error.map(|error| format!("{:?}", error.kind())),
        })];
        for (place, seen) in (1..).zip(provider.seen()) {
            let at = seen.at.saturating_duration_since(start).as_millis();
            heads.push(json!({
                "request": format!("{} {}", seen.method, seen.uri),
                "headers": headers(&seen.headers),
                "at_ms": u64::try_from(at).unwrap(),
                "round_and_attempt": seen.attempt(),
            }));
            files.insert(format!("upstream-{place}.json"), seen.body.to_vec());
        }
        files.insert("heads.json".to_owned(), lines_of(heads));
        let is_stream = parts
            .headers
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let name = if is_stream { "answer.sse" } else { "answer.json" };
        let body = match known {
            Some(known) => replace(&body, &known.id().to_string(), "$ID"),
            None => body.to_vec(),
        };
        files.insert(name.to_owned(), body);
        files.insert(
            "records.json".to_owned(),
            lines_of(drain(&mut events).into_iter().map(record)),
        );
        Ok(files)
    }

    fn layer(&self) -> BridgeLayer {
        let settings = &self.case.layer;
        let mut layer = BridgeLayer::new().tools(Tools::new(self.case.tools.iter().map(|name| tool(name))));
        if self.case.keys > 0 {
            layer = layer.pool(pool(self.case.keys));
        }
        if let Some(rounds) = settings.max_rounds {
            layer = layer.max_rounds(rounds);
        }
        if let Some(bytes) = settings.max_response_body {
            layer = layer.max_response_body(bytes);
        }
        if let Some(bytes) = settings.max_tool_result {
            layer = layer.max_tool_result(bytes);
        }
        if let Some(allow) = settings.parallel_tool_calls {
            layer = layer.parallel_tool_calls(allow);
        }
        if let Some(name) = &settings.provider {
            layer = layer.provider(name);
        }
        layer
    }

    fn request(&self) -> Request<MockBody> {
        let mut request = Request::post(&self.case.path).header("content-type", "application/json");
        for (name, value) in &self.case.headers {
            request = request.header(name, value);
        }
        request.body(self.request.clone().into()).unwrap()
    }

    fn replies(&self, cut: Cut) -> Vec<Reply> {
        let plain = Scripted::default();
        let scripted = |place: usize| self.case.provider.as_ref().map_or(&plain, |all| &all[place]);
        let replies = self.bodies.iter().enumerate();
        replies
            .map(|(place, (body, is_stream))| scripted(place).reply(body, *is_stream, cut))
            .collect()
    }
}

// === impl Scripted ===

impl Scripted {
    fn reply(&self, body: &Bytes, is_stream: bool, cut: Cut) -> Reply {
        let reply = match &self.fails {
            Some(words) => Reply::fails(words.clone().leak()),
            None => Reply::new(self.status.unwrap_or(200), self.body(body, cut)),
        };
        let kind = if is_stream {
            "text/event-stream"
        } else {
            "application/json"
        };
        let has_kind = self.headers.contains_key("content-type");
        let kind = (!has_kind).then_some(("content-type", kind));
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let reply = headers
            .chain(kind)
            .fold(reply, |reply, (name, value)| reply.header(name, value));
        reply.after(Duration::from_millis(self.delay_ms))
    }

    fn body(&self, bytes: &Bytes, cut: Cut) -> MockBody {
        let body = MockBody::new().cut(bytes.clone(), cut);
        match self.end {
            None => body,
            Some(End::Reset) => body.reset(),
            Some(End::Hang) => body.never(),
        }
    }
}

// === what is written ===

/// Names with their values in order of names; a name that occurs twice has its values in order.
fn headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let value = |name: &HeaderName| {
        let values = headers.get_all(name).iter();
        let values: Vec<String> = values
            .map(|value| hide(&String::from_utf8_lossy(value.as_bytes())))
            .collect();
        values.join(" | ")
    };
    headers.keys().map(|name| (name.to_string(), value(name))).collect()
}

/// `text` with each of the pool's keys as its number.
fn hide(text: &str) -> String {
    let keys = (1..).zip(KEYS);
    keys.fold(text.to_owned(), |text, (number, key)| {
        text.replace(key, &format!("$KEY_{number}"))
    })
}

/// `event` without the values that differ from run to run.
fn record(mut event: Value) -> Value {
    let fields = event.as_object_mut().unwrap();
    for name in ["interception_id", "at"] {
        assert!(fields.remove(name).is_some(), "an event without {name}");
    }
    event
}

/// An array with one item a line, so that a difference is easy to see.
fn lines_of(items: impl IntoIterator<Item = Value>) -> Vec<u8> {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[\n{}\n]\n", items.join(",\n")).into_bytes()
}

fn replace(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from.as_bytes()) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to.as_bytes());
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}
