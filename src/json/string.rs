//! String literals. Most bytes of a request are inside one, so the speed of scanning is decided here.

use std::borrow::Cow;

use fearless_simd::{Level, Simd, SimdBase as _, SimdMask as _, dispatch, u8x16, u8x64};

const ROW: usize = 16;
const BLOCK: usize = 64;

/// The length of a `\u` escape.
const UNICODE_ESCAPE: usize = 6;
/// The length of the longest escape, a surrogate pair.
pub(super) const MAX_ESCAPE: usize = 2 * UNICODE_ESCAPE;

/// Why a text does not begin with an escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EscapeError {
    /// The text ends inside the escape.
    Cut,
    /// JSON has no such escape.
    Unknown,
    /// Half of a surrogate pair.
    LoneSurrogate,
}

/// How many bytes at the front of `text` stand for themselves in a string: neither `"`, nor `\`, nor a control character.
#[inline]
pub(super) fn plain_len(text: &[u8]) -> usize {
    // Names and most values end within the first row, which needs no loop.
    match text.first_chunk() {
        Some(row) => match specials(row) {
            0 => plain_len_long(text),
            marks => marks.trailing_zeros() as usize,
        },
        None => text.iter().take_while(|&&byte| !is_special(byte)).count(),
    }
}

// Not inlined, so that the fast path stays small at each call.
#[inline(never)]
fn plain_len_long(text: &[u8]) -> usize {
    if let Some(marks @ 1..) = second_row(text) {
        return ROW + marks.trailing_zeros() as usize;
    }
    dispatch!(Level::new(), simd => plain_len_with(simd, text, ROW))
}

// `dispatch!` compiles only what is inlined into it for the processor at hand: hence `always`, here and below.
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

