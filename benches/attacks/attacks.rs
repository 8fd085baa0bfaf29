//! The attacks, each a function; their rows are named after the kinds of attack that the gateway was mended against.

use std::fs;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use brotli::BrotliCompress;
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{Method, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::Failure;
use crate::arena::{ATTACKER, Arena, busy, rest, unread_answers};
use crate::caller::{CHAT, Caller, post, question, raw, raw_status, request};

const MIB: usize = 1 << 20;
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// The tool server that the gateway must have, if it attacks by itself.
    pub(crate) server: &'static str,
    pub(crate) run: fn(Arena) -> Ended,
}

/// The attackers' answers, for the table: without them, attacks that never arrive would pass unnoticed.
type Ended = Pin<Box<dyn Future<Output = Result<String, Failure>>>>;

const fn attack(name: &'static str, about: &'static str, run: fn(Arena) -> Ended) -> Attack {
    Attack {
        name,
        about,
        server: "",
        run,
    }
}

const fn by_server(name: &'static str, about: &'static str, server: &'static str) -> Attack {
    Attack {
        name,
        about,
        server,
        run: |arena| Box::pin(async move { rest(&arena, Instant::now()).await }),
    }
}

pub(crate) static ATTACKS: &[Attack] = &[
    attack("A1-plain", "uploads of 30 MiB that stop before their end", |arena| {
        Box::pin(stopped_uploads(arena))
    }),
    attack("A1-gzip", "compressed uploads that stop before their end", |arena| {
        Box::pin(stopped_packed(arena, "gzip"))
    }),
    attack("A1-brotli", "the same with brotli, of one letter", |arena| {
        Box::pin(stopped_packed(arena, "br"))
    }),
    attack("A1-zstd", "the same with zstd, of one letter", |arena| {
        Box::pin(stopped_packed(arena, "zstd"))
    }),
    attack("A2-http2", "streams over HTTP/2 that nobody reads", |arena| {
        Box::pin(unread_streams(arena, "endless", true))
    }),
    attack("A2-http1", "streams over HTTP/1 that nobody reads", |arena| {
        Box::pin(unread_http1(arena))
    }),
    attack("A2-whole", "answers of 8 MiB that nobody reads", |arena| {
        Box::pin(unread_streams(arena, "large", false))
    }),
    attack("A2-models", "lists of models that nobody reads", |arena| {
        Box::pin(unread_models(arena))
    }),
    attack("A3-nested", "a call of a tool with an exponential schema", |arena| {
        Box::pin(asked(arena, "nested-call", false, 4))
    }),
    attack("A3-listed", "many numbers against many options", |arena| {
        Box::pin(asked(arena, "listed-call", false, 4))
    }),
    by_server("A4-ping", "a tool server that sends requests without end", "flood"),
    by_server("A4-answers", "a tool server that answers what nobody asked", "answers"),
    by_server("C6-print", "a child that prints for ever", "print"),
    attack("B1-broken", "compressed requests with a comma too much", |arena| {
        Box::pin(broken_requests(arena))
    }),
    attack("B1-members", "a request of 3 million members", |arena| {
        Box::pin(many_members(arena))
    }),
    attack("B1-depths", "3 million elements where tools are expected", |arena| {
        Box::pin(many_tools(arena))
    }),
    attack("B3-slow-calls", "turns of 16 slow calls of one tool server", |arena| {
        Box::pin(slow_calls(arena))
    }),
    attack("B3-vast-results", "results of 12 MiB", |arena| {
        Box::pin(asked(arena, "vast-results", false, 4))
    }),
    attack("B4-prompts", "prompts of 30 MiB", |arena| Box::pin(long_prompts(arena))),
    attack("B5-content", "GET with a body that begins a request", |arena| {
        Box::pin(hidden_request(arena))
    }),
    attack("B6-silent", "connections that say nothing", |arena| {
        Box::pin(silent(arena))
    }),
    attack("C1-paths", "paths that mean another to somebody", |arena| {
        Box::pin(odd_paths(arena))
    }),
    attack("C2-headers", "headers that act on the operator's account", |arena| {
        Box::pin(harmful_headers(arena))
    }),
    attack("C3-calls", "100,000 calls in one answer", |arena| {
        Box::pin(asked(arena, "calls", false, 2))
    }),
    attack("C3-event", "100,000 calls in one event", |arena| {
        Box::pin(asked(arena, "calls-event", true, 2))
    }),
    attack("C3-vast-event", "an event of 24 MiB", |arena| {
        Box::pin(asked(arena, "vast-event", true, 2))
    }),
    attack("C3-dense-event", "an event of millions of lists", |arena| {
        Box::pin(asked(arena, "dense-event", true, 2))
    }),
    attack("C3-dense-reply", "an answer of millions of lists", |arena| {
        Box::pin(asked(arena, "dense-reply", false, 2))
    }),
    attack("C3-dust", "200,000 events of nothing", |arena| {
        Box::pin(asked(arena, "dust", true, 2))
    }),
    attack("C3-line", "a line that never ends", |arena| {
        Box::pin(asked(arena, "line-without-end", true, 2))
    }),
    attack("C3-error", "an error of 30 MiB", |arena| {
        Box::pin(asked(arena, "vast-error", false, 4))
    }),
    attack("C5-calls", "1,000 calls of ours in one turn", |arena| {
        Box::pin(asked(arena, "our-calls", false, 2))
    }),
    attack("C7-file", "the record file is deleted", |arena| {
        Box::pin(deleted_file(arena))
    }),
    attack("C8-model", "a model's name of 8 MiB", |arena| {
        Box::pin(long_model(arena))
    }),
    attack("C8-names", "an answer with names of 4 MiB", |arena| {
        Box::pin(asked(arena, "long-names", false, 2))
    }),
    attack("D-hosts", "two Host headers", |arena| Box::pin(two_hosts(arena))),
];

