//! The grammar of [RFC 8259], over text that arrives in pieces.
//!
//! [`Grammar`] is the state between two pieces. While it reads a piece, [`Tokens`] holds a copy of it in local variables,
//! together with the text that is left. A piece may end anywhere in white space, in a string, and in a number. A word or
//! an escape must be whole: the caller keeps what was not taken of it and puts it in front of the next piece.
//!
//! [RFC 8259]: https://www.rfc-editor.org/rfc/rfc8259

use super::error::ScanErrorKind;
use super::members::Members;
use super::string::{EscapeError, escape_len, escaped_len};

/// As deep as `serde_json` goes. One bit of [`Grammar::arrays`] each.
const MAX_DEPTH: u8 = 127;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Grammar {
    expected: Expected,
    /// Nothing of the current container's content has come yet.
    is_empty: bool,
    /// One bit per open container, the lowest for the innermost; set for an array.
    arrays: u128,
    depth: u8,
    /// Whether half of a surrogate pair may stand alone in a value.
    allow_lone_surrogates: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expected {
    /// The document's opening brace.
    #[default]
    Start,
    /// A name, or the end of an empty object.
    Name,
    Colon,
    /// A value, or the end of an empty array.
    Value,
    /// A comma, or the container's end.
    Separator,
    /// More of a string.
    Text(Role),
    /// More of a number, or what follows it.
    Number(Number),
    /// The document's end.
    End,
}

/// The role of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Value,
    Name,
    /// The name of a top-level member.
    MemberName,
}

/// The part of a number that was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Start,
    Minus,
    LeadingZero,
    Integer,
    Point,
    Fraction,
    E,
    ExponentSign,
    Exponent,
}

/// The text of one piece, token by token.
struct Tokens<'a> {
    state: Grammar,
    /// The text that is not read yet.
    rest: &'a [u8],
    /// Where `rest` ends in the document.
    end: usize,
}

/// Why reading a piece ends.
enum Stop {
    /// The next token is not there, or not as a whole.
    Cut,
    Refused(ScanErrorKind),
}

// === impl Grammar ===

impl Grammar {
    pub(super) fn new(allow_lone_surrogates: bool) -> Self {
        Self {
            allow_lone_surrogates,
            ..Self::default()
        }
    }

    /// For the next document.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.allow_lone_surrogates);
    }

    /// Whether the object has ended.
    pub(super) fn is_done(&self) -> bool {
        self.expected == Expected::End
    }

    /// Reads the next piece of the document, which begins at `offset`, and tells `members` what it finds. Returns how many
    /// bytes it took, and why it refuses the one after them, if it does. Unless refused, the bytes that are left begin a
    /// word or an escape; fewer than [`super::string::MAX_ESCAPE`].
    pub(super) fn read(
        &mut self,
        text: &[u8],
        offset: usize,
        members: &mut Members,
    ) -> (usize, Result<(), ScanErrorKind>) {
        let mut tokens = Tokens {
            state: *self,
            rest: text,
            end: offset + text.len(),
        };
        let stopped = tokens.read(members);
        *self = tokens.state;
        let refused = match stopped {
            Ok(()) | Err(Stop::Cut) => Ok(()),
            Err(Stop::Refused(kind)) => Err(kind),
        };
        (text.len() - tokens.rest.len(), refused)
    }
}

// === impl Tokens ===

