//! The word patterns of GPT-2 and everything that came after it, as one scanner with settings.
//!
//! All of them are an alternation in the same order, of which each family varies the parts:
//!
//! ```text
//! contraction | word | number | other | line breaks | \s+(?!\S) | \s+
//! ```
//!
//! A regular-expression engine tries the alternatives at each position and may backtrack inside each. Written out, none
//! needs more than one character of look-back, so every character is looked at a bounded number of times: a megabyte of
//! one letter costs what a megabyte of prose costs. `tests/tokenizer.rs` runs each family against the published pattern.

use super::class::{Char, Class, char_at, run};

/// Letters and marks that may stand in the upper-case part of a cased word.
const UPPER_PART: Class = Class::UPPER.or(Class::CASELESS).or(Class::MARK);
/// Letters and marks that may stand in the lower-case part of a cased word.
const LOWER_PART: Class = Class::LOWER.or(Class::CASELESS).or(Class::MARK);

/// Where `'s 't 're 've 'm 'll 'd` are recognised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Contraction {
    /// Nowhere.
    None,
    /// As a piece of its own, in lower case only.
    LowerCase,
    /// As a piece of its own, in any case.
    AnyCase,
    /// At the end of a word, as a part of it, in any case.
    Suffix,
}

/// What a word is made of.
#[derive(Clone, Copy)]
pub(super) enum Word {
    /// Characters of these classes, with at most one space before them.
    AfterSpace(Class),
    /// Characters of these classes, with at most one character before them that is no letter, number or line break.
    AfterAny(Class),
    /// As `AfterAny`, and upper case before lower case: `camelCase` is two words.
    Cased,
}

/// What a number is made of.
#[derive(Clone, Copy)]
pub(super) enum Number {
    /// Any count of numerals, with at most one space before them.
    AfterSpace,
    /// At most so many numerals.
    Grouped(usize),
}

/// One family of word patterns.
pub(super) struct WordRules {
    pub(super) contraction: Contraction,
    pub(super) word: Word,
    pub(super) number: Number,
    /// What a run of "other" characters (punctuation, symbols) cannot hold.
    pub(super) not_other: Class,
    /// Characters that a run of others takes along at its end.
    pub(super) after_other: &'static [char],
    /// Whether white space up to its last line break is a piece: `\s*[\r\n]+`.
    pub(super) line_breaks: bool,
}

impl WordRules {
    /// Cuts the whole text.
    pub(super) fn split<'t>(&self, text: &'t str, pieces: &mut Vec<&'t str>) {
        let mut start = 0;
        while let Some(first) = char_at(text, start) {
            let end = self.piece_end(text, start, first);
            pieces.extend(text.get(start..end));
            start = end;
        }
    }

    fn piece_end(&self, text: &str, start: usize, first: Char) -> usize {
        self.contraction_end(text, start)
            .or_else(|| self.word_end(text, start, first))
            .or_else(|| self.number_end(text, start, first))
            .or_else(|| self.other_end(text, start, first))
            .or_else(|| self.white_space_end(text, start, first))
            .unwrap_or(first.end)
    }

    fn contraction_end(&self, text: &str, start: usize) -> Option<usize> {
        match self.contraction {
            Contraction::LowerCase => contraction(text, start, |byte| byte),
            Contraction::AnyCase => contraction(text, start, |byte| byte.to_ascii_lowercase()),
            Contraction::None | Contraction::Suffix => None,
        }
    }

    fn word_end(&self, text: &str, start: usize, first: Char) -> Option<usize> {
        let prefix = !first.is(Class::LETTER.or(Class::NUMBER)) && !first.breaks_line();
        match self.word {
            Word::AfterSpace(class) => class_word(text, start, first, first.c == ' ', class),
            Word::AfterAny(class) => class_word(text, start, first, prefix, class),
            Word::Cased => {
                // The order in which a backtracking engine would come to them.
                let after = prefix.then_some(first.end);
                let end = after
                    .and_then(|s| lower_case_end(text, s))
                    .or_else(|| lower_case_end(text, start))
                    .or_else(|| after.and_then(|s| upper_case_start(text, s)))
                    .or_else(|| upper_case_start(text, start))?;
                match self.contraction {
                    Contraction::Suffix => {
                        contraction(text, end, |byte| byte.to_ascii_lowercase()).or(Some(end))
                    }
                    _ => Some(end),
                }
            }
        }
    }

    fn number_end(&self, text: &str, start: usize, first: Char) -> Option<usize> {
        match self.number {
            Number::AfterSpace => class_word(text, start, first, first.c == ' ', Class::NUMBER),
            Number::Grouped(max) => some_run(start, run(text, start, max, |c| c.is(Class::NUMBER))),
        }
    }

    fn other_end(&self, text: &str, start: usize, first: Char) -> Option<usize> {
        let other = |c: Char| !c.is(self.not_other);
        let start = if first.c == ' ' { first.end } else { start };
        let end = some_run(start, run(text, start, usize::MAX, other))?;
        Some(run(text, end, usize::MAX, |c| self.after_other.contains(&c.c)))
    }

    fn white_space_end(&self, text: &str, start: usize, first: Char) -> Option<usize> {
        if !first.is(Class::SPACE) {
            return None;
        }
        let (mut end, mut last_start, mut last_break) = (start, start, None);
        while let Some(next) = char_at(text, end).filter(|c| c.is(Class::SPACE)) {
            last_start = end;
            end = next.end;
            if self.line_breaks && next.breaks_line() {
                last_break = Some(end);
            }
        }
        // The last space before a word belongs to the word.
        let leaves_one = end < text.len() && last_start > start;
        Some(last_break.unwrap_or(if leaves_one { last_start } else { end }))
    }
}

/// The run's end, unless it is empty.
fn some_run(start: usize, end: usize) -> Option<usize> {
    (end > start).then_some(end)
}

/// A run of the class, where the first character may be a `prefix` outside it.
fn class_word(text: &str, start: usize, first: Char, prefix: bool, class: Class) -> Option<usize> {
    let start = if prefix && !first.is(class) { first.end } else { start };
    some_run(start, run(text, start, usize::MAX, |c| c.is(class)))
}

/// `U*L+`: an upper-case part that may be empty, and a lower-case part that may not.
///
/// Where no lower-case letter follows the upper-case run, its last character that counts as either ends the match.
fn lower_case_end(text: &str, start: usize) -> Option<usize> {
    let (mut end, mut last_either) = (start, None);
    while let Some(next) = char_at(text, end).filter(|c| c.is(UPPER_PART)) {
        end = next.end;
        if next.is(LOWER_PART) {
            last_either = Some(end);
        }
    }
    some_run(end, run(text, end, usize::MAX, |c| c.is(LOWER_PART))).or(last_either)
}

/// `U+L*`: an upper-case part that may not be empty, and a lower-case part that may.
fn upper_case_start(text: &str, start: usize) -> Option<usize> {
    let end = some_run(start, run(text, start, usize::MAX, |c| c.is(UPPER_PART)))?;
    Some(run(text, end, usize::MAX, |c| c.is(LOWER_PART)))
}

/// The end of a contraction that starts at `start`.
fn contraction(text: &str, start: usize, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let mut bytes = text.as_bytes().get(start..)?.iter().copied();
    if bytes.next()? != b'\'' {
        return None;
    }
    let first = fold(bytes.next()?);
    match (first, bytes.next().map(fold)) {
        (b's' | b't' | b'm' | b'd', _) => Some(start + 2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(start + 3),
        _ => None,
    }
}
