//! Reads a model request and begins its interception. Refuses a request that it cannot understand.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, request};
use hyper::body::Body;

use super::admit::{Admitted, admit, refuse_encoded, unparsable};
use super::answer::bridge_response;
use super::aside::Aside;
use super::client::Client;
use super::config::Config;
use super::provider::{Provider, Target};
use super::rounds::Conversation;
use super::stored::StoredAnswers;
use super::{facts, keyed, stream, whole};
use crate::body::ResponseBody;
use crate::dialect::turn::{Addition, Invalid};
use crate::dialect::{Api, OfferSettings, Purpose, Request};
use crate::error::{BridgeError, BridgeErrorKind};
use crate::excerpt;
use crate::extensions::Actor;
use crate::json::Scanner;
use crate::metrics::{self, Limit};
use crate::record::{Injection, Interception, Unavailable};
use crate::tools::Tools;
use crate::upstream::Upstream;

/// Answers one model request.
pub(crate) async fn answer<U, B>(
    config: Arc<Config>,
    api: &'static dyn Api,
    purpose: Purpose,
    upstream: U,
    mut head: Box<request::Parts>,
    body: B,
) -> Response<ResponseBody<U::Body>>
where
    U: Upstream + 'static,
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send,
{
    let (mut admitted, mut request, length) = match read(&config, api, purpose, &mut head, body).await {
        Ok(read) => read,
        Err(error) => return bridge_response(api, error, None),
    };
    let stored = StoredAnswers::new(&config, &admitted);
    if let Some(id) = request.previous() {
        match stored.previous(&id).await {
            Ok(Some(known)) if known != id => request.resolve(known),
            Ok(_) => {}
            Err(error) => return bridge_response(api, error, None),
        }
    }
    // A tool that no round could run must not be called.
    let tools = if config.max_rounds == 0 {
        Tools::default()
    } else {
        std::mem::take(&mut admitted.tools)
    };
    let settings = OfferSettings {
        parallel: config.parallel_tool_calls,
        reported_usage: config.reported_usage,
    };
    let offering = move || {
        let is_offered = request.offer(tools, settings);
        (request, is_offered)
    };
    let (mut request, is_offered) = if Aside::takes(length) {
        config.aside.run(offering).await
    } else {
        offering()
    };
    let refused = config.refused_additions.withdraw_known(api.dialect(), &mut *request);
    if purpose == Purpose::Count {
        let Admitted {
            actor,
            credentials,
            held,
            ..
        } = admitted;
        let aim = (Target::Count, None);
        let provider = Provider::new(config, api, upstream, credentials, head, actor.as_ref(), aim);
        return keyed::relay(provider, api, request.encode(), &held).await;
    }
    let mut interception = match begin(&config, api, &head, &admitted, &*request).await {
        Ok(interception) => interception,
        Err(error) => return bridge_response(api, error, None),
    };
    let model = &request.about().model;
    let provider = config.provider(api.dialect());
    interception.measure(config.meter.operation(provider, api.dialect(), model, admitted.since));
    if refused.contains(&Addition::Tools) {
        interception.set_injection(Injection::Refused);
    } else if is_offered {
        interception.set_injection(Injection::Offered);
    }
    if Aside::takes(length) && interception.is_recorded() {
        let limit = interception.max_text();
        let reading = move || {
            let mut prompt = request.prompt();
            if let Some(prompt) = &mut prompt {
                excerpt::cut(prompt, limit);
            }
            (request, prompt)
        };
        let prompt;
        (request, prompt) = config.aside.run(reading).await;
        interception.keep_prompt(prompt);
    }
    let (span, about) = (tracing::Span::current(), request.about());
    span.record("gen_ai.request.model", &*about.model);
    span.record("stream", about.stream);
    span.record("interception_id", tracing::field::display(interception.id()));
    let is_stream = about.stream;
    let Admitted {
        actor,
        credentials,
        held,
        ..
    } = admitted;
    let about = request.about();
    let session = credentials.spread_by(|| {
        let client = Client::recognise(&head.headers);
        client
            .session_id
            .or_else(|| about.session.clone())
            .or_else(|| about.cache_key.clone())
    });
    let aim = (Target::Model(about.model.clone()), session.as_deref());
    // Boxed: each async fn on the way would embed a copy.
    let conversation = Box::new(Conversation {
        provider: Provider::new(config, api, upstream, credentials, head, actor.as_ref(), aim),
        interception,
        request,
        actor,
        stored,
        held,
    });
    if is_stream {
        stream::answer(conversation).await
    } else {
        whole::answer(conversation).await
    }
}

