//! String literals. Most bytes of a prompt are inside one, so this is where the speed of everything above is decided.

use std::borrow::Cow;

use fearless_simd::{Level, Simd, SimdBase as _, SimdMask as _, dispatch, u8x16, u8x64};

const ROW: usize = 16;
const BLOCK: usize = 64;

/// How many bytes at the front of `text` stand for themselves in a string: neither `"`, nor `\`, nor a control character.
#[inline]
pub(super) fn plain_len(text: &[u8]) -> usize {
    // Names and most values end within the first row, and there the place comes without a loop.
    match text.first_chunk() {
        Some(row) => match specials(row) {
            0 => plain_len_long(text),
            marks => marks.trailing_zeros() as usize,
        },
        None => text.iter().take_while(|&&byte| !is_special(byte)).count(),
    }
}

// Apart, so that the short way stays small wherever it is inlined.
#[inline(never)]
fn plain_len_long(text: &[u8]) -> usize {
    if let Some(marks @ 1..) = second_row(text) {
        return ROW + marks.trailing_zeros() as usize;
    }
    dispatch!(Level::new(), simd => plain_len_with(simd, text, ROW))
}

// `dispatch!` compiles for a processor what is inlined there, and nothing else: hence `always`, here and below.
#[inline(always)]
fn plain_len_with<S: Simd>(simd: S, text: &[u8], mut at: usize) -> usize {
    let mut last = [0; BLOCK];
    loop {
        let block = block(&text[at..], &mut last);
        let marks = Marks::of(simd, block);
        let special = marks.backslashes | marks.stops;
        if special != 0 {
            return text.len().min(at + special.trailing_zeros() as usize);
        }
        at += BLOCK;
    }
}

/// How many bytes at the front of `text` are plain or part of an escape of two characters. Behind them is the string's
/// end, a control character, or the `\` of another escape or of one whose rest is not there yet.
#[inline]
pub(super) fn text_len(text: &[u8]) -> usize {
    // Short strings, as above; a long one has its first escape further on, or is looked at again.
    if let Some(row) = text.first_chunk::<ROW>() {
        let marks = specials(row);
        let place = marks.trailing_zeros() as usize;
        if marks == 0 {
            return text_len_from_second_row(text);
        }
        if row[place % ROW] != b'\\' {
            return place;
        }
    }
    text_len_long(text)
}

#[inline(never)]
fn text_len_from_second_row(text: &[u8]) -> usize {
    if let Some(marks @ 1..) = second_row(text) {
        let place = ROW + marks.trailing_zeros() as usize;
        if text[place] != b'\\' {
            return place;
        }
    }
    text_len_long(text)
}

/// Where the text has its escapes is not predictable, so nothing but the end of the string makes a block branch.
#[inline(never)]
fn text_len_long(text: &[u8]) -> usize {
    dispatch!(Level::new(), simd => text_len_with(simd, text))
}

#[inline(always)]
fn text_len_with<S: Simd>(simd: S, text: &[u8]) -> usize {
    let (mut at, mut carry, mut last) = (0, 0, [0; BLOCK]);
    loop {
        let block = block(&text[at..], &mut last);
        let marks = Marks::of(simd, block);
        let Marks { backslashes, stops, .. } = marks;
        if carry == 0 && stops.trailing_zeros() < backslashes.trailing_zeros() {
            return text.len().min(at + stops.trailing_zeros() as usize);
        }
        let escaped = escaped(backslashes, carry);
        let stops = stops & !escaped;
        let odd = odd_escapes(block, &marks, escaped);
        if stops | odd != 0 {
            let (stop, odd) = (stops.trailing_zeros() as usize, odd.trailing_zeros() as usize);
            return if stop < odd {
                text.len().min(at + stop)
            } else {
                at + odd - 1
            };
        }
        carry = (backslashes & !escaped) >> (BLOCK - 1);
        at += BLOCK;
    }
}

/// As [`text_len`], but escapes of six characters are passed, too. `halves` tells whether half of a surrogate pair may
/// stand alone.
#[inline]
pub(super) fn escaped_len(text: &[u8], halves: bool) -> usize {
    let at = text_len(text);
    if text[at..].starts_with(br"\u") {
        unicode_len(text, at, halves)
    } else {
        at
    }
}

/// Goes on at such an escape. Where there is one there are many: clients that write ASCII alone have one for each
/// character of most languages.
#[inline(never)]
fn unicode_len(text: &[u8], mut at: usize, halves: bool) -> usize {
    loop {
        let rest = &text[at..];
        at += match rest {
            [b'\\', b'u', ..] => match unicode_escape_len(rest, halves) {
                Some(length) => length,
                None => return at,
            },
            [b'\\', byte, ..] if is_simple(*byte) => 2,
            [byte, ..] if !is_special(*byte) => plain_len(rest),
            _ => return at,
        };
    }
}

/// The length of the escape or the two that make one character. `None` if it is none, or not all there.
#[inline]
fn unicode_escape_len(text: &[u8], halves: bool) -> Option<usize> {
    const LENGTH: usize = 6;
    let unit = |escape: &[u8]| {
        let digits = escape.strip_prefix(br"\u")?.first_chunk::<4>()?;
        let add = |unit: u32, digit: &u8| Some(unit << 4 | char::from(*digit).to_digit(16)?);
        digits.iter().try_fold(0, add)
    };
    match unit(text)? {
        0xD800..0xE000 if halves => Some(LENGTH),
        0xD800..0xDC00 => {
            let second = unit(&text[LENGTH..])?;
            (0xDC00..0xE000).contains(&second).then_some(2 * LENGTH)
        }
        0xDC00..0xE000 => None,
        _ => Some(LENGTH),
    }
}

