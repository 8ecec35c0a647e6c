//! Tokens by which coder models are asked for what stands between two texts.

use super::special::SpecialTokens;
use super::{EncodeOptions, Tokenizer};
use crate::RunError;

/// The tokens before the text that precedes, before the text that follows, and before what the model writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillInTheMiddle {
    /// Comes before what stands before the gap.
    pub prefix: u32,
    /// Comes before what stands behind the gap.
    pub suffix: u32,
    /// Comes before what fills the gap.
    pub middle: u32,
}

/// What families of models call them: Qwen and CodeGemma, StarCoder and Granite in two spellings, DeepSeek, CodeLlama in
/// two spellings, GLM.
const NAMES: [[&str; 3]; 7] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    ["<PRE>", "<SUF>", "<MID>"],
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
];

impl FillInTheMiddle {
    /// The tokens that a file names, or that are called so, each for itself: files name some of them and not others.
    pub(super) fn find(given: [Option<u32>; 3], special: &SpecialTokens) -> Option<FillInTheMiddle> {
        let named = |i: usize| {
            NAMES.iter().find_map(|names| special.find(names.get(i).copied().unwrap_or_default().as_bytes()))
        };
        let [prefix, suffix, middle] = given;
        Some(FillInTheMiddle {
            prefix: prefix.or_else(|| named(0))?,
            suffix: suffix.or_else(|| named(1))?,
            middle: middle.or_else(|| named(2))?,
        })
    }
}

impl Tokenizer {
    /// The tokens for filling a gap, if the model knows any.
    pub fn fill_in_the_middle(&self) -> Option<FillInTheMiddle> {
        self.fim
    }

    /// The prompt for what stands between two texts: `prefix token, before, suffix token, after, middle token`, begun as all
    /// texts of the model are. Names of control tokens in the texts are text.
    ///
    /// # Errors
    /// [`RunError::Tokenizer`] for a model that has no such tokens, and what encoding can fail with.
    pub fn encode_gap(&self, before: &str, after: &str) -> Result<Vec<u32>, RunError> {
        let Some(tokens) = self.fim else {
            return Err(RunError::Tokenizer(
                "the vocabulary has no tokens for filling in the middle (such as <|fim_prefix|>); \
                 use a coder model that was trained for it"
                    .to_owned(),
            ));
        };
        let text = |text: &str| self.encode(text, EncodeOptions { add_special: false, parse_special: false });
        let mut ids: Vec<u32> = self.bos().filter(|_| self.adds_bos()).into_iter().collect();
        ids.push(tokens.prefix);
        ids.extend(text(before)?);
        ids.push(tokens.suffix);
        ids.extend(text(after)?);
        ids.push(tokens.middle);
        Ok(ids)
    }
}