/// How many bytes at the front of `text` are plain or part of an escape of two characters. After them comes the string's
/// end, a control character, or the `\` of an escape that is cut off, unknown, or of six characters.
#[inline]
pub(super) fn text_len(text: &[u8]) -> usize {
    // Short strings, as above. If the first special byte is a `\`, the long way reads this row again.
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

/// The processor cannot predict where the escapes are, so only the end of the string makes a block branch.
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

/// As [`text_len`], but passes escapes of six characters, too. `allow_lone_surrogates`: half of a surrogate pair counts as
/// an escape.
#[inline]
pub(super) fn escaped_len(text: &[u8], allow_lone_surrogates: bool) -> usize {
    let at = text_len(text);
    if text[at..].starts_with(br"\u") {
        escaped_len_from(text, at, allow_lone_surrogates)
    } else {
        at
    }
}

/// The length of the string text at the front of `text`, which ends with a quote. `None` if there is no such text; as in the
/// lenient scanner, half of a surrogate pair counts as an escape.
pub(crate) fn string_len(text: &[u8]) -> Option<usize> {
    let (inner, end) = text.split_at(escaped_len(text, true));
    let is_text = || inner.is_ascii() || simdutf8::basic::from_utf8(inner).is_ok();
    (end.first() == Some(&b'"') && is_text()).then_some(inner.len())
}

/// Goes on at an escape of six characters. Where there is one there are many: clients that write only ASCII escape each
/// character of most languages.
#[inline(never)]
fn escaped_len_from(text: &[u8], mut at: usize, allow_lone_surrogates: bool) -> usize {
    loop {
        let rest = &text[at..];
        at += match rest {
            [b'\\', ..] => match escape_len(rest, allow_lone_surrogates) {
                Ok(length) => length,
                Err(_) => return at,
            },
            [byte, ..] if !is_special(*byte) => plain_len(rest),
            _ => return at,
        };
    }
}

/// The length of the escape, or of the two that make one character, at the front of `text`, which begins with a `\`.
#[inline]
pub(super) fn escape_len(text: &[u8], allow_lone_surrogates: bool) -> Result<usize, EscapeError> {
    match text {
        [b'\\', byte, ..] if is_simple(*byte) => return Ok(2),
        _ => {}
    }
    match code_unit(text)? {
        0xD800..0xE000 if allow_lone_surrogates => Ok(UNICODE_ESCAPE),
        0xD800..0xDC00 => match code_unit(&text[UNICODE_ESCAPE..]) {
            Ok(0xDC00..0xE000) => Ok(MAX_ESCAPE),
            Err(EscapeError::Cut) => Err(EscapeError::Cut),
            Err(EscapeError::Unknown) if text[UNICODE_ESCAPE..].starts_with(br"\u") => Err(EscapeError::Unknown),
            _ => Err(EscapeError::LoneSurrogate),
        },
        0xDC00..0xE000 => Err(EscapeError::LoneSurrogate),
        _ => Ok(UNICODE_ESCAPE),
    }
}

/// The UTF-16 code unit of the `\u` escape at the front of `text`.
#[inline]
fn code_unit(text: &[u8]) -> Result<u32, EscapeError> {
    const START: &[u8] = br"\u";
    let Some(digits) = text.strip_prefix(START) else {
        let is_cut = START.starts_with(text);
        return Err(if is_cut { EscapeError::Cut } else { EscapeError::Unknown });
    };
    let mut unit = 0;
    for place in 0..UNICODE_ESCAPE - START.len() {
        let digit = digits.get(place).ok_or(EscapeError::Cut)?;
        unit = unit << 4 | char::from(*digit).to_digit(16).ok_or(EscapeError::Unknown)?;
    }
    Ok(unit)
}

/// The next block of a text. The last bytes are copied into `last`, where zeros follow them: a control character, at
/// which every search stops.
#[inline(always)]
fn block<'a>(rest: &'a [u8], last: &'a mut [u8; BLOCK]) -> &'a [u8; BLOCK] {
    rest.first_chunk().unwrap_or_else(|| {
        last[..rest.len()].copy_from_slice(rest);
        last
    })
}

/// The places that follow a `\` which is not escaped itself; `carry` is 1 if the first place does.
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

/// The `escaped` places whose byte does not make an escape of two characters.
#[inline(always)]
fn odd_escapes(block: &[u8; BLOCK], marks: &Marks, escaped: u64) -> u64 {
    let mut odd = escaped & !(marks.backslashes | marks.usual);
    // The other escapes of two characters are rare.
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
    /// The second characters of most escapes, other than a `\`.
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

/// The [`specials`] of the second row, in which ids and the longer names end.
#[inline]
fn second_row(text: &[u8]) -> Option<u64> {
    text.get(ROW..)?.first_chunk().map(specials)
}

/// With this bit flipped, only the quote and control characters are below 0x21.
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

/// The end, after its quote, of the string that begins at `start`; the end of `text` if the string has none.
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

/// The text of a string literal, quotes included. `None` if it is not a string literal.
pub(super) fn unescape(literal: &[u8]) -> Option<Cow<'_, str>> {
    let inner = literal.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if plain_len(inner) == inner.len() {
        return simdutf8::basic::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice(literal).ok().map(Cow::Owned)
}

/// `text` as a JSON string, with the escapes that `serde_json` writes. Its writer looks at each byte: results of tools have
/// mebibytes.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at(plain_len(rest.as_bytes()));
        quoted.push_str(plain);
        let Some(byte) = special.bytes().next() else { break };
        match byte {
            b'"' => quoted.push_str(r#"\""#),
            b'\\' => quoted.push_str(r"\\"),
            b'\n' => quoted.push_str(r"\n"),
            b'\t' => quoted.push_str(r"\t"),
            b'\r' => quoted.push_str(r"\r"),
            0x08 => quoted.push_str(r"\b"),
            0x0C => quoted.push_str(r"\f"),
            _ => quoted.push_str(&format!(r"\u{byte:04x}")),
        }
        // Special bytes are ASCII.
        rest = &special[1..];
    }
    quoted.push('"');
    quoted
}

/// As [`unescape`], for the text between the quotes.
pub(super) fn unescape_text(inner: &[u8]) -> Option<String> {
    serde_json::from_slice(&[b"\"", inner, b"\""].concat()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The instructions that every processor has must find the same as those of the processor at hand.
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
        fn a_text_is_quoted_as_serde_does(text in r#"([a-z]{0,40}|["\\\x00-\x1F/\x7F]|é|😀){0,12}"#) {
            prop_assert_eq!(quote(&text), serde_json::to_string(&text).unwrap());
        }

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
