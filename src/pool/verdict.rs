//! Decides what an answer says about its key. The rules are data, so that users can put their own before them.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode};

use super::retry_after;

/// What an answer means for the key and for the request.
///
/// Limits belong to a domain and a model, and not to a key: see the [module docs](crate::pool).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The answer goes to the caller, whatever its status, and nothing rests.
    Relay,
    /// The model rests in the key's domain for as long as the answer asks: `retry-after-ms`, else `retry-after`, else its
    /// message ("try again in 2s"), else the latest reset of a bucket that has nothing left, else 60 s; 1 h at most. The
    /// request goes to the next key.
    CoolDown,
    /// All models rest in the key's domain for this long, whatever the answer asks; the request goes to the next key.
    CoolDownFor(Duration),
    /// The key is dead until it is restored; the request goes to the next key.
    Revoke,
    /// The answer is about the request: nothing rests, and the request goes to the next key. If none does better, the
    /// first such answer goes back verbatim.
    NextKey,
    /// The answer is not understood: nothing rests yet, and the request goes to the next key. If that one serves the
    /// request, the key is suspected. Suspected by requests of two different [actors](crate::Actor) within 10 minutes,
    /// it is left to requests that no other key serves, for 60 s, doubled each time up to 1 h, until its next success.
    /// If no key does better, the first such answer goes back verbatim.
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
/// The [default](VerdictTable::default) is, for OpenAI's and Anthropic's APIs and those that copy them:
///
/// | answer | verdict |
/// |---|---|
/// | 402; 429 with `insufficient_quota`, `billing_hard_limit_reached`, `*_spend_limit_reached` | [`CoolDownFor`](Verdict::CoolDownFor) 1 h: money does not come back within seconds |
/// | 429, message begins with "Request too large" | [`NextKey`](Verdict::NextKey): no wait makes it smaller |
/// | 429 | [`CoolDown`](Verdict::CoolDown) |
/// | 401 with `authentication_error`, message begins with "CORS" | [`NextKey`](Verdict::NextKey): the caller's `Origin` is refused |
/// | 401, 403 with `invalid_api_key`, `account_deactivated`, `key_expired`, `organization_on_hold`; 401 with `authentication_error` | [`Revoke`](Verdict::Revoke) |
/// | 401, 403 about the model, the region, the content, the caller's organisation header or the key's scopes, and `permission_error` | [`NextKey`](Verdict::NextKey) |
/// | 401, 403 whose body is not the API's error, such as a firewall's page | [`NextKey`](Verdict::NextKey) |
/// | 401, 403 | [`Suspect`](Verdict::Suspect) |
///
/// Paths that get a key and nothing else, and counts of tokens, never go beyond [`NextKey`](Verdict::NextKey); a 429
/// there rests that key for such requests alone.
///
/// Sources: <https://platform.openai.com/docs/guides/error-codes>, <https://docs.claude.com/en/api/errors>.
///
/// # Examples
///
/// Your own rules come before the default:
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

/// The parts of a refusal that rules look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused<'a> {
    pub(crate) status: StatusCode,
    /// The error's `code`, `type` and detailed code, as far as it has them.
    pub(crate) codes: &'a [&'a str],
    pub(crate) message: &'a str,
    /// Whether the body is an error of the API, and not, for example, a firewall's page.
    pub(crate) is_api_error: bool,
}

/// A report to the pool about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// A success.
    Served,
    /// Any other answer that goes to the caller.
    Relayed,
    /// A failure of the provider, which goes to the caller and says nothing about the key.
    Failed,
    /// The model, or the purpose, rests this long.
    CoolDown(Duration),
    /// The domain rests this long.
    CoolDownDomain(Duration),
    /// The key is dead.
    Revoked,
    /// Another key may do better.
    NextKey,
    /// Another key may do better. If it does, this one is suspected.
    Suspect,
}

// === impl Verdict ===

impl Verdict {
    /// The report for the pool: `headers` say how long a key that cools down rests; an HTTP date there is relative to
    /// `now`.
    pub(crate) fn report(self, headers: &HeaderMap, message: &str, now: SystemTime) -> Report {
        match self {
            Self::Relay => Report::Relayed,
            Self::CoolDown => Report::CoolDown(retry_after::cool_down(headers, message, now)),
            Self::CoolDownFor(rest) => Report::CoolDownDomain(rest),
            Self::Revoke => Report::Revoked,
            Self::NextKey => Report::NextKey,
            Self::Suspect => Report::Suspect,
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

    /// Only errors with this `code`, `type` or `details.error_code`; repeat it for alternatives. A leading `*` matches
    /// any beginning.
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

    /// Only errors whose `message` begins with `text`.
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

    /// Whether an answer of this status may be about the key, so that its body must be read first.
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
        const HOUR: Duration = Duration::from_secs(60 * 60);
        let money = When::status(StatusCode::TOO_MANY_REQUESTS).codes(NO_MONEY);
        let too_large = When::status(StatusCode::TOO_MANY_REQUESTS).message_begins("Request too large");
        let anthropic = When::status(StatusCode::UNAUTHORIZED).code("authentication_error");
        let mut table = Self::empty()
            .rule(StatusCode::PAYMENT_REQUIRED, Verdict::CoolDownFor(HOUR))
            .rule(money, Verdict::CoolDownFor(HOUR))
            .rule(too_large, Verdict::NextKey)
            .rule(StatusCode::TOO_MANY_REQUESTS, Verdict::CoolDown)
            .rule(anthropic.clone().message_begins("CORS"), Verdict::NextKey)
            .rule(anthropic, Verdict::Revoke);
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            let restricted = When::status(status).message_begins("You have insufficient permissions");
            table = table
                .rule(When::status(status).codes(DEAD_KEY), Verdict::Revoke)
                .rule(When::status(status).codes(ABOUT_THE_REQUEST), Verdict::NextKey)
                .rule(restricted, Verdict::NextKey)
                .rule(When::status(status).not_the_apis_error(), Verdict::NextKey)
                .rule(status, Verdict::Suspect);
        }
        table
    }
}

const NO_MONEY: [&str; 3] = [
    "insufficient_quota",
    "billing_hard_limit_reached",
    "*_spend_limit_reached",
];

const DEAD_KEY: [&str; 4] = [
    "invalid_api_key",
    "account_deactivated",
    "key_expired",
    "organization_on_hold",
];

const ABOUT_THE_REQUEST: [&str; 13] = [
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
    "mismatched_organization",
    "mismatched_project",
    "permission_error",
];

#[cfg(test)]
mod tests;
