//! Lets in requests with the operator's token. A listener without a token lets in everybody who can reach it.

use std::{
    collections::HashMap,
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
use uuid::Uuid;

/// The scheme's name and one space.
const SCHEME: usize = "Bearer ".len();

/// Sessions at once; one more ends the oldest.
const MAX_SESSIONS: usize = 64;
/// After this time an operator has to log in again.
pub(super) const SESSION: Duration = Duration::from_secs(12 * 3600);
/// The name of the cookie.
pub(super) const COOKIE: &str = "gateway_session";

/// The token of the listener, if it has one. It has no `Debug`: neither token nor session ever prints.
#[derive(Clone)]
pub struct Access {
    token: Option<Arc<str>>,
    /// Random ids that stand for the token, and when each ends. They end with the process, too.
    sessions: Arc<Mutex<HashMap<Uuid, Instant>>>,
}

// === impl Access ===

impl Access {
    pub fn new(token: Option<String>) -> Self {
        Self {
            token: token.map(Arc::from),
            sessions: Arc::default(),
        }
    }

    /// Whether a token is asked for.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether `presented` is the token. The time that this takes reveals nothing but the token's length.
    pub fn is_token(&self, presented: &[u8]) -> bool {
        let token = self.token.as_deref().map(str::as_bytes);
        token.is_some_and(|token| token.ct_eq(presented).into())
    }

    /// Whether a request with these headers is let in: with the token, or with a session that was begun with it.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        !self.has_token()
            || bearer(headers).is_some_and(|token| self.is_token(token))
            || session(headers).is_some_and(|id| self.is_session(id))
    }

    /// Begins a session, after the token was presented.
    pub(super) fn begin_session(&self) -> Uuid {
        let now = Instant::now();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, end| *end > now);
        while sessions.len() >= MAX_SESSIONS
            && let Some(oldest) = sessions.iter().min_by_key(|(_, end)| **end).map(|(id, _)| *id)
        {
            sessions.remove(&oldest);
        }
        // 122 random bits from a cryptographic generator.
        let id = Uuid::new_v4();
        sessions.insert(id, now + SESSION);
        id
    }

    fn is_session(&self, id: Uuid) -> bool {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        // Its hash is keyed by the process, so the time of a look-up reveals nothing about the ids.
        sessions.get(&id).is_some_and(|end| *end > Instant::now())
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
fn session(headers: &HeaderMap) -> Option<Uuid> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|cookie| cookie.to_str().ok())
        .flat_map(|cookie| cookie.split(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then(|| value.parse().ok())?
    })
}

/// Turns away requests that are not [admitted](Access::admits).
pub(super) async fn require(State(access): State<Access>, request: Request, next: Next) -> Response {
    if access.admits(request.headers()) {
        return next.run(request).await;
    }
    // A browser that opens the page is sent to the form.
    if request.method() == Method::GET && request.uri().path() == "/" {
        return Redirect::to("login").into_response();
    }
    let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
    (StatusCode::UNAUTHORIZED, challenge, "the token is missing or wrong\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn only_the_whole_token_is_let_in() {
        let access = Access::new(Some("correct-horse".into()));
        for right in ["Bearer correct-horse", "bearer correct-horse", "BEARER  correct-horse "] {
            assert!(access.admits(&authorization(right)), "{right}");
        }
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer correct-hors",
            "Bearer correct-horse2",
            "Bearer Correct-horse",
            "Basic correct-horse",
            "correct-horse",
            "Bearercorrect-horse",
        ] {
            assert!(!access.admits(&authorization(wrong)), "{wrong}");
        }
        assert!(!access.admits(&HeaderMap::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_stands_for_the_token_until_it_ends() {
        let access = Access::new(Some("correct-horse".into()));
        let cookie = |value: String| {
            let value = HeaderValue::from_str(&value).expect("a header");
            HeaderMap::from_iter([(header::COOKIE, value)])
        };
        let id = access.begin_session();
        assert!(access.admits(&cookie(format!("{COOKIE}={id}"))));
        assert!(access.admits(&cookie(format!("theme=dark; {COOKIE}={id}; x"))));
        for wrong in [
            String::new(),
            COOKIE.to_owned(),
            format!("{COOKIE}="),
            format!("{COOKIE}={}", Uuid::new_v4()),
            format!("other={id}"),
            format!("{COOKIE}=correct-horse"),
        ] {
            assert!(!access.admits(&cookie(wrong.clone())), "{wrong}");
        }
        assert!(!Access::new(Some("correct-horse".into())).admits(&cookie(format!("{COOKIE}={id}"))));
        tokio::time::advance(SESSION).await;
        assert!(!access.admits(&cookie(format!("{COOKIE}={id}"))));
        // Beyond the limit the oldest session ends.
        let first = access.begin_session();
        for _ in 0..MAX_SESSIONS {
            tokio::time::advance(Duration::from_secs(1)).await;
            access.begin_session();
        }
        assert!(!access.admits(&cookie(format!("{COOKIE}={first}"))));
        assert_eq!(access.sessions.lock().expect("no panic").len(), MAX_SESSIONS);
    }

    #[test]
    fn without_a_token_everybody_is_let_in_and_nothing_is_the_token() {
        let access = Access::new(None);
        assert!(access.admits(&HeaderMap::new()));
        assert!(!access.is_token(b""));
    }
}
