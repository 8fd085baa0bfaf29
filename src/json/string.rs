//! String literals. Most bytes of a prompt are inside one, so this is where the speed of everything above is decided.

use std::borrow::Cow;

const BLOCK: usize = 32;
const WORD: usize = size_of::<u64>();

/// How many bytes at the front of `text` stand for themselves in a string: neither `"`, nor `\`, nor a control character.
#[inline]
pub(super) fn plain_len(text: &[u8]) -> usize {
    // Names and most short values end within two words, and there the position comes without a loop.
    if let Some((&[first, second], _)) = text.as_chunks::<WORD>().0.split_first_chunk() {
        return first_special(first)
            .or_else(|| first_special(second).map(|at| WORD + at))
            .unwrap_or_else(|| plain_len_long(text, 2 * WORD));
    }
    plain_len_long(text, 0)
}

fn plain_len_long(text: &[u8], mut done: usize) -> usize {
    let (blocks, _) = text[done..].as_chunks::<BLOCK>();
    // A fold without an early exit, which the compiler turns into vector instructions.
    let plain = blocks
        .iter()
        .take_while(|block| !block.iter().fold(false, |any, &byte| any | is_special(byte)))
        .count();
    done += plain * BLOCK;
    let (words, tail) = text[done..].as_chunks::<WORD>();
    for word in words {
        if let Some(at) = first_special(*word) {
            return done + at;
        }
        done += WORD;
    }
    done + tail.iter().take_while(|&&byte| !is_special(byte)).count()
}

#[inline]
fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

/// The first special byte of a word, by arithmetic on all eight at once ("SIMD within a register").
#[inline]
fn first_special(word: [u8; WORD]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; WORD]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; WORD]);

    // Sets the high bit of each byte below `limit`. A borrow can only mark a byte above one that is marked rightly, so the
    // lowest mark is exact; bytes from 0x80 up are masked out.
    let below = |bytes: u64, limit: u8| bytes.wrapping_sub(ONES * u64::from(limit)) & !bytes;
    let bytes = u64::from_le_bytes(word);
    let marks =
        below(bytes, 0x20) | below(bytes ^ (ONES * u64::from(b'"')), 1) | below(bytes ^ (ONES * u64::from(b'\\')), 1);
    let marks = marks & HIGHS;
    (marks != 0).then(|| marks.trailing_zeros() as usize / 8)
}

/// Where the string ends, quotes included, whose opening quote is at `start`; the end of `text` if it has no end.
pub(super) fn skip(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(rest) = text.get(at..) {
        at += plain_len(rest);
        match text.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
            None => break,
        }
    }
    text.len()
}

/// What a string literal, quotes included, says. `None` if it is not one.
pub(super) fn unescape(literal: &[u8]) -> Option<Cow<'_, str>> {
    let inner = literal.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if plain_len(inner) == inner.len() {
        return simdutf8::basic::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice(literal).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_special_byte_is_found_everywhere() {
        for special in (0..0x20).chain([b'"', b'\\']) {
            for at in 0..130 {
                // The neighbours are the bytes that arithmetic on whole words could mistake.
                for others in [0x20, 0x21, 0x23, 0x5B, 0x5D, 0x7F, 0x80, 0x9F, 0xA2, 0xDC, 0xFF] {
                    let mut text = [others; 130];
                    assert_eq!(plain_len(&text[..at]), at);
                    text[at] = special;
                    assert_eq!(plain_len(&text), at, "{special:#x} among {others:#x}");
                    text[at + 1..].fill(special);
                    assert_eq!(plain_len(&text), at, "{special:#x} among {others:#x}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn plain_len_is_that_of_the_definition(text in prop::collection::vec(any::<u8>(), 0..100), plain in 0_usize..100) {
            let mut text = text;
            text.iter_mut().take(plain).for_each(|byte| *byte |= 0x60);
            let expected = text.iter().position(|&byte| is_special(byte)).unwrap_or(text.len());
            prop_assert_eq!(plain_len(&text), expected);
        }

        #[test]
        fn unescape_reads_what_serde_json_writes(text in any::<String>()) {
            let literal = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(unescape(literal.as_bytes()).unwrap(), text);
            prop_assert_eq!(skip(format!("{literal}\"\"").as_bytes(), 0), literal.len());
        }
    }

    #[test]
    fn unescape_refuses_what_is_no_literal() {
        for text in [
            "",
            "\"",
            "a",
            "\"a",
            "a\"",
            "\"a\"b\"",
            "\"\\\"",
            "\"\n\"",
            " \"a\" ",
            "\"\\ud800\"",
            "\"\\x\"",
        ] {
            assert_eq!(unescape(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(unescape(b"\"\xFF\""), None);
        assert!(matches!(unescape(br#""plain""#), Some(Cow::Borrowed("plain"))));
    }
}
