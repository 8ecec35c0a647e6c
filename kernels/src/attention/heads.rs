//! What queries and keys go through between their projection and attention.

use super::CacheRow;
use super::append::Keys;
use super::kv_cache::{APPEND, CacheShape, KvCache, check_extents};
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef};
use crate::norm::check_eps;
use crate::pool::Team;
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

impl Kernels {
    /// Normalises and turns the heads of queries and keys, in place, and appends keys and values: all that happens to a
    /// row between its projection and attention, while it is in the first-level cache.
    ///
    /// The same bits as [`Kernels::rms_norm_in_place`] of `q` and `k` with the norms that there are, [`Kernels::rope`] of both
    /// and [`Kernels::append`].
    ///
    /// **Shapes**: `q` is `rows.len() x (n_heads * head_dim)`, `n_heads` a multiple of the cache's; `steps` has a row of angles
    /// per row. **Everything else** as for those three.
    ///
    /// # Errors
    /// Theirs. Cache, queries and keys are unchanged then.
    ///
    /// ```
    /// use gable_kernels::attention::{CacheRow, CacheShape, CacheType, HeadSteps, KvCache};
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team, rope::*};
    /// let mut cache = KvCache::new(CacheShape {
    ///     n_layers: 1, n_kv_heads: 1, head_dim: 8, cache_type: CacheType::F32,
    ///     max_positions: 64, max_sequences: 1, max_pages: 1,
    /// })?;
    /// let rows = [CacheRow { sequence: cache.new_sequence()?, position: 0 }];
    /// let rope = Rope::new(RopePairing::Halves, 8, 10000.0, RopeScaling::None, 64)?;
    /// let mut angles = RopeAngles::new(&rope, 1);
    /// angles.set(&rope, &[0])?;
    /// let steps = HeadSteps { k_norm: Some(&[1.0; 8]), angles: Some(&angles), ..HeadSteps::default() };
    /// let (mut q, mut k) = ([3.0; 16], [3.0; 8]);
    /// let (q_view, k_view) = (MatMut::from_rows(&mut q, 16), MatMut::from_rows(&mut k, 8));
    /// let v = MatRef::from_rows(&[5.0; 8], 8);
    /// Kernels::best().turn_and_append(&Team::serial(), &mut cache, 0, &rows, steps, [q_view, k_view], v)?;
    /// assert_eq!((q, k), ([3.0; 16], [1.0; 8])); // position 0 does not turn
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    #[expect(clippy::too_many_arguments, reason = "those of append, and what becomes of them before")]
    pub fn turn_and_append(
        self,
        team: &Team<'_>,
        cache: &mut KvCache,
        layer: usize,
        rows: &[CacheRow],
        steps: HeadSteps<'_>,
        [q, k]: [MatMut<'_>; 2],
        v: MatRef<'_>,
    ) -> Result<(), KernelError> {
        let CacheShape { n_kv_heads, head_dim, .. } = *cache.shape();
        check_extents(cache, rows, (k.rows(), k.cols()), v)?;
        require(APPEND, "q.rows", rows.len(), q.rows())?;
        if !q.cols().is_multiple_of(n_kv_heads * head_dim) {
            let (expected, found) = (n_kv_heads * head_dim, q.cols());
            return Err(KernelError::Shape { op: APPEND, what: "q.cols (a multiple of)", expected, found });
        }
        steps.check(APPEND, rows.len(), head_dim)?;
        self.append_keys(team, cache, layer, rows, &Keys::Turned { steps, q, k }, v)
    }
}
