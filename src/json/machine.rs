//! The grammar of [RFC 8259] as a machine that takes text in pieces of any size and tells [`Members`] what it passes.
//!
//! It is driven byte by byte, so that a piece may end anywhere; the long runs, inside strings, are left to
//! [`plain_len`].
//!
//! [RFC 8259]: https://www.rfc-editor.org/rfc/rfc8259

use super::members::Members;
use super::scan::ScanErrorKind;
use super::string::plain_len;

/// As deep as `serde_json` goes. One bit of [`Machine::arrays`] each.
const MAX_DEPTH: u8 = 127;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Machine {
    state: State,
    role: Role,
    /// One bit per open container, the lowest for the innermost; set for an array.
    arrays: u128,
    depth: u8,
    /// Where the next byte is in the document.
    offset: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    /// After `{`.
    NameOrEnd,
    /// After a `,` in an object.
    Name,
    Colon,
    /// After `[`.
    ItemOrEnd,
    Value,
    AfterValue,
    /// Inside a string.
    Text,
    Escape,
    Hex(Hex),
    /// The first half of a surrogate pair wants a `\`, then a `u`, then the second half.
    PairBackslash(u16),
    PairU(u16),
    Number(Number),
    /// What is still to come of `true`, `false` or `null`.
    Word(&'static [u8]),
    Done,
}

/// The digits of a `\u` escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hex {
    left: u8,
    value: u16,
    /// The first half, if this is the second of a surrogate pair.
    high: Option<u16>,
}

/// What has been read of a number last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    LeadingZero,
    Integer,
    Point,
    Fraction,
    E,
    ExponentSign,
    Exponent,
}

/// What the string at hand is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Value,
    Name,
    MemberName,
}

// === impl Machine ===

impl Machine {
    /// Where the next byte is in the document; after an error, the byte that is to blame.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next characters of the document, all of them whole.
    pub(super) fn run(&mut self, text: &[u8], members: &mut Members) -> Result<(), ScanErrorKind> {
        let base = self.offset;
        let mut state = self.state;
        let mut at = 0;
        let outcome = loop {
            let Some(&byte) = text.get(at) else { break Ok(()) };
            let next = match state {
                State::Text => self.text(text, &mut at, members),
                State::AfterValue => match byte {
                    b' ' | b'\n' | b'\r' | b'\t' => Ok(state),
                    b',' if self.in_array() => Ok(State::Value),
                    b',' => Ok(State::Name),
                    b']' | b'}' => self.close(byte, base + at, false, members),
                    _ => Err(ScanErrorKind::Syntax),
                },
                State::NameOrEnd | State::Name => match byte {
                    b' ' | b'\n' | b'\r' | b'\t' => Ok(state),
                    b'"' => Ok(self.name(base + at, members)),
                    b'}' if state == State::NameOrEnd => self.close(byte, base + at, true, members),
                    _ => Err(ScanErrorKind::Syntax),
                },
                State::Colon => match byte {
                    b' ' | b'\n' | b'\r' | b'\t' => Ok(state),
                    b':' => Ok(State::Value),
                    _ => Err(ScanErrorKind::Syntax),
                },
                State::Value | State::ItemOrEnd => match byte {
                    b' ' | b'\n' | b'\r' | b'\t' => Ok(state),
                    b']' if state == State::ItemOrEnd => self.close(byte, base + at, true, members),
                    _ => self.value(byte, base + at, members),
                },
                State::Number(number) => match number.next(byte) {
                    Ok(Some(number)) => Ok(State::Number(number)),
                    Ok(None) => {
                        self.value_ends(base + at, false, members);
                        state = State::AfterValue;
                        continue;
                    }
                    Err(kind) => Err(kind),
                },
                State::Word([expected, rest @ ..]) if *expected == byte => {
                    if rest.is_empty() {
                        self.value_ends(base + at + 1, false, members);
                        Ok(State::AfterValue)
                    } else {
                        Ok(State::Word(rest))
                    }
                }
                State::Word(_) => Err(ScanErrorKind::Syntax),
                State::Escape => self.escape(byte, members),
                State::Hex(hex) => self.hex(hex, byte, members),
                State::PairBackslash(high) if byte == b'\\' => Ok(State::PairU(high)),
                State::PairU(high) if byte == b'u' => Ok(State::Hex(Hex::new(Some(high)))),
                State::PairBackslash(_) | State::PairU(_) => Err(ScanErrorKind::LoneSurrogate),
                State::Start => match byte {
                    b' ' | b'\n' | b'\r' | b'\t' => Ok(state),
                    b'{' => self.open(false),
                    _ => Err(ScanErrorKind::NotAnObject),
                },
                State::Done => match byte {
                    b' ' | b'\n' | b'\r' | b'\t' => Ok(state),
                    _ => Err(ScanErrorKind::TrailingBytes),
                },
            };
            match next {
                Ok(next) => {
                    state = next;
                    at += 1;
                }
                Err(kind) => break Err(kind),
            }
        };
        self.state = state;
        self.offset = base + at;
        outcome
    }

