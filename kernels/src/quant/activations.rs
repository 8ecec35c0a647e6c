//! Activations: made once per norm, in every form that the following matmuls read.
//!
//! The rows are kept in f32 and, where the weights ask for it, as int8 groups of 32 with one scale each, or as
//! bf16. Q, K and V, or gate and up, share one [`Activations`]; kernels take it and never quantize inside.
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
//! A row may be kept in two terms: what its int8 groups leave over is quantized again and kept behind the rows, as a
//! *remainder* that is multiplied and added like a row of its own. Two terms carry about sixteen bits. `Outliers` spends
//! them on the rows that one value dominates (the first token of a text has such massive activations: Sun et al. 2024),
//! because there a group's scale leaves nothing to its other values.

#![allow(unsafe_code)]

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef, for_rows};
use crate::memory::zeros;
use crate::pool::Team;
use crate::quant::Format;
use crate::quant::blocks::{SPAN, STRIPE};
use crate::simd::{LANES, Simd};

/// Values per int8 group.
pub(crate) const GROUP: usize = 32;
/// What the memory is for.
const WHAT: &str = "the activations of a batch";

/// Which rows of int8 groups get a second term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Remainder {
    /// None.
    #[default]
    None,
    /// Those in which one value holds more than [`Remainder::OUTLIER`] of the sum of squares.
    Outliers,
    /// All.
    All,
}

impl Remainder {
    /// From which share of a row's sum of squares on a value is an outlier.
    pub const OUTLIER: f32 = 0.5;
}

/// In which forms activations are kept, beside f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forms {
    /// int8 groups of 32, for block-quantized weights.
    pub int8: bool,
    /// Which of their rows get a second term.
    pub remainder: Remainder,
    /// bf16, for bf16 weights.
    pub bf16: bool,
}

impl Forms {
    /// f32 only: what `exact` numerics use for every weight.
    pub const EXACT: Forms = Forms { int8: false, remainder: Remainder::None, bf16: false };

    /// The narrow form that weights of `format` are multiplied with: int8 groups for blocks, bf16 for bf16.
    pub fn fast(format: Format) -> Forms {
        Forms { int8: format.is_block_quantized(), bf16: format == Format::BF16, ..Forms::EXACT }
    }

    /// The same with a second term for some rows.
    #[must_use]
    pub fn with_remainder(self, remainder: Remainder) -> Forms {
        Forms { remainder, ..self }
    }

    /// How many rows of int8 groups `rows` rows may become.
    fn int8_rows(self, rows: usize) -> usize {
        match (self.int8, self.remainder) {
            (false, _) => 0,
            (true, Remainder::None) => rows,
            (true, _) => rows.saturating_mul(2),
        }
    }

    /// Both sides' forms.
    pub fn union(self, other: Forms) -> Forms {
        Forms {
            int8: self.int8 || other.int8,
            remainder: self.remainder.max(other.remainder),
            bf16: self.bf16 || other.bf16,
        }
    }
}

/// Per-row constants of int8 groups of one size, zeros behind the last group.
///
/// The floats of a span of 256 values lie together, as decoding reads them: `[scales | scaled sums]`, where a scaled sum
/// is `scale * sum`, what a block's minimum is multiplied with.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Groups of a row, whole spans.
    pub(crate) stride: usize,
    /// `[rows][stride / per_span][2][per_span]`
    pub(crate) factors: Vec<f32>,
    /// Sum of the group's integers: `[rows][stride]`.
    pub(crate) sum: Vec<i32>,
}

impl Groups {
    fn with_capacity(len: usize) -> Result<Self, KernelError> {
        Ok(Groups { stride: 0, factors: zeros(WHAT, len.saturating_mul(2))?, sum: zeros(WHAT, len)? })
    }

    /// The rows up to `first`, and `rows` rows from there on to be written.
    fn split_at(&mut self, first: usize, rows: usize) -> (GroupRows<'_>, (MatMut<'_, f32>, MatMut<'_, i32>)) {
        let (factors, new_factors) = self.factors.split_at_mut(2 * first * self.stride);
        let (_, new_sum) = self.sum.split_at_mut(first * self.stride);
        let (new_factors, new_sum) =
            (&mut new_factors[..2 * rows * self.stride], &mut new_sum[..rows * self.stride]);
        let new = (MatMut::from_rows(new_factors, 2 * self.stride), MatMut::from_rows(new_sum, self.stride));
        (MatRef::from_rows(factors, 2 * self.stride), new)
    }
}

