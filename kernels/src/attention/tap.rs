//! A look at scores and weights while attention runs.

#![allow(unsafe_code)]

use super::leaf::Total;
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::MatMut;
use std::ops::Range;

/// Where the scores and weights of some rows and heads go.
///
/// Row `(i - rows.start) * heads.len() + (h - heads.start)` of a matrix belongs to row `i` and head `h`; its columns
/// are absolute positions. Positions that a row does not see get a score of -inf and a weight of 0.
#[derive(Debug)]
pub struct AttentionTap<'a> {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Query heads.
    pub heads: Range<usize>,
    /// Receives the scores, scaled and soft-capped.
    pub scores: Option<MatMut<'a>>,
    /// Receives the softmax of the scores: in f32, before any rounding to a narrower type.
    pub weights: Option<MatMut<'a>>,
}

impl AttentionTap<'_> {
    /// Checks the extents and clears the matrices.
    pub(super) fn prepare(
        &mut self,
        rows: usize,
        n_heads: usize,
        positions: usize,
    ) -> Result<(), KernelError> {
        const OP: &str = "attention";
        let wanted = self.rows.len() * self.heads.len();
        let mut checks = [("tap.rows.end (at most)", rows, self.rows.end, self.rows.end > rows); 6];
        checks[1] = ("tap.heads.end (at most)", n_heads, self.heads.end, self.heads.end > n_heads);
        for (i, m) in [&self.scores, &self.weights].into_iter().enumerate() {
            if let Some(m) = m {
                checks[2 + 2 * i] = ("rows of a tapped matrix", wanted, m.rows(), m.rows() != wanted);
                checks[3 + 2 * i] =
                    ("columns of a tapped matrix (at least)", positions, m.cols(), m.cols() < positions);
            }
        }
        for (what, expected, found, wrong) in checks {
            if wrong {
                return Err(KernelError::Shape { op: OP, what, expected, found });
            }
        }
        for m in [&mut self.scores, &mut self.weights].into_iter().flatten() {
            (0..wanted).for_each(|i| m.row_mut(i).fill(f32::NEG_INFINITY));
        }
        Ok(())
    }

    /// The matrices' row for a row of the batch and a head, if it is wanted.
    pub(super) fn row(&self, row: usize, head: usize) -> Option<usize> {
        let wanted = self.rows.contains(&row) && self.heads.contains(&head);
        wanted.then(|| (row - self.rows.start) * self.heads.len() + (head - self.heads.start))
    }

    /// Takes a wanted row's scores from `position` on.
    ///
    /// # Safety
    /// Nobody else may be using these positions of this row.
    pub(super) unsafe fn put(&self, row: usize, position: usize, scores: &[f32]) {
        for m in [&self.scores, &self.weights].into_iter().flatten() {
            let n = scores.len().min(m.cols().saturating_sub(position));
            if n > 0 {
                // SAFETY: within the matrix, which `prepare` checked for this row; unshared by the caller's promise.
                let mut strip = unsafe { m.strip(row..row + 1, position..position + n) };
                strip.row_mut(0).copy_from_slice(&scores[..n]);
            }
        }
    }

    /// Makes a wanted row's scores to weights, after all of them were put.
    ///
    /// # Safety
    /// Nobody else may be using this row.
    pub(super) unsafe fn finish(&self, kernels: Kernels, row: usize, total: Total) {
        if let Some(m) = self.weights.as_ref().filter(|m| m.cols() > 0) {
            // SAFETY: as in `put`.
            let mut strip = unsafe { m.strip(row..row + 1, 0..m.cols()) };
            kernels.table.attention_weights(total, strip.row_mut(0));
        }
    }
}