/// The attack of this name.
pub(crate) fn named(name: &str) -> Option<&'static Attack> {
    ATTACKS.iter().find(|attack| attack.name == name)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn head(length: usize, more: &str) -> String {
    format!(
        "POST {CHAT} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\nx-user-id: {ATTACKER}\r\n{more}content-length: {length}\r\n\r\n"
    )
}

/// Text that packs to a fiftieth.
fn dense(length: usize) -> Vec<u8> {
    let line: Vec<u8> = (0..4096_u32)
        .map(|n| b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26)
        .collect();
    let mut text = Vec::with_capacity(length + line.len());
    let mut salt = 0_u32;
    while text.len() < length {
        let start = text.len();
        text.extend_from_slice(&line);
        for place in (start..text.len()).step_by(64) {
            salt = salt.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text[place] = b'a' + (salt >> 24) as u8 % 26;
        }
    }
    text
}

async fn stopped_uploads(arena: Arena) -> Result<String, Failure> {
    let begun = Instant::now();
    let body = question("small", false, &"x".repeat(30 * MIB));
    let mut uploads = JoinSet::new();
    for _ in 0..(24 / arena.scale).max(2) {
        let (gateway, body) = (arena.gateway, body.clone());
        uploads.spawn(async move {
            let mut bytes = head(body.len(), "").into_bytes();
            bytes.extend_from_slice(&body[..body.len() - 5]);
            // Refused ones end at once, the others are held.
            let _ = timeout(Duration::from_secs(60), hold(gateway, &bytes)).await;
        });
    }
    rest(&arena, begun).await
}

async fn hold(gateway: SocketAddr, bytes: &[u8]) -> Result<(), Failure> {
    let _stream = raw(gateway, bytes).await?;
    sleep(Duration::from_secs(60)).await;
    Ok(())
}