/// The next block of a text; of its last bytes, `last`, whose zeros are left behind them: at those everything stops.
#[inline(always)]
fn block<'a>(rest: &'a [u8], last: &'a mut [u8; BLOCK]) -> &'a [u8; BLOCK] {
    rest.first_chunk().unwrap_or_else(|| {
        last[..rest.len()].copy_from_slice(rest);
        last
    })
}

/// The places of what follows a `\` that is not escaped itself; `carry` tells so of the first place.
#[inline]
fn escaped(backslashes: u64, carry: u64) -> u64 {
    let mut escaped = backslashes << 1 | carry;
    if escaped & backslashes != 0 {
        escaped = carry;
        let mut left = backslashes & !carry;
        while left != 0 {
            let first = left & left.wrapping_neg();
            escaped |= first << 1;
            left &= !(first | first << 1);
        }
    }
    escaped
}

/// Those of the `escaped` places that no escape of two characters has.
#[inline(always)]
fn odd_escapes(block: &[u8; BLOCK], marks: &Marks, escaped: u64) -> u64 {
    let mut odd = escaped & !(marks.backslashes | marks.usual);
    // The other simple ones are rare.
    let mut left = odd;
    while left != 0 {
        let place = left.trailing_zeros() as usize % BLOCK;
        if is_simple(block[place]) {
            odd &= !(1 << place);
        }
        left &= left - 1;
    }
    odd
}

/// Whether the byte makes an escape together with a `\` before it.
#[inline]
fn is_simple(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
}

/// One bit for each byte of a block, the lowest for the first.
struct Marks {
    backslashes: u64,
    /// Quotes and control characters.
    stops: u64,
    /// What follows the `\` of most escapes, but for another `\`.
    usual: u64,
}

impl Marks {
    #[inline(always)]
    fn of<S: Simd>(simd: S, block: &[u8; BLOCK]) -> Self {
        let block = u8x64::from_slice(simd, block);
        let flipped = block ^ u8x64::splat(simd, QUOTE_FLIP);
        let is = |byte| block.simd_eq(u8x64::splat(simd, byte));
        Self {
            backslashes: is(b'\\').to_bitmask(),
            stops: flipped.simd_lt(u8x64::splat(simd, 0x21)).to_bitmask(),
            usual: (is(b'"') | is(b'n') | is(b't')).to_bitmask(),
        }
    }
}

#[inline]
fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

/// The [`specials`] of the row after the first, where ids and the longer names end.
#[inline]
fn second_row(text: &[u8]) -> Option<u64> {
    text.get(ROW..)?.first_chunk().map(specials)
}

/// With this bit flipped, the quote and control characters are all that is below 0x21.
const QUOTE_FLIP: u8 = 0x02;

/// One bit for each special byte of a row, the lowest for the first.
#[inline]
fn specials(row: &[u8; ROW]) -> u64 {
    dispatch!(Level::baseline(), simd => specials_with(simd, row))
}

#[inline(always)]
fn specials_with<S: Simd>(simd: S, row: &[u8; ROW]) -> u64 {
    let row = u8x16::from_slice(simd, row);
    let flipped = row ^ u8x16::splat(simd, QUOTE_FLIP);
    let stops = flipped.simd_lt(u8x16::splat(simd, 0x21));
    (stops | row.simd_eq(u8x16::splat(simd, b'\\'))).to_bitmask()
}

/// Where the string ends, quotes included, whose opening quote is at `start`; the end of `text` if it has no end.
pub(super) fn skip(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(rest) = text.get(at..) {
        at += escaped_len(rest, true);
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

    /// The slowest processor that this was compiled for agrees with the one at hand.
    fn everywhere(text: &[u8]) {
        let plain = dispatch!(Level::baseline(), simd => plain_len_with(simd, text, 0));
        assert_eq!(plain, plain_len(text));
        assert_eq!(
            dispatch!(Level::baseline(), simd => text_len_with(simd, text)),
            text_len(text)
        );
    }

    #[test]
    fn every_special_byte_is_found_everywhere() {
        for special in (0..0x20).chain([b'"', b'\\']) {
            for at in 0..130 {
                // The neighbours are the bytes that a comparison could mistake.
                for others in [0x20, 0x21, 0x23, 0x5B, 0x5D, 0x7F, 0x80, 0x9F, 0xA2, 0xDC, 0xFF] {
                    let mut text = [others; 130];
                    assert_eq!(plain_len(&text[..at]), at);
                    text[at] = special;
                    assert_eq!(plain_len(&text), at, "{special:#x} among {others:#x}");
                    everywhere(&text);
                    text[at + 1..].fill(special);
                    assert_eq!(plain_len(&text), at, "{special:#x} among {others:#x}");
                }
            }
        }
    }

    #[test]
    fn every_escape_of_two_characters_is_passed_everywhere() {
        for byte in 0..=u8::MAX {
            let is_simple = serde_json::from_slice::<&serde_json::value::RawValue>(&[b'"', b'\\', byte, b'"']).is_ok();
            for at in 0..130 {
                let mut text = [b'x'; 140];
                text[at] = b'\\';
                text[at + 1] = byte;
                text[139] = b'"';
                let expected = if is_simple { 139 } else { at };
                assert_eq!(text_len(&text), expected, "{byte:#x} at {at}");
                assert_eq!(escaped_len(&text, false), expected, "{byte:#x} at {at}");
                everywhere(&text);
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
