//! Byte-level byte-pair encoding (`tokenizer.ggml.model = "gpt2"`).
//!
//! The text is cut by a pre-tokenizer; each piece starts as its bytes, and pairs are joined in the order in which the
//! file lists the merges. Merges are kept as (left id, right id) -> (rank, joined id), so no text is compared while merging.

use super::alphabet::Alphabet;
use super::merge::{Join, Merger};
use super::pre_tokenizer::PreTokenizer;
use super::special::SpecialTokens;
use super::vocab::{HashIndex, Vocab, quoted};
use crate::error::LoadError;

/// One line of the merge list.
#[derive(Clone, Copy)]
struct Merge {
    left: u32,
    right: u32,
    joined: u32,
}

/// A byte-level coder.
pub(super) struct Bpe {
    merges: Vec<Merge>,
    index: HashIndex,
    pub(super) pre_tokenizer: &'static PreTokenizer,
}

/// Threads that resolve merges at most.
const MAX_THREADS: usize = 4;
/// Merges below which another thread would gain nothing.
const MIN_PART: usize = 8192;

/// The ids of some lines of the merge list, of which the first has the number `first`.
fn resolve(
    lines: &[&[u8]],
    first: usize,
    vocab: &Vocab,
    special: &SpecialTokens,
) -> Result<Vec<Merge>, LoadError> {
    let mut merges = Vec::with_capacity(lines.len());
    let mut bytes = Vec::new();
    let mut last = 0u32;
    for (i, merge) in lines.iter().enumerate() {
        let wrong = |what: &str| {
            LoadError::Tokenizer(format!("merge {}, {}, {what}", first.saturating_add(i), quoted(merge)))
        };
        // The first character may itself be a space in odd vocabularies, so look for the separator after it.
        let space = merge.iter().skip(1).position(|&byte| byte == b' ').map(|at| at + 1);
        let (left, right) = space
            .and_then(|at| merge.split_at_checked(at))
            .and_then(|(left, right)| Some((left, right.get(1..)?)))
            .ok_or_else(|| wrong("has no space between two tokens"))?;
        let mut id_of = |parts: [&[u8]; 2], guesses: &[u32]| {
            bytes.clear();
            let is_text = parts.iter().all(|part| Alphabet::ByteLevel.read(part, &mut bytes));
            let token = if is_text { vocab.find_guessing(&bytes, guesses) } else { None };
            token.or_else(|| special.find(&parts.concat()))
        };
        // Lists are in the order of what they make: mostly the next token, or the last one in another way.
        let next = [last.saturating_add(1), last];
        let left_id =
            id_of([left, b""], &[]).ok_or_else(|| wrong("names a left token that does not exist"))?;
        let right_id =
            id_of([right, b""], &[]).ok_or_else(|| wrong("names a right token that does not exist"))?;
        last = id_of([left, right], &next).ok_or_else(|| wrong("joins to a token that does not exist"))?;
        merges.push(Merge { left: left_id, right: right_id, joined: last });
    }
    Ok(merges)
}

impl Bpe {
    /// Resolves the merges against the vocabulary.
    pub(super) fn build(
        merges: &[&[u8]],
        vocab: &Vocab,
        special: &SpecialTokens,
        pre_tokenizer: &'static PreTokenizer,
    ) -> Result<Bpe, LoadError> {
        let mut bpe = Bpe {
            merges: Vec::with_capacity(merges.len()),
            index: HashIndex::for_count(merges.len()),
            pre_tokenizer,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let part = merges.len().div_ceil(threads).max(MIN_PART);
        // Parts are resolved at the same time, and taken over in their order.
        let parts: Vec<Result<Vec<Merge>, LoadError>> = std::thread::scope(|scope| {
            let part_at = |(i, lines)| move || resolve(lines, part.saturating_mul(i), vocab, special);
            let mut jobs = merges.chunks(part).enumerate().map(part_at);
            let first = jobs.next();
            // A system that gives no thread for a part has it done here.
            let others: Vec<_> = jobs
                .map(|job| std::thread::Builder::new().spawn_scoped(scope, job).map_err(|_| job))
                .collect();
            let first = first.map(|job| job());
            let others = others.into_iter().map(|other| match other {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(job) => job(),
            });
            first.into_iter().chain(others).collect()
        });
        for part in parts {
            part?.into_iter().for_each(|merge| bpe.push(merge));
        }
        // Text must never become a control token, whatever the file's merges say.
        bpe.merges.iter_mut().for_each(|merge| {
            if vocab.token_type(merge.joined).is_control() {
                merge.joined = NO_TOKEN;
            }
        });
        Ok(bpe)
    }

    /// Appends a merge; of two for the same pair the first counts.
    fn push(&mut self, merge: Merge) {
        if self.rank(merge.left, merge.right).is_none() {
            let hash = self.hash(merge.left, merge.right);
            self.index.insert(hash, self.merges.len() as u32);
        }
        self.merges.push(merge);
    }

    fn hash(&self, left: u32, right: u32) -> u64 {
        self.index.hash_pair(left, right)
    }

    fn rank(&self, left: u32, right: u32) -> Option<u32> {
        self.index.find(self.hash(left, right), |rank| {
            self.merges.get(rank as usize).is_some_and(|merge| merge.left == left && merge.right == right)
        })
    }

    fn join(&self, left: u32, right: u32) -> Option<Join> {
        let priority = self.rank(left, right)?;
        let id = self.merges.get(priority as usize)?.joined;
        (id != NO_TOKEN).then_some(Join { priority, id })
    }

    /// Appends the ids of a text without special tokens. It must be shorter than 4 GiB.
    ///
    /// Bytes that the vocabulary has no token for (some vocabularies lack those that no UTF-8 text holds) are left out.
    pub(super) fn encode(&self, text: &str, vocab: &Vocab, merger: &mut Merger, ids: &mut Vec<u32>) {
        for piece in self.pre_tokenizer.split(text) {
            if self.pre_tokenizer.ignore_merges
                && let Some(id) = vocab.find(piece.as_bytes())
            {
                ids.push(id);
                continue;
            }
            merger.clear(piece.len());
            piece.bytes().for_each(|byte| merger.push(1, vocab.byte_id(byte)));
            merger.run(|left, right| self.join(left.id?, right.id?));
            ids.extend(merger.symbols().filter_map(|symbol| symbol.id));
        }
    }
}

/// Stands in for a merge that is never done.
const NO_TOKEN: u32 = u32::MAX;
