//! Names the caller. This is the place of an auth layer: above the bridge, where it inserts an `Actor`.
//!
//! Here the caller is believed, which is right only behind a proxy that sets these headers itself. A real layer checks
//! a token, can answer 401 (`tower_http::auth::AsyncRequireAuthorizationLayer`), and inserts the same extension.

use http::{HeaderName, HeaderValue, Request};
use tower_llm_bridge::Actor;

const PREFIX: &str = "x-user-";

/// Turns `x-user-id` into the actor and every other `x-user-NAME` into its metadata. None of them goes to the provider.
pub(super) fn identify<B>(mut request: Request<B>) -> Request<B> {
    let headers = request.headers_mut();
    // Empty, and so without an allocation, for most requests.
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(PREFIX))
        .cloned()
        .collect();
    let mut claims: Vec<_> = names
        .into_iter()
        .filter_map(|name| headers.remove(&name).map(|value| (name, value)))
        .collect();
    if let Some(id) = claims.iter().position(|(name, _)| name == "x-user-id") {
        let (_, id) = claims.swap_remove(id);
        let actor = claims.iter().fold(Actor::new(text(&id)), |actor, (name, value)| {
            actor.metadata(&name.as_str()[PREFIX.len()..], text(value))
        });
        request.extensions_mut().insert(actor);
    }
    request
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
