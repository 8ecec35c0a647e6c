//! How int8 groups lie in memory.
//!
//! ```text
//! int8: x[32 g + i] ~ scale[g] q[32 g + i],  scale = max |x| / 127,  q = round(x / scale) in -127..=127
//! ```
//!
//! The int8 rows lie in *stripes* of 128 values, four groups side by side: first the first sixteen values of each group,
//! then the other sixteen. So one vector of 64 bytes meets four groups in quarters of their own, which is how most
//! block formats unpack, and four neighbouring values are still one cell.
//!
//! ```text
//! stripe   | g0: 0..16 | g1: 0..16 | g2: 0..16 | g3: 0..16 | g0: 16..32 | g1: 16..32 | g2: 16..32 | g3: 16..32 |
//! ```
//!
//! A second term has the first one's scale, divided by [`FINER`]. So products with both are one integer before they are
//! scaled: `scale q . w + (scale / 256) r . w = (scale / 256) (256 q . w + r . w)`.

#![allow(unsafe_code)]

use super::blocks::{SPAN, STRIPE};
use crate::error::KernelError;
use crate::matrix::{MatMut, Rows};
use crate::memory::{Buffer, zeros};
use crate::simd::LANES;
use std::ops::Range;

/// Values per int8 group.
pub(crate) const GROUP: usize = 32;

/// Steps of a second term in one of the first: a power of two, so that scales of both are exact.
pub(crate) const FINER: i32 = 1 << FINER_BITS;
/// How far the first term's products are shifted before the second's are added.
pub(crate) const FINER_BITS: i32 = 8;

/// Per-row constants of int8 groups of one size, zeros behind the last group.
///
/// The floats of a span of 256 values lie together, as decoding reads them: `[scales | scaled sums]`, where a scaled sum
/// is `scale * sum`, what a block's minimum is multiplied with.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Groups of a row, whole spans.
    pub(crate) stride: usize,
    /// `[rows][stride / per_span][2][per_span]`
    pub(crate) factors: Buffer<f32>,
    /// Sum of the group's integers: `[rows][stride]`.
    pub(crate) sum: Buffer<i32>,
    /// For the rows in two terms, what an offset of the weights' integers is multiplied with before it is added: lane by
    /// lane, minus the sum of both terms as their products are summed. `[remainders][4 stride]`, of every stripe 16 lanes,
    /// or, with groups of 16, as many of its first and of its second vector.
    pub(crate) minus_sums: Buffer<i32>,
}

impl Groups {
    /// Room for `len` groups in all rows, and for `second` in the rows that may have a second term.
    pub(super) fn with_capacity(len: usize, second: usize) -> Result<Self, KernelError> {
        const WHAT: &str = "the activations of a batch";
        Ok(Groups {
            stride: 0,
            factors: zeros(WHAT, len.saturating_mul(2))?,
            sum: zeros(WHAT, len)?,
            minus_sums: zeros(WHAT, second.saturating_mul(4))?,
        })
    }

    /// [`minus_sums`](Groups::minus_sums) of remainder `i`.
    #[inline(always)]
    pub(crate) fn minus_sums_of(&self, i: usize) -> &[i32] {
        &self.minus_sums[i * 4 * self.stride..][..4 * self.stride]
    }

    /// The first `rows` rows and `second` rows behind them, each with columns only if `wanted`, to be written.
    pub(super) fn split(
        &mut self,
        [rows, second]: [usize; 2],
        wanted: [bool; 2],
    ) -> Result<[GroupsMut<'_>; 2], KernelError> {
        let stride = wanted.map(|wanted| if wanted { self.stride } else { 0 });
        let at = rows.saturating_mul(stride[0]).min(self.sum.len());
        let (factors, more_factors) = self.factors.split_at_mut(2 * at);
        let (sum, more_sum) = self.sum.split_at_mut(at);
        Ok([
            GroupsMut::new(factors, sum, &mut [], rows, stride[0])?,
            GroupsMut::new(more_factors, more_sum, &mut self.minus_sums, second, stride[1])?,
        ])
    }
}

/// Constants of some rows, to be written; no columns where nobody asked for them.
pub(super) struct GroupsMut<'a> {
    pub(super) factors: MatMut<'a, f32>,
    sum: MatMut<'a, i32>,
    /// No columns in first terms.
    minus_sums: MatMut<'a, i32>,
}

impl<'a> GroupsMut<'a> {
    fn new(
        factors: &'a mut [f32],
        sum: &'a mut [i32],
        minus_sums: &'a mut [i32],
        rows: usize,
        stride: usize,
    ) -> Result<Self, KernelError> {
        let lanes = if minus_sums.is_empty() { 0 } else { 4 * stride };
        Ok(GroupsMut {
            factors: MatMut::new(factors, rows, 2 * stride, 2 * stride)?,
            sum: MatMut::new(sum, rows, stride, stride)?,
            minus_sums: MatMut::new(minus_sums, rows, lanes, lanes)?,
        })
    }

    pub(super) fn row(&mut self, i: usize) -> GroupsRow<'_> {
        GroupsRow {
            factors: self.factors.row_mut(i),
            sum: self.sum.row_mut(i),
            minus_sums: self.minus_sums.row_mut(i),
        }
    }
}

impl Rows for GroupsMut<'_> {
    fn row_count(&self) -> usize {
        self.sum.row_count()
    }

    unsafe fn part(&self, rows: Range<usize>) -> Self {
        // SAFETY: the caller's promise, for all matrices.
        unsafe {
            GroupsMut {
                factors: self.factors.part(rows.clone()),
                sum: self.sum.part(rows.clone()),
                minus_sums: self.minus_sums.part(rows),
            }
        }
    }
}

/// The constants of one row.
pub(crate) struct GroupsRow<'a> {
    pub(crate) factors: &'a mut [f32],
    pub(crate) sum: &'a mut [i32],
    /// Of a second term's row: see [`Groups::minus_sums`].
    pub(crate) minus_sums: &'a mut [i32],
}

/// Groups of a row of `k` values: whole spans, and whole vectors.
pub(super) fn groups_of(k: usize) -> usize {
    k.div_ceil(GROUP).next_multiple_of(LANES).max(LANES)
}

/// Where the scale of a group of `size` values lies in its row's factors; its scaled sum is `SPAN / size` behind it.
#[inline(always)]
pub(crate) fn factor_at(size: usize, group: usize) -> usize {
    let per_span = SPAN / size;
    group / per_span * 2 * per_span + group % per_span
}

/// The scales of the groups of a row of `k` values.
pub(super) fn scales(factors: &[f32], k: usize) -> impl Iterator<Item = f32> + Clone {
    (0..k / GROUP).map(|g| factors[factor_at(GROUP, g)])
}

/// Where the sixteen values of half `half` of group `g` begin in an int8 row.
#[inline(always)]
pub(crate) fn half_group_at(g: usize, half: usize) -> usize {
    g / 4 * STRIPE + half * 64 + g % 4 * 16
}
