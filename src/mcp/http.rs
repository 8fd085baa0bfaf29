//! Streamable HTTP: the endpoint of a server, and a client that neither leaves its origin nor shows its URL in an error.

use std::{
    collections::HashMap,
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::{Stream, stream::BoxStream};
use http::{
    HeaderName, HeaderValue,
    header::{AUTHORIZATION, USER_AGENT},
};
use percent_encoding::percent_decode_str;
use reqwest::{
    Url,
    redirect::{Attempt, Policy},
};
use rmcp::{
    model::ClientJsonRpcMessage,
    transport::{
        StreamableHttpClientTransport,
        common::client_side_sse::ExponentialBackoff,
        streamable_http_client::{
            SseError, StreamableHttpClient, StreamableHttpClientTransportConfig, StreamableHttpError,
            StreamableHttpPostResponse, StreamableHttpResponseLimits,
        },
    },
};
use sse_stream::Sse;

use super::{
    error::{McpServerError, McpServerErrorKind},
    flood::Flood,
    server::{Endpoint, McpServer},
};

const MAX_REDIRECTS: usize = 4;
/// Attempts to resume a broken event stream before the call that waits for it fails.
const STREAM_RETRIES: usize = 4;
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The address of a server, and how it is spoken to.
#[derive(Clone)]
pub(super) struct HttpEndpoint {
    pub(super) url: Url,
    authorization: Option<HeaderValue>,
    /// The application's own client.
    client: Option<reqwest::Client>,
}

/// A `reqwest` client that adds our headers to each request, and takes the URL out of each error: its query may be a key.
#[derive(Clone)]
pub(super) struct HttpClient {
    client: reqwest::Client,
    headers: Headers,
    flood: Flood,
}

/// An event stream that counts its events.
struct Counted {
    events: Events,
    flood: Flood,
}

type Failure = StreamableHttpError<reqwest::Error>;
type Headers = HashMap<HeaderName, HeaderValue>;
type Events = BoxStream<'static, Result<Sse, SseError>>;

// === impl McpServer ===

#[cfg_attr(docsrs, doc(cfg(feature = "mcp-http")))]
impl McpServer {
    /// A server that speaks
    /// [streamable HTTP](https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#streamable-http).
    ///
    /// User information in the URL is sent as basic authentication; neither that nor the query is ever logged or recorded.
    /// Redirects are followed on the same scheme, host and port only.
    ///
    /// `https` needs TLS, which the application chooses: see the [module](crate::mcp#https).
    ///
    /// # Errors
    ///
    /// When `url` is not an absolute `http` or `https` URL.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::mcp::{McpServer, McpServerErrorKind};
    ///
    /// let server = McpServer::http("tracker", "https://mcp.example.com/v1")?.authorization("Bearer s3cret-token")?;
    /// assert!(!format!("{server:?}").contains("s3cret"));
    ///
    /// let error = McpServer::http("files", "file:///etc/passwd").unwrap_err();
    /// assert_eq!(error.kind(), McpServerErrorKind::Url);
    /// assert_eq!(error.to_string(), "MCP server files: the URL must begin with http:// or https://");
    /// # Ok::<(), tower_llm_bridge::mcp::McpServerError>(())
    /// ```
    pub fn http(name: impl Into<String>, url: &str) -> Result<Self, McpServerError> {
        let name = name.into();
        let invalid = |problem: String| McpServerError::new(&name, McpServerErrorKind::Url, problem);
        let url = match Url::parse(url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
            Ok(_) => return Err(invalid("the URL must begin with http:// or https://".to_owned())),
            Err(error) => return Err(invalid(format!("the URL is unusable: {error}"))),
        };
        let mut server = Self::new(
            name,
            Endpoint::Http(HttpEndpoint {
                url: url.clone(),
                authorization: None,
                client: None,
            }),
        );
        // With its escapes and without: a server may quote either.
        for user_info in [url.username(), url.password().unwrap_or_default()] {
            server.secrets.add(user_info);
            server.secrets.add(&percent_decode_str(user_info).decode_utf8_lossy());
        }
        server.secrets.add(url.query().unwrap_or_default());
        for (_, value) in url.query_pairs() {
            server.secrets.add(&value);
        }
        Ok(server)
    }

    /// Sends `value`, such as `Bearer …`, as the `Authorization` header of every request. It replaces user information in
    /// the URL. It is never printed or logged.
    ///
    /// # Errors
    ///
    /// When the value cannot be a header's, or the server is not spoken to over HTTP.
    pub fn authorization(mut self, value: &str) -> Result<Self, McpServerError> {
        let Endpoint::Http(endpoint) = &mut self.endpoint else {
            return Err(self.error(
                McpServerErrorKind::Transport,
                "only a server that is spoken to over HTTP takes an authorization",
            ));
        };
        // User information would be sent as a second value. Both fail only for URLs without a host.
        let url = &mut endpoint.url;
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        let (Ok(()), Ok(mut header)) = (cleared, HeaderValue::from_str(value)) else {
            return Err(self.error(
                McpServerErrorKind::Authorization,
                "the authorization has characters that no header may have",
            ));
        };
        header.set_sensitive(true);
        endpoint.authorization = Some(header);
        self.secrets.add(value);
        if let Some((_scheme, token)) = value.split_once(' ') {
            self.secrets.add(token.trim());
        }
        Ok(self)
    }

    /// Sends the requests with a client of the application's: its TLS, its proxy, its certificates, its redirect policy.
    ///
    /// `reqwest` is part of this method's signature, in version 0.13.
    ///
    /// # Errors
    ///
    /// When the server is not spoken to over HTTP.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use tower_llm_bridge::mcp::McpServer;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build()?;
    /// let server = McpServer::http("wiki", "https://mcp.example.com/mcp")?.client(client)?;
    /// # drop(server);
    /// # Ok(())
    /// # }
    /// ```
    pub fn client(mut self, client: reqwest::Client) -> Result<Self, McpServerError> {
        let Endpoint::Http(endpoint) = &mut self.endpoint else {
            return Err(self.error(
                McpServerErrorKind::Transport,
                "only a server that is spoken to over HTTP takes an HTTP client",
            ));
        };
        endpoint.client = Some(client);
        Ok(self)
    }
}

// === impl HttpEndpoint ===

impl HttpEndpoint {
    /// Scheme, host, port and path.
    pub(super) fn address(&self) -> String {
        let mut address = self.url.origin().ascii_serialization();
        address.push_str(self.url.path());
        address
    }

    /// The client for all connections of this server.
    ///
    /// # Errors
    ///
    /// When `reqwest` cannot build one.
    pub(super) fn client(&self) -> Result<HttpClient, String> {
        let mut headers = Headers::new();
        headers.extend(self.authorization.clone().map(|value| (AUTHORIZATION, value)));
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
                headers.insert(USER_AGENT, HeaderValue::from_static(agent));
                reqwest::Client::builder()
                    .redirect(Policy::custom(same_origin))
                    .build()
                    .map_err(|error| error.without_url().to_string())?
            }
        };
        Ok(HttpClient {
            client,
            headers,
            flood: Flood::default(),
        })
    }

    /// The words for an error, with what to do about the one that every first `https` URL meets in a build without TLS.
    pub(super) fn explain(&self, error: String) -> String {
        if self.url.scheme() == "https" && error.contains("scheme is not http") {
            return "https needs TLS, which this build of reqwest lacks: switch on a TLS feature of reqwest 0.13 in the \
                    application, or give the server a client with TLS"
                .to_owned();
        }
        error
    }
}

