//! Patterns that cut out runs of one kind of character and leave what is between them whole.
//!
//! Several pre-tokenizers are a chain of these: each pass cuts the pieces of the pass before, and sees a piece as if
//! there were nothing around it.

use super::class::{Char, Class, char_at, run};

/// One pattern `\s?X{min,max}`, where `X` is a set of characters.
pub(super) struct RunRule {
    /// The set `X`.
    pub(super) member: fn(Char) -> bool,
    /// Whether one white space before the run belongs to it.
    pub(super) after_space: bool,
    /// Fewest characters.
    pub(super) min: usize,
    /// Most characters; a longer run is cut into several.
    pub(super) max: usize,
    /// Whether the run must reach the end of the piece: `X+$`.
    pub(super) at_end: bool,
}

impl RunRule {
    /// `X+`.
    pub(super) const fn any(member: fn(Char) -> bool) -> RunRule {
        RunRule { member, after_space: false, min: 1, max: usize::MAX, at_end: false }
    }

    /// `X{count}`.
    pub(super) const fn exactly(count: usize, member: fn(Char) -> bool) -> RunRule {
        RunRule { min: count, max: count, ..RunRule::any(member) }
    }

    /// `\s?X+`.
    pub(super) const fn after_space(member: fn(Char) -> bool) -> RunRule {
        RunRule { after_space: true, ..RunRule::any(member) }
    }

    /// `X+$`.
    pub(super) const fn at_end(member: fn(Char) -> bool) -> RunRule {
        RunRule { at_end: true, ..RunRule::any(member) }
    }

    /// Cuts the whole text.
    pub(super) fn split<'t>(&self, text: &'t str, pieces: &mut Vec<&'t str>) {
        let (mut uncut, mut pos) = (0, 0);
        while let Some(first) = char_at(text, pos) {
            let (end, matches) = self.match_at(text, pos, first);
            if matches {
                pieces.extend(text.get(uncut..pos).filter(|piece| !piece.is_empty()));
                pieces.extend(text.get(pos..end));
                uncut = end;
            }
            pos = end;
        }
        pieces.extend(text.get(uncut..).filter(|piece| !piece.is_empty()));
    }

    /// Where the match at `pos` ends; or, without one, the next place where a match may begin.
    fn match_at(&self, text: &str, pos: usize, first: Char) -> (usize, bool) {
        let spaced = self.after_space
            && first.is(Class::SPACE)
            && char_at(text, first.end).is_some_and(|next| (self.member)(next));
        let start = if spaced { first.end } else { pos };
        let end = run(text, start, self.max, self.member);
        if end == start {
            (first.end, false)
        } else if self.at_end && end < text.len() {
            (end, false)
        } else if text.get(start..end).is_some_and(|found| found.chars().count() < self.min) {
            // Fewer than `min` in a row, so none of them begins a match.
            (end, false)
        } else {
            (end, true)
        }
    }
}

/// `\p{N}`.
pub(super) fn is_number(c: Char) -> bool {
    c.is(Class::NUMBER)
}

/// `[0-9]`.
pub(super) fn is_ascii_digit(c: Char) -> bool {
    c.c.is_ascii_digit()
}

/// `\p{L}`.
pub(super) fn is_letter(c: Char) -> bool {
    c.is(Class::LETTER)
}

/// `\p{P}`.
pub(super) fn is_punctuation(c: Char) -> bool {
    c.is(Class::PUNCTUATION)
}