    /// Reads on inside a string, and leaves `at` on the last byte that it took.
    #[inline]
    fn text(&mut self, text: &[u8], at: &mut usize, members: &mut Members) -> Result<State, ScanErrorKind> {
        loop {
            let rest = &text[*at..];
            let plain = plain_len(rest);
            if self.role == Role::MemberName {
                members.push_name(&rest[..plain]);
            }
            *at += plain;
            match rest.get(plain) {
                Some(b'"') => return self.text_ends(self.offset + *at + 1, members),
                Some(b'\\') => match rest.get(plain + 1) {
                    // The common escapes need not leave this loop.
                    Some(b'n' | b'"' | b'\\' | b'/' | b't' | b'r' | b'b' | b'f') if self.role != Role::MemberName => {
                        *at += 2;
                    }
                    _ => return Ok(State::Escape),
                },
                Some(_) => return Err(ScanErrorKind::ControlCharacter),
                None => {
                    *at -= 1;
                    return Ok(State::Text);
                }
            }
        }
    }

    fn text_ends(&mut self, end: usize, members: &mut Members) -> Result<State, ScanErrorKind> {
        match self.role {
            Role::Value => {
                self.value_ends(end, false, members);
                return Ok(State::AfterValue);
            }
            Role::Name => {}
            Role::MemberName => members.end_name()?,
        }
        Ok(State::Colon)
    }

    fn escape(&mut self, byte: u8, members: &mut Members) -> Result<State, ScanErrorKind> {
        let character = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return Ok(State::Hex(Hex::new(None))),
            _ => return Err(ScanErrorKind::Escape),
        };
        if self.role == Role::MemberName {
            members.push_name(&[character]);
        }
        Ok(State::Text)
    }

    fn hex(&mut self, mut hex: Hex, byte: u8, members: &mut Members) -> Result<State, ScanErrorKind> {
        let digit = char::from(byte).to_digit(16).ok_or(ScanErrorKind::Escape)?;
        hex.value = hex.value << 4 | digit as u16;
        hex.left -= 1;
        if hex.left > 0 {
            return Ok(State::Hex(hex));
        }
        let units = match hex.high {
            Some(high) => [high, hex.value],
            None if (0xD800..0xDC00).contains(&hex.value) => return Ok(State::PairBackslash(hex.value)),
            None => [hex.value, 0],
        };
        let units = &units[..1 + usize::from(hex.high.is_some())];
        let character = match char::decode_utf16(units.iter().copied()).next() {
            Some(Ok(character)) => character,
            _ => return Err(ScanErrorKind::LoneSurrogate),
        };
        if self.role == Role::MemberName {
            members.push_name(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(State::Text)
    }

    /// A name's opening quote.
    fn name(&mut self, offset: usize, members: &mut Members) -> State {
        self.role = Role::Name;
        if self.depth == 1 {
            self.role = Role::MemberName;
            members.begin(offset);
        }
        State::Text
    }

    /// A value's first byte.
    fn value(&mut self, byte: u8, offset: usize, members: &mut Members) -> Result<State, ScanErrorKind> {
        match self.depth {
            1 => members.value_starts(offset, byte),
            2 if self.in_array() => members.item_starts(offset),
            _ => {}
        }
        match byte {
            b'"' => {
                self.role = Role::Value;
                Ok(State::Text)
            }
            b'{' => self.open(false),
            b'[' => self.open(true),
            b'-' => Ok(State::Number(Number::Minus)),
            b'0' => Ok(State::Number(Number::LeadingZero)),
            b'1'..=b'9' => Ok(State::Number(Number::Integer)),
            b't' => Ok(State::Word(b"rue")),
            b'f' => Ok(State::Word(b"alse")),
            b'n' => Ok(State::Word(b"ull")),
            _ => Err(ScanErrorKind::Syntax),
        }
    }

    #[inline]
    fn value_ends(&mut self, end: usize, is_empty: bool, members: &mut Members) {
        match self.depth {
            1 => members.value_ends(end, is_empty),
            2 if self.in_array() => members.item_ends(end),
            _ => {}
        }
    }

    fn open(&mut self, array: bool) -> Result<State, ScanErrorKind> {
        if self.depth == MAX_DEPTH {
            return Err(ScanErrorKind::TooDeep);
        }
        self.depth += 1;
        self.arrays = self.arrays << 1 | u128::from(array);
        Ok(if array { State::ItemOrEnd } else { State::NameOrEnd })
    }

    fn close(
        &mut self,
        byte: u8,
        offset: usize,
        is_empty: bool,
        members: &mut Members,
    ) -> Result<State, ScanErrorKind> {
        if self.in_array() != (byte == b']') {
            return Err(ScanErrorKind::Syntax);
        }
        self.depth -= 1;
        self.arrays >>= 1;
        if self.depth == 0 {
            members.end(offset);
            return Ok(State::Done);
        }
        self.value_ends(offset + 1, is_empty, members);
        Ok(State::AfterValue)
    }

    fn in_array(&self) -> bool {
        self.arrays & 1 == 1
    }
}

// === impl Hex ===

impl Hex {
    fn new(high: Option<u16>) -> Self {
        Self {
            left: 4,
            value: 0,
            high,
        }
    }
}

// === impl Number ===

impl Number {
    /// Takes the next byte; `None` if the number has ended before it.
    fn next(self, byte: u8) -> Result<Option<Self>, ScanErrorKind> {
        let next = match (self, byte) {
            (Self::Minus, b'0') => Self::LeadingZero,
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::LeadingZero | Self::Integer, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::LeadingZero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::ExponentSign,
            (Self::E | Self::ExponentSign | Self::Exponent, b'0'..=b'9') => Self::Exponent,
            (Self::LeadingZero, b'0'..=b'9') => return Err(ScanErrorKind::Number),
            (Self::LeadingZero | Self::Integer | Self::Fraction | Self::Exponent, _) => return Ok(None),
            _ => return Err(ScanErrorKind::Number),
        };
        Ok(Some(next))
    }
}
