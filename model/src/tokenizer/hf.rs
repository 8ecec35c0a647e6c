//! A tokenizer from a folder in Hugging Face's layout.
//!
//! `tokenizer.json` describes a whole pipeline (normaliser, pre-tokenizer, model, post-processor), and the `tokenizers`
//! crate runs it. Only encoding is left to it: what the tokens stand for goes into the same table as for GGUF, so decoding
//! and streaming are the same code for both.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::alphabet::{Alphabet, named_byte};
use super::special::{SpecialTokens, names_end_of_generation};
use super::vocab::{TokenType, Vocab};
use super::{Coder, EncodeOptions, FillInTheMiddle, Tokenizer};
use crate::error::{LoadError, RunError};

/// The pipeline. Whether it reads control tokens is a setting of the pipeline, so one caller uses it at a time.
pub(super) struct HuggingFace {
    pipeline: Mutex<tokenizers::Tokenizer>,
}

impl HuggingFace {
    pub(super) fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, RunError> {
        // A pipeline is never left half-changed, so what a panicking thread held is still good.
        let mut pipeline = self.pipeline.lock().unwrap_or_else(PoisonError::into_inner);
        pipeline.set_encode_special_tokens(!options.parse_special);
        match pipeline.encode_fast(text, options.add_special) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(RunError::Tokenizer(error.to_string())),
        }
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a folder; from `tokenizer_config.json` and `generation_config.json`, where they are, which
    /// tokens begin and end a text.
    ///
    /// # Errors
    /// [`LoadError::Io`] if there is no `tokenizer.json`, [`LoadError::Tokenizer`] if one of the files cannot be understood.
    pub fn from_hf_folder(folder: &Path) -> Result<Tokenizer, LoadError> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| LoadError::Io { path: path.clone(), source })?;
        let mut pipeline = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| LoadError::Tokenizer(format!("{}: {error}", path.display())))?;
        // Stored settings for training batches: texts here are neither cut nor filled up.
        pipeline.with_padding(None);
        pipeline
            .with_truncation(None)
            .map_err(|error| LoadError::Tokenizer(format!("{}: {error}", path.display())))?;
        let decoder = serde_json::to_string(&pipeline.get_decoder()).unwrap_or_default();
        let names = |kind: &str| decoder.contains(&format!("\"{kind}\""));
        let alphabet = if names("ByteLevel") { Alphabet::ByteLevel } else { Alphabet::SentencePiece };

        let (spellings, types) = token_table(&pipeline, alphabet);
        let spellings: Vec<&[u8]> = spellings.iter().map(String::as_bytes).collect();
        let vocab = Vocab::build(&spellings, types, alphabet)?;
        let special = SpecialTokens::build(&spellings, &vocab)?;
        let config = read_json(&folder.join("tokenizer_config.json"))?;
        let generation = read_json(&folder.join("generation_config.json"))?;
        let named = |key: &str| {
            let token = config.get(key)?;
            pipeline.token_to_id(token.as_str().or_else(|| token.get("content")?.as_str())?)
        };
        let (bos, eos) = (named("bos_token"), named("eos_token"));
        let ends = generation.get("eos_token_id").map(listed_ids).unwrap_or_default();
        let known_ends = ends.into_iter().filter(|&id| (id as usize) < vocab.len());
        let framed = pipeline.encode_fast("", true).map(|encoding| encoding.get_ids().to_vec());
        let framed = framed.unwrap_or_default();
        Ok(Tokenizer {
            bos,
            eos,
            eot: special.first_end_of_turn(),
            padding: named("pad_token"),
            add_bos: bos.is_some_and(|id| framed.contains(&id)),
            add_eos: eos.is_some_and(|id| framed.contains(&id) && bos != Some(id)),
            end_of_generation: special.end_of_generation(known_ends.map(Some).chain([eos])),
            fim: FillInTheMiddle::find([None; 3], &special),
            adds_space: names("Strip") || names("Metaspace"),
            vocab,
            special,
            coder: Coder::HuggingFace(Box::new(HuggingFace { pipeline: Mutex::new(pipeline) })),
        })
    }
}

/// The spelling and type of each id; ids that the file leaves out are empty and unused.
fn token_table(pipeline: &tokenizers::Tokenizer, alphabet: Alphabet) -> (Vec<String>, Vec<TokenType>) {
    let added = pipeline.get_added_tokens_decoder();
    let tokens = pipeline.get_vocab(true);
    // Ids may have gaps, but a damaged file must not make the table longer than a few times what it holds.
    let limit = tokens.len().saturating_mul(4).saturating_add(1024);
    let ids = tokens.values().chain(added.keys()).map(|&id| id as usize + 1);
    let count = ids.filter(|&count| count <= limit).max().unwrap_or(0);
    let mut spellings = vec![String::new(); count];
    let mut types = vec![TokenType::Unused; count];
    for (token, id) in tokens {
        let token_type = match added.get(&id) {
            Some(added) if added.special || names_end_of_generation(token.as_bytes()) => TokenType::Control,
            Some(_) => TokenType::UserDefined,
            None if alphabet == Alphabet::SentencePiece && named_byte(token.as_bytes()).is_some() => {
                TokenType::Byte
            }
            None => TokenType::Normal,
        };
        if let (Some(spelling), Some(slot)) = (spellings.get_mut(id as usize), types.get_mut(id as usize)) {
            (*spelling, *slot) = (token, token_type);
        }
    }
    (spellings, types)
}

/// A JSON file, or nothing where there is none.
fn read_json(path: &Path) -> Result<Value, LoadError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| LoadError::Tokenizer(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(source) => Err(LoadError::Io { path: path.to_owned(), source }),
    }
}

/// One id or a list of them.
fn listed_ids(value: &Value) -> Vec<u32> {
    let one = std::slice::from_ref(value);
    let list = value.as_array().map_or(one, Vec::as_slice);
    list.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}