impl Tokens<'_> {
    /// Reads token after token. The order of the checks is the order in which most documents have the tokens. The functions
    /// are small and called from few places, so that all are inlined and the state stays in registers.
    #[inline]
    fn read(&mut self, members: &mut Members) -> Result<(), Stop> {
        loop {
            if self.state.expected == Expected::Name {
                self.name(members)?;
            }
            if self.state.expected == Expected::Value {
                self.value(members)?;
            }
            if let Expected::Text(role) = self.state.expected {
                self.text(role, members)?;
            }
            if let Expected::Number(number) = self.state.expected {
                self.number(number, members)?;
            }
            if self.state.expected == Expected::Colon {
                self.colon()?;
            }
            if self.state.expected == Expected::Separator {
                self.separator(members)?;
            }
            if self.state.expected == Expected::Start {
                self.start(members)?;
            }
            if self.state.expected == Expected::End {
                self.end()?;
            }
        }
    }

    #[inline]
    fn start(&mut self, members: &mut Members) -> Result<(), Stop> {
        match self.peek()? {
            b'{' => self.open(b'{', members),
            _ => Err(Stop::Refused(ScanErrorKind::NotAnObject)),
        }
    }

    #[inline]
    fn end(&mut self) -> Result<(), Stop> {
        self.peek()?;
        Err(Stop::Refused(ScanErrorKind::TrailingBytes))
    }

    #[inline]
    fn name(&mut self, members: &mut Members) -> Result<(), Stop> {
        match self.peek()? {
            b'"' => {}
            b'}' if self.state.is_empty => return self.close(members),
            _ => return Err(Stop::Refused(ScanErrorKind::Syntax)),
        }
        let role = if self.state.depth > 1 {
            Role::Name
        } else if members.begin_name() {
            Role::MemberName
        } else {
            return Err(Stop::Refused(ScanErrorKind::TooManyMembers));
        };
        self.rest = &self.rest[1..];
        self.state.is_empty = false;
        self.state.expected = Expected::Text(role);
        Ok(())
    }

    #[inline]
    fn colon(&mut self) -> Result<(), Stop> {
        if self.peek()? != b':' {
            return Err(Stop::Refused(ScanErrorKind::Syntax));
        }
        self.rest = &self.rest[1..];
        self.state.expected = Expected::Value;
        Ok(())
    }

    #[inline]
    fn value(&mut self, members: &mut Members) -> Result<(), Stop> {
        let byte = self.peek()?;
        match byte {
            b'"' => {
                self.begin_value(byte, members);
                self.rest = &self.rest[1..];
                self.state.expected = Expected::Text(Role::Value);
                Ok(())
            }
            b'{' | b'[' => self.open(byte, members),
            b'-' | b'0'..=b'9' => {
                self.begin_value(byte, members);
                self.state.expected = Expected::Number(Number::Start);
                Ok(())
            }
            b't' => self.word(b"true", members),
            b'f' => self.word(b"false", members),
            b'n' => self.word(b"null", members),
            b']' if self.state.is_empty => self.close(members),
            _ => Err(Stop::Refused(ScanErrorKind::Syntax)),
        }
    }

    #[inline]
    fn separator(&mut self, members: &mut Members) -> Result<(), Stop> {
        match self.peek()? {
            b',' => {
                self.rest = &self.rest[1..];
                self.state.expected = if self.in_array() {
                    Expected::Value
                } else {
                    Expected::Name
                };
                Ok(())
            }
            b']' if self.in_array() => self.close(members),
            b'}' if !self.in_array() => self.close(members),
            _ => Err(Stop::Refused(ScanErrorKind::Syntax)),
        }
    }

    /// Reads on inside a string.
    #[inline]
    fn text(&mut self, role: Role, members: &mut Members) -> Result<(), Stop> {
        let allow_lone_surrogates = self.state.allow_lone_surrogates && role != Role::MemberName;
        let (text, rest) = self.rest.split_at(escaped_len(self.rest, allow_lone_surrogates));
        if role == Role::MemberName && !members.push_name(text) {
            return Err(Stop::Refused(ScanErrorKind::LongNames));
        }
        self.rest = rest;
        let [b'"', rest @ ..] = rest else {
            return Err(stop_in_text(rest, allow_lone_surrogates));
        };
        self.rest = rest;
        match role {
            Role::Value => {
                self.end_value(false, members);
                return Ok(());
            }
            Role::Name => {}
            Role::MemberName => members.end_name(),
        }
        self.state.expected = Expected::Colon;
        Ok(())
    }

    /// Reads on inside a number.
    #[inline]
    fn number(&mut self, mut number: Number, members: &mut Members) -> Result<(), Stop> {
        loop {
            if matches!(number, Number::Integer | Number::Fraction | Number::Exponent) {
                self.rest = skip_digits(self.rest);
            }
            let Some((&byte, rest)) = self.rest.split_first() else {
                self.state.expected = Expected::Number(number);
                return Err(Stop::Cut);
            };
            match number.next(byte) {
                Ok(Some(next)) => number = next,
                Ok(None) => {
                    self.end_value(false, members);
                    return Ok(());
                }
                Err(kind) => return Err(Stop::Refused(kind)),
            }
            self.rest = rest;
        }
    }

    #[inline]
    fn word(&mut self, word: &[u8], members: &mut Members) -> Result<(), Stop> {
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.begin_value(word[0], members);
                self.rest = rest;
                self.end_value(false, members);
                Ok(())
            }
            None if word.starts_with(self.rest) => Err(Stop::Cut),
            None => Err(Stop::Refused(ScanErrorKind::Syntax)),
        }
    }

    #[inline]
    fn open(&mut self, byte: u8, members: &mut Members) -> Result<(), Stop> {
        if self.state.depth == MAX_DEPTH {
            return Err(Stop::Refused(ScanErrorKind::TooDeep));
        }
        self.begin_value(byte, members);
        let is_array = byte == b'[';
        self.state.depth += 1;
        self.state.arrays = self.state.arrays << 1 | u128::from(is_array);
        self.state.is_empty = true;
        self.state.expected = if is_array { Expected::Value } else { Expected::Name };
        self.rest = &self.rest[1..];
        Ok(())
    }

    /// Reads the end of the current container; the caller has checked that it is of the right kind.
    #[inline]
    fn close(&mut self, members: &mut Members) -> Result<(), Stop> {
        if self.state.depth == 1 {
            members.end_object(self.offset());
            self.state.expected = Expected::End;
            self.rest = &self.rest[1..];
            return Ok(());
        }
        self.state.depth -= 1;
        self.state.arrays >>= 1;
        self.rest = &self.rest[1..];
        self.end_value(self.state.is_empty, members);
        Ok(())
    }

    #[inline]
    fn begin_value(&self, byte: u8, members: &mut Members) {
        match self.state.depth {
            1 => members.begin_value(self.offset(), byte),
            2 => members.begin_item(self.offset()),
            _ => {}
        }
    }

    #[inline]
    fn end_value(&mut self, is_empty: bool, members: &mut Members) {
        match self.state.depth {
            1 => members.end_value(self.offset(), is_empty),
            2 => members.end_item(self.offset()),
            _ => {}
        }
        self.state.is_empty = false;
        self.state.expected = Expected::Separator;
    }

    #[inline]
    fn in_array(&self) -> bool {
        self.state.arrays & 1 == 1
    }

    /// Where the next byte is in the document.
    #[inline]
    fn offset(&self) -> usize {
        self.end - self.rest.len()
    }

    /// The next byte that is not white space.
    #[inline]
    fn peek(&mut self) -> Result<u8, Stop> {
        match self.rest.first() {
            Some(&byte) if byte > b' ' => Ok(byte),
            _ => {
                self.rest = skip_space(self.rest);
                self.rest.first().copied().ok_or(Stop::Cut)
            }
        }
    }
}

