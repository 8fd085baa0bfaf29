//! Where a provider's API lies: [`BaseUri`], and the layer that sends requests there.
//!
//! A server gets its requests in origin form (`POST /v1/chat/completions`), but a client needs the scheme and host as
//! well. [`BaseUri`] is the layer between the two, so that a bare `hyper_util` client or `reqwest` works below a
//! [`Bridge`](crate::Bridge).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri, Version, header};
use tower::{Layer, Service};

/// The base of a provider's API: what an SDK calls `base_url`, such as `https://api.openai.com/v1`.
///
/// As a [`Layer`] it sets scheme, authority and path prefix of each request's URI. It removes the caller's `Host`,
/// which names another host (clients take the right one from the URI), and sets the version to HTTP/1.1, by which
/// clients mean "as negotiated": the caller's version says nothing about this hop.
///
/// The path prefix of the callers' URL space, `/v1` unless [`replacing`](Self::replacing) says otherwise, stands for the
/// base's path. Any other path is appended to it.
///
/// **The caller's token.** A bridge above replaces the credential of the requests that it intercepts or keys. A request
/// that it leaves alone comes here with all of the caller's headers, its own
/// `Authorization` and cookies included, and is sent to the provider with them. Mount the bridge on the routes of the
/// model API only, or remove those headers above.
///
/// # Examples
///
/// ```
/// use http::{Request, Response, header};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_llm_bridge::BaseUri;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A client in a real stack; here it tells where it was sent.
/// let client = service_fn(|request: Request<()>| async move {
///     assert!(!request.headers().contains_key(header::HOST), "the client takes it from the URI");
///     Ok::<_, std::convert::Infallible>(Response::new(request.uri().to_string()))
/// });
/// let openrouter: BaseUri = "https://openrouter.ai/api/v1".parse()?;
/// let provider = ServiceBuilder::new().layer(openrouter).service(client);
///
/// let request = Request::post("/v1/chat/completions").header("host", "gateway.example.com").body(())?;
/// let response = provider.oneshot(request).await?;
/// assert_eq!(response.body(), "https://openrouter.ai/api/v1/chat/completions");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BaseUri {
    /// Shared: a service is cloned for each request.
    parts: Arc<Parts>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Parts {
    scheme: Scheme,
    authority: Authority,
    /// Without a slash at its end; empty for a host's root.
    path: String,
    /// The prefix of the callers' paths that `path` replaces, without a slash at its end.
    replaced: String,
}

/// Sends requests to a [`BaseUri`]; the service that this layer makes.
#[derive(Clone, Debug)]
pub struct SetBaseUri<S> {
    inner: S,
    base: BaseUri,
}

/// The error for a text that is not a [`BaseUri`]. It never shows the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUriError(BaseUriErrorKind);

/// Why a text is not a [`BaseUri`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BaseUriErrorKind {
    /// It is not a URI (RFC 3986), or longer than 65,534 bytes.
    NotAUri,
    /// There is no scheme or no host, or the scheme is neither `http` nor `https`.
    NotHttp,
    /// It has a user or a password. They would not be sent; put a key into a pool.
    Credentials,
    /// It has a query, which cannot be part of a base.
    Query,
    /// It ends in an endpoint such as `/chat/completions`; the base ends before that.
    Endpoint,
}

// === impl BaseUri ===

/// The path of a bare host, and the usual prefix of callers' paths.
const V1: &str = "/v1";

/// A base that ends in one of these was copied from a whole URL.
const ENDPOINTS: [&str; 3] = ["/chat/completions", "/messages", "/responses"];

