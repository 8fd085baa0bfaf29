//! What an answer says about the key that it was asked with. The table is data, so that a user can replace it.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode};

use super::retry_after;

/// What an answer means for the key and for the request.
///
/// # Examples
///
/// ```
/// use http::StatusCode;
/// use tower_llm_bridge::pool::{Verdict, VerdictTable};
///
/// // A provider that answers 402 when a key's credit is used up.
/// let table = VerdictTable::default().rule(StatusCode::PAYMENT_REQUIRED, Verdict::Revoke);
/// # let _ = table;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The key is good; the answer goes on as it is, whatever its status.
    Accept,
    /// The key cools down for as long as the answer asks (`retry-after-ms`, else `retry-after`, else 60 s; 1 h at
    /// most); the request goes to the next key.
    CoolDown,
    /// The key cools down for this long, whatever the answer asks; the request goes to the next key.
    CoolDownFor(Duration),
    /// The key is dead until it is restored; the request goes to the next key.
    Revoke,
    /// The answer is about the request, not the key, which stays as it is; another key may still be allowed to, so
    /// the request goes to the next one, and if none is left this answer goes back as it is.
    Forbid,
}

/// Which answers speak about the key: an ordered list of rules, of which the first that matches gives the [`Verdict`].
///
/// An answer that matches no rule is [accepted](Verdict::Accept). The [default](VerdictTable::default) is
///
/// | status | `error.code` or `error.type` | verdict |
/// |---|---|---|
/// | 429 | `insufficient_quota` | [`CoolDownFor`](Verdict::CoolDownFor) 1 h: money does not come back in a second |
/// | 429 | any | [`CoolDown`](Verdict::CoolDown) |
/// | 401 | any | [`Revoke`](Verdict::Revoke) |
/// | 403 | `model_not_found`, `model_permission_blocked_org`, `model_permission_blocked_project` | [`Forbid`](Verdict::Forbid): the model is not for this key, others are |
/// | 403 | `unsupported_country_region_territory`, `request_forbidden` | [`Forbid`](Verdict::Forbid): our address is what is refused |
/// | 403 | `content_policy_violation`, `content_filter`, `moderation_blocked`, `cyber_policy`, `bio_policy` | [`Forbid`](Verdict::Forbid): the caller's words are what is refused |
/// | 403 | any other | [`Revoke`](Verdict::Revoke) |
///
/// The codes are those of [OpenAI's API](https://platform.openai.com/docs/guides/error-codes) and of the providers
/// that speak it.
///
/// # Examples
///
/// Rules are added at the end; to decide before the default does, begin with an [empty](VerdictTable::empty) table:
///
/// ```
/// use std::time::Duration;
/// use http::StatusCode;
/// use tower_llm_bridge::pool::{Verdict, VerdictTable};
///
/// let table = VerdictTable::empty()
///     .rule_for(StatusCode::FORBIDDEN, ["key_expired"], Verdict::Revoke)
///     .rule(StatusCode::FORBIDDEN, Verdict::Forbid)
///     .rule(StatusCode::UNAUTHORIZED, Verdict::Revoke)
///     .rule(StatusCode::TOO_MANY_REQUESTS, Verdict::CoolDownFor(Duration::from_secs(5)));
/// # let _ = table;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct VerdictTable {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    status: StatusCode,
    /// `None` matches whatever the body says.
    codes: Option<Vec<Cow<'static, str>>>,
    verdict: Verdict,
}

/// A [`Verdict`] once the answer's headers have been read: what the pool is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// The answer goes on.
    Accepted,
    /// The key rests this long.
    CoolDown(Duration),
    /// The key is dead.
    Revoked,
    /// The key is untouched; the answer is for when no other key is left.
    Forbidden,
}

// === impl Verdict ===

/// Reads from `headers` how long a key that cools down is to rest; `now` is what an HTTP date is relative to.
pub(crate) fn resolve(verdict: Verdict, headers: &HeaderMap, now: SystemTime) -> Judgement {
    match verdict {
        Verdict::Accept => Judgement::Accepted,
        Verdict::CoolDown => Judgement::CoolDown(retry_after::cool_down(headers, now)),
        Verdict::CoolDownFor(rest) => Judgement::CoolDown(rest),
        Verdict::Revoke => Judgement::Revoked,
        Verdict::Forbid => Judgement::Forbidden,
    }
}

