//! The vocabulary that several modules share. It imports nothing of ours, so that every module may use it.

use std::fmt;

use serde::Serialize;

/// The model API that an intercepted request speaks.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::Dialect;
///
/// assert_eq!(Dialect::ChatCompletions.as_str(), "chat_completions");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dialect {
    /// `POST …/chat/completions`, see
    /// [OpenAI's API reference](https://platform.openai.com/docs/api-reference/chat/create).
    ChatCompletions,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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
/// # Ok::<(), tower_llm_bridge::pool::KeyPoolError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyHint(std::sync::Arc<str>);

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenUsage {
    /// Prompt tokens that were not read from the provider's cache.
    pub input: u64,
    /// Completion tokens, reasoning included.
    pub output: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read_input_tokens: u64,
    /// Prompt tokens written to the provider's cache.
    pub cache_write_input_tokens: u64,
}

// === impl Dialect ===

impl Dialect {
    /// The name used in records and spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat_completions",
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
        hint.push_str("...");
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

impl Serialize for KeyHint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
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

#[cfg(test)]
mod tests {
    use super::KeyHint;

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
}
