//! Feeding texts to sessions and looking at the logits of the scored positions.

use crate::statistics::Comparison;
use anyhow::Result;
use gable_kernels::gemm::Phase;
use gable_kernels::{MatRef, Pool};
use gable_model::model::Model;
use gable_model::session::{Session, SessionOptions};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Rows of logits held at once: a row of a large vocabulary is a megabyte.
pub use crate::logits::ROWS;

/// A session that reads chunk after chunk.
pub struct Feed {
    session: Session,
    pool: Arc<Pool>,
    phase: Phase,
    /// Tokens per pass.
    batch: usize,
}

impl Feed {
    /// A fresh session.
    pub fn new(model: &Arc<Model>, pool: &Arc<Pool>, options: SessionOptions, phase: Phase) -> Result<Feed> {
        let session = Session::new(Arc::clone(model), Arc::clone(pool), options)?;
        let batch = if phase == Phase::Decode { 1 } else { options.batch.min(options.max_positions).max(1) };
        Ok(Feed { session, pool: Arc::clone(pool), phase, batch })
    }

    /// Reads a chunk from an empty context and hands out the logits of its positions from `first` on, with the tokens
    /// that really follow; the last position has no successor and is not computed.
    pub fn score(
        &mut self,
        chunk: &[u32],
        first: usize,
        f: impl FnMut(&Pool, MatRef<'_>, &[u32]),
    ) -> Result<()> {
        self.session.truncate(0)?;
        self.go_on(chunk, first, f)
    }

    /// The same, but what the chunk begins with and the session still holds is not read again.
    pub fn score_rest(
        &mut self,
        chunk: &[u32],
        first: usize,
        f: impl FnMut(&Pool, MatRef<'_>, &[u32]),
    ) -> Result<()> {
        let held = self.session.tokens().iter().zip(chunk).take_while(|(a, b)| a == b).count();
        // A layer with a sliding window may have let go of what a shorter text needs.
        if self.session.truncate(held.min(first)).is_err() {
            self.session.truncate(0)?;
        }
        self.go_on(chunk, first, f)
    }

    fn go_on(
        &mut self,
        chunk: &[u32],
        first: usize,
        mut f: impl FnMut(&Pool, MatRef<'_>, &[u32]),
    ) -> Result<()> {
        let pool = Arc::clone(&self.pool);
        for piece in pieces(self.session.tokens().len(), chunk.len(), first, self.batch) {
            let targets = targets(chunk, &piece, first);
            let logits = self.pass(chunk, &piece, first)?;
            if !targets.is_empty() {
                f(&pool, logits, targets);
            }
        }
        Ok(())
    }

    fn pass(&mut self, chunk: &[u32], piece: &Range<usize>, first: usize) -> Result<MatRef<'_>> {
        let tokens = chunk.get(piece.clone()).unwrap_or_default();
        let scored = |i: usize| piece.start.saturating_add(i) >= first;
        Ok(self.session.observe(self.phase, tokens, scored, &mut ())?)
    }
}

/// Lets both read a chunk, piece by piece, and compares what they say at the scored positions.
pub fn score_both(
    ours: &mut Feed,
    base: &mut Feed,
    chunk: &[u32],
    first: usize,
    mut f: impl FnMut(Vec<Comparison>, &[u32]),
) -> Result<()> {
    ours.session.truncate(0)?;
    base.session.truncate(0)?;
    let pool = Arc::clone(&ours.pool);
    for piece in pieces(0, chunk.len(), first, ours.batch.min(base.batch)) {
        let targets = targets(chunk, &piece, first);
        let ours = ours.pass(chunk, &piece, first)?;
        let base = base.pass(chunk, &piece, first)?;
        f(compare_rows(&pool, targets, |i| base.row(i), |i| ours.row(i)), targets);
    }
    Ok(())
}

/// Compares rows of logits, spread over the pool.
pub fn compare_rows<'a>(
    pool: &Pool,
    targets: &[u32],
    base: impl Fn(usize) -> &'a [f32] + Sync,
    ours: impl Fn(usize) -> &'a [f32] + Sync,
) -> Vec<Comparison> {
    spread(pool, targets.len(), |i| {
        Comparison::new(base(i), ours(i), targets.get(i).copied().unwrap_or(u32::MAX))
    })
}

/// `f(0), f(1), ..., f(n - 1)`, computed by the threads of the pool.
pub fn spread<T: Send + Sync>(pool: &Pool, n: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let slots: Vec<OnceLock<T>> = (0..n).map(|_| OnceLock::new()).collect();
    pool.enter(|team| {
        team.run(n, &|i| {
            if let Some(slot) = slots.get(i) {
                slot.get_or_init(|| f(i));
            }
        });
    });
    slots.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// The positions from `start` on of a chunk of `len` tokens, cut into passes: whole batches up to `first`, then no more
/// than there is room for logits. The last token is left out.
fn pieces(start: usize, len: usize, first: usize, batch: usize) -> Vec<Range<usize>> {
    let last = len.saturating_sub(1);
    let first = first.min(last).max(start);
    let cut = |range: Range<usize>, step: usize| {
        let end = range.end;
        range.step_by(step.max(1)).map(move |start| start..start.saturating_add(step.max(1)).min(end))
    };
    cut(start..first, batch).chain(cut(first..last, batch.min(ROWS))).collect()
}

/// The tokens that follow the scored positions of a piece.
fn targets<'c>(chunk: &'c [u32], piece: &Range<usize>, first: usize) -> &'c [u32] {
    let start = piece.start.max(first).saturating_add(1);
    chunk.get(start..piece.end.saturating_add(1)).unwrap_or_default()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn pieces_cover_all_but_the_last_token_and_score_no_more_rows_than_fit() {
        let cases = [
            (0, 512, 256, 512),
            (0, 100, 0, 512),
            (0, 300, 299, 7),
            (0, 2, 1, 1),
            (7, 1000, 10, 512),
            (9, 90, 9, 8),
        ];
        for (start, len, first, batch) in cases {
            let pieces = pieces(start, len, first, batch);
            let mut next = start;
            for piece in &pieces {
                assert_eq!(piece.start, next);
                assert!(piece.len() <= batch && (piece.end <= first || piece.len() <= ROWS));
                next = piece.end;
            }
            assert_eq!(next, len - 1);
            let chunk: Vec<u32> = (0..u32::try_from(len).unwrap()).collect();
            let all: Vec<u32> = pieces.iter().flat_map(|p| targets(&chunk, p, first).to_vec()).collect();
            assert_eq!(all, chunk[(first + 1).min(len)..]);
        }
    }
}
