//! The table row by row, and the way rules match.

use super::*;

const HOUR: Verdict = Verdict::CoolDownFor(Duration::from_secs(3_600));

fn judge(table: &VerdictTable, status: StatusCode, codes: &[&str]) -> Verdict {
    table.judge(&Refused {
        status,
        codes,
        message: "",
        is_api_error: true,
    })
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}

#[test]
fn the_default_table_row_by_row() {
    use Verdict::{CoolDown, NextKey, Relay, Revoke, Suspect};
    let table = VerdictTable::default();
    let error = |code: u16, codes: &[&str], message: &str| {
        let (status, is_api_error) = (status(code), true);
        table.judge(&Refused {
            status,
            codes,
            message,
            is_api_error,
        })
    };
    for code in [
        200, 201, 204, 301, 400, 404, 408, 409, 413, 422, 500, 502, 503, 504, 529,
    ] {
        let codes = [
            "insufficient_quota",
            "model_not_found",
            "invalid_api_key",
            "overloaded_error",
        ];
        assert_eq!(error(code, &codes, "Request too large"), Relay, "{code}");
        assert!(!table.concerns(status(code)), "{code}");
    }
    let rows: &[(u16, &[&str], &str, Verdict)] = &[
        // OpenAI.
        (429, &[], "", CoolDown),
        (
            429,
            &["rate_limit_exceeded", "requests"],
            "Rate limit reached for gpt-4o",
            CoolDown,
        ),
        (429, &["model_not_found"], "", CoolDown),
        (
            429,
            &["rate_limit_exceeded", "tokens"],
            "Request too large for gpt-4o in organization",
            NextKey,
        ),
        (
            429,
            &["insufficient_quota", "insufficient_quota"],
            "You exceeded your current quota",
            HOUR,
        ),
        (
            429,
            &["billing_hard_limit_reached"],
            "Billing hard limit has been reached",
            HOUR,
        ),
        (402, &[], "", HOUR),
        (
            401,
            &["invalid_api_key", "invalid_request_error"],
            "Incorrect API key provided",
            Revoke,
        ),
        (401, &["account_deactivated"], "", Revoke),
        (403, &["account_deactivated"], "", Revoke),
        (401, &["key_expired"], "", Revoke),
        (401, &["mismatched_organization"], "", NextKey),
        (401, &["mismatched_project"], "", NextKey),
        (
            401,
            &["invalid_request_error"],
            "You have insufficient permissions for this operation. Missing scopes: api.model.read.",
            NextKey,
        ),
        (
            403,
            &["invalid_request_error"],
            "You have insufficient permissions for this operation. Missing scopes: model.request",
            NextKey,
        ),
        (403, &["model_not_found"], "", NextKey),
        (
            403,
            &["unsupported_country_region_territory", "request_forbidden"],
            "",
            NextKey,
        ),
        (401, &[], "", Suspect),
        (403, &[], "", Suspect),
        (403, &["invalid_request_error", "something_new"], "", Suspect),
        // OpenRouter: the reason is in the middle of the message, so only comparison helps.
        (
            403,
            &["403"],
            "x/y requires moderation. Your input was flagged",
            Suspect,
        ),
        // Anthropic.
        (
            429,
            &["rate_limit_error"],
            "This request would exceed your rate limit",
            CoolDown,
        ),
        (429, &["rate_limit_error", "enforced_spend_limit_reached"], "", HOUR),
        (429, &["rate_limit_error", "contract_spend_limit_reached"], "", HOUR),
        (
            429,
            &["rate_limit_error", "linked_organization_spend_limit_reached"],
            "",
            HOUR,
        ),
        (402, &["billing_error"], "", HOUR),
        (401, &["authentication_error"], "invalid x-api-key", Revoke),
        (
            401,
            &["authentication_error"],
            "CORS requests must set 'anthropic-dangerous-direct-browser-access'",
            NextKey,
        ),
        (403, &["permission_error", "organization_on_hold"], "", Revoke),
        (403, &["permission_error"], "", NextKey),
        (403, &["permission_error", "claude_code_version_too_old"], "", NextKey),
        (403, &["authentication_error"], "", Suspect),
    ];
    for (code, codes, message, verdict) in rows {
        assert_eq!(error(*code, codes, message), *verdict, "{code} {codes:?} {message}");
    }
    for code in ABOUT_THE_REQUEST {
        for status in [401, 403] {
            assert_eq!(error(status, &["invalid_request_error", code], ""), NextKey, "{code}");
        }
    }
    for code in [401, 402, 403, 429] {
        assert!(table.concerns(status(code)), "{code}");
        let page = Refused {
            status: status(code),
            codes: &[],
            message: "",
            is_api_error: false,
        };
        let verdict = match code {
            402 => HOUR,
            429 => CoolDown,
            _ => NextKey,
        };
        assert_eq!(table.judge(&page), verdict, "a firewall's page with {code}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let table = VerdictTable::empty()
        .rule(When::status(status(403)).code("a".to_owned()), Verdict::NextKey)
        .rule(status(403), Verdict::CoolDown)
        .rule(When::status(status(403)).code("b"), Verdict::Relay)
        .rule(status(500), Verdict::Revoke)
        .rule(When::status(status(500)).code("a"), Verdict::Relay)
        .rule(When::status(status(418)).code("a"), Verdict::Revoke);
    assert_eq!(judge(&table, status(403), &["b", "a"]), Verdict::NextKey);
    assert_eq!(judge(&table, status(403), &["b"]), Verdict::CoolDown);
    assert_eq!(judge(&table, status(500), &["a"]), Verdict::Revoke);
    assert_eq!(judge(&table, status(418), &["b"]), Verdict::Relay);
    assert!(!VerdictTable::empty().concerns(status(429)));
    assert_eq!(judge(&VerdictTable::empty(), status(401), &[]), Verdict::Relay);
}

#[test]
fn only_a_plain_cool_down_asks_the_headers() {
    let mut headers = HeaderMap::new();
    headers.insert("retry-after", http::HeaderValue::from_static("5"));
    let now = SystemTime::UNIX_EPOCH;
    let five = Duration::from_secs(5);
    for (verdict, report) in [
        (Verdict::Relay, Report::Relayed),
        (Verdict::CoolDown, Report::CoolDown(five)),
        (HOUR, Report::CoolDownDomain(Duration::from_secs(3_600))),
        (Verdict::Revoke, Report::Revoked),
        (Verdict::NextKey, Report::NextKey),
        (Verdict::Suspect, Report::Suspect),
    ] {
        assert_eq!(verdict.report(&headers, "", now), report);
    }
}

#[test]
fn preferred_rules_come_before_the_default_in_their_order() {
    let table = VerdictTable::default()
        .prefer(When::status(status(429)).code("later"), Verdict::Relay)
        .prefer(status(429), Verdict::NextKey)
        .prefer(status(429), Verdict::Revoke)
        .rule(status(429), Verdict::Revoke);
    assert_eq!(judge(&table, status(429), &["later"]), Verdict::Relay);
    assert_eq!(judge(&table, status(429), &[]), Verdict::NextKey);
    assert_eq!(judge(&table, status(401), &[]), Verdict::Suspect);
}

#[test]
fn every_condition_of_a_rule_must_hold() {
    let refused = Refused {
        status: status(403),
        codes: &["contract_spend_limit_reached"],
        message: "Request too large for gpt",
        is_api_error: true,
    };
    let when = || When::status(status(403));
    assert!(when().matches(&refused));
    assert!(when().code("x").code("*_spend_limit_reached").matches(&refused));
    assert!(!when().code("spend_limit_reached").matches(&refused));
    assert!(when().message_begins("Request too large").matches(&refused));
    assert!(!when().message_begins("too large").matches(&refused));
    assert!(!when().message_begins("Request").code("x").matches(&refused));
    assert!(!when().not_the_apis_error().matches(&refused));
    let page = Refused {
        is_api_error: false,
        ..refused
    };
    assert!(when().not_the_apis_error().matches(&page));
    assert!(!When::status(status(401)).matches(&refused));
}
