//! The token table: what each id stands for, and which id a run of bytes has.
//!
//! A vocabulary of 262 144 tokens must open in a few milliseconds, so there is no string per token: all pieces lie end to
//! end in one arena, and a hash index of (tag, id) pairs points into it.
//!
//! ```text
//! bytes    T h e _ c a t ...          what the tokens stand for, not how the file spells them
//! ends     3 4 7 ...                  token i is bytes[ends[i-1]..ends[i]]
//! index    (tag, id) (-) (tag, id)    open addressing; only tokens that text may be read as
//! ```
//!
//! Tokens come from a file, so the hash is keyed at random: nobody can choose a vocabulary whose tokens all collide.

use std::hash::{BuildHasher, RandomState};

use super::alphabet::{Alphabet, named_byte};
use crate::error::LoadError;

/// What a token is for, as GGUF's `tokenizer.ggml.token_type` numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenType {
    /// Text (also where the file does not say).
    Normal,
    /// Stands for text that has no token.
    Unknown,
    /// Steers the model (`<|im_end|>`): never made from a user's text.
    Control,
    /// Added by the model's author: matches before anything else is tried.
    UserDefined,
    /// A placeholder.
    Unused,
    /// One byte that is no text by itself.
    Byte,
}

impl TokenType {
    /// The type that GGUF gives this number.
    pub(super) fn from_gguf(number: i32) -> Option<TokenType> {
        Some(match number {
            0 | 1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => return None,
        })
    }

    /// Whether text is only read as this token when control tokens are asked for.
    pub(super) fn is_control(self) -> bool {
        matches!(self, TokenType::Control | TokenType::Unknown)
    }
}

/// The longest token that is taken; real ones stay below 1 KiB.
const MAX_TOKEN_BYTES: usize = 1 << 16;

/// The token table.
pub(super) struct Vocab {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    types: Vec<TokenType>,
    index: HashIndex,
    /// The id of each single byte.
    byte_ids: [Option<u32>; 256],
    longest: usize,
}

impl Vocab {
    /// Builds the table. `types` must be as long as `tokens`.
    pub(super) fn build(
        tokens: &[&[u8]],
        types: Vec<TokenType>,
        alphabet: Alphabet,
    ) -> Result<Vocab, LoadError> {
        let total: usize = tokens.iter().map(|token| token.len()).sum();
        if u32::try_from(total).is_err() || u32::try_from(tokens.len()).is_err() {
            return Err(LoadError::Tokenizer(format!(
                "{} tokens of {total} bytes; at most 4 GiB of either",
                tokens.len()
            )));
        }
        let mut vocab = Vocab {
            bytes: Vec::with_capacity(total),
            ends: Vec::with_capacity(tokens.len()),
            types,
            index: HashIndex::for_count(tokens.len()),
            byte_ids: [None; 256],
            longest: 0,
        };
        for (id, token) in (0u32..).zip(tokens) {
            if token.len() > MAX_TOKEN_BYTES {
                return Err(LoadError::Tokenizer(format!(
                    "token {id} is {} bytes long; at most {MAX_TOKEN_BYTES} are supported",
                    token.len()
                )));
            }
            vocab.push(id, token, tokens, alphabet)?;
        }
        Ok(vocab)
    }

    fn push(&mut self, id: u32, token: &[u8], tokens: &[&[u8]], alphabet: Alphabet) -> Result<(), LoadError> {
        let begin = self.bytes.len();
        let token_type = self.token_type(id);
        let mut is_text = false;
        match (token_type, named_byte(token)) {
            (TokenType::Byte, Some(byte)) => self.bytes.push(byte),
            // Added tokens are spelt as they are; only SentencePiece's space mark still means a space.
            (TokenType::UserDefined, _) if alphabet == Alphabet::SentencePiece => {
                is_text = alphabet.read(token, &mut self.bytes);
            }
            (TokenType::Control | TokenType::Unknown | TokenType::UserDefined, _) => {
                self.bytes.extend_from_slice(token);
            }
            _ => {
                is_text = alphabet.read(token, &mut self.bytes);
                if self.bytes.len() == begin {
                    self.bytes.extend_from_slice(token);
                }
            }
        }
        // Bounded by `total`, which fits: no spelling stands for more bytes than it has.
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        let piece = self.bytes.get(begin..).unwrap_or_default();
        if let ([byte], true) = (piece, is_text || token_type == TokenType::Byte)
            && let Some(slot) = self.byte_ids.get_mut(usize::from(*byte))
            && (alphabet == Alphabet::ByteLevel || token_type == TokenType::Byte)
        {
            slot.get_or_insert(id);
        }
        if !is_text || piece.is_empty() {
            return Ok(());
        }
        self.longest = self.longest.max(piece.len());
        let ends = &self.ends;
        let bytes = &self.bytes;
        let hash = self.index.hash(piece);
        match self.index.find(hash, |other| slice(bytes, ends, other) == piece) {
            Some(other) if tokens.get(other as usize) == Some(&token) => {
                Err(LoadError::Tokenizer(format!("tokens {other} and {id} are both {}", quoted(token))))
            }
            Some(_) => Ok(()),
            None => {
                self.index.insert(hash, id);
                Ok(())
            }
        }
    }

