//! A listed pass-through: it gets a key of the pool and the same failover, and nothing of it is read as JSON.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, request};
use hyper::body::Body;

use super::answer::{Failure, bridge_response};
use super::attempt::RoundWalk;
use super::config::Config;
use super::exchange::Exchange;
use super::headers;
use super::intake::admit;
use crate::body::ResponseBody;
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
    // Failover has to send the body again, so it is held; what it holds is not looked at.
    let (identity, body) = match admit(&config, &mut head, body, |_| Ok(()), |_| ()).await {
        Ok(admitted) => admitted,
        Err(error) => return bridge_response(error),
    };
    let mut exchange = Exchange::new(
        config,
        upstream,
        identity.credentials,
        head,
        identity.actor.as_ref(),
        None,
    );
    match exchange.attempt(&mut RoundWalk::default(), &body).await {
        // What is no success is where a provider may quote the key.
        Ok(attempted) if !attempted.status().is_success() => exchange.read_refusal(attempted).await.into_response(),
        Ok(attempted) => {
            let (response, _, lease) = attempted.into_parts();
            exchange.accept(lease);
            let (mut parts, body) = response.into_parts();
            // The body is the provider's own, so its length stays true, for `HEAD` too.
            headers::clean_response(&mut parts.headers, exchange.credentials.key_finder());
            parts.version = http::Version::default();
            Response::from_parts(parts, ResponseBody::passthrough(body))
        }
        Err(failure) => Failure::into_response(failure),
    }
}