async fn read<B>(
    config: &Config,
    api: &'static dyn Api,
    purpose: Purpose,
    head: &mut request::Parts,
    body: B,
) -> Result<(Admitted, Box<dyn Request>, usize), BridgeError>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send,
{
    let mut scanner = Scanner::new();
    let (admitted, body) = admit(config, api, head, body, content_is_json, |bytes| {
        // `finish` returns the error.
        let _ = scanner.feed(bytes);
    })
    .await?;
    scanner.finish().map_err(|error| unparsable(&error))?;
    let (length, max_name) = (body.len(), config.max_model_name);
    let reading = move || {
        let request = api.request(body, &scanner, purpose)?;
        if request.about().model.len() <= max_name {
            return Ok(request);
        }
        metrics::refused(Limit::ModelName);
        let message = format!("the model's name is longer than {max_name} bytes");
        Err(BridgeError::new(BridgeErrorKind::RequestInvalid, message).param("model"))
    };
    let request = if Aside::takes(length) {
        config.aside.run(reading).await?
    } else {
        reading()?
    };
    Ok((admitted, request, length))
}

fn content_is_json(headers: &HeaderMap) -> Result<(), BridgeError> {
    refuse_encoded(headers)?;
    let media_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let essence = media_type.map(|value| value[..memchr::memchr(b';', value).unwrap_or(value.len())].trim_ascii());
    let is_json = essence.is_none_or(|essence| {
        let suffix = &essence[essence.len().saturating_sub(b"+json".len())..];
        essence.eq_ignore_ascii_case(b"application/json") || suffix.eq_ignore_ascii_case(b"+json")
    });
    if is_json {
        Ok(())
    } else {
        let message = "the request body must be JSON, with content-type: application/json";
        Err(BridgeError::new(BridgeErrorKind::RequestUnsupported, message))
    }
}

async fn begin(
    config: &Config,
    api: &dyn Api,
    head: &request::Parts,
    admitted: &Admitted,
    request: &dyn Request,
) -> Result<Interception, BridgeError> {
    let Some(recorder) = &config.recorder else {
        return Ok(Interception::unrecorded());
    };
    let started = || facts::started(config, api.dialect(), head, admitted, request.about());
    if recorder.free_places() == 0 {
        config.end_stalled_readers();
    }
    let actor = admitted.actor.as_ref().map(Actor::id);
    recorder.begin(actor, started).await.map_err(|unavailable| {
        let (limit, message) = match unavailable {
            Unavailable::Busy => (
                Limit::Places,
                "too many requests are being recorded, please try again later",
            ),
            Unavailable::Closed => (Limit::RecorderClosed, "requests cannot be recorded at present"),
        };
        metrics::refused(limit);
        tracing::warn!(?unavailable, "a request was refused because it could not be recorded");
        BridgeError::new(BridgeErrorKind::RecorderUnavailable, message)
    })
}

impl From<Invalid> for BridgeError {
    fn from(invalid: Invalid) -> Self {
        let error = Self::new(BridgeErrorKind::RequestInvalid, invalid.message);
        match invalid.param {
            Some(param) => error.param(param),
            None => error,
        }
    }
}