/// Factors of rows that are there.
type GroupRows<'a> = MatRef<'a, f32>;

/// Where the scale of a group of `size` values lies in its row's factors; its scaled sum is `SPAN / size` behind it.
#[inline(always)]
pub(crate) fn factor_at(size: usize, group: usize) -> usize {
    let per_span = SPAN / size;
    group / per_span * 2 * per_span + group % per_span
}

/// Rows of activations in f32 and in the forms that matmuls ask for. All memory is allocated by [`Activations::new`].
#[derive(Debug)]
pub struct Activations {
    max_rows: usize,
    max_k: usize,
    rows: usize,
    k: usize,
    /// Values from one row to the next, in every form: whole stripes and 64 more, so that rows do not share cache sets.
    stride: usize,
    made: Forms,
    f32: Vec<f32>,
    i8: Vec<i8>,
    bf16: Vec<u16>,
    /// Per row: whether it has an outlier.
    outlier: Vec<u8>,
    /// The rows whose remainder is kept, in order; the i-th behind the rows.
    remainders: Vec<u32>,
    /// Groups of 32.
    pub(crate) by32: Groups,
    /// The same for halves of groups, for formats with a scale per 16 values.
    pub(crate) by16: Groups,
}

fn stride_of(k: usize) -> usize {
    k.next_multiple_of(STRIPE) + 64
}

/// Where the sixteen values of half `half` of group `g` begin in an int8 row.
#[inline(always)]
pub(crate) fn half_group_at(g: usize, half: usize) -> usize {
    g / 4 * STRIPE + half * 64 + g % 4 * 16
}

/// Groups of a row: whole spans, and whole vectors.
fn groups_of(k: usize) -> usize {
    k.div_ceil(GROUP).next_multiple_of(LANES).max(LANES)
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
            by32: Groups::with_capacity(groups)?,
            by16: Groups::with_capacity(groups.saturating_mul(2))?,
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

    /// Which forms [`Kernels::prepare`] has made of the present rows.
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

    /// The rows whose remainder is kept, in order; the i-th remainder is int8 row `rows() + i`.
    #[inline(always)]
    pub(crate) fn remainders(&self) -> &[u32] {
        &self.remainders
    }

    /// Values from one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
}

impl Activations {
    /// Makes int8 groups of the rows, and of the remainders that are wanted.
    fn quantize(&mut self, kernels: Kernels, team: &Team<'_>, remainder: Remainder) {
        let Activations { rows, stride, f32, i8, outlier, remainders, by32, by16, .. } = self;
        let (rows, stride, k) = (*rows, (*stride).max(1), self.k.next_multiple_of(STRIPE));
        let f32 = MatRef::from_rows(&f32[..rows * stride], stride);
        let (main, rest) = i8.split_at_mut(rows * stride);
        let ((_, groups32), (_, groups16)) = (by32.split_at(0, rows), by16.split_at(0, rows));
        let outliers = MatMut::from_rows(&mut outlier[..rows], 1);
        let out = ((MatMut::from_rows(main, stride), outliers), (groups32, groups16));
        for_rows(team, out, |range, ((mut q, mut outliers), (mut by32, mut by16))| {
            for (i, row) in range.enumerate() {
                let mut out = QuantizedRow::new(&mut q.row_mut(i)[..k], (&mut by32, &mut by16), i);
                kernels.table.quantize_row(&f32.row(row)[..k], &mut out);
                outliers.row_mut(i)[0] = u8::from(out.has_outlier);
            }
        });
        remainders.clear();
        let wanted = |i: &usize| match remainder {
            Remainder::None => false,
            Remainder::Outliers => outlier[*i] != 0,
            Remainder::All => true,
        };
        remainders.extend((0..rows).filter(wanted).filter_map(|i| u32::try_from(i).ok()));
        if remainders.is_empty() {
            return;
        }
        let main = MatRef::from_rows(main, stride);
        let (factors, groups32) = by32.split_at(rows, remainders.len());
        let (_, groups16) = by16.split_at(rows, remainders.len());
        let q = MatMut::from_rows(&mut rest[..remainders.len() * stride], stride);
        for_rows(team, (q, (groups32, groups16)), |range, (mut q, (mut by32, mut by16))| {
            for (i, row) in remainders[range].iter().map(|row| *row as usize).enumerate() {
                let mut out = QuantizedRow::new(&mut q.row_mut(i)[..k], (&mut by32, &mut by16), i);
                kernels.table.quantize_remainder(
                    &f32.row(row)[..k],
                    &main.row(row)[..k],
                    factors.row(row),
                    &mut out,
                );
            }
        });
    }
}

