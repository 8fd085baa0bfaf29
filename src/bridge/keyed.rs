//! Answers keyed paths: a key of the pool with failover. The body is parsed only where it names a stored answer.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, request};
use hyper::body::Body;

use super::admit::{Admitted, admit, refuse_encoded, unparsable};
use super::answer::{Failure, bridge_response};
use super::attempt::RoundWalk;
use super::config::Config;
use super::headers;
use super::provider::{Provider, Target};
use super::route::{StoredName, names_stored};
use super::stored::StoredAnswers;
use crate::body::ResponseBody;
use crate::body::budget::Held;
use crate::dialect::{self, Api};
use crate::error::BridgeError;
use crate::json::{self, Member, Scanner, walk};
use crate::rope::{Edits, Rope};
use crate::upstream::Upstream;

pub(crate) async fn answer<U, B>(
    config: Arc<Config>,
    upstream: U,
    mut head: Box<request::Parts>,
    body: B,
) -> Response<ResponseBody<U::Body>>
where
    U: Upstream + 'static,
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send,
{
    let api = match names_stored(&config, head.uri.path()) {
        Some((api, _)) => api,
        None => dialect::api(dialect::of_headers(&head.headers)),
    };
    match read(&config, api, &mut head, body).await {
        Ok((admitted, body)) => {
            let provider = Provider::new(
                config,
                api,
                upstream,
                admitted.credentials,
                head,
                admitted.actor.as_ref(),
                (Target::Keyed, None),
            );
            relay(provider, api, body, &admitted.held).await
        }
        Err(error) => bridge_response(api, error, None),
    }
}

/// Reads the request with its body, which failover may send again. Replaces the caller's id of a stored answer by the
/// provider's; refuses the id of another actor's answer.
async fn read<B>(
    config: &Config,
    api: &'static dyn Api,
    head: &mut request::Parts,
    body: B,
) -> Result<(Admitted, Rope), BridgeError>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send,
{
    let named = names_stored(config, head.uri.path()).map(|(_, named)| named);
    let mut scanner = matches!(named, Some(StoredName::Member(_))).then(Scanner::new);
    let (admitted, body) = admit(
        config,
        api,
        head,
        body,
        |_| Ok(()),
        |bytes| {
            if let Some(scanner) = &mut scanner {
                // `finish` returns the error.
                let _ = scanner.feed(bytes);
            }
        },
    )
    .await?;
    // A provider that does not expect content there may take it for the next request.
    let has_content = !matches!(head.method, Method::GET | Method::HEAD | Method::DELETE);
    let body = if has_content { body } else { Rope::default() };
    let body = match (named, scanner) {
        (Some(StoredName::Segment(place)), _) => {
            let stored = StoredAnswers::new(config, &admitted);
            stored.redirect(&mut head.uri, place).await?;
            body
        }
        (Some(StoredName::Member(member)), Some(mut scanner)) if !body.is_empty() => {
            let stored = StoredAnswers::new(config, &admitted);
            // A provider may find an id in a body that the scanner cannot read, so with a shared key that body is
            // refused.
            let is_read =
                refuse_encoded(&head.headers).and_then(|()| scanner.finish().map_err(|error| unparsable(&error)));
            match is_read {
                Ok(()) => resolve(&stored, body, &scanner, member).await?,
                Err(error) if stored.is_shared_key() => return Err(error),
                Err(_) => body,
            }
        }
        _ => body,
    };
    Ok((admitted, body))
}

/// Replaces the caller's id of a stored answer by the provider's, if the caller may use that answer.
async fn resolve(stored: &StoredAnswers, body: Rope, scanner: &Scanner, member: &str) -> Result<Rope, BridgeError> {
    let Some(place) = scanner.get(member).map(Member::value) else {
        return Ok(body);
    };
    let Some(id) = walk::unescape(&body.bytes(place.clone())).map(Cow::into_owned) else {
        return Ok(body);
    };
    match stored.previous(&id).await? {
        Some(known) if known != id => {
            let mut edits = Edits::default();
            edits.replace(place, json::quote(&known).into_bytes());
            Ok(edits.apply(&body))
        }
        _ => Ok(body),
    }
}

/// Sends a request without rounds and records, and hands the answer on.
pub(super) async fn relay<U: Upstream + 'static>(
    mut provider: Provider<U>,
    api: &dyn Api,
    body: Rope,
    held: &Held,
) -> Response<ResponseBody<U::Body>> {
    let Some(held) = held.for_answer() else {
        return Failure::over_budget().into_response(api, None);
    };
    let mut walk = RoundWalk::new(provider.caller);
    match provider.attempt(&mut walk, &body, None).await {
        // Providers may echo the key in error bodies, so those are read and redacted.
        Ok(attempted) if !attempted.status().is_success() => provider
            .read_refusal(&mut walk, attempted)
            .await
            .into_response(api, None),
        Ok(attempted) => {
            let (response, _, lease) = attempted.into_parts();
            provider.accept(&mut walk, lease);
            let (mut parts, body) = response.into_parts();
            // The body is the provider's own, so its length stays true, for `HEAD` too.
            headers::clean_response(&mut parts.headers, provider.credentials.key_finder());
            parts.version = http::Version::default();
            Response::from_parts(parts, ResponseBody::watched(body, held, &provider.config.readers))
        }
        Err(failure) => failure.into_response(api, None),
    }
}
