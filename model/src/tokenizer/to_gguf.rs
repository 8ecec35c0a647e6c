//! A `tokenizer.json`, or BERT's `vocab.txt`, as GGUF metadata.
//!
//! GGUF names the pattern that cuts text before the merges; `tokenizer.json` spells it out. Rather than comparing
//! spellings, every known pattern is tried on a text full of what they differ in, and the first whose ids are those of the
//! folder is taken. A tokenizer that none of them reproduces is refused: the ids would not be those that the model learnt.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::{EncodeOptions, PreTokenizer, TokenType, Tokenizer, VocabSource, hf, word_piece};
use crate::error::LoadError;
use crate::gguf::writer::GgufWriter;

/// Contractions in both cases, numbers of every length, spaces and line breaks in rows, signs, several scripts.
const PROBE: &str = "Hello, I'm here; WE'LL go! they've 1 12 123 1234 3.14 x=10_000\n\n \t  def f(x):\n\treturn x**2 // #$%\r\n\
                     na\u{ef}ve caf\u{e9} \u{4f60}\u{597d}\u{4e16}\u{754c} \u{645}\u{631}\u{62d}\u{628}\u{627} \
                     \u{43f}\u{440}\u{438}\u{432}\u{435}\u{442} \u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947} \u{1f600}\u{1f680} \
                     \u{2026}\u{2014} CamelCase HTTPServer  two   three    the cat and the other";

/// GGUF's name for vocabularies of words and their pieces.
const WORDS: &str = "bert";

/// A vocabulary in GGUF's terms.
pub(crate) struct Vocabulary {
    model: &'static str,
    pre: Option<&'static str>,
    tokens: Vec<String>,
    scores: Option<Vec<f32>>,
    types: Vec<i32>,
    merges: Option<Vec<String>>,
    unknown: Option<u32>,
    /// `[MASK]`.
    mask: Option<u32>,
    add_space_prefix: Option<bool>,
}