impl Kernels {
    /// Makes the forms of `activations` that the coming matmuls need, row by row.
    ///
    /// A row holding a NaN or an infinity gets NaN scales, so what is computed from it is NaN, and nothing else is.
    /// A row's result depends on that row only.
    ///
    /// # Errors
    /// [`KernelError::Value`] if a form was not allocated for; [`KernelError::BlockLength`] if the rows do not divide into
    /// groups of 32.
    pub fn prepare(
        self,
        team: &Team<'_>,
        activations: &mut Activations,
        forms: Forms,
    ) -> Result<(), KernelError> {
        let a = activations;
        let len = a.rows * a.stride;
        if a.i8.len() < forms.int8_rows(a.rows) * a.stride || (forms.bf16 && a.bf16.len() < len) {
            return Err(KernelError::Value {
                op: "prepare",
                what: "forms",
                found: format!("{forms:?}"),
                allowed: "the forms given to Activations::new",
            });
        }
        if forms.int8 {
            if !a.k.is_multiple_of(GROUP) {
                return Err(KernelError::BlockLength { format: Format::Q8_0, block: GROUP, cols: a.k });
            }
            a.quantize(self, team, forms.remainder);
        }
        if forms.bf16 {
            let k = a.k.next_multiple_of(STRIPE);
            let f32 = MatRef::from_rows(&a.f32[..len], a.stride.max(1));
            let bf16 = MatMut::from_rows(&mut a.bf16[..len], a.stride.max(1));
            for_rows(team, bf16, |rows, mut bf16| {
                for (i, row) in rows.enumerate() {
                    self.table.to_bf16_row(&f32.row(row)[..k], &mut bf16.row_mut(i)[..k]);
                }
            });
        }
        a.made = a.made.union(forms);
        Ok(())
    }
}

/// Where [`quantize_row`] writes one row.
pub(crate) struct QuantizedRow<'a> {
    pub(crate) q: &'a mut [i8],
    pub(crate) factors32: &'a mut [f32],
    pub(crate) sum32: &'a mut [i32],
    pub(crate) factors16: &'a mut [f32],
    pub(crate) sum16: &'a mut [i32],
    /// Whether the row's largest magnitude is an outlier.
    pub(crate) has_outlier: bool,
}

/// Factors and sums of some rows.
type GroupsMut<'a> = (MatMut<'a, f32>, MatMut<'a, i32>);

impl<'a> QuantizedRow<'a> {
    fn new(q: &'a mut [i8], (by32, by16): (&'a mut GroupsMut<'_>, &'a mut GroupsMut<'_>), i: usize) -> Self {
        QuantizedRow {
            q,
            factors32: by32.0.row_mut(i),
            sum32: by32.1.row_mut(i),
            factors16: by16.0.row_mut(i),
            sum16: by16.1.row_mut(i),
            has_outlier: false,
        }
    }

    /// Number of groups; what lies behind them becomes zero.
    #[inline(always)]
    fn begin(&mut self) -> usize {
        let groups = self.q.len() / GROUP;
        assert!(self.q.len().is_multiple_of(STRIPE));
        assert!(self.sum32.len() >= groups && self.sum16.len() >= 2 * groups);
        assert!(self.factors32.len() == 2 * self.sum32.len() && self.factors16.len() == 2 * self.sum16.len());
        self.factors32[groups / 8 * 16..].fill(0.0);
        self.factors16[groups / 8 * 32..].fill(0.0);
        self.sum32[groups..].fill(0);
        self.sum16[2 * groups..].fill(0);
        groups
    }

