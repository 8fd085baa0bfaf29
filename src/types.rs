//! The vocabulary that several modules share. It imports nothing of ours, so that every module may use it.

use std::str::FromStr;
use std::{borrow::Cow, collections::BTreeMap, fmt};

use http::HeaderName;
use serde::{Deserialize, Serialize};

/// Stands for the part of a key that a hint hides.
const MASK: &str = "...";

/// The model API that an intercepted request speaks.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::Dialect;
///
/// assert_eq!(Dialect::ChatCompletions.as_str(), "chat_completions");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dialect {
    /// OpenAI's `POST …/chat/completions`, see its
    /// [API reference](https://platform.openai.com/docs/api-reference/chat/create).
    ChatCompletions,
    /// Anthropic's `POST …/messages`, see its [API reference](https://docs.anthropic.com/en/api/messages).
    Messages,
    /// OpenAI's `POST …/responses`, see its
    /// [API reference](https://platform.openai.com/docs/api-reference/responses/create).
    Responses,
}

/// The usage that the caller is told after more than one round.
///
/// Records always have the usage of every round.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::{BridgeLayer, ReportedUsage};
///
/// let layer = BridgeLayer::new().reported_usage(ReportedUsage::LastRound);
/// # drop(layer);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReportedUsage {
    /// The sum over all rounds: the bill.
    Sum,
    /// The last round's: the size of the conversation.
    LastRound,
}

/// Whose credential the provider sees.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::CredentialKind;
///
/// assert_eq!(serde_json::to_string(&CredentialKind::Byok).unwrap(), r#""byok""#);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CredentialKind {
    /// A key of the operator's [`KeyPool`](crate::pool::KeyPool).
    Centralized,
    /// The caller's own key ("bring your own key").
    Byok,
}

/// A key, masked so that people can tell keys apart and nobody can use one.
///
/// Per side it shows 4 characters of a key of 20 or more, 2 from 10, 1 from 5, and none of a shorter one.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::pool::ApiKey;
///
/// let key = ApiKey::new("sk-0123456789abcdefghij")?;
/// assert_eq!(key.hint().to_string(), "sk-0...ghij");
/// assert_eq!(*key.hint(), *"sk-0...ghij");
/// assert_eq!("sk-0...ghij".parse().as_ref(), Ok(key.hint()));
/// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyHint(std::sync::Arc<str>);

/// The error for a text that is not a [`KeyHint`]. It does not show the text, which may be a whole key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHintError(());

/// The header that carries a key to the provider.
///
/// # Examples
///
/// ```
/// use http::HeaderName;
/// use tower_llm_bridge::pool::{ApiKey, CredentialHeader};
///
/// // Azure OpenAI.
/// let azure = CredentialHeader::header(HeaderName::from_static("api-key"));
/// let key = ApiKey::new("0123456789abcdef0123456789abcdef")?.sent_as(azure);
/// # let _ = key;
/// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialHeader(SentAs);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum SentAs {
    #[default]
    ByDialect,
    Bearer,
    Header(HeaderName),
}

/// Tokens that one provider call, or a whole interception, used.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::TokenUsage;
///
/// let mut total = TokenUsage::default();
/// let mut round = TokenUsage::default();
/// round.input = 7;
/// total += round;
/// assert_eq!(total.input, 7);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TokenUsage {
    /// Prompt tokens that were neither read from the provider's cache nor written to it.
    pub input: u64,
    /// Completion tokens, reasoning included.
    pub output: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read_input_tokens: u64,
    /// Prompt tokens written to the provider's cache.
    pub cache_write_input_tokens: u64,
}

/// Named counts that break [`TokenUsage`] down, or that a provider bills apart; each model API has its own names.
///
/// | API | names |
/// |---|---|
/// | chat completions | `prompt_audio`, `completion_audio`, `completion_reasoning`, `completion_accepted_prediction`, `completion_rejected_prediction` |
/// | Messages | `cache_ephemeral_5m_input`, `cache_ephemeral_1h_input`, `web_search_requests`, `web_fetch_requests`, `completion_reasoning` |
/// | Responses | `completion_reasoning`, `total_tokens` |
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::TokenDetails;
///
/// let details = TokenDetails::from_iter([("completion_reasoning", 64)]);
/// assert_eq!(details.get("completion_reasoning"), Some(64));
/// assert_eq!(serde_json::to_string(&details)?, r#"{"completion_reasoning":64}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenDetails(BTreeMap<Cow<'static, str>, u64>);

// === impl Dialect ===

impl Dialect {
    pub(crate) const ALL: [Self; 3] = [Self::ChatCompletions, Self::Messages, Self::Responses];
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// The name used in records and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat_completions",
            Self::Messages => "messages",
            Self::Responses => "responses",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl CredentialKind ===

impl CredentialKind {
    /// The name used in records and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Centralized => "centralized",
            Self::Byok => "byok",
        }
    }
}

// === impl KeyHint ===

impl KeyHint {
    /// Masks `secret`; lengths are in characters, so that a hint never splits one.
    pub(crate) fn of(secret: &str) -> Self {
        let length = secret.chars().count();
        let shown = match length {
            20.. => 4,
            10.. => 2,
            5.. => 1,
            _ => 0,
        };
        let mut hint: String = secret.chars().take(shown).collect();
        hint.push_str(MASK);
        hint.extend(secret.chars().skip(length - shown));
        Self(hint.into())
    }

    /// The masked key, for example `sk-0...ghij`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for KeyHint {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for KeyHint {
    fn eq(&self, text: &str) -> bool {
        *self.0 == *text
    }
}

impl PartialEq<&str> for KeyHint {
    fn eq(&self, text: &&str) -> bool {
        *self.0 == **text
    }
}