// === impl HttpClient ===

impl HttpClient {
    /// The same client for a session with these counters.
    pub(super) fn guarded(mut self, flood: Flood) -> Self {
        self.flood = flood;
        self
    }

    fn counted(&self, events: Events) -> Events {
        let flood = self.flood.clone();
        Box::pin(Counted { events, flood })
    }

    fn with_ours(&self, mut headers: Headers) -> Headers {
        headers.extend(self.headers.clone());
        headers
    }
}

/// The SDK's transport over `client`, with at most `max_posts` requests in flight.
pub(super) fn transport(
    endpoint: &HttpEndpoint,
    client: HttpClient,
    max_posts: usize,
) -> StreamableHttpClientTransport<HttpClient> {
    let mut retry = ExponentialBackoff::default();
    retry.max_times = Some(STREAM_RETRIES);
    retry.max_delay = Some(LONGEST_RETRY_PAUSE);
    let mut config = StreamableHttpClientTransportConfig::with_uri(endpoint.url.as_str());
    config.retry_config = Arc::new(retry);
    config.max_concurrent_requests = max_posts;
    StreamableHttpClientTransport::with_client(client, config)
}

/// Follows a redirect only to the same origin. A server may move its path, such as by a missing slash; our key and our
/// arguments stay with the server.
fn same_origin(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let stays = attempt
        .previous()
        .first()
        .is_some_and(|first| first.origin() == attempt.url().origin());
    if !stays {
        attempt.error("a redirect to another origin is not followed")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

fn without_url(error: Failure) -> Failure {
    match error {
        StreamableHttpError::Client(error) => StreamableHttpError::Client(error.without_url()),
        other => other,
    }
}

/// The error of the client inside an error of the SDK, which does not name it as its source.
pub(super) fn client_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref() {
        Some(StreamableHttpError::<reqwest::Error>::Client(client)) => Some(client),
        _ => None,
    }
}

impl StreamableHttpClient for HttpClient {
    type Error = reqwest::Error;

    fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> impl Future<Output = Result<StreamableHttpPostResponse, Failure>> + Send + '_ {
        let limits = StreamableHttpResponseLimits::default();
        self.post_message_with_response_limits(uri, message, session_id, auth_header, custom_headers, limits)
    }

    async fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        let headers = self.with_ours(custom_headers);
        self.client
            .post_message_with_response_limits(uri, message, session_id, auth_header, headers, limits)
            .await
            .map(|response| match response {
                StreamableHttpPostResponse::Sse(events, session) => {
                    StreamableHttpPostResponse::Sse(self.counted(events), session)
                }
                other => other,
            })
            .map_err(without_url)
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Result<(), Failure> {
        let headers = self.with_ours(custom_headers);
        self.client
            .delete_session(uri, session_id, auth_header, headers)
            .await
            .map_err(without_url)
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Result<Events, Failure> {
        let headers = self.with_ours(custom_headers);
        self.client
            .get_stream(uri, session_id, last_event_id, auth_header, headers)
            .await
            .map(|events| self.counted(events))
            .map_err(without_url)
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: Headers,
        max_sse_event_size: usize,
    ) -> Result<Events, Failure> {
        let headers = self.with_ours(custom_headers);
        self.client
            .get_stream_with_max_sse_event_size(
                uri,
                session_id,
                last_event_id,
                auth_header,
                headers,
                max_sse_event_size,
            )
            .await
            .map(|events| self.counted(events))
            .map_err(without_url)
    }
}

// === impl Counted ===

impl Stream for Counted {
    type Item = Result<Sse, SseError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.flood.reason().is_some() {
            return Poll::Ready(None);
        }
        let polled = self.events.as_mut().poll_next(cx);
        if let Poll::Ready(Some(_)) = polled {
            self.flood.count_event();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_secret() {
        let server = McpServer::http("s", "https://user-17:pass%2Dword@host.example:8443/mcp?key=k-123456#f").unwrap();
        assert_eq!(server.address(), "https://host.example:8443/mcp");
        let masked = server
            .secrets
            .mask("GET https://host.example:8443/mcp?key=k-123456 with user-17, pass-word or pass%2Dword");
        assert_eq!(masked, "GET https://host.example:8443/mcp?... with ..., ... or ...");
        let server = server.authorization("Bearer token-17").unwrap();
        let debug = format!("{server:?}");
        for secret in ["user-17", "pass-word", "pass%2Dword", "k-123456", "token-17"] {
            assert!(!debug.contains(secret), "{debug}");
        }
        assert!(matches!(&server.endpoint, Endpoint::Http(endpoint) if endpoint.url.username().is_empty()));
    }

    #[test]
    fn a_wrong_description_is_refused() {
        for url in ["", "mcp.example.com", "ftp://host/", "unix:/run/x", "http://"] {
            let error = McpServer::http("s", url).unwrap_err();
            assert_eq!(error.kind(), McpServerErrorKind::Url, "{url}");
        }
        let server = McpServer::http("s", "http://host/").unwrap();
        let error = server.clone().authorization("Bearer to\nken").unwrap_err();
        assert_eq!(error.kind(), McpServerErrorKind::Authorization);
        assert!(!error.to_string().contains("ken"), "{error}");

        let env = server.env("KEY", "value");
        let authorization = McpServer::command("s", "p", [""; 0]).authorization("Bearer x");
        for error in [env.unwrap_err(), authorization.unwrap_err()] {
            assert_eq!(error.kind(), McpServerErrorKind::Transport, "{error}");
        }
    }
}
