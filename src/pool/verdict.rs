//! What an answer says about the key that it was asked with. The rules are data, so that a user can put others before.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode};

use super::retry_after;

/// What an answer means for the key and for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The answer goes to the caller, whatever its status, and says nothing about the key.
    Relay,
    /// The key cools down for as long as the answer asks (`retry-after-ms`, else `retry-after`, else 60 s; 1 h at
    /// most); the request goes to the next key.
    CoolDown,
    /// The key cools down for this long, whatever the answer asks; the request goes to the next key.
    CoolDownFor(Duration),
    /// The key is dead until it is restored; the request goes to the next key.
    Revoke,
    /// The answer is about the request: nothing rests, and the request goes to the next key. If none does better, the
    /// first such answer goes back verbatim.
    NextKey,
    /// The answer is not understood: nothing rests yet, and the request goes to the next key. If none does better, the
    /// first such answer goes back verbatim.
    Suspect,
}

/// The answers that a rule of a [`VerdictTable`] is about. Every condition must hold.
///
/// A [`StatusCode`] alone converts into the rule for every answer of that status.
///
/// # Examples
///
/// ```
/// use http::StatusCode;
/// use tower_llm_bridge::pool::When;
///
/// let closed = When::status(StatusCode::FORBIDDEN).code("account_closed").code("account_frozen");
/// # let _ = closed;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct When {
    status: StatusCode,
    /// Empty matches any.
    codes: Vec<Cow<'static, str>>,
    message: Option<Cow<'static, str>>,
    is_api_error: Option<bool>,
}

/// An ordered list of rules. The first rule that matches an answer gives its [`Verdict`]; an answer that no rule
/// matches is [relayed](Verdict::Relay).
///
/// The [default](VerdictTable::default) is
///
/// | status | `error.code` or `error.type` | verdict |
/// |---|---|---|
/// | 429 | `insufficient_quota` | [`CoolDownFor`](Verdict::CoolDownFor) 1 h: money does not come back in a second |
/// | 429 | any | [`CoolDown`](Verdict::CoolDown) |
/// | 401 | any | [`Revoke`](Verdict::Revoke) |
/// | 403 | `model_not_found`, `model_permission_blocked_org`, `model_permission_blocked_project` | [`NextKey`](Verdict::NextKey): this key may not use the model, others may |
/// | 403 | `unsupported_country_region_territory`, `request_forbidden` | [`NextKey`](Verdict::NextKey): our address is refused |
/// | 403 | `content_policy_violation`, `content_filter`, `moderation_blocked`, `cyber_policy`, `bio_policy` | [`NextKey`](Verdict::NextKey): the caller's words are refused |
/// | 403 | any other | [`Revoke`](Verdict::Revoke) |
///
/// The codes are those of [OpenAI's API](https://platform.openai.com/docs/guides/error-codes) and of the providers
/// that speak it.
///
/// # Examples
///
/// Rules of one's own come before the default:
///
/// ```
/// use std::time::Duration;
/// use http::StatusCode;
/// use tower_llm_bridge::pool::{Verdict, VerdictTable, When};
///
/// let table = VerdictTable::default()
///     .prefer(StatusCode::TOO_MANY_REQUESTS, Verdict::CoolDownFor(Duration::from_secs(5)))
///     .prefer(When::status(StatusCode::FORBIDDEN).code("key_expired"), Verdict::Revoke);
/// # let _ = table;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct VerdictTable {
    preferred: Vec<Rule>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    when: When,
    verdict: Verdict,
}

/// An answer that may be about the key, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused<'a> {
    pub(crate) status: StatusCode,
    /// The error's `code`, `type` and detailed code, as far as it has them.
    pub(crate) codes: &'a [&'a str],
    pub(crate) message: &'a str,
    /// Whether the body is an error of the API, and not, for example, a firewall's page.
    pub(crate) is_api_error: bool,
}

/// What the pool is told about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The answer goes to the caller.
    Relayed,
    /// The key rests this long.
    CoolDown(Duration),
    /// The key is dead.
    Revoked,
    /// The key is untouched; another one may do better.
    NextKey,
}

// === impl Verdict ===

impl Verdict {
    /// The report for the pool: `headers` say how long a key that cools down rests; an HTTP date there is relative to
    /// `now`.
    pub(crate) fn report(self, headers: &HeaderMap, now: SystemTime) -> Report {
        match self {
            Self::Relay => Report::Relayed,
            Self::CoolDown => Report::CoolDown(retry_after::cool_down(headers, now)),
            Self::CoolDownFor(rest) => Report::CoolDown(rest),
            Self::Revoke => Report::Revoked,
            Self::NextKey | Self::Suspect => Report::NextKey,
        }
    }
}

// === impl When ===

impl When {
    /// Answers of this status.
    pub const fn status(status: StatusCode) -> Self {
        Self {
            status,
            codes: Vec::new(),
            message: None,
            is_api_error: None,
        }
    }