    /// Tokens in all.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// What the token stands for; empty for an id outside the vocabulary.
    pub(super) fn piece(&self, id: u32) -> &[u8] {
        slice(&self.bytes, &self.ends, id)
    }

    /// The token's type; unused for an id outside the vocabulary.
    pub(super) fn token_type(&self, id: u32) -> TokenType {
        self.types.get(id as usize).copied().unwrap_or(TokenType::Unused)
    }

    /// The text token that stands for exactly these bytes.
    pub(super) fn find(&self, piece: &[u8]) -> Option<u32> {
        if piece.len() > self.longest {
            return None;
        }
        self.index.find(self.index.hash(piece), |id| self.piece(id) == piece)
    }

    /// The same, trying some ids first: a good guess costs no search.
    pub(super) fn find_guessing(&self, piece: &[u8], guesses: &[u32]) -> Option<u32> {
        let right = |id: u32| self.token_type(id) == TokenType::Normal && self.piece(id) == piece;
        guesses.iter().copied().find(|&id| right(id)).or_else(|| self.find(piece))
    }

    /// The token for one byte: a text token of a byte-level vocabulary, `<0xE2>` of a SentencePiece one.
    pub(super) fn byte_id(&self, byte: u8) -> Option<u32> {
        self.byte_ids.get(usize::from(byte)).copied().flatten()
    }
}

fn slice<'v>(bytes: &'v [u8], ends: &[u32], id: u32) -> &'v [u8] {
    let id = id as usize;
    let begin = id.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
    ends.get(id).and_then(|&end| bytes.get(begin as usize..end as usize)).unwrap_or_default()
}

/// A token for an error message.
pub(super) fn quoted(token: &[u8]) -> String {
    let shown = token.get(..64).unwrap_or(token);
    format!("{:?}", String::from_utf8_lossy(shown))
}

/// A set of ids, found by hash; what is hashed lies elsewhere.
pub(super) struct HashIndex {
    slots: Vec<(u32, u32)>,
    seed: u64,
}

const EMPTY: u32 = u32::MAX;

impl HashIndex {
    /// Room for `count` ids at no more than half full.
    pub(super) fn for_count(count: usize) -> HashIndex {
        let slots = count.saturating_mul(2).max(2).next_power_of_two();
        HashIndex { slots: vec![(0, EMPTY); slots], seed: RandomState::new().hash_one(0u8) }
    }

    /// The hash of some bytes under this index's key.
    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hash = fold(self.seed, bytes.len() as u64);
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            hash = fold(hash, u64::from_le_bytes(*word));
        }
        if !tail.is_empty() {
            let mut word = [0; 8];
            word.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
            hash = fold(hash, u64::from_le_bytes(word));
        }
        fold(hash, self.seed)
    }

    /// The hash of a pair of ids.
    pub(super) fn hash_pair(&self, left: u32, right: u32) -> u64 {
        fold(fold(self.seed, u64::from(left) << 32 | u64::from(right)), self.seed)
    }

    /// The id under this hash for which `is` holds.
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let (tag, mask) = self.place(hash);
        let mut slot = hash as usize & mask;
        // Ends at an empty slot: at least half of them are.
        loop {
            match self.slots.get(slot) {
                Some(&(_, EMPTY)) | None => return None,
                Some(&(found, id)) if found == tag && is(id) => return Some(id),
                Some(_) => slot = (slot + 1) & mask,
            }
        }
    }

    /// Adds an id. At most as many may be added as there is room for.
    pub(super) fn insert(&mut self, hash: u64, id: u32) {
        let (tag, mask) = self.place(hash);
        let mut slot = hash as usize & mask;
        while let Some(entry) = self.slots.get_mut(slot) {
            if entry.1 == EMPTY {
                *entry = (tag, id);
                return;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn place(&self, hash: u64) -> (u32, usize) {
        ((hash >> 32) as u32, self.slots.len() - 1)
    }
}

/// Multiplies to 128 bits and folds the halves, which mixes every bit into every other.
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(u128::from(b ^ 0xD1B5_4A32_D192_ED03));
    (wide as u64) ^ (wide >> 64) as u64
}
