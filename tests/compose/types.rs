//! Stacks that only have to compile.

use super::*;

/// A service, as a user writes one, whose errors are boxed: its own and its bodies'.
#[derive(Clone)]
struct Boxed;

impl<B: Send + 'static> Service<Request<B>> for Boxed {
    type Response = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let body = Full::from(completion("hello")).map_err(BoxError::from).boxed_unsync();
        Box::pin(async { Ok(Response::new(body)) })
    }
}

/// Redundant `'static` bounds on projections would make these fail with a "higher-ranked lifetime error".
#[tokio::test]
async fn a_spawned_call_may_have_boxed_errors() {
    let bridge = layer().layer(Boxed);
    let spawned = tokio::spawn(async move { bridge.oneshot(ask_with::<Full<Bytes>>("hi")).await });
    assert_said(&text(spawned.await.unwrap().unwrap()).await, "hello");

    let inner = service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
        let body = Full::from(completion("hello")).map_err(BoxError::from).boxed_unsync();
        Ok::<_, BoxError>(Response::new(body))
    });
    let bridge = layer().layer(inner);
    let spawned = tokio::spawn(async move {
        let response = bridge.oneshot(ask_with::<Full<Bytes>>("hi")).await?;
        let body = response.into_body().collect().await?;
        Ok::<_, BoxError>(body.to_bytes())
    });
    assert!(!spawned.await.unwrap().unwrap().is_empty());

    // A layer above whose request body has boxed errors. (rustc cannot prove a body with the boxed error in its *type*,
    // where a service asks for `'static` bodies, as all services with boxed futures do.)
    let stack = ServiceBuilder::new()
        .layer(RequestDecompressionLayer::new())
        .layer(layer())
        .service(Boxed);
    let spawned = tokio::spawn(async move { stack.oneshot(ask_with::<Full<Bytes>>("hi")).await });
    assert_said(&text(spawned.await.unwrap().unwrap()).await, "hello");
}

#[tokio::test]
async fn the_bridge_can_be_boxed() {
    let boxed: BoxCloneService<Request<AxumBody>, _, Infallible> = BoxCloneService::new(layer().layer(provider()));
    assert_serves(boxed).await;
    let boxed: BoxCloneSyncService<Request<AxumBody>, _, Infallible> =
        BoxCloneSyncService::new(layer().layer(provider()));
    assert_serves(boxed).await;
    // And boxed errors below it.
    let inner: BoxCloneService<Request<RequestBody<AxumBody>>, _, Infallible> = BoxCloneService::new(provider());
    assert_serves::<_, AxumBody, _>(layer().layer(inner)).await;
}

#[test]
fn types_are_what_layers_and_runtimes_ask_for() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    fn is_unpin<T: Unpin>() {}
    fn is_clone<T: Clone>() {}
    fn is_default<T: Default>() {}

    type Inner = Bridge<Router>;
    type Call = <Inner as Service<Request<AxumBody>>>::Future;
    is_clone::<BridgeLayer>();
    is_send::<BridgeLayer>();
    is_sync::<BridgeLayer>();
    is_clone::<Inner>();
    is_send::<Inner>();
    is_sync::<Inner>();
    is_send::<Call>();
    is_send::<RequestBody<AxumBody>>();
    is_send::<ResponseBody<AxumBody>>();
    is_sync::<RequestBody<Full<Bytes>>>();
    is_unpin::<RequestBody<Incoming>>();
    is_unpin::<ResponseBody<Incoming>>();
    is_unpin::<ResponseFuture<Ready<()>, Incoming>>();
    // Layers that answer themselves, or send again, make empty bodies.
    is_default::<ResponseBody<Incoming>>();
    is_default::<RequestBody<Incoming>>();

    assert_eq!(size_of::<Bridge<()>>(), size_of::<usize>());
    assert_eq!(size_of::<BridgeLayer>(), size_of::<usize>());
    // A request that is left alone only pays for room for its body.
    assert!(size_of::<RequestBody<()>>() <= 48, "{}", size_of::<RequestBody<()>>());
    assert!(size_of::<ResponseBody<()>>() <= 48, "{}", size_of::<ResponseBody<()>>());
    assert!(size_of::<ResponseFuture<[u8; 64], ()>>() <= 72);
}

/// The bodies are `Unpin` exactly when the inner one is: if they were so always, these calls would be ambiguous.
#[test]
fn bodies_of_pinned_bodies_are_pinned() {
    trait AmbiguousIfUnpin<Marker> {
        fn check() {}
    }
    struct IsUnpin;
    impl<T: ?Sized> AmbiguousIfUnpin<()> for T {}
    impl<T: ?Sized + Unpin> AmbiguousIfUnpin<IsUnpin> for T {}

    <RequestBody<std::marker::PhantomPinned> as AmbiguousIfUnpin<_>>::check();
    <ResponseBody<std::marker::PhantomPinned> as AmbiguousIfUnpin<_>>::check();
}
