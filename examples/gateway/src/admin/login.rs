//! The login form: exchanges the token for a cookie that stands for it, so that no URL and no page holds a secret. The logout
//! ends the session.

use std::time::Duration;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tower_http::timeout::TimeoutLayer;

use super::{
    access::{self, Access, COOKIE, Presented},
    sessions::SESSION,
};
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
        .route("/logout", post(log_out))
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
    match token.map_or(Presented::Wrong, |token| access.check(token.as_bytes())) {
        Presented::Right => {}
        Presented::Wrong => return html(StatusCode::UNAUTHORIZED, failed("That is not the token.")),
        Presented::Unread(wait) => {
            let text = format!("Too many wrong tokens. The next is read in {} s.", wait.as_secs() + 1);
            return access::unread(wait, html(StatusCode::TOO_MANY_REQUESTS, failed(&text)));
        }
    }
    let (id, seconds) = (access.sessions.begin(), SESSION.as_secs());
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

/// Ends the session, also for other pages that use it.
async fn log_out(State(access): State<Access>, headers: HeaderMap) -> Response {
    if let Some(id) = access::session(&headers) {
        access.sessions.end(id);
    }
    let cookie = format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
    ([(header::SET_COOKIE, cookie)], Redirect::to("login")).into_response()
}

/// The form with a failure message.
fn failed(text: &str) -> String {
    FORM.replace(FAILURE, &format!("<p class=\"said bad\" role=\"alert\">{text}</p>"))
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
        let cookie = HeaderMap::from_iter([(header::COOKIE, pair.parse().expect("a cookie"))]);
        let id = access::session(&cookie).expect("an id");
        assert!(access.sessions.get(id).is_some());
        right
            .headers_mut()
            .insert(header::ORIGIN, HeaderValue::from_static("https://ops.example"));
        let (_, headers, _) = ask(&access, right).await;
        assert!(headers["set-cookie"].to_str().expect("text").ends_with("; Secure"));

        let log_out = |method: &str| {
            let request = Request::builder()
                .method(method)
                .uri("/logout")
                .header(header::COOKIE, pair);
            request.body(Body::empty()).expect("a request")
        };
        assert_eq!(ask(&access, log_out("GET")).await.0, StatusCode::METHOD_NOT_ALLOWED);
        assert!(access.sessions.get(id).is_some());
        let (status, headers, _) = ask(&access, log_out("POST")).await;
        assert_eq!(
            (status, headers["location"].as_bytes(), headers["set-cookie"].as_bytes()),
            (
                StatusCode::SEE_OTHER,
                &b"login"[..],
                &b"gateway_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"[..]
            )
        );
        assert!(access.sessions.get(id).is_none());
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

    #[tokio::test(start_paused = true)]
    async fn a_form_with_the_token_waits_after_too_many_without() {
        let access = Access::new(Some(TOKEN.into()));
        let mut wrong = 0;
        let (headers, body) = loop {
            match ask(&access, post("wrong")).await {
                (StatusCode::UNAUTHORIZED, ..) => wrong += 1,
                (status, headers, body) => {
                    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
                    break (headers, body);
                }
            }
        };
        assert!(wrong == 30 && body.contains("Too many wrong tokens"), "{wrong}: {body}");
        assert_eq!(ask(&access, post(TOKEN)).await.0, StatusCode::TOO_MANY_REQUESTS);
        let wait = headers["retry-after"].to_str().expect("text").parse().expect("seconds");
        tokio::time::advance(Duration::from_secs(wait)).await;
        assert_eq!(ask(&access, post(TOKEN)).await.0, StatusCode::SEE_OTHER);
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
