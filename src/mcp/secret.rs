//! Keeps a server's secrets out of every text that leaves this module.

/// What must not be seen of one server. It has no `Debug`.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

/// Shorter ones are in any text by chance, and protect nothing.
const SHORTEST: usize = 4;
/// An error may carry a page of HTML.
const LONGEST_TEXT: usize = 300;

// === impl Secrets ===

impl Secrets {
    pub(super) fn add(&mut self, secret: &str) {
        if secret.len() >= SHORTEST {
            self.0.push(secret.to_owned());
            // A secret may hold another one, such as a header its token: the longest goes first.
            self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        }
    }

    /// The text on one line, without the secrets, and not too long.
    pub(super) fn mask(&self, text: &str) -> String {
        let mut masked = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for secret in &self.0 {
            if masked.contains(secret.as_str()) {
                masked = masked.replace(secret.as_str(), "...");
            }
        }
        if let Some((end, _)) = masked.char_indices().nth(LONGEST_TEXT) {
            masked.truncate(end);
            masked.push('…');
        }
        masked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_before_the_text_is_cut() {
        let mut secrets = Secrets::default();
        secrets.add("token-17");
        secrets.add("Bearer token-17");
        secrets.add("x");
        assert_eq!(secrets.mask("401 for\n Bearer token-17, x"), "401 for ..., x");
        assert_eq!(secrets.mask("token-17token-17"), "......");
        let long = format!("{}token-17", "é".repeat(LONGEST_TEXT - 2));
        let masked = secrets.mask(&long);
        assert!(!masked.contains("to"), "{masked}");
        assert_eq!(masked.chars().count(), LONGEST_TEXT + 1);
    }
}
