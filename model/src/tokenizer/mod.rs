//! Text to token ids and back.
//!
//! ```text
//! text ── special ──┬─ control and added tokens ──────────────────────────────┐
//!                   └─ stretches of text ── pre_tokenizer ── bpe ── merge ────┼── ids
//!                                        └─────────────────── spm ── merge ───┘
//! ids ── vocab (piece) ── stream ── text
//! ```
//!
//! GGUF files carry a vocabulary, and with it one of two coders: byte-level byte-pair encoding (`bpe`), or
//! SentencePiece's variant that joins by score (`spm`). Both are our own, because text comes from anyone: they cost n log n
//! whatever the text, and they have no pattern engine that could give up half-way and split differently. Folders in Hugging
//! Face's layout bring a `tokenizer.json`, which the `tokenizers` crate runs (`hf`); so it does BERT's vocabularies of words,
//! whichever file they are in (`word_piece`).
//!
//! **What a user writes is text.** A user who types `<|im_end|>` gets the letters, not the token that ends a reply, unless
//! the caller asks for control tokens with [`EncodeOptions::parse_special`]. Tokens that the model's author added as plain
//! vocabulary (`USER_DEFINED`) match always.

mod alphabet;
mod bpe;
mod fim;
mod from_gguf;
mod hf;
mod merge;
mod pre_tokenizer;
mod queue;
mod source;
mod special;
mod spm;
mod stream;
mod to_gguf;
mod vocab;
mod word_piece;

pub use self::fim::FillInTheMiddle;
pub use self::pre_tokenizer::PreTokenizer;
pub use self::source::VocabSource;
pub use self::stream::Utf8Stream;
pub use self::vocab::TokenType;

pub(crate) use self::to_gguf::Vocabulary;

use self::alphabet::Alphabet;
use self::bpe::Bpe;
use self::hf::HuggingFace;
use self::merge::Merger;
use self::special::{Fragment, SpecialTokens};
use self::spm::Spm;
use self::vocab::Vocab;
use crate::error::{LoadError, RunError};

/// How a text is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EncodeOptions {
    /// Put BOS before and EOS after the text where the model asks for it.
    pub add_special: bool,
    /// Read the names of control tokens as those tokens. Never for text that a user wrote.
    pub parse_special: bool,
}

enum Coder {
    Bpe(Bpe),
    Spm(Spm),
    HuggingFace(Box<HuggingFace>),
}

/// A model's tokenizer. It owns its data, and may be used from several threads.
pub struct Tokenizer {
    vocab: Vocab,
    special: SpecialTokens,
    coder: Coder,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    padding: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Ascending.
    end_of_generation: Vec<u32>,
    fim: Option<FillInTheMiddle>,
    /// Whether encoding begins a text with a space that decoding must take away.
    adds_space: bool,
}