    /// Quantizes group `g`, the two halves of which are given; its scale.
    #[inline(always)]
    fn put<S: Simd>(&mut self, s: S, g: usize, a: S::F32, b: S::F32) -> f32 {
        let zero = s.splat(0.0);
        let abs = s.max(s.max(a, s.sub(zero, a)), s.max(b, s.sub(zero, b)));
        // 0 x is NaN exactly where x is NaN or infinite: carried into the scale, it poisons this row alone.
        let poison = s.sum(s.mul_add(b, zero, s.mul(a, zero)));
        let scale = s.max_lane(abs) / 127.0 + poison;
        let inverse = s.splat(if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 });
        let (qa, qb) = (s.to_i32(s.mul(a, inverse)), s.to_i32(s.mul(b, inverse)));
        let (to_a, to_b) = (half_group_at(g, 0), half_group_at(g, 1));
        assert!(to_b + LANES <= self.q.len());
        // SAFETY: the second half of a group lies behind the first one, and inside the row.
        unsafe {
            s.store_i8(self.q.as_mut_ptr().add(to_a), qa);
            s.store_i8(self.q.as_mut_ptr().add(to_b), qb);
        }
        let sums = [s.sum_i32(qa), s.sum_i32(qb)];
        // A NaN may have become any integer; the scale is NaN then.
        self.sum32[g] = sums[0].wrapping_add(sums[1]);
        let at = factor_at(GROUP, g);
        self.factors32[at] = scale;
        self.factors32[at + SPAN / GROUP] = scale * self.sum32[g] as f32;
        for (half, sum) in sums.into_iter().enumerate() {
            let at = factor_at(GROUP / 2, 2 * g + half);
            self.sum16[2 * g + half] = sum;
            self.factors16[at] = scale;
            self.factors16[at + 2 * SPAN / GROUP] = scale * sum as f32;
        }
        scale
    }
}

/// Leaf: one row to int8 groups in stripes; `x` is padded with zeros to whole ones.
#[inline(always)]
pub(crate) fn quantize_row<S: Simd>(s: S, x: &[f32], out: &mut QuantizedRow<'_>) {
    assert!(out.q.len() == x.len());
    let mut largest = 0.0_f32;
    let mut squares = s.splat(0.0);
    for g in 0..out.begin() {
        // SAFETY: group g lies within x, whose length is a whole number of groups.
        let (a, b) =
            unsafe { (s.load(x.as_ptr().add(g * GROUP)), s.load(x.as_ptr().add(g * GROUP + LANES))) };
        squares = s.mul_add(b, b, s.mul_add(a, a, squares));
        let scale = out.put(s, g, a, b);
        largest = if scale > largest { scale } else { largest };
    }
    let largest = largest * 127.0;
    out.has_outlier = largest * largest > Remainder::OUTLIER * s.sum(squares);
}

/// Leaf: what a row's int8 groups, `q` with their `factors`, leave over of `x`, to int8 groups.
#[inline(always)]
pub(crate) fn quantize_remainder<S: Simd>(
    s: S,
    x: &[f32],
    q: &[i8],
    factors: &[f32],
    out: &mut QuantizedRow<'_>,
) {
    assert!(out.q.len() == x.len() && q.len() == x.len());
    for g in 0..out.begin() {
        let minus_scale = s.splat(-factors[factor_at(GROUP, g)]);
        let mut rest = [s.splat(0.0); 2];
        for half in 0..2 {
            let mut biased = [0_u8; LANES];
            for (to, q) in biased.iter_mut().zip(&q[half_group_at(g, half)..][..LANES]) {
                *to = q.cast_unsigned() ^ 0x80;
            }
            // SAFETY: sixteen bytes; group g lies within x, whose length is a whole number of groups.
            unsafe {
                let q = s.sub_i32(s.load_u8(biased.as_ptr()), s.splat_i32(128));
                let x = s.load(x.as_ptr().add(g * GROUP + half * LANES));
                rest[half] = s.mul_add(s.from_i32(q), minus_scale, x);
            }
        }
        out.put(s, g, rest[0], rest[1]);
    }
}

/// Leaf: one row to bf16, to nearest even.
#[inline(always)]
pub(crate) fn to_bf16_row<S: Simd>(_s: S, x: &[f32], out: &mut [u16]) {
    for (x, out) in x.iter().zip(out) {
        let bits = x.to_bits();
        // Half of the last place, and one more where the kept part is odd; a NaN keeps its upper half, made quiet.
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
        *out = (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16;
    }
}
