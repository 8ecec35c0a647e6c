//! Activations: made once per norm, in every form that the following matmuls read.
//!
//! The rows are kept in f32 and, where the weights ask for it, as int8 groups of 32 with one scale each, or as
//! bf16. Q, K and V, or gate and up, share one [`Activations`]; kernels take it and never quantize inside.
//!
//! A row may be kept in two terms: what its int8 groups leave over is quantized again and kept behind the rows, as a
//! *remainder* that is multiplied and added like a row of its own. Two terms carry about sixteen bits. `Outliers` spends
//! them on the rows that one value dominates (the first token of a text has such massive activations: Sun et al. 2024),
//! because there a group's scale leaves nothing to its other values, and in them on the groups of large scales. The
//! others' remainders are zeros, which products skip.

use super::blocks::STRIPE;
use super::groups::{Groups, groups_of};
use super::{Forms, Remainder};
use crate::error::KernelError;
use crate::matrix::{MatMut, MatRef};
use crate::memory::{Buffer, zeros};
use crate::mutant::mutant;
use std::ops::Range;

/// Bits of a word.
pub(super) const BITS: usize = u32::BITS as usize;
/// What the memory is for.
const WHAT: &str = "the activations of a batch";

/// Rows of activations in f32 and in the forms that matmuls ask for. All memory is allocated by [`Activations::new`].
#[derive(Debug)]
pub struct Activations {
    max_rows: usize,
    max_k: usize,
    pub(super) rows: usize,
    pub(super) k: usize,
    /// Values from one row to the next, in every form: whole stripes and 64 more, so that rows do not share cache sets.
    pub(super) stride: usize,
    pub(super) made: Forms,
    pub(super) f32: Buffer<f32>,
    pub(super) i8: Buffer<i8>,
    pub(super) bf16: Buffer<u16>,
    /// Per row: whether it has an outlier.
    pub(super) outlier: Vec<u8>,
    /// The rows whose remainder is kept, in order; the i-th behind the rows.
    pub(super) remainders: Vec<u32>,
    /// Of each remainder a bit for each group of 32: whether it is kept, or zeros. `[remainders][kept_stride]`
    pub(super) kept: Buffer<u32>,
    pub(super) kept_stride: usize,
    /// Groups of 32.
    pub(crate) by32: Groups,
    /// The same for halves of groups: see [`Forms::halves`].
    pub(crate) by16: Groups,
}

fn stride_of(k: usize) -> usize {
    k.next_multiple_of(STRIPE) + 64
}

/// Words with a bit for each group of a row.
fn words_of(k: usize) -> usize {
    groups_of(k).div_ceil(BITS)
}

impl Activations {
    /// Room for `max_rows` rows of up to `max_k` values.
    ///
    /// # Panics
    /// If there is no memory for them; [`try_new`](Activations::try_new) gives an error instead.
    pub fn new(max_rows: usize, max_k: usize, forms: Forms) -> Self {
        Self::try_new(max_rows, max_k, forms).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Room for `max_rows` rows of up to `max_k` values.
    ///
    /// # Errors
    /// [`KernelError::Memory`] if the system refuses.
    pub fn try_new(max_rows: usize, max_k: usize, forms: Forms) -> Result<Self, KernelError> {
        let len = max_rows.saturating_mul(stride_of(max_k));
        let int8_rows = forms.int8_rows(max_rows);
        let groups = int8_rows.saturating_mul(groups_of(max_k));
        let second = int8_rows.saturating_sub(max_rows).saturating_mul(groups_of(max_k));
        let halves: usize = if forms.halves { 2 } else { 0 };
        Ok(Activations {
            max_rows,
            max_k,
            rows: 0,
            k: 0,
            stride: 0,
            made: Forms::EXACT,
            f32: zeros(WHAT, len)?,
            i8: zeros(WHAT, int8_rows.saturating_mul(stride_of(max_k)))?,
            bf16: zeros(WHAT, if forms.bf16 { len } else { 0 })?,
            outlier: vec![0; max_rows],
            remainders: Vec::with_capacity(max_rows),
            kept: zeros(WHAT, int8_rows.saturating_sub(max_rows).saturating_mul(words_of(max_k)))?,
            kept_stride: 0,
            by32: Groups::with_capacity(groups, second)?,
            by16: Groups::with_capacity(halves.saturating_mul(groups), halves.saturating_mul(second))?,
        })
    }

    /// Starts a new set of `rows` rows of `k` values and gives the f32 rows to be filled.
    ///
    /// # Errors
    /// [`KernelError::Shape`] beyond the room that was allocated.
    pub fn begin(&mut self, rows: usize, k: usize) -> Result<MatMut<'_>, KernelError> {
        const OP: &str = "Activations::begin";
        if rows > self.max_rows {
            return Err(KernelError::Shape {
                op: OP,
                what: "rows (at most)",
                expected: self.max_rows,
                found: rows,
            });
        }
        if k > self.max_k {
            return Err(KernelError::Shape { op: OP, what: "k (at most)", expected: self.max_k, found: k });
        }
        (self.rows, self.k, self.stride, self.made) = (rows, k, stride_of(k), Forms::EXACT);
        self.remainders.clear();
        self.kept_stride = words_of(k);
        self.by32.stride = groups_of(k);
        self.by16.stride = 2 * groups_of(k);
        for row in self.f32[..rows * self.stride].chunks_mut(self.stride.max(1)) {
            row[k..k.next_multiple_of(STRIPE)].fill(0.0);
        }
        MatMut::new(&mut self.f32[..rows * self.stride], rows, k, self.stride)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values per row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The f32 rows.
    pub fn f32(&self) -> MatRef<'_> {
        MatRef::from_rows(&self.f32[..self.rows * self.stride], self.stride).columns(0..self.k)
    }

