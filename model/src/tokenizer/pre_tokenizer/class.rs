//! What a pre-tokenizer wants to know of a character.
//!
//! The published patterns speak of Unicode general categories (`\p{L}`, `\p{N}`, `\p{Lu}` ...) and of white space. The
//! standard library's `is_alphabetic` and `is_numeric` are other sets (derived properties), so the categories come from
//! their own table; ASCII, most of all text, is answered by an array made at compile time.

use unicode_general_category::{GeneralCategory, get_general_category};

/// A set of character classes, as bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Class(u16);

impl Class {
    /// `\p{Lu}` and `\p{Lt}`.
    pub(super) const UPPER: Class = Class(1);
    /// `\p{Ll}`.
    pub(super) const LOWER: Class = Class(2);
    /// `\p{Lm}` and `\p{Lo}`: letters without case.
    pub(super) const CASELESS: Class = Class(4);
    /// `\p{M}`.
    pub(super) const MARK: Class = Class(8);
    /// `\p{N}`.
    pub(super) const NUMBER: Class = Class(16);
    /// `\p{P}`.
    pub(super) const PUNCTUATION: Class = Class(32);
    /// `\s`: Unicode white space.
    pub(super) const SPACE: Class = Class(64);
    /// Symbols, controls, private use, unassigned.
    const REST: Class = Class(128);
    /// `\p{L}`.
    pub(super) const LETTER: Class = Class::UPPER.or(Class::LOWER).or(Class::CASELESS);

    /// The union of both.
    pub(super) const fn or(self, other: Class) -> Class {
        Class(self.0 | other.0)
    }

    /// Whether both have a class in common.
    pub(super) const fn meets(self, other: Class) -> bool {
        self.0 & other.0 != 0
    }

    const fn of_ascii(byte: u8) -> Class {
        match byte {
            b'A'..=b'Z' => Class::UPPER,
            b'a'..=b'z' => Class::LOWER,
            b'0'..=b'9' => Class::NUMBER,
            b' ' | b'\t'..=b'\r' => Class::SPACE,
            b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => Class::REST,
            b'!'..=b'/' | b':'..=b'@' | b'['..=b'`' | b'{'..=b'~' => Class::PUNCTUATION,
            _ => Class::REST,
        }
    }

    fn of_other(c: char) -> Class {
        use GeneralCategory as G;
        if c.is_whitespace() {
            return Class::SPACE;
        }
        match get_general_category(c) {
            G::UppercaseLetter | G::TitlecaseLetter => Class::UPPER,
            G::LowercaseLetter => Class::LOWER,
            G::ModifierLetter | G::OtherLetter => Class::CASELESS,
            G::NonspacingMark | G::SpacingMark | G::EnclosingMark => Class::MARK,
            G::DecimalNumber | G::LetterNumber | G::OtherNumber => Class::NUMBER,
            G::ConnectorPunctuation
            | G::DashPunctuation
            | G::OpenPunctuation
            | G::ClosePunctuation
            | G::InitialPunctuation
            | G::FinalPunctuation
            | G::OtherPunctuation => Class::PUNCTUATION,
            _ => Class::REST,
        }
    }
}

static ASCII: [Class; 128] = {
    let mut table = [Class::REST; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = Class::of_ascii(byte as u8);
        byte += 1;
    }
    table
};

/// One character of a text: what it is, and the byte offset just after it.
#[derive(Clone, Copy)]
pub(super) struct Char {
    pub(super) c: char,
    pub(super) class: Class,
    pub(super) end: usize,
}

impl Char {
    /// Whether it is of one of the classes.
    pub(super) fn is(self, class: Class) -> bool {
        self.class.meets(class)
    }

    /// Whether it is a carriage return or a line feed.
    pub(super) fn breaks_line(self) -> bool {
        matches!(self.c, '\r' | '\n')
    }
}

/// The character that starts at byte `pos`, if there is one.
pub(super) fn char_at(text: &str, pos: usize) -> Option<Char> {
    let byte = *text.as_bytes().get(pos)?;
    if let Some(&class) = ASCII.get(usize::from(byte)) {
        return Some(Char { c: char::from(byte), class, end: pos + 1 });
    }
    let c = text.get(pos..)?.chars().next()?;
    Some(Char { c, class: Class::of_other(c), end: pos + c.len_utf8() })
}

/// The end of the longest run of at most `max` characters from `pos` on that are all `member`s.
pub(super) fn run(text: &str, pos: usize, max: usize, member: impl Fn(Char) -> bool) -> usize {
    let mut end = pos;
    for _ in 0..max {
        match char_at(text, end) {
            Some(next) if member(next) => end = next.end,
            _ => break,
        }
    }
    end
}
