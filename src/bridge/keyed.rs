//! A keyed path: it gets a key of the pool and the same failover; its body is read only where it names a stored answer.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, request};
use hyper::body::Body;

use super::answer::bridge_response;
use super::attempt::RoundWalk;
use super::config::Config;
use super::headers;
use super::intake::admit;
use super::provider::{Provider, Target};
use super::route::{stored_id, stored_member};
use super::stored::StoredAnswers;
use crate::body::ResponseBody;
use crate::dialect::{self, Api};
use crate::error::BridgeError;
use crate::json::{Member, Scanner, walk};
use crate::rope::{Edits, Rope};
use crate::upstream::Upstream;

pub(crate) async fn answer<U, B>(
    config: Arc<Config>,
    upstream: U,
    mut head: Box<request::Parts>,
    body: B,
) -> Response<ResponseBody<U::Body>>
where
    U: Upstream,
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send,
{
    let stored = stored_id(&config, head.uri.path());
    let api = match &stored {
        Some((api, _)) => *api,
        None => dialect::api(dialect::of_headers(&head.headers)),
    };
    // Failover has to send the body again, so it is held.
    match admit(&config, api, &mut head, body, |_| Ok(()), |_| ()).await {
        Ok((admitted, body)) => {
            // A provider that does not expect content there may take it for the next request.
            let has_content = !matches!(head.method, Method::GET | Method::HEAD | Method::DELETE);
            let body = if has_content { body } else { Rope::default() };
            if let Some((_, place)) = stored {
                let answers = StoredAnswers::new(&config, &admitted);
                if let Err(error) = answers.redirect(&mut head.uri, place).await {
                    return bridge_response(api, error, None);
                }
            }
            let body = match stored_member(&config, head.uri.path()) {
                Some((api, member)) => match resolve(&StoredAnswers::new(&config, &admitted), body, member).await {
                    Ok(body) => body,
                    Err(error) => return bridge_response(api, error, None),
                },
                None => body,
            };
            let provider = Provider::new(
                config,
                api,
                upstream,
                admitted.credentials,
                head,
                admitted.actor.as_ref(),
                (Target::Keyed, None),
            );
            relay(provider, api, body).await
        }
        Err(error) => bridge_response(api, error, None),
    }
}

/// Puts the provider's id of a stored answer in the place of the caller's, if the caller may use that answer. A body that
/// is not JSON is the provider's to refuse.
async fn resolve(stored: &StoredAnswers, body: Rope, member: &str) -> Result<Rope, BridgeError> {
    let (mut scanner, mut edits) = (Scanner::new(), Edits::default());
    let text = body.clone().into_bytes();
    if scanner.scan(&text).is_err() {
        return Ok(body);
    }
    let Some(place) = scanner.get(member).map(Member::value) else {
        return Ok(body);
    };
    let Some(id) = walk::unescape(&text[place.clone()]).map(Cow::into_owned) else {
        return Ok(body);
    };
    match stored.previous(&id).await? {
        Some(known) if known != id => {
            edits.replace(place, dialect::quote(&known).into_bytes());
            Ok(edits.apply(&body))
        }
        _ => Ok(body),
    }
}

/// Sends a request without rounds and records, and hands the answer on.
pub(super) async fn relay<U: Upstream>(
    mut provider: Provider<U>,
    api: &dyn Api,
    body: Rope,
) -> Response<ResponseBody<U::Body>> {
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
            Response::from_parts(parts, ResponseBody::passthrough(body))
        }
        Err(failure) => failure.into_response(api, None),
    }
}
