//! One caller cannot take the connections of the others.

use http::{Method, StatusCode};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::harness::{CHAT, Gateway, KEY, Provider, completion, within};

/// Open files that the gateway may have here, and so two thirds of it connections.
const FILES: usize = 96;

#[tokio::test]
async fn silent_connections_leave_those_alone_who_were_there_before() {
    let mut provider = Provider::start().await;
    let mut gateway = Gateway::start_with_files(FILES, &["--upstream", &provider.url, "--key", KEY]).await;
    let body = r#"{"model":"m","messages":[]}"#;
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut early = TcpStream::connect(gateway.address).await.expect("a connection");

    let mut silent = Vec::new();
    for _ in 0..FILES {
        silent.push(
            TcpStream::connect(gateway.address)
                .await
                .expect("the system accepts it"),
        );
    }
    gateway.until_logged("too many connections").await;
    // The last one is over the bound, and told so.
    let mut last = silent.pop().expect("there are many");
    assert_eq!(within(last.read(&mut [0])).await.unwrap_or(0), 0);

    // It needs a further file: the connection to the provider.
    early.write_all(request.as_bytes()).await.expect("a request is written");
    let call = provider.arrival().await;
    call.answer.send(completion("served")).expect("the call is waited for");
    let mut line = String::new();
    within(BufReader::new(&mut early).read_line(&mut line))
        .await
        .expect("an answer");
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");

    drop((early, silent));
    gateway.signal().await;
    assert_eq!(gateway.end().await.0.code(), Some(0));
}

/// Few descriptors, and the operator's listener is full: callers are served, which takes connections to the provider.
#[tokio::test]
async fn silent_connections_to_the_operators_listener_leave_descriptors_for_callers() {
    let mut provider = Provider::start().await;
    let arguments = ["--upstream", &provider.url, "--key", KEY, "--admin", "127.0.0.1:0"];
    let mut gateway = Gateway::start_with_files(FILES, &arguments).await;
    let admin = gateway.admin.expect("it is asked for");
    let mut silent = Vec::new();
    for _ in 0..FILES {
        silent.push(TcpStream::connect(admin).await.expect("the system accepts it"));
    }
    gateway.until_logged("too many connections").await;
    let asked = gateway.ask_later("hello");
    let call = provider.arrival().await;
    call.answer.send(completion("served")).expect("the call is waited for");
    assert_eq!(within(asked).await.expect("no panic").0, StatusCode::OK);
    drop(silent);
    gateway.signal().await;
    assert_eq!(gateway.end().await.0.code(), Some(0));
}

/// The connections that either listener refuses are counted separately.
#[tokio::test]
async fn silent_connections_to_the_operators_listener_are_not_taken_for_callers() {
    let gateway = Gateway::start(&[]).await;
    let admin = gateway.admin.expect("the demo has one");
    // A connection that is kept, so that it has a place.
    assert_eq!(
        gateway.ask_admin(Method::GET, "/healthz", &[]).await.0.status,
        StatusCode::OK
    );
    let mut silent = Vec::new();
    for _ in 0..128 {
        silent.push(TcpStream::connect(admin).await.expect("the system accepts it"));
    }
    let mut last = silent.pop().expect("there are many");
    assert_eq!(within(last.read(&mut [0])).await.unwrap_or(0), 0, "it is refused");
    assert_eq!(gateway.ask("hello").await.0, StatusCode::OK);

    let (_, metrics) = gateway.ask_admin(Method::GET, "/metrics", &[]).await;
    let refusals: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("llm_bridge_refusals_total"))
        .collect();
    assert_eq!(
        refusals,
        [r#"llm_bridge_refusals_total{limit="operator_connections"} 1"#]
    );
    drop(silent);
    gateway.signal().await;
    assert_eq!(gateway.end().await.0.code(), Some(0));
}

/// A shell plays the gateway: it starts a child as the gateway does, and is killed without a chance to end it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_child_ends_with_a_gateway_that_is_killed() {
    let gateway = env!("CARGO_BIN_EXE_gateway");
    let script = format!("{gateway} --run-child $$ sh -c 'echo started; exec sleep 1000' & wait");
    let mut parent = tokio::process::Command::new("sh")
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("there is a shell");
    let mut output = BufReader::new(parent.stdout.take().expect("stdout is piped"));
    let mut line = String::new();
    within(output.read_line(&mut line)).await.expect("the child speaks");
    assert_eq!(line, "started\n");
    parent.kill().await.expect("the shell can be killed");
    // The child has the other end of the pipe.
    assert_eq!(within(output.read(&mut [0])).await.expect("a readable pipe"), 0);
}
