//! The edge refuses uploads that stall or unpack to too much, and passes the others unchanged.

use std::{convert::Infallible, io, io::Write};

use axum::response::IntoResponse;
use flate2::{Compression, write::GzEncoder};
use http::StatusCode;
use http_body_util::{BodyExt, Empty, Full, channel::Channel};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_http::decompression::RequestDecompressionLayer;

use super::*;

/// The answer of an application that reads the body: 200 with its length, or its own 400.
async fn ask<B>(request: Request<B>) -> Response
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    ask_at(EdgeLayer::new(), request).await
}

async fn ask_at<B>(edge: EdgeLayer, request: Request<B>) -> Response
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let app = service_fn(|request: Request<Body>| async {
        assert!(request.extensions().get::<Arc<Upload>>().is_none());
        Ok::<_, Infallible>(match request.into_body().collect().await {
            Ok(body) => body.to_bytes().len().to_string().into_response(),
            Err(_) => StatusCode::BAD_REQUEST.into_response(),
        })
    });
    ServiceBuilder::new()
        .layer(edge)
        .map_response(IntoResponse::into_response)
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        .map_request(bound_decoded)
        .service(app)
        .oneshot(request)
        .await
        .unwrap()
}

async fn text(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn post<B>(body: B) -> Request<B> {
    Request::post("/v1/chat/completions")
        .header(HOST, "gateway")
        .body(body)
        .unwrap()
}

fn gzip(length: usize) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&vec![b' '; length]).unwrap();
    encoder.finish().unwrap().into()
}

#[tokio::test(start_paused = true)]
async fn an_upload_may_be_slow_and_must_not_stall() {
    let start = Instant::now();
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(1);
    let uploading = tokio::spawn(async move {
        for _ in 0..5 {
            sleep(Duration::from_secs(29)).await;
            sender.send_data(Bytes::from_static(b"x")).await.unwrap();
        }
        sender
    });
    let (status, body) = text(ask(post(body)).await).await;
    let passed = Instant::now().saturating_duration_since(start).as_secs();
    assert_eq!((status, passed), (408, 5 * 29 + 30), "{body}");
    assert!(body.contains("invalid_request_error"), "{body}");
    drop(uploading.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_drops_ends_after_ten_minutes() {
    let start = Instant::now();
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(1);
    let uploading = tokio::spawn(async move {
        while sender.send_data(Bytes::from_static(b"x")).await.is_ok() {
            sleep(Duration::from_secs(29)).await;
        }
    });
    assert_eq!(ask(post(body)).await.status(), 408);
    assert_eq!(Instant::now().saturating_duration_since(start).as_secs(), 600);
    uploading.abort();
    assert_eq!(patience(start, 1 << 20), STALL, "a mebibyte is worth 17 minutes");
}

/// Each upload is small, and its decoder is not.
#[tokio::test]
async fn decoders_have_a_limit_together() {
    let decoding: &'static AtomicUsize = Box::leak(Box::default());
    let edge = EdgeLayer { decoding };
    let mut decoders: Vec<_> = (0..=DECODERS / DECODER).map(|_| DecoderMemory::new(decoding)).collect();
    let grown = decoders.iter_mut().filter_map(|decoder| decoder.grow(0).then_some(()));
    assert_eq!(grown.count(), 1024);
    let mut request = post(Full::new(gzip(1000)));
    request
        .headers_mut()
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    assert_eq!(ask_at(edge, request.clone()).await.status(), 503);
    drop(decoders);
    assert_eq!(ask_at(edge, request).await.status(), 200);
    assert_eq!(decoding.load(Ordering::Relaxed), 0);
    let mut large = DecoderMemory::new(decoding);
    assert!(large.grow(1 << 40));
    assert_eq!(large.own, DECODER + WINDOW as usize);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_never_begins_stalls_as_well() {
    let (sender, body) = Channel::<Bytes, io::Error>::new(1);
    assert_eq!(ask(post(body)).await.status(), 408);
    drop(sender);
}

#[tokio::test]
async fn a_body_is_too_large_when_it_says_so_and_when_it_is() {
    let mut request = post(Empty::<Bytes>::new());
    request.headers_mut().insert(CONTENT_LENGTH, (MAX_BODY + 1).into());
    assert_eq!(ask(request).await.status(), 413);
    let body = Full::new(Bytes::from(vec![0; MAX_BODY as usize + 1]));
    assert_eq!(ask(post(body)).await.status(), 413);
}

#[tokio::test]
async fn a_body_may_not_unpack_to_a_hundred_times_its_size() {
    let send = async |body: Bytes| {
        let mut request = post(Full::new(body));
        request
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        text(ask(request).await).await
    };
    let (status, body) = send(gzip(16 << 20)).await;
    assert_eq!(status, 413, "{body}");
    assert!(body.contains("100 times"), "{body}");
    // Dense, and too small to matter.
    assert!(gzip(60_000).len() < 600);
    assert_eq!(send(gzip(60_000)).await, (200, "60000".into()));
}

#[tokio::test]
async fn an_encoding_has_several_names() {
    for name in ["gzip", "GZIP", "x-gzip", "X-Gzip", " gzip"] {
        let mut request = post(Full::new(gzip(1000)));
        request
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_str(name).unwrap());
        assert_eq!(text(ask(request).await).await, (200, "1000".into()), "{name}");
    }
    let mut headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("Identity"))]);
    assert!(!name_encoding(&mut headers) && headers.is_empty());
    let mut headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("ROT13"))]);
    assert!(name_encoding(&mut headers));
    assert_eq!(headers[CONTENT_ENCODING], "rot13");
}

#[tokio::test]
async fn there_is_one_host() {
    let empty = Empty::<Bytes>::new;
    let mut two = post(empty());
    two.headers_mut().append(HOST, HeaderValue::from_static("other"));
    assert_eq!(ask(two).await.status(), 400);
    let mut none = Request::new(empty());
    assert_eq!(ask(none.clone()).await.status(), 400);
    // HTTP/2 has it in the URI.
    *none.version_mut() = Version::HTTP_2;
    assert_eq!(ask(none).await.status(), 200);
}

#[tokio::test]
async fn streams_are_not_buffered_on_the_way() {
    for (content_type, expected) in [("text/event-stream; charset=utf-8", true), ("application/json", false)] {
        let app = service_fn(|_: Request<Body>| async move {
            Ok::<_, Infallible>(([(CONTENT_TYPE, content_type)], "").into_response())
        });
        let response = EdgeLayer::new()
            .layer(app)
            .oneshot(post(Empty::<Bytes>::new()))
            .await
            .unwrap();
        assert_eq!(response.headers().contains_key("x-accel-buffering"), expected);
    }
}
