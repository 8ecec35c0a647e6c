//! A tokenizer from a folder in Hugging Face's layout.
//!
//! `tokenizer.json` describes a whole pipeline (normaliser, pre-tokenizer, model, post-processor), and the `tokenizers`
//! crate runs it. Only encoding is left to it: what the tokens stand for goes into the same table as for GGUF, so decoding
//! and streaming are the same code for both.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::alphabet::{Alphabet, named_byte};
use super::special::{SpecialTokens, names_end_of_generation};
use super::vocab::{TokenType, Vocab};
use super::{Coder, EncodeOptions, FillInTheMiddle, Tokenizer, word_piece};
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
    /// Reads `tokenizer.json` of a folder, or BERT's `vocab.txt`; from `tokenizer_config.json` and `generation_config.json`,
    /// where they are, which tokens begin and end a text.
    ///
    /// # Errors
    /// [`LoadError::Io`] if there is no `tokenizer.json`, [`LoadError::Tokenizer`] if one of the files cannot be understood.
    pub fn from_hf_folder(folder: &Path) -> Result<Tokenizer, LoadError> {
        let config = read_json(&folder.join("tokenizer_config.json"))?;
        let (path, bytes) = definition(folder, &config)?;
        let generation = read_json(&folder.join("generation_config.json"))?;
        let ends = generation.get("eos_token_id").map(listed_ids).unwrap_or_default();
        let tokens_of = |pipeline: &tokenizers::Tokenizer| {
            let named = |key: &str| {
                let token = config.get(key)?;
                pipeline.token_to_id(token.as_str().or_else(|| token.get("content")?.as_str())?)
            };
            let bos = named("bos_token").or_else(|| named("cls_token"));
            (bos, named("eos_token").or_else(|| named("sep_token")), named("pad_token"))
        };
        Tokenizer::from_pipeline(bytes, &path.display().to_string(), tokens_of, ends)
    }

    /// A tokenizer of the bytes of a `tokenizer.json`; `tokens_of` names those that begin, end and fill up a text, `ends`
    /// are further ids at which generation stops.
    pub(super) fn from_pipeline(
        bytes: Vec<u8>,
        origin: &str,
        tokens_of: impl FnOnce(&tokenizers::Tokenizer) -> (Option<u32>, Option<u32>, Option<u32>),
        ends: Vec<u32>,
    ) -> Result<Tokenizer, LoadError> {
        let fault = |error: tokenizers::Error| LoadError::Tokenizer(format!("{origin}: {error}"));
        let mut pipeline = tokenizers::Tokenizer::from_bytes(bytes).map_err(fault)?;
        // Stored settings for training batches: texts here are neither cut nor filled up.
        pipeline.with_padding(None);
        pipeline.with_truncation(None).map_err(fault)?;
        let decoder = serde_json::to_string(&pipeline.get_decoder()).unwrap_or_default();
        let names = |kind: &str| decoder.contains(&format!("\"{kind}\""));
        let words = names("WordPiece");
        let alphabet = if names("ByteLevel") { Alphabet::ByteLevel } else { Alphabet::SentencePiece };

        let (mut spellings, types) = token_table(&pipeline, alphabet);
        if words {
            spellings.iter_mut().for_each(|token| *token = word_piece::marked_at_beginning(token));
        }
        let spellings: Vec<&[u8]> = spellings.iter().map(String::as_bytes).collect();
        let vocab = Vocab::build(&spellings, types, alphabet)?;
        let special = SpecialTokens::build(&spellings, &vocab)?;
        let (bos, eos, padding) = tokens_of(&pipeline);
        let known_ends = ends.into_iter().filter(|&id| (id as usize) < vocab.len());
        let framed = pipeline.encode_fast("", true).map(|encoding| encoding.get_ids().to_vec());
        let framed = framed.unwrap_or_default();
        Ok(Tokenizer {
            bos,
            eos,
            eot: special.first_end_of_turn(),
            padding,
            add_bos: bos.is_some_and(|id| framed.contains(&id)),
            add_eos: eos.is_some_and(|id| framed.contains(&id) && bos != Some(id)),
            end_of_generation: special.end_of_generation(known_ends.map(Some).chain([eos])),
            fim: FillInTheMiddle::find([None; 3], &special),
            adds_space: words || names("Strip") || names("Metaspace"),
            vocab,
            special,
            coder: Coder::HuggingFace(Box::new(HuggingFace { pipeline: Mutex::new(pipeline) })),
        })
    }
}

/// A folder's `tokenizer.json`, or one made from its `vocab.txt`, and where it is from.
///
/// # Errors
/// [`LoadError::Io`] if neither can be read, [`LoadError::Tokenizer`] for words that are no UTF-8 or lack a control token.
fn definition(folder: &Path, config: &Value) -> Result<(PathBuf, Vec<u8>), LoadError> {
    let (path, words) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
    let read =
        |path: &Path| std::fs::read(path).map_err(|source| LoadError::Io { path: path.to_owned(), source });
    if path.exists() || !words.exists() {
        let bytes = read(&path)?;
        return Ok((path, bytes));
    }
    let fault = |reason: &str| LoadError::Tokenizer(format!("{}: {reason}", words.display()));
    let text = String::from_utf8(read(&words)?).map_err(|_| fault("is not UTF-8"))?;
    let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
    let lower_case = config.get("do_lower_case").and_then(Value::as_bool).unwrap_or(true);
    let bytes = word_piece::pipeline(&tokens, lower_case)?;
    Ok((words, bytes))
}

/// The same, read.
pub(super) fn definition_json(folder: &Path) -> Result<(PathBuf, Value), LoadError> {
    let (path, bytes) = definition(folder, &read_json(&folder.join("tokenizer_config.json"))?)?;
    let json = serde_json::from_slice(&bytes)
        .map_err(|error| LoadError::Tokenizer(format!("{}: {error}", path.display())))?;
    Ok((path, json))
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