async fn stopped_packed(arena: Arena, coding: &str) -> Result<String, Failure> {
    let begun = Instant::now();
    // gzip packs one letter to a thousandth, which is over the gateway's ratio: this is under it.
    let text = if coding == "gzip" {
        dense(31 * MIB)
    } else {
        vec![b'x'; 31 * MIB]
    };
    let body = question("small", false, &String::from_utf8(text)?);
    let packed = match coding {
        "br" => {
            let settings = BrotliEncoderParams {
                quality: 5,
                ..BrotliEncoderParams::default()
            };
            let mut packed = Vec::new();
            BrotliCompress(&mut &body[..], &mut packed, &settings)?;
            packed
        }
        "zstd" => zstd::encode_all(&body[..], 3)?,
        _ => gzip(&body)?,
    };
    let mut bytes = head(packed.len(), &format!("content-encoding: {coding}\r\n")).into_bytes();
    bytes.extend_from_slice(&packed[..packed.len() - 5]);
    let mut held = Vec::new();
    for _ in 0..75 / arena.scale {
        held.push(raw(arena.gateway, &bytes).await?);
    }
    rest(&arena, begun).await
}

async fn unread_streams(arena: Arena, model: &str, stream: bool) -> Result<String, Failure> {
    let each = 196 / if stream { 1 } else { 8 };
    let request = post(arena.gateway, ATTACKER, question(model, stream, ""))?;
    unread_answers(arena, &request, 21, each).await
}

async fn unread_models(arena: Arena) -> Result<String, Failure> {
    let request = request(arena.gateway, ATTACKER, Method::GET, "/v1/models", Bytes::new())?;
    unread_answers(arena, &request, 8, 196).await
}

async fn unread_http1(arena: Arena) -> Result<String, Failure> {
    let begun = Instant::now();
    let body = question("endless", true, "");
    let mut bytes = head(body.len(), "").into_bytes();
    bytes.extend_from_slice(&body);
    let mut held = Vec::new();
    for _ in 0..500 / arena.scale {
        held.push(raw(arena.gateway, &bytes).await?);
        sleep(arena.time / 1000).await;
    }
    rest(&arena, begun).await
}

/// Keeps so many callers busy with one question.
async fn asked(arena: Arena, model: &'static str, stream: bool, callers: usize) -> Result<String, Failure> {
    busy(arena, callers, move |arena| {
        Ok(post(arena.gateway, ATTACKER, question(model, stream, ""))?)
    })
    .await
}