/// Reads a hint that was printed or recorded. A text that is not masked is refused, so that a whole key never becomes
/// a hint.
impl FromStr for KeyHint {
    type Err = KeyHintError;

    fn from_str(text: &str) -> Result<Self, KeyHintError> {
        let shown = text.chars().count().checked_sub(MASK.len());
        let side = shown
            .filter(|shown| matches!(shown, 0 | 2 | 4 | 8))
            .map(|shown| shown / 2);
        let masked = side.is_some_and(|side| {
            let rest: String = text.chars().skip(side).take(MASK.len()).collect();
            rest == MASK
        });
        if masked {
            Ok(Self(text.into()))
        } else {
            Err(KeyHintError(()))
        }
    }
}

impl Serialize for KeyHint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyHint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

// === impl KeyHintError ===

impl fmt::Display for KeyHintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a masked key, such as sk-0...ghij")
    }
}

impl std::error::Error for KeyHintError {}

// === impl CredentialHeader ===

impl CredentialHeader {
    /// The header that the request's API documents: `Authorization: Bearer <key>`, and `x-api-key: <key>` for
    /// Anthropic's Messages. The default.
    #[must_use]
    pub const fn by_dialect() -> Self {
        Self(SentAs::ByDialect)
    }

    /// `Authorization: Bearer <key>` ([RFC 6750, 2.1](https://www.rfc-editor.org/rfc/rfc6750#section-2.1)), whatever
    /// the API.
    #[must_use]
    pub const fn bearer() -> Self {
        Self(SentAs::Bearer)
    }

    /// The key alone in the header `name`, for example Azure's `api-key`.
    #[must_use]
    pub const fn header(name: HeaderName) -> Self {
        Self(SentAs::Header(name))
    }

    /// This header, or `usual` if it is left to the dialect.
    pub(crate) fn or<'a>(&'a self, usual: &'a Self) -> &'a Self {
        match self.0 {
            SentAs::ByDialect => usual,
            _ => self,
        }
    }

    /// The header of the key alone; `None` for a bearer token.
    pub(crate) fn name(&self) -> Option<&HeaderName> {
        match &self.0 {
            SentAs::Header(name) => Some(name),
            SentAs::ByDialect | SentAs::Bearer => None,
        }
    }
}

// === impl TokenUsage ===

impl std::ops::AddAssign for TokenUsage {
    fn add_assign(&mut self, other: Self) {
        self.input = self.input.saturating_add(other.input);
        self.output = self.output.saturating_add(other.output);
        self.cache_read_input_tokens = self
            .cache_read_input_tokens
            .saturating_add(other.cache_read_input_tokens);
        self.cache_write_input_tokens = self
            .cache_write_input_tokens
            .saturating_add(other.cache_write_input_tokens);
    }
}

// === impl TokenDetails ===

impl TokenDetails {
    /// Sets the count called `name`.
    pub fn insert(&mut self, name: impl Into<Cow<'static, str>>, count: u64) {
        self.0.insert(name.into(), count);
    }

    /// The count called `name`; `None` if the provider did not report it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// All names with their counts, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (&**name, *count))
    }
}

impl<N: Into<Cow<'static, str>>> FromIterator<(N, u64)> for TokenDetails {
    fn from_iter<I: IntoIterator<Item = (N, u64)>>(counts: I) -> Self {
        Self(counts.into_iter().map(|(name, count)| (name.into(), count)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_show_more_of_longer_keys() {
        for (secret, hint) in [
            ("", "..."),
            ("abcd", "..."),
            ("abcde", "a...e"),
            ("abcdefghi", "a...i"),
            ("abcdefghij", "ab...ij"),
            ("abcdefghijklmnopqrs", "ab...rs"),
            ("abcdefghijklmnopqrst", "abcd...qrst"),
            ("äöüßé", "ä...é"),
        ] {
            assert_eq!(KeyHint::of(secret).as_str(), hint);
        }
    }
    #[test]
    fn a_hint_is_read_back_and_a_whole_key_is_not() {
        for secret in [
            "",
            "abcde",
            "abcdefghij",
            "abcdefghijklmnopqrst",
            "äöüßé",
            "......",
            "........................",
        ] {
            let hint = KeyHint::of(secret);
            assert_eq!(hint.as_str().parse().as_ref(), Ok(&hint));
            let json = serde_json::to_string(&hint).unwrap();
            assert_eq!(serde_json::from_str::<KeyHint>(&json).unwrap(), hint);
            assert!(hint == hint.as_str() && hint == *hint.as_str());
        }
        for text in [
            "",
            "..",
            "sk-0123456789abcdefghij",
            "sk...",
            "...",
            "a..b",
            "abc...def",
            "sk-01...fghij",
            "a...b...",
        ] {
            let expected = text == "...";
            assert_eq!(text.parse::<KeyHint>().is_ok(), expected, "{text}");
            assert_eq!(
                serde_json::from_value::<KeyHint>(text.into()).is_ok(),
                expected,
                "{text}"
            );
        }
        let error = "sk-0123456789abcdefghij".parse::<KeyHint>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("0123"));
    }

    #[test]
    fn a_key_s_own_header_comes_before_the_dialect_s() {
        let x_api_key = CredentialHeader::header(HeaderName::from_static("x-api-key"));
        let azure = CredentialHeader::header(HeaderName::from_static("api-key"));
        assert_eq!(CredentialHeader::default().or(&x_api_key), &x_api_key);
        assert_eq!(azure.or(&x_api_key), &azure);
        assert_eq!(CredentialHeader::bearer().or(&x_api_key).name(), None);
        assert_eq!(azure.name().map(HeaderName::as_str), Some("api-key"));
    }
}
