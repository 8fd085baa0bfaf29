//! Keeps a server's secrets out of every text that leaves this module.

use zeroize::Zeroizing;

use crate::redact::{self, Secret};

/// The secrets of one server. It has no `Debug`.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<Hidden>);

#[derive(Clone)]
struct Hidden(Zeroizing<String>);

/// Shorter ones occur in texts by chance, and protect nothing.
const SHORTEST: usize = 4;
/// The longest text for people, in characters. An error may carry a page of HTML.
const LONGEST_TEXT: usize = 300;

// === impl Secrets ===

impl Secrets {
    pub(super) fn add(&mut self, secret: &str) {
        if secret.len() >= SHORTEST {
            self.0.push(Hidden(Zeroizing::new(secret.to_owned())));
        }
    }

    /// The text on one line, without the secrets, and not too long.
    pub(super) fn mask(&self, text: &str) -> String {
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut masked = match redact::Secrets::new(&self.0).redact(line.as_bytes()) {
            Some(masked) => String::from_utf8_lossy(&masked).into_owned(),
            None => line,
        };
        if let Some((end, _)) = masked.char_indices().nth(LONGEST_TEXT) {
            masked.truncate(end);
            masked.push('…');
        }
        masked
    }
}

// === impl Hidden ===

impl Secret for &Hidden {
    fn secret(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn mask(&self) -> &str {
        "..."
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
