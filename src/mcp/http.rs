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

use super::flood::Flood;

const MAX_REDIRECTS: usize = 4;
/// Attempts to resume a broken event stream before the call that waits for it fails.
const STREAM_RETRIES: usize = 4;
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The address of a server, and how it is spoken to.
#[derive(Clone)]
pub(super) struct HttpEndpoint {
    pub(super) url: Url,
    pub(super) authorization: Option<HeaderValue>,
    /// The application's own client.
    pub(super) client: Option<reqwest::Client>,
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

    /// The text for an error, with advice for the one that every `https` URL causes in a build without TLS.
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

/// Follows a redirect only to the same origin. A server may redirect to another path, for example to add a slash; our
/// key and our arguments stay with it.
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
        if let Poll::Ready(Some(event)) = &polled {
            let data = event.as_ref().ok().and_then(|event| event.data.as_deref());
            self.flood.count_event(data.unwrap_or_default());
        }
        polled
    }
}