impl Vocabulary {
    /// Reads the vocabulary of a folder, which `tokenizer` was made from, for a model with `rows` embeddings.
    ///
    /// # Errors
    /// [`LoadError::Tokenizer`] for a tokenizer that GGUF has no form for.
    pub(crate) fn of_folder(
        folder: &Path,
        tokenizer: &Tokenizer,
        rows: usize,
    ) -> Result<Vocabulary, LoadError> {
        let (path, json) = hf::definition_json(folder)?;
        let fault = |reason: String| LoadError::Tokenizer(format!("{}: {reason}", path.display()));
        let model = json.get("model").unwrap_or(&Value::Null);
        let byte_level = json.get("decoder").is_some_and(|d| d.to_string().contains("\"ByteLevel\""));
        let kind = match model.get("type").and_then(Value::as_str).unwrap_or("BPE") {
            "BPE" if byte_level => "gpt2",
            "BPE" => "llama",
            "WordPiece" => WORDS,
            other => {
                let reason =
                    format!("a model of type {other:?} has no form in GGUF; supported: BPE, WordPiece");
                return Err(fault(reason));
            }
        };
        let merges: Vec<String> =
            model.get("merges").and_then(Value::as_array).into_iter().flatten().filter_map(merge).collect();
        let mut tokens = spellings(&json, rows);
        if tokens.len() > rows {
            return Err(fault(format!("{} tokens for {rows} embeddings", tokens.len())));
        }
        let id = |name: &str| {
            let found = tokens.iter().position(|token| token == name);
            found.and_then(|i| u32::try_from(i).ok())
        };
        let unknown = model.get("unk_token").and_then(Value::as_str).and_then(id);
        let mask = id("[MASK]").filter(|_| kind == WORDS);
        let types = (0_u32..).zip(&tokens).map(|(id, spelling)| match tokenizer.token_type(id) {
            _ if spelling.is_empty() => number(TokenType::Unused),
            _ if unknown == Some(id) && kind == "llama" => number(TokenType::Unknown),
            kind => number(kind),
        });
        let types = types.collect();
        if kind == WORDS {
            for token in tokens.iter_mut().filter(|token| !token.is_empty()) {
                *token = word_piece::marked_at_beginning(token);
            }
        }
        let mut vocabulary = Vocabulary {
            model: kind,
            pre: None,
            types,
            scores: (kind == "llama").then(|| scores(&tokens, &merges)),
            tokens: (0..rows).map(|i| filled(tokens.get(i), i)).collect(),
            merges: byte_level.then_some(merges),
            unknown: unknown.filter(|_| !byte_level),
            mask,
            add_space_prefix: None,
        };
        vocabulary.types.resize(rows, number(TokenType::Unused));
        match vocabulary.settle(tokenizer) {
            true => Ok(vocabulary),
            false if kind == WORDS => {
                Err(fault("words are lower-cased without accents in GGUF, and here they are not".to_owned()))
            }
            false => Err(fault(format!(
                "none of the pre-tokenizers known to GGUF gives its ids ({})",
                PreTokenizer::names().collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// Finds the pre-tokenizer, or the handling of a leading space, under which a text has the folder's ids.
    fn settle(&mut self, tokenizer: &Tokenizer) -> bool {
        let options = EncodeOptions::default();
        let Ok(wanted) = tokenizer.encode(PROBE, options) else { return false };
        let agrees = |v: &Vocabulary| {
            let made = Tokenizer::from_vocab(v.source(tokenizer), None);
            made.is_ok_and(|t| t.encode(PROBE, options).is_ok_and(|ids| ids == wanted))
        };
        if self.model == WORDS {
            return agrees(self);
        }
        if self.merges.is_none() {
            return [true, false].into_iter().any(|prefix| {
                self.add_space_prefix = Some(prefix);
                agrees(self)
            });
        }
        // `default` is what files without a name get; any other name says more.
        PreTokenizer::names().filter(|n| *n != "default").chain(["default"]).any(|name| {
            self.pre = Some(name);
            agrees(self)
        })
    }

    fn source(&self, tokenizer: &Tokenizer) -> VocabSource<'_> {
        let (begins, ends, words) = (tokenizer.bos(), tokenizer.eos(), self.model == WORDS);
        VocabSource {
            model: self.model,
            pre: self.pre,
            tokens: self.tokens.iter().map(String::as_bytes).collect(),
            scores: self.scores.clone(),
            token_types: Some(self.types.clone()),
            merges: self.merges.as_ref().map(|m| m.iter().map(String::as_bytes).collect()),
            bos: begins,
            eos: ends.filter(|_| !words),
            eot: tokenizer.eot(),
            eom: None,
            unknown: self.unknown,
            cls: begins.filter(|_| words),
            sep: ends.filter(|_| words),
            padding: tokenizer.padding(),
            fim: match tokenizer.fill_in_the_middle() {
                Some(fim) => [fim.prefix, fim.suffix, fim.middle].map(Some),
                None => [None; 3],
            },
            add_bos: Some(tokenizer.adds_bos()),
            add_eos: Some(tokenizer.adds_eos()),
            add_space_prefix: self.add_space_prefix,
        }
    }

    /// Sets the keys `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// What the writer refuses.
    pub(crate) fn write(&self, tokenizer: &Tokenizer, writer: &mut GgufWriter) -> Result<(), LoadError> {
        let source = self.source(tokenizer);
        writer.set("tokenizer.ggml.model", source.model)?;
        if let Some(pre) = source.pre {
            writer.set("tokenizer.ggml.pre", pre)?;
        }
        writer.set_array("tokenizer.ggml.tokens", &self.tokens)?;
        if let Some(scores) = &self.scores {
            writer.set_array("tokenizer.ggml.scores", scores)?;
        }
        writer.set_array("tokenizer.ggml.token_type", &self.types)?;
        if let Some(merges) = &self.merges {
            writer.set_array("tokenizer.ggml.merges", merges)?;
        }
        let [prefix, suffix, middle] = source.fim;
        let ids = [
            ("fim_pre", prefix),
            ("fim_suf", suffix),
            ("fim_mid", middle),
            ("bos", source.bos),
            ("eos", source.eos),
            ("eot", source.eot),
            ("unknown", source.unknown),
            ("padding", source.padding),
            ("cls", source.cls),
            ("seperator", source.sep), // so spelt
            ("mask", self.mask),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                writer.set(&format!("tokenizer.ggml.{name}_token_id"), &id)?;
            }
        }
        writer.set("tokenizer.ggml.add_bos_token", &tokenizer.adds_bos())?;
        writer.set("tokenizer.ggml.add_eos_token", &tokenizer.adds_eos())?;
        match self.add_space_prefix {
            Some(prefix) => writer.set("tokenizer.ggml.add_space_prefix", &prefix),
            None => Ok(()),
        }
    }
}

/// The number that GGUF gives a type; the way back from [`TokenType::from_gguf`].
fn number(kind: TokenType) -> i32 {
    (1..=6).find(|n| TokenType::from_gguf(*n) == Some(kind)).unwrap_or(1)
}

/// `"a b"`, or `["a", "b"]` in newer files.
fn merge(value: &Value) -> Option<String> {
    match value {
        Value::String(pair) => Some(pair.clone()),
        Value::Array(pair) => match &**pair {
            [Value::String(a), Value::String(b)] => Some(format!("{a} {b}")),
            _ => None,
        },
        _ => None,
    }
}

/// What each id is called in the vocabulary and among the added tokens; empty where no one has the id.
fn spellings(json: &Value, rows: usize) -> Vec<String> {
    let vocab =
        json.get("model").and_then(|m| m.get("vocab")).and_then(Value::as_object).into_iter().flatten();
    let added = json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let added = added.filter_map(|t| Some((t.get("content")?.as_str()?, t.get("id")?)));
    let mut tokens = Vec::new();
    for (spelling, id) in vocab.map(|(k, v)| (k.as_str(), v)).chain(added) {
        // One more than there may be is enough to be refused.
        let Some(id) = id.as_u64().and_then(|id| usize::try_from(id).ok()).map(|id| id.min(rows)) else {
            continue;
        };
        if id >= tokens.len() {
            tokens.resize(id.saturating_add(1), String::new());
        }
        if let Some(slot) = tokens.get_mut(id) {
            spelling.clone_into(slot);
        }
    }
    tokens
}

fn filled(token: Option<&String>, id: usize) -> String {
    token.filter(|t| !t.is_empty()).cloned().unwrap_or_else(|| format!("[PAD{id}]"))
}

/// SentencePiece joins the pair with the best score first: minus the place among the merges.
#[expect(clippy::cast_precision_loss, reason = "ranks below 2^24 are exact")]
fn scores(tokens: &[String], merges: &[String]) -> Vec<f32> {
    let mut ranks = HashMap::new();
    for (rank, pair) in merges.iter().enumerate() {
        if let Some((a, b)) = pair.split_once(' ') {
            ranks.entry(format!("{a}{b}")).or_insert(rank);
        }
    }
    tokens.iter().map(|t| ranks.get(t).map_or(0.0, |rank| -(*rank as f32))).collect()
}
