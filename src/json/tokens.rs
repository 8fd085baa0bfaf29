//! The quick way through text that is there in one piece: whole tokens, with all that is to be remembered in registers.
//!
//! It takes only what it is sure of. Whatever is rare, wrong, or cut off by the end of the piece is left, from its first
//! byte on, to the steps of the [`Machine`], so there is one judge.

use super::machine::{MAX_DEPTH, Machine, State, is_space};
use super::members::Members;
use super::scan::ScanErrorKind;
use super::string::{escaped_len, plain_len, text_len};

/// The way from one token to the next.
pub(super) struct Tokens<'a> {
    /// What is still to be taken.
    pub(super) rest: &'a [u8],
    /// Where `rest` ends in the document.
    end: usize,
    pub(super) depth: u8,
    // As in the machine, both.
    pub(super) arrays: u128,
    halves: bool,
    next: Next,
    /// Nothing has come yet in the container at hand.
    is_empty: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Name,
    Colon,
    Value,
    /// A comma, or the container's end.
    Separator,
}

/// Why the quick way ends.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    Unsure,
    Refused(ScanErrorKind),
}

// === impl Tokens ===

impl<'a> Tokens<'a> {
    /// What `machine` goes on with, if it is `rest` up to `end`; `None` in the midst of a token, and where no value can be.
    #[inline]
    pub(super) fn of(machine: &Machine, rest: &'a [u8], end: usize) -> Option<Self> {
        let (next, is_empty) = match machine.state {
            State::Name => (Next::Name, false),
            State::NameOrEnd => (Next::Name, true),
            State::Colon => (Next::Colon, false),
            State::Value => (Next::Value, false),
            State::ItemOrEnd => (Next::Value, true),
            State::AfterValue => (Next::Separator, false),
            _ => return None,
        };
        Some(Self {
            rest,
            end,
            depth: machine.depth,
            arrays: machine.arrays,
            halves: machine.halves,
            next,
            is_empty,
        })
    }

    /// Where the machine goes on.
    pub(super) fn state(&self) -> State {
        match self.next {
            Next::Name if self.is_empty => State::NameOrEnd,
            Next::Name => State::Name,
            Next::Colon => State::Colon,
            Next::Value if self.is_empty => State::ItemOrEnd,
            Next::Value => State::Value,
            Next::Separator => State::AfterValue,
        }
    }

    /// Takes as many tokens as it can.
    #[inline]
    pub(super) fn take(&mut self, members: &mut Members) -> Stop {
        loop {
            if let Err(stop) = self.element(members) {
                return stop;
            }
        }
    }

    /// Takes what comes next, in the order in which it nearly always comes.
    #[inline]
    fn element(&mut self, members: &mut Members) -> Result<(), Stop> {
        if self.next == Next::Name {
            self.name(members)?;
        }
        if self.next == Next::Colon {
            self.colon()?;
        }
        if self.next == Next::Value {
            self.value(members)?;
        }
        if self.next == Next::Separator {
            self.separator(members)?;
        }
        Ok(())
    }

    #[inline]
    fn name(&mut self, members: &mut Members) -> Result<(), Stop> {
        match self.peek() {
            Some(b'"') => {}
            Some(b'}') if self.is_empty => return self.close(members),
            _ => return Err(Stop::Unsure),
        }
        let is_member = self.depth == 1;
        let text = &self.rest[1..];
        let length = if is_member { plain_len(text) } else { text_len(text) };
        let (name, [b'"', rest @ ..]) = text.split_at(length) else {
            return Err(Stop::Unsure);
        };
        if is_member {
            members.begin(self.offset());
            members.push_name(name);
            members.end_name().map_err(Stop::Refused)?;
        }
        self.rest = rest;
        self.is_empty = false;
        self.next = Next::Colon;
        Ok(())
    }

    #[inline]
    fn colon(&mut self) -> Result<(), Stop> {
        if self.peek() != Some(b':') {
            return Err(Stop::Unsure);
        }
        self.rest = &self.rest[1..];
        self.next = Next::Value;
        Ok(())
    }

