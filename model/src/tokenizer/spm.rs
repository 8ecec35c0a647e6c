//! SentencePiece's byte-pair encoding (`tokenizer.ggml.model = "llama"`).
//!
//! There are no pieces and no merge list: a text starts as its characters, and any two neighbours that together are a
//! token may be joined, the token with the highest score first. What is left and is no token is spelt in bytes.

use super::alphabet::SPACE_MARK;
use super::merge::{Join, Merger};
use super::vocab::Vocab;

/// A SentencePiece coder.
pub(super) struct Spm {
    /// For each token its rank by score: the lower goes first.
    priorities: Vec<u32>,
    /// Whether a text is read as if a space stood before it.
    pub(super) add_space_prefix: bool,
    unknown: Option<u32>,
}

impl Spm {
    /// Takes the scores over.
    pub(super) fn build(scores: &[f32], add_space_prefix: bool, unknown: Option<u32>) -> Spm {
        Spm { priorities: scores.iter().copied().map(priority).collect(), add_space_prefix, unknown }
    }

    /// Appends the ids of a text without special tokens. It must be shorter than 4 GiB.
    ///
    /// `after_special` says that nothing or a special token comes before the text.
    pub(super) fn encode(
        &self,
        text: &str,
        after_special: bool,
        vocab: &Vocab,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) {
        // In the table a space is a space, so the text needs no marks; a mark in the text is read as a space.
        let prefix = if self.add_space_prefix && after_special { " " } else { "" };
        let text = [prefix, &text.replace(SPACE_MARK, " ")].concat();
        merger.clear(text.len());
        for c in text.chars() {
            merger.push(c.len_utf8() as u32, vocab.find(c.encode_utf8(&mut [0; 4]).as_bytes()));
        }
        merger.run(|left, right| {
            let id = vocab.find(text.as_bytes().get(left.range().start..right.range().end)?)?;
            Some(Join { priority: *self.priorities.get(id as usize)?, id })
        });
        for symbol in merger.symbols() {
            match symbol.id {
                Some(id) => ids.push(id),
                None => {
                    let bytes = text.as_bytes().get(symbol.range()).unwrap_or_default();
                    ids.extend(bytes.iter().filter_map(|&byte| vocab.byte_id(byte).or(self.unknown)));
                }
            }
        }
    }
}

/// Scores as numbers that order the other way round: the highest score becomes the lowest number.
fn priority(score: f32) -> u32 {
    // Adding zero makes -0 and 0 one.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_scores_go_first() {
        let scores = [f32::INFINITY, 1e9, 1.0, 0.0, -1e-30, -1.0, -2.5, -1e9, f32::NEG_INFINITY];
        assert!(scores.map(priority).is_sorted_by(|a, b| a < b));
        assert_eq!(priority(-0.0), priority(0.0));
    }
}