    /// Which forms [`Kernels::prepare`](crate::Kernels::prepare) has made of the present rows.
    pub fn made(&self) -> Forms {
        self.made
    }

    /// Row `i` with its zeros up to whole stripes.
    #[inline(always)] // called inside leaves, as the next two
    pub(crate) fn f32_row(&self, i: usize) -> &[f32] {
        &self.f32[i * self.stride..][..self.k.next_multiple_of(STRIPE)]
    }

    /// Row `i` in stripes, with its zeros up to whole ones.
    #[inline(always)]
    pub(crate) fn i8_row(&self, i: usize) -> &[i8] {
        &self.i8[i * self.stride..][..self.k.next_multiple_of(STRIPE)]
    }

    /// Row `i` with its zeros up to whole stripes.
    #[inline(always)]
    pub(crate) fn bf16_row(&self, i: usize) -> &[u16] {
        &self.bf16[i * self.stride..][..self.k.next_multiple_of(STRIPE)]
    }

    /// Values per row with its zeros up to whole stripes.
    pub(super) fn padded_k(&self) -> usize {
        self.k.next_multiple_of(STRIPE)
    }

    /// Notes which rows are kept in two terms; which of their groups, if not all, is seen when these are made.
    pub(super) fn keep_remainders(&mut self, remainder: Remainder) {
        let outlier = &self.outlier;
        let wanted = |i: &usize| match remainder {
            Remainder::None => false,
            Remainder::Outliers => outlier[*i] != 0,
            Remainder::All => true,
        };
        self.remainders.clear();
        self.remainders.extend((0..self.rows).filter(wanted).filter_map(|i| u32::try_from(i).ok()));
        if remainder == Remainder::All {
            self.kept[..self.remainders.len() * self.kept_stride].fill(u32::MAX);
        }
    }

    /// The rows whose remainder is kept, in order; the i-th remainder is int8 row `rows() + i`.
    #[inline(always)]
    pub(crate) fn remainders(&self) -> &[u32] {
        &self.remainders
    }

    /// Which of `groups`, at most as many as a word has bits and in one word, are kept in any of these remainders: a bit each.
    #[inline(always)]
    pub(crate) fn kept(&self, remainders: Range<usize>, groups: Range<usize>) -> u32 {
        let (word, first) = (groups.start / BITS, groups.start % BITS);
        assert!(!groups.is_empty() && first + groups.len() <= BITS);
        let seen = if mutant("second terms where the first row has some") { 1 } else { remainders.len() };
        let any = remainders.take(seen).fold(0, |any, i| any | self.kept[i * self.kept_stride + word]);
        any >> first & u32::MAX >> (BITS - groups.len())
    }

    /// Values from one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
}