// === impl VerdictTable ===

impl VerdictTable {
    /// A table without rules: every answer is accepted, so no key ever cools down or dies.
    pub const fn empty() -> Self {
        Self { rules: Vec::new() }
    }

    /// Adds a rule for every answer of `status` that no earlier rule matches.
    pub fn rule(mut self, status: StatusCode, verdict: Verdict) -> Self {
        self.rules.push(Rule {
            status,
            codes: None,
            verdict,
        });
        self
    }

    /// Adds a rule for the answers of `status` whose JSON body has one of `codes` as its `error.code` or
    /// `error.type`, and that no earlier rule matches.
    pub fn rule_for<I>(mut self, status: StatusCode, codes: I, verdict: Verdict) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Cow<'static, str>>,
    {
        let codes = Some(codes.into_iter().map(Into::into).collect());
        self.rules.push(Rule { status, codes, verdict });
        self
    }

    /// Whether an answer of this status may be about the key, so that its body is read before it goes anywhere.
    pub(crate) fn concerns(&self, status: StatusCode) -> bool {
        self.rules.iter().any(|rule| rule.status == status)
    }

    /// The verdict on an answer of `status` whose body names `codes`.
    pub(crate) fn judge(&self, status: StatusCode, codes: &[&str]) -> Verdict {
        let matches = |rule: &&Rule| {
            let named = |wanted: &Cow<'_, str>| codes.contains(&&**wanted);
            rule.status == status && rule.codes.as_ref().is_none_or(|wanted| wanted.iter().any(named))
        };
        self.rules
            .iter()
            .find(matches)
            .map_or(Verdict::Accept, |rule| rule.verdict)
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
        Self::empty()
            .rule_for(
                StatusCode::TOO_MANY_REQUESTS,
                ["insufficient_quota"],
                Verdict::CoolDownFor(Duration::from_secs(60 * 60)),
            )
            .rule(StatusCode::TOO_MANY_REQUESTS, Verdict::CoolDown)
            .rule(StatusCode::UNAUTHORIZED, Verdict::Revoke)
            .rule_for(StatusCode::FORBIDDEN, FORBIDDEN, Verdict::Forbid)
            .rule(StatusCode::FORBIDDEN, Verdict::Revoke)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Verdict = Verdict::CoolDownFor(Duration::from_secs(3_600));

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
                table.judge(status(code), &["insufficient_quota", "model_not_found"]),
                Verdict::Accept,
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
            assert_eq!(table.judge(status(code), codes), verdict, "{code} {codes:?}");
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
                table.judge(status(403), &["invalid_request_error", code]),
                Verdict::Forbid,
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
            .rule_for(status(403), ["a".to_owned()], Verdict::Forbid)
            .rule(status(403), Verdict::CoolDown)
            .rule_for(status(403), ["b"], Verdict::Accept)
            .rule(status(500), Verdict::Revoke)
            .rule_for(status(500), ["a"], Verdict::Accept)
            .rule_for(status(418), ["a"], Verdict::Revoke);
        assert_eq!(table.judge(status(403), &["b", "a"]), Verdict::Forbid);
        assert_eq!(table.judge(status(403), &["b"]), Verdict::CoolDown);
        assert_eq!(table.judge(status(500), &["a"]), Verdict::Revoke);
        assert_eq!(table.judge(status(418), &["b"]), Verdict::Accept);
        assert!(!VerdictTable::empty().concerns(status(429)));
        assert_eq!(VerdictTable::empty().judge(status(401), &[]), Verdict::Accept);
    }

    #[test]
    fn only_a_plain_cool_down_asks_the_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", http::HeaderValue::from_static("5"));
        let now = SystemTime::UNIX_EPOCH;
        let five = Duration::from_secs(5);
        for (verdict, judgement) in [
            (Verdict::Accept, Judgement::Accepted),
            (Verdict::CoolDown, Judgement::CoolDown(five)),
            (HOUR, Judgement::CoolDown(Duration::from_secs(3_600))),
            (Verdict::Revoke, Judgement::Revoked),
            (Verdict::Forbid, Judgement::Forbidden),
        ] {
            assert_eq!(resolve(verdict, &headers, now), judgement);
        }
    }
}
