//! The grammar of [RFC 8259] as a machine that takes text in pieces of any size and tells [`Members`] what it passes.
//!
//! Its steps go byte by byte, so that a piece may end anywhere; only the runs inside strings are left to [`escaped_len`].
//! Most of a document never sees them: what is simple, [`Tokens`] takes whole.
//!
//! [RFC 8259]: https://www.rfc-editor.org/rfc/rfc8259

use super::members::Members;
use super::scan::ScanErrorKind;
use super::string::{escaped_len, plain_len};
use super::tokens::{Stop, Tokens};

/// As deep as `serde_json` goes. One bit of [`Machine::arrays`] each.
pub(super) const MAX_DEPTH: u8 = 127;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Machine {
    pub(super) state: State,
    role: Role,
    /// One bit per open container, the lowest for the innermost; set for an array.
    pub(super) arrays: u128,
    pub(super) depth: u8,
    /// Where the next byte is in the document.
    offset: usize,
    /// The escape at hand.
    hex: Hex,
    /// What is still to come of the word at hand.
    word: &'static [u8],
    /// Whether half of a surrogate pair may stand alone in a value.
    pub(super) halves: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
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
    Hex,
    /// The first half of a surrogate pair wants a `\`, then a `u`, then the second half.
    PairBackslash,
    PairU,
    Number(Number),
    /// Inside `true`, `false` or `null`.
    Word,
    Done,
}

/// The digits of a `\u` escape.
#[derive(Clone, Copy, Debug, Default)]
struct Hex {
    left: u8,
    value: u16,
    /// The first half, if this is the second of a surrogate pair.
    high: Option<u16>,
}

/// What has been read of a number last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Minus,
    LeadingZero,
    Integer,
    Point,
    Fraction,
    E,
    ExponentSign,
    Exponent,
}