impl Tokenizer {
    /// Builds a tokenizer from GGUF metadata. `pre_override` takes the place of the pre-tokenizer that the file names.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for a kind of vocabulary or a pre-tokenizer that is not known, [`LoadError::Tokenizer`]
    /// for tables that contradict each other; it names the entry.
    pub fn from_vocab(source: VocabSource<'_>, pre_override: Option<&str>) -> Result<Tokenizer, LoadError> {
        if source.model == "bert" {
            return source.word_pieces();
        }
        let alphabet = match source.model {
            "gpt2" => Alphabet::ByteLevel,
            "llama" => Alphabet::SentencePiece,
            other => {
                return Err(LoadError::Unsupported {
                    what: "tokenizer model",
                    found: other.to_owned(),
                    supported: "gpt2, llama, bert".to_owned(),
                });
            }
        };
        source.check_lengths()?;
        let types = source.checked_types()?;
        let vocab = Vocab::build(&source.tokens, types, alphabet)?;
        let special = SpecialTokens::build(&source.tokens, &vocab)?;
        // Vocabularies converted before these keys existed have Llama's ids.
        let llama_id = |id: u32| {
            (alphabet == Alphabet::SentencePiece && vocab.token_type(id).is_control()).then_some(id)
        };
        let bos = source.checked_id("bos", source.bos)?.or_else(|| llama_id(1));
        let eos = source.checked_id("eos", source.eos)?.or_else(|| llama_id(2));
        let unknown = source.checked_id("unknown", source.unknown)?.or_else(|| llama_id(0));
        let eot = source.checked_id("eot", source.eot)?;
        let eom = source.checked_id("eom", source.eom)?;
        let padding = source.checked_id("padding", source.padding)?;
        let [prefix, suffix, middle] = source.fim;
        let fim = [
            source.checked_id("prefix", prefix)?,
            source.checked_id("suffix", suffix)?,
            source.checked_id("middle", middle)?,
        ];

        let (coder, adds_bos, adds_space) = match alphabet {
            Alphabet::ByteLevel => {
                let pre = PreTokenizer::named(pre_override.or(source.pre).unwrap_or("default"))?;
                let merges = source.merges.as_deref().ok_or_else(|| source.lacks("merges"))?;
                (Coder::Bpe(Bpe::build(merges, &vocab, &special, pre)?), pre.adds_bos, false)
            }
            Alphabet::SentencePiece => {
                let scores = source.scores.as_deref().ok_or_else(|| source.lacks("scores"))?;
                let prefix = source.add_space_prefix.unwrap_or(true);
                (Coder::Spm(Spm::build(scores, prefix, unknown)), true, prefix)
            }
        };
        for (name, wanted, id) in [("bos", source.add_bos, bos), ("eos", source.add_eos, eos)] {
            if wanted == Some(true) && id.is_none() {
                return Err(LoadError::Tokenizer(format!(
                    "add_{name}_token is true, but there is no {name} token"
                )));
            }
        }
        Ok(Tokenizer {
            bos,
            eos,
            eot: eot.or_else(|| special.first_end_of_turn()),
            padding,
            add_bos: source.add_bos.unwrap_or(adds_bos) && bos.is_some(),
            add_eos: source.add_eos.unwrap_or(false),
            end_of_generation: special.end_of_generation([eos, eot, eom]),
            fim: FillInTheMiddle::find(fim, &special),
            adds_space,
            vocab,
            special,
            coder,
        })
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// [`RunError::Tokenizer`] for a text of 4 GiB or more, and what a `tokenizer.json` cannot encode.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, RunError> {
        if text.len() >= u32::MAX as usize {
            return Err(RunError::Tokenizer(format!("a text of {} bytes; at most 4 GiB", text.len())));
        }
        if let Coder::HuggingFace(coder) = &self.coder {
            return coder.encode(text, options);
        }
        let mut ids = Vec::new();
        if options.add_special && self.add_bos {
            ids.extend(self.bos);
        }
        let mut merger = Merger::default();
        let mut after_special = true;
        self.special.fragments(text, options.parse_special, |fragment| match (fragment, &self.coder) {
            (Fragment::Token(id), _) => {
                ids.push(id);
                after_special = true;
            }
            (Fragment::Text(text), Coder::Bpe(bpe)) => bpe.encode(text, &self.vocab, &mut merger, &mut ids),
            (Fragment::Text(text), Coder::Spm(spm)) => {
                spm.encode(text, after_special, &self.vocab, &mut merger, &mut ids);
                after_special = false;
            }
            (Fragment::Text(_), Coder::HuggingFace(_)) => {}
        });
        if options.add_special && self.add_eos {
            ids.extend(self.eos);
        }
        Ok(ids)
    }

    /// The text of some ids, without control tokens. Bytes that are no text become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        ids.iter().for_each(|&id| bytes.extend_from_slice(self.visible_piece(id)));
        let text = String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        match text.strip_prefix(' ') {
            Some(rest) if self.adds_space => rest.to_owned(),
            _ => text,
        }
    }

    /// The bytes that a token stands for, which may be part of a character; for a control token its name. Empty for an id
    /// outside the vocabulary.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.vocab.piece(id)
    }

    /// The same, but nothing for a control token: what a reader of the output is to see.
    pub fn visible_piece(&self, id: u32) -> &[u8] {
        if self.is_control(id) { &[] } else { self.piece(id) }
    }

    /// The token with exactly this name (a special token) or text.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.special.find(text.as_bytes()).or_else(|| self.vocab.find(text.as_bytes()))
    }

    /// Tokens in all.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that ends a turn of a conversation, as far as the model has one.
    pub fn eot(&self) -> Option<u32> {
        self.eot
    }

    /// The token that fills up.
    pub fn padding(&self) -> Option<u32> {
        self.padding
    }

    /// Whether a prompt begins with BOS.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether a prompt ends with EOS.
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// What the token is for; [`TokenType::Unused`] for an id outside the vocabulary.
    pub fn token_type(&self, id: u32) -> TokenType {
        self.vocab.token_type(id)
    }

    /// Whether text is only read as this token when control tokens are asked for.
    pub fn is_control(&self, id: u32) -> bool {
        self.token_type(id).is_control()
    }

    /// Whether generation stops at this token.
    pub fn is_eog(&self, id: u32) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }

    /// All tokens at which generation stops, ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}
