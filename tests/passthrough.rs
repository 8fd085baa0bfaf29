//! A request that is not intercepted is identical below the bridge, and its answer above it.

mod support;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, SizeHint};
use proptest::prelude::*;
use support::*;
use tower::{Layer, ServiceExt, service_fn};
use tower_llm_bridge::tools::Tools;
use tower_llm_bridge::{Actor, Credential, RequestBody};

/// The parts of a message besides its first line.
#[derive(Clone, Debug)]
struct Message {
    headers: HeaderMap,
    version: Version,
    extension: u64,
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    breaks: bool,
    tells_end: bool,
    size: Option<u64>,
}

/// A body's own statements before it was read, and its content.
type Heard = (bool, u64, Option<u64>, Vec<Piece>);

// === impl Message ===

impl Message {
    fn body(&self) -> MockBody {
        let mut body = self
            .frames
            .iter()
            .fold(MockBody::new(), |body, frame| body.pending().data(frame.clone()));
        if self.breaks {
            return body.error("broken");
        }
        if let Some(trailers) = &self.trailers {
            body = body.trailers(trailers.clone());
        }
        if self.tells_end {
            body = body.tells_end();
        }
        match self.size {
            Some(size) => body.claims(SizeHint::with_exact(size)),
            None => body,
        }
    }
}

async fn read<B>(body: B) -> Heard
where
    B: Body<Data = Bytes, Error: std::fmt::Display>,
{
    let (end, size) = (body.is_end_stream(), body.size_hint());
    (end, size.lower(), size.upper(), pieces(body).await)
}

fn header_map() -> impl Strategy<Value = HeaderMap> {
    let name = prop_oneof![
        Just("authorization".to_owned()),
        Just("connection".to_owned()),
        Just("content-length".to_owned()),
        Just("x-forwarded-for".to_owned()),
        Just("set-cookie".to_owned()),
        "[a-z][a-z0-9-]{0,12}",
    ];
    let value = prop_oneof![
        Just(format!("Bearer {}", KEYS[0]).into_bytes()),
        prop::collection::vec(0x20..0x7f_u8, 0..12)
    ];
    prop::collection::vec((name, value), 0..6).prop_map(|pairs| {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::try_from(name).expect("a header's name");
            map.append(name, HeaderValue::from_bytes(&value).expect("a header's value"));
        }
        map
    })
}

fn message() -> impl Strategy<Value = Message> {
    let frame = prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    (
        header_map(),
        prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
        any::<u64>(),
        prop::collection::vec(frame, 0..4),
        prop::option::of(header_map()),
        any::<bool>(),
        any::<bool>(),
        prop::option::of(any::<u64>()),
    )
        .prop_map(
            |(headers, version, extension, frames, trailers, breaks, tells_end, size)| Message {
                headers,
                version,
                extension,
                frames,
                trailers,
                breaks,
                tells_end,
                size,
            },
        )
}

/// Methods and paths that are nearly ours.
fn target() -> impl Strategy<Value = (Method, Uri)> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "WHATEVER"]);
    let path = prop_oneof![
        Just("/".to_owned()),
        Just("/v1/chat/completions/".to_owned()),
        Just("/grpc.health.v1.Health/Check".to_owned()),
        Just("/v1/models/../files".to_owned()),
        Just("/v1/modelsx?limit=1".to_owned()),
        "/[a-z0-9/._%-]{0,20}",
        "https://example.com/[a-z/]{0,20}\\?[a-z=&]{0,9}",
    ];
    (method, path)
        .prop_filter_map("a target", |(method, path)| {
            Some((Method::from_bytes(method.as_bytes()).ok()?, path.parse::<Uri>().ok()?))
        })
        .prop_filter("ours", |(method, uri)| {
            let path = uri.path();
            let listed = method == Method::GET && path.contains("/models");
            let near = path.contains("..") || path.contains("modelsx");
            !(method == Method::POST && path.ends_with("/chat/completions")) && (!listed || near)
        })
}

fn layer() -> BridgeLayer {
    // Every setting that could interfere is switched on.
    let (recorder, events) = tower_llm_bridge::record::Recorder::channel(1);
    drop(events);
    BridgeLayer::new()
        .pool(pool(2))
        .tools(Tools::new([echo()]))
        .recorder(recorder)
        .require_actor(true)
        .actor_headers(true)
        .max_request_body(0)
        .max_response_body(0)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_request_that_is_not_ours_is_identical_below_and_its_response_above(
        (method, uri) in target(),
        sent in message(),
        replied in message(),
        status in 100_u16..1000,
    ) {
        block_on(async {
            let mut request = Request::new(sent.body());
            *request.method_mut() = method.clone();
            *request.uri_mut() = uri.clone();
            *request.version_mut() = sent.version;
            *request.headers_mut() = sent.headers.clone();
            request.extensions_mut().insert(sent.extension);
            request.extensions_mut().insert(Actor::new("u"));
            request.extensions_mut().insert(Credential::bearer("sk-own").expect("a key"));
            let (below, mut seen) = tokio::sync::mpsc::unbounded_channel();
            let reply = replied.clone();
            let inner = service_fn(move |request: Request<RequestBody<MockBody>>| {
                let (below, reply) = (below.clone(), reply.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    below.send((parts, read(body).await)).expect("the test listens");
                    let mut response = Response::new(reply.body());
                    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                    *response.version_mut() = reply.version;
                    *response.headers_mut() = reply.headers.clone();
                    response.extensions_mut().insert(reply.extension);
                    Ok::<_, MockError>(response)
                }
            });
            let response = layer().layer(inner).oneshot(request).await.expect("an answer");
            let (parts, body) = seen.recv().await.expect("a request below");
            assert_eq!((parts.method, parts.uri, parts.version), (method, uri, sent.version));
            assert_eq!(parts.headers, sent.headers);
            assert_eq!(parts.extensions.get::<u64>(), Some(&sent.extension));
            assert!(parts.extensions.get::<Actor>().is_some() && parts.extensions.get::<Credential>().is_some());
            assert_eq!(parts.extensions.len(), 3);
            assert_eq!(body, read(sent.body()).await);

            let (parts, body) = response.into_parts();
            assert_eq!((parts.status.as_u16(), parts.version), (status, replied.version));
            assert_eq!(parts.headers, replied.headers);
            assert_eq!((parts.extensions.len(), parts.extensions.get::<u64>()), (1, Some(&replied.extension)));
            assert_eq!(read(body).await, read(replied.body()).await);
        });
    }
}

/// An error that is not boxed, with its own text.
#[derive(Debug, PartialEq)]
struct Own(u8);

impl std::fmt::Display for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[tokio::test]
async fn an_inner_error_keeps_its_type() {
    let inner = service_fn(|_: Request<RequestBody<MockBody>>| async { Err::<Response<MockBody>, _>(Own(7)) });
    let request = Request::get("/elsewhere").body(MockBody::new()).unwrap();
    assert_eq!(layer().layer(inner).oneshot(request).await.unwrap_err(), Own(7));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_ahead_of_the_inner_service() {
    // The inner service answers a request whose body never comes, with a body that never ends.
    let provider = service_fn(|_: Request<RequestBody<MockBody>>| async {
        Ok::<_, MockError>(Response::new(MockBody::new().data("first").never()))
    });
    let request = Request::post("/upload").body(MockBody::new().never()).unwrap();
    let mut body = layer().layer(provider).oneshot(request).await.unwrap().into_body();
    let frame = http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "first");
}