impl BaseUri {
    /// Reads `http[s]://host[:port][/path]`. A bare host means its `/v1`.
    ///
    /// # Errors
    ///
    /// See [`BaseUriErrorKind`].
    pub fn parse(text: &str) -> Result<Self, BaseUriError> {
        use BaseUriErrorKind as Kind;

        let uri: Uri = text.parse().map_err(|_| BaseUriError(Kind::NotAUri))?;
        let parts = uri.into_parts();
        let is_http = |scheme: &Scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
        let (Some(scheme), Some(authority)) = (parts.scheme.filter(is_http), parts.authority) else {
            return Err(BaseUriError(Kind::NotHttp));
        };
        if authority.as_str().contains('@') {
            return Err(BaseUriError(Kind::Credentials));
        }
        if authority.host().is_empty() {
            return Err(BaseUriError(Kind::NotHttp));
        }
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() {
            return Err(BaseUriError(Kind::Query));
        }
        let path = match path.path().trim_end_matches('/') {
            "" => V1,
            path if ENDPOINTS.iter().any(|endpoint| path.ends_with(endpoint)) => {
                return Err(BaseUriError(Kind::Endpoint));
            }
            path => path,
        };
        let parts = Arc::new(Parts {
            scheme,
            authority,
            path: path.to_owned(),
            replaced: V1.to_owned(),
        });
        Ok(Self { parts })
    }

    /// The path prefix of the callers' URL space that stands for the base's path. Default: `/v1`.
    ///
    /// With `/openai/v1` a request for `/openai/v1/models` goes to the base's `/models`. An empty text replaces nothing:
    /// each path is appended as it is.
    #[must_use]
    pub fn replacing(mut self, prefix: &str) -> Self {
        prefix
            .trim_end_matches('/')
            .clone_into(&mut Arc::make_mut(&mut self.parts).replaced);
        self
    }

    /// Where a request for `uri` goes.
    ///
    /// `None` if `uri` has no path that begins with a slash (`CONNECT`, `OPTIONS *`), or if the result is longer than a URI
    /// may be. The layer leaves such a URI as it is, and the client refuses it.
    #[must_use]
    pub fn locate(&self, uri: &Uri) -> Option<Uri> {
        let Parts {
            scheme,
            authority,
            path,
            replaced,
        } = &*self.parts;
        let asked = uri.path_and_query().filter(|path| path.as_str().starts_with('/'))?;
        let resource = asked
            .as_str()
            .strip_prefix(replaced.as_str())
            .filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        let path = if resource.is_some() && path == replaced {
            asked.clone()
        } else {
            let path = [path, resource.unwrap_or(asked.as_str())].concat();
            PathAndQuery::from_maybe_shared(Bytes::from(path)).ok()?
        };
        let uri = Uri::builder().scheme(scheme.clone()).authority(authority.clone());
        uri.path_and_query(path).build().ok()
    }
}

impl FromStr for BaseUri {
    type Err = BaseUriError;

    fn from_str(text: &str) -> Result<Self, BaseUriError> {
        Self::parse(text)
    }
}

impl fmt::Display for BaseUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.parts.scheme, self.parts.authority, self.parts.path)
    }
}

impl fmt::Debug for BaseUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUri({self})")
    }
}

impl<S> Layer<S> for BaseUri {
    type Service = SetBaseUri<S>;

    fn layer(&self, inner: S) -> SetBaseUri<S> {
        SetBaseUri {
            inner,
            base: self.clone(),
        }
    }
}

// === impl SetBaseUri ===

impl<S> SetBaseUri<S> {
    /// The service that gets the requests.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service that gets the requests, mutably.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service that gets the requests, without this layer.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for SetBaseUri<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(uri) = self.base.locate(request.uri()) {
            *request.uri_mut() = uri;
        }
        request.headers_mut().remove(header::HOST);
        *request.version_mut() = Version::HTTP_11;
        self.inner.call(request)
    }
}

// === impl BaseUriError ===

impl BaseUriError {
    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> BaseUriErrorKind {
        self.0
    }
}

impl fmt::Display for BaseUriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            BaseUriErrorKind::NotAUri => "not a URI",
            BaseUriErrorKind::NotHttp => "needs http:// or https:// and a host",
            BaseUriErrorKind::Credentials => "a user or password in it is sent to nobody; leave it out",
            BaseUriErrorKind::Query => "a query cannot be part of the base",
            BaseUriErrorKind::Endpoint => "leave the endpoint (such as /chat/completions) out: the base ends before it",
        })
    }
}

