//! Lets in requests with the operator's token. A listener without a token lets in everybody who can reach it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::{sessions::Sessions, site::ByToken};

/// The scheme's name and one space.
const SCHEME: usize = "Bearer ".len();

/// The name of the cookie.
pub(super) const COOKIE: &str = "gateway_session";

/// The most wrong tokens in one [`WINDOW`]. A collector with a wrong token stays below it, and it is too few to guess one.
const MAX_WRONG: u32 = 30;
/// How long wrong tokens are counted, from the first one on.
const WINDOW: Duration = Duration::from_secs(60);

/// The token of the listener, if it has one. It has no `Debug`: neither token nor session ever prints.
#[derive(Clone)]
pub struct Access {
    token: Option<Arc<str>>,
    pub(super) sessions: Arc<Sessions>,
    wrong: Arc<Mutex<Wrong>>,
}

/// Counts the wrong tokens of all clients together. Counts by address would not help: behind a proxy all clients share one,
/// and an attacker may have many.
#[derive(Default)]
struct Wrong {
    since: Option<Instant>,
    count: u32,
}

/// The result of comparing a presented token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presented {
    Right,
    Wrong,
    /// Not compared, because too many were wrong; none is for this long. Sessions are not affected.
    Unread(Duration),
}

// === impl Access ===

impl Access {
    pub fn new(token: Option<String>) -> Self {
        Self {
            token: token.map(Arc::from),
            sessions: Arc::default(),
            wrong: Arc::default(),
        }
    }

    /// Whether a token is asked for.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Compares `presented` with the token. The time that this takes reveals nothing but the token's length.
    pub(super) fn check(&self, presented: &[u8]) -> Presented {
        let Some(token) = self.token.as_deref() else {
            return Presented::Wrong;
        };
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let left = wrong
            .since
            .map(|since| WINDOW.saturating_sub(now.saturating_duration_since(since)));
        let left = left.filter(|left| !left.is_zero()).unwrap_or_else(|| {
            *wrong = Wrong::default();
            WINDOW
        });
        if wrong.count >= MAX_WRONG {
            return Presented::Unread(left);
        }
        if token.as_bytes().ct_eq(presented).into() {
            return Presented::Right;
        }
        wrong.since.get_or_insert(now);
        wrong.count += 1;
        warn!("wrong token at the operator's listener");
        if wrong.count == MAX_WRONG {
            warn!(
                seconds = left.as_secs(),
                "too many wrong tokens at the operator's listener, none is accepted for now"
            );
        }
        Presented::Wrong
    }
}

/// The token of a request that brings one (RFC 6750 §2.1). No browser sends this header on behalf of another site's
/// page.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .as_bytes()
        .split_at_checked(SCHEME)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The session that a request brings in its cookie.
pub(super) fn session(headers: &HeaderMap) -> Option<Uuid> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|cookie| cookie.to_str().ok())
        .flat_map(|cookie| cookie.split(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then(|| value.parse().ok())?
    })
}

/// Lets in requests with the token or a session. An answer over a session ends with it.
pub(super) async fn require(State(access): State<Access>, request: Request, next: Next) -> Response {
    if !access.has_token() || request.extensions().get::<ByToken>().is_some() {
        return next.run(request).await;
    }
    if let Some(term) = session(request.headers()).and_then(|id| access.sessions.get(id)) {
        return next.run(request).await.map(|body| term.bound(body));
    }
    // A browser that opens the page is sent to the form.
    if request.method() == Method::GET && request.uri().path() == "/" {
        return Redirect::to("login").into_response();
    }
    let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
    (StatusCode::UNAUTHORIZED, challenge, "the token is missing or wrong\n").into_response()
}

/// The answer for [`Presented::Unread`].
pub(super) fn unread(wait: Duration, answer: impl IntoResponse) -> Response {
    let seconds = HeaderValue::from(wait.as_secs() + 1);
    (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds)], answer).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware::from_fn_with_state, routing::get};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::admin::sessions::SESSION;

    fn authorization(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])
    }

    /// The status of an answer over this cookie.
    async fn status(access: &Access, cookie: String) -> StatusCode {
        let app = Router::new()
            .route("/api", get(|| async { "in" }))
            .route_layer(from_fn_with_state(access.clone(), require));
        let request = Request::get("/api").header(header::COOKIE, cookie);
        let answer = app.oneshot(request.body(Body::empty()).expect("a request")).await;
        let (head, body) = answer.expect("an answer").into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        assert_eq!(head.status == StatusCode::OK, body == "in");
        head.status
    }

    #[test]
    fn only_the_whole_token_is_right() {
        let access = Access::new(Some("correct-horse".into()));
        let check = |value| bearer(&authorization(value)).map(|token| access.check(token));
        for right in ["Bearer correct-horse", "bearer correct-horse", "BEARER  correct-horse "] {
            assert_eq!(check(right), Some(Presented::Right), "{right}");
        }
        for wrong in [
            "Bearer ",
            "Bearer correct-hors",
            "Bearer correct-horse2",
            "Bearer Correct-horse",
        ] {
            assert_eq!(check(wrong), Some(Presented::Wrong), "{wrong}");
        }
        for none in [
            "",
            "Bearer",
            "Basic correct-horse",
            "correct-horse",
            "Bearercorrect-horse",
        ] {
            assert_eq!(check(none), None, "{none}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_stands_for_the_token_until_it_ends() {
        let access = Access::new(Some("correct-horse".into()));
        let id = access.sessions.begin();
        for right in [format!("{COOKIE}={id}"), format!("theme=dark; {COOKIE}={id}; x")] {
            assert_eq!(status(&access, right.clone()).await, StatusCode::OK, "{right}");
        }
        for wrong in [
            String::new(),
            COOKIE.to_owned(),
            format!("{COOKIE}="),
            format!("{COOKIE}={}", Uuid::new_v4()),
            format!("other={id}"),
            format!("{COOKIE}=correct-horse"),
        ] {
            let status = status(&access, wrong.clone()).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{wrong}");
        }
        let other = Access::new(Some("correct-horse".into()));
        let cookie = || format!("{COOKIE}={id}");
        assert_eq!(status(&other, cookie()).await, StatusCode::UNAUTHORIZED);
        tokio::time::advance(SESSION).await;
        assert_eq!(status(&access, cookie()).await, StatusCode::UNAUTHORIZED);
    }

    #[tokio::test(start_paused = true)]
    async fn guessing_stops_for_everybody_and_sessions_go_on() {
        let access = Access::new(Some("correct-horse".into()));
        let id = access.sessions.begin();
        for _ in 0..2 {
            for left in (0..MAX_WRONG).rev() {
                assert_eq!(access.check(b"wrong"), Presented::Wrong, "{left} more");
                assert_eq!(access.check(b"correct-horse") == Presented::Right, left > 0);
            }
            tokio::time::advance(WINDOW / 2).await;
            assert_eq!(access.check(b"correct-horse"), Presented::Unread(WINDOW / 2));
            assert_eq!(status(&access, format!("{COOKIE}={id}")).await, StatusCode::OK);
            tokio::time::advance(WINDOW / 2).await;
            assert_eq!(access.check(b"correct-horse"), Presented::Right);
        }
    }

    #[tokio::test]
    async fn without_a_token_everybody_is_let_in_and_nothing_is_the_token() {
        let access = Access::new(None);
        assert_eq!(status(&access, String::new()).await, StatusCode::OK);
        for _ in 0..2 * MAX_WRONG {
            assert_eq!(access.check(b""), Presented::Wrong);
        }
    }
}