/// Why a string does not go on with `rest`.
#[cold]
fn stop_in_text(rest: &[u8], allow_lone_surrogates: bool) -> Stop {
    if rest.first().is_some_and(|&byte| byte != b'\\') {
        return Stop::Refused(ScanErrorKind::ControlCharacter);
    }
    match escape_len(rest, allow_lone_surrogates) {
        Err(EscapeError::Cut) => Stop::Cut,
        Err(EscapeError::LoneSurrogate) => Stop::Refused(ScanErrorKind::LoneSurrogate),
        Err(EscapeError::Unknown) | Ok(_) => Stop::Refused(ScanErrorKind::Escape),
    }
}

/// Not inlined: most documents have little white space, and every place that looks for it would grow.
#[inline(never)]
fn skip_space(text: &[u8]) -> &[u8] {
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    &text[text.iter().take_while(is_space).count()..]
}

#[inline]
fn skip_digits(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|byte| byte.is_ascii_digit()).count()..]
}

// === impl Number ===

impl Number {
    /// The state after the next byte; `None` if the number has ended before it.
    #[inline]
    fn next(self, byte: u8) -> Result<Option<Self>, ScanErrorKind> {
        let next = match (self, byte) {
            (Self::Integer | Self::Fraction | Self::Exponent, b'0'..=b'9') => self,
            (Self::Start, b'-') => Self::Minus,
            (Self::Start | Self::Minus, b'0') => Self::LeadingZero,
            (Self::Start | Self::Minus, b'1'..=b'9') => Self::Integer,
            (Self::LeadingZero | Self::Integer, b'.') => Self::Point,
            (Self::Point, b'0'..=b'9') => Self::Fraction,
            (Self::LeadingZero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::ExponentSign,
            (Self::E | Self::ExponentSign, b'0'..=b'9') => Self::Exponent,
            (Self::Integer | Self::Fraction | Self::Exponent, _) => return Ok(None),
            (Self::LeadingZero, byte) if !byte.is_ascii_digit() => return Ok(None),
            _ => return Err(ScanErrorKind::Number),
        };
        Ok(Some(next))
    }
}
