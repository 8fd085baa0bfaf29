//! One session with one server: opens it, and describes its failures.

use std::{error::Error, future::Future, pin::Pin, sync::Arc};

use rmcp::{
    ClientHandler, RoleClient,
    model::{ClientCapabilities, ClientConfig, Implementation},
    serve_client,
    service::{ClientInitializeError, NotificationContext, RunningService, ServiceError},
    transport::async_rw::AsyncRwTransport,
};
use tokio::sync::Notify;

#[cfg(feature = "mcp-http")]
use super::http::{HttpClient, HttpEndpoint, client_error, transport};
use super::{
    child::Child,
    flood::{Flood, Guarded, GuardedRead},
    server::{Command, Connect, Endpoint, McpServer},
};

pub(super) type Session = RunningService<RoleClient, Listener>;

/// Opens sessions with one server.
pub(super) enum Connector {
    #[cfg(feature = "mcp-http")]
    Http {
        endpoint: HttpEndpoint,
        client: HttpClient,
        /// Requests in flight.
        max_posts: usize,
    },
    Command(Command),
    Stream(Connect),
}

/// Our side of the protocol: offers the server nothing, and listens for one notification.
pub(super) struct Listener {
    changed: Arc<Notify>,
    flood: Flood,
}

// === impl Connector ===

impl Connector {
    /// # Errors
    ///
    /// When there is no HTTP client for the server.
    pub(super) fn new(server: &McpServer) -> Result<Self, String> {
        match &server.endpoint {
            #[cfg(feature = "mcp-http")]
            Endpoint::Http(endpoint) => Ok(Self::Http {
                client: endpoint.client()?,
                endpoint: endpoint.clone(),
                // Listings, pings and cancellations must not wait for calls.
                max_posts: server.max_calls.saturating_add(8),
            }),
            Endpoint::Command(command) => Ok(Self::Command(command.clone())),
            Endpoint::Stream(connect) => Ok(Self::Stream(Arc::clone(connect))),
        }
    }

    /// Connects and shakes hands. `changed` is notified when the server's list of tools changed.
    ///
    /// # Errors
    ///
    /// The failure, in a text that may hold secrets.
    pub(super) async fn open(&self, changed: Arc<Notify>) -> Result<Session, String> {
        let flood = Flood::default();
        let listener = Listener {
            changed,
            flood: flood.clone(),
        };
        let opened = match self {
            #[cfg(feature = "mcp-http")]
            Self::Http {
                endpoint,
                client,
                max_posts,
            } => {
                let transport = transport(endpoint, client.clone().guarded(flood.clone()), *max_posts);
                let opened = handshake(serve_client(listener, Guarded::new(transport, flood.clone()))).await;
                return opened.map_err(|error| endpoint.explain(describe(&error, &flood)));
            }
            Self::Command(command) => {
                let child =
                    Child::spawn(command, flood.clone()).map_err(|error| format!("cannot be started: {error}"))?;
                handshake(serve_client(listener, Guarded::new(child, flood.clone()))).await
            }
            Self::Stream(connect) => {
                let stream = connect().await.map_err(|error| error.to_string())?;
                let (read, write) = tokio::io::split(stream);
                let transport = AsyncRwTransport::new(GuardedRead::new(read, flood.clone()), write);
                handshake(serve_client(listener, Guarded::new(transport, flood.clone()))).await
            }
        };
        opened.map_err(|error| describe(&error, &flood))
    }
}

/// Boxed: the SDK's future is large, and inside of another one the compiler cannot see that it is `Send`.
fn handshake<F: Future + Send + 'static>(future: F) -> Pin<Box<dyn Future<Output = F::Output> + Send>> {
    Box::pin(future)
}

/// Why there is no session; it may hold secrets.
fn describe(error: &ClientInitializeError, flood: &Flood) -> String {
    if let Some(reason) = flood.reason() {
        return reason;
    }
    match error {
        ClientInitializeError::TransportError { error, .. } => chain(error.error.as_ref()),
        ClientInitializeError::ConnectionClosed(_) => "the connection was closed in the handshake".to_owned(),
        ClientInitializeError::JsonRpcError(error) => format!("the server refuses: {}", error.message),
        _ => chain(error),
    }
}

/// Why a request failed; it may hold secrets.
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
    #[cfg(feature = "mcp-http")]
    let error = client_error(error).unwrap_or(error);
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

impl Listener {
    /// The counters of this session.
    pub(super) fn flood(&self) -> Flood {
        self.flood.clone()
    }
}

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let implementation = Implementation::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), implementation)
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }
}
