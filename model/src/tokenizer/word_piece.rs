//! BERT's vocabularies: a text is lower-cased and cut into words, a word into the longest pieces from its beginning.
//!
//! ```text
//! vocab.txt, tokenizer.json   play   ##ing       a piece that goes on is marked
//! GGUF                        ▁play  ing         a piece that begins is marked
//! table of tokens             ▁play  ing
//! ```
//!
//! The `tokenizers` crate cuts; from a vocabulary without a `tokenizer.json`, one is made.

use super::alphabet::SPACE_MARK;
use super::{Tokenizer, VocabSource};
use crate::LoadError;
use serde_json::json;

/// Marks a piece that goes on.
const CONTINUES: &str = "##";

/// A name in brackets: a control token.
fn is_named(token: &str) -> bool {
    token.starts_with('[') && token.ends_with(']') && token.len() > 2
}

/// A token of `vocab.txt` as GGUF spells it.
pub(super) fn marked_at_beginning(token: &str) -> String {
    match token.strip_prefix(CONTINUES) {
        _ if is_named(token) => token.to_owned(),
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => format!("{SPACE_MARK}{token}"),
    }
}

/// The way back.
fn marked_where_it_goes_on(token: &str) -> String {
    match token.strip_prefix(SPACE_MARK) {
        _ if is_named(token) => token.to_owned(),
        Some(word) => word.to_owned(),
        None => format!("{CONTINUES}{token}"),
    }
}

/// A `tokenizer.json` for a vocabulary as in `vocab.txt`.
///
/// # Errors
/// [`LoadError::Tokenizer`] if a control token is not in it.
pub(super) fn pipeline(tokens: &[String], lower_case: bool) -> Result<Vec<u8>, LoadError> {
    let id = |name: &str| {
        let lacks =
            || LoadError::Tokenizer(format!("a vocabulary of words needs {name}, and the file has none"));
        tokens.iter().position(|token| token == name).ok_or_else(lacks)
    };
    let (cls, sep, _) = (id("[CLS]")?, id("[SEP]")?, id("[UNK]")?);
    let named = tokens.iter().enumerate().filter(|(_, token)| CONTROL.contains(&token.as_str()));
    let added = named.map(|(id, token)| {
        json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    });
    let vocabulary: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                        "strip_accents": null, "lowercase": lower_case },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", sep], "cls": ["[CLS]", cls] },
        "decoder": { "type": "WordPiece", "prefix": CONTINUES, "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": CONTINUES,
                   "max_input_chars_per_word": 100, "vocab": vocabulary },
    });
    Ok(json.to_string().into_bytes())
}

/// Tokens that steer.
const CONTROL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

impl VocabSource<'_> {
    /// A tokenizer of a GGUF file's `bert` vocabulary. Whether it tells capitals apart is in no key: as everywhere, it
    /// does not.
    pub(super) fn word_pieces(&self) -> Result<Tokenizer, LoadError> {
        self.check_lengths()?;
        let mut tokens = Vec::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            let text = std::str::from_utf8(token)
                .map_err(|_| LoadError::Tokenizer(format!("token {id} is not UTF-8")))?;
            tokens.push(marked_where_it_goes_on(text));
        }
        let cls = self.checked_id("cls", self.cls.or(self.bos))?;
        let sep = self.checked_id("separator", self.sep.or(self.eos))?;
        let padding = self.checked_id("padding", self.padding)?;
        for (id, name) in [(cls, "[CLS]"), (sep, "[SEP]")] {
            let found = id.and_then(|id| tokens.get(usize::try_from(id).ok()?));
            if let Some(found) = found.filter(|found| *found != name) {
                return Err(LoadError::Tokenizer(format!("the token in the place of {name} is {found:?}")));
            }
        }
        let named = |name: &str| tokens.iter().position(|t| t == name).and_then(|i| u32::try_from(i).ok());
        let bytes = pipeline(&tokens, true)?;
        let (cls, sep) = (cls.or_else(|| named("[CLS]")), sep.or_else(|| named("[SEP]")));
        Tokenizer::from_pipeline(bytes, "the vocabulary", |_| (cls, sep, padding), Vec::new())
    }
}