    /// Only errors with this `code`, `type` or `details.error_code`; repeat it for alternatives. A leading `*` stands
    /// for any beginning.
    pub fn code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.codes.push(code.into());
        self
    }

    /// Only errors with one of these [codes](Self::code).
    pub fn codes<I>(mut self, codes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Cow<'static, str>>,
    {
        self.codes.extend(codes.into_iter().map(Into::into));
        self
    }

    /// Only errors whose `message` begins so.
    pub fn message_begins(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.message = Some(text.into());
        self
    }

    /// Only answers whose body is not an error of the API, such as a firewall's page.
    pub fn not_the_apis_error(mut self) -> Self {
        self.is_api_error = Some(false);
        self
    }

    fn matches(&self, refused: &Refused<'_>) -> bool {
        let has_code = |wanted: &Cow<'_, str>| {
            refused.codes.iter().any(|code| match wanted.strip_prefix('*') {
                Some(ending) => code.ends_with(ending),
                None => code == wanted,
            })
        };
        self.status == refused.status
            && (self.codes.is_empty() || self.codes.iter().any(has_code))
            && self
                .message
                .as_deref()
                .is_none_or(|text| refused.message.starts_with(text))
            && self.is_api_error.is_none_or(|wanted| wanted == refused.is_api_error)
    }
}

impl From<StatusCode> for When {
    fn from(status: StatusCode) -> Self {
        Self::status(status)
    }
}

// === impl VerdictTable ===

impl VerdictTable {
    /// A table without rules: every answer is relayed, so no key ever rests.
    pub const fn empty() -> Self {
        Self {
            preferred: Vec::new(),
            rules: Vec::new(),
        }
    }

    /// Adds a rule at the end. It decides about answers that no other rule matches.
    pub fn rule(mut self, when: impl Into<When>, verdict: Verdict) -> Self {
        self.rules.push(Rule {
            when: when.into(),
            verdict,
        });
        self
    }

    /// Adds a rule before those of [`rule`](Self::rule) and of the default table. Of several preferred rules, the one
    /// added first comes first.
    pub fn prefer(mut self, when: impl Into<When>, verdict: Verdict) -> Self {
        self.preferred.push(Rule {
            when: when.into(),
            verdict,
        });
        self
    }

    /// Whether an answer of this status may be about the key, so that its body is read before it goes anywhere.
    pub(crate) fn concerns(&self, status: StatusCode) -> bool {
        self.all_rules().any(|rule| rule.when.status == status)
    }

    /// The verdict on an answer.
    pub(crate) fn judge(&self, refused: &Refused<'_>) -> Verdict {
        self.all_rules()
            .find(|rule| rule.when.matches(refused))
            .map_or(Verdict::Relay, |rule| rule.verdict)
    }

    fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        self.preferred.iter().chain(&self.rules)
    }
}

/// The table of the type's documentation.
impl Default for VerdictTable {
    fn default() -> Self {
        const FORBIDDEN: [&str; 10] = [
            "model_not_found",
            "model_permission_blocked_org",
            "model_permission_blocked_project",
            "unsupported_country_region_territory",
            "request_forbidden",
            "content_policy_violation",
            "content_filter",
            "moderation_blocked",
            "cyber_policy",
            "bio_policy",
        ];
        const HOUR: Duration = Duration::from_secs(60 * 60);
        let quota = When::status(StatusCode::TOO_MANY_REQUESTS).code("insufficient_quota");
        Self::empty()
            .rule(quota, Verdict::CoolDownFor(HOUR))
            .rule(StatusCode::TOO_MANY_REQUESTS, Verdict::CoolDown)
            .rule(StatusCode::UNAUTHORIZED, Verdict::Revoke)
            .rule(When::status(StatusCode::FORBIDDEN).codes(FORBIDDEN), Verdict::NextKey)
            .rule(StatusCode::FORBIDDEN, Verdict::Revoke)
    }
}

#[cfg(test)]
mod tests {
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
        let table = VerdictTable::default();
        for code in [
            200, 201, 204, 301, 400, 402, 404, 408, 409, 413, 422, 500, 502, 503, 529,
        ] {
            assert_eq!(
                judge(&table, status(code), &["insufficient_quota", "model_not_found"]),
                Verdict::Relay,
                "{code}"
            );
            assert!(!table.concerns(status(code)), "{code}");
        }
        let rows: [(u16, &[&str], Verdict); 9] = [
            (429, &[], Verdict::CoolDown),
            (429, &["rate_limit_exceeded", "requests"], Verdict::CoolDown),
            (429, &["model_not_found"], Verdict::CoolDown),
            (429, &["insufficient_quota"], HOUR),
            (429, &["billing", "insufficient_quota"], HOUR),
            (401, &[], Verdict::Revoke),
            (401, &["model_not_found"], Verdict::Revoke),
            (403, &[], Verdict::Revoke),
            (403, &["invalid_request_error", "account_deactivated"], Verdict::Revoke),
        ];
        for (code, codes, verdict) in rows {
            assert_eq!(judge(&table, status(code), codes), verdict, "{code} {codes:?}");
        }
        for code in [
            "model_not_found",
            "model_permission_blocked_org",
            "model_permission_blocked_project",
            "unsupported_country_region_territory",
            "request_forbidden",
            "content_policy_violation",
            "content_filter",
            "moderation_blocked",
            "cyber_policy",
            "bio_policy",
        ] {
            assert_eq!(
                judge(&table, status(403), &["invalid_request_error", code]),
                Verdict::NextKey,
                "{code}"
            );
        }
        for code in [401, 403, 429] {
            assert!(table.concerns(status(code)), "{code}");
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
            (HOUR, Report::CoolDown(Duration::from_secs(3_600))),
            (Verdict::Revoke, Report::Revoked),
            (Verdict::NextKey, Report::NextKey),
        ] {
            assert_eq!(verdict.report(&headers, now), report);
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
        assert_eq!(judge(&table, status(401), &[]), Verdict::Revoke);
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
}
