//! Vocabularies for the tests.

use gable_model::gguf::Gguf;
use gable_model::tokenizer::{EncodeOptions, Tokenizer};

/// Where the golden data lie.
pub const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden");

/// A model in the cache. The tests need it; they do not pass without.
pub fn cached_model(name: &str) -> String {
    let folder = std::env::var("GABLE_HOME")
        .unwrap_or_else(|_| format!("{}/.cache/gable", std::env::var("HOME").unwrap()));
    format!("{folder}/{name}")
}

/// One of the published vocabularies.
pub fn vocabulary(name: &str) -> Tokenizer {
    load(&format!("{GOLDEN}/tokenizer/ggml-vocab-{name}.gguf"), None)
}

/// The tokenizer of a GGUF file.
pub fn load(path: &str, pre: Option<&str>) -> Tokenizer {
    Tokenizer::from_gguf(Gguf::open(path).unwrap().metadata(), pre).unwrap()
}

/// The ids of a user's text.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, EncodeOptions::default()).unwrap()
}
