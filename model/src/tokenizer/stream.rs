//! Text from tokens, a token at a time.
//!
//! A token may end in the middle of a character: `日` can be three tokens. What has been printed cannot be taken back, so
//! the incomplete bytes wait until the character is whole.

/// Puts the pieces of tokens together to text, and never gives half a character.
///
/// All that was given out, with [`flush`](Utf8Stream::flush) at the end, is what [`String::from_utf8_lossy`] makes of all
/// the bytes together. Allocates only where the output string must grow.
///
/// ```
/// use gable_model::tokenizer::Utf8Stream;
/// let (mut stream, mut text) = (Utf8Stream::new(), String::new());
/// stream.push(b"caf\xc3", &mut text);
/// assert_eq!(text, "caf");
/// stream.push(b"\xa9", &mut text);
/// assert_eq!(text, "café");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    waiting: [u8; 4],
    len: usize,
}

impl Utf8Stream {
    /// A stream at its beginning.
    pub fn new() -> Utf8Stream {
        Utf8Stream::default()
    }

    /// Takes a token's bytes and appends the characters that are now whole to `text`. Bytes that can no longer become a
    /// character are appended as U+FFFD.
    pub fn push(&mut self, piece: &[u8], text: &mut String) {
        let mut rest = piece;
        while self.len > 0 {
            let [byte, tail @ ..] = rest else { return };
            if let Some(slot) = self.waiting.get_mut(self.len) {
                *slot = *byte;
            }
            match std::str::from_utf8(self.waiting.get(..=self.len).unwrap_or_default()) {
                Ok(whole) => {
                    text.push_str(whole);
                    (self.len, rest) = (0, tail);
                }
                Err(error) if error.error_len().is_none() => (self.len, rest) = (self.len + 1, tail),
                // The new byte does not continue the character, so it begins something else.
                Err(_) => self.flush(text),
            }
        }
        let mut left = rest.len();
        for chunk in rest.utf8_chunks() {
            let (valid, invalid) = (chunk.valid(), chunk.invalid());
            left = left.saturating_sub(valid.len() + invalid.len());
            text.push_str(valid);
            // In the middle, the byte that follows has already spoilt the character.
            let unfinished = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if left == 0 && unfinished {
                self.waiting.iter_mut().zip(invalid).for_each(|(to, from)| *to = *from);
                self.len = invalid.len();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    /// Ends the text: an unfinished character becomes U+FFFD.
    pub fn flush(&mut self, text: &mut String) {
        if self.len > 0 {
            text.push(char::REPLACEMENT_CHARACTER);
            self.len = 0;
        }
    }
}
