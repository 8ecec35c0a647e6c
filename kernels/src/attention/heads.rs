//! What queries and keys go through between their projection and attention.

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::MatMut;
use crate::norm::check_eps;
use crate::rope::RopeAngles;
use crate::rowwise::require;

/// Norms of heads and their turn by position, before keys go into the cache: see [`Kernels::turn_and_append`].
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadSteps<'a> {
    /// Weights of the RMSNorm of every query head, one for each of its elements.
    pub q_norm: Option<&'a [f32]>,
    /// The same of every key head.
    pub k_norm: Option<&'a [f32]>,
    /// Added to the mean of squares in both norms.
    pub eps: f32,
    /// Angles of every row, by which queries and keys are turned behind the norms.
    pub angles: Option<&'a RopeAngles>,
}

impl HeadSteps<'_> {
    /// Whether they fit so many rows of heads.
    pub(super) fn check(&self, op: &'static str, rows: usize, head_dim: usize) -> Result<(), KernelError> {
        check_eps(op, self.eps)?;
        for (what, norm) in [("q_norm.len", self.q_norm), ("k_norm.len", self.k_norm)] {
            if let Some(norm) = norm {
                require(op, what, head_dim, norm.len())?;
            }
        }
        self.angles.map_or(Ok(()), |angles| angles.check(op, rows, head_dim))
    }

    /// Norm and turn of the heads in `x`, whose first row is the batch's row `first`.
    pub(super) fn apply(
        &self,
        kernels: Kernels,
        norm: Option<&[f32]>,
        head_dim: usize,
        first: usize,
        x: &mut MatMut<'_>,
    ) {
        for i in 0..x.rows() {
            let row = x.row_mut(i);
            if let Some(weight) = norm {
                for head in row.chunks_exact_mut(head_dim) {
                    kernels.table.rms_norm_row_in_place(head, weight, self.eps);
                }
            }
            if let Some(angles) = self.angles {
                kernels.table.rope_row(row, head_dim, angles.row(first + i), angles.pairing());
            }
        }
    }
}