/// `[\p{P}$+<=>^~|]`.
pub(super) fn is_punctuation_or_sign(c: Char) -> bool {
    is_punctuation(c) || matches!(c.c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
}

/// The same, and the backtick.
pub(super) fn is_punctuation_sign_or_backtick(c: Char) -> bool {
    is_punctuation_or_sign(c) || c.c == '`'
}

/// `\s`.
pub(super) fn is_space(c: Char) -> bool {
    c.is(Class::SPACE)
}

/// DeepSeek's ASCII, full-width and general punctuation.
pub(super) fn is_deepseek_sign(c: Char) -> bool {
    matches!(c.c, '!'..='/' | ':'..='~' | '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff5e}'
        | '\u{2018}'..='\u{201f}' | '\u{3000}'..='\u{3002}')
}

/// DeepSeek's Chinese, Japanese and Korean, which reaches from U+0800.
pub(super) fn is_deepseek_cjk(c: Char) -> bool {
    matches!(c.c, '\u{800}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7ff}')
}

/// DeepSeek's list of letters: those with case, of the scripts its authors listed.
pub(super) fn is_deepseek_letter(c: Char) -> bool {
    let place = DEEPSEEK_LETTERS.partition_point(|&(first, _)| first <= c.c);
    place.checked_sub(1).and_then(|i| DEEPSEEK_LETTERS.get(i)).is_some_and(|&(_, last)| c.c <= last)
}

/// First and last character of each range, ascending.
static DEEPSEEK_LETTERS: [(char, char); 84] = [
    ('\u{41}', '\u{5a}'),
    ('\u{61}', '\u{7a}'),
    ('\u{b5}', '\u{b5}'),
    ('\u{c0}', '\u{d6}'),
    ('\u{d8}', '\u{f6}'),
    ('\u{f8}', '\u{1ba}'),
    ('\u{1bc}', '\u{1bf}'),
    ('\u{1c4}', '\u{293}'),
    ('\u{295}', '\u{2af}'),
    ('\u{370}', '\u{373}'),
    ('\u{376}', '\u{377}'),
    ('\u{37b}', '\u{37d}'),
    ('\u{37f}', '\u{37f}'),
    ('\u{386}', '\u{386}'),
    ('\u{388}', '\u{38a}'),
    ('\u{38c}', '\u{38c}'),
    ('\u{38e}', '\u{3a1}'),
    ('\u{3a3}', '\u{3f5}'),
    ('\u{3f7}', '\u{481}'),
    ('\u{48a}', '\u{52f}'),
    ('\u{531}', '\u{556}'),
    ('\u{10a0}', '\u{10c5}'),
    ('\u{13a0}', '\u{13f5}'),
    ('\u{13f8}', '\u{13fd}'),
    ('\u{1c90}', '\u{1cba}'),
    ('\u{1cbd}', '\u{1cbf}'),
    ('\u{1d00}', '\u{1d2b}'),
    ('\u{1d6b}', '\u{1d77}'),
    ('\u{1d79}', '\u{1d9a}'),
    ('\u{1e00}', '\u{1f15}'),
    ('\u{1f18}', '\u{1f1d}'),
    ('\u{1f20}', '\u{1f45}'),
    ('\u{1f48}', '\u{1f4d}'),
    ('\u{1f50}', '\u{1f57}'),
    ('\u{1f59}', '\u{1f59}'),
    ('\u{1f5b}', '\u{1f5b}'),
    ('\u{1f5d}', '\u{1f5d}'),
    ('\u{1f5f}', '\u{1f7d}'),
    ('\u{1f80}', '\u{1fb4}'),
    ('\u{1fb6}', '\u{1fbc}'),
    ('\u{1fbe}', '\u{1fbe}'),
    ('\u{1fc2}', '\u{1fc4}'),
    ('\u{1fc6}', '\u{1fcc}'),
    ('\u{1fd0}', '\u{1fd3}'),
    ('\u{1fd6}', '\u{1fdb}'),
    ('\u{1fe0}', '\u{1fec}'),
    ('\u{1ff2}', '\u{1ff4}'),
    ('\u{1ff6}', '\u{1ffc}'),
    ('\u{2102}', '\u{2102}'),
    ('\u{2107}', '\u{2107}'),
    ('\u{210a}', '\u{2113}'),
    ('\u{2115}', '\u{2115}'),
    ('\u{2119}', '\u{211d}'),
    ('\u{2124}', '\u{2124}'),
    ('\u{2126}', '\u{2126}'),
    ('\u{2128}', '\u{2128}'),
    ('\u{212a}', '\u{212d}'),
    ('\u{212f}', '\u{2134}'),
    ('\u{2139}', '\u{2139}'),
    ('\u{213c}', '\u{213f}'),
    ('\u{2145}', '\u{2149}'),
    ('\u{214e}', '\u{214e}'),
    ('\u{2183}', '\u{2184}'),
    ('\u{2c00}', '\u{2c7b}'),
    ('\u{2c7e}', '\u{2ce4}'),
    ('\u{2ceb}', '\u{2cee}'),
    ('\u{2cf2}', '\u{2cf3}'),
    ('\u{a640}', '\u{a66d}'),
    ('\u{a680}', '\u{a69b}'),
    ('\u{a722}', '\u{a76f}'),
    ('\u{a771}', '\u{a787}'),
    ('\u{a78b}', '\u{a78e}'),
    ('\u{ab70}', '\u{abbf}'),
    ('\u{fb00}', '\u{fb06}'),
    ('\u{fb13}', '\u{fb17}'),
    ('\u{ff21}', '\u{ff3a}'),
    ('\u{ff41}', '\u{ff5a}'),
    ('\u{10400}', '\u{1044f}'),
    ('\u{104b0}', '\u{104d3}'),
    ('\u{104d8}', '\u{104fb}'),
    ('\u{10c80}', '\u{10cb2}'),
    ('\u{10cc0}', '\u{10cf2}'),
    ('\u{118a0}', '\u{118df}'),
    ('\u{1e900}', '\u{1e943}'),
];