async fn broken_requests(arena: Arena) -> Result<String, Failure> {
    let text = "x".repeat(MIB - 4096);
    let body = format!(r#"{{"model":"small","messages":[{{"role":"user","content":"{text}"}},]}}"#);
    let packed = Bytes::from(gzip(body.as_bytes())?);
    let begun = Instant::now();
    let mut sending = JoinSet::new();
    while Instant::now() < begun + arena.time {
        let (gateway, packed) = (arena.gateway, packed.clone());
        sending.spawn(async move {
            let mut request = post(gateway, ATTACKER, packed)?;
            request
                .headers_mut()
                .insert("content-encoding", http::HeaderValue::from_static("gzip"));
            let answer = Caller::connect(gateway, ATTACKER).await?.send(request).await?;
            if answer.status.is_client_error() {
                Ok(())
            } else {
                Err(Failure::from(format!("{}", answer.status)))
            }
        });
        // 120 a second.
        sleep(Duration::from_micros(8_333)).await;
        while let Some(sent) = sending.try_join_next() {
            sent??;
        }
    }
    Ok(String::new())
}

async fn many_members(arena: Arena) -> Result<String, Failure> {
    let members: String = (0..3_000_000 / arena.scale).map(|n| format!(r#""{n}":0,"#)).collect();
    let body = Bytes::from(format!(r#"{{{members}"model":"small","messages":[]}}"#));
    busy(arena, 2, move |arena| Ok(post(arena.gateway, ATTACKER, body.clone())?)).await
}

async fn many_tools(arena: Arena) -> Result<String, Failure> {
    let tools = "0,".repeat(3_000_000 / arena.scale);
    let body = Bytes::from(format!(r#"{{"model":"small","input":"hi","tools":[{tools}0]}}"#));
    busy(arena, 2, move |arena| {
        Ok(request(
            arena.gateway,
            ATTACKER,
            Method::POST,
            "/v1/responses",
            body.clone(),
        )?)
    })
    .await
}

async fn slow_calls(arena: Arena) -> Result<String, Failure> {
    let begun = Instant::now();
    let mut held = JoinSet::new();
    for _ in 0..16 {
        let gateway = arena.gateway;
        held.spawn(async move {
            let mut caller = Caller::connect(gateway, ATTACKER).await?;
            caller.ask("slow-calls", false).await
        });
    }
    sleep(arena.time / 4).await;
    let mut other = Caller::connect(arena.gateway, "other").await?;
    let asked = Instant::now();
    let answer = timeout(Duration::from_secs(5), other.ask("quick-call", false)).await;
    let answer = answer.map_err(|_| "another caller's quick call waits behind the slow ones")??;
    if answer.status != StatusCode::OK {
        return Err(format!(
            "another caller's quick call: {}, {:?}",
            answer.status,
            Instant::now() - asked
        )
        .into());
    }
    rest(&arena, begun).await
}

async fn long_prompts(arena: Arena) -> Result<String, Failure> {
    let body = question("small", false, &"x\\n".repeat(10 * MIB));
    busy(arena, 4, move |arena| Ok(post(arena.gateway, ATTACKER, body.clone())?)).await
}

async fn hidden_request(arena: Arena) -> Result<String, Failure> {
    let body = Bytes::from_static(b"DELETE /v1/files/f HTTP/1.1\r\nhost: provider\r\ncontent-length: 0\r\n\r\n");
    busy(arena, 2, move |arena| {
        Ok(request(
            arena.gateway,
            ATTACKER,
            Method::GET,
            "/v1/models",
            body.clone(),
        )?)
    })
    .await
}

async fn silent(arena: Arena) -> Result<String, Failure> {
    let begun = Instant::now();
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(TcpStream::connect(arena.gateway).await?);
    }
    rest(&arena, begun).await
}

async fn odd_paths(arena: Arena) -> Result<String, Failure> {
    for path in [
        "/v1/models/..;/files",
        "/v1/models/..%00",
        "/v1/models/%2e%2e/files",
        "/v1/models//files",
        "/v1/models/..\\files",
    ] {
        let bytes = format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n");
        // The provider tells whether it came with a key of the pool.
        raw_status(arena.gateway, bytes.as_bytes()).await?;
    }
    rest(&arena, Instant::now()).await
}

async fn harmful_headers(arena: Arena) -> Result<String, Failure> {
    busy(arena, 2, |arena| {
        let mut request = post(arena.gateway, ATTACKER, question("small", false, ""))?;
        for (name, value) in [
            ("x-http-method-override", "DELETE"),
            ("x-original-url", "/v1/files"),
            ("x-real-ip", "127.0.0.1"),
            ("idempotency-key", "one"),
        ] {
            request
                .headers_mut()
                .insert(name, http::HeaderValue::from_static(value));
        }
        Ok(request)
    })
    .await
}

async fn deleted_file(arena: Arena) -> Result<String, Failure> {
    let begun = Instant::now();
    fs::remove_file(&arena.record)?;
    let mut caller = Caller::connect(arena.gateway, ATTACKER).await?;
    caller.ask("small", false).await?;
    rest(&arena, begun).await?;
    let recorded = fs::read_to_string(&arena.record).unwrap_or_default();
    if recorded.contains("ended") {
        Ok(String::new())
    } else {
        Err("nothing is recorded any more".into())
    }
}

async fn long_model(arena: Arena) -> Result<String, Failure> {
    let model = "m".repeat(8 * MIB);
    let body = question(&model, false, "");
    let answer = Caller::connect(arena.gateway, ATTACKER)
        .await?
        .send(post(arena.gateway, ATTACKER, body.clone())?)
        .await?;
    if answer.status != StatusCode::BAD_REQUEST || answer.body.len() > 4096 {
        return Err(format!("{}, {} bytes", answer.status, answer.body.len()).into());
    }
    busy(arena, 2, move |arena| Ok(post(arena.gateway, ATTACKER, body.clone())?)).await
}

async fn two_hosts(arena: Arena) -> Result<String, Failure> {
    let bytes = b"GET /v1/models HTTP/1.1\r\nhost: gateway\r\nhost: other\r\nconnection: close\r\n\r\n";
    let line = raw_status(arena.gateway, bytes).await?;
    if line.contains(" 400 ") {
        Ok(String::new())
    } else {
        Err(line.into())
    }
}
