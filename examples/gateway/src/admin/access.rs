//! Who may use the operator's listener: whoever has the token, or everybody who can reach it if it has none.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use subtle::ConstantTimeEq;

/// The scheme's name and one space.
const SCHEME: usize = "Bearer ".len();

/// The token of the listener, if it has one. It has no `Debug`: the token never prints.
#[derive(Clone)]
pub struct Access(Option<Arc<str>>);

// === impl Access ===

impl Access {
    pub fn new(token: Option<String>) -> Self {
        Self(token.map(Arc::from))
    }

    /// Whether a token is asked for.
    pub fn has_token(&self) -> bool {
        self.0.is_some()
    }

    /// Whether `presented` is the token. The time that this takes tells nothing of it but its length.
    pub fn is_token(&self, presented: &[u8]) -> bool {
        let token = self.0.as_deref().map(str::as_bytes);
        token.is_some_and(|token| token.ct_eq(presented).into())
    }

    /// Whether a request with these headers is let in. The one place that decides so: a cookie of the login form is to be
    /// looked at here.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        !self.has_token() || bearer(headers).is_some_and(|token| self.is_token(token))
    }
}

/// The token of a request that brings one (RFC 6750 §2.1). No browser sends this header for another site's page.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .as_bytes()
        .split_at_checked(SCHEME)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Turns away requests that are not [admitted](Access::admits).
pub(super) async fn require(State(access): State<Access>, request: Request, next: Next) -> Response {
    if access.admits(request.headers()) {
        return next.run(request).await;
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

    #[test]
    fn without_a_token_everybody_is_let_in_and_nothing_is_the_token() {
        let access = Access::new(None);
        assert!(access.admits(&HeaderMap::new()));
        assert!(!access.is_token(b""));
    }
}
