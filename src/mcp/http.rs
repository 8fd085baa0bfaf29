//! The HTTP client under the protocol: one TLS stack, no redirect to another origin, and no URL in an error.

use std::{collections::HashMap, future::Future, sync::Arc};

use futures_core::stream::BoxStream;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, USER_AGENT},
};
use reqwest::redirect::{Attempt, Policy};
use rmcp::{
    model::ClientJsonRpcMessage,
    transport::streamable_http_client::{
        SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse, StreamableHttpResponseLimits,
    },
};
use rustls::crypto::{CryptoProvider, ring};
use rustls_platform_verifier::BuilderVerifierExt;
use sse_stream::Sse;

use super::server::McpServer;

const MAX_REDIRECTS: usize = 4;

/// `reqwest`'s client as it is, but for its errors: they would show the URL, whose query may be a key.
#[derive(Clone)]
pub(super) struct HttpClient(reqwest::Client);

type Failure = StreamableHttpError<reqwest::Error>;
type Headers = HashMap<HeaderName, HeaderValue>;
type Events = BoxStream<'static, Result<Sse, SseError>>;

// === impl HttpClient ===

impl HttpClient {
    /// A client for one server, with its authorization on every request.
    ///
    /// # Errors
    ///
    /// When the machine's certificate store cannot be used.
    pub(super) fn new(server: &McpServer) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if let Some(authorization) = &server.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls().map_err(|error| format!("no TLS: {error}"))?)
            .default_headers(headers)
            .redirect(Policy::custom(same_origin))
            .build()
            .map(Self)
            .map_err(|error| error.without_url().to_string())
    }
}

/// The process's cryptography if it chose one, else ring; the machine's own trust store, so that a company's certificate
/// authority counts.
fn tls() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(ring::default_provider()));
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A server may move its path (a missing slash is a common case); what we send, key and arguments, stays with it.
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

fn scrub(error: Failure) -> Failure {
    match error {
        StreamableHttpError::Client(error) => StreamableHttpError::Client(error.without_url()),
        other => other,
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
        self.0
            .post_message_with_response_limits(uri, message, session_id, auth_header, custom_headers, limits)
            .await
            .map_err(scrub)
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Result<(), Failure> {
        self.0
            .delete_session(uri, session_id, auth_header, custom_headers)
            .await
            .map_err(scrub)
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Result<Events, Failure> {
        self.0
            .get_stream(uri, session_id, last_event_id, auth_header, custom_headers)
            .await
            .map_err(scrub)
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
        self.0
            .get_stream_with_max_sse_event_size(
                uri,
                session_id,
                last_event_id,
                auth_header,
                custom_headers,
                max_sse_event_size,
            )
            .await
            .map_err(scrub)
    }
}
