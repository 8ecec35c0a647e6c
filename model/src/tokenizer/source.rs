//! What a tokenizer is made from, and whether it fits together.

use super::alphabet::named_byte;
use super::special::names_end_of_generation;
use super::vocab::TokenType;
use crate::error::LoadError;

/// A vocabulary as GGUF metadata (`tokenizer.ggml.*`) hold it.
#[derive(Clone, Debug, Default)]
pub struct VocabSource<'a> {
    /// `model`: `gpt2` for byte-level byte-pair encoding, `llama` for SentencePiece's, `bert` for words and their
    /// pieces.
    pub model: &'a str,
    /// `pre`: the pre-tokenizer of a `gpt2` vocabulary; without it `default` is taken.
    pub pre: Option<&'a str>,
    /// `tokens`: the spelling of each token.
    pub tokens: Vec<&'a [u8]>,
    /// `scores`, one for each token; a `llama` vocabulary needs them.
    pub scores: Option<Vec<f32>>,
    /// `token_type`, one for each token; see [`TokenType`].
    pub token_types: Option<Vec<i32>>,
    /// `merges`, the first to be done first; a `gpt2` vocabulary needs them.
    pub merges: Option<Vec<&'a [u8]>>,
    /// `bos_token_id`: begins a text.
    pub bos: Option<u32>,
    /// `eos_token_id`: ends a text.
    pub eos: Option<u32>,
    /// `eot_token_id`: ends a turn.
    pub eot: Option<u32>,
    /// `eom_token_id`: ends a message.
    pub eom: Option<u32>,
    /// `unknown_token_id`: stands for what has no token.
    pub unknown: Option<u32>,
    /// `cls_token_id`: begins a text that an encoder reads.
    pub cls: Option<u32>,
    /// `seperator_token_id` (so spelt): ends it.
    pub sep: Option<u32>,
    /// `padding_token_id`: fills up.
    pub padding: Option<u32>,
    /// `fim_pre_token_id`, `fim_suf_token_id`, `fim_mid_token_id`, or older `prefix_token_id` and so on: see
    /// [`FillInTheMiddle`](super::FillInTheMiddle).
    pub fim: [Option<u32>; 3],
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

impl VocabSource<'_> {
    /// The error for a table that the kind of vocabulary needs.
    pub(super) fn lacks(&self, table: &str) -> LoadError {
        LoadError::Tokenizer(format!("a {:?} vocabulary needs {table}, and the file has none", self.model))
    }

    /// Refuses tables of another length than the tokens.
    pub(super) fn check_lengths(&self) -> Result<(), LoadError> {
        let count = self.tokens.len();
        let lengths = [
            ("scores", self.scores.as_ref().map(Vec::len)),
            ("token types", self.token_types.as_ref().map(Vec::len)),
        ];
        for (what, len) in lengths {
            if let Some(len) = len.filter(|&len| len != count) {
                return Err(LoadError::Tokenizer(format!("{len} {what} for {count} tokens")));
            }
        }
        Ok(())
    }

    /// Refuses an id outside the vocabulary.
    pub(super) fn checked_id(&self, name: &str, id: Option<u32>) -> Result<Option<u32>, LoadError> {
        let count = self.tokens.len();
        match id {
            Some(id) if id as usize >= count => Err(LoadError::Tokenizer(format!(
                "the {name} token has id {id}, outside the vocabulary of {count}"
            ))),
            _ => Ok(id),
        }
    }

    /// The type of each token. Names that end a reply are control tokens, whatever the file says.
    pub(super) fn checked_types(&self) -> Result<Vec<TokenType>, LoadError> {
        let type_of = |(index, &number): (usize, &i32)| {
            TokenType::from_gguf(number).ok_or_else(|| {
                LoadError::Tokenizer(format!("token {index} has type {number}; known are 0 to 6"))
            })
        };
        let mut types: Vec<TokenType> = match &self.token_types {
            Some(numbers) => numbers.iter().enumerate().map(type_of).collect::<Result<_, _>>()?,
            None => self.tokens.iter().map(|token| self.guessed_type(token)).collect(),
        };
        for (token_type, token) in types.iter_mut().zip(&self.tokens) {
            if names_end_of_generation(token) {
                *token_type = TokenType::Control;
            }
        }
        Ok(types)
    }

    fn guessed_type(&self, token: &[u8]) -> TokenType {
        if self.model == "llama" && named_byte(token).is_some() { TokenType::Byte } else { TokenType::Normal }
    }
}
