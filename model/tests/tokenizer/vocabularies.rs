//! Vocabularies for the tests: a reader of GGUF metadata, no more than these tests need.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};

use gable_model::tokenizer::{EncodeOptions, Tokenizer, VocabSource};

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
    Tokenizer::from_vocab(Metadata::read(path).vocab_source(), pre).unwrap()
}

/// The ids of a user's text.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, EncodeOptions::default()).unwrap()
}

enum Value {
    Number(u64),
    Text(Vec<u8>),
    Texts(Vec<Vec<u8>>),
    Words(Vec<u32>),
    Other,
}

/// The metadata of a GGUF file.
pub struct Metadata(HashMap<String, Value>);

impl Metadata {
    /// Reads them; panics on a file that is not as expected.
    pub fn read(path: &str) -> Metadata {
        let file = File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut file = BufReader::new(file);
        assert_eq!(&bytes(&mut file, 4), b"GGUF");
        number(&mut file, 4);
        number(&mut file, 8);
        let count = number(&mut file, 8);
        let entries = (0..count).map(|_| {
            let key = String::from_utf8(text(&mut file)).unwrap();
            let kind = number(&mut file, 4);
            (key, value(&mut file, kind))
        });
        Metadata(entries.collect())
    }

    /// What they say of the tokenizer.
    pub fn vocab_source(&self) -> VocabSource<'_> {
        let get = |key: &str| self.0.get(&format!("tokenizer.ggml.{key}"));
        let text = |key: &str| match get(key) {
            Some(Value::Text(text)) => Some(std::str::from_utf8(text).unwrap()),
            _ => None,
        };
        let texts = |key: &str| match get(key) {
            Some(Value::Texts(texts)) => Some(texts.iter().map(Vec::as_slice).collect()),
            _ => None,
        };
        let words = |key: &str| match get(key) {
            Some(Value::Words(words)) => Some(words),
            _ => None,
        };
        let number = |key: &str| match get(key) {
            Some(Value::Number(number)) => Some(*number as u32),
            _ => None,
        };
        VocabSource {
            model: text("model").unwrap(),
            pre: text("pre"),
            tokens: texts("tokens").unwrap(),
            scores: words("scores").map(|words| words.iter().map(|&w| f32::from_bits(w)).collect()),
            token_types: words("token_type").map(|words| words.iter().map(|&w| w as i32).collect()),
            merges: texts("merges"),
            bos: number("bos_token_id"),
            eos: number("eos_token_id"),
            eot: number("eot_token_id"),
            eom: number("eom_token_id"),
            unknown: number("unknown_token_id"),
            padding: number("padding_token_id"),
            add_bos: number("add_bos_token").map(|n| n != 0),
            add_eos: number("add_eos_token").map(|n| n != 0),
            add_space_prefix: number("add_space_prefix").map(|n| n != 0),
        }
    }
}

fn bytes(file: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact(&mut bytes).unwrap();
    bytes
}

fn number(file: &mut impl Read, len: usize) -> u64 {
    let mut word = [0; 8];
    file.read_exact(&mut word[..len]).unwrap();
    u64::from_le_bytes(word)
}

fn text(file: &mut impl Read) -> Vec<u8> {
    let len = number(file, 8) as usize;
    bytes(file, len)
}

fn value(file: &mut impl Read, kind: u64) -> Value {
    let width = |kind: u64| match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    };
    match kind {
        8 => Value::Text(text(file)),
        9 => {
            let kind = number(file, 4);
            let count = number(file, 8);
            match kind {
                8 => Value::Texts((0..count).map(|_| text(file)).collect()),
                4..=6 => Value::Words((0..count).map(|_| number(file, 4) as u32).collect()),
                _ => {
                    (0..count).for_each(|_| _ = number(file, width(kind)));
                    Value::Other
                }
            }
        }
        6 | 12 => {
            number(file, width(kind));
            Value::Other
        }
        _ => Value::Number(number(file, width(kind))),
    }
}