/// The piece at hand, read from `at` on.
struct Input<'a> {
    text: &'a [u8],
    at: usize,
    /// Where `text` begins in the document.
    base: usize,
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
    pub(super) fn new(halves: bool) -> Self {
        Self {
            halves,
            ..Self::default()
        }
    }

    /// For the next document.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.halves);
    }

    /// Where the next byte is in the document; after an error, the byte that is to blame.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next characters of the document, all of them whole.
    pub(super) fn run(&mut self, text: &[u8], members: &mut Members) -> Result<(), ScanErrorKind> {
        let mut input = Input {
            text,
            at: 0,
            base: self.offset,
        };
        let outcome = loop {
            if let Err(kind) = self.tokens(&mut input, members) {
                break Err(kind);
            }
            let Some(byte) = input.peek() else { break Ok(()) };
            match self.step(self.state, byte, &mut input, members) {
                Ok(next) => self.state = next,
                Err(kind) => break Err(kind),
            }
        };
        self.offset = input.offset();
        outcome
    }

    /// Takes whole tokens, as far as that is simple.
    fn tokens(&mut self, input: &mut Input<'_>, members: &mut Members) -> Result<(), ScanErrorKind> {
        let end = input.base + input.text.len();
        let Some(mut tokens) = Tokens::of(self, input.rest(), end) else {
            return Ok(());
        };
        let stop = tokens.take(members);
        self.state = tokens.state();
        self.depth = tokens.depth;
        self.arrays = tokens.arrays;
        input.at = input.text.len() - tokens.rest.len();
        match stop {
            Stop::Unsure => Ok(()),
            Stop::Refused(kind) => Err(kind),
        }
    }

    /// Takes at least the next byte, `byte`, unless it refuses it, or a number ends before it or a word begins.
    fn step(
        &mut self,
        state: State,
        byte: u8,
        input: &mut Input<'_>,
        members: &mut Members,
    ) -> Result<State, ScanErrorKind> {
        match state {
            State::Text => self.text(input, members),
            State::Number(number) => self.number(number, input, members),
            State::Escape => self.escape(byte, input, members),
            State::Hex => self.hex(byte, input, members),
            State::PairBackslash if byte == b'\\' => Ok(input.pass(State::PairU)),
            State::PairU if byte == b'u' => Ok(input.pass(State::Hex)),
            State::PairBackslash | State::PairU => Err(ScanErrorKind::LoneSurrogate),
            State::Word => self.word(byte, input, members),
            _ if is_space(byte) => Ok(input.pass(state)),
            State::Name | State::NameOrEnd if byte == b'"' => self.name(input, members),
            State::AfterValue if byte == b',' => {
                Ok(input.pass(if self.in_array() { State::Value } else { State::Name }))
            }
            State::AfterValue if byte == b']' || byte == b'}' => self.close(byte, false, input, members),
            State::ItemOrEnd if byte == b']' => self.close(byte, true, input, members),
            State::Value | State::ItemOrEnd => self.value(byte, input, members),
            State::NameOrEnd if byte == b'}' => self.close(byte, true, input, members),
            State::Colon if byte == b':' => Ok(input.pass(State::Value)),
            State::Start if byte == b'{' => self.open(false, input),
            State::Start => Err(ScanErrorKind::NotAnObject),
            State::Done => Err(ScanErrorKind::TrailingBytes),
            State::Name | State::NameOrEnd | State::Colon | State::AfterValue => Err(ScanErrorKind::Syntax),
        }
    }

    /// Reads on inside a string.
    fn text(&mut self, input: &mut Input<'_>, members: &mut Members) -> Result<State, ScanErrorKind> {
        let rest = input.rest();
        let length = if self.role == Role::MemberName {
            let plain = plain_len(rest);
            members.push_name(&rest[..plain]);
            plain
        } else {
            escaped_len(rest, self.halves)
        };
        input.at += length;
        match rest.get(length) {
            Some(b'"') => {
                input.at += 1;
                self.text_ends(input, members)
            }
            Some(b'\\') => Ok(input.pass(State::Escape)),
            Some(_) => Err(ScanErrorKind::ControlCharacter),
            None => Ok(State::Text),
        }
    }

    fn text_ends(&mut self, input: &mut Input<'_>, members: &mut Members) -> Result<State, ScanErrorKind> {
        match self.role {
            Role::Value => return Ok(self.value_ends(input, false, members)),
            Role::Name => {}
            Role::MemberName => members.end_name()?,
        }
        Ok(State::Colon)
    }

    fn escape(&mut self, byte: u8, input: &mut Input<'_>, members: &mut Members) -> Result<State, ScanErrorKind> {
        let character = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.hex = Hex::new(None);
                return Ok(input.pass(State::Hex));
            }
            _ => return Err(ScanErrorKind::Escape),
        };
        if self.role == Role::MemberName {
            members.push_name(&[character]);
        }
        Ok(input.pass(State::Text))
    }

    fn hex(&mut self, byte: u8, input: &mut Input<'_>, members: &mut Members) -> Result<State, ScanErrorKind> {
        let digit = char::from(byte).to_digit(16).ok_or(ScanErrorKind::Escape)?;
        let hex = &mut self.hex;
        hex.value = hex.value << 4 | digit as u16;
        hex.left -= 1;
        if hex.left > 0 {
            return Ok(input.pass(State::Hex));
        }
        if self.halves && self.role != Role::MemberName {
            return Ok(input.pass(State::Text));
        }
        let units = [hex.high.unwrap_or(hex.value), hex.value];
        let count = 1 + usize::from(hex.high.is_some());
        match char::decode_utf16(units.into_iter().take(count)).next() {
            Some(Ok(character)) if self.role == Role::MemberName => {
                members.push_name(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Some(Ok(_)) => {}
            _ if hex.high.is_none() && (0xD800..0xDC00).contains(&hex.value) => {
                *hex = Hex::new(Some(hex.value));
                return Ok(input.pass(State::PairBackslash));
            }
            _ => return Err(ScanErrorKind::LoneSurrogate),
        }
        Ok(input.pass(State::Text))
    }

    /// Reads on inside a number.
    fn number(
        &mut self,
        mut number: Number,
        input: &mut Input<'_>,
        members: &mut Members,
    ) -> Result<State, ScanErrorKind> {
        while let Some(byte) = input.peek() {
            match number.next(byte)? {
                Some(next) => number = next,
                None => return Ok(self.value_ends(input, false, members)),
            }
            input.at += 1;
        }
        Ok(State::Number(number))
    }

    /// Reads on inside `true`, `false` or `null`.
    fn word(&mut self, byte: u8, input: &mut Input<'_>, members: &mut Members) -> Result<State, ScanErrorKind> {
        match self.word.split_first() {
            Some((&expected, rest)) if expected == byte => self.word = rest,
            _ => return Err(ScanErrorKind::Syntax),
        }
        input.at += 1;
        Ok(if self.word.is_empty() {
            self.value_ends(input, false, members)
        } else {
            State::Word
        })
    }

    /// Takes a name from its opening quote on.
    fn name(&mut self, input: &mut Input<'_>, members: &mut Members) -> Result<State, ScanErrorKind> {
        self.role = Role::Name;
        if self.depth == 1 {
            self.role = Role::MemberName;
            members.begin(input.offset());
        }
        input.at += 1;
        self.text(input, members)
    }

    /// Takes a value from its first byte on.
    fn value(&mut self, byte: u8, input: &mut Input<'_>, members: &mut Members) -> Result<State, ScanErrorKind> {
        match self.depth {
            1 => members.value_starts(input.offset(), byte),
            2 => members.item_starts(input.offset()),
            _ => {}
        }
        let number = match byte {
            b'"' => {
                self.role = Role::Value;
                input.at += 1;
                return self.text(input, members);
            }
            b'{' => return self.open(false, input),
            b'[' => return self.open(true, input),
            b't' => return Ok(self.starts_word(b"true")),
            b'f' => return Ok(self.starts_word(b"false")),
            b'n' => return Ok(self.starts_word(b"null")),
            b'-' => Number::Minus,
            b'0' => Number::LeadingZero,
            b'1'..=b'9' => Number::Integer,
            _ => return Err(ScanErrorKind::Syntax),
        };
        input.at += 1;
        self.number(number, input, members)
    }

    fn starts_word(&mut self, word: &'static [u8]) -> State {
        self.word = word;
        State::Word
    }

    /// What comes after the value that ends here.
    fn value_ends(&mut self, input: &mut Input<'_>, is_empty: bool, members: &mut Members) -> State {
        match self.depth {
            1 => members.value_ends(input.offset(), is_empty),
            2 => members.item_ends(input.offset()),
            _ => {}
        }
        State::AfterValue
    }

    fn open(&mut self, array: bool, input: &mut Input<'_>) -> Result<State, ScanErrorKind> {
        if self.depth == MAX_DEPTH {
            return Err(ScanErrorKind::TooDeep);
        }
        self.depth += 1;
        self.arrays = self.arrays << 1 | u128::from(array);
        Ok(input.pass(if array { State::ItemOrEnd } else { State::NameOrEnd }))
    }

    fn close(
        &mut self,
        byte: u8,
        is_empty: bool,
        input: &mut Input<'_>,
        members: &mut Members,
    ) -> Result<State, ScanErrorKind> {
        if self.in_array() != (byte == b']') {
            return Err(ScanErrorKind::Syntax);
        }
        self.depth -= 1;
        self.arrays >>= 1;
        if self.depth == 0 {
            members.end(input.offset());
            return Ok(input.pass(State::Done));
        }
        input.at += 1;
        Ok(self.value_ends(input, is_empty, members))
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
    /// What the next byte makes of the number; `None` if it has ended before.
    fn next(self, byte: u8) -> Result<Option<Self>, ScanErrorKind> {
        let next = match (self, byte) {
            (Self::Integer | Self::Fraction | Self::Exponent, b'0'..=b'9') => self,
            (Self::Minus, b'0') => Self::LeadingZero,
            (Self::Minus, b'1'..=b'9') => Self::Integer,
            (Self::LeadingZero | Self::Integer, b'.') => Self::Point,
            (Self::Point, b'0'..=b'9') => Self::Fraction,
            (Self::LeadingZero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::ExponentSign,
            (Self::E | Self::ExponentSign, b'0'..=b'9') => Self::Exponent,
            (Self::LeadingZero, b'0'..=b'9') | (Self::Minus | Self::Point | Self::E | Self::ExponentSign, _) => {
                return Err(ScanErrorKind::Number);
            }
            (Self::LeadingZero | Self::Integer | Self::Fraction | Self::Exponent, _) => return Ok(None),
        };
        Ok(Some(next))
    }
}

// === impl Input ===

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn offset(&self) -> usize {
        self.base + self.at
    }

    /// Takes a byte, to go on with `state`.
    fn pass(&mut self, state: State) -> State {
        self.at += 1;
        state
    }
}

pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}
