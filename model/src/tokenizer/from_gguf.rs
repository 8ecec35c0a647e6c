//! A tokenizer from a GGUF file's metadata.

use super::{Tokenizer, VocabSource};
use crate::LoadError;
use crate::gguf::Metadata;

impl<'a> VocabSource<'a> {
    /// The keys `tokenizer.ggml.*` as they are.
    ///
    /// # Errors
    /// A key that is missing or of another type.
    pub fn from_gguf(metadata: &'a Metadata) -> Result<Self, LoadError> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| metadata.get_u32(&key(name));
        let strings = |name: &str| match metadata.get_array(&key(name))? {
            Some(array) => Ok::<_, LoadError>(Some(array.strings()?.iter().collect())),
            None => Ok(None),
        };
        let scores = match metadata.get_array(&key("scores"))? {
            Some(array) => Some(array.f32s()?.collect()),
            None => None,
        };
        let token_types = match metadata.get_array(&key("token_type"))? {
            Some(array) => Some(array.integers::<i32>()?.collect()),
            None => None,
        };
        let missing = || LoadError::Metadata { key: key("tokens"), reason: "is missing".to_owned() };
        Ok(VocabSource {
            model: metadata.require(&key("model"))?,
            pre: metadata.get_str(&key("pre"))?,
            tokens: strings("tokens")?.ok_or_else(missing)?,
            scores,
            token_types,
            merges: strings("merges")?,
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            eot: id("eot_token_id")?,
            eom: id("eom_token_id")?,
            unknown: id("unknown_token_id")?,
            cls: id("cls_token_id")?,
            sep: id("seperator_token_id")?,
            padding: id("padding_token_id")?,
            fim: [
                id("fim_pre_token_id")?.or(id("prefix_token_id")?),
                id("fim_suf_token_id")?.or(id("suffix_token_id")?),
                id("fim_mid_token_id")?.or(id("middle_token_id")?),
            ],
            add_bos: metadata.get_bool(&key("add_bos_token"))?,
            add_eos: metadata.get_bool(&key("add_eos_token"))?,
            add_space_prefix: metadata.get_bool(&key("add_space_prefix"))?,
        })
    }
}

impl Tokenizer {
    /// Makes a tokenizer of the keys `tokenizer.ggml.*`. `pre_tokenizer` replaces the file's `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// A key that is missing or of another type, a kind of tokenizer that is not supported, or data that contradict
    /// themselves.
    pub fn from_gguf(metadata: &Metadata, pre_tokenizer: Option<&str>) -> Result<Tokenizer, LoadError> {
        Tokenizer::from_vocab(VocabSource::from_gguf(metadata)?, pre_tokenizer)
    }
}
