//! Headers: how a key is sent, which of the caller's the provider may see, and which come back.

use http::HeaderValue;

use crate::support::*;
use crate::words::*;

#[tokio::test(start_paused = true)]
async fn a_pools_key_is_sent_as_the_api_wants_it() {
    let mut request = messages(&question(false));
    for (name, value) in [("authorization", "Bearer sk-callers"), ("x-api-key", "sk-callers")] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let (seen, _) = converse(&BridgeLayer::new().pool(pool(1)), request, [words("x").to_string()]).await;
    assert_eq!(
        (seen[0].header("x-api-key"), seen[0].header("authorization")),
        (Some(KEYS[0]), None)
    );
    assert_eq!(seen[0].uri, "/v1/messages?beta=true");
}

#[tokio::test(start_paused = true)]
async fn the_callers_own_key_goes_out_as_it_came() {
    for (name, value) in [("authorization", "Bearer sk-ant-oat-1"), ("x-api-key", "sk-ant-1")] {
        let mut request = messages(&question(false));
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        let (seen, answer) = converse(&BridgeLayer::new(), request, [words("x").to_string()]).await;
        assert_eq!((answer.status.as_u16(), seen[0].header(name)), (200, Some(value)));
        let other = if name == "x-api-key" {
            "authorization"
        } else {
            "x-api-key"
        };
        assert_eq!(seen[0].header(other), None);
    }
}

/// M22, M23: beta headers are sent line by line as they came; the caller's origin cannot cost a key.
#[tokio::test(start_paused = true)]
async fn m22_m23_betas_pass_and_origins_do_not() {
    let mut request = messages(&question(false));
    let headers = request.headers_mut();
    for (name, value) in [
        ("anthropic-beta", "a-1,b-2"),
        ("anthropic-beta", "c-3"),
        ("origin", "https://evil.example"),
        ("referer", "https://evil.example/x"),
        ("anthropic-workspace-id", "wrkspc_1"),
        ("x-claude-code-session-id", "s-1"),
        ("x-stainless-lang", "js"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    let (seen, _) = converse(&BridgeLayer::new().pool(pool(1)), request, [words("x").to_string()]).await;
    let betas: Vec<_> = seen[0].headers.get_all("anthropic-beta").iter().collect();
    assert_eq!(betas, ["a-1,b-2", "c-3"]);
    let versions: Vec<_> = seen[0].headers.get_all("anthropic-version").iter().collect();
    assert_eq!(versions, ["2023-06-01"]);
    for gone in ["origin", "referer", "anthropic-workspace-id"] {
        assert_eq!(seen[0].header(gone), None, "{gone}");
    }
    for kept in ["x-claude-code-session-id", "x-stainless-lang"] {
        assert!(seen[0].header(kept).is_some(), "{kept}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_account_of_the_operator_stays_with_the_operator() {
    let reply = Reply::from(words("x").to_string())
        .header("request-id", "req_1")
        .header("anthropic-ratelimit-unified-status", "allowed")
        .header("anthropic-organization-id", "org")
        .header("anthropic-workspace-id", "wrkspc");
    let (_, answer) = converse(&BridgeLayer::new().pool(pool(1)), messages(&question(false)), [reply]).await;
    assert_eq!(answer.header("request-id"), Some("req_1"));
    assert_eq!(answer.header("anthropic-ratelimit-unified-status"), Some("allowed"));
    assert_eq!(answer.header("anthropic-organization-id"), None);
    assert_eq!(answer.header("anthropic-workspace-id"), None);
}