impl std::error::Error for BaseUriError {}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use tower::{ServiceExt, service_fn};

    use super::*;

    fn located(base: &BaseUri, uri: &str) -> Option<String> {
        base.locate(&uri.parse().unwrap()).map(|uri| uri.to_string())
    }

    #[test]
    fn the_callers_prefix_stands_for_the_bases_path() {
        let cases = [
            (
                "https://api.openai.com",
                "/v1/models?limit=2",
                "https://api.openai.com/v1/models?limit=2",
            ),
            ("https://api.openai.com/", "/models", "https://api.openai.com/v1/models"),
            ("https://api.openai.com/v1/", "/v1", "https://api.openai.com/v1"),
            (
                "http://127.0.0.1:81/api/v1",
                "/v1/chat/completions",
                "http://127.0.0.1:81/api/v1/chat/completions",
            ),
            ("http://[::1]:81/api", "/v1?a", "http://[::1]:81/api?a"),
            // Not the prefix, only letters in common.
            ("http://host/api", "/v1beta/models", "http://host/api/v1beta/models"),
            // The caller's authority is not the provider's.
            (
                "http://host/api",
                "http://gateway:8080/v1/models",
                "http://host/api/models",
            ),
        ];
        for (base, asked, expected) in cases {
            let base = BaseUri::parse(base).unwrap();
            assert_eq!(located(&base, asked).as_deref(), Some(expected), "{base} {asked}");
        }
    }

    #[test]
    fn another_prefix_can_be_replaced_and_none() {
        let base = BaseUri::parse("https://host/api").unwrap().replacing("/openai/v1/");
        assert_eq!(located(&base, "/openai/v1/models").unwrap(), "https://host/api/models");
        assert_eq!(located(&base, "/v1/models").unwrap(), "https://host/api/v1/models");
        let base = base.replacing("");
        assert_eq!(located(&base, "/models").unwrap(), "https://host/api/models");
    }

    #[test]
    fn what_has_no_path_or_no_room_is_left_alone() {
        let base = BaseUri::parse("https://host/api").unwrap();
        assert_eq!(located(&base, "*"), None);
        assert_eq!(located(&base, "host:443"), None);
        assert_eq!(located(&base, &format!("/{}", "a".repeat(65_530))), None);
    }

    #[test]
    fn a_wrong_base_is_refused_without_showing_it() {
        use BaseUriErrorKind as Kind;

        for (text, kind) in [
            ("", Kind::NotAUri),
            ("https://", Kind::NotAUri),
            ("http://a b", Kind::NotAUri),
            ("hidden.example.com", Kind::NotHttp),
            ("/v1", Kind::NotHttp),
            ("ftp://hidden", Kind::NotHttp),
            ("https://user:hidden@host", Kind::Credentials),
            ("https://host/v1?key=hidden", Kind::Query),
            ("https://host/v1/chat/completions/", Kind::Endpoint),
            ("https://host/v1/messages", Kind::Endpoint),
        ] {
            let error = BaseUri::parse(text).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(!format!("{error} {error:?}").contains("hidden"), "{text}");
        }
    }

    #[tokio::test]
    async fn the_callers_host_and_version_stay_behind() {
        let client = service_fn(|request: Request<()>| async move {
            assert!(!request.headers().contains_key(header::HOST));
            assert_eq!(request.version(), Version::HTTP_11);
            // A request that no bridge keyed keeps the caller's token: the docs warn of it.
            assert_eq!(request.headers()[header::AUTHORIZATION], "Bearer of-the-caller");
            Ok::<_, Infallible>(Response::new(request.uri().to_string()))
        });
        let service = BaseUri::parse("https://host").unwrap().layer(client);
        let request = Request::post("https://gateway/v1/embeddings")
            .version(Version::HTTP_2)
            .header(header::HOST, "gateway")
            .header(header::AUTHORIZATION, "Bearer of-the-caller")
            .body(())
            .unwrap();
        assert_eq!(
            service.oneshot(request).await.unwrap().body(),
            "https://host/v1/embeddings"
        );
    }
}
