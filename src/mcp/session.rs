//! One connection to one server, and what can be said about its failure.

use std::{error::Error, future::Future, pin::Pin, sync::Arc, time::Duration};

use process_wrap::tokio::{CommandWrap, KillOnDrop};
use rmcp::{
    ClientHandler, RoleClient,
    model::{ClientCapabilities, ClientConfig, Implementation},
    serve_client,
    service::{ClientInitializeError, NotificationContext, RunningService, ServiceError},
    transport::{
        StreamableHttpClientTransport, TokioChildProcess,
        common::client_side_sse::ExponentialBackoff,
        streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError},
    },
};
use tokio::sync::Notify;

use super::{
    http::HttpClient,
    server::{Command, Endpoint, McpServer},
};

/// What a program needs to run, and nothing that is ours to keep: the variables that the protocol project's own SDKs pass
/// on, on Unix and on Windows.
const INHERITED: [&str; 16] = [
    "APPDATA",
    "HOME",
    "HOMEDRIVE",
    "HOMEPATH",
    "LOCALAPPDATA",
    "LOGNAME",
    "PATH",
    "PROCESSOR_ARCHITECTURE",
    "SHELL",
    "SYSTEMDRIVE",
    "SYSTEMROOT",
    "TEMP",
    "TERM",
    "USER",
    "USERNAME",
    "USERPROFILE",
];

/// How often a broken event stream is picked up again before whoever waits for it is told.
const STREAM_RETRIES: usize = 4;

pub(super) type Session = RunningService<RoleClient, Listener>;

/// Our side of the protocol: it offers the server nothing, and listens for one notification.
pub(super) struct Listener {
    pub(super) changed: Arc<Notify>,
}

/// Connects and shakes hands.
///
/// # Errors
///
/// What went wrong; it may hold secrets.
pub(super) async fn open(server: &McpServer, changed: Arc<Notify>) -> Result<Session, String> {
    let listener = Listener { changed };
    let opened = match &server.endpoint {
        Endpoint::Http(url) => {
            let mut retry = ExponentialBackoff::default();
            retry.max_times = Some(STREAM_RETRIES);
            retry.max_delay = Some(Duration::from_secs(10));
            let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str());
            config.retry_config = Arc::new(retry);
            let transport = StreamableHttpClientTransport::with_client(HttpClient::new(server)?, config);
            handshake(serve_client(listener, transport)).await
        }
        Endpoint::Command(command) => {
            let child = TokioChildProcess::new(wrap(command)).map_err(|error| format!("cannot be started: {error}"))?;
            handshake(serve_client(listener, child)).await
        }
        Endpoint::Stream(connect) => {
            let stream = connect().await.map_err(|error| error.to_string())?;
            handshake(serve_client(listener, stream)).await
        }
    };
    opened.map_err(|error| match &error {
        ClientInitializeError::TransportError { error, .. } => chain(error.error.as_ref()),
        ClientInitializeError::ConnectionClosed(_) => "the connection was closed in the handshake".to_owned(),
        ClientInitializeError::JsonRpcError(error) => format!("the server refuses: {}", error.message),
        _ => chain(&error),
    })
}

/// Boxed: the SDK's future is large, and inside of another one the compiler cannot see that it is `Send`.
fn handshake<F: Future + Send + 'static>(future: F) -> Pin<Box<dyn Future<Output = F::Output> + Send>> {
    Box::pin(future)
}

fn wrap(command: &Command) -> CommandWrap {
    let mut wrapped = CommandWrap::with_new(&command.program, |process| {
        let inherited = INHERITED
            .iter()
            .filter_map(|name| Some((*name, std::env::var_os(name)?)));
        process
            .args(&command.arguments)
            .env_clear()
            .envs(inherited)
            .envs(command.environment.iter().map(|(name, value)| (name, value)));
    });
    wrapped.wrap(KillOnDrop);
    // A launcher such as `npx` has the server as a child of its own: all of them go together.
    #[cfg(unix)]
    wrapped.wrap(process_wrap::tokio::ProcessGroup::leader());
    #[cfg(windows)]
    wrapped.wrap(process_wrap::tokio::JobObject);
    wrapped
}

/// What a failed request says; it may hold secrets.
pub(super) fn explain(error: &ServiceError) -> String {
    match error {
        ServiceError::McpError(error) => error.message.to_string(),
        ServiceError::TransportSend(error) => chain(error.error.as_ref()),
        ServiceError::TransportClosed => "the connection was closed".to_owned(),
        ServiceError::UnexpectedResponse => "the answer is not what the protocol promises".to_owned(),
        other => chain(other),
    }
}

/// An error and its causes, each said once.
fn chain(error: &(dyn Error + 'static)) -> String {
    // The SDK does not name the client's error as a source of its own.
    let error = match error.downcast_ref() {
        Some(StreamableHttpError::<reqwest::Error>::Client(client)) => client,
        _ => error,
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

// === impl Listener ===

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let implementation = Implementation::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), implementation)
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }
}
