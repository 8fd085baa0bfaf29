//! Cuts long texts from outside (prompts, errors, names) before they are recorded, logged or kept.

use crate::vast;

/// Room for the note that says how much is missing.
const NOTE: usize = 64;

/// The longest name or id of an answer or a request that is kept apart from its body, in bytes.
pub(crate) const MAX_NAME: usize = 1 << 10;

/// Cuts `text` to `limit` bytes, including a note about the cut; the note stays even if it alone is longer. Returns
/// whether it cut.
pub(crate) fn cut(text: &mut String, limit: usize) -> bool {
    let length = text.len();
    if length <= limit {
        return false;
    }
    let kept = (0..=limit.saturating_sub(NOTE))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    let kept = kept.unwrap_or(0);
    vast::truncate(text, kept, limit.saturating_sub(kept));
    text.push_str(&format!("… [cut: {length} bytes in all]"));
    true
}

/// Cuts a name to the length that is kept.
pub(crate) fn name(mut name: String) -> String {
    cut(&mut name, MAX_NAME);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        let mut text = "ä".repeat(600);
        assert!(cut(&mut text, 1024));
        assert!(text.len() <= 1024, "{}", text.len());
        assert!(text.ends_with("ä… [cut: 1200 bytes in all]"), "{text}");
        assert!(text.capacity() <= 1024);
        let mut short = "ä".repeat(512);
        assert!(!cut(&mut short, 1024));
        assert_eq!(short.len(), 1024);
        // The note stays, however small the limit.
        let mut tiny = "x".repeat(100);
        assert!(cut(&mut tiny, 0));
        assert_eq!(tiny, "… [cut: 100 bytes in all]");
    }

    #[test]
    fn a_kept_name_is_small_in_memory_as_well() {
        let kept = name("x".repeat(1 << 20));
        assert!(
            kept.len() <= MAX_NAME && kept.capacity() <= 2 * MAX_NAME,
            "{}",
            kept.capacity()
        );
        assert_eq!(name("gpt".to_owned()), "gpt");
    }
}
