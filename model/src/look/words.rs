//! Words and the pieces they are made of.

use super::Look;
use crate::RunError;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use std::ops::Range;

/// A word that is one token of the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// As the user wrote it.
    pub text: String,
    /// Its token: the one with a space before it, if there is one, for that is how words stand in a text.
    pub id: u32,
}

impl Look {
    /// The token of a word: of `" word"` if that is one token, else of `"word"`.
    ///
    /// # Errors
    /// [`RunError::NotOneToken`] with the pieces of a word that has no token of its own.
    pub fn word(&self, text: &str) -> Result<Word, RunError> {
        let tokenizer = self.model.tokenizer();
        let text = text.trim();
        let pieces =
            |text: &str| tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false });
        let spaced = pieces(&format!(" {text}"))?;
        for form in [spaced.clone(), pieces(text)?] {
            if let (&[id], false) = (form.as_slice(), text.is_empty()) {
                return Ok(Word { text: text.to_owned(), id });
            }
        }
        let pieces = spaced.iter().map(|&id| self.piece(id)).collect();
        Err(RunError::NotOneToken { word: text.to_owned(), pieces })
    }

    /// The tokens of a word in other spellings: with and without a space, in small, capital and all capital letters.
    ///
    /// # Errors
    /// What encoding can fail with.
    pub fn spellings(&self, word: &Word) -> Result<Vec<u32>, RunError> {
        let small = word.text.to_lowercase();
        let mut letters = small.chars();
        let first = letters.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
        let mut ids = vec![word.id];
        for text in [format!("{first}{}", letters.as_str()), small.to_uppercase(), small, word.text.clone()] {
            for text in [format!(" {text}"), text] {
                if let [id] = self.model.tokenizer().encode(&text, EncodeOptions::default())?.as_slice() {
                    ids.push(*id);
                }
            }
        }
        Ok(ids)
    }

    /// What a token stands for, as text.
    pub fn piece(&self, id: u32) -> String {
        String::from_utf8_lossy(self.model.tokenizer().piece(id)).into_owned()
    }

    /// The last place where `word` stands in a text: the positions of its pieces.
    ///
    /// # Errors
    /// [`RunError::Option`] if it does not.
    pub fn find_word(&self, ids: &[u32], word: &str) -> Result<Range<usize>, RunError> {
        let wanted = bare(word);
        let found = group_words(self.model.tokenizer(), ids).into_iter().rev().find(|range| {
            let pieces = ids.get(range.clone()).unwrap_or_default();
            bare(&self.model.tokenizer().decode(pieces)) == wanted
        });
        found.ok_or_else(|| RunError::Option {
            name: "word",
            found: format!("{word:?}"),
            allowed: "a whole word that stands in the text",
        })
    }
}

/// A word without the signs around it, in small letters.
fn bare(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

/// The ranges of tokens that make up words: a word begins where a piece begins with a space or another kind of character
/// than the last one ended with (a letter or digit, or a sign); control tokens stand alone.
pub fn group_words(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut last: Option<char> = None; // of the piece before, if a word may go on after it
    for (i, &id) in ids.iter().enumerate() {
        let piece = String::from_utf8_lossy(tokenizer.piece(id)).into_owned();
        let control = tokenizer.is_control(id);
        let goes_on = match (last, piece.chars().next()) {
            (Some(before), Some(first)) if !control => {
                // An incomplete character is shown as U+FFFD: its other bytes follow.
                let letter = |c: char| c.is_alphanumeric() || c == '\u{fffd}';
                letter(before) && letter(first)
            }
            _ => false,
        };
        let end = i.saturating_add(1);
        match words.last_mut() {
            Some(word) if goes_on => word.end = end,
            _ => words.push(i..end),
        }
        last = if control { None } else { piece.chars().last() };
    }
    words
}
