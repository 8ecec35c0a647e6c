//! Tokens that are looked for in the text before it is cut: control tokens and the author's own.
//!
//! Matching is leftmost-longest. The tokens lie sorted, so those that begin with the bytes read so far are one range, and
//! each further byte narrows it by bisection; most positions fail at their first byte, which a table answers.

use super::vocab::{TokenType, Vocab, quoted};
use crate::error::LoadError;

/// A stretch of a text.
pub(super) enum Fragment<'t> {
    /// Text to be cut and merged.
    Text(&'t str),
    /// A token that stood in the text by name.
    Token(u32),
}

#[derive(Clone, Copy)]
struct Entry {
    begin: u32,
    end: u32,
    id: u32,
    control: bool,
}

/// All special tokens of a vocabulary, by how the file spells them.
pub(super) struct SpecialTokens {
    spellings: Vec<u8>,
    entries: Vec<Entry>,
    /// `entries[by_first[b]..by_first[b + 1]]` begin with byte `b`.
    by_first: [u32; 257],
}

impl SpecialTokens {
    /// Collects them.
    pub(super) fn build(tokens: &[&[u8]], vocab: &Vocab) -> Result<SpecialTokens, LoadError> {
        let mut ids: Vec<(&[u8], u32)> = (0u32..)
            .zip(tokens)
            .filter(|(id, token)| {
                let token_type = vocab.token_type(*id);
                // Texts are UTF-8, so nothing else can match (or end within a character).
                (token_type.is_control() || token_type == TokenType::UserDefined)
                    && !token.is_empty()
                    && std::str::from_utf8(token).is_ok()
            })
            .map(|(id, token)| (*token, id))
            .collect();
        ids.sort_unstable();
        if let Some(((token, a), (_, b))) = ids.iter().zip(ids.iter().skip(1)).find(|(a, b)| a.0 == b.0) {
            return Err(LoadError::Tokenizer(format!("tokens {a} and {b} are both {}", quoted(token))));
        }
        let mut special = SpecialTokens {
            spellings: Vec::new(),
            entries: Vec::with_capacity(ids.len()),
            by_first: [0; 257],
        };
        for (token, id) in ids {
            // The vocabulary has proved that all tokens together stay below 4 GiB.
            let begin = special.spellings.len() as u32;
            special.spellings.extend_from_slice(token);
            let end = special.spellings.len() as u32;
            let control = vocab.token_type(id).is_control();
            special.entries.push(Entry { begin, end, id, control });
        }
        for first in 0..=256u32 {
            let below = special
                .entries
                .partition_point(|entry| special.byte(entry, 0).is_some_and(|byte| u32::from(byte) < first));
            if let Some(slot) = special.by_first.get_mut(first as usize) {
                *slot = below as u32;
            }
        }
        Ok(special)
    }

    /// The special token spelt exactly so.
    pub(super) fn find(&self, spelling: &[u8]) -> Option<u32> {
        self.longest_at(spelling, true).filter(|(len, _)| *len == spelling.len()).map(|(_, id)| id)
    }

    /// The token that ends a turn, going by its name.
    pub(super) fn first_end_of_turn(&self) -> Option<u32> {
        END_OF_TURN.iter().find_map(|name| self.find(name))
    }

    /// The tokens at which generation stops: the given ones and those whose name says so. Ascending.
    pub(super) fn end_of_generation(&self, given: impl IntoIterator<Item = Option<u32>>) -> Vec<u32> {
        let named = |name: &[u8]| self.find(name);
        let mut ids: Vec<u32> = given.into_iter().flatten().collect();
        ids.extend(END_OF_TURN.iter().chain(&END_OF_TEXT).filter_map(|name| named(name)));
        // Where calls and returns have names of their own, `<|end|>` only ends one of several messages of a reply.
        if named(b"<|return|>").and(named(b"<|call|>")).is_some() {
            let end = named(b"<|end|>");
            ids.retain(|&id| Some(id) != end);
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Cuts a text at its special tokens: the author's own ones, and with `parse_special` the control tokens too.
    pub(super) fn fragments<'t>(
        &self,
        text: &'t str,
        parse_special: bool,
        mut take: impl FnMut(Fragment<'t>),
    ) {
        let (mut begin, mut pos) = (0, 0);
        while pos < text.len() {
            let rest = text.as_bytes().get(pos..).unwrap_or_default();
            let Some((len, id)) = self.longest_at(rest, parse_special) else {
                pos += 1;
                continue;
            };
            if let Some(before) = text.get(begin..pos).filter(|before| !before.is_empty()) {
                take(Fragment::Text(before));
            }
            take(Fragment::Token(id));
            pos += len;
            begin = pos;
        }
        if let Some(last) = text.get(begin..).filter(|last| !last.is_empty()) {
            take(Fragment::Text(last));
        }
    }

    /// The longest special token that the bytes begin with: its length and id.
    fn longest_at(&self, rest: &[u8], parse_special: bool) -> Option<(usize, u32)> {
        let first = usize::from(*rest.first()?);
        let mut low = *self.by_first.get(first)? as usize;
        let mut high = *self.by_first.get(first + 1)? as usize;
        let mut longest = None;
        for depth in 1.. {
            // All of `low..high` begin with `rest[..depth]`; sorted, an equal one comes first.
            let candidates = self.entries.get(low..high).unwrap_or_default();
            let Some(entry) = candidates.first() else { break };
            if (entry.end - entry.begin) as usize == depth && (parse_special || !entry.control) {
                longest = Some((depth, entry.id));
            }
            let Some(&next) = rest.get(depth) else { break };
            let below = candidates.partition_point(|e| self.byte(e, depth).is_none_or(|byte| byte < next));
            let within = candidates.partition_point(|e| self.byte(e, depth).is_none_or(|byte| byte <= next));
            (low, high) = (low + below, low + within);
        }
        longest
    }

    fn byte(&self, entry: &Entry, depth: usize) -> Option<u8> {
        self.spellings.get(entry.begin as usize..entry.end as usize)?.get(depth).copied()
    }
}

/// Control tokens that end a turn, by the names that families of models give them.
const END_OF_TURN: [&[u8]; 10] = [
    b"<|eot_id|>",
    b"<|im_end|>",
    b"<end_of_turn>",
    b"<|end|>",
    b"<EOT>",
    b"_<EOT>",
    b"[EOT]",
    b"<end_of_utterance>",
    b"<|endoftext|>",
    b"<|end_of_text|>",
];

/// Further control tokens at which generation stops.
const END_OF_TEXT: [&[u8]; 8] = [
    b"<|eom_id|>",
    b"<|return|>",
    b"<|call|>",
    "<｜end▁of▁sentence｜>".as_bytes(),
    b"<|fim_pad|>",
    b"<|fim_repo|>",
    b"<|repo_name|>",
    b"<|file_sep|>",
];

/// Whether models end their replies with a token of this name.
///
/// Files are often converted with such a token marked as plain text; it is a control token all the same.
pub(super) fn names_end_of_generation(spelling: &[u8]) -> bool {
    // Nearly all tokens fail the first test.
    matches!(spelling.last(), Some(b'>' | b']'))
        && (END_OF_TURN.contains(&spelling) || END_OF_TEXT.contains(&spelling))
}