    #[inline]
    fn value(&mut self, members: &mut Members) -> Result<(), Stop> {
        let byte = self.peek().ok_or(Stop::Unsure)?;
        let rest = match byte {
            b'"' => {
                let text = &self.rest[1..];
                let (_, [b'"', rest @ ..]) = text.split_at(escaped_len(text, self.halves)) else {
                    return Err(Stop::Unsure);
                };
                rest
            }
            b'{' | b'[' => return self.open(byte, members),
            b']' if self.is_empty => return self.close(members),
            b'-' | b'0'..=b'9' => after_number(self.rest).ok_or(Stop::Unsure)?,
            b't' => self.rest.strip_prefix(b"true").ok_or(Stop::Unsure)?,
            b'f' => self.rest.strip_prefix(b"false").ok_or(Stop::Unsure)?,
            b'n' => self.rest.strip_prefix(b"null").ok_or(Stop::Unsure)?,
            _ => return Err(Stop::Unsure),
        };
        self.value_starts(byte, members);
        self.rest = rest;
        self.value_ends(false, members);
        Ok(())
    }

    #[inline]
    fn separator(&mut self, members: &mut Members) -> Result<(), Stop> {
        match self.peek() {
            Some(b',') => {
                self.rest = &self.rest[1..];
                self.next = if self.in_array() { Next::Value } else { Next::Name };
                Ok(())
            }
            Some(b']') if self.in_array() => self.close(members),
            Some(b'}') if !self.in_array() => self.close(members),
            _ => Err(Stop::Unsure),
        }
    }

    #[inline]
    fn open(&mut self, byte: u8, members: &mut Members) -> Result<(), Stop> {
        if self.depth == MAX_DEPTH {
            return Err(Stop::Unsure);
        }
        self.value_starts(byte, members);
        let is_array = byte == b'[';
        self.depth += 1;
        self.arrays = self.arrays << 1 | u128::from(is_array);
        self.rest = &self.rest[1..];
        self.is_empty = true;
        self.next = if is_array { Next::Value } else { Next::Name };
        Ok(())
    }

    /// Takes the end of the container, which is there and of the right kind.
    #[inline]
    fn close(&mut self, members: &mut Members) -> Result<(), Stop> {
        // The end of the document is not the end of a value.
        if self.depth == 1 {
            return Err(Stop::Unsure);
        }
        self.depth -= 1;
        self.arrays >>= 1;
        self.rest = &self.rest[1..];
        self.value_ends(self.is_empty, members);
        Ok(())
    }

    #[inline]
    fn value_starts(&self, byte: u8, members: &mut Members) {
        match self.depth {
            1 => members.value_starts(self.offset(), byte),
            2 => members.item_starts(self.offset()),
            _ => {}
        }
    }

    #[inline]
    fn value_ends(&mut self, is_empty: bool, members: &mut Members) {
        match self.depth {
            1 => members.value_ends(self.offset(), is_empty),
            2 => members.item_ends(self.offset()),
            _ => {}
        }
        self.is_empty = false;
        self.next = Next::Separator;
    }

    #[inline]
    fn in_array(&self) -> bool {
        self.arrays & 1 == 1
    }

    /// Where the next byte is in the document.
    #[inline]
    fn offset(&self) -> usize {
        self.end - self.rest.len()
    }

    /// The next byte that is not white space.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        let byte = *self.rest.first()?;
        if byte > b' ' {
            return Some(byte);
        }
        self.rest = after_space(self.rest);
        self.rest.first().copied()
    }
}

/// Not inlined: most documents have little of it, and every place that looks for it would grow.
#[inline(never)]
fn after_space(text: &[u8]) -> &[u8] {
    let count = text.iter().take_while(|&&byte| is_space(byte)).count();
    &text[count..]
}

/// What follows a number; `None` if it ends the text, has an exponent, or is none.
#[inline]
fn after_number(text: &[u8]) -> Option<&[u8]> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let mut rest = after_digits(digits)?;
    if digits.len() - rest.len() > 1 && digits.first() == Some(&b'0') {
        return None;
    }
    if let [b'.', fraction @ ..] = rest {
        rest = after_digits(fraction)?;
    }
    (!matches!(rest.first(), Some(b'e' | b'E'))).then_some(rest)
}

/// What follows at least one digit.
#[inline]
fn after_digits(text: &[u8]) -> Option<&[u8]> {
    let count = text.iter().position(|byte| !byte.is_ascii_digit())?;
    (count > 0).then(|| &text[count..])
}
