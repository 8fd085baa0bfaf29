//! The login form: exchanges the token for a cookie that stands for it, so that no URL and no page holds a secret.

use std::time::Duration;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tower_http::timeout::TimeoutLayer;

use super::access::{Access, COOKIE, SESSION};
use crate::page;

const FORM: &str = include_str!("login.html");
/// The longest form, in bytes.
const MAX_FORM: usize = 4096;
/// A form that comes more slowly would keep a connection from operators and probes.
const PATIENCE: Duration = Duration::from_secs(10);
/// The place in the form for a failure message.
const FAILURE: &str = "<!-- failure -->";

/// The form, its style, and its answer. Served without the token.
pub(super) fn routes(access: Access) -> Router {
    Router::new()
        .route("/login", get(form).post(log_in))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, PATIENCE))
        .route("/login.css", get(|| async { page::style() }))
        .with_state(access)
}

async fn form(State(access): State<Access>) -> Response {
    if !access.has_token() {
        return Redirect::to("./").into_response();
    }
    html(StatusCode::OK, FORM.to_owned())
}

async fn log_in(State(access): State<Access>, headers: HeaderMap, body: Bytes) -> Response {
    let mut fields = form_urlencoded::parse(&body);
    let token = fields.find(|(name, _)| name == "token").map(|(_, value)| value);
    if !token.is_some_and(|token| access.is_token(token.as_bytes())) {
        tracing::warn!("a login at the operator's listener with a wrong token");
        let failure = "<p class=\"said bad\" role=\"alert\">That is not the token.</p>";
        return html(StatusCode::UNAUTHORIZED, FORM.replace(FAILURE, failure));
    }
    let (id, seconds) = (access.begin_session(), SESSION.as_secs());
    // Whether the browser speaks TLS to a proxy before us.
    let is_secure = headers
        .get(header::ORIGIN)
        .is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let Ok(cookie) = HeaderValue::from_str(&cookie) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    ([(header::SET_COOKIE, cookie)], Redirect::to("./")).into_response()
}

fn html(status: StatusCode, text: String) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    )];
    (status, kind, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use http::Request;
    use http_body_util::{BodyExt, channel::Channel};
    use tower::ServiceExt;

    use super::*;

    const TOKEN: &str = "t&k=n ü<b>0123456789";

    async fn ask(access: &Access, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
        let (head, body) = routes(access.clone())
            .oneshot(request)
            .await
            .expect("an answer")
            .into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        (head.status, head.headers, String::from_utf8_lossy(&body).into_owned())
    }

    fn post(token: &str) -> Request<Body> {
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .finish();
        Request::post("/login").body(body.into()).expect("a request")
    }

    #[tokio::test]
    async fn the_token_buys_a_session_that_no_script_reads() {
        let access = Access::new(Some(TOKEN.into()));
        let get = Request::get("/login").body(Body::empty()).expect("a request");
        let (status, _, form) = ask(&access, get).await;
        assert_eq!(status, StatusCode::OK);
        assert!(form.contains("type=\"password\"") && !form.contains("not the token"));

        let mut right = post(TOKEN);
        let (status, headers, body) = ask(&access, post(TOKEN)).await;
        assert_eq!(
            (status, headers["location"].as_bytes(), body.as_str()),
            (StatusCode::SEE_OTHER, &b"./"[..], "")
        );
        let cookie = headers["set-cookie"].to_str().expect("text");
        let (pair, attributes) = cookie.split_once("; ").expect("attributes");
        assert_eq!(attributes, "Path=/; Max-Age=43200; HttpOnly; SameSite=Strict");
        assert!(access.admits(&HeaderMap::from_iter([(
            header::COOKIE,
            pair.parse().expect("a cookie")
        )])));
        right
            .headers_mut()
            .insert(header::ORIGIN, HeaderValue::from_static("https://ops.example"));
        let (_, headers, _) = ask(&access, right).await;
        assert!(headers["set-cookie"].to_str().expect("text").ends_with("; Secure"));
    }

    /// Otherwise anybody who reaches the port could take all of its connections.
    #[tokio::test(start_paused = true)]
    async fn a_form_that_never_comes_or_is_long_is_refused() {
        let access = Access::new(Some(TOKEN.into()));
        let (sender, never) = Channel::<Bytes, Infallible>::new(1);
        let request = Request::post("/login").body(Body::new(never)).expect("a request");
        assert_eq!(ask(&access, request).await.0, StatusCode::REQUEST_TIMEOUT);
        drop(sender);
        let (status, _, _) = ask(&access, post(&"x".repeat(MAX_FORM))).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_wrong_token_buys_nothing_and_is_not_shown() {
        let access = Access::new(Some(TOKEN.into()));
        for wrong in ["", "t", "<script>alert(1)</script>", &TOKEN.repeat(2)] {
            let (status, headers, body) = ask(&access, post(wrong)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            assert!(!headers.contains_key("set-cookie"));
            assert!(body.contains("not the token") && !body.contains("<script"), "{body}");
        }
        for body in [&b""[..], b"\xff\xfe", b"token", b"token=%00", b"Token=x"] {
            let request = Request::post("/login").body(Body::from(body)).expect("a request");
            assert_eq!(ask(&access, request).await.0, StatusCode::UNAUTHORIZED);
        }
        // Without a token, no text is the token.
        assert_eq!(ask(&Access::new(None), post("")).await.0, StatusCode::UNAUTHORIZED);
    }
}
